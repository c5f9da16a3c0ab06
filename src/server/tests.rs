mod timeouts;

use arc_swap::ArcSwap;
use axum::{
    body::{Body, Bytes},
    http::{Method, Request},
};
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::*;
use crate::{
    admission::{Admission, CredentialError, ReadPullSecret, StoreError, Waiting},
    clock::Clock,
    config::Configuration,
    credentials::Credentials,
    domain::{
        image::LoginServer,
        pull_secret::{CredentialSourceHash, PullSecret, RegistryCredential, StoredPullSecret},
        registry::{Namespace, RegistryName},
    },
    ensure::Ensurer,
    events::Events,
    namespaces::KubernetesNamespaces,
    retry::RetryQueue,
    secrets::store::KubernetesPullSecrets,
};

/// A world in which looking up the namespace `broken` is a fault of the program, and no other namespace exists.
#[derive(Debug)]
struct Broken;

impl NamespaceSource for Broken {
    fn cached(&self, name: &str) -> Option<Arc<Namespace>> {
        assert_ne!(name, "broken", "for the test");
        None
    }

    async fn read(&self, _: &str) -> Result<Option<Namespace>, StoreError> {
        Ok(None)
    }
}

impl CredentialSource for Broken {
    async fn credential(
        &self,
        registry: &RegistryName,
        _: &LoginServer,
    ) -> Result<RegistryCredential, CredentialError> {
        Err(CredentialError { registry: registry.clone(), reason: String::new() })
    }

    fn source(&self, _: &RegistryName) -> Option<CredentialSourceHash> {
        None
    }
}

impl PullSecretStore for Broken {
    fn stored(&self, _: &str) -> Option<Arc<StoredPullSecret>> {
        None
    }

    fn all(&self) -> Vec<(String, Arc<StoredPullSecret>)> {
        Vec::new()
    }

    async fn read(&self, _: &str) -> Result<Option<ReadPullSecret>, StoreError> {
        Ok(None)
    }

    async fn create(&self, _: &str, _: &PullSecret) -> Result<(), StoreError> {
        Err(StoreError::NamespaceGone)
    }

    async fn update(&self, _: &str, _: &PullSecret, _: &StoredPullSecret) -> Result<(), StoreError> {
        Err(StoreError::NamespaceGone)
    }

    fn take_deleted(&self) -> Vec<(String, Arc<StoredPullSecret>)> {
        Vec::new()
    }

    async fn delete(&self, _: &str, _: &StoredPullSecret) -> Result<(), StoreError> {
        Err(StoreError::NamespaceGone)
    }
}

fn webhook(lifecycle: &Lifecycle) -> Webhook<Broken, Broken, Broken> {
    let (broken, metrics) = (Arc::new(Broken), Arc::new(Metrics::new()));
    let settings = Arc::new(ArcSwap::from_pointee(Configuration::parse("").unwrap().settings(None)));
    let ensurer = Ensurer::new(broken.clone(), broken.clone(), settings.clone(), metrics.clone(), Clock::system());
    let admission = Admission {
        ensurer: Arc::new(ensurer),
        namespaces: broken,
        retries: RetryQueue::new(),
        settings,
        waiting: Waiting::default(),
        events: Events::none(),
        lifecycle: lifecycle.clone(),
        metrics,
    };
    Webhook::new(Arc::new(admission), lifecycle.clone())
}

fn request(body: impl Into<Body>) -> Request<Body> {
    Request::post("/mutate?timeout=5s").body(body.into()).unwrap()
}

fn review(namespace: &str) -> String {
    let pod = r#"{"spec":{"containers":[{"image":"contoso.azurecr.io/app"}]}}"#;
    format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"1","kind":{{"version":"v1",
        "kind":"Pod"}},"operation":"CREATE","namespace":"{namespace}","object":{pod}}}}}"#
    )
}

#[tokio::test]
async fn a_panic_is_answered_and_what_comes_after_it_too() {
    let webhook = webhook(&Lifecycle::new());
    let answer = webhook.answer(request(review("broken"))).await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let answer = webhook.answer(request(review("team-a"))).await;
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn every_answer_closes_its_connection_once_the_drain_has_begun() {
    let lifecycle = Lifecycle::new();
    let webhook = webhook(&lifecycle);
    for is_draining in [false, true] {
        for body in [review("team-a"), review("broken"), "not a review".to_owned(), " ".repeat(BODY_LIMIT + 1)] {
            let answer = webhook.answer(request(body)).await;
            let closes = answer.headers().get(header::CONNECTION).is_some_and(|value| value == "close");
            assert_eq!(closes, is_draining, "{}", answer.status());
        }
        lifecycle.draining().cancel();
    }
}

#[tokio::test]
async fn nothing_but_a_post_to_mutate_is_a_review() {
    let webhook = webhook(&Lifecycle::new());
    for (method, path, status) in [
        (Method::POST, "/mutate", StatusCode::OK),
        (Method::POST, "/mutate?timeout=5s", StatusCode::OK),
        (Method::POST, "/", StatusCode::NOT_FOUND),
        (Method::POST, "/mutate/", StatusCode::NOT_FOUND),
        (Method::GET, "/mutate", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let request = Request::builder().method(&method).uri(path).body(Body::from(review("team-a"))).unwrap();
        let answer = webhook.answer(request).await;
        assert_eq!(answer.status(), status, "{method} {path}");
        assert_eq!(answer.headers().contains_key(header::ALLOW), status == StatusCode::METHOD_NOT_ALLOWED);
    }
}

#[tokio::test]
async fn a_body_reads_the_same_in_however_many_pieces_it_comes() {
    let webhook = webhook(&Lifecycle::new());
    let body = review("team-a");
    let whole = webhook.answer(request(body.clone())).await.into_body().collect().await.unwrap().to_bytes();
    assert!(whole.starts_with(b"{"), "{whole:?}");
    for size in [1, 7, body.len() - 1] {
        let pieces: Vec<_> = body.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect();
        for announced in [None, Some(body.len()), Some(1), Some(usize::MAX)] {
            let mut request = request(Body::from_stream(stream::iter(pieces.clone()).map(Ok::<_, Infallible>)));
            if let Some(length) = announced {
                request.headers_mut().insert(header::CONTENT_LENGTH, length.into());
            }
            let answer = webhook.answer(request).await.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(answer, whole, "pieces of {size} bytes, {announced:?} announced");
        }
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_also_in_pieces_that_nobody_announced() {
    let webhook = webhook(&Lifecycle::new());
    let body = |size: usize| {
        let pieces = std::iter::repeat_n(Bytes::from_static(&[b' '; 1 << 10]), size >> 10);
        Body::from_stream(stream::iter(pieces.map(Ok::<_, Infallible>)))
    };
    let answer = webhook.answer(request(body(BODY_LIMIT))).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "not JSON, but read");
    for body in [body(BODY_LIMIT + (1 << 10)), Body::from(" ".repeat(BODY_LIMIT + 1))] {
        assert_eq!(webhook.answer(request(body)).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_review() {
    let broken = stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("cut"))]);
    let answer = webhook(&Lifecycle::new()).answer(request(Body::from_stream(broken))).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
}

/// hyper moves it several times for each review, as does each layer around it.
#[test]
fn the_future_of_an_answer_is_small() {
    type Real = Webhook<Credentials, KubernetesPullSecrets, KubernetesNamespaces>;
    fn size_of_future<A, F>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }
    let size = size_of_future(|(webhook, request): (&'static Real, Request<Incoming>)| webhook.answer(request));
    assert!(size <= 3 << 10, "{size} bytes");
}
