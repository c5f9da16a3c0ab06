//! The one cache of registry tokens, shared by all namespaces: one token per identity and login server, renewed in the
//! background at half of its life.

mod renewal;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use jiff::Timestamp;

use super::{
    azure_error::{AzureError, AzureErrorKind, LifetimeFault},
    entra::{Entra, EntraToken},
    exchange::{REFRESH_TOKEN_USERNAME, RefreshToken, RegistryExchange, RegistryHost},
    http::AzureHttp,
    identity::Identity,
    renewed::{Failed, Fetched, Renewed},
    strangers::Strangers,
};
use crate::{
    clock::Clock,
    domain::{
        pull_secret::{CredentialSourceHash, Lifetime, RegistryCredential},
        registry::RegistryName,
    },
    metrics::Metrics,
    spans,
};

/// A login server without a token is asked about in the background for this long after somebody asked in vain: longer than
/// whoever needs it waits before it asks again.
const WANTED_FOR: Duration = Duration::from_secs(15 * 60);
/// Anybody who may create pods may name hosts under a wildcard, so what that leaves behind is bounded.
const MAX_HOSTS: usize = 2_000;
/// When a login server is asked about again that had no place in the budget for unknown ones.
const UNKNOWN_ASKED_AGAIN: Duration = Duration::from_secs(5);
/// A token of Entra lives an hour or more; one that is nearly over is of no use to anybody.
const SHORTEST_ENTRA_LIFE: Duration = Duration::from_secs(30);

/// Tokens of registries, by identity and login server.
#[derive(Debug)]
pub struct TokenCache {
    http: ArcSwap<AzureHttp>,
    clock: Clock,
    metrics: Arc<Metrics>,
    kept: Mutex<Kept>,
    strangers: Strangers,
}

#[derive(Debug, Default)]
struct Kept {
    /// The rules that deliver tokens.
    registries: BTreeSet<RegistryName>,
    identities: HashMap<CredentialSourceHash, Arc<Renewed<EntraToken>>>,
    hosts: HashMap<(CredentialSourceHash, RegistryHost), Arc<Entry>>,
    /// The last token that each rule got for a login server, whatever identity it was made from: it stays in use while a
    /// newly stored secret is refused.
    last_good: BTreeMap<(RegistryName, RegistryHost), RegistryCredential>,
}

#[derive(Debug)]
struct Entry {
    identity: Arc<Identity>,
    entra: Arc<Renewed<EntraToken>>,
    host: RegistryHost,
    token: Renewed<RefreshToken>,
    registries: Mutex<BTreeSet<RegistryName>>,
    /// An exact host of a rule: kept fresh whether or not anybody asks.
    warm: AtomicBool,
    /// Some rule has got a token for it, be it with another identity.
    is_known: AtomicBool,
    /// When somebody last asked, in seconds since 1970.
    used_at: AtomicI64,
}

/// A login server whose token a rule needs, whether or not anybody has asked for it.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The rule.
    pub registry: RegistryName,
    /// Its identity.
    pub identity: Arc<Identity>,
    /// The login server.
    pub host: RegistryHost,
}

impl TokenCache {
    /// An empty cache.
    pub fn new(http: Arc<AzureHttp>, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { http: ArcSwap::new(http), clock, metrics, kept: Mutex::default(), strangers: Strangers::default() }
    }

    /// A credential of the rule `registry` for a login server: from memory while there is a good one, else from Azure, one
    /// request for all who wait.
    ///
    /// # Errors
    ///
    /// When there is none, and none from before that has not expired.
    pub async fn credential(
        &self,
        registry: &RegistryName,
        identity: &Arc<Identity>,
        host: &RegistryHost,
    ) -> Result<RegistryCredential, AzureError> {
        let entry = self.entry(registry, identity, host);
        entry.used_at.store(self.clock.now().as_second(), Ordering::Relaxed);
        match entry.token.get(|| self.fetch_within_budget(&entry)).await {
            Ok(fetched) => Ok(credential_of(&entry, fetched)),
            Err(error) => self.last_good(registry, host).ok_or(error),
        }
    }

    /// Notes that a login server gave a token to somebody, so that asking it has its place whatever others make up.
    pub fn vouch(&self, registry: &RegistryName, identity: &Arc<Identity>, host: &RegistryHost) {
        self.entry(registry, identity, host).is_known.store(true, Ordering::Relaxed);
    }

