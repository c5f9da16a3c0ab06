//! Healing: what went wrong while nobody was there to see it.
//!
//! [`missing`] listens to kubelets that miss a pull secret, and has it made at once. [`stuck`] finds the pods that no pull
//! secret can help any more, since they were created without naming it; it counts them, says so on the pod, and where the
//! operator wants it evicts those that a controller makes anew. Where a pull secret lacks what a pod waits for, it has that
//! added. Only the leader heals.

pub mod missing;
pub mod pods;
pub mod stuck;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{missing::MissingPullSecrets, stuck::StuckPods};
use crate::{
    admission::{CredentialSource, NamespaceSource, PullSecretStore},
    clients::Clients,
    ensure::Ensurer,
    events::Events,
    retry::RetryQueue,
};

/// What the operator decided about healing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealSettings {
    /// Evict stuck pods that a controller makes anew.
    pub evict_stuck_pods: bool,
}

/// What healing works with.
#[derive(Debug)]
pub struct Healer<C, S, N> {
    /// Writes pull secrets.
    pub ensurer: Arc<Ensurer<C, S>>,
    /// Knows what namespaces are granted.
    pub namespaces: Arc<N>,
    /// Takes over what could not be done at once.
    pub retries: RetryQueue,
    /// What the operator decided.
    pub settings: Arc<ArcSwap<HealSettings>>,
    /// Tells the owners of namespaces and pods.
    pub events: Events,
}

impl<C: CredentialSource, S: PullSecretStore, N: NamespaceSource> Healer<C, S, N> {
    /// Heals until `shutdown`, while `leader` says so.
    ///
    /// The patient client is not used: a budget that forbids an eviction is answered by 429, which it would ask fifteen times
    /// over.
    pub async fn run(self, clients: Clients, mut leader: watch::Receiver<bool>, shutdown: CancellationToken) {
        let healer = Arc::new(self);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = becomes(&mut leader, true) => {}
            }
            let missing = MissingPullSecrets::new(healer.clone(), &clients);
            let mut stuck = StuckPods::new(healer.clone(), clients.single_attempt.clone());
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = becomes(&mut leader, false) => {}
                () = async { tokio::join!(missing.follow(), stuck.run()); } => {}
            }
            healer.ensurer.metrics.stuck_pods(0);
        }
    }
}

/// Waits until `leader` says `value`. Without anybody who could say so it waits for ever.
async fn becomes(leader: &mut watch::Receiver<bool>, value: bool) {
    if leader.wait_for(|leads| *leads == value).await.is_err() {
        std::future::pending::<()>().await;
    }
}
