mod timeouts;

use arc_swap::ArcSwap;
use axum::{body::Body, http::Request};
use tower::ServiceExt;

use super::*;
use crate::{
    admission::{CredentialError, ReadPullSecret, StoreError, Waiting},
    clock::Clock,
    config::Configuration,
    domain::{
        image::LoginServer,
        pull_secret::{CredentialSourceHash, PullSecret, RegistryCredential, StoredPullSecret},
        registry::{Namespace, RegistryName},
    },
    ensure::Ensurer,
    events::Events,
    retry::RetryQueue,
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

fn router(lifecycle: &Lifecycle) -> Router {
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
    webhook_router(Arc::new(admission), lifecycle.clone())
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
    let router = router(&Lifecycle::new());
    let answer = router.clone().oneshot(request(review("broken"))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let answer = router.oneshot(request(review("team-a"))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn every_answer_closes_its_connection_once_the_drain_has_begun() {
    let lifecycle = Lifecycle::new();
    let router = router(&lifecycle);
    for is_draining in [false, true] {
        for body in [review("team-a"), review("broken"), "not a review".to_owned(), " ".repeat(BODY_LIMIT + 1)] {
            let answer = router.clone().oneshot(request(body)).await.unwrap();
            let closes = answer.headers().get(header::CONNECTION).is_some_and(|value| value == "close");
            assert_eq!(closes, is_draining, "{}", answer.status());
        }
        lifecycle.draining().cancel();
    }
}
