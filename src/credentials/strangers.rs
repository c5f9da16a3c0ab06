//! How often Azure is asked about login servers that it may never have heard of.

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

/// A budget for login servers that no rule names in full and that never gave a token. Whoever may create pods can make up
/// such names under a wildcard, and must not have us ask Azure without end.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// Up to which second the budget is spent.
    spent_until: Mutex<i64>,
}

/// So many at once, and one more for each second that passes.
const BUDGET: i64 = 60;
/// What is left of it to those for whom a pod waits.
const KEPT_BACK: i64 = 30;

impl Strangers {
    /// Whether one more may be asked about now; if so, it is counted.
    pub(super) fn may_be_asked(&self, now: Timestamp) -> bool {
        self.spend(now, BUDGET)
    }

    /// Whether one that was asked about in vain may be asked about once more, though no pod waits; if so, it is counted.
    pub(super) fn may_be_asked_again(&self, now: Timestamp) -> bool {
        self.spend(now, BUDGET - KEPT_BACK)
    }

    fn spend(&self, now: Timestamp, most: i64) -> bool {
        let now = now.as_second();
        let mut spent_until = self.spent_until.lock().unwrap_or_else(PoisonError::into_inner);
        // Not later than all of the budget, should the clock have been set back.
        let spent = (*spent_until).clamp(now, now + BUDGET);
        let is_left = spent < now + most;
        *spent_until = spent + i64::from(is_left);
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_at_once_and_one_a_second() {
        let strangers = Strangers::default();
        let asked = |second| {
            let now = Timestamp::from_second(second).unwrap();
            (0..1000).filter(|_| strangers.may_be_asked(now)).count()
        };
        let rows = [(1_000, 60), (1_000, 0), (1_001, 1), (1_011, 10), (5_000, 60), (4_000, 0), (4_030, 30)];
        for (second, expected) in rows {
            assert_eq!(asked(second), expected, "at {second}");
        }
    }

    #[test]
    fn asking_again_leaves_half_to_those_for_whom_a_pod_waits() {
        let strangers = Strangers::default();
        let now = Timestamp::from_second(1_000).unwrap();
        assert_eq!((0..1000).filter(|_| strangers.may_be_asked_again(now)).count(), 30);
        assert_eq!((0..1000).filter(|_| strangers.may_be_asked(now)).count(), 30);
        let later = Timestamp::from_second(1_031).unwrap();
        assert_eq!((0..1000).filter(|_| strangers.may_be_asked_again(later)).count(), 1);
    }
}
