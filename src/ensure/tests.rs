use std::time::Duration;

use jiff::SignedDuration;
use tokio::sync::watch;

use super::*;
use crate::{
    admission::ReadPullSecret,
    domain::{
        decision::Limits,
        image::LoginServerRule,
        pull_secret::{CredentialSourceHash, Lifetime, Password, RegistryCredential},
        registry::{HostPattern, NamespaceSelector, RegistryRule, RegistryRules},
    },
    retry::RetryQueue,
    secrets::reconciler::Reconciler,
};

/// Registries whose tokens are renewed when told to, and that may be away.
#[derive(Debug, Default)]
struct Azure {
    tokens: Mutex<HashMap<String, Option<Timestamp>>>,
    asked: Mutex<usize>,
}

impl Azure {
    fn renew(&self, host: &str, at: Timestamp) {
        lock(&self.tokens).insert(host.to_owned(), Some(at));
    }

    fn lose(&self, host: &str) {
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

    fn source(&self, registry: &RegistryName) -> Option<CredentialSourceHash> {
        Some(CredentialSourceHash::of(&[registry.as_str()]))
    }
}

/// Pull secrets in memory, and how many writes there were.
#[derive(Debug, Default)]
struct Memory {
    stored: Mutex<BTreeMap<String, (Arc<StoredPullSecret>, PullSecret)>>,
    writes: Mutex<usize>,
}

impl Memory {
    fn writes(&self) -> usize {
        *lock(&self.writes)
    }

    fn password(&self, namespace: &str, host: &str) -> String {
        let stored = lock(&self.stored);
        stored[namespace].1.credential(&login_server(host)).unwrap().password.expose().to_owned()
    }

    fn write(&self, namespace: &str, secret: &PullSecret) {
        *lock(&self.writes) += 1;
        let stored = StoredPullSecret {
            origin: Origin::Ours,
            hosts: secret.hosts().map(ToString::to_string).collect(),
            lifetime: secret.lifetime(),
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
        let known = lock(&self.stored).get(namespace).cloned();
        Ok(known.map(|(stored, secret)| {
            let text = secret.docker_config_json();
            let content = PullSecret::parse(&text, stored.lifetime, &LoginServerRule::default()).ok();
            ReadPullSecret { stored: (*stored).clone(), content }
        }))
    }

    async fn create(&self, namespace: &str, secret: &PullSecret) -> Result<(), StoreError> {
        self.write(namespace, secret);
        Ok(())
    }

    async fn update(&self, namespace: &str, secret: &PullSecret, _: &StoredPullSecret) -> Result<(), StoreError> {
        self.write(namespace, secret);
        Ok(())
    }

    fn take_deleted(&self) -> Vec<(String, Arc<StoredPullSecret>)> {
        Vec::new()
    }

    async fn delete(&self, namespace: &str, _: &StoredPullSecret) -> Result<(), StoreError> {
        lock(&self.stored).remove(namespace);
        Ok(())
    }
}

/// Namespaces of any name, with the one label that is set at the moment.
#[derive(Debug, Default)]
struct Namespaces(Mutex<BTreeMap<String, String>>);

impl NamespaceSource for Namespaces {
    fn cached(&self, name: &str) -> Option<Arc<Namespace>> {
        let labels = lock(&self.0).clone();
        Some(Arc::new(Namespace { labels, ..namespace(name) }))
    }

