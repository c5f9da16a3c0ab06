//! Namespaces: a watched cache, and a live read for those that are too new to be in it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::{api::core::v1, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, core::PartialObjectMeta};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{NamespaceSource, StoreError},
    domain::registry::Namespace,
    ensure::flights::Flights,
    lifecycle::Gate,
    secrets::store::within_limit,
    watch_cache::WatchCache,
};

/// The namespaces of the cluster, with the labels that opt-outs and selectors look at.
pub struct KubernetesNamespaces {
    client: Client,
    cache: WatchCache<Namespace>,
    reads: Flights,
    places: Semaphore,
    /// When namespaces that exist were read, those that still count.
    read_at: Mutex<HashMap<String, Instant>>,
}

/// How long what was read counts. A namespace that gets nothing is read no more often, however many pods are made in it.
const COUNTS_FOR: Duration = Duration::from_secs(5);
/// Whoever may send reviews may make up namespaces, each of which is looked for.
const READS_AT_ONCE: usize = 32;

impl KubernetesNamespaces {
    /// Knows nothing until [`KubernetesNamespaces::follow`] runs.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let (reads, places) = (Flights::default(), Semaphore::new(READS_AT_ONCE));
        Self { client, cache: WatchCache::new(), reads, places, read_at: Mutex::default() }
    }

    /// Keeps the cache current by `watches` until `shutdown`.
    pub async fn follow(self: Arc<Self>, watches: Client, synced: Gate, shutdown: CancellationToken) {
        let api: Api<PartialObjectMeta<v1::Namespace>> = Api::all(watches);
        let entry = |metadata: &ObjectMeta| namespace(metadata).map(|namespace| (namespace.name.clone(), namespace));
        self.cache.clone().follow(api, None, entry, synced, shutdown).await;
    }
}

impl NamespaceSource for KubernetesNamespaces {
    fn cached(&self, name: &str) -> Option<Arc<Namespace>> {
        self.cache.get(name)
    }

    async fn read(&self, name: &str) -> Result<Option<Namespace>, StoreError> {
        // The name comes from whoever sent the review, and goes into a URL.
        if !could_be_a_namespace(name) {
            return Ok(None);
        }
        // Pods that come at once are served by one read.
        let _flight = self.reads.join(name).await;
        if self.was_just_read(name)
            && let Some(known) = self.cache.get(name)
        {
            return Ok(Some((*known).clone()));
        }
        // Never closed.
        let _place = self.places.acquire().await;
        let api: Api<v1::Namespace> = Api::all(self.client.clone());
        let read = within_limit(api.get_metadata_opt(name)).await?;
        let Some((found, metadata)) = read.and_then(|read| Some((namespace(&read.metadata)?, read.metadata))) else {
            self.cache.remove(name);
            return Ok(None);
        };
        let version = metadata.resource_version.unwrap_or_default();
        self.cache.insert(name.to_owned(), &version, found.clone());
        let mut read_at = self.read_at();
        read_at.retain(|_, at| at.elapsed() < COUNTS_FOR);
        read_at.insert(name.to_owned(), Instant::now());
        Ok(Some(found))
    }
}

impl KubernetesNamespaces {
    fn was_just_read(&self, name: &str) -> bool {
        self.read_at().get(name).is_some_and(|at| at.elapsed() < COUNTS_FOR)
    }

    fn read_at(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.read_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn namespace(metadata: &ObjectMeta) -> Option<Namespace> {
    Some(Namespace {
        name: metadata.name.clone()?,
        labels: metadata.labels.clone().unwrap_or_default(),
        terminating: metadata.deletion_timestamp.is_some(),
    })
}

/// Namespaces are named by the rules of a DNS label (RFC 1123).
fn could_be_a_namespace(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

impl fmt::Debug for KubernetesNamespaces {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KubernetesNamespaces").field("cache", &self.cache).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use axum::http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// Namespaces of an API server that has `team-a` only, with a resource version that grows, and how often it was asked.
    fn namespaces() -> (Arc<KubernetesNamespaces>, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            let (status, body) = if request.uri().path().ends_with("/team-a") {
                let metadata = json!({"name": "team-a", "resourceVersion": (100 + number).to_string()});
                (200, json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata}))
            } else if request.uri().path().ends_with("/behind-a-proxy") {
                (404, json!("no backend"))
            } else {
                (404, json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}))
            };
            async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let response = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
                Ok::<_, Infallible>(response.unwrap())
            }
        });
        (Arc::new(KubernetesNamespaces::new(Client::new(service, "default"))), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_is_read_once_in_some_seconds_and_is_known_then() {
        let (namespaces, asked) = namespaces();
        let out_of_date = Namespace { terminating: true, name: "team-a".to_owned(), ..Namespace::default() };
        namespaces.cache.insert("team-a".to_owned(), "7", out_of_date);
        let reads = futures_util::future::join_all((0..50).map(|_| namespaces.read("team-a"))).await;
        assert!(
            reads.iter().all(|read| read.as_ref().is_ok_and(|read| read.as_ref().is_some_and(|it| !it.terminating)))
        );
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert!(!namespaces.cached("team-a").unwrap().terminating);
        tokio::time::advance(COUNTS_FOR).await;
        namespaces.read("team-a").await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_is_not_there_is_looked_for_each_time_and_forgotten() {
        let (namespaces, asked) = namespaces();
        namespaces.cache.insert("gone".to_owned(), "7", Namespace::default());
        for times in 1..=3 {
            assert_eq!(namespaces.read("gone").await.unwrap(), None);
            assert_eq!((asked.load(Ordering::SeqCst), namespaces.cached("gone")), (times, None));
        }
        assert!(namespaces.read_at().is_empty());
    }

    /// A load balancer without a backend answers 404 too.
    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_only_a_proxy_does_not_find_is_not_forgotten() {
        let (namespaces, _) = namespaces();
        namespaces.cache.insert("behind-a-proxy".to_owned(), "7", Namespace::default());
        assert!(namespaces.read("behind-a-proxy").await.is_err());
        assert!(namespaces.cached("behind-a-proxy").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_are_made_up_are_looked_for_some_at_a_time() {
        let (namespaces, asked) = namespaces();
        let names: Vec<_> = (0..100).map(|number| format!("made-up-{number}")).collect();
        let reads = futures_util::future::join_all(names.iter().map(|name| namespaces.read(name)));
        let watching = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            asked.load(Ordering::SeqCst)
        };
        let (reads, asked_at_once) = futures_util::future::join(reads, watching).await;
        assert_eq!((asked_at_once, asked.load(Ordering::SeqCst)), (READS_AT_ONCE, 100));
        assert!(reads.iter().all(|read| read.as_ref().is_ok_and(Option::is_none)));
    }

    #[test]
    fn a_name_that_would_change_the_url_is_no_namespace() {
        for name in ["team-a", "a", "0", &"x".repeat(63)] {
            assert!(could_be_a_namespace(name), "{name}");
        }
        for name in ["", "team-a/secrets/other", "..", "team-a?watch=1", "Team", "-a", "a-", "a b", &"x".repeat(64)] {
            assert!(!could_be_a_namespace(name), "{name}");
        }
    }
}
