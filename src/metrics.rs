//! Metrics in the Prometheus text format. Label values come from closed sets: never the name of a pod or a namespace, never
//! the text of an error.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use crate::ensure::WriteReason;

/// All metrics of the process. Shared by reference; every method is cheap and never blocks.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    admission_reviews: Family<Outcome, Counter>,
    admission_duration: Histogram,
    pull_secret_writes: Family<Write, Counter>,
    pull_secrets: Gauge<i64, AtomicI64>,
    configuration_reloads: Family<Outcome, Counter>,
    configuration_refused: Gauge<i64, AtomicI64>,
    leader: Gauge<i64, AtomicI64>,
    credentials_readable: Family<RegistryLabel, Gauge<i64, AtomicI64>>,
    credential_refreshes: Family<Refresh, Counter>,
    stuck_pods: Gauge<i64, AtomicI64>,
    evictions: Family<Outcome, Counter>,
    events: Family<Outcome, Counter>,
    tasks: Gauge<i64, AtomicI64>,
    log_lines_dropped: Counter,
    expiry: Expiry,
}

/// When does what end?
#[derive(Debug)]
struct Expiry {
    serving_certificate: Gauge<f64, AtomicU64>,
    serving_certificate_authority: Gauge<f64, AtomicU64>,
    registry_credential: Family<RegistryLabel, Gauge<f64, AtomicU64>>,
    service_principal_credential: Family<RegistryLabel, Gauge<f64, AtomicU64>>,
}

