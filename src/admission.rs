//! The use case: an admission review comes in, the answer goes out.
//!
//! What this module needs of the world stands here as traits ([`CredentialSource`], [`PullSecretStore`],
//! [`NamespaceSource`]); adapters implement them. It knows neither HTTP nor a Kubernetes client nor Azure.
//!
//! Invariants: the answer always allows the pod; when the pull secret is known to be right the answer needs no network
//! call; a dry run writes nothing.

mod judgement;
mod waiting;

use std::{collections::BTreeSet, future::Future, sync::Arc};

use arc_swap::ArcSwap;
use tracing::Instrument as _;

pub(crate) use self::judgement::judge;
pub use self::waiting::Waiting;
use crate::{
    domain::{
        decision::{self, Decision, Injection, Settings, SkipReason},
        image::LoginServer,
        patch,
        pull_secret::{CredentialSourceHash, PullSecret, RegistryCredential, StoredPullSecret},
        registry::{Namespace, RegistryName, RegistryRules},
        review::{self, Pod, Response, Review, ReviewError, Subject, Warning},
    },
    ensure::{EnsureError, Ensurer, WriteReason},
    events::Events,
    lifecycle::Lifecycle,
    metrics::Metrics,
    retry::RetryQueue,
    spans,
};

/// Where registry credentials come from.
pub trait CredentialSource: Send + Sync + 'static {
    /// The credential that the rule `registry` holds for `login_server`.
    fn credential(
        &self,
        registry: &RegistryName,
        login_server: &LoginServer,
    ) -> impl Future<Output = Result<RegistryCredential, CredentialError>> + Send;

    /// Are its credentials those of these rules, and not of rules that have just taken their place or are about to?
    fn goes_by(&self, _rules: &RegistryRules) -> bool {
        true
    }

    /// Notes that a pull secret of ours holds a token of this login server: it is none that somebody made up.
    fn vouch(&self, _registry: &RegistryName, _login_server: &LoginServer) {}

    /// What a credential of the rule `registry` would be made from now, from memory alone. `None`: it cannot be read.
    fn source(&self, registry: &RegistryName) -> Option<CredentialSourceHash>;
}

/// Why there is no credential. The text names the file and the remedy, never a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no credential for registry {registry}: {reason}")]
pub struct CredentialError {
    /// The registry rule that was asked.
    pub registry: RegistryName,
    /// What is wrong and what to do.
    pub reason: String,
}

