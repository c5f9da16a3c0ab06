use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::{Request, Response};
use k8s_openapi::api::core::v1::Secret;
use kube::{Client, client::Body};
use serde_json::json;

use super::*;
use crate::lifecycle::Readiness;

/// An API server whose watches never say anything. The first so many lists or watches fail. Each list has one Secret, of the
/// next of these versions, or none.
fn api_server(failing: &'static str, failures: usize, versions: &'static [&'static str]) -> Client {
    let (failed, listed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    Client::new(
        tower::service_fn(move |request: Request<Body>| {
            let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let kind = if is_watch { "watch" } else { "list" };
            let fails = kind == failing && failed.fetch_add(1, Ordering::SeqCst) < failures;
            let listed = listed.clone();
            async move {
                let (status, body) = match kind {
                    _ if fails => (500, json!({"kind": "Status", "status": "Failure", "code": 500})),
                    "watch" => std::future::pending().await,
                    _ => {
                        let version = versions.get(listed.fetch_add(1, Ordering::SeqCst));
                        let item = |version| json!({"metadata": {"name": "team-a", "resourceVersion": version}});
                        let items: Vec<_> = version.into_iter().map(item).collect();
                        let metadata = json!({"resourceVersion": "7"});
                        let kind = "PartialObjectMetadataList";
                        let api_version = "meta.k8s.io/v1";
                        (200, json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "items": items}))
                    }
                };
                let response = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
                Ok::<_, std::convert::Infallible>(response.unwrap())
            }
        }),
        "default",
    )
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_goes_on_after_it_broke_is_announced() {
    for (failing, failures, is_announced) in [("list", 2, true), ("watch", 2, true), ("nothing", 0, false)] {
        let cache: WatchCache<()> = WatchCache::new();
        let mut announcements = cache.recovery.listen();
        let api: Api<PartialObjectMeta<Secret>> = Api::all(api_server(failing, failures, &[]));
        let synced = Readiness::new().gate("secrets");
        let following = cache.follow(api, None, |_| None, synced, CancellationToken::new());
        let announced = tokio::select! {
            () = following => panic!("{failing}: the watch ended"),
            announced = tokio::time::timeout(Duration::from_secs(40), announcements.next()) => announced.is_ok(),
        };
        assert_eq!(announced, is_announced, "{failing}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_of_the_past_is_announced() {
    let rows: [(&[&str], _); 5] =
        [(&["1000", "7"], 1), (&["7", "1000"], 0), (&["7", "7"], 0), (&["1000"], 0), (&["b", "a"], 0)];
    for (versions, expected) in rows {
        let cache = WatchCache::new();
        let changes = cache.changes.subscribe();
        let api: Api<PartialObjectMeta<Secret>> = Api::all(api_server("watch", 1, versions));
        let entry = |metadata: &ObjectMeta| Some((metadata.name.clone()?, metadata.resource_version.clone()));
        let following =
            cache.clone().follow(api, None, entry, Readiness::new().gate("secrets"), CancellationToken::new());
        assert!(tokio::time::timeout(Duration::from_secs(40), following).await.is_err(), "{versions:?}: it ended");
        assert_eq!(*changes.borrow(), expected, "{versions:?}");
        let last = versions.get(1).map(|last| Some((*last).to_owned()));
        assert_eq!(cache.get("team-a").as_deref(), last.as_ref(), "{versions:?}: what was listed last counts");
    }
}

#[test]
fn what_was_written_during_a_list_proves_nothing() {
    let cache = WatchCache::new();
    let listed = || [(key(), Entry { value: Arc::new("listed"), version: Some(7), is_told: true })].into();
    assert!(!cache.replace(listed()));
    cache.insert(key(), "9", "written");
    assert!(!cache.replace(listed()), "the list began before");
    cache.insert(key(), "9", "written");
    cache.apply(key(), &metadata("9"), "watched");
    cache.insert(key(), "9", "read");
    assert_eq!(value(&cache), Some("watched"));
    assert!(cache.replace(listed()));
}

fn metadata(resource_version: &str) -> ObjectMeta {
    ObjectMeta { resource_version: Some(resource_version.to_owned()), ..ObjectMeta::default() }
}

fn key() -> String {
    "team-a".to_owned()
}

fn value(cache: &WatchCache<&'static str>) -> Option<&'static str> {
    cache.get("team-a").map(|value| *value)
}

#[test]
fn what_we_wrote_takes_no_place_from_what_the_watch_told_since() {
    let cache = WatchCache::new();
    cache.insert(key(), "5", "written");
    assert_eq!(value(&cache), Some("written"));
    cache.apply(key(), &metadata("9"), "watched");
    cache.insert(key(), "5", "written");
    assert_eq!(value(&cache), Some("watched"), "older than what is known");
    cache.insert(key(), "10", "written again");
    assert_eq!(value(&cache), Some("written again"), "9 is less than 10");

    cache.delete("team-a", &metadata("11"));
    assert_eq!(value(&cache), None);
    cache.insert(key(), "10", "written again");
    assert_eq!(value(&cache), None, "its end was heard of before its answer was looked at");
    cache.insert(key(), "12", "made anew");
    assert_eq!(value(&cache), Some("made anew"));
}

#[test]
fn a_watch_that_is_behind_takes_nothing_back() {
    let cache = WatchCache::new();
    cache.apply(key(), &metadata("5"), "old");
    cache.insert(key(), "20", "read");
    cache.apply(key(), &metadata("8"), "terminating");
    assert_eq!(value(&cache), Some("read"));
    cache.delete("team-a", &metadata("9"));
    assert_eq!(value(&cache), Some("read"), "another one was deleted, under the same name");
    assert!(cache.take_deleted().is_empty());
    cache.delete("team-a", &metadata("21"));
    assert_eq!((value(&cache), cache.take_deleted().len()), (None, 1));
}

#[test]
fn what_a_read_did_not_find_was_deleted_by_somebody_else() {
    let cache = WatchCache::new();
    cache.apply(key(), &metadata("5"), "ours");
    cache.lose("team-a");
    cache.delete("team-a", &metadata("6"));
    assert_eq!((value(&cache), cache.take_deleted().len()), (None, 1));
    cache.insert(key(), "7", "made anew");
    cache.remove("team-a");
    cache.delete("team-a", &metadata("8"));
    assert!(cache.take_deleted().is_empty(), "we deleted it ourselves");
}

#[test]
fn a_list_is_right_whatever_was_known() {
    let cache = WatchCache::new();
    cache.apply(key(), &metadata("1000"), "before");
    let listed = Entry { value: Arc::new("restored from a backup"), version: Some(7), is_told: true };
    cache.replace([(key(), listed)].into());
    assert_eq!(value(&cache), Some("restored from a backup"));
    cache.insert("team-b".to_owned(), "8", "written");
    assert!(cache.get("team-b").is_some());
}

#[test]
fn versions_that_are_no_numbers_are_taken() {
    let cache = WatchCache::new();
    cache.apply(key(), &metadata("b"), "first");
    cache.insert(key(), "a", "second");
    assert_eq!(value(&cache), Some("second"));
    cache.delete("team-a", &metadata("c"));
    cache.insert(key(), "a", "third");
    assert_eq!(value(&cache), Some("third"));
}
