//! What every case needs: namespaces, pods through the API server, pull secrets, reviews sent straight to a replica.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use control_plane::ControlPlane;
pub use installation::{Error, PULL_SECRET};
use installation::{Installation, RELEASE, ca_bundle};
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, Secret, ServiceAccount};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, PostParams},
    client::Body,
    core::Request,
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// The control plane with the product on it.
pub struct World {
    pub control_plane: ControlPlane,
    pub installation: Installation,
    pub client: Client,
    /// Cases that disturb others take it for writing.
    pub undisturbed: tokio::sync::RwLock<()>,
    numbers: AtomicU32,
}

/// Connects to webhook ports, trusting what the API server trusts. Cheap to clone.
#[derive(Clone)]
pub struct Tls(tokio_rustls::TlsConnector);

impl Tls {
    /// Trusts these authorities (DER).
    pub fn trusting(authorities: Vec<Vec<u8>>) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(authorities.into_iter().map(Into::into));
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self(Arc::new(config).into())
    }

    pub async fn connect(&self, webhook: SocketAddr) -> Result<TlsStream<TcpStream>, Error> {
        let connection = TcpStream::connect(webhook).await?;
        connection.set_nodelay(true)?;
        Ok(self.0.connect(format!("{RELEASE}.{RELEASE}.svc").try_into()?, connection).await?)
    }
}

/// A pod as the API server has stored it, and what it said.
#[derive(Debug)]
pub struct Created {
    pub pod: Pod,
    pub warnings: Vec<String>,
}

impl World {
    pub fn new(control_plane: ControlPlane, installation: Installation) -> Self {
        let client = control_plane.client();
        Self {
            control_plane,
            installation,
            client,
            undisturbed: tokio::sync::RwLock::default(),
            numbers: AtomicU32::new(0),
        }
    }

    /// A fresh namespace with its `default` ServiceAccount.
    pub async fn namespace(&self, labels: &[(&str, &str)]) -> Result<String, Error> {
        let name = format!("team-{}", self.numbers.fetch_add(1, Ordering::Relaxed));
        self.named_namespace(&name, labels).await?;
        Ok(name)
    }

    pub async fn named_namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<(), Error> {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let namespace = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}}))?;
        Api::<Namespace>::all(self.client.clone()).create(&PostParams::default(), &namespace).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), name);
        eventually("the default ServiceAccount", || async { Ok(accounts.get_opt("default").await?) }).await?;
        Ok(())
    }

    /// Creates a pod through the API server and keeps the warnings that a user would see.
    pub async fn create(&self, namespace: &str, pod: &Value) -> Result<Created, Error> {
        self.create_with(namespace, pod, &PostParams::default()).await
    }

    pub async fn create_with(&self, namespace: &str, pod: &Value, parameters: &PostParams) -> Result<Created, Error> {
        let request = Request::new(format!("/api/v1/namespaces/{namespace}/pods"));
        let response = self.client.send(request.create(parameters, serde_json::to_vec(pod)?)?.map(Body::from)).await?;
        let warnings =
            response.headers().get_all("warning").iter().map(|value| value.to_str().unwrap_or("?").to_owned());
        let warnings = warnings.collect();
        let status = response.status();
        let body = response.into_body().collect_bytes().await?;
        if !status.is_success() {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into());
        }
        Ok(Created { pod: serde_json::from_slice(&body)?, warnings })
    }

    /// The pull secret of a namespace.
    pub async fn pull_secret(&self, namespace: &str) -> Result<Option<Secret>, Error> {
        Ok(Api::<Secret>::namespaced(self.client.clone(), namespace).get_opt(PULL_SECRET).await?)
    }

    /// Host, user name and password of each entry of the namespace's pull secret.
    pub async fn entries(&self, namespace: &str) -> Result<BTreeMap<String, (String, String)>, Error> {
        let secret = self.pull_secret(namespace).await?.ok_or_else(|| format!("no pull secret in {namespace}"))?;
        entries(&secret)
    }

    pub async fn delete_pod(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let parameters = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        Api::<Pod>::namespaced(self.client.clone(), namespace).delete(name, &parameters).await?;
        Ok(())
    }

    /// A client for one replica's webhook port that trusts what the API server trusts, as a caller that isn't the API
    /// server would be: nothing authenticates it.
    pub async fn direct(&self, webhook: SocketAddr) -> Result<Client, Error> {
        let mut config = Config::new(format!("https://{webhook}").parse()?);
        config.root_cert = Some(self.authorities().await?);
        config.tls_server_name = Some(format!("{RELEASE}.{RELEASE}.svc"));
        Ok(Client::try_from(config)?)
    }

    /// A connection to one replica's webhook port, to send what no client would.
    pub async fn connect(&self, webhook: SocketAddr) -> Result<TlsStream<TcpStream>, Error> {
        self.tls().await?.connect(webhook).await
    }

    /// Makes such connections.
    pub async fn tls(&self) -> Result<Tls, Error> {
        Ok(Tls::trusting(self.authorities().await?))
    }

    /// What the API server trusts when it calls the webhook.
    async fn authorities(&self) -> Result<Vec<Vec<u8>>, Error> {
        certificates(&ca_bundle(&self.client).await?)
    }

    /// Sends a body to a replica's `/mutate` and gives status and answer.
    pub async fn review(&self, direct: &Client, body: Vec<u8>) -> Result<(u16, Vec<u8>), Error> {
        let request = Request::new("/mutate").create(&PostParams::default(), body)?.map(Body::from);
        let response = direct.send(request).await?;
        Ok((response.status().as_u16(), response.into_body().collect_bytes().await?.to_vec()))
    }

    /// The value of the API server's own counters whose line holds all of `parts`, summed up.
    pub async fn api_server_counter(&self, parts: &[&str]) -> Result<f64, Error> {
        let text = self.control_plane.metrics().await?;
        let lines = text.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}

