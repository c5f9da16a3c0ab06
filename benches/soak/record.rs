//! What happened so far, written down by those who make it happen.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use measuring::latencies::Latencies;

/// More faults than these are only counted.
const FAULTS_KEPT: usize = 10;

#[derive(Debug, Default)]
pub struct Record(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    pods: Vec<Duration>,
    reviews: Vec<Duration>,
    counts: BTreeMap<&'static str, usize>,
    late: usize,
    faults: usize,
    first_faults: Vec<String>,
}

/// The latencies since the last look.
#[derive(Clone, Debug)]
pub struct Window {
    pub pods: Latencies,
    pub reviews: Latencies,
}

impl Record {
    /// A pod was created, with our reference.
    pub fn pod(&self, latency: Duration) {
        let mut inner = self.lock();
        inner.pods.push(latency);
        *inner.counts.entry("pods created").or_default() += 1;
    }

    /// A review was answered, with a patch.
    pub fn review(&self, latency: Duration) {
        let mut inner = self.lock();
        inner.reviews.push(latency);
        *inner.counts.entry("reviews answered").or_default() += 1;
    }

    pub fn count(&self, what: &'static str) {
        *self.lock().counts.entry(what).or_default() += 1;
    }

    /// A pod was lost, or not served as it should be.
    pub fn fault(&self, what: String) {
        eprintln!("fault: {what}");
        let mut inner = self.lock();
        inner.faults += 1;
        if inner.first_faults.len() < FAULTS_KEPT {
            inner.first_faults.push(what);
        }
    }

    /// A request of the bench's own failed, as one does whose connection was just closed. It is told and made good with the
    /// next: what has gone on for twenty minutes must not end with it unseen.
    pub fn go_on<T, E: fmt::Display>(&self, what: &'static str, outcome: Result<T, E>) -> Option<T> {
        outcome
            .map_err(|error| {
                eprintln!("{what}: {error}");
                self.count("disturbances that failed");
            })
            .ok()
    }

    /// A review was answered, with a patch and with the warning that the pull secret takes longer than a pod may wait.
    pub fn late_review(&self, latency: Duration) {
        let mut inner = self.lock();
        inner.reviews.push(latency);
        inner.late += 1;
    }

    pub fn late_reviews(&self) -> usize {
        self.lock().late
    }

    pub fn faults(&self) -> usize {
        self.lock().faults
    }

    pub fn take_window(&self) -> Window {
        let mut inner = self.lock();
        Window {
            pods: Latencies::new(std::mem::take(&mut inner.pods)),
            reviews: Latencies::new(std::mem::take(&mut inner.reviews)),
        }
    }

    /// All counts in one line, and the first faults.
    pub fn summary(&self) -> String {
        let inner = self.lock();
        let counts: Vec<_> = inner.counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
        let mut text = format!("{}, {} late, {} faults.", counts.join(", "), inner.late, inner.faults);
        for fault in &inner.first_faults {
            // Writing into a String never fails.
            let _ = write!(text, "\nfault: {fault}");
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