    /// Takes over which identities the rules have now and which login servers are to be kept fresh; what no rule needs any
    /// more is forgotten.
    pub fn configure(
        &self,
        http: Arc<AzureHttp>,
        identities: &BTreeMap<RegistryName, Arc<Identity>>,
        wanted: &[Wanted],
    ) {
        self.http.store(http);
        let fingerprints: BTreeMap<_, _> =
            identities.iter().map(|(registry, identity)| (registry, identity.fingerprint())).collect();
        {
            let mut kept = self.kept();
            for removed in kept.registries.iter().filter(|registry| !identities.contains_key(*registry)) {
                self.metrics.credential_expiry(removed.as_str(), None);
            }
            kept.registries = identities.keys().cloned().collect();
            let current: BTreeSet<_> = fingerprints.values().collect();
            kept.identities.retain(|fingerprint, _| current.contains(fingerprint));
            kept.hosts.retain(|(fingerprint, _), _| current.contains(fingerprint));
            kept.last_good.retain(|(registry, _), _| identities.contains_key(registry));
            for ((fingerprint, _), entry) in &kept.hosts {
                entry.registries().retain(|registry| fingerprints.get(registry) == Some(fingerprint));
                entry.warm.store(false, Ordering::Relaxed);
            }
        }
        for Wanted { registry, identity, host } in wanted {
            self.entry(registry, identity, host).warm.store(true, Ordering::Relaxed);
        }
        self.report_expiry();
    }

    /// Ends the back-off of everything that waits for this identity: its proof has been renewed.
    pub fn retry_now(&self, identity: &CredentialSourceHash) {
        let kept = self.kept();
        kept.identities.get(identity).into_iter().for_each(|entra| entra.retry_now());
        for (_, entry) in kept.hosts.iter().filter(|((fingerprint, _), _)| fingerprint == identity) {
            entry.token.retry_now();
        }
    }

    /// Does not ask Azure about too many login servers that are unknown, so that names that are made up cost little.
    async fn fetch_within_budget(&self, entry: &Entry) -> Result<Fetched<RefreshToken>, Failed> {
        let now = self.clock.now();
        if !entry.is_sure() && !self.strangers.may_be_asked(now) {
            let error = AzureError::new(AzureErrorKind::TooManyUnknown, entry.host.party());
            return Err(Failed { error, not_before: now.checked_add(UNKNOWN_ASKED_AGAIN).ok() });
        }
        self.fetch(entry).await
    }

    /// Signs in and exchanges, and keeps the result for every rule that uses it.
    async fn fetch(&self, entry: &Entry) -> Result<Fetched<RefreshToken>, Failed> {
        let span = spans::exchange(entry.host.as_str());
        let result = spans::record(span, |failed| failed.error.as_label(), self.exchange(entry)).await;
        let registries = entry.registries().clone();
        let outcome = match &result {
            Ok(_) => "renewed",
            Err(failed) => failed.error.as_label(),
        };
        for registry in &registries {
            self.metrics.credential_refreshed(registry.as_str(), outcome);
        }
        match &result {
            Ok(fetched) => {
                entry.is_known.store(true, Ordering::Relaxed);
                let credential = credential_of(entry, fetched.clone());
                let mut kept = self.kept();
                for registry in registries {
                    kept.last_good.insert((registry, entry.host.clone()), credential.clone());
                }
                drop(kept);
                self.report_expiry();
                tracing::info!(
                    login_server = entry.host.as_str(),
                    expires_at = %fetched.lifetime.expires_at,
                    renew_at = %fetched.lifetime.renew_at,
                    "registry token renewed"
                );
            }
            Err(failed) => {
                let usable_until = entry.token.current().map(|current| current.lifetime.expires_at.to_string());
                tracing::warn!(
                    login_server = entry.host.as_str(),
                    error = %failed.error,
                    usable_until,
                    "the registry token could not be renewed"
                );
            }
        }
        result
    }

    async fn exchange(&self, entry: &Entry) -> Result<Fetched<RefreshToken>, Failed> {
        let http = self.http.load_full();
        let entra = Entra::new(http.clone(), self.clock.clone());
        let signed_in = entry.entra.get(|| sign_in(&entra, &entry.identity, &self.clock)).await;
        let Fetched { value: entra_token, .. } =
            signed_in.map_err(|error| Failed { error, not_before: entry.entra.retry_at() })?;
        let exchanged = RegistryExchange::new(http)
            .refresh_token(&entry.host, entry.identity.tenant(), &entra_token, self.clock.now())
            .await;
        match exchanged {
            Ok(token) => Ok(Fetched { lifetime: token.lifetime, value: token }),
            Err(error) => {
                if matches!(error.kind, AzureErrorKind::RegistryRefused | AzureErrorKind::TokenInvalid) {
                    // A role that was given meanwhile may show in a new token only.
                    entry.entra.forget();
                }
                Err(error.into())
            }
        }
    }

