//! Starts the programs one after the other and waits until each is of use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use super::etcd::Etcd;
use super::restartable::Restartable;
use super::{ControlPlane, ControlPlaneBuilder, ControlPlaneError, flags};
use crate::admin_credentials::AdminCredentials;
use crate::daemon::Daemon;
use crate::environment::Environment;
use crate::guardian::Guardian;
use crate::helm::Helm;
use crate::kubeconfig::{Cluster, Identity};
use crate::loopback::{AddressRange, free_port};
use crate::programs::Workbench;
use crate::version::KubernetesVersion;

/// Far more than the usual 5 seconds, for machines that are busy with a build.
const READY_WITHIN: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
const PORT_ATTEMPTS: usize = 5;

const ETCD: &str = "etcd";
const API_SERVER: &str = "kube-apiserver";
const CONTROLLER_MANAGER: &str = "kube-controller-manager";

pub(super) async fn start(builder: ControlPlaneBuilder) -> Result<ControlPlane, ControlPlaneError> {
    let ControlPlaneBuilder { controller_manager, api_server_arguments, progress } = builder;
    let workbench = Workbench { environment: Environment::read(), progress: progress.clone() };
    let programs = tokio::task::spawn_blocking(move || workbench.programs(controller_manager))
        .await
        .map_err(|error| ControlPlaneError::io("look for the programs")(error.into()))??;

    let guardian = Arc::new(Guardian::start().map_err(ControlPlaneError::io("start the guardian process"))?);
    let directory = guardian.directory().to_owned();
    let credentials = AdminCredentials::create(&directory).map_err(ControlPlaneError::io("write keys and tokens"))?;
    let addresses = AddressRange::reserve().map_err(ControlPlaneError::io("reserve loopback addresses"))?;

    progress.step("starting etcd");
    let etcd = start_etcd(&guardian, &programs.etcd).await?;

    progress.step("starting kube-apiserver");
    let launch = ApiServerLaunch {
        guardian: &guardian,
        program: programs.api_server,
        credentials: &credentials,
        etcd_port: etcd.client_port,
        services: addresses.services(),
        extra: api_server_arguments,
    };
    let (api_server, cluster, client_config, client) = launch.on_a_free_port().await?;
    let version = running_version(&client).await?;
    if let Some(requested) = programs.requested.filter(|requested| !requested.accepts(version)) {
        let (requested, found) = (requested.to_string(), version.tag());
        return Err(ControlPlaneError::VersionMismatch { requested, found });
    }

    let controller_manager = match programs.controller_manager {
        Some(program) => {
            progress.step("starting kube-controller-manager");
            Some(start_controller_manager(&guardian, program, &credentials, &cluster, &client).await?)
        }
        None => None,
    };
    let kubeconfig = admin_kubeconfig(&directory);
    let helm = Helm::new(programs.helm, &kubeconfig, directory.join("helm"));
    progress.step(&format!("Kubernetes {} is ready", version.tag()));
    Ok(ControlPlane {
        guardian,
        controller_manager,
        api_server,
        etcd,
        addresses,
        cluster,
        client_config,
        kubeconfig,
        helm,
        version,
    })
}

/// Waits until the API server says that it is ready and the `default` namespace exists.
pub(super) async fn wait_until_serving(server: &Daemon, client: &Client) -> Result<(), ControlPlaneError> {
    wait(server, || async {
        let request = http::Request::get("/readyz").body(Vec::new()).map_err(|error| error.to_string())?;
        client.request_text(request).await.map_err(|error| error.to_string())?;
        let default = Api::<Namespace>::all(client.clone()).get("default").await;
        default.map(drop).map_err(|error| error.to_string())
    })
    .await
}

async fn start_etcd(guardian: &Arc<Guardian>, program: &Path) -> Result<Etcd, ControlPlaneError> {
    let mut attempt = 1;
    loop {
        let (client_port, peer_port) = (a_port()?, a_port()?);
        match try_etcd(guardian, program, client_port, peer_port).await {
            Err(error) if error.is_port_taken() && attempt < PORT_ATTEMPTS => attempt += 1,
            result => return result,
        }
    }
}

async fn try_etcd(
    guardian: &Arc<Guardian>,
    program: &Path,
    client_port: u16,
    peer_port: u16,
) -> Result<Etcd, ControlPlaneError> {
    let data = guardian.directory().join("etcd");
    let arguments = flags::etcd(&data, client_port, peer_port);
    let process = Restartable::start(guardian, ETCD, program.to_owned(), arguments)?;
    let etcd = Etcd { process, client_port, data };
    etcd.start_again().await?;
    Ok(etcd)
}

