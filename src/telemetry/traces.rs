//! Traces to a collector of OpenTelemetry, by OTLP over HTTP in protobuf.
//!
//! Spans are handed to a thread of their own over a queue that is bounded: what a collector that is away cannot take is
//! dropped, and nothing waits for it.

use std::{
    error::Error,
    fmt,
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use axum::{body::Bytes, http};
use opentelemetry::{Key, KeyValue, trace::TracerProvider as _};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt as _};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};
use url::Url;

use crate::spans;

/// Where spans go.
#[derive(Clone, Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

/// The address of a collector; empty for none, as OpenTelemetry has it for its variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorEndpoint(Option<Url>);

/// The text is no address of a collector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give the address of an OTLP/HTTP collector, such as http://collector:4318")]
pub struct CollectorEndpointError;

impl FromStr for CollectorEndpoint {
    type Err = CollectorEndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let url = Url::parse(text).map_err(|_| CollectorEndpointError)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(CollectorEndpointError);
        }
        Ok(Self(Some(url)))
    }
}

/// Traces cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be sent: see OTEL_EXPORTER_OTLP_ENDPOINT and the other variables that begin with OTEL_")]
pub struct TracesError(#[source] Box<dyn Error + Send + Sync>);

/// From the first byte of a batch to the end of the answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long the end of the process waits for the last spans.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);
const NAME: &str = env!("CARGO_PKG_NAME");

impl Traces {
    /// Sends spans to the collector at `endpoint`, below the path `v1/traces`; `None` when there is none. Nothing is asked
    /// of it yet. To be called within a runtime.
    ///
    /// # Errors
    ///
    /// When the endpoint or an `OTEL_...` variable makes no sense.
    pub fn to(CollectorEndpoint(endpoint): &CollectorEndpoint) -> Result<Option<Self>, TracesError> {
        let Some(endpoint) = endpoint else { return Ok(None) };
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(REQUEST_LIMIT)
            .build()
            .map_err(|error| TracesError(error.into()))?;
        let runtime = tokio::runtime::Handle::current();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector { client, runtime, is_away: AtomicBool::new(false) })
            .with_endpoint(format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/')))
            .build()
            .map_err(|error| TracesError(error.into()))?;
        let stated = Resource::builder().build().get(&Key::from_static_str("service.name"));
        let name = stated.filter(|name| !name.as_str().starts_with("unknown_service")).unwrap_or_else(|| NAME.into());
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name(name).with_attribute(version).build();
        let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
        Ok(Some(Self { provider }))
    }

    /// Takes our spans, and nobody else's, from `tracing`.
    pub(super) fn layer<S: Subscriber + for<'span> LookupSpan<'span>>(&self) -> impl Layer<S> + use<S> {
        let ours = Targets::new().with_target(spans::TARGET, tracing::Level::TRACE);
        OpenTelemetryLayer::new(self.provider.tracer(NAME))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(ours)
    }

    /// Sends what is left, for three seconds at most.
    pub async fn flush(self) {
        let flush = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(FLUSH_LIMIT));
        if let Ok(Err(error)) = flush.await {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// Makes `span` part of the trace of `parent`, without keeping that open.
pub(crate) fn continue_trace(span: &Span, parent: &Span) {
    // Without the layer there is no trace to go on with.
    let _ = span.set_parent(parent.context());
}

/// The collector's side. Requests run in the runtime, wherever they are asked for.
struct Collector {
    client: reqwest::Client,
    runtime: tokio::runtime::Handle,
    is_away: AtomicBool,
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let answer = self.runtime.spawn(async move {
            let response = client.execute(request.try_into()?).await.map_err(reqwest::Error::without_url)?;
            let mut answer = http::Response::builder().status(response.status());
            if let Some(headers) = answer.headers_mut() {
                *headers = response.headers().clone();
            }
            Ok(answer.body(response.bytes().await?)?)
        });
        let answer = answer.await?;
        self.note(&answer);
        answer
    }
}

impl Collector {
    /// Says once that the collector is away, and once that it is back.
    fn note(&self, answer: &Result<http::Response<Bytes>, HttpError>) {
        let fault = match answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status())),
            Err(error) => Some(innermost_cause(error.as_ref()).to_string()),
        };
        match (fault, self.is_away.load(Ordering::Relaxed)) {
            (Some(fault), false) => tracing::warn!(fault, "traces cannot be sent and are dropped"),
            (None, true) => tracing::info!("traces are sent again"),
            _ => return,
        }
        self.is_away.fetch_not(Ordering::Relaxed);
    }
}

/// The outer ones say only that a request failed.
fn innermost_cause<'a>(mut error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

impl fmt::Debug for Collector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Collector").field("is_away", &self.is_away).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
