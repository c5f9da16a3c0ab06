//! One running control plane.

mod error;
mod etcd;
mod flags;
mod restartable;
mod start;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::{Client, Config};

use crate::guardian::Guardian;
use crate::helm::Helm;
use crate::kubeconfig::{Cluster, Identity};
use crate::loopback::AddressRange;
use crate::progress::Progress;
use crate::service_account_token;
use crate::version::KubernetesVersion;

pub use error::ControlPlaneError;
use etcd::Etcd;
use restartable::Restartable;

/// How long tokens of ServiceAccounts are good for: longer than any test or demo.
const TOKEN_SECONDS: i64 = 24 * 60 * 60;

/// A running etcd, kube-apiserver and, if asked for, kube-controller-manager.
///
/// Dropping it kills them, and every [`LocalPod`](crate::LocalPod) too, and removes its temporary directory. The same
/// happens when this process ends in any other way.
pub struct ControlPlane {
    guardian: Arc<Guardian>,
    // In the order in which they end.
    controller_manager: Option<Restartable>,
    api_server: Restartable,
    etcd: Etcd,
    addresses: AddressRange,
    cluster: Cluster,
    client_config: Config,
    kubeconfig: PathBuf,
    helm: Helm,
    version: KubernetesVersion,
}

impl ControlPlane {
    /// What to start; see [`ControlPlaneBuilder::start`].
    #[must_use]
    pub fn builder() -> ControlPlaneBuilder {
        ControlPlaneBuilder::default()
    }

    /// A new client that acts as the administrator (`system:masters`). It belongs to the current tokio runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the start has made a client of this very configuration")]
    pub fn client(&self) -> Client {
        Client::try_from(self.client_config.clone()).expect("the configuration was good at the start")
    }

    /// The administrator's kubeconfig, readable only by this user.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Where the API server listens: `https://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.cluster.url
    }

    /// The CA certificate that the API server's certificate is verified with.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.cluster.ca_pem
    }

    /// The version that the API server reports.
    #[must_use]
    pub fn version(&self) -> KubernetesVersion {
        self.version
    }

    /// The temporary directory of this control plane, with the programs' logs; for files of the caller's too.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.guardian.directory()
    }

    /// The pinned helm, set up to work on this control plane.
    #[must_use]
    pub fn helm(&self) -> Helm {
        self.helm.clone()
    }

    /// A loopback address that no other pod has, in this control plane or in others on the machine.
    #[must_use]
    pub fn new_pod_address(&self) -> IpAddr {
        self.addresses.next_pod_address()
    }

    /// A token of a ServiceAccount (`TokenRequest` API), good for a day.
    pub async fn service_account_token(&self, namespace: &str, name: &str) -> Result<String, ControlPlaneError> {
        service_account_token::issue(&self.client(), namespace, name, None, TOKEN_SECONDS)
            .await
            .map_err(ControlPlaneError::request("issue a ServiceAccount token"))
    }

    /// Writes a kubeconfig that acts as a ServiceAccount, with exactly its rights.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf, ControlPlaneError> {
        let token = self.service_account_token(namespace, name).await?;
        let file = self.directory().join(format!("{namespace}.{name}.kubeconfig"));
        self.cluster
            .write_kubeconfig(&file, namespace, &Identity::Token(&token))
            .map_err(ControlPlaneError::io("write a ServiceAccount's kubeconfig"))?;
        Ok(file)
    }

    /// The API server's own metrics, as Prometheus text.
    pub async fn metrics(&self) -> Result<String, ControlPlaneError> {
        let request = http::Request::get("/metrics").body(Vec::new());
        let request = request.map_err(|error| ControlPlaneError::request("be asked")(kube::Error::HttpError(error)))?;
        self.client().request_text(request).await.map_err(ControlPlaneError::request("show its metrics"))
    }

    /// Kills the API server, as a crash would. The data stays.
    pub fn stop_api_server(&self) {
        self.api_server.stop();
    }

    /// Starts the API server again at the same address, and waits until it serves.
    pub async fn start_api_server(&self) -> Result<(), ControlPlaneError> {
        let daemon = self.api_server.start_again()?;
        start::wait_until_serving(&daemon, &self.client()).await
    }

    /// Kills the API server and starts it again.
    pub async fn restart_api_server(&self) -> Result<(), ControlPlaneError> {
        self.stop_api_server();
        self.start_api_server().await
    }

    /// Kills etcd, as a crash would. The data stays; the API server runs on, of little use.
    pub fn stop_etcd(&self) {
        self.etcd.process.stop();
    }

    /// Starts etcd again with its data, and waits until the API server serves from it.
    pub async fn start_etcd(&self) -> Result<(), ControlPlaneError> {
        self.etcd.start_again().await?;
        self.start_api_server().await
    }

    /// Has etcd forget its history, so that a watch from an old version is refused (410 Gone). The API server remembers some
    /// by itself until it is restarted.
    pub async fn forget_history(&self) -> Result<(), ControlPlaneError> {
        self.etcd.compact().await
    }

    /// Keeps a copy of all data as they are now. etcd is away meanwhile.
    pub async fn back_up(&self) -> Result<(), ControlPlaneError> {
        self.etcd.back_up().await?;
        self.start_api_server().await
    }

    /// Goes back to the data of the last [`ControlPlane::back_up`]. Resource versions go back too, and those that came after
    /// it are given anew to other changes. The controller manager is started anew, or it may watch from a version of the future:
    /// <https://kubernetes.io/docs/tasks/administer-cluster/configure-upgrade-etcd/#restoring-an-etcd-cluster> asks for it.
    pub async fn restore_backup(&self) -> Result<(), ControlPlaneError> {
        self.stop_api_server();
        self.etcd.restore_backup().await?;
        self.start_api_server().await?;
        if let Some(controller_manager) = &self.controller_manager {
            controller_manager.stop();
            controller_manager.start_again()?;
        }
        Ok(())
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(crate) fn guardian(&self) -> &Arc<Guardian> {
        &self.guardian
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.guardian.clean_up();
    }
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ControlPlane")
            .field("url", &self.cluster.url)
            .field("version", &self.version)
            .field("directory", &self.directory())
            .finish_non_exhaustive()
    }
}

/// What to start. By default etcd and kube-apiserver, quietly unless something must be built.
#[derive(Debug, Clone, Default)]
pub struct ControlPlaneBuilder {
    controller_manager: bool,
    api_server_arguments: Vec<String>,
    progress: Progress,
}

impl ControlPlaneBuilder {
    /// Also runs kube-controller-manager: it makes `default` ServiceAccounts, turns Deployments into pods and completes
    /// the deletion of namespaces.
    #[must_use]
    pub fn controller_manager(mut self, wanted: bool) -> Self {
        self.controller_manager = wanted;
        self
    }

    /// Adds an argument to kube-apiserver's command line, such as `--feature-gates=X=true`.
    #[must_use]
    pub fn api_server_argument(mut self, argument: impl Into<String>) -> Self {
        self.api_server_arguments.push(argument.into());
        self
    }

    /// Tells `listener` every step of the start, one line each. Without it only builds and waits are told, on standard
    /// error.
    #[must_use]
    pub fn progress(mut self, listener: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.progress = Progress::to(listener);
        self
    }

    /// Starts everything and waits until it is ready: a few seconds, or up to 10 minutes when programs must be built
    /// first (once; see the crate's README).
    pub async fn start(self) -> Result<ControlPlane, ControlPlaneError> {
        start::start(self).await
    }
}
