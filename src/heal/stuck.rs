//! Pods that cannot pull are looked for on a slow clock: those that were created without the pull secret, and those whose pull
//! secret lacks what they pull from. Of the latter no kubelet complains, since the pull secret is there.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::time::MissedTickBehavior;

use super::{
    Healer,
    pods::{Eviction, Page, Pods, PodsError},
};
use crate::{
    admission::{CredentialSource, NamespaceSource, PullSecretStore},
    domain::{
        decision::Settings,
        pull_secret::Origin,
        registry::Namespace,
        stuck_pod::{self, ListedPod, StuckPod, eviction::Evictions},
    },
    events::PodReference,
};

/// Finds stuck pods, round by round.
#[derive(Debug)]
pub struct StuckPods<C, S, N> {
    healer: Arc<Healer<C, S, N>>,
    pods: Pods,
    evictions: Evictions,
    /// Evictions begin with the second round: the replicas may have started in this minute, and the API server may not
    /// trust them yet. A pod that is evicted too early comes back as it was.
    may_evict: bool,
}

/// Time between two rounds.
const INTERVAL: Duration = Duration::from_secs(60);
/// Pods that are evicted in a round at most.
const PER_ROUND: usize = 10;

impl<C: CredentialSource, S: PullSecretStore, N: NamespaceSource> StuckPods<C, S, N> {
    /// Looks through `client`, which must not try again by itself (see [`Healer::run`]).
    pub fn new(healer: Arc<Healer<C, S, N>>, client: Client) -> Self {
        Self { healer, pods: Pods::new(client), evictions: Evictions::new(PER_ROUND), may_evict: false }
    }

    /// Works for ever.
    pub async fn run(&mut self) {
        let mut rounds = tokio::time::interval(INTERVAL);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            self.tick().await;
        }
    }

    /// One round: counts the stuck pods, tells about them and, from the second round on, evicts some of them if the
    /// operator wants it.
    pub async fn tick(&mut self) {
        let evicts = self.healer.settings.load().evict_stuck_pods && self.may_evict;
        self.evictions.begin(self.healer.ensurer.clock.now());
        match self.find().await {
            Ok(count) => self.healer.ensurer.metrics.stuck_pods(count),
            Err(error) => {
                tracing::warn!(%error, "the pending pods could not be listed");
                return;
            }
        }
        if evicts {
            for candidate in self.evictions.choose() {
                let evicted = self.evict(&candidate.pod).await;
                self.evictions.record(candidate, evicted);
            }
        }
        self.may_evict = true;
    }

    async fn find(&mut self) -> Result<usize, PodsError> {
        let settings = self.healer.ensurer.settings.load_full();
        let mut count = 0;
        let mut page: Option<Page> = None;
        while let Some(mut next) = self.pods.pending(page.as_ref()).await? {
            for pod in std::mem::take(&mut next.items) {
                let Some(namespace) = self.healer.namespaces.cached(pod.namespace()) else { continue };
                self.complete(&pod, &namespace, &settings);
                let Some(pod) = stuck_pod::find(&pod, &namespace, &settings) else { continue };
                count += 1;
                self.tell(&pod, &settings);
                let name = format!("{}/{}", pod.namespace, pod.name);
                if !self.evictions.offer(pod) {
                    tracing::warn!(
                        pod = name,
                        "the pod came back without the pull secret, its controller is left alone"
                    );
                }
            }
            page = Some(next);
        }
        Ok(count)
    }

    /// Has the pull secret made whole for a pod that names it: one that came while the webhook was away, or from before a rule
    /// was put back, or whose retry was lost with its replica.
    fn complete(&self, pod: &ListedPod, namespace: &Namespace, settings: &Settings) {
        let (ensurer, wanted) = (&self.healer.ensurer, stuck_pod::may_lack(pod, namespace, settings));
        let is_foreign =
            || ensurer.store.stored(&namespace.name).is_some_and(|stored| stored.origin == Origin::Foreign);
        if !wanted.is_empty() && !ensurer.is_complete(&namespace.name, wanted.keys()) && !is_foreign() {
            self.healer.retries.push(&namespace.name, wanted.into_keys().collect());
        }
    }

    fn tell(&self, pod: &StuckPod, settings: &Settings) {
        let StuckPod { namespace, name, uid, .. } = pod.clone();
        tracing::debug!(namespace, pod = name, "the pod is stuck without the pull secret");
        self.healer.events.stuck(PodReference { namespace, name, uid }, &settings.pull_secret_name);
    }

    /// Whether the pod goes away.
    async fn evict(&self, pod: &StuckPod) -> bool {
        let StuckPod { namespace, name, .. } = pod;
        let outcome = self.pods.evict(pod).await;
        self.healer.ensurer.metrics.eviction(outcome.as_ref().map_or("failed", |eviction| eviction.as_label()));
        match outcome {
            Ok(Eviction::Evicted) => {
                tracing::info!(namespace, pod = name, "evicted: it was stuck without the pull secret");
                true
            }
            Ok(Eviction::Held) => {
                tracing::info!(namespace, pod = name, "a disruption budget forbids the eviction, it is tried again");
                false
            }
            Ok(Eviction::Gone) => false,
            Err(error) => {
                tracing::warn!(namespace, pod = name, %error, "the stuck pod could not be evicted");
                false
            }
        }
    }
}