    async fn read(&self, name: &str) -> Result<Option<Namespace>, StoreError> {
        Ok(Some(namespace(name)))
    }
}

fn lock<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

fn namespace(name: &str) -> Namespace {
    Namespace { name: name.to_owned(), labels: BTreeMap::default(), terminating: false }
}

fn login_server(host: &str) -> LoginServer {
    LoginServerRule::default().parse(host).unwrap()
}

const A: &str = "contoso.azurecr.io";
const B: &str = "fabrikam.azurecr.io";

struct Case {
    azure: Arc<Azure>,
    store: Arc<Memory>,
    ensurer: Arc<Ensurer<Azure, Memory>>,
    now: Arc<Mutex<Timestamp>>,
}

impl Case {
    /// One rule for all registries, of which two have tokens.
    fn new() -> Self {
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
            excluded_namespaces: std::collections::BTreeSet::new(),
            rules: RegistryRules::new(login_servers, rules).unwrap(),
            limits: Limits { ensure_timeout: Duration::from_secs(2), writes_per_second: 2 },
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

    fn now(&self) -> Timestamp {
        *lock(&self.now)
    }

    fn advance(&self, minutes: i64) {
        *lock(&self.now) += SignedDuration::from_mins(minutes);
    }

    async fn ensure(&self, name: &str, hosts: &[&str]) -> Result<(), EnsureError> {
        let wanted = hosts.iter().map(|host| (login_server(host), "all".parse().unwrap())).collect();
        self.ensurer.ensure(&namespace(name), &wanted, WriteReason::Admission).await
    }

    async fn refresh(&self, name: &str) -> Result<(), EnsureError> {
        self.ensurer.refresh(&namespace(name), WriteReason::Renewal).await
    }

    fn reason(&self, name: &str) -> Option<WriteReason> {
        self.ensurer.upkeep(&namespace(name), self.store.stored(name).as_deref()?)
    }
}

#[tokio::test]
async fn a_registry_that_is_gone_does_not_keep_the_tokens_of_another_from_being_renewed() {
    let case = Case::new();
    case.ensure("team", &[A, B]).await.unwrap();
    case.advance(91);
    case.azure.renew(B, case.now());
    case.advance(90);
    case.azure.lose(A);
    case.azure.renew(B, case.now());
    for _ in 0..5 {
        assert!(case.refresh("team").await.is_err(), "that a credential is missing must be known");
        assert_eq!(case.store.password("team", B), format!("{B} all {}", case.now()), "at {}", case.now());
        assert!(case.store.password("team", A).starts_with(A), "what may still be good stays");
        let writes = case.store.writes();
        assert!(case.refresh("team").await.is_err());
        assert_eq!((case.store.writes(), case.reason("team")), (writes, None), "nothing is new");
        case.advance(91);
        assert_eq!(case.reason("team"), Some(WriteReason::Renewal));
        case.azure.renew(B, case.now());
    }
}

#[tokio::test]
async fn a_token_that_ends_first_is_renewed_beside_one_that_cannot_be() {
    let case = Case::new();
    case.advance(-20);
    case.azure.renew(B, case.now());
    case.advance(20);
    case.ensure("team", &[A, B]).await.unwrap();
    case.advance(91);
    case.azure.renew(B, case.now());
    case.refresh("team").await.unwrap();
    assert_eq!(case.store.password("team", B), format!("{B} all {}", case.now()));
}

#[tokio::test]
async fn an_outage_writes_nothing() {
    let case = Case::new();
    case.ensure("team", &[A, B]).await.unwrap();
    let writes = case.store.writes();
    case.azure.lose(A);
    case.azure.lose(B);
    case.advance(100);
    assert!(case.refresh("team").await.is_err());
    assert_eq!(case.store.writes(), writes);
}

#[tokio::test]
async fn what_is_asked_for_one_namespace_is_bounded() {
    let case = Case::new();
    let hosts: Vec<_> = (0..1000).map(|number| format!("registry{number}.azurecr.io")).collect();
    let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
    let error = case.ensure("team", &hosts).await.unwrap_err();
    assert!(matches!(error, EnsureError::TooMany { .. }), "{error}");
    assert_eq!(*lock(&case.azure.asked), MAX_LOGIN_SERVERS);
}

#[tokio::test]
async fn a_registry_that_is_away_does_not_hold_up_the_others() {
    let case = Case::new();
    for number in 0..10 {
        case.ensure(&format!("a-{number}"), &[A]).await.unwrap();
    }
    case.ensure("b", &[B]).await.unwrap();
    case.advance(130);
    // The token of A is good for a while, and there is no newer one.
    case.azure.renew(B, case.now());
    let reconciler = Reconciler::new(case.ensurer.clone(), Arc::<Namespaces>::default(), RetryQueue::new());
    let (_leads, leader) = watch::channel(true);
    for _ in 0..6 {
        reconciler.tick(&leader).await;
    }
    assert_eq!(case.store.password("b", B), format!("{B} all {}", case.now()));
    case.azure.renew(A, case.now());
    case.advance(1);
    for _ in 0..6 {
        reconciler.tick(&leader).await;
    }
    let renewed = (0..10).filter(|number| case.reason(&format!("a-{number}")).is_none()).count();
    assert_eq!(renewed, 10, "all follow soon after the registry is back");
}

#[tokio::test]
async fn other_labels_bring_the_credential_of_another_rule() {
    let case = Case::new();
    case.ensure("team", &[A]).await.unwrap();
    let namespaces = Arc::<Namespaces>::default();
    let reconciler = Reconciler::new(case.ensurer.clone(), namespaces.clone(), RetryQueue::new());
    let (_leads, leader) = watch::channel(true);
    let mut writes = case.store.writes();
    for (label, rule, is_other) in
        [(("team", "mine"), "all", false), (("team", "special"), "special", true), (("other", "label"), "all", true)]
    {
        reconciler.heed_labels();
        *lock(&namespaces.0) = BTreeMap::from([(label.0.to_owned(), label.1.to_owned())]);
        reconciler.heed_labels();
        reconciler.tick(&leader).await;
        assert!(case.store.password("team", A).contains(&format!(" {rule} ")), "{label:?}");
        writes += usize::from(is_other);
        assert_eq!(case.store.writes(), writes, "{label:?}");
    }
}
