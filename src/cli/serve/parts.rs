//! What runs behind the servers: certificates, watches, credentials, reconciler, election, reload.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use certs::{CertificateFiles, Lifetimes, SelfManaged, ServingCertificate};
use tokio::sync::{Notify, watch};

use super::{
    Process,
    arguments::{CertificateArguments, CertificateSource, ElectionArguments},
    registration,
};
use crate::{
    admission::{Admission, Waiting},
    clients::Clients,
    clock::Clock,
    config::Configuration,
    credentials::Credentials,
    domain::pull_secret::MANAGER,
    ensure::Ensurer,
    events::{Events, Ourselves},
    heal::{HealSettings, Healer},
    leader,
    namespaces::KubernetesNamespaces,
    reload::ConfigurationReload,
    retry::RetryQueue,
    secrets::{reconciler::Reconciler, store::KubernetesPullSecrets},
};

const CERTIFICATE_CHECK_INTERVAL: Duration = Duration::from_secs(10);

impl CertificateArguments {
    /// Starts whatever keeps the serving certificate right.
    pub(super) fn start(self, clients: &Clients, own_namespace: &str, serving: &ServingCertificate, process: &Process) {
        let Process { lifecycle, readiness, .. } = process;
        let Self { certificate_source, certificate_secret, service, webhook_configuration, certificate_directory } =
            self;
        match certificate_source {
            CertificateSource::SelfManaged => {
                let changed = Arc::<Notify>::default();
                let (watches, name) = (clients.watches.clone(), webhook_configuration.clone());
                let following = registration::follow(watches, name, changed.clone(), lifecycle.stopping().clone());
                lifecycle.spawn("webhook configuration", following);
                let self_managed = SelfManaged {
                    client: clients.patient.clone(),
                    namespace: own_namespace.to_owned(),
                    secret_name: certificate_secret,
                    // The API server asks for the first; the others are for people who try by hand.
                    dns_names: vec![
                        format!("{service}.{own_namespace}.svc"),
                        format!("{service}.{own_namespace}.svc.cluster.local"),
                        format!("{service}.{own_namespace}"),
                    ],
                    webhook_configuration,
                    field_manager: MANAGER.to_owned(),
                    lifetimes: Lifetimes::default(),
                    check_interval: CERTIFICATE_CHECK_INTERVAL,
                    changed,
                };
                lifecycle.spawn("certificates", self_managed.run(serving.clone(), lifecycle.stopping().clone()));
            }
            CertificateSource::Files => {
                let files =
                    CertificateFiles { directory: certificate_directory, poll_interval: CERTIFICATE_CHECK_INTERVAL };
                lifecycle.spawn("certificates", files.run(serving.clone(), lifecycle.stopping().clone()));
            }
        }
        let gate = readiness.gate("serving certificate");
        let (serving, stopping) = (serving.clone(), lifecycle.stopping().clone());
        drop(lifecycle.spawn_work(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = serving.loaded() => gate.open(),
            }
        }));
    }
}

/// What the servers need of the running parts.
pub(super) struct Parts {
    pub(super) admission: Admission<Credentials, KubernetesPullSecrets, KubernetesNamespaces>,
    pub(super) pull_secrets: Arc<KubernetesPullSecrets>,
}