impl Metrics {
    /// Registers every metric, all at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("acr_pull_injector");
        let admission_reviews = Family::default();
        registry.register(
            "admission_reviews",
            "Admission reviews answered, by what was done",
            admission_reviews.clone(),
        );
        let admission_duration = Histogram::new(ADMISSION_BUCKETS);
        registry.register_with_unit(
            "admission_duration",
            "Time from a complete request body to the answer",
            Unit::Seconds,
            admission_duration.clone(),
        );
        let pull_secret_writes = writes_at_zero();
        registry.register(
            "pull_secret_writes",
            "Writes of pull secrets to the API server, by reason and outcome",
            pull_secret_writes.clone(),
        );
        let pull_secrets = Gauge::default();
        registry.register("pull_secrets", "Pull secrets of ours that stand in the cluster", pull_secrets.clone());
        let configuration_reloads = with_outcomes(&["accepted", "refused"]);
        registry.register(
            "configuration_reloads",
            "Changed configuration files, by whether they were taken over or refused",
            configuration_reloads.clone(),
        );
        let configuration_refused = Gauge::default();
        registry.register(
            "configuration_refused",
            "1 while the configuration file is not what is in force, since it was refused, else 0",
            configuration_refused.clone(),
        );
        let leader = Gauge::default();
        registry.register("leader", "1 on the replica that writes in the background, else 0", leader.clone());
        let credentials_readable = Family::default();
        registry.register(
            "registry_credential_readable",
            "1 when the files of a registry's credential could be read, else 0",
            credentials_readable.clone(),
        );
        let credential_refreshes = Family::default();
        registry.register(
            "credential_refreshes",
            "Attempts to get a registry token from Azure, by registry rule and outcome",
            credential_refreshes.clone(),
        );
        let stuck_pods = Gauge::default();
        registry.register(
            "stuck_pods",
            "Pods that wait for an image and were created without the pull secret; 0 where another replica leads",
            stuck_pods.clone(),
        );
        let evictions = with_outcomes(&["evicted", "held", "gone", "failed"]);
        registry.register(
            "evictions",
            "Stuck pods that were evicted or should have been, by outcome",
            evictions.clone(),
        );
        let events = with_outcomes(&["recorded", "dropped", "failed"]);
        registry.register("events", "Kubernetes Events, by whether they were recorded", events.clone());
        let expiry = Expiry::registered(&mut registry);
        let (tasks, log_lines_dropped) = register_process(&mut registry);
        Self {
            registry,
            admission_reviews,
            admission_duration,
            pull_secret_writes,
            pull_secrets,
            configuration_reloads,
            configuration_refused,
            leader,
            credentials_readable,
            credential_refreshes,
            stuck_pods,
            evictions,
            events,
            tasks,
            log_lines_dropped,
            expiry,
        }
    }

    /// Counts one answered review.
    pub fn admission_reviewed(&self, outcome: &'static str, duration: Duration) {
        self.admission_reviews.get_or_create(&Outcome { outcome }).inc();
        self.admission_duration.observe(duration.as_secs_f64());
    }

    /// Counts one attempt to write a pull secret.
    pub fn pull_secret_written(&self, reason: &'static str, outcome: &'static str) {
        self.pull_secret_writes.get_or_create(&Write { reason, outcome }).inc();
    }

    /// Counts one change of the configuration file.
    pub fn configuration_reloaded(&self, accepted: bool) {
        let outcome = if accepted { "accepted" } else { "refused" };
        self.configuration_reloads.get_or_create(&Outcome { outcome }).inc();
    }

    /// States whether the configuration file is refused as it stands now.
    pub fn configuration_refused(&self, refused: bool) {
        self.configuration_refused.set(i64::from(refused));
    }

    /// States whether this replica leads.
    pub fn leading(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// States whether the credential of a registry could be read. `registry` is a name from the configuration file.
    pub fn credential_readable(&self, registry: &str, readable: bool) {
        let label = RegistryLabel { registry: registry.to_owned() };
        self.credentials_readable.get_or_create(&label).set(i64::from(readable));
    }

    /// Counts one attempt to get a registry token.
    pub fn credential_refreshed(&self, registry: &str, outcome: &'static str) {
        self.credential_refreshes.get_or_create(&Refresh { registry: registry.to_owned(), outcome }).inc();
    }

    /// States when the first token of a registry expires; `None`: it has none.
    pub fn credential_expiry(&self, registry: &str, expires_at: Option<jiff::Timestamp>) {
        set_or_remove(&self.expiry.registry_credential, registry, expires_at);
    }

    /// States when what proves the service principal of a registry ends; `None`: there is none, or nobody has said.
    pub fn service_principal_expiry(&self, registry: &str, ends_at: Option<jiff::Timestamp>) {
        set_or_remove(&self.expiry.service_principal_credential, registry, ends_at);
    }

    /// States when the authority of the serving certificate expires; `None`: that is not known.
    pub fn serving_certificate_authority_expiry(&self, expires_at: Option<jiff::Timestamp>) {
        self.expiry.serving_certificate_authority.set(expires_at.map_or(0.0, seconds));
    }

    /// States how many pods are stuck without the pull secret.
    pub fn stuck_pods(&self, count: usize) {
        self.stuck_pods.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts one attempt to evict a stuck pod.
    pub fn eviction(&self, outcome: &'static str) {
        self.evictions.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts one Kubernetes Event.
    pub fn event(&self, outcome: &'static str) {
        self.events.get_or_create(&Outcome { outcome }).inc();
    }

    /// States how many asynchronous tasks are alive.
    pub fn tasks_alive(&self, count: usize) {
        self.tasks.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts log lines that were lost: logging begins before anything else and has no other way to here.
    pub fn log_lines_dropped(&self) -> Counter {
        self.log_lines_dropped.clone()
    }

    /// Forgets a registry that left the configuration.
    pub fn registry_removed(&self, registry: &str) {
        let label = RegistryLabel { registry: registry.to_owned() };
        self.credentials_readable.remove(&label);
        self.expiry.registry_credential.remove(&label);
        self.expiry.service_principal_credential.remove(&label);
    }

    /// The text that Prometheus scrapes. The two gauges whose truth lies elsewhere are given by the caller.
    #[must_use]
    pub fn encode(&self, pull_secrets: usize, serving_certificate_expiry: Option<jiff::Timestamp>) -> String {
        self.pull_secrets.set(i64::try_from(pull_secrets).unwrap_or(i64::MAX));
        self.expiry.serving_certificate.set(serving_certificate_expiry.map_or(0.0, seconds));
        let mut text = String::new();
        // Writing to a String cannot fail; a partial text would be the only sign of it.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Metrics of the process itself: its tasks, and the log lines that it lost.
fn register_process(registry: &mut Registry) -> (Gauge<i64, AtomicI64>, Counter) {
    let tasks = Gauge::default();
    registry.register(
        "tasks",
        "Asynchronous tasks that are alive, one for each open connection among them",
        tasks.clone(),
    );
    let log_lines_dropped = Counter::default();
    registry.register(
        "log_lines_dropped",
        "Log lines that were lost since standard error did not take them",
        log_lines_dropped.clone(),
    );
    registry.register("build", "The version of this program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    (tasks, log_lines_dropped)
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Counters that stand at zero from the start, for what happens rarely: one that begins at one does not seem to grow, so that
/// Prometheus' `increase` misses the first time.
fn with_outcomes(outcomes: &[&'static str]) -> Family<Outcome, Counter> {
    let family = Family::default();
    for outcome in outcomes {
        drop(family.get_or_create(&Outcome { outcome }));
    }
    family
}

/// The first burst of a reason is what an operator looks for.
fn writes_at_zero() -> Family<Write, Counter> {
    let family = Family::default();
    for reason in WriteReason::ALL.map(WriteReason::as_label) {
        for outcome in WRITE_OUTCOMES {
            drop(family.get_or_create(&Write { reason, outcome }));
        }
    }
    family
}

/// What can come of a write: it is done, or the label of a [`StoreError`](crate::admission::StoreError).
const WRITE_OUTCOMES: [&str; 5] = ["written", "conflict", "namespace_gone", "refused", "unavailable"];

/// From 50 µs, since an answer from memory takes less than one bucket of the API server's own histogram.
const ADMISSION_BUCKETS: [f64; 14] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 2.5];

impl Expiry {
    fn registered(registry: &mut Registry) -> Self {
        let serving_certificate = Gauge::default();
        registry.register(
            "serving_certificate_expiry_timestamp_seconds",
            "When the serving certificate in use expires, in seconds since 1970; 0 when none is loaded",
            serving_certificate.clone(),
        );
        let serving_certificate_authority = Gauge::default();
        registry.register(
            "serving_certificate_authority_expiry_timestamp_seconds",
            "When the authority of the serving certificate in use expires, in seconds since 1970; 0 when it is not known",
            serving_certificate_authority.clone(),
        );
        let registry_credential = Family::default();
        registry.register(
            "registry_credential_expiry_timestamp_seconds",
            "When the first registry token of a registry rule expires, in seconds since 1970",
            registry_credential.clone(),
        );
        let service_principal_credential = Family::default();
        registry.register(
            "service_principal_credential_expiry_timestamp_seconds",
            "When the secret or certificate of a service principal itself ends, in seconds since 1970, where that is known",
            service_principal_credential.clone(),
        );
        Self { serving_certificate, serving_certificate_authority, registry_credential, service_principal_credential }
    }
}

fn set_or_remove(
    family: &Family<RegistryLabel, Gauge<f64, AtomicU64>>,
    registry: &str,
    moment: Option<jiff::Timestamp>,
) {
    let label = RegistryLabel { registry: registry.to_owned() };
    match moment {
        Some(moment) => {
            family.get_or_create(&label).set(seconds(moment));
        }
        None => {
            family.remove(&label);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit an f64 exactly for millions of years")]
fn seconds(moment: jiff::Timestamp) -> f64 {
    moment.as_second() as f64
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Write {
    reason: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RegistryLabel {
    registry: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Refresh {
    registry: String,
    outcome: &'static str,
}

#[cfg(test)]
mod tests;