/// Where pull secrets stand: one per namespace, always under the configured name.
pub trait PullSecretStore: Send + Sync + 'static {
    /// What is known of the namespace's pull secret, from memory alone.
    fn stored(&self, namespace: &str) -> Option<Arc<StoredPullSecret>>;

    /// All Secrets of the configured name with their namespaces, from memory alone.
    fn all(&self) -> Vec<(String, Arc<StoredPullSecret>)>;

    /// Reads the pull secret itself. `None`: there is none.
    fn read(&self, namespace: &str) -> impl Future<Output = Result<Option<ReadPullSecret>, StoreError>> + Send;

    /// Stores the first pull secret of a namespace. [`StoreError::Conflict`] when one stands there meanwhile.
    fn create(&self, namespace: &str, secret: &PullSecret) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Replaces the content of `previous`, in place. [`StoreError::Conflict`] when it has changed meanwhile.
    fn update(
        &self,
        namespace: &str,
        secret: &PullSecret,
        previous: &StoredPullSecret,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Pull secrets that somebody else deleted lately, each once.
    fn take_deleted(&self) -> Vec<(String, Arc<StoredPullSecret>)>;

    /// Deletes `previous`. [`StoreError::Conflict`] when it has changed meanwhile; one that is gone already is no error.
    fn delete(
        &self,
        namespace: &str,
        previous: &StoredPullSecret,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A pull secret with its content.
#[derive(Clone, Debug)]
pub struct ReadPullSecret {
    /// What its metadata says.
    pub stored: StoredPullSecret,
    /// Its content; `None` when it does not read as one of ours.
    pub content: Option<PullSecret>,
}

/// Why a pull secret could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Somebody else wrote at the same time.
    #[error("the pull secret changed at the same time")]
    Conflict,
    /// The namespace does not exist or is being deleted, as far as the API server that was asked has heard.
    #[error("the namespace does not exist or is being deleted")]
    NamespaceGone,
    /// What stands there cannot become what it should be: its type differs, or somebody made it immutable.
    #[error("the pull secret cannot be changed in place: {0}")]
    Immutable(String),
    /// The API server will not have it: a right is missing, a quota is used up, a policy forbids it.
    #[error("the API server refused the pull secret: {0}")]
    Refused(String),
    /// The API server did not answer as it should; trying again may help.
    #[error("the API server could not be reached or is overloaded: {0}")]
    Unavailable(String),
}

impl StoreError {
    /// The error as the value of a metric label.
    #[must_use]
    pub fn as_label(&self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::NamespaceGone => "namespace_gone",
            Self::Immutable(_) | Self::Refused(_) => "refused",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// Where namespaces are known from.
pub trait NamespaceSource: Send + Sync + 'static {
    /// The namespace, from memory alone.
    fn cached(&self, name: &str) -> Option<Arc<Namespace>>;

    /// The namespace, from the API server, as it was no more than seconds ago. `None`: there is none.
    fn read(&self, name: &str) -> impl Future<Output = Result<Option<Namespace>, StoreError>> + Send;
}

/// Answers admission reviews.
#[derive(Debug)]
pub struct Admission<C, S, N> {
    /// Brings pull secrets into being.
    pub ensurer: Arc<Ensurer<C, S>>,
    /// Tells what namespaces carry.
    pub namespaces: Arc<N>,
    /// Takes over what could not be done in time.
    pub retries: RetryQueue,
    /// What the operator configured.
    pub settings: Arc<ArcSwap<Settings>>,
    /// Pods that wait for a pull secret.
    pub waiting: Waiting,
    /// Tells the owners of namespaces what they can mend.
    pub events: Events,
    /// Work that goes on after the answer is waited for at the end of the process.
    pub lifecycle: Lifecycle,
    /// Counts what was written.
    pub metrics: Arc<Metrics>,
}

/// An answer and what to record of it.
#[derive(Debug)]
pub struct Answer {
    /// The AdmissionReview response as JSON.
    pub body: Vec<u8>,
    /// What was done, from a closed set.
    pub outcome: &'static str,
}

impl<C: CredentialSource, S: PullSecretStore, N: NamespaceSource> Admission<C, S, N> {
    /// Answers one review.
    ///
    /// # Errors
    ///
    /// When the body is no AdmissionReview that this program can answer.
    pub async fn answer(&self, body: &[u8]) -> Result<Answer, ReviewError> {
        let started = std::time::Instant::now();
        let review = review::parse(body)?;
        let response = Response::allowed(&review);
        let (operation, name) = match &review.subject {
            Subject::PodCreation(pod) => ("CREATE", pod.display_name()),
            Subject::Other(_) => ("other", ""),
        };
        let span = spans::admission(&review, operation, name);
        let (response, outcome) = match &review.subject {
            Subject::Other(_) => (response, "not_a_pod_creation"),
            Subject::PodCreation(pod) => self.answer_pod(&review, pod, response).instrument(span.clone()).await,
        };
        span.record("outcome", outcome);
        tracing::debug!(
            uid = %review.uid,
            namespace = %review.namespace,
            name,
            operation,
            outcome,
            milliseconds = started.elapsed().as_secs_f64() * 1000.0,
            "admission review answered"
        );
        Ok(Answer { body: response.to_json(), outcome })
    }

    async fn answer_pod<'a>(
        &self,
        review: &Review<'a>,
        pod: &Pod<'a>,
        response: Response<'a>,
    ) -> (Response<'a>, &'static str) {
        let settings = self.settings.load_full();
        let login_servers = match decision::login_servers(pod, &review.namespace, &settings) {
            Ok(login_servers) => login_servers,
            Err(reason) => return (response, reason.as_label()),
        };
        let deadline = tokio::time::Instant::now() + settings.limits.ensure_timeout;
        let known = self.namespaces.cached(&review.namespace);
        let has_opted_out = known.as_deref().is_some_and(decision::opted_out);
        let read = self.read_namespace(&review.namespace, deadline);
        let (namespace, decision) = match judge(known, read, &login_servers, &settings).await {
            Ok(Some(judged)) => judged,
            Ok(None) => return (response, "namespace_unknown"),
            // As far as we know its owner wants no reference, and nobody can say otherwise now.
            Err(_) if has_opted_out => return (response, SkipReason::NamespaceOptedOut.as_label()),
            Err(error) => {
                let covers = |login_server| settings.rules.iter().any(|rule| rule.covers(login_server));
                if !login_servers.iter().any(covers) {
                    return (response, "nothing_granted");
                }
                let hosts = join(login_servers.iter().map(LoginServer::as_str));
                if !review.dry_run {
                    self.retries.push(&review.namespace, login_servers);
                }
                // Which rule serves the namespace cannot be said now; a reference too many does no harm.
                let response = match patch::image_pull_secrets(pod, &settings.pull_secret_name) {
                    Some(patch) => response.with_patch(patch),
                    None => response,
                };
                let response = response
                    .with_audit_annotation("hosts", hosts)
                    .with_audit_annotation(PULL_SECRET_STATE, "pending".to_owned());
                let warning = warn(&format_args!("the pull secret comes later: {error}"));
                return (response.with_warning(warning), "injected_before_pull_secret");
            }
        };
        let response = decision.respond(response, pod, &settings);
        let injection = match decision {
            Decision::Inject(injection) => injection,
            Decision::Skip(reason) => {
                if let (SkipReason::NothingGranted(ungranted), false) = (&reason, review.dry_run) {
                    for ungranted in ungranted {
                        self.events.not_granted(&namespace.name, ungranted);
                    }
                }
                return (response, reason.as_label());
            }
        };
        self.ensurer.note_demand(&namespace.name);
        if !review.dry_run {
            for ungranted in &injection.ungranted {
                self.events.not_granted(&namespace.name, ungranted);
            }
        }
        let response = response
            .with_audit_annotation("hosts", join(injection.granted.keys().map(LoginServer::as_str)))
            .with_audit_annotation("registries", join(injection.granted.values().map(RegistryName::as_str)));
        if self.ensurer.is_complete(&namespace.name, injection.granted.keys()) {
            return (response.with_audit_annotation(PULL_SECRET_STATE, "present".to_owned()), "injected");
        }
        if review.dry_run {
            return (response.with_audit_annotation(PULL_SECRET_STATE, "not made: dry run".to_owned()), "injected");
        }
        // In a box, as is the read of a namespace: what is seldom done shall not make the future of each review large.
        match Box::pin(self.ensure(namespace, injection, deadline)).await {
            Ok(()) => (response.with_audit_annotation(PULL_SECRET_STATE, "made".to_owned()), "injected"),
            Err(warnings) => {
                let response = response.with_audit_annotation(PULL_SECRET_STATE, "pending".to_owned());
                (warnings.into_iter().fold(response, Response::with_warning), "injected_before_pull_secret")
            }
        }
    }

    async fn read_namespace(
        &self,
        name: &str,
        deadline: tokio::time::Instant,
    ) -> Result<Option<Namespace>, StoreError> {
        let read = Box::pin(spans::record(spans::read("namespace"), StoreError::as_label, self.namespaces.read(name)));
        match tokio::time::timeout_at(deadline, read).await {
            Ok(namespace) => namespace,
            Err(_) => Err(StoreError::Unavailable("no answer in time".to_owned())),
        }
    }

    /// Waits for the pull secret until the deadline; past it the work goes on without the pod.
    async fn ensure(
        &self,
        namespace: Arc<Namespace>,
        injection: Injection,
        deadline: tokio::time::Instant,
    ) -> Result<(), Vec<Warning>> {
        let late = "the pull secret takes longer than a pod may wait for it; its first pull may fail";
        let (place, pilot) = match self.waiting.join(&namespace, injection.granted) {
            Ok(joined) => joined,
            Err(wanted) => {
                self.retries.push(&namespace.name, wanted.into_keys().collect());
                return Err(vec![warn(&late)]);
            }
        };
        if let Some(pilot) = pilot {
            let ensurer = self.ensurer.clone();
            let (retries, events) = (self.retries.clone(), self.events.clone());
            let pull_secret_name = self.settings.load().pull_secret_name.clone();
            let work = pilot.fly(async move |namespace, wanted| {
                let ensured = ensurer.ensure(namespace, wanted, WriteReason::Admission).await;
                if let Err(error) = &ensured {
                    // The retry warns, and the Event tells the owner; a burst of pods would fill the log.
                    tracing::debug!(namespace = namespace.name, %error, "the pull secret was not made while pods waited");
                    if matches!(error, EnsureError::Foreign { .. }) {
                        events.name_taken(&namespace.name, &pull_secret_name);
                    }
                    retries.push(&namespace.name, error.left(wanted.keys()));
                }
                ensured
            });
            drop(self.lifecycle.spawn_work(work.instrument(spans::flight())));
        }
        match tokio::time::timeout_at(deadline, place.arrival()).await {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(error))) => Err(error.sentences().iter().map(warn).collect()),
            Ok(None) => Err(vec![warn(&"the pull secret could not be made: internal error")]),
            Err(_) => Err(vec![warn(&late)]),
        }
    }
}

/// The audit annotation that tells whether the pull secret was there.
const PULL_SECRET_STATE: &str = "pull-secret";

/// Each once, sorted.
fn join<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(",")
}

fn warn(cause: &impl std::fmt::Display) -> Warning {
    Warning::new(format!("acr-pull-injector: {cause}"))
}

#[cfg(test)]
pub(crate) mod tests;