/// Builds the use case and starts what runs behind it: watches, retries, reconciler, reload.
pub(super) async fn start_parts(
    clients: Clients,
    configuration: Configuration,
    configuration_file: PathBuf,
    own_namespace: String,
    election: ElectionArguments,
    process: &Process,
) -> Parts {
    let ElectionArguments { lease, identity } = election;
    let pod = identity.clone();
    let identity = identity.unwrap_or_else(|| format!("{MANAGER}-{:016x}", fastrand::u64(..)));
    let Process { lifecycle, readiness, metrics } = process;
    let stopping = lifecycle.stopping();
    let (announce, changes) = watch::channel(0);
    if configuration.rules.is_empty() {
        tracing::warn!(file = %configuration_file.display(), "no registry is configured: every pod is admitted unchanged");
    }
    let (events, recorder) = Events::new(metrics.clone(), Clock::system());
    let ourselves = Ourselves { namespace: own_namespace.clone(), pod };
    lifecycle.spawn("events", recorder.run(clients.patient.clone(), ourselves, stopping.clone()));
    let settings = Arc::new(ArcSwap::from_pointee(configuration.settings(Some(&own_namespace))));
    let credentials = Arc::new(Credentials::read(&configuration, metrics.clone(), Clock::system()).await);
    lifecycle.spawn("credentials", credentials.clone().follow(announce.clone(), stopping.clone()));

    let namespaces = Arc::new(KubernetesNamespaces::new(clients.patient.clone()));
    let namespaces_synced = readiness.gate("namespaces");
    let following = namespaces.clone().follow(clients.watches.clone(), namespaces_synced.clone(), stopping.clone());
    lifecycle.spawn("namespaces", following);
    let pull_secrets = KubernetesPullSecrets::new(clients.patient.clone(), settings.clone());
    let pull_secrets = Arc::new(pull_secrets.with_changes(announce.clone()));
    let pull_secrets_synced = readiness.gate("pull secrets");
    let following = pull_secrets.clone().follow(clients.watches.clone(), pull_secrets_synced.clone(), stopping.clone());
    lifecycle.spawn("pull secrets", following);

    let ensurer =
        Ensurer::new(credentials.clone(), pull_secrets.clone(), settings.clone(), metrics.clone(), Clock::system());
    let ensurer = Arc::new(ensurer.with_events(events.clone()).with_recovery(pull_secrets.recovery()));
    let retries = RetryQueue::new();
    lifecycle
        .spawn("retries", retries.clone().run(ensurer.clone(), namespaces.clone(), settings.clone(), stopping.clone()));
    let leader = watch::Sender::new(false);
    let (client, outcome) = (clients.single_attempt.clone(), leader.clone());
    let election =
        leader::run(client, own_namespace.clone(), lease, identity, outcome, metrics.clone(), stopping.clone());
    lifecycle.spawn("election", election);
    let heal_settings =
        Arc::new(ArcSwap::from_pointee(HealSettings { evict_stuck_pods: configuration.evict_stuck_pods }));
    let healer = Healer {
        ensurer: ensurer.clone(),
        namespaces: namespaces.clone(),
        retries: retries.clone(),
        settings: heal_settings.clone(),
        events: events.clone(),
    };
    let synced = || {
        let (namespaces, pull_secrets) = (namespaces_synced.clone(), pull_secrets_synced.clone());
        async move {
            namespaces.opened().await;
            pull_secrets.opened().await;
        }
    };
    let (following, shutdown, caches) = (leader.subscribe(), stopping.clone(), synced());
    lifecycle.spawn("healing", async move {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = caches => {}
        }
        healer.run(clients, following, shutdown).await;
    });
    let reconciler = Reconciler::new(ensurer.clone(), namespaces.clone(), retries.clone());
    let (following, shutdown, caches) = (leader.subscribe(), stopping.clone(), synced());
    lifecycle.spawn("reconciler", async move {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = caches => {}
        }
        reconciler.run(following, changes, shutdown).await;
    });
    let reload = ConfigurationReload {
        path: configuration_file,
        own_namespace,
        current: configuration,
        settings: settings.clone(),
        heal_settings,
        events: events.clone(),
        credentials,
        metrics: metrics.clone(),
        announce,
    };
    lifecycle.spawn("configuration", reload.run(stopping.clone()));

    let admission = Admission {
        ensurer,
        namespaces,
        retries,
        settings,
        waiting: Waiting::default(),
        events,
        lifecycle: lifecycle.clone(),
        metrics: metrics.clone(),
    };
    Parts { admission, pull_secrets }
}
