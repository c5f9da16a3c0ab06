//! Keeps the pull secrets of the cluster right: one replica, the leader, renews, rewrites, repairs and removes them.
//!
//! Decisions come from the pull secrets' own annotations, so a restart or a new leader causes no storm of writes. What is
//! begun within a second is bounded, and the most urgent comes first; what is left comes with the next second. A write that
//! gets no answer holds up no other namespace.

mod fights;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use self::fights::Fights;
use crate::{
    admission::{CredentialSource, NamespaceSource, PullSecretStore},
    domain::{
        image::LoginServer,
        pull_secret::StoredPullSecret,
        registry::{Namespace, NamespaceSelector, RegistryName},
        upkeep::held,
    },
    ensure::{EnsureError, Ensurer, WriteReason},
    retry::{RetryQueue, delay},
    under_way::UnderWay,
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
    /// What was deleted and is still to be restored.
    deleted: Mutex<VecDeque<(String, Arc<StoredPullSecret>)>>,
    failures: Mutex<HashMap<String, Failure>>,
    fights: Mutex<Fights>,
    /// The namespaces that hold a pull secret, as they were a moment ago.
    seen: Mutex<HashMap<String, Arc<Namespace>>>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    count: u32,
    until: Timestamp,
}

impl Failure {
    /// Whether it is too early to try again. A wait that is longer than any was begun by a clock that was ahead.
    fn waits(&self, now: Timestamp) -> bool {
        self.until > now && self.until.duration_since(now) <= LONGEST_WAIT
    }
}

/// The longest pause that [`delay`] gives.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(5);

type Wanted = BTreeMap<LoginServer, RegistryName>;

enum Work {
    Restore(String, Arc<StoredPullSecret>),
    Refresh(WriteReason, Arc<Namespace>),
}

/// Doublings of the wait for a newer token, which is looked up in memory: half a minute.
const MOST_IN_VAIN: u32 = 5;
/// When to look once more after a change, last first. A replica whose files arrive later writes the old credential until
/// then, over the new one too; the kubelet takes up to two minutes. What a replica finds at its last look, and nobody has
/// rewritten, it rewrites itself.
const LOOK_AGAIN_AFTER: [Duration; 2] = [Duration::from_secs(180), Duration::from_secs(60)];

/// When to look for pull secrets that are out of date, after the look that a change causes at once; last first.
#[derive(Debug, Default)]
struct LaterLooks(Vec<Instant>);

/// What may be begun within a second.
#[derive(Debug, Default)]
struct Plan {
    due: VecDeque<(WriteReason, Arc<Namespace>)>,
    writes_left: usize,
}

impl<C: CredentialSource, S: PullSecretStore, N: NamespaceSource> Reconciler<C, S, N> {
    /// A reconciler that has seen no failure yet.
    pub fn new(ensurer: Arc<Ensurer<C, S>>, namespaces: Arc<N>, retries: RetryQueue) -> Self {
        Self {
            ensurer,
            namespaces,
            retries,
            deleted: Mutex::default(),
            failures: Mutex::default(),
            fights: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// Works until `shutdown`, and writes while `leader` says so. `changes` announces that a credential or the
    /// configuration has changed, or that pull secrets are as they were in the past.
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
        let mut later_looks = LaterLooks::default();
        let (mut plan, mut under_way) = (Plan::default(), UnderWay::default());
        let mut recoveries = self.ensurer.recovery.listen();
        loop {
            let is_new_second = tokio::select! {
                () = shutdown.cancelled() => return,
                () = under_way.next() => false,
                () = recoveries.next() => {
                    self.forgive();
                    false
                }
                _ = ticks.tick() => {
                    if later_looks.is_due(Instant::now()) {
                        self.ensurer.find_outdated(self.namespaces.as_ref());
                        if later_looks.are_over() && !*leader.borrow() {
                            self.rewrite_overlooked();
                        }
                    }
                    true
                }
                // Not once nobody is left to announce a change, which is so when the process ends.
                Ok(()) = changes.changed() => {
                    later_looks = LaterLooks::after_change(Instant::now());
                    self.ensurer.find_outdated(self.namespaces.as_ref());
                    self.failures.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    self.retries.hurry();
                    true
                }
            };
            if is_new_second {
                self.heed_labels();
            }
            if !*leader.borrow() {
                plan = Plan::default();
            } else if is_new_second {
                plan = self.plan();
            }
            self.begin(&mut plan, &mut under_way);
        }
    }

    /// Finds the pull secrets whose namespace has other labels now, by which another rule grants it the same login server:
    /// what they hold is of a rule that is theirs no more. Every replica does this, so that a change of the lead misses none.
    pub fn heed_labels(&self) {
        let settings = self.ensurer.settings.load();
        if settings.rules.iter().all(|rule| rule.namespaces == NamespaceSelector::default()) {
            return;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *seen);
        let mut regranted = Vec::new();
        for (name, stored) in self.ensurer.store.all() {
            let Some(now) = self.namespaces.cached(&name) else { continue };
            if let Some(before) = before.remove(&name)
                && before.labels != now.labels
                && held(&stored, &before, &settings) != held(&stored, &now, &settings)
            {
                regranted.push((name.clone(), stored));
            }
            seen.insert(name, now);
        }
        if !regranted.is_empty() {
            self.ensurer.find_regranted(regranted, self.namespaces.as_ref());
        }
    }

    /// Has rewritten what is still out of date at the last look although another replica leads. That one may have looked for
    /// its last time before a replica whose files came late, perhaps this one, wrote the old credential. Should it still be
    /// at work, then whoever comes second to a pull secret finds nothing to do.
    fn rewrite_overlooked(&self) {
        let settings = self.ensurer.settings.load_full();
        let overlooked = self.ensurer.store.all().into_iter().filter_map(|(name, stored)| {
            let namespace = self.namespaces.cached(&name)?;
            let is_overlooked = self.ensurer.upkeep(&namespace, &stored) == Some(WriteReason::Change);
            is_overlooked.then(|| (name, held(&stored, &namespace, &settings).into_keys().collect()))
        });
        self.retries.push_in_turn(overlooked, settings.limits.writes_per_second);
    }

    /// Does the most urgent of what is due, as much as may be begun within a second, until all of it is done. Nothing more
    /// is begun once the lead is lost.
    pub async fn tick(&self, leader: &watch::Receiver<bool>) {
        let (mut plan, mut under_way) = (self.plan(), UnderWay::default());
        loop {
            if *leader.borrow() {
                self.begin(&mut plan, &mut under_way);
            }
            if under_way.is_empty() {
                return;
            }
            under_way.next().await;
        }
    }

    /// Lets what failed be tried again with the next second, still after what did not fail and no faster than all else.
    fn forgive(&self) {
        let now = self.ensurer.clock.now();
        for failure in self.failures.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            failure.until = now;
        }
    }

