//! Ensuring: a namespace's pull secret exists and holds a credential for the login servers that its pods need, and nothing
//! that the namespace is not granted.
//!
//! One flight per namespace: requests for the same namespace wait for each other, so that a burst of pods costs one write.
//! Replicas don't talk to each other; they meet at the API server, where every write names the version that it replaces.

mod assembly;
mod error;
pub(crate) mod flights;
mod reason;
mod requests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use jiff::Timestamp;

use self::{assembly::Assembly, flights::Flights};
pub use self::{
    error::{EnsureError, Missing},
    reason::WriteReason,
};
pub use crate::domain::pull_secret::MAX_LOGIN_SERVERS;
use crate::{
    admission::{CredentialSource, NamespaceSource, PullSecretStore, StoreError},
    clock::Clock,
    domain::{
        decision::Settings,
        image::LoginServer,
        pull_secret::{CredentialSourceHash, Origin, PullSecret, StoredPullSecret, source_hash},
        registry::{Namespace, RegistryName},
        upkeep::{Upkeep, held, upkeep},
    },
    events::Events,
    metrics::Metrics,
    recovery::Recovery,
    spans,
};

/// Brings pull secrets into being and keeps them right.
#[derive(Debug)]
pub struct Ensurer<C, S> {
    /// What goes into them.
    pub credentials: Arc<C>,
    /// Where they stand.
    pub store: Arc<S>,
    /// What the operator configured.
    pub settings: Arc<ArcSwap<Settings>>,
    /// Counts what was written.
    pub metrics: Arc<Metrics>,
    /// Tells what has expired.
    pub clock: Clock,
    /// Tells the owners of namespaces what they can mend.
    pub events: Events,
    /// Announces that writes are taken again.
    pub recovery: Recovery,
    /// The last write was refused or got no answer.
    is_refused: AtomicBool,
    flights: Flights,
    /// When a pod last asked for the pull secret of a namespace.
    demand: Mutex<HashMap<String, Timestamp>>,
    /// Namespaces whose pull secret was made from something else than what is stored now, with the hash of that. Once it is
    /// another, somebody has made it anew.
    outdated: Mutex<HashMap<String, Option<String>>>,
}

/// Namespaces whose demand is remembered before those that have no pull secret any more are forgotten.
const MAX_DEMAND: usize = 20_000;

/// Two replicas that write in turn need one more attempt each; more than that is somebody fighting us.
const MAX_ATTEMPTS: usize = 5;

impl<C: CredentialSource, S: PullSecretStore> Ensurer<C, S> {
    /// An ensurer over a source of credentials and a store of pull secrets.
    pub fn new(
        credentials: Arc<C>,
        store: Arc<S>,
        settings: Arc<ArcSwap<Settings>>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Self {
        Self {
            credentials,
            store,
            settings,
            metrics,
            clock,
            events: Events::none(),
            recovery: Recovery::default(),
            is_refused: AtomicBool::default(),
            flights: Flights::default(),
            demand: Mutex::default(),
            outdated: Mutex::default(),
        }
    }

    /// The same, and it records Kubernetes Events.
    #[must_use]
    pub fn with_events(self, events: Events) -> Self {
        Self { events, ..self }
    }

    /// The same, and it announces recoveries here.
    #[must_use]
    pub fn with_recovery(self, recovery: Recovery) -> Self {
        Self { recovery, ..self }
    }

    /// Whether the pull secret is known to hold what these login servers need, from memory alone.
    pub fn is_complete<'a>(&self, namespace: &str, mut login_servers: impl Iterator<Item = &'a LoginServer>) -> bool {
        self.store.stored(namespace).is_some_and(|stored| {
            stored.covers(&mut login_servers, self.clock.now()) && !self.is_outdated(namespace, &stored)
        })
    }

