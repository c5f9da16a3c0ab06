//! Keeps the pull secrets of the cluster right: one replica, the leader, renews, rewrites, repairs and removes them.
//!
//! Decisions come from the pull secrets' own annotations, so a restart or a new leader causes no storm of writes. The work
//! of one tick is bounded, and the most urgent comes first; what is left comes with the next tick.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use jiff::{SignedDuration, Timestamp};
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{CredentialSource, NamespaceSource, PullSecretStore},
    domain::{pull_secret::StoredPullSecret, registry::Namespace, upkeep::held},
    ensure::{EnsureError, Ensurer, WriteReason},
    retry::{RetryQueue, delay},
};

/// The background half of the program.
#[derive(Debug)]
pub struct Reconciler<C, S, N> {
    /// Writes pull secrets.
    pub ensurer: Arc<Ensurer<C, S>>,
    /// Knows what namespaces are granted.
    pub namespaces: Arc<N>,
    /// Is told when what pods wait for may have become possible.
    pub retries: RetryQueue,
    failures: Mutex<HashMap<String, Failure>>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    count: u32,
    until: Timestamp,
}

enum Work {
    Restore(String, Arc<StoredPullSecret>),
    Refresh(WriteReason, Arc<Namespace>),
}

/// Pull secrets that are written at the same time.
const AT_ONCE: usize = 8;

impl<C: CredentialSource, S: PullSecretStore, N: NamespaceSource> Reconciler<C, S, N> {
    /// A reconciler that has seen no failure yet.
    pub fn new(ensurer: Arc<Ensurer<C, S>>, namespaces: Arc<N>, retries: RetryQueue) -> Self {
        Self { ensurer, namespaces, retries, failures: Mutex::default() }
    }

    /// Works until `shutdown`, and writes while `leader` says so. `changes` announces that a credential or the
    /// configuration has changed.
    pub async fn run(
        self,
        leader: watch::Receiver<bool>,
        mut changes: watch::Receiver<u64>,
        shutdown: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What changed while no replica ran shows at the start.
        changes.mark_changed();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
                changed = changes.changed() => match changed {
                    Ok(()) => {
                        self.ensurer.find_outdated(self.namespaces.as_ref());
                        self.retries.hurry();
                    }
                    // Nobody is left to announce a change.
                    Err(_) => std::future::pending().await,
                },
            }
            if *leader.borrow() {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = self.tick(&leader) => {}
                }
            }
        }
    }

    /// Does the most urgent of what is due, for about a second, or until the lead is lost.
    pub async fn tick(&self, leader: &watch::Receiver<bool>) {
        let deleted = self.ensurer.store.take_deleted();
        let mut due = self.due();
        let writes_per_second = usize::from(self.ensurer.settings.load().limits.writes_per_second);
        due.truncate(writes_per_second.saturating_sub(deleted.len()));
        let work = due.into_iter().map(|(reason, namespace)| Work::Refresh(reason, namespace));
        let work = deleted.into_iter().map(|(name, stored)| Work::Restore(name, stored)).chain(work);
        let mut under_way = FuturesUnordered::new();
        for work in work {
            if under_way.len() == AT_ONCE {
                under_way.next().await;
            }
            if !*leader.borrow() {
                break;
            }
            under_way.push(self.carry_out(work));
        }
        while under_way.next().await.is_some() {}
    }

    async fn carry_out(&self, work: Work) {
        match work {
            Work::Restore(name, stored) => self.restore(&name, &stored).await,
            Work::Refresh(reason, namespace) => {
                let refreshed = self.ensurer.refresh(&namespace, reason).await;
                self.record(&namespace.name, refreshed);
            }
        }
    }

    /// What needs something and did not just fail, most urgent first: what may not stay, what somebody broke, what tokens
    /// run out, what is out of date. Among equals those whose namespaces asked for a pull secret last.
    fn due(&self) -> Vec<(WriteReason, Arc<Namespace>)> {
        let now = self.ensurer.clock.now();
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let needs = self.ensurer.store.all().into_iter().filter_map(|(name, stored)| {
            if failures.get(&name).is_some_and(|failure| failure.until > now) {
                return None;
            }
            let namespace = self.namespaces.cached(&name)?;
            let reason = self.ensurer.upkeep(&namespace, &stored)?;
            Some((reason, namespace))
        });
        let mut needs: Vec<_> = needs.collect();
        needs.sort_by_cached_key(|(reason, namespace)| {
            (urgency(*reason), std::cmp::Reverse(self.ensurer.last_demand(&namespace.name)))
        });
        needs
    }

    /// Puts back what somebody deleted. A namespace that opted out, or that goes away itself, keeps its peace.
    async fn restore(&self, name: &str, stored: &StoredPullSecret) {
        let Some(namespace) = self.namespaces.cached(name).filter(|namespace| !namespace.terminating) else {
            return;
        };
        let wanted = held(stored, &namespace, &self.ensurer.settings.load());
        if let Err(error) = self.ensurer.ensure(&namespace, &wanted, WriteReason::Repair).await {
            tracing::warn!(namespace = name, %error, "a deleted pull secret could not be restored");
            if error.may_pass() {
                self.retries.push(name, wanted.into_keys().collect());
            }
        }
    }

    fn record(&self, name: &str, refreshed: Result<(), EnsureError>) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match refreshed {
            Ok(()) => {
                failures.remove(name);
            }
            Err(error) => {
                let count = failures.get(name).map_or(0, |failure| failure.count.saturating_add(1));
                let wait = SignedDuration::try_from(delay(count)).unwrap_or(SignedDuration::from_mins(5));
                failures.insert(name.to_owned(), Failure { count, until: self.ensurer.clock.now() + wait });
                tracing::warn!(namespace = name, %error, "the pull secret could not be brought up to date");
            }
        }
    }
}

fn urgency(reason: WriteReason) -> u8 {
    match reason {
        WriteReason::Withdrawal => 0,
        WriteReason::Repair => 1,
        WriteReason::Renewal => 2,
        _ => 3,
    }
}
