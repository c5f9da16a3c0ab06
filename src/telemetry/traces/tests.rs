use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{Router, extract::State, http::HeaderMap, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::any_value::Value,
    trace::v1::{Span as ReceivedSpan, Status, status::StatusCode},
};
use prost::Message as _;
use tracing::instrument::WithSubscriber as _;
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;
use crate::{
    admission::tests::{admission, answer},
    domain::review::{OtherSubject, Review, Subject},
    ensure::{
        WriteReason,
        tests::world::{A, B, Case, lock, namespace},
    },
    telemetry::tests::another_listens,
};

/// A collector of OpenTelemetry: what it was sent, and as whom.
#[derive(Clone, Debug, Default)]
struct Received(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

impl Received {
    /// Listens on loopback.
    fn listen(&self) -> CollectorEndpoint {
        let receive = async |State(received): State<Self>, headers: HeaderMap, body: Bytes| {
            assert_eq!(headers["content-type"], "application/x-protobuf");
            lock(&received.0).push(ExportTraceServiceRequest::decode(body).unwrap());
            ExportTraceServiceResponse::default().encode_to_vec()
        };
        let router = Router::new().route("/v1/traces", post(receive)).with_state(self.clone());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        drop(tokio::spawn(async move { axum::serve(listener, router).await }));
        endpoint
    }

    fn spans(&self) -> Vec<ReceivedSpan> {
        let requests = lock(&self.0);
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }
}

fn attributes(span: &ReceivedSpan) -> BTreeMap<&str, &str> {
    let pairs =
        span.attributes.iter().map(|attribute| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Value::StringValue(text)) => (attribute.key.as_str(), text.as_str()),
            other => panic!("{}: {other:?}", attribute.key),
        });
    pairs.collect()
}

/// What to look at of a span, and the name of its parent.
fn named<'a>(spans: &'a [ReceivedSpan], name: &str) -> (&'a ReceivedSpan, Option<&'a str>) {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    let [span] = found.as_slice() else { panic!("{} spans of name {name} in {spans:#?}", found.len()) };
    let parent = spans.iter().find(|parent| parent.span_id == span.parent_span_id);
    assert!(parent.is_some() || span.parent_span_id.is_empty(), "{name} has a parent that was not sent");
    assert!(parent.is_none_or(|parent| parent.trace_id == span.trace_id));
    (span, parent.map(|parent| parent.name.as_str()))
}

fn traces(endpoint: &CollectorEndpoint) -> (Traces, tracing::Dispatch) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    another_listens();
    let traces = Traces::to(endpoint).unwrap().unwrap();
    let dispatch = tracing::Dispatch::new(tracing_subscriber::registry().with(traces.layer()));
    (traces, dispatch)
}

#[tokio::test]
async fn a_trace_tells_what_became_of_an_admission() {
    let received = Received::default();
    let (traces, dispatch) = traces(&received.listen());
    let case = Case::new();
    let admission = admission(&case);
    let work = async {
        assert_eq!(answer(&admission, "team", &[A]).await.0, "injected");
        admission.lifecycle.stop(std::time::Duration::from_secs(10)).await;
    };
    // The flight is a task of its own, and takes the subscriber from the thread.
    let guard = tracing::dispatcher::set_default(&dispatch);
    work.await;
    drop(guard);
    traces.flush().await;
    let spans = received.spans();
    assert_eq!(spans.len(), 4, "{spans:#?}");
    let (span, parent) = named(&spans, "admission");
    let expected =
        [("uid", "1"), ("namespace", "team"), ("name", "web"), ("operation", "CREATE"), ("outcome", "injected")];
    assert_eq!((parent, attributes(span)), (None, BTreeMap::from(expected)));
    assert_eq!(named(&spans, "flight").1, Some("admission"));
    let (span, parent) = named(&spans, "ensure");
    let expected = [("namespace", "team"), ("reason", "admission"), ("outcome", "done")];
    assert_eq!((parent, attributes(span)), (Some("flight"), BTreeMap::from(expected)));
    let (span, parent) = named(&spans, "write");
    assert_eq!((parent, attributes(span)), (Some("ensure"), [("operation", "create"), ("outcome", "done")].into()));
    let password = case.store.password("team", A);
    let requests = lock(&received.0);
    let resource = requests[0].resource_spans[0].resource.as_ref().unwrap();
    let resource = format!("{resource:?}");
    assert!(resource.contains("service.name") && resource.contains("acr-pull-injector"), "{resource}");
    assert!(!format!("{requests:?}").contains(&password), "a credential is in a trace");
}

