//! A cache of object metadata, fed by a watch.
//!
//! Only metadata is asked for, so no password is ever held here, and only what the program needs of it is kept.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Resource, core::PartialObjectMeta, runtime::watcher::Event};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{lifecycle::Gate, recovery::Recovery, watching};

/// Values made from metadata, by key. Cheap to clone; readers never wait for the network.
pub struct WatchCache<V> {
    known: Arc<RwLock<Known<V>>>,
    deleted: Arc<Mutex<HashMap<String, Deleted<V>>>>,
    /// Is announced when a watch that broke goes on.
    pub recovery: Recovery,
    /// Is raised when a list shows that somebody restored the past: what changed since is as it was before.
    pub changes: watch::Sender<u64>,
}

struct Known<V> {
    entries: Entries<V>,
    /// What the watch has told of last.
    watched: Option<Version>,
}

type Entries<V> = HashMap<String, Entry<V>>;

struct Entry<V> {
    value: Arc<V>,
    version: Option<Version>,
    /// The watch told of this version. What we wrote or read ourselves may be newer than a list that is under way.
    is_told: bool,
}

/// A resource version. Those of one kind of objects are numbers that grow, which is stated since Kubernetes 1.35 (KEP-5504)
/// and was so before. One that is no number is compared with nothing, and what has it is taken.
type Version = u64;

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
/// A watch that broke goes on when this has passed without another break: where nothing changes, it says nothing.
const GOES_ON_AFTER: Duration = Duration::from_secs(10);