/// A pod with these images in its containers.
pub fn pod(name: &str, images: &[&str]) -> Value {
    let containers =
        images.iter().enumerate().map(|(number, image)| json!({"name": format!("c{number}"), "image": image}));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": containers.collect::<Vec<_>>()},
    })
}

/// An admission review as the API server would send it.
pub fn review(namespace: &str, images: &[&str]) -> Vec<u8> {
    let review = json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "0b4b1c5e-3a0f-4f0e-8c1b-2b7d7a6f0000",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": namespace,
            "operation": "CREATE",
            "object": pod("direct", images),
            "dryRun": false,
        },
    });
    review.to_string().into_bytes()
}

/// What a kubelet records when it misses pull secrets of a pod.
pub async fn complain(world: &World, pod: &Pod, names: &str) -> Result<(), Error> {
    let now = jiff::Timestamp::now();
    let metadata = &pod.metadata;
    let namespace = metadata.namespace.as_deref().ok_or("the pod has no namespace")?;
    let event = json!({
        "metadata": {"generateName": "app."},
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": metadata.name, "uid": metadata.uid,
        },
        "reason": "FailedToRetrieveImagePullSecret",
        "message": format!("Unable to retrieve some image pull secrets ({names}); attempting to pull the image may not succeed."),
        "type": "Warning",
        "source": {"component": "kubelet", "host": "node-1"},
        "firstTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "lastTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "count": 1,
    });
    let event = serde_json::from_value(event)?;
    Api::<Event>::namespaced(world.client.clone(), namespace).create(&PostParams::default(), &event).await?;
    Ok(())
}

/// The names under `imagePullSecrets`, in order.
pub fn references(pod: &Pod) -> Vec<String> {
    let secrets = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    secrets.map(|reference| reference.name.clone()).collect()
}

/// Host, user name and password of each entry of a pull secret. All three spellings must agree.
pub fn entries(secret: &Secret) -> Result<BTreeMap<String, (String, String)>, Error> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    if secret.type_.as_deref() != Some("kubernetes.io/dockerconfigjson") {
        return Err(format!("type {:?}", secret.type_).into());
    }
    let data = secret.data.as_ref().ok_or("no data")?;
    if data.len() != 1 {
        return Err(format!("keys {:?}", data.keys()).into());
    }
    let json: Value = serde_json::from_slice(&data.get(".dockerconfigjson").ok_or("no .dockerconfigjson")?.0)?;
    let auths = json["auths"].as_object().ok_or("no auths")?;
    let mut entries = BTreeMap::new();
    for (host, entry) in auths {
        let field = |name: &str| entry[name].as_str().map(str::to_owned).ok_or_else(|| format!("{host}: no {name}"));
        let (username, password) = (field("username")?, field("password")?);
        if BASE64_STANDARD.decode(field("auth")?)? != format!("{username}:{password}").into_bytes() {
            return Err(format!("{host}: auth says something else than username and password").into());
        }
        entries.insert(host.clone(), (username, password));
    }
    Ok(entries)
}

/// Gets a text over plain HTTP.
pub async fn get(address: &str, path: &str) -> Result<String, Error> {
    let client = Client::try_from(Config::new(format!("http://{address}").parse()?))?;
    let request = Request::new(path).list(&ListParams::default())?.map(Body::from);
    let body = client.send(request).await?.into_body().collect_bytes().await?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// Asks again until there is an answer, half a minute at most.
pub async fn eventually<T, F: Future<Output = Result<Option<T>, Error>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> Result<T, Error> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            return Err(format!("{what}: not within 30 s").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Fails with a sentence and both values.
pub fn expect_equal<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(format!("{what}: found {found:?}, expected {expected:?}").into()) }
}

/// Fails with a sentence.
pub fn expect(condition: bool, otherwise: impl std::fmt::Display) -> Result<(), Error> {
    if condition { Ok(()) } else { Err(otherwise.to_string().into()) }
}

/// Each certificate of a PEM file as DER.
pub fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    Ok(certificates.into_iter().map(|certificate| certificate.to_vec()).collect())
}
