//! A cache of object metadata, fed by a watch.
//!
//! Only metadata is asked for, so no password is ever held here, and only what the program needs of it is kept.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::{lifecycle::Gate, watching};

/// Values made from metadata, by key. Cheap to clone; readers never wait for the network.
pub struct WatchCache<V> {
    entries: Arc<RwLock<HashMap<String, Arc<V>>>>,
    deleted: Arc<Mutex<HashMap<String, Deleted<V>>>>,
}

/// What somebody else deleted.
#[derive(Clone, Debug)]
pub struct Deleted<V> {
    /// What it was.
    pub value: Arc<V>,
    /// When we heard of it.
    pub at: Instant,
}

/// How long a deletion is remembered, for the replica that takes over when the one that leads is lost.
const DELETIONS_REMEMBERED: Duration = Duration::from_secs(120);

impl<V> WatchCache<V> {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: Arc::default(), deleted: Arc::default() }
    }

    /// The value under `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Arc<V>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Everything that is held now.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(String, Arc<V>)> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Records what we wrote ourselves, ahead of the watch event that will say the same.
    pub fn insert(&self, key: String, value: V) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::new(value));
    }

    /// Forgets what we deleted ourselves, ahead of the watch event that will say the same.
    pub fn remove(&self, key: &str) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// What somebody else deleted lately, each once.
    pub fn take_deleted(&self) -> Vec<(String, Arc<V>)> {
        let deleted = std::mem::take(&mut *self.deleted.lock().unwrap_or_else(PoisonError::into_inner));
        let fresh = deleted.into_iter().filter(|(_, deleted)| deleted.at.elapsed() < DELETIONS_REMEMBERED);
        fresh.map(|(key, deleted)| (key, deleted.value)).collect()
    }

    fn remember_deleted(&self, deleted: impl Iterator<Item = (String, Arc<V>)>) {
        let at = Instant::now();
        let mut remembered = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.retain(|_, deleted| deleted.at.elapsed() < DELETIONS_REMEMBERED);
        remembered.extend(deleted.map(|(key, value)| (key, Deleted { value, at })));
    }

    /// Follows `api` until `shutdown`, and opens `synced` when the first complete list is in. A watch that breaks is
    /// resumed with back-off; what was known stays known meanwhile.
    pub async fn follow<K>(
        self,
        api: Api<PartialObjectMeta<K>>,
        fields: Option<String>,
        entry: impl Fn(&ObjectMeta) -> Option<(String, V)>,
        synced: Gate,
        shutdown: CancellationToken,
    ) where
        K: Resource<DynamicType = ()> + Clone + fmt::Debug + Send + Sync + 'static,
        PartialObjectMeta<K>: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let mut events = Box::pin(watcher(api, watching::configuration(fields)).backoff(watching::Pauses::default()));
        let mut listed = HashMap::new();
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                Some(Ok(Event::Init)) => listed.clear(),
                Some(Ok(Event::InitApply(object))) => {
                    listed.extend(entry(&object.metadata).map(|(key, value)| (key, Arc::new(value))));
                }
                Some(Ok(Event::InitDone)) => {
                    let before = {
                        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
                        let before = std::mem::replace(&mut *entries, std::mem::take(&mut listed));
                        before.into_iter().filter(|(key, _)| !entries.contains_key(key)).collect::<Vec<_>>()
                    };
                    self.remember_deleted(before.into_iter());
                    synced.open();
                }
                Some(Ok(Event::Apply(object))) => {
                    if let Some((key, value)) = entry(&object.metadata) {
                        self.insert(key, value);
                    }
                }
                Some(Ok(Event::Delete(object))) => {
                    if let Some((key, _)) = entry(&object.metadata) {
                        let removed = self.entries.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
                        self.remember_deleted(removed.into_iter().map(|value| (key.clone(), value)));
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "the watch was interrupted and is resumed");
                }
                None => return,
            }
        }
    }
}

impl<V> Clone for WatchCache<V> {
    fn clone(&self) -> Self {
        Self { entries: self.entries.clone(), deleted: self.deleted.clone() }
    }
}

impl<V> Default for WatchCache<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> fmt::Debug for WatchCache<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner).len();
        formatter.debug_struct("WatchCache").field("entries", &entries).finish_non_exhaustive()
    }
}
