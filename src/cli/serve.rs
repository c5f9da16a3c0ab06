//! `serve`: the only place where the parts are wired together.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use axum_server::Handle;
use certs::{CertificateFiles, Lifetimes, SelfManaged, ServingCertificate};
use clap::{Args, ValueEnum};
use kube::Client;
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::{
    admission::Admission,
    config::{Configuration, ConfigurationError, parse_duration},
    credentials::files::FileCredentials,
    domain::pull_secret::MANAGER,
    ensure::Ensurer,
    lifecycle::{Lifecycle, Readiness, Signals},
    metrics::Metrics,
    namespaces::KubernetesNamespaces,
    reload::ConfigurationReload,
    retry::RetryQueue,
    secrets::{reconciler::Reconciler, store::KubernetesPullSecrets},
    server::{self, AdminState},
    telemetry::{self, LogFormat},
};

/// Options of `serve`. The Kubernetes API is found as kubectl finds it (KUBECONFIG), else as a pod does.
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// Configuration file: registries, their credentials, the name of the pull secret
    #[arg(
        long,
        value_name = "FILE",
        env = "ACR_PULL_INJECTOR_CONFIG",
        default_value = "/etc/acr-pull-injector/config.yaml"
    )]
    config: PathBuf,

    /// Address of the webhook (HTTPS, POST /mutate)
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8443")]
    webhook_address: SocketAddr,

    /// Address of the admin port (HTTP: /livez, /readyz, /metrics)
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8080")]
    admin_address: SocketAddr,

    /// Our own namespace: holds the serving certificate, and its pods are never touched
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    namespace: String,

    #[command(flatten)]
    certificates: CertificateArguments,

    /// How long requests are still answered after SIGTERM, until nobody sends any; a second signal ends at once
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = parse_duration)]
    drain: Duration,

    /// How log lines look
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,

    /// What is logged: a level, or a filter such as `info,acr_pull_injector=debug`
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info", value_parser = telemetry::parse_filter)]
    log_level: EnvFilter,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Serving certificate")]
struct CertificateArguments {
    /// Where the serving certificate comes from
    #[arg(long, value_name = "SOURCE", value_enum, default_value_t)]
    certificate_source: CertificateSource,

    /// self-managed: name of the Secret that holds the certificates, made when it is missing
    #[arg(long, value_name = "NAME", default_value = "acr-pull-injector-serving-certificate")]
    certificate_secret: String,

    /// self-managed: name of the Service that the API server calls
    #[arg(long, value_name = "NAME", default_value = "acr-pull-injector")]
    service: String,

    /// self-managed: MutatingWebhookConfiguration that is told which CA to trust
    #[arg(long, value_name = "NAME", default_value = "acr-pull-injector")]
    webhook_configuration: String,

    /// files: directory with tls.crt and tls.key, read again when they change
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/acr-pull-injector/certificate")]
    certificate_directory: PathBuf,
}

/// Where the serving certificate comes from.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum CertificateSource {
    /// Made, rotated and announced to the API server by the replicas themselves
    #[default]
    SelfManaged,
    /// Files that somebody else provides, cert-manager for example
    Files,
}

/// Runs the webhook until it is told to stop.
#[must_use]
pub fn run(arguments: ServeArguments) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            super::report(&error);
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(arguments)) {
        Ok(code) => code,
        Err(error) => {
            super::report(&error);
            ExitCode::FAILURE
        }
    }
}

