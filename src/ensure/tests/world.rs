//! Registries, pull secrets and namespaces in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};

use crate::{
    admission::{CredentialError, CredentialSource, NamespaceSource, PullSecretStore, ReadPullSecret, StoreError},
    clock::Clock,
    domain::{
        decision::{Limits, Settings},
        image::{LoginServer, LoginServerRule},
        pull_secret::{
            CredentialSourceHash, Lifetime, Origin, Password, PullSecret, RegistryCredential, StoredHost,
            StoredPullSecret,
        },
        registry::{HostPattern, Namespace, NamespaceSelector, RegistryName, RegistryRule, RegistryRules},
    },
    ensure::{EnsureError, Ensurer, WriteReason},
};

/// Registries whose tokens are renewed when told to, and that may be away.
#[derive(Debug, Default)]
pub(crate) struct Azure {
    pub(crate) tokens: Mutex<BTreeMap<String, Option<Timestamp>>>,
    pub(crate) asked: Mutex<usize>,
    /// Of which it was said that a pull secret holds their token.
    pub(crate) vouched: Mutex<BTreeSet<String>>,
    /// The rules that they go by, if these are others than those of the case.
    pub(crate) rules: Mutex<Option<RegistryRules>>,
    /// How long they think.
    pub(crate) pause: Mutex<Duration>,
}

impl Azure {
    pub(crate) fn renew(&self, host: &str, at: Timestamp) {
        lock(&self.tokens).insert(host.to_owned(), Some(at));
    }

    pub(crate) fn lose(&self, host: &str) {
        lock(&self.tokens).insert(host.to_owned(), None);
    }
}

impl CredentialSource for Azure {
    async fn credential(
        &self,
        registry: &RegistryName,
        host: &LoginServer,
    ) -> Result<RegistryCredential, CredentialError> {
        *lock(&self.asked) += 1;
        let pause = *lock(&self.pause);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let issued = lock(&self.tokens).get(host.as_str()).copied().flatten();
        let reason = "it is away".to_owned();
        let issued = issued.ok_or_else(|| CredentialError { registry: registry.clone(), reason })?;
        let lifetime = Lifetime {
            renew_at: issued + SignedDuration::from_mins(90),
            expires_at: issued + SignedDuration::from_hours(3),
        };
        let credential =
            RegistryCredential::stored("0".to_owned(), Password::new(format!("{host} {registry} {issued}")));
        Ok(RegistryCredential {
            lifetime: Some(lifetime),
            source: CredentialSourceHash::of(&[registry.as_str()]),
            ..credential
        })
    }

    fn goes_by(&self, rules: &RegistryRules) -> bool {
        lock(&self.rules).as_ref().is_none_or(|own| own == rules)
    }

    fn vouch(&self, _: &RegistryName, host: &LoginServer) {
        lock(&self.vouched).insert(host.to_string());
    }

    fn source(&self, registry: &RegistryName) -> Option<CredentialSourceHash> {
        Some(CredentialSourceHash::of(&[registry.as_str()]))
    }
}

/// Pull secrets in memory, and how many writes and reads there were.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) stored: Mutex<BTreeMap<String, (Arc<StoredPullSecret>, PullSecret)>>,
    pub(crate) writes: Mutex<usize>,
    pub(crate) reads: Mutex<usize>,
    /// Namespaces whose writes get no answer.
    pub(crate) silent: Mutex<BTreeSet<String>>,
    /// Namespaces of which the API server says that they are going away.
    pub(crate) refused: Mutex<BTreeSet<String>>,
    /// Namespaces whose pull secret is gone, which nobody noticed.
    pub(crate) lost: Mutex<BTreeSet<String>>,
    /// What somebody else deleted.
    deleted: Mutex<BTreeMap<String, Arc<StoredPullSecret>>>,
}

impl Memory {
    pub(crate) fn writes(&self) -> usize {
        *lock(&self.writes)
    }

    pub(crate) fn password(&self, namespace: &str, host: &str) -> String {
        let stored = lock(&self.stored);
        stored[namespace].1.credential(&login_server(host)).unwrap().password.expose().to_owned()
    }

    /// As somebody else does it.
    pub(crate) fn edit(&self, namespace: &str) {
        if let Some((stored, _)) = lock(&self.stored).get_mut(namespace) {
            *stored = Arc::new(StoredPullSecret { untouched: false, ..(**stored).clone() });
        }
    }

    /// As somebody else does it.
    pub(crate) fn lose(&self, namespace: &str) {
        let lost = lock(&self.stored).remove(namespace);
        lock(&self.deleted).extend(lost.map(|(stored, _)| (namespace.to_owned(), stored)));
    }

    async fn answer(&self, namespace: &str) -> Result<(), StoreError> {
        if lock(&self.silent).contains(namespace) {
            tokio::time::sleep(Duration::from_secs(15)).await;
            return Err(StoreError::Unavailable("no answer within 15 s".to_owned()));
        }
        if lock(&self.refused).contains(namespace) {
            return Err(StoreError::NamespaceGone);
        }
        Ok(())
    }

    pub(crate) fn write(&self, namespace: &str, secret: &PullSecret) {
        *lock(&self.writes) += 1;
        let stored = StoredPullSecret {
            origin: Origin::Ours,
            hosts: secret
                .credentials()
                .map(|(host, it)| StoredHost { host: host.as_str().into(), lifetime: it.lifetime })
                .collect(),
            source_hash: Some(secret.source_hash()),
            untouched: true,
            uid: namespace.to_owned(),
            resource_version: self.writes().to_string(),
        };
        lock(&self.stored).insert(namespace.to_owned(), (Arc::new(stored), secret.clone()));
    }
}

