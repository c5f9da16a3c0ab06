//! The two HTTP servers: the webhook over TLS, and the admin port for probes and metrics.
//!
//! HTTP/1.1 only, which is all that the API server speaks to a webhook. Idle connections are kept longer than the API
//! server keeps them (90 s), since a connection that is closed under a request is a failed call that nobody repeats.

mod body_memory;
mod connection_limit;
mod connections;
mod counted;
mod webhook;

use std::{convert::Infallible, net::TcpListener, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use certs::ServingCertificate;
use hyper::service::service_fn;
use hyper_util::service::TowerToHyperService;

pub use self::webhook::Webhook;
use self::{
    connection_limit::ConnectionLimit,
    connections::{Plain, Tls},
};
use crate::{
    admission::{CredentialSource, NamespaceSource, PullSecretStore},
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

/// How long a client may take nothing of an answer. The API server waits for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections to the webhook, each of which takes about 22 KiB: 17 MiB in all. With those to the admin port they stay below
/// the 1,024 descriptors that containers get by default.
const WEBHOOK_CONNECTIONS: usize = 800;

/// Connections to the admin port.
const ADMIN_CONNECTIONS: usize = 64;

/// How much of a request is read ahead, and so the size of the largest head: the API server's have less than 1 KiB.
const READ_AHEAD: usize = 16 << 10;

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

/// Serves the webhook until the lifecycle is stopping.
///
/// # Errors
///
/// When the listener cannot be used.
pub async fn serve_webhook<C: CredentialSource, S: PullSecretStore, N: NamespaceSource>(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    webhook: Webhook<C, S, N>,
    lifecycle: Lifecycle,
) -> std::io::Result<()> {
    let service = service_fn(move |request| {
        let webhook = webhook.clone();
        async move { Ok::<_, Infallible>(webhook.answer(request).await) }
    });
    let limit = ConnectionLimit::at_most(WEBHOOK_CONNECTIONS, "webhook");
    connections::serve(listener, limit, Tls::new(tls), service, lifecycle).await
}

/// Serves the admin port until the lifecycle is stopping.
///
/// # Errors
///
/// When the listener cannot be used.
pub async fn serve_admin(listener: TcpListener, router: Router, lifecycle: Lifecycle) -> std::io::Result<()> {
    let limit = ConnectionLimit::at_most(ADMIN_CONNECTIONS, "admin");
    connections::serve(listener, limit, Plain, TowerToHyperService::new(router), lifecycle).await
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