/// Why the webhook could not start.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("logging could not be started")]
    Logging(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error("no way to the Kubernetes API: set KUBECONFIG, or run in a pod with a ServiceAccount token")]
    Kubernetes(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("signals cannot be received")]
    Signals(#[source] std::io::Error),
    #[error("TLS could not be set up")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// How long requests and background work may take to end once the drain is over.
const STOP_LIMIT: Duration = Duration::from_secs(10);
const CERTIFICATE_CHECK_INTERVAL: Duration = Duration::from_secs(10);

async fn serve(arguments: ServeArguments) -> Result<ExitCode, ServeError> {
    let ServeArguments {
        config: configuration_file,
        webhook_address,
        admin_address,
        namespace: own_namespace,
        certificates,
        drain,
        log_format,
        log_level,
    } = arguments;
    telemetry::start(log_format, log_level).map_err(ServeError::Logging)?;
    let mut signals = Signals::listen().map_err(ServeError::Signals)?;
    let configuration = Configuration::load(&configuration_file)?;
    let kubernetes = kube::Config::infer().await.map_err(|error| ServeError::Kubernetes(error.into()))?;
    let client = Client::try_from(kubernetes).map_err(|error| ServeError::Kubernetes(error.into()))?;
    let webhook_listener = listen(webhook_address)?;
    let admin_listener = listen(admin_address)?;

    let process = Process::default();
    let serving = ServingCertificate::new();
    let tls = serving.server_config().map_err(|error| ServeError::Tls(error.into()))?;
    certificates.start(&client, &own_namespace, &serving, &process);
    let parts = start_parts(client, configuration, configuration_file, own_namespace, &process).await;

    let Process { lifecycle, readiness, metrics } = process;
    let webhook_handle = Handle::new();
    let router = server::webhook_router(Arc::new(parts.admission), lifecycle.clone());
    let webhook = server::serve_webhook(webhook_listener, tls, router, webhook_handle.clone());
    lifecycle.spawn("webhook server", log_failure("webhook server", webhook));
    let listening = readiness.gate("webhook socket");
    let handle = webhook_handle.clone();
    drop(lifecycle.spawn_work(async move {
        if handle.listening().await.is_some() {
            listening.open();
        }
    }));
    let admin_handle = Handle::new();
    let state =
        AdminState { readiness, lifecycle: lifecycle.clone(), metrics, serving, pull_secrets: parts.pull_secrets };
    let admin = server::serve_admin(admin_listener, server::admin_router(state), admin_handle.clone());
    lifecycle.spawn("admin server", log_failure("admin server", admin));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %webhook_address, %admin_address, "started");

    tokio::select! {
        signal = signals.received() => tracing::info!(signal, drain = ?drain, "stopping: draining"),
        () = lifecycle.draining().cancelled() => {}
    }
    lifecycle.draining().cancel();
    tokio::select! {
        () = drain_and_stop(&lifecycle, drain, &webhook_handle, &admin_handle) => {}
        signal = signals.received() => {
            tracing::warn!(signal, "stopping at once");
            return Ok(ExitCode::FAILURE);
        }
    }
    tracing::info!("stopped");
    Ok(if lifecycle.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What every part of the process shares.
#[derive(Debug, Default)]
struct Process {
    lifecycle: Lifecycle,
    readiness: Readiness,
    metrics: Arc<Metrics>,
}

impl CertificateArguments {
    /// Starts whatever keeps the serving certificate right.
    fn start(self, client: &Client, own_namespace: &str, serving: &ServingCertificate, process: &Process) {
        let Process { lifecycle, readiness, .. } = process;
        let Self { certificate_source, certificate_secret, service, webhook_configuration, certificate_directory } =
            self;
        match certificate_source {
            CertificateSource::SelfManaged => {
                let self_managed = SelfManaged {
                    client: client.clone(),
                    namespace: own_namespace.to_owned(),
                    secret_name: certificate_secret,
                    // The API server asks for the first; the others are for people who try by hand.
                    dns_names: vec![
                        format!("{service}.{own_namespace}.svc"),
                        format!("{service}.{own_namespace}.svc.cluster.local"),
                        format!("{service}.{own_namespace}"),
                    ],
                    webhook_configuration,
                    field_manager: MANAGER.to_owned(),
                    lifetimes: Lifetimes::default(),
                    check_interval: CERTIFICATE_CHECK_INTERVAL,
                };
                lifecycle.spawn("certificates", self_managed.run(serving.clone(), lifecycle.stopping().clone()));
            }
            CertificateSource::Files => {
                let files =
                    CertificateFiles { directory: certificate_directory, poll_interval: CERTIFICATE_CHECK_INTERVAL };
                lifecycle.spawn("certificates", files.run(serving.clone(), lifecycle.stopping().clone()));
            }
        }
        let gate = readiness.gate("serving certificate");
        let (serving, stopping) = (serving.clone(), lifecycle.stopping().clone());
        drop(lifecycle.spawn_work(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = serving.loaded() => gate.open(),
            }
        }));
    }
}

