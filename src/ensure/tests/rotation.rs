//! Passwords that change, as replicas see it whose files differ.

use std::collections::BTreeMap;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    super::*,
    world::{A, B, Memory, Namespaces, lock, login_server, namespace},
};
use crate::{
    admission::CredentialError,
    config::Configuration,
    domain::pull_secret::{CredentialSourceHash, Password, RegistryCredential},
    retry::RetryQueue,
    secrets::reconciler::Reconciler,
};

/// The files of one replica: the passwords of the rules that can be read.
#[derive(Debug, Default)]
struct Files(Mutex<BTreeMap<String, String>>);

impl Files {
    fn put(&self, registry: &str, password: &str) {
        lock(&self.0).insert(registry.to_owned(), password.to_owned());
    }

    fn read(&self, registry: &RegistryName) -> Option<RegistryCredential> {
        let password = lock(&self.0).get(registry.as_str())?.clone();
        Some(RegistryCredential::stored("user".to_owned(), Password::new(password)))
    }
}

impl CredentialSource for Files {
    async fn credential(
        &self,
        registry: &RegistryName,
        _: &LoginServer,
    ) -> Result<RegistryCredential, CredentialError> {
        let unreadable = || CredentialError { registry: registry.clone(), reason: "there is no file".to_owned() };
        self.read(registry).ok_or_else(unreadable)
    }

    fn source(&self, registry: &RegistryName) -> Option<CredentialSourceHash> {
        self.read(registry).map(|credential| credential.source)
    }
}

/// One rule for each of two registries, and one more for namespaces with a label.
struct Replica {
    files: Arc<Files>,
    store: Arc<Memory>,
    ensurer: Arc<Ensurer<Files, Memory>>,
    retries: RetryQueue,
    reconciler: Reconciler<Files, Memory, Namespaces>,
}

impl Replica {
    fn new(store: &Arc<Memory>, passwords: &[(&str, &str)]) -> Self {
        let rules = "registries:
            - {name: special, hosts: [contoso.azurecr.io], namespaces: {matchLabels: {team: special}},
               credential: {static: {usernameFile: /u, passwordFile: /s}}}
            - {name: contoso, hosts: [contoso.azurecr.io], credential: {static: {usernameFile: /u, passwordFile: /p}}}
            - {name: fabrikam, hosts: [fabrikam.azurecr.io], credential: {static: {usernameFile: /u, passwordFile: /q}}}";
        let settings = Arc::new(ArcSwap::from_pointee(Configuration::parse(rules).unwrap().settings(None)));
        let files = Arc::<Files>::default();
        for (registry, password) in passwords {
            files.put(registry, password);
        }
        let ensurer = Arc::new(Ensurer::new(files.clone(), store.clone(), settings, Arc::default(), Clock::system()));
        let retries = RetryQueue::new();
        let reconciler = Reconciler::new(ensurer.clone(), Arc::default(), retries.clone());
        Self { files, store: store.clone(), ensurer, retries, reconciler }
    }

    /// As when a pod comes.
    async fn serve(&self, name: &str, hosts: &[&str]) {
        let rule = |host: &&str| (login_server(host), host.split('.').next().unwrap().parse().unwrap());
        let wanted = hosts.iter().map(rule).collect();
        self.ensurer.ensure(&namespace(name), &wanted, WriteReason::Admission).await.unwrap();
    }

    fn look(&self) {
        self.ensurer.find_outdated(&Namespaces::default());
    }

    /// Does all that is due now.
    async fn work(&self) {
        let leads = watch::Sender::new(true);
        self.reconciler.tick(&leads.subscribe()).await;
    }

    /// All that goes on in one that does not lead, from a change that it sees now.
    async fn follow(self, change: watch::Receiver<u64>) {
        let (leader, shutdown) = (watch::Sender::new(false).subscribe(), CancellationToken::new());
        let settings = self.ensurer.settings.clone();
        let retrying = self.retries.run(self.ensurer, Arc::<Namespaces>::default(), settings, shutdown.clone());
        tokio::join!(self.reconciler.run(leader, change, shutdown), retrying);
    }

    fn reason(&self, name: &str) -> Option<WriteReason> {
        self.ensurer.upkeep(&namespace(name), self.store.stored(name).as_deref()?)
    }
}