struct ApiServerLaunch<'a> {
    guardian: &'a Arc<Guardian>,
    program: PathBuf,
    credentials: &'a AdminCredentials,
    etcd_port: u16,
    services: String,
    extra: Vec<String>,
}

impl ApiServerLaunch<'_> {
    async fn on_a_free_port(self) -> Result<(Restartable, Cluster, Config, Client), ControlPlaneError> {
        let mut attempt = 1;
        loop {
            match self.on_port(a_port()?).await {
                Err(error) if error.is_port_taken() && attempt < PORT_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    async fn on_port(&self, port: u16) -> Result<(Restartable, Cluster, Config, Client), ControlPlaneError> {
        let directory = self.guardian.directory();
        let cluster = Cluster { url: format!("https://127.0.0.1:{port}"), ca_pem: self.credentials.ca_pem.clone() };
        let kubeconfig = admin_kubeconfig(directory);
        cluster
            .write_kubeconfig(&kubeconfig, "default", &Identity::Token(&self.credentials.admin_token))
            .map_err(ControlPlaneError::io("write the admin kubeconfig"))?;
        let config = client_config(&kubeconfig).await?;
        let client = Client::try_from(config.clone()).map_err(ControlPlaneError::request("make a client"))?;

        let mut arguments = flags::api_server(self.credentials, directory, self.etcd_port, port, &self.services);
        arguments.extend(self.extra.iter().cloned());
        let server = Restartable::start(self.guardian, API_SERVER, self.program.clone(), arguments)?;
        wait_until_serving(&*server.start_again()?, &client).await?;
        Ok((server, cluster, config, client))
    }
}

async fn start_controller_manager(
    guardian: &Arc<Guardian>,
    program: PathBuf,
    credentials: &AdminCredentials,
    cluster: &Cluster,
    client: &Client,
) -> Result<Restartable, ControlPlaneError> {
    let kubeconfig = guardian.directory().join("controller-manager.kubeconfig");
    cluster
        .write_kubeconfig(&kubeconfig, "default", &Identity::Token(&credentials.controller_manager_token))
        .map_err(ControlPlaneError::io("write the controller manager's kubeconfig"))?;
    let arguments = flags::controller_manager(credentials, &kubeconfig);
    let process = Restartable::start(guardian, CONTROLLER_MANAGER, program, arguments)?;
    // Its first visible deed.
    wait(&*process.start_again()?, || async {
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "default");
        accounts.get("default").await.map(drop).map_err(|error| error.to_string())
    })
    .await?;
    Ok(process)
}

/// Polls `ready` until it succeeds, the program ends or the deadline passes.
pub(super) async fn wait<F: Future<Output = Result<(), String>>>(
    daemon: &Daemon,
    ready: impl Fn() -> F,
) -> Result<(), ControlPlaneError> {
    let started = Instant::now();
    loop {
        let program = daemon.name();
        if let Some(status) = daemon.exited() {
            return Err(ControlPlaneError::Ended { program, status: status.to_string(), log: daemon.last_log_lines() });
        }
        match ready().await {
            Ok(()) => return Ok(()),
            Err(reason) if started.elapsed() > READY_WITHIN => {
                let log = daemon.last_log_lines();
                return Err(ControlPlaneError::NotReady { program, waited: READY_WITHIN, reason, log });
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

async fn client_config(kubeconfig: &Path) -> Result<Config, ControlPlaneError> {
    let failure = |error| ControlPlaneError::Kubeconfig(Box::new(error));
    let kubeconfig = Kubeconfig::read_from(kubeconfig).map_err(failure)?;
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(failure)?;
    // Loopback is never behind the proxy that HTTPS_PROXY names.
    config.proxy_url = None;
    Ok(config)
}

async fn running_version(client: &Client) -> Result<KubernetesVersion, ControlPlaneError> {
    let answer = client.apiserver_version().await.map_err(ControlPlaneError::request("tell its version"))?;
    answer.git_version.parse().map_err(|error| {
        ControlPlaneError::io("read the API server's version")(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            error,
        ))
    })
}

fn admin_kubeconfig(directory: &Path) -> PathBuf {
    directory.join("admin.kubeconfig")
}

fn a_port() -> Result<u16, ControlPlaneError> {
    free_port().map_err(ControlPlaneError::io("find a free port"))
}
