//! Ensuring: a namespace's pull secret exists and holds a credential for the login servers that its pods need.
//!
//! One flight per namespace: requests for the same namespace wait for each other, so that a burst of pods costs one write.
//! Replicas don't talk to each other; they meet at the API server, where every write names the version that it replaces.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use jiff::Timestamp;

use crate::{
    admission::{CredentialError, CredentialSource, PullSecretStore, StoreError},
    domain::{
        decision::{self, Settings},
        image::LoginServer,
        pull_secret::{Origin, PullSecret, StoredPullSecret},
        registry::{Grant, Namespace, RegistryName},
    },
    metrics::Metrics,
};

/// Brings pull secrets into being and keeps them complete.
#[derive(Debug)]
pub struct Ensurer<C, S> {
    credentials: Arc<C>,
    store: Arc<S>,
    settings: Arc<ArcSwap<Settings>>,
    metrics: Arc<Metrics>,
    flights: Flights,
}

/// Why a pull secret is written; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteReason {
    /// A pod that is being admitted needs it.
    Admission,
    /// A credential or the configuration changed, or changed while nobody was there to see it.
    Change,
    /// An earlier attempt failed.
    Retry,
}

/// Why a pull secret is not as it should be. The text is for the person who created the pod.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnsureError {
    /// A Secret of the configured name stands there that is not ours.
    #[error(
        "Secret {name} in namespace {namespace} was not made by acr-pull-injector and is left as it is; delete or rename it \
         to have it made"
    )]
    Foreign {
        /// The name that both claim.
        name: String,
        /// Where it stands.
        namespace: String,
    },
    /// The stored credential cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// Reading or writing failed.
    #[error("the pull secret could not be stored: {0}")]
    Store(#[from] StoreError),
    /// More login servers than one pull secret may hold.
    #[error("namespace {namespace} uses more than {MAX_LOGIN_SERVERS} login servers; the pull secret holds no more")]
    TooMany {
        /// Where.
        namespace: String,
    },
}

impl EnsureError {
    /// Whether trying again later may help without anybody doing anything here.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Credential(_) | Self::Store(StoreError::Unavailable(_) | StoreError::Conflict) => true,
            Self::Foreign { .. } | Self::TooMany { .. } | Self::Store(_) => false,
        }
    }
}

/// Keeps a pull secret far below the 1 MiB that a Secret may hold, whoever sends reviews: an entry takes up to 4 KB.
pub const MAX_LOGIN_SERVERS: usize = 128;

/// Two replicas that write in turn need one more attempt each; more than that is somebody fighting us.
const MAX_ATTEMPTS: usize = 5;

impl<C: CredentialSource, S: PullSecretStore> Ensurer<C, S> {
    /// An ensurer over a source of credentials and a store of pull secrets.
    pub fn new(credentials: Arc<C>, store: Arc<S>, settings: Arc<ArcSwap<Settings>>, metrics: Arc<Metrics>) -> Self {
        Self { credentials, store, settings, metrics, flights: Flights::default() }
    }

