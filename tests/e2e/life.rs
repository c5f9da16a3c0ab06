//! The life of tokens in pull secrets, on a clock that the case moves: the parts of the program run in this process, over
//! the real API server and a fake Azure, beside the installed product and under another name.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use acr_pull_injector::{
    admission::{NamespaceSource, PullSecretStore},
    clock::Clock,
    config::Configuration,
    credentials::Credentials,
    domain::{
        image::LoginServer,
        pull_secret::{EXPIRES_AT_ANNOTATION, Lifetime, Password, PullSecret, RegistryCredential},
        registry::RegistryName,
    },
    ensure::{Ensurer, WriteReason},
    lifecycle::Readiness,
    metrics::Metrics,
    namespaces::KubernetesNamespaces,
    retry::RetryQueue,
    secrets::{reconciler::Reconciler, store::KubernetesPullSecrets},
};
use arc_swap::ArcSwap;
use fake_azure::{FakeAzure, TENANT};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::world::{Error, World, entries, eventually, expect, expect_equal};

const CLIENT: &str = "11111111-2222-3333-4444-555555555555";

/// The parts of one replica.
struct Replica {
    credentials: Arc<Credentials>,
    store: Arc<KubernetesPullSecrets>,
    namespaces: Arc<KubernetesNamespaces>,
    ensurer: Arc<Ensurer<Credentials, KubernetesPullSecrets>>,
    reconciler: Reconciler<Credentials, KubernetesPullSecrets, KubernetesNamespaces>,
    leader: watch::Receiver<bool>,
    shutdown: CancellationToken,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A case: its clock, its Azure, and where its pull secrets stand.
struct Case {
    world: Arc<World>,
    name: String,
    now: Arc<Mutex<Timestamp>>,
    /// By how much the clock of the replica's node is ahead.
    ahead: Arc<Mutex<SignedDuration>>,
    azure: FakeAzure,
    secret_file: tempfile::NamedTempFile,
    namespaces: Vec<String>,
}

impl Case {
    async fn start(world: Arc<World>, name: &str, namespaces: usize) -> Result<Self, Error> {
        let now = Arc::new(Mutex::new("2026-11-24T08:00:00Z".parse()?));
        let azure = FakeAzure::start_at(time(&now)).await;
        azure.entra().application(CLIENT).add_secret("first-secret");
        azure.registry("contoso").grant(CLIENT);
        let secret_file = tempfile::NamedTempFile::new()?;
        std::fs::write(secret_file.path(), "first-secret")?;
        let mut names = Vec::new();
        for _ in 0..namespaces {
            names.push(world.namespace(&[]).await?);
        }
        let ahead = Arc::default();
        Ok(Self { world, name: name.to_owned(), now, ahead, azure, secret_file, namespaces: names })
    }

    fn configuration(&self) -> Result<Configuration, Error> {
        let text = format!(
            "pullSecretName: {name}\n\
             registries:\n\
             - name: contoso\n  \
               hosts: [\"{host}\"]\n  \
               credential:\n    \
                 servicePrincipal: {{tenantId: {TENANT}, clientId: {CLIENT}, clientSecretFile: {secret}, delivery: token}}\n\
             azure: {{authorityHost: \"{authority}\", extraSuffixes: [localhost], caFile: {ca}}}\n",
            name = self.name,
            host = self.azure.login_server("contoso"),
            secret = self.secret_file.path().display(),
            authority = self.azure.authority_host(),
            ca = self.azure.ca_file().display(),
        );
        Ok(Configuration::parse(&text)?)
    }

    async fn replica(&self) -> Result<Replica, Error> {
        let configuration = self.configuration()?;
        let (clock, metrics, shutdown) =
            (clock(&self.now, &self.ahead), Arc::new(Metrics::new()), CancellationToken::new());
        let settings = Arc::new(ArcSwap::from_pointee(configuration.settings(None)));
        let credentials = Arc::new(Credentials::read(&configuration, metrics.clone(), clock.clone()).await);
        let store = Arc::new(KubernetesPullSecrets::new(self.world.client.clone(), settings.clone()));
        let namespaces = Arc::new(KubernetesNamespaces::new(self.world.client.clone()));
        let readiness = Readiness::new();
        let gates = [readiness.gate("namespaces"), readiness.gate("pull secrets")];
        tokio::spawn(namespaces.clone().follow(self.world.client.clone(), gates[0].clone(), shutdown.clone()));
        tokio::spawn(store.clone().follow(self.world.client.clone(), gates[1].clone(), shutdown.clone()));
        for gate in &gates {
            gate.opened().await;
        }
        let ensurer = Arc::new(Ensurer::new(credentials.clone(), store.clone(), settings, metrics, clock));
        let reconciler = Reconciler::new(ensurer.clone(), namespaces.clone(), RetryQueue::new());
        let leader = watch::Sender::new(true).subscribe();
        Ok(Replica { credentials, store, namespaces, ensurer, reconciler, leader, shutdown })
    }

