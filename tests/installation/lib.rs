//! The product as a user installs it, on an embedded control plane: the chart by `helm install`, its replicas as local
//! processes under the chart's own ServiceAccount, its Service played by a forwarder.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use control_plane::{ControlPlane, LocalPod, LocalPodOptions, ServiceForwarder};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    core::v1::{Namespace, Secret, Service},
};
use kube::{Api, Client, api::PostParams};
use serde_json::json;

/// Release name and namespace, as README says.
pub const RELEASE: &str = "acr-pull-injector";
/// The name of the pull secret, which no test changes.
pub const PULL_SECRET: &str = "acr-pull-secret";
/// A replica is ready within a second or two; the rest is for a busy machine.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Why something could not be done, for whoever runs the program.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A running installation.
#[derive(Debug)]
pub struct Installation {
    program: PathBuf,
    forwarder: ServiceForwarder,
    replicas: Mutex<Vec<Replica>>,
}

/// One replica and where it answers.
#[derive(Debug)]
pub struct Replica {
    /// Its process.
    pub pod: LocalPod,
    /// The webhook port.
    pub webhook: SocketAddr,
}

impl Installation {
    /// Installs the chart with `settings` (see [`set`]) and starts its replicas.
    pub async fn install(
        control_plane: &ControlPlane,
        program: &Path,
        settings: &[&str],
        replicas: usize,
    ) -> Result<Self, Error> {
        helm(control_plane, &[&["install", RELEASE, CHART, "-n", RELEASE, "--create-namespace"], settings].concat())?;
        let services: Api<Service> = Api::namespaced(control_plane.client(), RELEASE);
        let service = services.get(RELEASE).await?.spec.ok_or("the Service has no spec")?;
        let cluster_ip = service.cluster_ip.ok_or("the Service has no ClusterIP")?.parse()?;
        let forwarder = ServiceForwarder::start(cluster_ip, service_port()).await?;
        let installation = Self { program: program.to_owned(), forwarder, replicas: Mutex::default() };
        for _ in 0..replicas {
            installation.start_replica(control_plane).await?;
        }
        installation.wait_for_ca_bundle(control_plane).await?;
        Ok(installation)
    }

    /// Starts one more replica and sends it requests once it is ready. Gives its name.
    pub async fn start_replica(&self, control_plane: &ControlPlane) -> Result<String, Error> {
        self.start_replica_with(control_plane, Vec::new()).await
    }

    /// The same, with these variables in its environment.
    pub async fn start_replica_with(
        &self,
        control_plane: &ControlPlane,
        env: Vec<(String, String)>,
    ) -> Result<String, Error> {
        let address = control_plane.new_pod_address();
        let options = LocalPodOptions { env, ..LocalPodOptions::new(&self.program, address) };
        let pod = LocalPod::start(control_plane, RELEASE, RELEASE, options).await?;
        if let Err(error) = pod.wait_ready(READY_TIMEOUT).await {
            return Err(format!("{error}\n{}", pod.log()).into());
        }
        let webhook = SocketAddr::new(address, 8443);
        self.forwarder.add_backend(webhook);
        let name = pod.name().to_owned();
        self.replicas().push(Replica { pod, webhook });
        Ok(name)
    }

    /// Takes the oldest replica out of the installation; the forwarder still sends it requests.
    pub fn take_oldest(&self) -> Option<Replica> {
        let mut replicas = self.replicas();
        (!replicas.is_empty()).then(|| replicas.remove(0))
    }

    /// Takes the replica of this pod name out of the installation; the forwarder still sends it requests.
    pub fn take(&self, name: &str) -> Option<Replica> {
        let mut replicas = self.replicas();
        let index = replicas.iter().position(|replica| replica.pod.name() == name)?;
        Some(replicas.remove(index))
    }

    /// The names of the replicas.
    pub fn names(&self) -> Vec<String> {
        self.replicas().iter().map(|replica| replica.pod.name().to_owned()).collect()
    }

