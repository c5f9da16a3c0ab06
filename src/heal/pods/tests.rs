use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::http::{Request, Response};
use kube::client::Body;

use super::*;

/// An API server that always gives this answer, and the requests that it got.
fn answering(status: u16, body: &'static str) -> (Pods, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let service = tower::service_fn(move |_: Request<Body>| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let response = Response::builder().status(status).body(Body::from(body.as_bytes().to_vec()));
            Ok::<_, std::convert::Infallible>(response.unwrap())
        }
    });
    (Pods::new(Client::new(service, "default")), count)
}

fn pod(namespace: &str, name: &str) -> StuckPod {
    StuckPod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: "uid".to_owned(),
        created_at: None,
        replaced_by: Some("owner".to_owned()),
    }
}

#[tokio::test]
async fn every_answer_to_an_eviction() {
    let budget = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"TooManyRequests","code":429,
        "message":"Cannot evict pod as it would violate the pod's disruption budget."}"#;
    let rows = [
        (201, r#"{"kind":"Status","apiVersion":"v1","status":"Success","code":201}"#, Some(Eviction::Evicted)),
        (429, budget, Some(Eviction::Held)),
        (
            404,
            r#"{"kind":"Status","status":"Failure","reason":"NotFound","code":404,"message":"no"}"#,
            Some(Eviction::Gone),
        ),
        (
            409,
            r#"{"kind":"Status","status":"Failure","reason":"Conflict","code":409,"message":"uid"}"#,
            Some(Eviction::Gone),
        ),
        (403, r#"{"kind":"Status","status":"Failure","reason":"Forbidden","code":403,"message":"no"}"#, None),
        (201, r#"{"kind":"Status","status":"Failure","code":500,"message":"more than one PodDisruptionBudget"}"#, None),
        (201, "<html>", None),
    ];
    for (status, body, expected) in rows {
        let (pods, _) = answering(status, body);
        assert_eq!(pods.evict(&pod("team-a", "web")).await.ok(), expected, "{status} {body}");
    }
}

/// What cannot be read may be a pod with a password in its environment.
#[tokio::test]
async fn an_answer_that_cannot_be_read_is_not_repeated() {
    let (pods, _) = answering(200, r#"{"items":[{"spec":"hunter2"}]}"#);
    let error = pods.pending(None).await.unwrap_err();
    assert!(matches!(error, PodsError::Answer { line: 1, .. }), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[tokio::test]
async fn pages_end_without_a_request() {
    let (pods, requests) = answering(200, r#"{"metadata":{"continue":""},"items":[{"metadata":{"namespace":"a"}}]}"#);
    let page = pods.pending(None).await.unwrap().unwrap();
    assert_eq!(page.items[0].namespace(), "a");
    assert!(pods.pending(Some(&page)).await.unwrap().is_none());
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_name_that_would_change_the_url_is_not_sent() {
    let (pods, requests) = answering(200, "{}");
    for name in ["", "..", "a/../../secrets/x", "a?b", "a%2fb", "-a", "a..b", "A", "a b"] {
        assert!(matches!(pods.get("team-a", name).await, Err(PodsError::Name(_))), "{name}");
        assert!(matches!(pods.get(name, "web").await, Err(PodsError::Name(_))), "{name}");
        assert!(matches!(pods.evict(&pod("team-a", name)).await, Err(PodsError::Name(_))), "{name}");
    }
    assert_eq!(requests.load(Ordering::SeqCst), 0);
    assert!(pods.get("team-a", "web-0.a").await.is_ok());
}
