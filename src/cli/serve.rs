//! `serve`: the only place where the parts are wired together.

mod arguments;
mod parts;
mod registration;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use certs::ServingCertificate;
use tokio::net::TcpSocket;

pub use self::arguments::ServeArguments;
use self::parts::start_parts;
#[cfg(feature = "otlp")]
use crate::telemetry::traces::{Traces, TracesError};
use crate::{
    clients::Clients,
    config::{Configuration, ConfigurationError},
    domain::decision::Settings,
    lifecycle::{Lifecycle, Readiness, Signals},
    metrics::Metrics,
    server::{self, AdminState, Webhook},
    telemetry,
};

/// Runs the webhook until it is told to stop.
#[must_use]
pub fn run(arguments: ServeArguments) -> ExitCode {
    let outcome = super::runtime().and_then(|runtime| {
        let outcome = runtime.block_on(serve(arguments));
        // A file or a name server that does not answer must not hold up the end.
        runtime.shutdown_background();
        Ok(outcome?)
    });
    outcome.unwrap_or_else(|error| {
        super::report(error.as_ref());
        ExitCode::FAILURE
    })
}

/// Why the webhook could not start.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("logging could not be started")]
    Logging(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[cfg(feature = "otlp")]
    #[error(transparent)]
    Traces(#[from] TracesError),
    #[error("no way to the Kubernetes API: set KUBECONFIG, or run in a pod with a ServiceAccount token")]
    Kubernetes(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("signals cannot be received")]
    Signals(#[source] std::io::Error),
    #[error("TLS could not be set up")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// How long requests and background work may take to end once the drain is over, at least.
const SHORTEST_STOP: Duration = Duration::from_secs(10);
/// How much more than `ensureTimeout` it is: a pod that came last waits so long for its pull secret, and wants its answer.
const STOP_MARGIN: Duration = Duration::from_secs(5);

async fn serve(arguments: ServeArguments) -> Result<ExitCode, ServeError> {
    let ServeArguments {
        config: configuration_file,
        webhook_address,
        admin_address,
        namespace: own_namespace,
        certificates,
        election,
        drain,
        log_format,
        log_level,
        #[cfg(feature = "otlp")]
        otlp_endpoint,
    } = arguments;
    let process = Process::default();
    let dropped = process.metrics.log_lines_dropped();
    #[cfg(feature = "otlp")]
    let traces = Traces::to(&otlp_endpoint)?;
    #[cfg(feature = "otlp")]
    let logging = match &traces {
        Some(traces) => telemetry::start_with_traces(log_format, log_level, dropped, traces),
        None => telemetry::start(log_format, log_level, dropped),
    };
    #[cfg(not(feature = "otlp"))]
    let logging = telemetry::start(log_format, log_level, dropped);
    let _logging = logging.map_err(ServeError::Logging)?;
    let mut signals = Signals::listen().map_err(ServeError::Signals)?;
    let configuration = Configuration::read(&configuration_file).await?;
    let kubernetes = kube::Config::infer().await.map_err(|error| ServeError::Kubernetes(error.into()))?;
    let clients = Clients::new(kubernetes).map_err(|error| ServeError::Kubernetes(error.into()))?;
    let webhook_listener = listen(webhook_address)?;
    let admin_listener = listen(admin_address)?;

    let serving = ServingCertificate::new();
    let tls = serving.server_config().map_err(|error| ServeError::Tls(error.into()))?;
    certificates.start(&clients, &own_namespace, &serving, &process);
    let parts = start_parts(clients, configuration, configuration_file, own_namespace, election, &process).await;

    let Process { lifecycle, readiness, metrics } = process;
    let settings = parts.admission.settings.clone();
    let webhook = Webhook::new(Arc::new(parts.admission), lifecycle.clone());
    let webhook = server::serve_webhook(webhook_listener, tls, webhook, lifecycle.clone());
    lifecycle.spawn("webhook server", log_failure("webhook server", webhook));
    let state =
        AdminState { readiness, lifecycle: lifecycle.clone(), metrics, serving, pull_secrets: parts.pull_secrets };
    let admin = server::serve_admin(admin_listener, server::admin_router(state), lifecycle.clone());
    lifecycle.spawn("admin server", log_failure("admin server", admin));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %webhook_address, %admin_address, "started");

    tokio::select! {
        signal = signals.received() => tracing::info!(signal, drain = ?drain, "stopping: draining"),
        () = lifecycle.draining().cancelled() => {}
    }
    lifecycle.draining().cancel();
    tokio::select! {
        () = drain_and_stop(&lifecycle, drain, &settings) => {}
        signal = signals.received() => {
            tracing::warn!(signal, "stopping at once");
            return Ok(ExitCode::FAILURE);
        }
    }
    #[cfg(feature = "otlp")]
    if let Some(traces) = traces {
        traces.flush().await;
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

/// Answers for as long as requests may still be routed here, then lets those under way finish.
async fn drain_and_stop(lifecycle: &Lifecycle, drain: Duration, settings: &ArcSwap<Settings>) {
    if !lifecycle.failed() {
        tokio::time::sleep(drain).await;
    }
    let ensure_timeout = settings.load().limits.ensure_timeout;
    lifecycle.stop(SHORTEST_STOP.max(ensure_timeout + STOP_MARGIN)).await;
}

async fn log_failure(name: &'static str, server: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = server.await {
        tracing::error!(server = name, %error, "the server failed");
    }
}

/// Listens on an address. "Any address" means IPv6 and IPv4, and falls back to IPv4 on a machine without IPv6.
fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    bind(address)
        .or_else(|error| match address {
            SocketAddr::V6(any) if any.ip().is_unspecified() => bind((Ipv4Addr::UNSPECIFIED, any.port()).into()),
            _ => Err(error),
        })
        .map_err(|source| ServeError::Listen { address, source })
}

/// Connections that wait to be accepted. With the 128 of the standard library a burst makes callers wait for a second.
const BACKLOG: u32 = 1024;

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As the standard library does: connections that are still closing shall not keep the port from a new process.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_pull_secret_at_the_end_of_the_drain_is_answered() {
        for (ensure_timeout, lasts, is_answered) in [(25, 25, true), (2, 9, true), (2, 60, false)] {
            let text = format!("admission: {{ensureTimeout: {ensure_timeout}s}}");
            let settings = ArcSwap::from_pointee(Configuration::parse(&text).unwrap().settings(None));
            let (lifecycle, answered) = (Lifecycle::new(), Arc::new(AtomicBool::new(false)));
            let (drain, flag) = (Duration::from_secs(15), answered.clone());
            drop(lifecycle.spawn_work(async move {
                tokio::time::sleep(drain + Duration::from_secs(lasts)).await;
                flag.store(true, Ordering::SeqCst);
            }));
            drain_and_stop(&lifecycle, drain, &settings).await;
            assert_eq!(answered.load(Ordering::SeqCst), is_answered, "{ensure_timeout} s, {lasts} s");
        }
    }
}
