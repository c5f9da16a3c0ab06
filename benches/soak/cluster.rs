//! The product on a control plane, with two registries: one whose password goes into pull secrets and changes, one whose
//! tokens do and are renewed.

use std::{
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use control_plane::ControlPlane;
use fake_azure::{FakeAzure, SUFFIX, TENANT};
use installation::{Error, Installation, PULL_SECRET, RELEASE, Replica};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    client::Body,
    core::Request,
};
use measuring::client::Endpoint;
use serde_json::{Value, json};

/// The login server whose pull secret holds a password.
pub const PASSWORD_HOST: &str = "contoso.azurecr.io";
const APPLICATION: &str = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";
const APPLICATION_SECRET: &str = "secret-of-the-application";
/// Renewed after about half of it.
const TOKEN_LIFE: Duration = Duration::from_secs(180);
const REPLICAS: usize = 2;
const NAMESPACE_LIMIT: Duration = Duration::from_secs(60);

pub struct Cluster {
    _control_plane: ControlPlane,
    pub client: Client,
    installation: Installation,
    pub azure: FakeAzure,
    pub replicas: Vec<Replica>,
    /// Those that stay.
    pub namespaces: Vec<String>,
    passwords: AtomicUsize,
}

impl Cluster {
    /// Installs everything and makes the namespaces, with a first pod in each.
    pub async fn start(program: &Path, namespaces: usize) -> Result<Self, Error> {
        let azure = FakeAzure::start().await;
        azure.entra().application(APPLICATION).add_secret(APPLICATION_SECRET);
        azure.registry("tokens").set_token_life(TOKEN_LIFE).grant(APPLICATION);
        let control_plane = ControlPlane::builder().controller_manager(true).start().await?;
        let client = control_plane.client();
        let stored = [("clientId", "user"), ("clientSecret", "password-0")];
        let application = [("tenantId", TENANT), ("clientId", APPLICATION), ("clientSecret", APPLICATION_SECRET)];
        installation::create_credentials(&client, &[("stored", &stored), ("application", &application)]).await?;
        let authority = json!({"metadata": {"name": "azure-ca"}, "data": {"ca.crt": azure.ca_pem()}});
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), RELEASE);
        maps.create(&PostParams::default(), &serde_json::from_value(authority)?).await?;

        let (hosts, authority_host) = (azure.login_server("tokens"), azure.authority_host());
        let settings = [
            "registries[0].name=password".to_owned(),
            format!("registries[0].hosts={{{PASSWORD_HOST},fabrikam.azurecr.io}}"),
            "registries[0].credential.servicePrincipal.existingSecret=stored".to_owned(),
            "registries[1].name=tokens".to_owned(),
            format!("registries[1].hosts={{{hosts}}}"),
            "registries[1].credential.servicePrincipal.existingSecret=application".to_owned(),
            "registries[1].credential.servicePrincipal.delivery=token".to_owned(),
            format!("azure.authorityHost={authority_host}"),
            format!("azure.extraSuffixes={{{SUFFIX}}}"),
            "azure.caBundle.configMapName=azure-ca".to_owned(),
            installation::service_port_setting().to_owned(),
            // Only the webhook shall make references.
            "fallbackPolicy.enabled=false".to_owned(),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let settings = installation::set(&settings);
        let installation = Installation::install(&control_plane, program, &settings, REPLICAS).await?;
        let replicas: Vec<Replica> = std::iter::from_fn(|| installation.take_oldest()).collect();
        let names = (0..namespaces).map(|number| format!("team-{number}")).collect();
        let passwords = AtomicUsize::new(0);
        let cluster =
            Self { _control_plane: control_plane, client, installation, azure, replicas, namespaces: names, passwords };
        for name in &cluster.namespaces {
            cluster.create_namespace(name).await?;
            cluster.create_pod(name).await?;
        }
        Ok(cluster)
    }

    pub async fn create_namespace(&self, name: &str) -> Result<(), Error> {
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::<Namespace>::all(self.client.clone()).create(&PostParams::default(), &namespace).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), name);
        let started = Instant::now();
        while accounts.get_opt("default").await?.is_none() {
            if started.elapsed() > NAMESPACE_LIMIT {
                return Err(format!("namespace {name} got no ServiceAccount").into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Creates a pod with images from both registries. It is an error when the pod gets no reference.
    pub async fn create_pod(&self, namespace: &str) -> Result<(), Error> {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"generateName": "soak-"},
            "spec": {"containers": [
                {"name": "password", "image": format!("{PASSWORD_HOST}/app:v1")},
                {"name": "tokens", "image": format!("{}/app:v1", self.token_host())},
            ]},
        });
        let request = Request::new(format!("/api/v1/namespaces/{namespace}/pods"));
        let request = request.create(&PostParams::default(), serde_json::to_vec(&pod)?)?.map(Body::from);
        let response = self.client.send(request).await?;
        let (status, body) = (response.status(), response.into_body().collect_bytes().await?);
        let has_reference = body.windows(PULL_SECRET.len()).any(|window| window == PULL_SECRET.as_bytes());
        if status.is_success() && has_reference {
            Ok(())
        } else {
            Err(format!("a pod in {namespace}: {status}: {}", String::from_utf8_lossy(&body)).into())
        }
    }

    /// The login server whose pull secret holds a token.
    pub fn token_host(&self) -> String {
        self.azure.login_server("tokens")
    }

    /// The webhook's Service, as the API server knows it.
    pub async fn endpoint(&self) -> Result<Endpoint, Error> {
        let bundle = installation::ca_bundle(&self.client).await?;
        Endpoint::new(self.installation.forwarder().address(), &format!("{RELEASE}.{RELEASE}.svc"), &bundle)
    }

    /// As an operator does it, and the kubelet after them.
    pub async fn change_password(&self) -> Result<(), Error> {
        let number = self.passwords.fetch_add(1, Ordering::Relaxed) + 1;
        let patch = json!({"stringData": {"clientSecret": format!("password-{number}")}});
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), RELEASE);
        secrets.patch("stored", &PatchParams::default(), &Patch::Merge(patch)).await?;
        for replica in &self.replicas {
            replica.pod.refresh_volumes().await?;
        }
        Ok(())
    }

    /// What is wrong with a namespace's pull secret; `None`: it is right. `any_password`: one that was right before counts.
    pub async fn fault_of(&self, namespace: &str, any_password: bool) -> Result<Option<String>, Error> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let Some(secret) = secrets.get_opt(PULL_SECRET).await? else { return Ok(Some("is not there".to_owned())) };
        let data = secret.data.unwrap_or_default();
        let config: Value = serde_json::from_slice(&data.get(".dockerconfigjson").ok_or("no .dockerconfigjson")?.0)?;
        let field = |host: &str, name: &str| config["auths"][host][name].as_str().unwrap_or_default().to_owned();
        let password = field(PASSWORD_HOST, "password");
        let wanted = format!("password-{}", self.passwords.load(Ordering::Relaxed));
        if password != wanted && !(any_password && password.starts_with("password-")) {
            return Ok(Some(format!("holds {password:?} in place of {wanted}")));
        }
        let host = self.token_host();
        if !self.azure.registry("tokens").accepts(&field(&host, "username"), &field(&host, "password")) {
            return Ok(Some("holds a token that the registry does not accept".to_owned()));
        }
        Ok(None)
    }

    /// Waits until all pull secrets are right. Tells what is wrong with each that does not become so.
    pub async fn pull_secrets_become_right(&self, limit: Duration) -> Vec<String> {
        let started = Instant::now();
        loop {
            let mut faults = Vec::new();
            for namespace in &self.namespaces {
                match self.fault_of(namespace, false).await {
                    Ok(None) => {}
                    Ok(Some(fault)) => faults.push(format!("{namespace} {fault}")),
                    Err(error) => faults.push(format!("{namespace} could not be read: {error}")),
                }
            }
            if faults.is_empty() || started.elapsed() > limit {
                return faults;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// For whoever has to find out why.
    pub fn last_log_lines(&self) -> String {
        let logs: Vec<String> = self.replicas.iter().map(|replica| replica.pod.log()).collect();
        let lines = logs.iter().flat_map(|log| log.lines().rev().take(30).collect::<Vec<_>>().into_iter().rev());
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// A replica's admin port.
pub fn admin(replica: &Replica) -> SocketAddr {
    SocketAddr::new(replica.webhook.ip(), 8080)
}
