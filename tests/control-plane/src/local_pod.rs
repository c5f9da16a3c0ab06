//! Plays the kubelet for one replica of a Deployment.

mod atomic_directory;
mod error;
mod expansion;
mod mount_paths;
mod probe;
mod template;
mod volumes;

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec, ServiceAccount};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Api, Client};
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use crate::control_plane::ControlPlane;
use crate::daemon::last_lines;
use crate::environment::search_path;
use crate::guardian::{Guardian, ask_to_end, kill_group};
use crate::kubeconfig::Identity;
use crate::random;

pub use error::LocalPodError;
use probe::Probe;
use template::{PodFacts, SERVICE_ACCOUNT_PATH};
use volumes::{Reader, Volumes};

const REFRESH_EVERY: Duration = Duration::from_secs(1);
const PROBE_EVERY: Duration = Duration::from_millis(50);
const SHOWN_LOG_LINES: usize = 25;

/// How to run the pod.
#[derive(Debug, Clone)]
pub struct LocalPodOptions {
    /// Stands for the image: it replaces the first word of the container's command.
    pub program: PathBuf,
    /// The pod's address, on loopback; see [`ControlPlane::new_pod_address`].
    pub address: IpAddr,
    /// Set in the process's environment, over what the template sets.
    pub env: Vec<(String, String)>,
    /// Where standard output and error go. By default a file in the control plane's temporary directory.
    pub log: Option<PathBuf>,
}

impl LocalPodOptions {
    /// Runs `program` at `address`, with nothing added to the template.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>, address: IpAddr) -> Self {
        Self { program: program.into(), address, env: Vec::new(), log: None }
    }
}

/// One replica of a Deployment, as a local process.
///
/// The container's command and arguments, environment, volumes and readiness probe come from the pod template on the API
/// server. What differs from a container:
/// - Volumes lie in a directory of the pod's own. Paths of mounts are replaced by it in arguments, environment values and
///   the text of `ConfigMaps`.
/// - `[::]:PORT` and `0.0.0.0:PORT` in arguments become the pod's address; `--webhook-address` and `--admin-address` are
///   added when the template leaves them out and has container ports named `webhook` and `admin`.
/// - `KUBECONFIG` is set, with the token that would be mounted at `/var/run/secrets/kubernetes.io/serviceaccount`.
/// - Nothing is restricted: no security context, no limits, no liveness probe, no restart.
///
/// Volumes are brought up to date every second. Dropping it kills the process. It lives on the tokio runtime in which it
/// was started.
#[derive(Debug)]
pub struct LocalPod {
    name: String,
    address: IpAddr,
    container: Container,
    probe: Option<Probe>,
    process: u32,
    log: PathBuf,
    directory: PathBuf,
    /// `None` while it runs.
    exit: watch::Receiver<Option<ExitStatus>>,
    volumes: Arc<Mutex<Volumes>>,
    refreshing: JoinHandle<()>,
}

impl LocalPod {
    /// Reads the Deployment, lays out the volumes and starts the process.
    pub async fn start(
        control_plane: &ControlPlane,
        namespace: &str,
        deployment: &str,
        options: LocalPodOptions,
    ) -> Result<Self, LocalPodError> {
        let client = control_plane.client();
        let template = pod_template(&client, namespace, deployment).await?;
        let container = template::single_container(&template)?.clone();
        let probe = Probe::of(&container, options.address)?;
        let account_name = template.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let account_name = account_name.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
        let account = accounts.get_opt(&account_name).await;
        let account = account.map_err(LocalPodError::request("ServiceAccount", namespace, &account_name))?;

        let suffix = random::token().map_err(LocalPodError::io("name the pod"))?;
        let name = format!("{deployment}-{}", suffix.get(..8).unwrap_or(&suffix));
        let directory = control_plane.directory().join("pods").join(&name);
        fs::create_dir_all(&directory).map_err(LocalPodError::io("make the pod's directory"))?;
        let facts = PodFacts {
            name: name.clone(),
            namespace: namespace.to_owned(),
            address: options.address,
            service_account: account_name.clone(),
        };
        let root = directory.join("volumes");
        let (definitions, mounts) =
            template::volumes(&template, &facts, account.as_ref(), control_plane.ca_pem(), &root)?;
        let mut environment = template::environment(&template, &facts, &mounts)?;
        let arguments = template::arguments(&container, &environment, &mounts, options.address);

        let token_directory = mounts.local(SERVICE_ACCOUNT_PATH).map(Path::to_owned);
        let reader = Reader::new(client, namespace, &account_name, mounts);
        let mut volumes = Volumes::lay_out(reader, definitions, &root)?;
        volumes.refresh().await?;
        if let Some(token_directory) = token_directory {
            let kubeconfig = directory.join("kubeconfig");
            control_plane
                .cluster()
                .write_kubeconfig(&kubeconfig, namespace, &Identity::TokenFile(&token_directory.join("token")))
                .map_err(LocalPodError::io("write the pod's kubeconfig"))?;
            environment.push(("KUBECONFIG".to_owned(), kubeconfig.to_string_lossy().into_owned()));
        }
        environment.extend(options.env);

        let log = options.log.unwrap_or_else(|| directory.join("log"));
        let child = spawn(control_plane.guardian(), &options.program, &arguments, environment, &directory, &log)
            .map_err(LocalPodError::io("start the pod's program"))?;
        let process = child.id().unwrap_or_default();
        let (exit_sender, exit) = watch::channel(None);
        tokio::spawn(wait_for(child, process, Arc::clone(control_plane.guardian()), exit_sender));
        let volumes = Arc::new(Mutex::new(volumes));
        let refreshing = tokio::spawn(keep_fresh(Arc::clone(&volumes)));
        Ok(Self {
            name,
            address: options.address,
            container,
            probe,
            process,
            log,
            directory,
            exit,
            volumes,
            refreshing,
        })
    }