#[tokio::test]
async fn of_a_long_text_a_span_has_the_beginning() {
    let received = Received::default();
    let (traces, dispatch) = traces(&received.listen());
    let long = "ä".repeat(100_000);
    let review = Review {
        api_version: "admission.k8s.io/v1".into(),
        uid: long.as_str().into(),
        namespace: long.as_str().into(),
        dry_run: false,
        subject: Subject::Other(OtherSubject::Kind),
    };
    tracing::dispatcher::with_default(&dispatch, || drop(spans::admission(&review, "other", &long)));
    traces.flush().await;
    let spans = received.spans();
    let beginning = "ä".repeat(126);
    let admission = attributes(named(&spans, "admission").0);
    assert_eq!(["uid", "namespace", "name"].map(|key| admission[key]), [&beginning; 3]);
}

#[tokio::test]
async fn what_fails_is_marked_and_work_in_the_background_is_a_trace_of_its_own() {
    let received = Received::default();
    let (traces, dispatch) = traces(&received.listen());
    let case = Case::new();
    case.ensure("team", &[A, B]).await.unwrap();
    case.advance(100);
    case.azure.lose(A);
    case.azure.renew(B, case.now());
    let namespace = namespace("team");
    let refresh = case.ensurer.refresh(&namespace, WriteReason::Renewal);
    refresh.with_subscriber(dispatch).await.unwrap_err();
    traces.flush().await;
    let spans = received.spans();
    let (span, parent) = named(&spans, "ensure");
    let expected = [("namespace", "team"), ("reason", "renewal"), ("outcome", "no_credential")];
    assert_eq!((parent, attributes(span)), (None, BTreeMap::from(expected)));
    assert_eq!(span.status.as_ref().map(Status::code), Some(StatusCode::Error));
    let (span, parent) = named(&spans, "read");
    assert_eq!((parent, attributes(span)), (Some("ensure"), [("object", "pull_secret"), ("outcome", "done")].into()));
}

#[tokio::test]
async fn a_collector_that_is_away_costs_neither_time_nor_memory() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
    let (traces, dispatch) = traces(&endpoint);
    let case = Case::new();
    let admission = admission(&case);
    answer(&admission, "team", &[A]).await;
    let started = std::time::Instant::now();
    // A queue of 2,048 spans, and far more than that.
    for _ in 0..100 {
        let burst = async {
            for number in 0..100 {
                let _span = tracing::trace_span!(target: spans::TARGET, parent: None, "admission", number).entered();
            }
        };
        burst.with_subscriber(dispatch.clone()).await;
    }
    assert_eq!(answer(&admission, "team", &[A]).with_subscriber(dispatch).await.0, "injected");
    assert!(started.elapsed().as_secs() < 5, "spans wait for the collector: {:?}", started.elapsed());
    let started = std::time::Instant::now();
    traces.flush().await;
    assert!(started.elapsed().as_secs() < 10, "the end waits for the collector: {:?}", started.elapsed());
}

#[test]
fn the_address_of_a_collector() {
    assert_eq!("".parse(), Ok(CollectorEndpoint(None)));
    for text in ["http://collector:4318", "https://[::1]/otlp/", "http://collector:4318/base"] {
        assert_eq!(text.parse(), Ok(CollectorEndpoint(Some(text.parse().unwrap()))), "{text}");
    }
    for text in ["collector:4318", "collector", "grpc://collector:4317", "http://", " "] {
        assert_eq!(text.parse::<CollectorEndpoint>(), Err(CollectorEndpointError), "{text}");
    }
}