    fn wanted(&self) -> Result<BTreeMap<LoginServer, RegistryName>, Error> {
        let settings = self.configuration()?.settings(None);
        let login_server = settings.rules.login_servers().parse(&self.azure.login_server("contoso"))?;
        Ok(BTreeMap::from([(login_server, "contoso".parse()?)]))
    }

    /// As if a pod came in each namespace.
    async fn ensure_all(&self, replica: &Replica) -> Result<(), Error> {
        for name in &self.namespaces {
            let namespace = replica.namespaces.read(name).await?.ok_or("no such namespace")?;
            replica.ensurer.ensure(&namespace, &self.wanted()?, WriteReason::Admission).await?;
        }
        Ok(())
    }

    async fn secret(&self, namespace: &str) -> Result<Secret, Error> {
        Ok(Api::namespaced(self.world.client.clone(), namespace).get(&self.name).await?)
    }

    /// The token that a namespace's pull secret holds.
    async fn token(&self, namespace: &str) -> Result<String, Error> {
        let entries = entries(&self.secret(namespace).await?)?;
        let (username, password) = entries.get(&self.azure.login_server("contoso")).ok_or("the host is missing")?;
        expect_equal("user name", username.as_str(), "00000000-0000-0000-0000-000000000000")?;
        Ok(password.clone())
    }