    /// Where the replicas show health and metrics.
    pub fn admins(&self) -> Vec<SocketAddr> {
        self.replicas().iter().map(|replica| SocketAddr::new(replica.webhook.ip(), 8080)).collect()
    }

    /// Plays kube-proxy and the endpoint controller.
    pub fn forwarder(&self) -> &ServiceForwarder {
        &self.forwarder
    }

    /// Where the replicas answer.
    pub fn webhooks(&self) -> Vec<SocketAddr> {
        self.replicas().iter().map(|replica| replica.webhook).collect()
    }

    /// The process of the replica that answers there.
    pub fn process_of(&self, webhook: SocketAddr) -> Result<u32, Error> {
        let replicas = self.replicas();
        let replica = replicas.iter().find(|replica| replica.webhook == webhook).ok_or("no such replica")?;
        Ok(replica.pod.id())
    }

    /// What the replicas have logged.
    pub fn logs(&self) -> String {
        self.logs_of_each().concat()
    }

    /// The same, by replica.
    pub fn logs_of_each(&self) -> Vec<String> {
        self.replicas().iter().map(|replica| replica.pod.log()).collect()
    }

    /// Lays changed Secrets and ConfigMaps into the replicas' volumes now.
    pub async fn refresh_volumes(&self) -> Result<(), Error> {
        let replicas = std::mem::take(&mut *self.replicas());
        let mut refreshed = Ok(());
        for replica in &replicas {
            refreshed = refreshed.and(replica.pod.refresh_volumes().await.map_err(Error::from));
        }
        self.replicas().extend(replicas);
        refreshed
    }

    fn replicas(&self) -> MutexGuard<'_, Vec<Replica>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait_for_ca_bundle(&self, control_plane: &ControlPlane) -> Result<(), Error> {
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(control_plane.client());
        for _ in 0..600 {
            let webhooks = configurations.get(RELEASE).await?.webhooks.unwrap_or_default();
            if webhooks.iter().all(|webhook| webhook.client_config.ca_bundle.is_some()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(format!("no CA was announced to the API server\n{}", self.logs()).into())
    }
}

/// What the API server is told to trust when it calls the webhook, as PEM.
pub async fn ca_bundle(client: &Client) -> Result<Vec<u8>, Error> {
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let webhooks = configurations.get(RELEASE).await?.webhooks.unwrap_or_default();
    let bundle = webhooks.into_iter().find_map(|webhook| webhook.client_config.ca_bundle);
    Ok(bundle.ok_or("no caBundle")?.0)
}

/// Stores credentials as an operator would, before the installation: a Secret each, in the release's namespace.
pub async fn create_credentials(client: &Client, credentials: &[(&str, &[(&str, &str)])]) -> Result<(), Error> {
    let namespace = serde_json::from_value(json!({"metadata": {"name": RELEASE}}))?;
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    for (name, keys) in credentials {
        let keys: BTreeMap<_, _> = keys.iter().copied().collect();
        let secret = serde_json::from_value(json!({"metadata": {"name": name}, "stringData": keys}))?;
        Api::<Secret>::namespaced(client.clone(), RELEASE).create(&PostParams::default(), &secret).await?;
    }
    Ok(())
}

/// Runs helm against the control plane and gives what it printed.
pub fn helm(control_plane: &ControlPlane, arguments: &[&str]) -> Result<String, Error> {
    let output = control_plane.helm().command().args(arguments).output()?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("helm {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)).into())
    }
}

/// The port that this process may play the Service on: only root may use 443 on most machines.
pub fn service_port() -> u16 {
    if std::net::TcpListener::bind(("127.0.0.1", 443)).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
        10_443
    } else {
        443
    }
}

/// The setting that goes with [`service_port`].
pub fn service_port_setting() -> &'static str {
    if service_port() == 443 { "webhook.servicePort=443" } else { "webhook.servicePort=10443" }
}

/// `--set` for each `key=value`.
pub fn set<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    settings.iter().flat_map(|setting| ["--set", setting]).collect()
}

/// The chart of this repository.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/acr-pull-injector");
