//! Passwords that change, as replicas see it whose files differ.

use std::collections::BTreeMap;

use tokio::sync::watch;

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

/// One rule for each of two registries.
struct Replica {
    files: Arc<Files>,
    store: Arc<Memory>,
    ensurer: Arc<Ensurer<Files, Memory>>,
    reconciler: Reconciler<Files, Memory, Namespaces>,
}

impl Replica {
    fn new(store: &Arc<Memory>, passwords: &[(&str, &str)]) -> Self {
        let rules = "registries:
            - {name: contoso, hosts: [contoso.azurecr.io], credential: {static: {usernameFile: /u, passwordFile: /p}}}
            - {name: fabrikam, hosts: [fabrikam.azurecr.io], credential: {static: {usernameFile: /u, passwordFile: /q}}}";
        let settings = Arc::new(ArcSwap::from_pointee(Configuration::parse(rules).unwrap().settings(None)));
        let files = Arc::<Files>::default();
        for (registry, password) in passwords {
            files.put(registry, password);
        }
        let ensurer = Arc::new(Ensurer::new(files.clone(), store.clone(), settings, Arc::default(), Clock::system()));
        let reconciler = Reconciler::new(ensurer.clone(), Arc::default(), RetryQueue::new());
        Self { files, store: store.clone(), ensurer, reconciler }
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