    /// The pod's name, unique in its control plane.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process
    }

    /// Where the container port of that name is served.
    #[must_use]
    pub fn port(&self, name: &str) -> Option<SocketAddr> {
        let port = template::container_port(&self.container, &IntOrString::String(name.to_owned()))?;
        Some(SocketAddr::new(self.address, port))
    }

    /// The local directory of a volume.
    #[must_use]
    pub fn volume(&self, name: &str) -> PathBuf {
        self.directory.join("volumes").join(name)
    }

    /// Probes until the pod is ready. Fails when it ends or `timeout` passes before.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), LocalPodError> {
        let started = Instant::now();
        loop {
            if let Some(status) = *self.exit.borrow() {
                let (pod, status) = (self.name.clone(), status.to_string());
                return Err(LocalPodError::Ended { pod, status, log: self.last_log_lines() });
            }
            match self.probe().await {
                Ok(()) => return Ok(()),
                Err(reason) if started.elapsed() >= timeout => {
                    let (pod, log) = (self.name.clone(), self.last_log_lines());
                    return Err(LocalPodError::NotReady { pod, waited: timeout, reason, log });
                }
                Err(_) => tokio::time::sleep(PROBE_EVERY).await,
            }
        }
    }

    /// Runs the readiness probe once.
    pub async fn is_ready(&self) -> bool {
        self.is_running() && self.probe().await.is_ok()
    }

    /// Whether the process has not ended yet.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.exit.borrow().is_none()
    }

    /// Sends SIGTERM, as the kubelet does first. Does not wait.
    pub fn terminate(&self) {
        if self.is_running() {
            ask_to_end(self.process);
        }
    }

    /// Sends SIGKILL to the process and its children. Does not wait.
    pub fn kill(&self) {
        if self.is_running() {
            kill_group(self.process);
        }
    }

    /// Waits until the process has ended.
    ///
    /// # Panics
    /// When the tokio runtime that the pod was started in is gone.
    #[expect(clippy::expect_used, reason = "the sender is dropped only after it has sent")]
    pub async fn exited(&mut self) -> ExitStatus {
        let status = self.exit.wait_for(Option::is_some).await.expect("the task that waits for the process runs");
        (*status).unwrap_or_default()
    }

    /// All that the process wrote so far, on standard output and error.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Brings the volumes up to date now rather than within a second.
    pub async fn refresh_volumes(&self) -> Result<(), LocalPodError> {
        self.volumes.lock().await.refresh().await
    }

    async fn probe(&self) -> Result<(), String> {
        match &self.probe {
            Some(probe) => probe.try_once().await,
            None => Ok(()),
        }
    }

    fn last_log_lines(&self) -> String {
        last_lines(&self.log(), SHOWN_LOG_LINES).to_owned()
    }
}

impl Drop for LocalPod {
    fn drop(&mut self) {
        self.refreshing.abort();
        self.kill();
    }
}

async fn pod_template(client: &Client, namespace: &str, name: &str) -> Result<PodTemplateSpec, LocalPodError> {
    let deployments = Api::<Deployment>::namespaced(client.clone(), namespace);
    let deployment = deployments.get(name).await;
    let deployment = deployment.map_err(LocalPodError::request("Deployment", namespace, name))?;
    Ok(deployment.spec.map(|spec| spec.template).unwrap_or_default())
}

fn spawn(
    guardian: &Guardian,
    program: &Path,
    arguments: &[String],
    environment: Vec<(String, String)>,
    directory: &Path,
    log: &Path,
) -> std::io::Result<Child> {
    let output = File::create(log)?;
    let mut command = Guardian::gated_command(program, arguments);
    command
        .current_dir(directory)
        .env_clear()
        .env("PATH", search_path())
        .env("HOME", directory)
        .envs(environment)
        .stdout(output.try_clone()?)
        .stderr(output);
    let mut child = Command::from(command).spawn()?;
    let gate = child.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
    guardian.release(child.id().unwrap_or_default(), File::from(gate.into_owned_fd()?))?;
    Ok(child)
}

async fn wait_for(mut child: Child, process: u32, guardian: Arc<Guardian>, exit: watch::Sender<Option<ExitStatus>>) {
    let status = child.wait().await.unwrap_or_default();
    // The end of a container's first process is the end of all of them.
    kill_group(process);
    guardian.forget(process);
    exit.send_replace(Some(status));
}

async fn keep_fresh(volumes: Arc<Mutex<Volumes>>) {
    loop {
        tokio::time::sleep(REFRESH_EVERY).await;
        // A volume keeps its content when its source is gone or the API server is down, as with the kubelet.
        drop(volumes.lock().await.refresh().await);
    }
}
