use std::{collections::BTreeMap, sync::atomic::AtomicBool, sync::atomic::Ordering};

use arc_swap::ArcSwap;

use super::*;
use crate::{
    admission::{CredentialError, ReadPullSecret, StoreError},
    clock::Clock,
    config::Configuration,
    domain::{
        image::LoginServer,
        pull_secret::{CredentialSourceHash, Password, PullSecret, RegistryCredential},
        registry::RegistryName,
        review::{OPT_OUT_LABEL, OPT_OUT_VALUE},
    },
    ensure::tests::world::{A, B, Case, Namespaces},
    metrics::Metrics,
};

/// A world of one namespace, whose pull secret stands in memory.
#[derive(Debug, Default)]
struct World {
    password: Mutex<String>,
    is_unreadable: AtomicBool,
    is_immutable: AtomicBool,
    refuses_creation: AtomicBool,
    stored: Mutex<Option<(Arc<StoredPullSecret>, PullSecret)>>,
}

impl World {
    fn put(&self, secret: &PullSecret) {
        let metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            labels: Some(secret.labels()),
            annotations: Some(secret.annotations()),
            ..Default::default()
        };
        let mut stored = StoredPullSecret { untouched: true, ..StoredPullSecret::from_metadata(&metadata) };
        stored.hosts.iter_mut().for_each(|host| host.lifetime = None);
        *self.stored.lock().unwrap() = Some((Arc::new(stored), secret.clone()));
    }

    fn stored_password(&self) -> Option<String> {
        let (_, secret) = self.stored.lock().unwrap().clone()?;
        secret.into_credentials().into_values().next().map(|credential| credential.password.expose().to_owned())
    }
}

impl CredentialSource for World {
    async fn credential(
        &self,
        registry: &RegistryName,
        _: &LoginServer,
    ) -> Result<RegistryCredential, CredentialError> {
        if self.is_unreadable.load(Ordering::SeqCst) {
            return Err(CredentialError { registry: registry.clone(), reason: "for the test".to_owned() });
        }
        Ok(RegistryCredential::stored("user".to_owned(), Password::new(self.password.lock().unwrap().clone())))
    }

    fn source(&self, _: &RegistryName) -> Option<CredentialSourceHash> {
        Some(CredentialSourceHash::of(&["stored", "user", &self.password.lock().unwrap()]))
    }
}

impl PullSecretStore for World {
    fn stored(&self, _: &str) -> Option<Arc<StoredPullSecret>> {
        self.stored.lock().unwrap().as_ref().map(|(stored, _)| stored.clone())
    }

    fn all(&self) -> Vec<(String, Arc<StoredPullSecret>)> {
        self.stored(NAMESPACE).map(|stored| (NAMESPACE.to_owned(), stored)).into_iter().collect()
    }

    async fn read(&self, _: &str) -> Result<Option<ReadPullSecret>, StoreError> {
        let found = self.stored.lock().unwrap().clone();
        Ok(found.map(|(stored, content)| ReadPullSecret { stored: (*stored).clone(), content: Some(content) }))
    }

    async fn create(&self, _: &str, secret: &PullSecret) -> Result<(), StoreError> {
        if self.refuses_creation.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("for the test".to_owned()));
        }
        self.put(secret);
        Ok(())
    }

    async fn update(&self, _: &str, secret: &PullSecret, _: &StoredPullSecret) -> Result<(), StoreError> {
        if self.is_immutable.load(Ordering::SeqCst) {
            return Err(StoreError::Immutable("for the test".to_owned()));
        }
        self.put(secret);
        Ok(())
    }

    fn take_deleted(&self) -> Vec<(String, Arc<StoredPullSecret>)> {
        Vec::new()
    }

    async fn delete(&self, _: &str, _: &StoredPullSecret) -> Result<(), StoreError> {
        *self.stored.lock().unwrap() = None;
        Ok(())
    }
}

impl NamespaceSource for World {
    fn cached(&self, name: &str) -> Option<Arc<Namespace>> {
        Some(Arc::new(Namespace { name: name.to_owned(), ..Namespace::default() }))
    }

    async fn read(&self, name: &str) -> Result<Option<Namespace>, StoreError> {
        Ok(Some(Namespace { name: name.to_owned(), ..Namespace::default() }))
    }
}

const NAMESPACE: &str = "team-a";

