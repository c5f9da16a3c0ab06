//! Which stuck pods are evicted: few at a time, one of each controller, and no more where it does not help.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};

use super::StuckPod;

/// Chooses, round by round. What it remembers is bounded by what is evicted in `MEMORY`.
#[derive(Debug)]
pub struct Evictions {
    per_round: usize,
    now: Timestamp,
    attempts: HashMap<String, Attempt>,
    /// By what comes first: whose controller was tried longest ago, or never.
    candidates: BTreeMap<(Option<Timestamp>, String), Candidate>,
}

/// A pod whose turn it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The pod.
    pub pod: StuckPod,
    controller: String,
    newest: Option<Timestamp>,
}

/// The last time that a pod of a controller was tried.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    at: Timestamp,
    evicted: bool,
    /// When the newest of the controller's stuck pods was created.
    newest: Option<Timestamp>,
    /// A pod came back without the pull secret.
    futile: bool,
}

/// How long a controller is remembered: so long it is left alone when evictions did not help it.
const MEMORY: SignedDuration = SignedDuration::from_mins(30);

impl Evictions {
    /// Nothing has been tried yet. `per_round` pods are chosen at most.
    pub fn new(per_round: usize) -> Self {
        Self { per_round, now: Timestamp::MIN, attempts: HashMap::new(), candidates: BTreeMap::new() }
    }

    /// Starts a round.
    pub fn begin(&mut self, now: Timestamp) {
        self.now = now;
        // What is yet to come was noted by a clock that has been set back since.
        self.attempts.retain(|_, attempt| now.duration_since(attempt.at).abs() < MEMORY);
        self.candidates.clear();
    }

    /// Considers a pod. The answer is false when this one shows that evicting does not help its controller: its pods come
    /// back without the pull secret.
    pub fn offer(&mut self, pod: StuckPod) -> bool {
        let Some(controller) = pod.replaced_by.clone() else { return true };
        let mut last = None;
        if let Some(attempt) = self.attempts.get_mut(&controller) {
            last = Some(attempt.at);
            if attempt.futile {
                return true;
            }
            if attempt.evicted && pod.created_at > attempt.newest {
                attempt.futile = true;
                self.candidates.remove(&(last, controller));
                return false;
            }
        }
        let newest = pod.created_at;
        let candidate =
            self.candidates.entry((last, controller.clone())).or_insert(Candidate { pod, controller, newest });
        candidate.newest = candidate.newest.max(newest);
        if self.candidates.len() > self.per_round {
            self.candidates.pop_last();
        }
        true
    }

    /// The pods of this round.
    pub fn choose(&mut self) -> Vec<Candidate> {
        std::mem::take(&mut self.candidates).into_values().collect()
    }

    /// Remembers what became of a pod of this round.
    pub fn record(&mut self, candidate: Candidate, evicted: bool) {
        let attempt = Attempt { at: self.now, evicted, newest: candidate.newest, futile: false };
        self.attempts.insert(candidate.controller, attempt);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(minute: i64) -> Timestamp {
        "2026-11-24T08:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_mins(minute)
    }

    fn pod(name: &str, controller: &str, created_at: i64) -> StuckPod {
        StuckPod {
            namespace: "team-a".to_owned(),
            name: name.to_owned(),
            uid: format!("{name}-uid"),
            created_at: Some(minute(created_at)),
            replaced_by: (!controller.is_empty()).then(|| controller.to_owned()),
        }
    }

    /// The names that are chosen, each of which is then evicted or not.
    fn round(evictions: &mut Evictions, at: i64, pods: &[StuckPod], evicted: bool) -> Vec<String> {
        evictions.begin(minute(at));
        for pod in pods {
            evictions.offer(pod.clone());
        }
        let chosen = evictions.choose();
        let names = chosen.iter().map(|candidate| candidate.pod.name.clone()).collect();
        for candidate in chosen {
            evictions.record(candidate, evicted);
        }
        names
    }

    #[test]
    fn bare_pods_are_never_chosen() {
        let mut evictions = Evictions::new(10);
        assert!(round(&mut evictions, 0, &[pod("bare", "", -9)], true).is_empty());
    }

    #[test]
    fn one_of_each_controller_at_a_time() {
        let mut evictions = Evictions::new(10);
        let pods = [pod("a-1", "a", -9), pod("a-2", "a", -8), pod("b-1", "b", -9)];
        assert_eq!(round(&mut evictions, 0, &pods, true), ["a-1", "b-1"]);
        assert_eq!(round(&mut evictions, 1, &pods[1..2], true), ["a-2"]);
    }

    #[test]
    fn a_round_is_bounded_and_everybody_has_a_turn() {
        let mut evictions = Evictions::new(10);
        let pods: Vec<_> = (0..25).map(|number| pod(&format!("p{number:02}"), &format!("c{number:02}"), -9)).collect();
        // None can be evicted just now, as when a budget forbids it, and still the others get their turn.
        let mut seen: Vec<String> = (0..3).flat_map(|at| round(&mut evictions, at, &pods, false)).collect();
        assert_eq!(seen.len(), 30);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 25);
    }

    #[test]
    fn a_refused_eviction_is_tried_again() {
        let mut evictions = Evictions::new(10);
        let pods = [pod("a-1", "a", -9)];
        for at in 0..3 {
            assert_eq!(round(&mut evictions, at, &pods, false), ["a-1"]);
        }
    }

    #[test]
    fn a_controller_whose_pods_come_back_without_the_pull_secret_is_left_alone() {
        let mut evictions = Evictions::new(10);
        let before = [pod("a-1", "a", -9), pod("a-2", "a", -8)];
        assert_eq!(round(&mut evictions, 0, &before, true), ["a-1"]);
        evictions.begin(minute(1));
        assert!(evictions.offer(pod("a-2", "a", -8)), "it is as old as the one that was evicted");
        assert!(!evictions.offer(pod("a-3", "a", 0)), "it came after the eviction");
        assert!(evictions.offer(pod("a-4", "a", 0)), "that is known by now");
        assert!(evictions.choose().is_empty());
        assert!(round(&mut evictions, 29, &[pod("a-3", "a", 0)], true).is_empty());
        assert_eq!(round(&mut evictions, 30, &[pod("a-3", "a", 0)], true), ["a-3"], "half an hour later it may help");
    }

    #[test]
    fn a_clock_that_is_set_back_leaves_nobody_alone_for_long() {
        let mut evictions = Evictions::new(10);
        let week = 7 * 24 * 60;
        round(&mut evictions, week, &[pod("a-1", "a", 0)], true);
        evictions.begin(minute(week + 1));
        assert!(!evictions.offer(pod("a-2", "a", 1)));
        assert!(round(&mut evictions, week - 5, &[pod("a-2", "a", 1)], true).is_empty(), "a few minutes are nothing");
        assert_eq!(round(&mut evictions, 0, &[pod("a-2", "a", 1)], true), ["a-2"]);
    }

    #[test]
    fn old_attempts_are_forgotten() {
        let mut evictions = Evictions::new(10);
        for at in 0..100 {
            let pods: Vec<_> =
                (0..10).map(|number| pod(&format!("p{number}"), &format!("c{at}-{number}"), -9)).collect();
            round(&mut evictions, at, &pods, true);
        }
        assert!(evictions.attempts.len() <= 300, "{}", evictions.attempts.len());
    }
}