    /// Makes the pull secret hold a credential for each of `wanted`, next to what it holds already.
    ///
    /// # Errors
    ///
    /// When one of `wanted` got no credential, and has none from before that is good; the others are stored all the same.
    pub async fn ensure(
        &self,
        namespace: &Namespace,
        wanted: &BTreeMap<LoginServer, RegistryName>,
        reason: WriteReason,
    ) -> Result<(), EnsureError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let work = Box::pin(async {
            let _flight = self.flights.join(&namespace.name).await;
            if reason.doubts_memory() {
                self.read(namespace).await?;
            }
            if self.is_complete(&namespace.name, wanted.keys()) {
                return Ok(());
            }
            self.write(namespace, wanted, reason).await?.fails(wanted.keys()).map_or(Ok(()), Err)
        });
        spans::record(spans::ensure(&namespace.name, reason), EnsureError::as_label, work).await
    }

    /// Makes a pull secret that exists what the credentials and rules of now say: nothing is written when it is so already,
    /// and it is deleted when nothing in it is granted any more.
    ///
    /// # Errors
    ///
    /// When it could not be brought up to date; what stands there then stays.
    pub async fn refresh(&self, namespace: &Namespace, reason: WriteReason) -> Result<(), EnsureError> {
        let work = Box::pin(async {
            let _flight = self.flights.join(&namespace.name).await;
            match self.store.stored(&namespace.name) {
                Some(stored) if stored.origin == Origin::Ours => {
                    let assembly = self.write(namespace, &BTreeMap::new(), reason).await?;
                    // A change of other credentials is done with; that this one can be read again is another.
                    let is_done = reason == WriteReason::Change && !assembly.may_pass_unseen;
                    assembly.lacks().filter(|_| !is_done).map_or(Ok(()), Err)
                }
                _ => Ok(()),
            }
        });
        spans::record(spans::ensure(&namespace.name, reason), EnsureError::as_label, work).await
    }

    /// What the namespace's pull secret needs, from memory alone.
    pub fn upkeep(&self, namespace: &Namespace, stored: &StoredPullSecret) -> Option<WriteReason> {
        match upkeep(stored, namespace, &self.settings.load(), self.clock.now()) {
            Some(Upkeep::Withdraw) => Some(WriteReason::Withdrawal),
            Some(Upkeep::Repair) => Some(WriteReason::Repair),
            Some(Upkeep::Renew) => Some(WriteReason::Renewal),
            None => self.is_outdated(&namespace.name, stored).then_some(WriteReason::Change),
        }
    }

    /// Finds the pull secrets that were made from something else than what is stored now. Until they are rewritten, a pod
    /// that needs one has it rewritten first. What was found before counts no more.
    ///
    /// This is done when this replica has seen a change, a while after it, at the start for changes that nobody saw, and when
    /// a restored backup has undone what they led to, but never on a mere difference: another replica may have seen a new
    /// password before its file arrived here, and must not be undone.
    pub fn find_outdated(&self, namespaces: &impl NamespaceSource) {
        let outdated = self.outdated_among(self.store.all(), namespaces);
        *self.outdated.lock().unwrap_or_else(PoisonError::into_inner) = outdated;
    }

    /// The same for a few pull secrets of which it is known that something else is granted now. Nothing is said of others.
    pub fn find_regranted(&self, regranted: Vec<(String, Arc<StoredPullSecret>)>, namespaces: &impl NamespaceSource) {
        let outdated = self.outdated_among(regranted, namespaces);
        self.outdated.lock().unwrap_or_else(PoisonError::into_inner).extend(outdated);
    }

    fn outdated_among(
        &self,
        pull_secrets: Vec<(String, Arc<StoredPullSecret>)>,
        namespaces: &impl NamespaceSource,
    ) -> HashMap<String, Option<String>> {
        let settings = self.settings.load_full();
        let outdated = pull_secrets.into_iter().filter_map(|(name, stored)| {
            let namespace = namespaces.cached(&name).filter(|namespace| !namespace.terminating)?;
            let held = held(&stored, &namespace, &settings);
            let is_outdated = stored.origin == Origin::Ours && self.may_be_outdated(&stored, &held);
            is_outdated.then(|| (name, stored.source_hash.clone()))
        });
        let outdated: HashMap<_, _> = outdated.collect();
        if !outdated.is_empty() {
            let pull_secrets = outdated.len();
            tracing::info!(pull_secrets, "pull secrets are or may be out of date, those that are will be rewritten");
        }
        outdated
    }

    /// A credential that cannot be read now is no reason to touch what works, and none to leave the others out of date. What
    /// its part of the pull secret was made from cannot be told by the hash of all, so a look at the content decides.
    fn may_be_outdated(&self, stored: &StoredPullSecret, held: &BTreeMap<LoginServer, RegistryName>) -> bool {
        let unknown = CredentialSourceHash::unknown();
        let sources: Vec<_> = held.iter().map(|(host, registry)| (host, self.credentials.source(registry))).collect();
        let expected = source_hash(sources.iter().map(|(host, source)| (*host, source.as_ref().unwrap_or(&unknown))));
        sources.iter().any(|(_, source)| source.is_some()) && stored.source_hash.as_ref() != Some(&expected)
    }

    /// Notes that a pod asks for the pull secret of this namespace, which is then served first.
    pub fn note_demand(&self, namespace: &str) {
        let now = self.clock.now();
        let mut demand = self.demand.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = demand.get_mut(namespace) {
            return *last = now;
        }
        if demand.len() >= MAX_DEMAND {
            demand.retain(|namespace, _| self.store.stored(namespace).is_some());
        }
        demand.insert(namespace.to_owned(), now);
    }

    /// When a pod last asked for the pull secret of this namespace, as far as this replica knows.
    pub fn last_demand(&self, namespace: &str) -> Option<Timestamp> {
        self.demand.lock().unwrap_or_else(PoisonError::into_inner).get(namespace).copied()
    }

    fn is_outdated(&self, namespace: &str, stored: &StoredPullSecret) -> bool {
        let outdated = self.outdated.lock().unwrap_or_else(PoisonError::into_inner);
        outdated.get(namespace).is_some_and(|found| *found == stored.source_hash)
    }

    async fn write(
        &self,
        namespace: &Namespace,
        wanted: &BTreeMap<LoginServer, RegistryName>,
        reason: WriteReason,
    ) -> Result<Assembly, EnsureError> {
        let mut stored = self.store.stored(&namespace.name).map(|stored| (*stored).clone());
        for _ in 0..MAX_ATTEMPTS {
            let assembly = self.assemble(namespace, wanted, stored.as_ref()).await?;
            let secret = &assembly.secret;
            let operation = match &stored {
                Some(_) if secret.is_empty() => "delete",
                Some(_) => "update",
                None => "create",
            };
            let started = Instant::now();
            let written = match &stored {
                Some(_) if assembly.is_known => return Ok(self.finish(namespace, assembly)),
                // Nothing is granted any more, or nothing of it can be had just now.
                Some(previous) if secret.is_empty() => match assembly.lacks() {
                    Some(error) => return Err(error),
                    None => self.delete(namespace, previous).await,
                },
                Some(previous) if !self.is_worth_writing(&assembly, previous) => {
                    return Ok(self.finish(namespace, assembly));
                }
                Some(previous) => match self.update(namespace, secret, previous).await {
                    Err(StoreError::Immutable(cause)) => self.replace(namespace, secret, previous, &cause).await,
                    updated => updated,
                },
                None if secret.is_empty() => return Ok(assembly),
                None => self.create(namespace, secret).await,
            };
            self.report(namespace, secret, (operation, reason), &written, started);
            match written {
                Ok(()) => return Ok(self.finish(namespace, assembly)),
                Err(StoreError::Conflict) => {
                    stored = self.read(namespace).await?.map(|read| read.stored);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict.into())
    }

    fn is_worth_writing(&self, Assembly { secret, content, .. }: &Assembly, previous: &StoredPullSecret) -> bool {
        !previous.untouched || previous.is_older_than(secret, content.as_ref(), self.clock.now())
    }

    /// One line for each write. Of one that failed, whoever wanted it says more, and not every time: an API server that is
    /// away would fill the log.
    fn report(
        &self,
        namespace: &Namespace,
        secret: &PullSecret,
        (operation, reason): (&'static str, WriteReason),
        written: &Result<(), StoreError>,
        started: Instant,
    ) {
        match written {
            Ok(()) if self.is_refused.swap(false, Ordering::Relaxed) => self.recovery.announce(),
            Err(StoreError::Refused(_) | StoreError::Unavailable(_)) => self.is_refused.store(true, Ordering::Relaxed),
            _ => {}
        }
        let outcome = written.as_ref().map_or_else(StoreError::as_label, |()| "written");
        self.metrics.pull_secret_written(reason.as_label(), outcome);
        let milliseconds = started.elapsed().as_secs_f64() * 1000.0;
        let (namespace, reason) = (namespace.name.as_str(), reason.as_label());
        let name = &self.settings.load().pull_secret_name;
        let hosts: Vec<_> = secret.hosts().map(LoginServer::as_str).collect();
        match written {
            Ok(()) => {
                tracing::info!(namespace, %name, operation, reason, outcome, milliseconds, ?hosts, "pull secret written");
            }
            Err(error) => {
                tracing::debug!(namespace, %name, operation, reason, outcome, milliseconds, ?hosts, %error, "pull secret not written");
            }
        }
    }

    /// Somebody changed what cannot be changed back: its type, or made it immutable. Only a new object helps.
    async fn replace(
        &self,
        namespace: &Namespace,
        secret: &PullSecret,
        previous: &StoredPullSecret,
        cause: &str,
    ) -> Result<(), StoreError> {
        tracing::warn!(namespace = %namespace.name, cause, "the pull secret cannot be mended in place and is made anew");
        self.delete(namespace, previous).await?;
        self.create(namespace, secret).await?;
        self.events.replaced(&namespace.name, &self.settings.load().pull_secret_name);
        Ok(())
    }

    /// What lacks a credential stays out of date: what it was made from before is still in it. One that cannot be read is not
    /// asked for again and again.
    fn finish(&self, namespace: &Namespace, assembly: Assembly) -> Assembly {
        let stored = self.store.stored(&namespace.name).filter(|_| assembly.may_pass_unseen);
        let mut outdated = self.outdated.lock().unwrap_or_else(PoisonError::into_inner);
        match (outdated.get_mut(&namespace.name), stored) {
            (Some(found), Some(stored)) => found.clone_from(&stored.source_hash),
            _ => drop(outdated.remove(&namespace.name)),
        }
        assembly
    }
}

#[cfg(test)]
pub(crate) mod tests;