impl<V> WatchCache<V> {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self {
            known: Arc::default(),
            deleted: Arc::default(),
            recovery: Recovery::default(),
            changes: watch::Sender::default(),
        }
    }

    /// The value under `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Arc<V>> {
        self.read().entries.get(key).map(|entry| entry.value.clone())
    }

    /// Everything that is held now.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(String, Arc<V>)> {
        self.read().entries.iter().map(|(key, entry)| (key.clone(), entry.value.clone())).collect()
    }

    /// Records what we wrote or read ourselves, ahead of the watch event that will say the same. When the watch was faster,
    /// and has told of something newer or of the end of it, that stays.
    pub fn insert(&self, key: String, resource_version: &str, value: V) {
        let version = resource_version.parse().ok();
        let mut known = self.write();
        let is_known = match known.entries.get(&key) {
            Some(entry) => version.zip(entry.version).is_some_and(|(version, known)| version <= known),
            // Whatever the watch has told of is here, unless it was deleted since.
            None => version.is_some() && version <= known.watched,
        };
        if !is_known {
            known.entries.insert(key, Entry { value: Arc::new(value), version, is_told: false });
        }
    }

    /// Forgets what we deleted ourselves, ahead of the watch event that will say the same.
    pub fn remove(&self, key: &str) {
        self.write().entries.remove(key);
    }

    /// Forgets what a read did not find. Somebody else deleted it, and the watch is yet to say so.
    pub fn lose(&self, key: &str) {
        let lost = self.write().entries.remove(key);
        self.remember_deleted(lost.into_iter().map(|entry| (key.to_owned(), entry.value)));
    }

    /// What somebody else deleted lately, each once.
    pub fn take_deleted(&self) -> Vec<(String, Arc<V>)> {
        let deleted = std::mem::take(&mut *self.deleted.lock().unwrap_or_else(PoisonError::into_inner));
        let fresh = deleted.into_iter().filter(|(_, deleted)| deleted.at.elapsed() < DELETIONS_REMEMBERED);
        fresh.map(|(key, deleted)| (key, deleted.value)).collect()
    }

    fn apply(&self, key: String, metadata: &ObjectMeta, value: V) {
        let entry = Entry { value: Arc::new(value), version: version(metadata), is_told: true };
        let mut known = self.write();
        known.watched = known.watched.max(entry.version);
        if !known.entries.get(&key).is_some_and(|present| is_older(entry.version, present.version)) {
            known.entries.insert(key, entry);
        }
    }

    /// The version of a deleted object is that of its deletion.
    fn delete(&self, key: &str, metadata: &ObjectMeta) {
        let version = version(metadata);
        let removed = {
            let mut known = self.write();
            known.watched = known.watched.max(version);
            let is_newer = known.entries.get(key).is_some_and(|present| is_older(version, present.version));
            if is_newer { None } else { known.entries.remove(key) }
        };
        self.remember_deleted(removed.into_iter().map(|entry| (key.to_owned(), entry.value)));
    }

    /// A list is right whatever was known before: versions begin anew when somebody restores the API server's data. Tells
    /// whether that is so, since something has a version again that it had before.
    fn replace(&self, listed: Entries<V>) -> bool {
        let watched = listed.values().filter_map(|entry| entry.version).max();
        let (before, is_past) = {
            let mut known = self.write();
            let Known { entries: mut before, .. } = std::mem::replace(&mut *known, Known { entries: listed, watched });
            let mut is_past = false;
            before.retain(|key, before| match known.entries.get(key) {
                Some(now) => {
                    is_past |= before.is_told && is_older(now.version, before.version);
                    false
                }
                None => true,
            });
            (before, is_past)
        };
        self.remember_deleted(before.into_iter().map(|(key, entry)| (key, entry.value)));
        is_past
    }

    fn read(&self) -> RwLockReadGuard<'_, Known<V>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known<V>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember_deleted(&self, deleted: impl Iterator<Item = (String, Arc<V>)>) {
        let at = Instant::now();
        let mut remembered = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.retain(|_, deleted| deleted.at.elapsed() < DELETIONS_REMEMBERED);
        remembered.extend(deleted.map(|(key, value)| (key, Deleted { value, at })));
    }

    /// Follows `api` until `shutdown`, and opens `synced` when the first complete list is in. When the watch breaks, what was
    /// known stays known until more is.
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
        let mut events = Box::pin(watching::follow(api, fields));
        let mut listed = HashMap::new();
        let mut broke_at: Option<tokio::time::Instant> = None;
        loop {
            let goes_on = async {
                match broke_at {
                    Some(broke_at) => tokio::time::sleep_until(broke_at + GOES_ON_AFTER).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.next() => Some(event),
                () = goes_on => None,
            };
            let breaks = matches!(event, Some(Some(Err(_))));
            if broke_at.is_some() && !breaks {
                self.recovery.announce();
            }
            broke_at = breaks.then(tokio::time::Instant::now);
            let Some(event) = event else { continue };
            match event {
                Some(Ok(Event::Init)) => listed.clear(),
                Some(Ok(Event::InitApply(object))) => {
                    let version = version(&object.metadata);
                    let entry = entry(&object.metadata);
                    let told = |value| Entry { value: Arc::new(value), version, is_told: true };
                    listed.extend(entry.map(|(key, value)| (key, told(value))));
                }
                Some(Ok(Event::InitDone)) => {
                    if self.replace(std::mem::take(&mut listed)) {
                        tracing::warn!(kind = %K::kind(&()), "older versions are listed than were known, as when a backup was restored");
                        self.changes.send_modify(|number| *number += 1);
                    }
                    synced.open();
                }
                Some(Ok(Event::Apply(object))) => {
                    if let Some((key, value)) = entry(&object.metadata) {
                        self.apply(key, &object.metadata, value);
                    }
                }
                Some(Ok(Event::Delete(object))) => {
                    if let Some((key, _)) = entry(&object.metadata) {
                        self.delete(&key, &object.metadata);
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

fn version(metadata: &ObjectMeta) -> Option<Version> {
    metadata.resource_version.as_deref()?.parse().ok()
}

fn is_older(version: Option<Version>, other: Option<Version>) -> bool {
    version.zip(other).is_some_and(|(version, other)| version < other)
}

impl<V> Default for Known<V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), watched: None }
    }
}

impl<V> Clone for WatchCache<V> {
    fn clone(&self) -> Self {
        Self {
            known: self.known.clone(),
            deleted: self.deleted.clone(),
            recovery: self.recovery.clone(),
            changes: self.changes.clone(),
        }
    }
}

impl<V> Default for WatchCache<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> fmt::Debug for WatchCache<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.read().entries.len();
        formatter.debug_struct("WatchCache").field("entries", &entries).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