    fn plan(&self) -> Plan {
        let again: HashMap<_, _> = self.ensurer.store.take_deleted().into_iter().collect();
        {
            // What was made and deleted anew while it waited has one place.
            let mut deleted = self.deleted();
            deleted.retain(|(name, _)| !again.contains_key(name));
            deleted.extend(again);
            // Whole namespaces go away by thousands: that shall not take the seconds of what is due.
            deleted.retain(|(name, stored)| self.to_restore(name, stored).is_some());
        }
        self.forget_fights();
        let writes_left = usize::from(self.ensurer.settings.load().limits.writes_per_second);
        Plan { due: self.due().into(), writes_left }
    }

    fn begin<'a>(&'a self, plan: &mut Plan, under_way: &mut UnderWay<'a>) {
        while plan.writes_left > 0 && under_way.has_place() {
            let Some(work) = self.next_work(plan, under_way) else { return };
            plan.writes_left -= 1;
            let name = match &work {
                Work::Restore(name, _) => name.clone(),
                Work::Refresh(_, namespace) => namespace.name.clone(),
            };
            under_way.start(name, self.carry_out(work));
        }
    }

    /// What was deleted first, since pods cannot pull without it; but last what is deleted each time that it is restored.
    fn next_work(&self, plan: &mut Plan, under_way: &UnderWay<'_>) -> Option<Work> {
        let fights = self.fights();
        let next_deleted = |may_be_restored: &dyn Fn(&str) -> bool| {
            let mut deleted = self.deleted();
            let index = deleted.iter().position(|(name, _)| !under_way.includes(name) && may_be_restored(name))?;
            deleted.remove(index).map(|(name, stored)| Work::Restore(name, stored))
        };
        let next_due = || {
            let is_free = |(_, namespace): &(_, Arc<Namespace>)| !under_way.includes(&namespace.name);
            let (reason, namespace) = std::iter::from_fn(|| plan.due.pop_front()).find(is_free)?;
            Some(Work::Refresh(reason, namespace))
        };
        next_deleted(&|name| !fights.include(name))
            .or_else(next_due)
            .or_else(|| next_deleted(&|name| !fights.wait(name)))
    }

    fn forget_fights(&self) {
        let deleted: HashSet<String> = self.deleted().iter().map(|(name, _)| name.clone()).collect();
        self.fights().forget_lasting(|name| {
            let needs = || self.ensurer.upkeep(&*self.namespaces.cached(name)?, &*self.ensurer.store.stored(name)?);
            deleted.contains(name) || needs() == Some(WriteReason::Repair)
        });
    }

    fn fights(&self) -> MutexGuard<'_, Fights> {
        self.fights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deleted(&self) -> MutexGuard<'_, VecDeque<(String, Arc<StoredPullSecret>)>> {
        self.deleted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn carry_out(&self, work: Work) {
        match work {
            Work::Restore(name, stored) => self.restore(&name, &stored).await,
            Work::Refresh(reason, namespace) => {
                let before = self.ensurer.store.stored(&namespace.name);
                let refreshed = self.ensurer.refresh(&namespace, reason).await;
                if refreshed.is_err() && self.ensurer.store.stored(&namespace.name).is_none() {
                    // Deleted to be made anew, which failed. What is not there is never due again.
                    let lost = before.map(|before| held(&before, &namespace, &self.ensurer.settings.load()));
                    self.retries.push(&namespace.name, lost.unwrap_or_default().into_keys().collect());
                }
                if refreshed.is_ok() && reason == WriteReason::Repair {
                    self.fights().repaired(&namespace.name);
                }
                self.record(&namespace, refreshed);
            }
        }
    }

    /// What needs something and did not just fail, what never failed first, so that one registry that is away does not hold
    /// up the others; then most urgent first: what may not stay, what somebody broke, what tokens run out, what is out of
    /// date. Among equals those whose namespaces asked for a pull secret last. What somebody breaks again counts as failed.
    fn due(&self) -> Vec<(WriteReason, Arc<Namespace>)> {
        let now = self.ensurer.clock.now();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|name, _| self.ensurer.store.stored(name).is_some());
        let fights = self.fights();
        let needs = self.ensurer.store.all().into_iter().filter_map(|(name, stored)| {
            if failures.get(&name).is_some_and(|failure| failure.waits(now)) {
                return None;
            }
            let namespace = self.namespaces.cached(&name)?;
            let reason = self.ensurer.upkeep(&namespace, &stored)?;
            (reason != WriteReason::Repair || !fights.wait(&name)).then_some((reason, namespace))
        });
        let mut needs: Vec<_> = needs.collect();
        needs.sort_by_cached_key(|(reason, namespace)| {
            let is_fought = *reason == WriteReason::Repair && fights.include(&namespace.name);
            let failed = is_fought || failures.contains_key(&namespace.name);
            (failed, urgency(*reason), std::cmp::Reverse(self.ensurer.last_demand(&namespace.name)))
        });
        needs
    }

    /// What is to be put back of what somebody deleted: nothing where the namespace opted out, or goes away itself.
    fn to_restore(&self, name: &str, stored: &StoredPullSecret) -> Option<(Arc<Namespace>, Wanted)> {
        let namespace = self.namespaces.cached(name).filter(|namespace| !namespace.terminating)?;
        let wanted = held(stored, &namespace, &self.ensurer.settings.load());
        (!wanted.is_empty()).then_some((namespace, wanted))
    }

    /// Puts back what somebody deleted.
    async fn restore(&self, name: &str, stored: &StoredPullSecret) {
        let Some((namespace, wanted)) = self.to_restore(name, stored) else { return };
        match self.ensurer.ensure(&namespace, &wanted, WriteReason::Repair).await {
            Ok(()) => self.fights().repaired(name),
            Err(error) => {
                tracing::warn!(namespace = name, %error, "a deleted pull secret could not be restored");
                self.retries.push(name, error.left(wanted.keys()));
            }
        }
    }

    fn record(&self, namespace: &Namespace, refreshed: Result<(), EnsureError>) {
        let name = &namespace.name;
        let stored = self.ensurer.store.stored(name);
        // Without a newer token there is nothing to write, and what is due stays due.
        let is_due = stored.is_some_and(|stored| self.ensurer.upkeep(namespace, &stored).is_some());
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if refreshed.is_ok() && !is_due {
            failures.remove(name);
            return;
        }
        let count = failures.get(name).map_or(0, |failure| failure.count.saturating_add(1));
        let wait = delay(if refreshed.is_ok() { count.min(MOST_IN_VAIN) } else { count });
        let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::from_mins(5));
        failures.insert(name.clone(), Failure { count, until: self.ensurer.clock.now() + wait });
        match refreshed {
            Err(error) if count == 0 => {
                tracing::warn!(namespace = name, %error, "the pull secret could not be brought up to date");
            }
            // The same for each of thousands of namespaces, every few minutes.
            Err(error) => tracing::debug!(namespace = name, %error, "the pull secret is still not up to date"),
            Ok(()) => {}
        }
    }
}

impl LaterLooks {
    fn after_change(now: Instant) -> Self {
        Self(LOOK_AGAIN_AFTER.map(|after| now + after).into())
    }

    /// Whether to look now; true once for each look.
    fn is_due(&mut self, now: Instant) -> bool {
        self.0.pop_if(|due| *due <= now).is_some()
    }

    fn are_over(&self) -> bool {
        self.0.is_empty()
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

#[cfg(test)]
mod tests;