/// A reconciler of a pull secret that holds the first password, when the second is stored.
async fn changed() -> (Arc<World>, Reconciler<World, World, World>) {
    let world = Arc::new(World::default());
    let text = "registries: [{name: azure, credential: {static: {usernameFile: /u, passwordFile: /p}}}]";
    let settings = Configuration::parse(text).unwrap().settings(None);
    let login_server = settings.rules.login_servers().parse("contoso.azurecr.io").unwrap();
    let settings = Arc::new(ArcSwap::from_pointee(settings));
    let ensurer = Ensurer::new(world.clone(), world.clone(), settings, Arc::new(Metrics::new()), Clock::system());
    *world.password.lock().unwrap() = "first".to_owned();
    let wanted = BTreeMap::from([(login_server, "azure".parse().unwrap())]);
    let namespace = Namespace { name: NAMESPACE.to_owned(), ..Namespace::default() };
    ensurer.ensure(&namespace, &wanted, WriteReason::Admission).await.unwrap();
    *world.password.lock().unwrap() = "second".to_owned();
    (world.clone(), Reconciler::new(Arc::new(ensurer), world, RetryQueue::new()))
}

fn leader() -> watch::Receiver<bool> {
    watch::Sender::new(true).subscribe()
}

#[tokio::test]
async fn what_lacks_its_credential_stays_out_of_date() {
    let (world, reconciler) = changed().await;
    reconciler.ensurer.find_outdated(world.as_ref());
    world.is_unreadable.store(true, Ordering::SeqCst);
    reconciler.tick(&leader()).await;
    assert_eq!(world.stored_password().as_deref(), Some("first"), "what works is kept");
    world.is_unreadable.store(false, Ordering::SeqCst);
    reconciler.failures.lock().unwrap().clear();
    reconciler.tick(&leader()).await;
    assert_eq!(world.stored_password().as_deref(), Some("second"));
}

#[tokio::test]
async fn a_pull_secret_that_could_not_be_made_anew_is_tried_again() {
    let (world, reconciler) = changed().await;
    reconciler.ensurer.find_outdated(world.as_ref());
    world.is_immutable.store(true, Ordering::SeqCst);
    world.refuses_creation.store(true, Ordering::SeqCst);
    reconciler.tick(&leader()).await;
    assert_eq!(world.stored_password(), None);
    world.refuses_creation.store(false, Ordering::SeqCst);
    let (retries, shutdown) = (reconciler.retries.clone(), CancellationToken::new());
    let running =
        retries.run(reconciler.ensurer.clone(), world.clone(), reconciler.ensurer.settings.clone(), shutdown.clone());
    let restored = async {
        while world.stored_password().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        shutdown.cancel();
    };
    tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(running, restored) }).await.unwrap();
    assert_eq!(world.stored_password().as_deref(), Some("second"));
}

/// Whoever announces changes ends with the process, perhaps before us.
#[tokio::test]
async fn nobody_left_to_announce_changes_is_no_reason_to_stay() {
    let (_, reconciler) = changed().await;
    let (announce, changes) = watch::channel(0);
    drop(announce);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(reconciler.run(leader(), changes, shutdown.clone()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), running).await.unwrap().unwrap();
}

#[test]
fn a_change_is_looked_after_twice_more() {
    let now = Instant::now();
    let mut looks = LaterLooks::after_change(now);
    let due: Vec<_> = (0..300).filter(|second| looks.is_due(now + Duration::from_secs(*second))).collect();
    assert_eq!(due, [60, 180]);
}

/// Is the pull secret there, and as we wrote it?
fn is_right(case: &Case, name: &str) -> bool {
    case.store.stored(name).is_some_and(|stored| stored.untouched)
}