#[tokio::test]
async fn a_credential_that_cannot_be_read_keeps_no_other_password_from_being_renewed() {
    let store = Arc::<Memory>::default();
    Replica::new(&store, &[("contoso", "first"), ("fabrikam", "first")]).serve("team", &[A, B]).await;
    // Since its start this one cannot read the other file.
    let replica = Replica::new(&store, &[("contoso", "second")]);
    replica.look();
    replica.work().await;
    assert_eq!([store.password("team", A), store.password("team", B)], ["second", "first"]);
    let before = (store.writes(), *lock(&store.reads));
    for _ in 0..5 {
        replica.look();
        replica.work().await;
        replica.serve("team", &[A, B]).await;
    }
    assert_eq!((store.writes(), *lock(&store.reads)), before, "all that is known is in it");
    replica.files.put("fabrikam", "second");
    replica.look();
    replica.work().await;
    assert_eq!([store.password("team", A), store.password("team", B)], ["second"; 2]);
}

#[tokio::test]
async fn a_credential_that_cannot_be_read_is_no_reason_to_write() {
    let store = Arc::<Memory>::default();
    Replica::new(&store, &[("contoso", "first"), ("fabrikam", "first")]).serve("team", &[A, B]).await;
    Replica::new(&store, &[("fabrikam", "first")]).serve("other", &[B]).await;
    let before = store.writes();
    let replica = Replica::new(&store, &[("contoso", "first")]);
    for looks in 1..=3 {
        replica.look();
        replica.work().await;
        replica.serve("team", &[A, B]).await;
        assert_eq!((store.writes(), *lock(&store.reads)), (before, looks), "one read tells that nothing is new");
        assert_eq!((replica.reason("team"), replica.reason("other")), (None, None), "it was looked at");
    }
}

/// Its node was cut off, say, and its files are minutes behind.
#[tokio::test(start_paused = true)]
async fn the_old_password_that_a_late_replica_wrote_does_not_stay() {
    let store = Arc::<Memory>::default();
    let first = [("contoso", "first"), ("fabrikam", "first")];
    let (leader, late) = (Replica::new(&store, &first), Replica::new(&store, &first));
    leader.serve("team", &[A]).await;
    for registry in ["contoso", "fabrikam"] {
        leader.files.put(registry, "second");
    }
    leader.look();
    leader.work().await;
    late.serve("team", &[A, B]).await;
    late.serve("new", &[A]).await;
    let passwords = || [store.password("team", A), store.password("team", B), store.password("new", A)];
    assert_eq!(passwords(), ["first"; 3]);
    for registry in ["contoso", "fabrikam"] {
        late.files.put(registry, "second");
    }
    let (_announce, change) = watch::channel(0);
    let mut following = tokio::spawn(late.follow(change));
    let seconds = std::time::Duration::from_secs;
    assert!(tokio::time::timeout(seconds(175), &mut following).await.is_err());
    assert_eq!(passwords(), ["first"; 3], "one that leads comes first");
    assert!(tokio::time::timeout(seconds(10), &mut following).await.is_err());
    assert_eq!(passwords(), ["second"; 3]);
    let writes = store.writes();
    assert!(tokio::time::timeout(seconds(3600), &mut following).await.is_err());
    assert_eq!(store.writes(), writes);
    following.abort();
}

#[tokio::test]
async fn what_another_replica_brought_up_to_date_is_out_of_date_no_more() {
    let store = Arc::<Memory>::default();
    let (leader, other) =
        (Replica::new(&store, &[("contoso", "first")]), Replica::new(&store, &[("contoso", "first")]));
    leader.serve("team", &[A]).await;
    for replica in [&leader, &other] {
        replica.files.put("contoso", "second");
        replica.look();
    }
    leader.work().await;
    assert_eq!(other.reason("team"), None);
    // This time the other one is late.
    leader.files.put("contoso", "third");
    leader.look();
    leader.work().await;
    other.serve("team", &[A]).await;
    assert_eq!(store.password("team", A), "third", "a pod brings no old password back");
}

#[tokio::test]
async fn other_labels_of_one_namespace_bring_no_old_password_back_elsewhere() {
    let store = Arc::<Memory>::default();
    Replica::new(&store, &[("fabrikam", "second")]).serve("other", &[B]).await;
    let late = Replica::new(&store, &[("contoso", "first"), ("fabrikam", "first"), ("special", "first of special")]);
    late.serve("team", &[A]).await;
    late.reconciler.heed_labels();
    *lock(&late.reconciler.namespaces.labels) = BTreeMap::from([("team".to_owned(), "special".to_owned())]);
    late.reconciler.heed_labels();
    late.work().await;
    assert_eq!(store.password("team", A), "first of special");
    assert_eq!(store.password("other", B), "second");
}