    /// Whether the registry would let a pod of every namespace pull right now.
    async fn all_can_pull(&self) -> Result<bool, Error> {
        for namespace in &self.namespaces {
            let token = self.token(namespace).await?;
            if !self.azure.registry("contoso").accepts("00000000-0000-0000-0000-000000000000", &token) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Moves the clock, and lets the replica do what it does all the time.
    async fn advance(&self, replica: &Replica, by: SignedDuration) -> Result<(), Error> {
        {
            let mut now = self.now.lock().unwrap();
            *now += by;
        }
        replica.credentials.reread().await;
        replica.credentials.renew_due().await;
        replica.reconciler.tick(&replica.leader).await;
        // What was written comes back through the watch before the next decision.
        eventually("the cache to follow", || async {
            for namespace in &self.namespaces {
                let stored = replica.store.stored(namespace).ok_or("not in the cache")?;
                if Some(&stored.resource_version) != self.secret(namespace).await?.metadata.resource_version.as_ref() {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await
    }
}

fn time(now: &Arc<Mutex<Timestamp>>) -> Arc<dyn Fn() -> Timestamp + Send + Sync> {
    let now = now.clone();
    Arc::new(move || *now.lock().unwrap())
}

fn clock(now: &Arc<Mutex<Timestamp>>, ahead: &Arc<Mutex<SignedDuration>>) -> Clock {
    let (time, ahead) = (time(now), ahead.clone());
    Clock::from_fn(move || time() + *ahead.lock().unwrap())
}

/// 24 hours in steps of five minutes: about one exchange for each half of a token's life, whatever the number of
/// namespaces, and at no time a pull secret that the registry would refuse.
pub async fn tokens_are_renewed_over_a_day(world: Arc<World>) -> Result<(), Error> {
    let case = Case::start(world, "life-of-a-day", 4).await?;
    let replica = case.replica().await?;
    case.ensure_all(&replica).await?;
    expect_equal("exchanges for four namespaces", case.azure.registry("contoso").exchanges(), 1)?;
    let uid = case.secret(&case.namespaces[0]).await?.metadata.uid;
    let mut tokens = std::collections::BTreeSet::new();
    for step in 0..288 {
        case.advance(&replica, SignedDuration::from_mins(5)).await?;
        expect(case.all_can_pull().await?, format!("a pull secret is of no use after {} minutes", 5 * (step + 1)))?;
        tokens.insert(case.token(&case.namespaces[0]).await?);
    }
    let exchanges = case.azure.registry("contoso").exchanges();
    expect((14..=20).contains(&exchanges), format!("{exchanges} exchanges in 24 hours"))?;
    expect((14..=20).contains(&tokens.len()), format!("{} tokens in one pull secret in 24 hours", tokens.len()))?;
    expect_equal("uid", case.secret(&case.namespaces[0]).await?.metadata.uid, uid)?;
    let stored = replica.store.stored(&case.namespaces[0]).ok_or("no pull secret")?;
    let lifetime = stored.hosts.iter().find_map(|host| host.lifetime);
    let Some(Lifetime { expires_at, .. }) = lifetime else { return Err("no lifetime in the metadata".into()) };
    expect(expires_at > *case.now.lock().unwrap(), "the annotation says that it has expired")
}

/// A replica that starts when all is right, and one that takes over the lead, write nothing and ask Azure for one token.
pub async fn a_restart_writes_nothing(world: Arc<World>) -> Result<(), Error> {
    let case = Case::start(world, "life-restart", 3).await?;
    let first = case.replica().await?;
    case.ensure_all(&first).await?;
    drop(first);
    let mut before = Vec::new();
    for namespace in &case.namespaces {
        before.push(case.secret(namespace).await?.metadata.resource_version);
    }
    let second = case.replica().await?;
    second.ensurer.find_outdated(second.namespaces.as_ref());
    for _ in 0..5 {
        case.advance(&second, SignedDuration::from_mins(10)).await?;
    }
    for (namespace, before) in case.namespaces.iter().zip(before) {
        expect_equal("resourceVersion", case.secret(namespace).await?.metadata.resource_version, before)?;
    }
    let exchanges = case.azure.registry("contoso").exchanges();
    expect(exchanges <= 2, format!("{exchanges} exchanges by two replicas"))
}

/// Azure is away for an hour just when tokens fall due, and comes back.
pub async fn pull_secrets_outlive_an_hour_without_azure(world: Arc<World>) -> Result<(), Error> {
    let case = Case::start(world, "life-outage", 2).await?;
    let replica = case.replica().await?;
    case.ensure_all(&replica).await?;
    let first = case.token(&case.namespaces[0]).await?;
    case.advance(&replica, SignedDuration::from_mins(80)).await?;
    case.azure.go_away().await;
    for _ in 0..12 {
        case.advance(&replica, SignedDuration::from_mins(5)).await?;
        expect_equal("token during the outage", case.token(&case.namespaces[0]).await?, first.clone())?;
    }
    case.azure.come_back().await;
    for _ in 0..8 {
        case.advance(&replica, SignedDuration::from_mins(5)).await?;
    }
    expect(case.token(&case.namespaces[0]).await? != first, "the token was not renewed after the outage")?;
    expect(case.all_can_pull().await?, "the new token is of no use")
}

/// The operator stores a new password beside the old one, then revokes the old one. Meanwhile nothing stops working.
pub async fn a_rotated_secret_is_taken_over(world: Arc<World>) -> Result<(), Error> {
    let case = Case::start(world, "life-rotation", 2).await?;
    let replica = case.replica().await?;
    case.ensure_all(&replica).await?;
    let first = case.token(&case.namespaces[0]).await?;
    case.azure.entra().application(CLIENT).add_secret("second-secret");
    std::fs::write(case.secret_file.path(), "second-secret")?;
    replica.credentials.reread().await;
    replica.ensurer.find_outdated(replica.namespaces.as_ref());
    case.advance(&replica, SignedDuration::from_mins(1)).await?;
    let second = case.token(&case.namespaces[0]).await?;
    expect(second != first, "the pull secret still holds a token of the old password")?;
    case.azure.entra().application(CLIENT).set_secret("first-secret", fake_azure::SecretState::Revoked);
    for _ in 0..24 {
        case.advance(&replica, SignedDuration::from_mins(10)).await?;
        expect(case.all_can_pull().await?, "a pull secret is of no use after the rotation")?;
    }
    Ok(())
}

/// A wrong password in the file stops nothing that works.
pub async fn a_wrong_secret_does_not_take_a_good_token_away(world: Arc<World>) -> Result<(), Error> {
    let case = Case::start(world, "life-wrong", 1).await?;
    let replica = case.replica().await?;
    case.ensure_all(&replica).await?;
    let first = case.token(&case.namespaces[0]).await?;
    std::fs::write(case.secret_file.path(), "mistyped")?;
    replica.credentials.reread().await;
    replica.ensurer.find_outdated(replica.namespaces.as_ref());
    for _ in 0..10 {
        case.advance(&replica, SignedDuration::from_mins(5)).await?;
        expect_equal("token", case.token(&case.namespaces[0]).await?, first.clone())?;
    }
    std::fs::write(case.secret_file.path(), "first-secret")?;
    for _ in 0..14 {
        case.advance(&replica, SignedDuration::from_mins(5)).await?;
        expect(case.all_can_pull().await?, "a pull secret is of no use")?;
    }
    expect(case.token(&case.namespaces[0]).await? != first, "no renewal after the password was mended")
}

/// From tokens to a password: were anything of the tokens' life to stay, the pull secret would look expired for ever.
pub async fn a_pull_secret_of_passwords_does_not_expire(world: Arc<World>) -> Result<(), Error> {
    let case = Case::start(world, "life-to-password", 1).await?;
    let replica = case.replica().await?;
    case.ensure_all(&replica).await?;
    let namespace = &case.namespaces[0];
    for password in ["first", "second"] {
        let stored = replica.store.stored(namespace).ok_or("no pull secret")?;
        let credential = RegistryCredential::stored("somebody".to_owned(), Password::new(password.to_owned()));
        let credentials = case.wanted()?.into_keys().map(|login_server| (login_server, credential.clone())).collect();
        replica.store.update(namespace, &PullSecret::new(credentials), &stored).await?;
        let stored = replica.store.stored(namespace).ok_or("no pull secret")?;
        let lifetimes: Vec<_> = stored.hosts.iter().filter_map(|host| host.lifetime).collect();
        expect_equal(password, (lifetimes, stored.untouched), (vec![], true))?;
    }
    let annotations = case.secret(namespace).await?.metadata.annotations.unwrap_or_default();
    expect_equal("until when it is good", annotations.get(EXPIRES_AT_ANNOTATION).map(String::as_str), Some(""))
}

/// The clock of the node jumps hours ahead and back, while that of Azure goes on. Pods pull all the time, the registry is
/// not asked for a token again and again, and once the clock is right all goes on as if nothing had been.
pub async fn a_clock_that_jumps_stops_nothing(world: Arc<World>) -> Result<(), Error> {
    let case = Case::start(world, "life-of-a-clock", 2).await?;
    let replica = case.replica().await?;
    case.ensure_all(&replica).await?;
    for hours in [5, -5, 48, -48, 0] {
        *case.ahead.lock().unwrap() = SignedDuration::from_hours(hours);
        let exchanges = case.azure.registry("contoso").exchanges();
        for _ in 0..30 {
            case.advance(&replica, SignedDuration::from_secs(10)).await?;
            // As pods come: while no token is good by this clock, they pass with a warning.
            drop(case.ensure_all(&replica).await);
            expect(case.all_can_pull().await?, format!("a pull secret is of no use, the clock is ahead by {hours} h"))?;
        }
        let exchanges = case.azure.registry("contoso").exchanges() - exchanges;
        expect(exchanges <= 12, format!("{exchanges} exchanges in five minutes, the clock is ahead by {hours} h"))?;
    }
    // Set back for longer than a token lives: by a clock that shows the past none would ever end.
    *case.ahead.lock().unwrap() = SignedDuration::from_hours(-5);
    for _ in 0..48 {
        case.advance(&replica, SignedDuration::from_mins(5)).await?;
        case.ensure_all(&replica).await?;
        expect(case.all_can_pull().await?, "a pull secret is of no use, the clock is behind by 5 h")?;
    }
    *case.ahead.lock().unwrap() = SignedDuration::ZERO;
    case.advance(&replica, SignedDuration::from_secs(10)).await?;
    let before = case.azure.registry("contoso").exchanges();
    for _ in 0..48 {
        case.advance(&replica, SignedDuration::from_mins(5)).await?;
        expect(case.all_can_pull().await?, "a pull secret is of no use after the clock was set right")?;
    }
    let exchanges = case.azure.registry("contoso").exchanges() - before;
    expect((2..=6).contains(&exchanges), format!("{exchanges} exchanges in four hours of a right clock"))
}
