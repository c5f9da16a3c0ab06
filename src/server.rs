//! The two HTTP servers: the webhook over TLS, and the admin port for probes and metrics.
//!
//! HTTP/1.1 only, which is all that the API server speaks to a webhook. Idle connections are kept longer than the API
//! server keeps them (90 s), since a connection that is closed under a request is a failed call that nobody repeats.

mod body_memory;
mod connection_limit;
mod counted;

use std::{net::TcpListener, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use axum_server::{
    Handle,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use certs::ServingCertificate;
use tower_http::catch_panic::CatchPanicLayer;

use self::{
    body_memory::{BodyMemory, within_memory},
    connection_limit::ConnectionLimit,
};
use crate::{
    admission::{Admission, CredentialSource, NamespaceSource, PullSecretStore},
    lifecycle::{Lifecycle, Readiness},
    metrics::Metrics,
};

/// The largest review that is read. The API server takes objects of 3 MiB, which grow when they are written as JSON.
pub const BODY_LIMIT: usize = 8 << 20;

/// How long a client may take over the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to send a request head, counted from the end of the request before: longer than the 90 s
/// after which the API server drops an idle connection by itself.
const HEADER_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a client may take to send a body. The API server sends the largest within a second.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections to the webhook, each of which takes about 22 KiB: 17 MiB in all. With those to the admin port they stay below
/// the 1,024 descriptors that containers get by default.
const WEBHOOK_CONNECTIONS: usize = 800;

/// Connections to the admin port.
const ADMIN_CONNECTIONS: usize = 64;

/// How much of a request is read ahead, and so the size of the largest head: the API server's have less than 1 KiB.
const READ_AHEAD: usize = 16 << 10;

/// `POST /mutate`, and nothing else.
pub fn webhook_router<C, S, N>(admission: Arc<Admission<C, S, N>>, lifecycle: Lifecycle) -> Router
where
    C: CredentialSource,
    S: PullSecretStore,
    N: NamespaceSource,
{
    Router::new()
        .route("/mutate", post(mutate::<C, S, N>))
        .with_state(admission)
        .layer(middleware::from_fn_with_state(BodyMemory::default(), within_memory))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(CatchPanicLayer::new())
        .layer(middleware::from_fn_with_state(lifecycle, close_while_draining))
}

/// What the admin port tells.
#[derive(Clone, Debug)]
pub struct AdminState {
    /// Which gates are still closed.
    pub readiness: Readiness,
    /// Whether the drain has begun.
    pub lifecycle: Lifecycle,
    /// What has been counted.
    pub metrics: Arc<Metrics>,
    /// The certificate in use.
    pub serving: ServingCertificate,
    /// How many pull secrets are known.
    pub pull_secrets: Arc<dyn CountPullSecrets>,
}

/// Tells how many pull secrets of ours stand in the cluster.
pub trait CountPullSecrets: Send + Sync + std::fmt::Debug {
    /// The number, from memory.
    fn count(&self) -> usize;
}

/// `/livez`, `/readyz` and `/metrics`.
pub fn admin_router(state: AdminState) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(state)
}

/// Serves the webhook until the handle is told to stop.
///
/// # Errors
///
/// When the listener cannot be used.
pub async fn serve_webhook(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    handle: Handle<std::net::SocketAddr>,
) -> std::io::Result<()> {
    let connections = ConnectionLimit::at_most(WEBHOOK_CONNECTIONS, "webhook");
    let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(tls)).handshake_timeout(HANDSHAKE_TIMEOUT);
    let acceptor = acceptor.acceptor(connections.clone());
    let mut server = axum_server::from_tcp(listener)?
        .acceptor(acceptor)
        .accept_error_handler(move |peer, error| make_room(&connections, peer, error))
        .http1_only()
        .handle(handle);
    server.http_builder().http1().header_read_timeout(HEADER_TIMEOUT).max_buf_size(READ_AHEAD);
    server.serve(router.into_make_service()).await
}

/// Serves the admin port until the handle is told to stop.
///
/// # Errors
///
/// When the listener cannot be used.
pub async fn serve_admin(
    listener: TcpListener,
    router: Router,
    handle: Handle<std::net::SocketAddr>,
) -> std::io::Result<()> {
    let connections = ConnectionLimit::at_most(ADMIN_CONNECTIONS, "admin");
    let mut server = axum_server::from_tcp(listener)?
        .acceptor(connections.clone())
        .accept_error_handler(move |peer, error| make_room(&connections, peer, error))
        .http1_only()
        .handle(handle);
    server.http_builder().http1().header_read_timeout(HEADER_TIMEOUT).max_buf_size(READ_AHEAD);
    server.serve(router.into_make_service()).await
}

/// Without a peer the connection could not even be accepted.
fn make_room(connections: &ConnectionLimit, peer: Option<&std::net::SocketAddr>, error: &std::io::Error) {
    if peer.is_none() {
        connections.make_room(error);
    }
}

async fn mutate<C, S, N>(State(admission): State<Arc<Admission<C, S, N>>>, request: axum::extract::Request) -> Response
where
    C: CredentialSource,
    S: PullSecretStore,
    N: NamespaceSource,
{
    let body = match tokio::time::timeout(BODY_TIMEOUT, axum::RequestExt::extract::<Bytes, _>(request)).await {
        Ok(Ok(body)) => body,
        Ok(Err(rejection)) => return rejection.into_response(),
        Err(_) => return (StatusCode::REQUEST_TIMEOUT, "the request body did not arrive in time\n").into_response(),
    };
    let started = std::time::Instant::now();
    match admission.answer(&body).await {
        Ok(answer) => {
            admission.metrics.admission_reviewed(answer.outcome, started.elapsed());
            ([(header::CONTENT_TYPE, "application/json")], answer.body).into_response()
        }
        Err(error) => {
            admission.metrics.admission_reviewed("malformed", started.elapsed());
            (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response()
        }
    }
}

/// Asks clients to take their next request elsewhere once the drain has begun.
async fn close_while_draining(
    State(lifecycle): State<Lifecycle>,
    request: axum::extract::Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    if lifecycle.draining().is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn readyz(State(state): State<AdminState>) -> Response {
    if state.lifecycle.draining().is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    match state.readiness.waiting_for().as_slice() {
        [] => "ok\n".into_response(),
        waiting => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", waiting.join(", "))).into_response(),
    }
}

async fn metrics(State(state): State<AdminState>) -> Response {
    const OPEN_METRICS: [(HeaderName, &str); 1] =
        [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    state.metrics.tasks_alive(tokio::runtime::Handle::current().metrics().num_alive_tasks());
    state.metrics.serving_certificate_authority_expiry(state.serving.authority_not_after());
    (OPEN_METRICS, state.metrics.encode(state.pull_secrets.count(), state.serving.not_after())).into_response()
}

#[cfg(test)]
mod tests;