    fn entry(&self, registry: &RegistryName, identity: &Arc<Identity>, host: &RegistryHost) -> Arc<Entry> {
        let fingerprint = identity.fingerprint();
        let mut kept = self.kept();
        let key = (fingerprint.clone(), host.clone());
        if let Some(entry) = kept.hosts.get(&key) {
            entry.registries().insert(registry.clone());
            return entry.clone();
        }
        if kept.hosts.len() >= MAX_HOSTS {
            kept.forget_least_used();
        }
        let is_known = kept.last_good.keys().any(|(_, known)| known == host);
        let entra = kept.identities.entry(fingerprint).or_insert_with(|| Arc::new(Renewed::new(self.clock.clone())));
        let entry = Arc::new(Entry {
            identity: identity.clone(),
            entra: entra.clone(),
            host: host.clone(),
            token: Renewed::new(self.clock.clone()),
            registries: Mutex::new(BTreeSet::from([registry.clone()])),
            warm: AtomicBool::new(false),
            is_known: AtomicBool::new(is_known),
            used_at: AtomicI64::new(self.clock.now().as_second()),
        });
        kept.hosts.insert(key, entry.clone());
        entry
    }

    fn last_good(&self, registry: &RegistryName, host: &RegistryHost) -> Option<RegistryCredential> {
        let now = self.clock.now();
        let kept = self.kept();
        let credential = kept.last_good.get(&(registry.clone(), host.clone()))?;
        credential.lifetime.is_some_and(|lifetime| lifetime.expires_at > now).then(|| credential.clone())
    }

    /// States for each rule when the first of its tokens expires that is needed.
    fn report_expiry(&self) {
        let (mut guard, now) = (self.kept(), self.clock.now());
        let Kept { registries, hosts, last_good, .. } = &mut *guard;
        let users = |((_, host), entry): (&(_, RegistryHost), &Arc<Entry>)| -> Vec<_> {
            entry.registries().iter().map(|registry| (registry.clone(), host.clone())).collect()
        };
        let needed: HashSet<_> = hosts.iter().flat_map(users).collect();
        let expires_at = |credential: &RegistryCredential| credential.lifetime.map(|lifetime| lifetime.expires_at);
        // One that a changed identity left behind, and that nobody has asked for since.
        last_good.retain(|key, credential| needed.contains(key) || expires_at(credential).is_none_or(|end| end > now));
        for registry in registries.iter() {
            let expiries = last_good.iter().filter(|(key, _)| key.0 == *registry && needed.contains(*key));
            let earliest = expiries.filter_map(|(_, credential)| expires_at(credential)).min();
            self.metrics.credential_expiry(registry.as_str(), earliest);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forget_least_used(&mut self) {
        let oldest = self
            .hosts
            .iter()
            .filter(|(_, entry)| !entry.is_warm())
            // What never gave a token first: it may be made up.
            .min_by_key(|(_, entry)| (entry.is_known.load(Ordering::Relaxed), entry.used_at.load(Ordering::Relaxed)))
            .map(|(key, _)| key.clone());
        if let Some(key) = oldest {
            self.forget(&key);
        }
    }

    fn forget(&mut self, key: &(CredentialSourceHash, RegistryHost)) {
        if let Some(entry) = self.hosts.remove(key) {
            for registry in entry.registries().iter() {
                self.last_good.remove(&(registry.clone(), entry.host.clone()));
            }
        }
    }
}

impl Entry {
    /// A host without a token that nobody asks for any more is left to whoever asks again.
    fn is_due(&self, now: Timestamp) -> bool {
        let is_needed = self.is_warm() || self.token.current().is_some() || self.is_used_since(before(now, WANTED_FOR));
        is_needed && self.token.is_due() && !self.token.is_being_fetched()
    }

    /// A rule names it, or it gave a token: it is not made up.
    fn is_sure(&self) -> bool {
        self.is_warm() || self.is_known.load(Ordering::Relaxed)
    }

    fn is_used_since(&self, oldest: Timestamp) -> bool {
        self.used_at.load(Ordering::Relaxed) >= oldest.as_second()
    }

    fn is_warm(&self) -> bool {
        self.warm.load(Ordering::Relaxed)
    }

    fn registries(&self) -> MutexGuard<'_, BTreeSet<RegistryName>> {
        self.registries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn before(now: Timestamp, time: Duration) -> Timestamp {
    now.saturating_sub(time).unwrap_or(Timestamp::MIN)
}

async fn sign_in(entra: &Entra, identity: &Identity, clock: &Clock) -> Result<Fetched<EntraToken>, Failed> {
    let token = entra.token(identity).await?;
    if token.life < SHORTEST_ENTRA_LIFE {
        return Err(AzureError::new(AzureErrorKind::TokenLifetime(LifetimeFault::TooShort), identity.party()).into());
    }
    let expires_at = clock.now().saturating_add(token.life).unwrap_or(Timestamp::MAX);
    Ok(Fetched { value: token, lifetime: Lifetime { renew_at: expires_at, expires_at } })
}

fn credential_of(entry: &Entry, fetched: Fetched<RefreshToken>) -> RegistryCredential {
    RegistryCredential {
        username: REFRESH_TOKEN_USERNAME.to_owned(),
        password: fetched.value.secret,
        lifetime: Some(fetched.lifetime),
        source: entry.identity.fingerprint(),
    }
}
