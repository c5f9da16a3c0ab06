//! The healing half of a replica, in the process of the test.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use acr_pull_injector::{
    admission::{CredentialError, CredentialSource, NamespaceSource},
    clock::Clock,
    config::Configuration,
    domain::{
        image::LoginServer,
        pull_secret::{CredentialSourceHash, Password, RegistryCredential},
        registry::RegistryName,
    },
    ensure::Ensurer,
    events::{Events, Ourselves},
    heal::{HealSettings, Healer, stuck::StuckPods},
    lifecycle::Readiness,
    metrics::Metrics,
    namespaces::KubernetesNamespaces,
    retry::RetryQueue,
    secrets::store::KubernetesPullSecrets,
};
use arc_swap::ArcSwap;
use installation::RELEASE;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::OPT_OUT;
use crate::world::{Error, eventually};

type TestHealer = Healer<OneCredential, KubernetesPullSecrets, KubernetesNamespaces>;

/// The healing half of a replica, in this process: its rounds come when a case says so.
pub struct Healing {
    healer: Arc<TestHealer>,
    client: Client,
    namespaces: Arc<KubernetesNamespaces>,
    pub settings: Arc<ArcSwap<HealSettings>>,
    metrics: Arc<Metrics>,
    /// Seconds by which Events are ahead of the time.
    pub later_by: Arc<AtomicI64>,
    _stop: DropGuard,
}

impl Healing {
    pub async fn start(kubeconfig: &Kubeconfig) -> Result<Self, Error> {
        let client = Self::client(kubeconfig).await?;
        let configuration = "
registries:
- name: contoso
  hosts: [contoso.azurecr.io]
  credential: {static: {usernameFile: /nowhere, passwordFile: /nowhere}}
";
        let rules = Arc::new(ArcSwap::from_pointee(Configuration::parse(configuration)?.settings(Some(RELEASE))));
        let (metrics, settings) = (Arc::new(Metrics::new()), Arc::new(ArcSwap::from_pointee(HealSettings::default())));
        let stop = CancellationToken::new();
        let namespaces = Arc::new(KubernetesNamespaces::new(client.clone()));
        let synced = Readiness::new().gate("namespaces");
        tokio::spawn(namespaces.clone().follow(client.clone(), synced.clone(), stop.clone()));
        synced.opened().await;
        let later_by = Arc::new(AtomicI64::new(0));
        let seconds = later_by.clone();
        let clock = Clock::from_fn(move || {
            jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds.load(Ordering::SeqCst))
        });
        let (events, recorder) = Events::new(metrics.clone(), clock);
        let ourselves = Ourselves { namespace: RELEASE.to_owned(), pod: None };
        tokio::spawn(recorder.run(client.clone(), ourselves, stop.clone()));
        let secrets = Arc::new(KubernetesPullSecrets::new(client.clone(), rules.clone()));
        let ensurer = Ensurer::new(Arc::new(OneCredential), secrets, rules.clone(), metrics.clone(), Clock::system());
        let (ensurer, retries) = (Arc::new(ensurer), RetryQueue::new());
        tokio::spawn(retries.clone().run(ensurer.clone(), namespaces.clone(), rules, stop.clone()));
        let healer = Healer { ensurer, namespaces: namespaces.clone(), retries, settings: settings.clone(), events };
        let (healer, guard) = (Arc::new(healer), stop.drop_guard());
        Ok(Self { healer, client, namespaces, settings, metrics, later_by, _stop: guard })
    }

    /// As `serve` makes it: it does not try again by itself.
    pub async fn client(kubeconfig: &Kubeconfig) -> Result<Client, Error> {
        let mut config = Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default()).await?;
        config.default_retry = false;
        Ok(Client::try_from(config)?)
    }

    pub fn stuck_pods(&self) -> StuckPods<OneCredential, KubernetesPullSecrets, KubernetesNamespaces> {
        StuckPods::new(self.healer.clone(), self.client.clone())
    }

    pub async fn wait_for_opt_in(&self, namespace: &str) -> Result<(), Error> {
        eventually("the namespace to opt in", || async {
            let known = self.namespaces.cached(namespace);
            Ok(known.filter(|namespace| !namespace.labels.contains_key(OPT_OUT.0)).map(drop))
        })
        .await
    }

    pub fn metric(&self, name: &str) -> Result<f64, Error> {
        let text = self.metrics.encode(0, None);
        let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| format!("no {name}"))?;
        Ok(line.trim().parse()?)
    }
}

pub struct OneCredential;

impl CredentialSource for OneCredential {
    async fn credential(&self, _: &RegistryName, _: &LoginServer) -> Result<RegistryCredential, CredentialError> {
        Ok(RegistryCredential::stored("contoso-app".to_owned(), Password::new("contoso-password".to_owned())))
    }

    fn source(&self, _: &RegistryName) -> Option<CredentialSourceHash> {
        None
    }
}