    /// Whether the pull secret is known to hold what these login servers need, from memory alone.
    pub fn is_complete<'a>(
        &self,
        namespace: &str,
        login_servers: impl Iterator<Item = &'a LoginServer>,
        now: Timestamp,
    ) -> bool {
        self.store.stored(namespace).is_some_and(|stored| stored.covers(login_servers, now))
    }

    /// Makes the pull secret hold a credential for each of `wanted`, next to what it holds already.
    ///
    /// # Errors
    ///
    /// When it could not be made complete; what could be made is stored all the same.
    pub async fn ensure(
        &self,
        namespace: &Namespace,
        wanted: &BTreeMap<LoginServer, RegistryName>,
        reason: WriteReason,
    ) -> Result<(), EnsureError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let _flight = self.flights.join(&namespace.name).await;
        if self.is_complete(&namespace.name, wanted.keys(), Timestamp::now()) {
            return Ok(());
        }
        self.write(namespace, wanted, reason).await
    }

    /// Makes the content of a pull secret that exists what the credentials and rules of now say; nothing is written when
    /// it is so already.
    ///
    /// # Errors
    ///
    /// When it could not be brought up to date; what stands there then stays.
    pub async fn refresh(&self, namespace: &Namespace, reason: WriteReason) -> Result<(), EnsureError> {
        let settings = self.settings.load();
        if decision::opted_out(namespace) || settings.excluded_namespaces.contains(&namespace.name) {
            return Ok(());
        }
        let _flight = self.flights.join(&namespace.name).await;
        match self.store.stored(&namespace.name) {
            Some(stored) if stored.origin == Origin::Ours => self.write(namespace, &BTreeMap::new(), reason).await,
            _ => Ok(()),
        }
    }

    async fn write(
        &self,
        namespace: &Namespace,
        wanted: &BTreeMap<LoginServer, RegistryName>,
        reason: WriteReason,
    ) -> Result<(), EnsureError> {
        let mut stored = self.store.stored(&namespace.name).map(|stored| (*stored).clone());
        for _ in 0..MAX_ATTEMPTS {
            let (secret, missing) = self.assemble(namespace, wanted, stored.as_ref()).await?;
            let written = match &stored {
                Some(previous) if previous.data_untouched && previous.source_hash == Some(secret.source_hash()) => {
                    return missing.map_or(Ok(()), Err);
                }
                Some(previous) => self.store.update(&namespace.name, &secret, previous).await,
                None => self.store.create(&namespace.name, &secret).await,
            };
            self.metrics.pull_secret_written(reason.as_label(), outcome(&written));
            match written {
                Ok(()) => {
                    tracing::info!(
                        namespace = %namespace.name,
                        reason = reason.as_label(),
                        hosts = ?secret.hosts().map(LoginServer::as_str).collect::<Vec<_>>(),
                        "pull secret written"
                    );
                    return missing.map_or(Ok(()), Err);
                }
                Err(StoreError::Conflict) => {
                    stored = self.store.read(&namespace.name).await?.map(|read| read.stored);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict.into())
    }

    /// What the pull secret should hold: the login servers that are wanted, and those that it holds and that are still
    /// granted. The second part says which wanted credential is missing.
    async fn assemble(
        &self,
        namespace: &Namespace,
        wanted: &BTreeMap<LoginServer, RegistryName>,
        stored: Option<&StoredPullSecret>,
    ) -> Result<(PullSecret, Option<EnsureError>), EnsureError> {
        let settings = self.settings.load_full();
        if stored.is_some_and(|stored| stored.origin == Origin::Foreign) {
            return Err(EnsureError::Foreign {
                name: settings.pull_secret_name.to_string(),
                namespace: namespace.name.clone(),
            });
        }
        let held = stored.map(|stored| granted(stored, namespace, &settings)).unwrap_or_default();
        let mut content = None;
        let mut credentials = BTreeMap::new();
        let mut missing = None;
        for (login_server, registry) in held.iter().chain(wanted) {
            if credentials.contains_key(login_server) {
                continue;
            }
            if credentials.len() == MAX_LOGIN_SERVERS {
                missing = Some(EnsureError::TooMany { namespace: namespace.name.clone() });
                break;
            }
            match self.credentials.credential(registry, login_server).await {
                Ok(credential) => {
                    credentials.insert(login_server.clone(), credential);
                }
                Err(error) => {
                    // What works today must not be taken away because the credential cannot be read just now.
                    if held.contains_key(login_server) {
                        if content.is_none() {
                            content = Some(self.store.read(&namespace.name).await?.and_then(|read| read.content));
                        }
                        let kept = content.iter().flatten().find_map(|content| content.credential(login_server));
                        if let Some(kept) = kept {
                            credentials.insert(login_server.clone(), kept.clone());
                        }
                    }
                    missing = Some(error.into());
                }
            }
        }
        match missing {
            Some(error) if credentials.is_empty() => Err(error),
            missing => Ok((PullSecret::new(credentials), missing)),
        }
    }
}

impl WriteReason {
    fn as_label(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::Change => "change",
            Self::Retry => "retry",
        }
    }
}

/// The login servers of a stored pull secret that the rules still grant to its namespace, with the rule that does.
fn granted(
    stored: &StoredPullSecret,
    namespace: &Namespace,
    settings: &Settings,
) -> BTreeMap<LoginServer, RegistryName> {
    let hosts = stored.hosts.iter().filter_map(|host| settings.rules.login_servers().parse(host).ok());
    hosts
        .filter_map(|login_server| match settings.rules.grant(&login_server, namespace) {
            Grant::Granted(rule) => Some((login_server, rule.name.clone())),
            Grant::Refused(_) | Grant::NoRule => None,
        })
        .collect()
}

fn outcome(written: &Result<(), StoreError>) -> &'static str {
    match written {
        Ok(()) => "written",
        Err(StoreError::Conflict) => "conflict",
        Err(StoreError::NamespaceGone) => "namespace_gone",
        Err(StoreError::Refused(_)) => "refused",
        Err(StoreError::Unavailable(_)) => "unavailable",
    }
}

/// One lock per namespace that is being written, and none for the others.
#[derive(Debug, Default)]
struct Flights {
    locks: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Flights {
    async fn join(&self, namespace: &str) -> Flight {
        let lock =
            self.locks.lock().unwrap_or_else(PoisonError::into_inner).entry(namespace.to_owned()).or_default().clone();
        let guard = lock.lock_owned().await;
        Flight { locks: self.locks.clone(), namespace: namespace.to_owned(), guard: Some(guard) }
    }
}

struct Flight {
    locks: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
    namespace: String,
    guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard = None;
        // More owners than the map means that somebody waits, who will clean up in turn.
        if locks.get(&self.namespace).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.namespace);
        }
    }
}
