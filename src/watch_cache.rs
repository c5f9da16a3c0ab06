//! A cache of object metadata, fed by a watch.
//!
//! Only metadata is asked for, so no password is ever held here, and only what the program needs of it is kept.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use futures_util::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::Gate;

/// Values made from metadata, by key. Cheap to clone; readers never wait for the network.
pub struct WatchCache<V> {
    entries: Arc<RwLock<HashMap<String, Arc<V>>>>,
}

impl<V> WatchCache<V> {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: Arc::default() }
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

    /// Forgets a key, ahead of the watch event that will say the same.
    pub fn remove(&self, key: &str) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).remove(key);
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
        let configuration = watcher::Config { field_selector: fields, ..watcher::Config::default() };
        let mut events = Box::pin(watcher(api, configuration).default_backoff());
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
                    *self.entries.write().unwrap_or_else(PoisonError::into_inner) = std::mem::take(&mut listed);
                    synced.open();
                }
                Some(Ok(Event::Apply(object))) => {
                    if let Some((key, value)) = entry(&object.metadata) {
                        self.insert(key, value);
                    }
                }
                Some(Ok(Event::Delete(object))) => {
                    if let Some((key, _)) = entry(&object.metadata) {
                        self.remove(&key);
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
        Self { entries: self.entries.clone() }
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
        formatter.debug_struct("WatchCache").field("entries", &entries).finish()
    }
}
