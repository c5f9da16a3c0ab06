//! Fights over pull secrets: somebody breaks again and again what was repaired, and must not take up all repairs there are.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::retry::delay;

/// What was repaired lately, by namespace.
#[derive(Debug, Default)]
pub(super) struct Fights(HashMap<String, Repair>);

#[derive(Debug)]
struct Repair {
    at: Instant,
    /// How many were in vain before.
    in_vain: u32,
    /// When the next one may be, if this one is in vain too.
    next: Instant,
}

/// A repair that lasts no longer was in vain.
const IN_VAIN: Duration = Duration::from_secs(60);
/// When a fight is worth a warning: a person who tries something has stopped by then.
const TOLD_AFTER: u32 = 4;

impl Fights {
    /// Notes a repair. Its successor has to wait, the longer the more were in vain.
    pub(super) fn repaired(&mut self, namespace: &str) {
        let in_vain = self.0.get(namespace).map_or(0, |before| before.in_vain.saturating_add(1));
        if in_vain == TOLD_AFTER {
            tracing::warn!(
                namespace,
                "somebody changes or deletes the pull secret again and again, so it is repaired less often"
            );
        }
        let at = Instant::now();
        self.0.insert(namespace.to_owned(), Repair { at, in_vain, next: at + delay(in_vain) });
    }

    /// Forgets the repairs that lasted.
    pub(super) fn forget_lasting(&mut self, is_broken: impl Fn(&str) -> bool) {
        self.0.retain(|namespace, repair| repair.at.elapsed() <= IN_VAIN || is_broken(namespace));
    }

    /// Of a pull secret that is broken: was it repaired just before?
    pub(super) fn include(&self, namespace: &str) -> bool {
        self.0.contains_key(namespace)
    }

    /// Of a pull secret that is broken: is it too early to repair it again?
    pub(super) fn wait(&self, namespace: &str) -> bool {
        self.0.get(namespace).is_some_and(|repair| Instant::now() < repair.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_while_repairs_are_in_vain_and_begin_anew_after_one_that_lasts() {
        let mut fights = Fights::default();
        assert!(!fights.include("team-a") && !fights.wait("team-a"), "the first repair is at once");
        let pauses = async |fights: &mut Fights| {
            let mut pauses = Vec::new();
            for _ in 0..11 {
                fights.repaired("team-a");
                let began = Instant::now();
                while fights.wait("team-a") {
                    tokio::time::advance(Duration::from_millis(250)).await;
                    fights.forget_lasting(|_| true);
                }
                pauses.push(began.elapsed());
            }
            pauses
        };
        for _ in 0..2 {
            let pauses = pauses(&mut fights).await;
            for (pause, longest) in pauses.iter().zip([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]) {
                let longest = Duration::from_secs(longest);
                assert!(*pause <= longest + Duration::from_millis(250) && *pause >= longest / 2, "{pauses:?}");
            }
            fights.repaired("team-a");
            tokio::time::advance(IN_VAIN).await;
            fights.forget_lasting(|_| false);
            assert!(fights.include("team-a"));
            tokio::time::advance(Duration::from_secs(1)).await;
            fights.forget_lasting(|_| false);
            assert!(!fights.include("team-a"));
        }
    }
}