impl PullSecretStore for Memory {
    fn stored(&self, namespace: &str) -> Option<Arc<StoredPullSecret>> {
        lock(&self.stored).get(namespace).map(|(stored, _)| stored.clone())
    }

    fn all(&self) -> Vec<(String, Arc<StoredPullSecret>)> {
        lock(&self.stored).iter().map(|(name, (stored, _))| (name.clone(), stored.clone())).collect()
    }

    async fn read(&self, namespace: &str) -> Result<Option<ReadPullSecret>, StoreError> {
        *lock(&self.reads) += 1;
        self.answer(namespace).await?;
        if lock(&self.lost).remove(namespace) {
            lock(&self.stored).remove(namespace);
        }
        let known = lock(&self.stored).get(namespace).cloned();
        Ok(known.map(|(stored, secret)| {
            let text = secret.docker_config_json();
            let content = PullSecret::parse(&text, |host| stored.lifetime(host), &LoginServerRule::default()).ok();
            ReadPullSecret { stored: (*stored).clone(), content }
        }))
    }

    async fn create(&self, namespace: &str, secret: &PullSecret) -> Result<(), StoreError> {
        self.answer(namespace).await?;
        self.write(namespace, secret);
        Ok(())
    }

    async fn update(&self, namespace: &str, secret: &PullSecret, _: &StoredPullSecret) -> Result<(), StoreError> {
        self.answer(namespace).await?;
        self.write(namespace, secret);
        Ok(())
    }

    fn take_deleted(&self) -> Vec<(String, Arc<StoredPullSecret>)> {
        std::mem::take(&mut *lock(&self.deleted)).into_iter().collect()
    }

    async fn delete(&self, namespace: &str, _: &StoredPullSecret) -> Result<(), StoreError> {
        lock(&self.stored).remove(namespace);
        Ok(())
    }
}

/// Namespaces of any name, with what memory says of them all, and the API server.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// The one label that is known at the moment. The API server knows none.
    pub(crate) labels: Mutex<BTreeMap<String, String>>,
    /// The API server says that they are going away.
    pub(crate) are_terminating: Mutex<bool>,
}

impl NamespaceSource for Namespaces {
    fn cached(&self, name: &str) -> Option<Arc<Namespace>> {
        let labels = lock(&self.labels).clone();
        Some(Arc::new(Namespace { labels, ..namespace(name) }))
    }

    async fn read(&self, name: &str) -> Result<Option<Namespace>, StoreError> {
        Ok(Some(Namespace { terminating: *lock(&self.are_terminating), ..namespace(name) }))
    }
}

pub(crate) fn lock<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn namespace(name: &str) -> Namespace {
    Namespace { name: name.to_owned(), labels: BTreeMap::default(), terminating: false }
}

pub(crate) fn login_server(host: &str) -> LoginServer {
    LoginServerRule::default().parse(host).unwrap()
}

pub(crate) const A: &str = "contoso.azurecr.io";
pub(crate) const B: &str = "fabrikam.azurecr.io";

pub(crate) struct Case {
    pub(crate) azure: Arc<Azure>,
    pub(crate) store: Arc<Memory>,
    pub(crate) ensurer: Arc<Ensurer<Azure, Memory>>,
    pub(crate) now: Arc<Mutex<Timestamp>>,
}

impl Case {
    /// One rule for all registries, of which two have tokens.
    pub(crate) fn new() -> Self {
        let login_servers = LoginServerRule::default();
        let rule = |name: &str, labels: &[(&str, &str)]| RegistryRule {
            name: name.parse().unwrap(),
            hosts: vec![HostPattern::parse("*.azurecr.io", &login_servers).unwrap()],
            namespaces: NamespaceSelector {
                match_labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
                ..NamespaceSelector::default()
            },
        };
        let rules = vec![rule("special", &[("team", "special")]), rule("all", &[])];
        let settings = Settings {
            pull_secret_name: "acr-pull-secret".parse().unwrap(),
            excluded_namespaces: BTreeSet::new(),
            rules: RegistryRules::new(login_servers, rules).unwrap(),
            limits: Limits { ensure_timeout: Duration::from_secs(60), writes_per_second: 2 },
        };
        let now = Arc::new(Mutex::new("2026-11-24T08:00:00Z".parse().unwrap()));
        let shown = now.clone();
        let clock = Clock::from_fn(move || *shown.lock().unwrap());
        let (azure, store) = (Arc::new(Azure::default()), Arc::new(Memory::default()));
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let ensurer = Arc::new(Ensurer::new(azure.clone(), store.clone(), settings, Arc::default(), clock));
        let case = Self { azure, store, ensurer, now };
        case.azure.renew(A, case.now());
        case.azure.renew(B, case.now());
        case
    }

    pub(crate) fn now(&self) -> Timestamp {
        *lock(&self.now)
    }

    pub(crate) fn advance(&self, minutes: i64) {
        *lock(&self.now) += SignedDuration::from_mins(minutes);
    }

    pub(crate) async fn ensure(&self, name: &str, hosts: &[&str]) -> Result<(), EnsureError> {
        let wanted = hosts.iter().map(|host| (login_server(host), "all".parse().unwrap())).collect();
        self.ensurer.ensure(&namespace(name), &wanted, WriteReason::Admission).await
    }

    pub(crate) async fn refresh(&self, name: &str) -> Result<(), EnsureError> {
        self.ensurer.refresh(&namespace(name), WriteReason::Renewal).await
    }

    pub(crate) fn reason(&self, name: &str) -> Option<WriteReason> {
        self.ensurer.upkeep(&namespace(name), self.store.stored(name).as_deref()?)
    }
}