#[tokio::test(start_paused = true)]
async fn who_breaks_again_what_was_repaired_takes_no_place_from_the_others() {
    let case = Case::new();
    let (fought, due) = (["edited-1", "edited-2", "lost-1", "lost-2"], ["due-1", "due-2", "due-3", "due-4"]);
    for name in due {
        case.ensure(name, &[B]).await.unwrap();
    }
    case.advance(130);
    case.azure.renew(A, case.now());
    case.azure.renew(B, case.now());
    for name in fought {
        case.ensure(name, &[A]).await.unwrap();
    }
    let reconciler = Reconciler::new(case.ensurer.clone(), Arc::<Namespaces>::default(), RetryQueue::new());
    // As soon as one is right again.
    let break_all = || {
        for name in fought.into_iter().filter(|name| is_right(&case, name)) {
            if name.starts_with("lost") { case.store.lose(name) } else { case.store.edit(name) }
        }
    };
    // Two writes in a second.
    let second = async || {
        reconciler.tick(&leader()).await;
        tokio::time::advance(Duration::from_secs(1)).await;
    };
    for seconds in 1..=4 {
        break_all();
        second().await;
        let repaired = fought.iter().filter(|name| is_right(&case, name)).count();
        let renewed = due.iter().filter(|name| case.reason(name).is_none()).count();
        let expected = [(2, 0), (2, 0), (0, 2), (0, 4)][seconds - 1];
        assert_eq!((repaired, renewed), expected, "after {seconds} s: the first repair of each, then all else");
    }
    for _ in 0..1000 {
        break_all();
        second().await;
    }
    let before = case.store.writes();
    for _ in 0..3600 {
        break_all();
        second().await;
    }
    let writes = case.store.writes() - before;
    assert!((4 * 12..=4 * 25).contains(&writes), "{writes} in an hour, not one in up to 5 minutes for each");
    for name in fought {
        case.ensure(name, &[A]).await.unwrap();
        assert!(is_right(&case, name), "a pod waits for no pause");
    }

    // In the end they have their peace.
    for _ in 0..400 {
        second().await;
    }
    let right = || fought.iter().filter(|name| is_right(&case, name)).count();
    assert_eq!(right(), 4);
    break_all();
    second().await;
    assert_eq!(right(), 2);
    second().await;
    assert_eq!(right(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_pull_secret_that_was_just_repaired_is_renewed_like_any_other() {
    let case = Case::new();
    case.ensure("team", &[A]).await.unwrap();
    let reconciler = Reconciler::new(case.ensurer.clone(), Arc::<Namespaces>::default(), RetryQueue::new());
    case.store.edit("team");
    reconciler.tick(&leader()).await;
    assert!(is_right(&case, "team"));
    case.advance(130);
    case.azure.renew(A, case.now());
    reconciler.tick(&leader()).await;
    assert_eq!(case.reason("team"), None);
}

/// Namespaces that are gone, or on their way, or have opted out, by their names.
struct Leaving;

impl NamespaceSource for Leaving {
    fn cached(&self, name: &str) -> Option<Arc<Namespace>> {
        let namespace = Namespace { name: name.to_owned(), ..Namespace::default() };
        let opted_out = [(OPT_OUT_LABEL.to_owned(), OPT_OUT_VALUE.to_owned())];
        match name.split_once('-')?.0 {
            "gone" => None,
            "terminating" => Some(Arc::new(Namespace { terminating: true, ..namespace })),
            "optedout" => Some(Arc::new(Namespace { labels: opted_out.into(), ..namespace })),
            _ => Some(Arc::new(namespace)),
        }
    }

    async fn read(&self, name: &str) -> Result<Option<Namespace>, StoreError> {
        Ok(self.cached(name).map(|namespace| (*namespace).clone()))
    }
}

#[tokio::test(start_paused = true)]
async fn namespaces_that_go_away_take_no_place_from_what_is_due() {
    let case = Case::new();
    let mut settings = (**case.ensurer.settings.load()).clone();
    settings.limits.writes_per_second = 50;
    case.ensurer.settings.store(Arc::new(settings));
    case.ensure("team-due", &[A]).await.unwrap();
    case.advance(130);
    case.azure.renew(A, case.now());
    let leaving: Vec<_> = ["gone", "terminating", "optedout"]
        .iter()
        .flat_map(|kind| (0..500).map(move |number| format!("{kind}-{number}")))
        .collect();
    for name in leaving.iter().map(String::as_str).chain(["team-lost"]) {
        case.ensure(name, &[A]).await.unwrap();
        case.store.lose(name);
    }
    let reconciler = Reconciler::new(case.ensurer.clone(), Arc::new(Leaving), RetryQueue::new());
    let before = case.store.writes();
    reconciler.tick(&leader()).await;
    assert_eq!(case.reason("team-due"), None, "it is renewed in the first second");
    assert!(is_right(&case, "team-lost"), "what is still needed is restored");
    assert_eq!(case.store.writes() - before, 2);
}
