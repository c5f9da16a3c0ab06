//! Renewal in the background: what is due, how many at once, and what nobody uses any more.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::MissedTickBehavior;

use super::{Entry, TokenCache, before};

/// A token of a login server that is no exact host of a rule, and that nobody asked for during this time, is not renewed
/// any more.
const UNUSED_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// Renewals that run at the same time.
const AT_ONCE: usize = 8;
/// As many of them may be of parties that were silent last time.
const SILENT_AT_ONCE: usize = 4;

impl TokenCache {
    /// Looks every `interval` for what is due and renews it, and calls `announce` whenever a login server has a token that
    /// had none. A request that hangs takes one of eight places and holds up nothing else; and those that are likely to hang
    /// do not get all places.
    pub async fn keep_renewed(&self, interval: Duration, announce: impl Fn()) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut waiting, mut running, mut silent) = (VecDeque::new(), FuturesUnordered::new(), 0);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    self.report_expiry();
                    waiting = self.due();
                }
                Some((healed, may_hang)) = running.next() => {
                    silent -= usize::from(may_hang);
                    if healed {
                        announce();
                    }
                }
            }
            while running.len() < AT_ONCE
                && let Some(entry) = next(&mut waiting, silent < SILENT_AT_ONCE)
            {
                let may_hang = entry.token.may_hang();
                silent += usize::from(may_hang);
                running.push(async move { (self.renew(entry).await, may_hang) });
            }
        }
    }

    /// Renews what is due, once, and waits for all of it. Tells whether a login server has a token now that had none.
    pub async fn renew_due(&self) -> bool {
        let healed = futures_util::stream::iter(self.due())
            .map(|entry| self.renew(entry))
            .buffer_unordered(AT_ONCE)
            .fold(false, |healed, now| async move { healed | now })
            .await;
        self.report_expiry();
        healed
    }

    /// What should be renewed now.
    fn due(&self) -> VecDeque<Arc<Entry>> {
        self.forget_unused();
        let now = self.clock.now();
        self.kept().hosts.values().filter(|entry| entry.is_due(now)).cloned().collect()
    }

    async fn renew(&self, entry: Arc<Entry>) -> bool {
        let may_be_asked = entry.is_sure() || self.strangers.may_be_asked_again(self.clock.now());
        may_be_asked && entry.token.renew(|| self.fetch(&entry)).await
    }

    fn forget_unused(&self) {
        let oldest = before(self.clock.now(), UNUSED_AFTER);
        let mut kept = self.kept();
        let unused: Vec<_> = kept
            .hosts
            .iter()
            .filter(|(_, entry)| !entry.is_warm() && !entry.is_used_since(oldest))
            .map(|(key, _)| key.clone())
            .collect();
        for key in unused {
            kept.forget(&key);
        }
    }
}

fn next(waiting: &mut VecDeque<Arc<Entry>>, may_hang: bool) -> Option<Arc<Entry>> {
    let index = waiting.iter().position(|entry| may_hang || !entry.token.may_hang())?;
    waiting.remove(index)
}