/// What the servers need of the running parts.
struct Parts {
    admission: Admission<FileCredentials, KubernetesPullSecrets, KubernetesNamespaces>,
    pull_secrets: Arc<KubernetesPullSecrets>,
}

/// Builds the use case and starts what runs behind it: watches, retries, reconciler, reload.
async fn start_parts(
    client: Client,
    configuration: Configuration,
    configuration_file: PathBuf,
    own_namespace: String,
    process: &Process,
) -> Parts {
    let Process { lifecycle, readiness, metrics } = process;
    let stopping = lifecycle.stopping();
    let (announce, changes) = watch::channel(0);
    if configuration.rules.is_empty() {
        tracing::warn!(file = %configuration_file.display(), "no registry is configured: every pod is admitted unchanged");
    }
    let settings = Arc::new(ArcSwap::from_pointee(configuration.settings(Some(&own_namespace))));
    let ensure_timeout = Arc::new(ArcSwap::from_pointee(configuration.ensure_timeout));
    let credentials = Arc::new(FileCredentials::read(configuration.credentials.clone(), metrics.clone()).await);
    lifecycle.spawn("credentials", credentials.clone().follow(announce.clone(), stopping.clone()));

    let namespaces = Arc::new(KubernetesNamespaces::new(client.clone()));
    let namespaces_synced = readiness.gate("namespaces");
    lifecycle.spawn("namespaces", namespaces.clone().follow(namespaces_synced.clone(), stopping.clone()));
    let pull_secrets = Arc::new(KubernetesPullSecrets::new(client, settings.clone()));
    let pull_secrets_synced = readiness.gate("pull secrets");
    lifecycle.spawn("pull secrets", pull_secrets.clone().follow(pull_secrets_synced.clone(), stopping.clone()));

    let ensurer = Arc::new(Ensurer::new(credentials.clone(), pull_secrets.clone(), settings.clone(), metrics.clone()));
    let retries = RetryQueue::new();
    lifecycle
        .spawn("retries", retries.clone().run(ensurer.clone(), namespaces.clone(), settings.clone(), stopping.clone()));
    let reconciler = Reconciler {
        ensurer: ensurer.clone(),
        store: pull_secrets.clone(),
        namespaces: namespaces.clone(),
        retries: retries.clone(),
    };
    let shutdown = stopping.clone();
    lifecycle.spawn("reconciler", async move {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = async { namespaces_synced.opened().await; pull_secrets_synced.opened().await } => {}
        }
        reconciler.run(changes, shutdown).await;
    });
    let reload = ConfigurationReload {
        path: configuration_file,
        own_namespace,
        current: configuration,
        settings: settings.clone(),
        ensure_timeout: ensure_timeout.clone(),
        credentials,
        metrics: metrics.clone(),
        announce,
    };
    lifecycle.spawn("configuration", reload.run(stopping.clone()));

    let admission = Admission {
        ensurer,
        namespaces,
        retries,
        settings,
        ensure_timeout,
        lifecycle: lifecycle.clone(),
        metrics: metrics.clone(),
    };
    Parts { admission, pull_secrets }
}

/// Answers for as long as requests may still be routed here, then lets those under way finish.
async fn drain_and_stop(
    lifecycle: &Lifecycle,
    drain: Duration,
    webhook: &Handle<SocketAddr>,
    admin: &Handle<SocketAddr>,
) {
    if !lifecycle.failed() {
        tokio::time::sleep(drain).await;
    }
    lifecycle.stopping().cancel();
    webhook.graceful_shutdown(Some(STOP_LIMIT));
    admin.graceful_shutdown(Some(Duration::from_secs(1)));
    lifecycle.stop(STOP_LIMIT).await;
}

async fn log_failure(name: &'static str, server: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = server.await {
        tracing::error!(server = name, %error, "the server failed");
    }
}

/// Listens on an address. "Any address" means IPv6 and IPv4, and falls back to IPv4 on a machine without IPv6.
fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .or_else(|error| match address {
            SocketAddr::V6(any) if any.ip().is_unspecified() => TcpListener::bind((Ipv4Addr::UNSPECIFIED, any.port())),
            _ => Err(error),
        })
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|source| ServeError::Listen { address, source })
}
