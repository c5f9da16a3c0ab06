//! The loop that every replica runs: read, plan, write, serve, publish.

use std::{collections::BTreeSet, fmt, hash::BuildHasher, sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::Client;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    issue::{IssueError, carry_out},
    plan::{Lifetimes, PublishedBundle, Step, next_step, serving_leaf},
    reason::with_sources,
    secret::{CertificateSecret, ReadSecret, SecretError},
    serving::ServingCertificate,
    stored::StoredCertificates,
    webhook_configuration::{ReadConfiguration, WebhookConfiguration, WebhookConfigurationError},
};

/// A round that takes longer is given up and started again: no request of it may hang for ever.
const LONGEST_ROUND: Duration = Duration::from_secs(30);
/// Pause after the first failed round; doubled with each further one, up to [`LONGEST_PAUSE`].
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause after a failed round.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Time between two looks although something changes all the time: another who writes the `caBundle` too, say.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(250);
/// More steps than a Secret has room for authorities to retire: the lifetimes contradict each other.
const MOST_STEPS: usize = 1000;

/// Keeps a certificate authority and a serving certificate in one Secret and the `caBundle` in step with them.
///
/// Needs `get`, `create` and `patch` on that Secret and `get` and `patch` on that configuration; `resourceNames`
/// work, because the Secret is created by server-side apply.
#[derive(Clone)]
pub struct SelfManaged {
    /// Client with the rights above.
    pub client: Client,
    /// Namespace of the Secret: our own.
    pub namespace: String,
    /// Name of the Secret.
    pub secret_name: String,
    /// Names under which API servers call the webhook: `<service>.<namespace>.svc`.
    pub dns_names: Vec<String>,
    /// Name of the `MutatingWebhookConfiguration`; it may be installed later.
    pub webhook_configuration: String,
    /// Field manager of our writes, value of the Secret's `app.kubernetes.io/managed-by` label and first part of the
    /// authorities' subject. At most 63 characters, as a label value.
    pub field_manager: String,
    /// How long certificates live.
    pub lifetimes: Lifetimes,
    /// Time between two looks at the Secret and the configuration (about ten seconds).
    pub check_interval: Duration,
    /// Notified when one of them may have changed: the next look follows at once.
    pub changed: Arc<Notify>,
}

/// Why a round failed. The next one starts from what is stored then.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    WebhookConfiguration(#[from] WebhookConfigurationError),
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error("the plan of the certificates does not settle: check that the lifetimes are longer than the overlap")]
    Unsettled,
    #[error("the API server did not answer within {LONGEST_ROUND:?}: it is asked again")]
    Timeout,
}

impl SelfManaged {
    /// Runs until `shutdown`; no error ends it. Failed rounds are repeated with growing, jittered pauses.
    pub async fn run(self, serving: ServingCertificate, shutdown: CancellationToken) {
        let mut rounds = Rounds::new(self, serving);
        let mut failures = 0;
        loop {
            let round = tokio::time::timeout(LONGEST_ROUND, rounds.run());
            let Some(result) = shutdown.run_until_cancelled(round).await else { return };
            let pause = match result.unwrap_or(Err(RoundError::Timeout)) {
                Ok(()) => {
                    failures = 0;
                    let look = rounds.plan.wait_for_the_next_look();
                    if shutdown.run_until_cancelled(look).await.is_none() {
                        return;
                    }
                    continue;
                }
                Err(error) if error.is_conflict() => {
                    tracing::debug!(reason = %with_sources(&error), "lost a race");
                    jittered(SHORTEST_PAUSE)
                }
                Err(error) => {
                    tracing::warn!(reason = %with_sources(&error), "the serving certificate could not be checked");
                    failures += 1;
                    pause_after(failures)
                }
            };
            if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    async fn wait_for_the_next_look(&self) {
        let changed = async {
            tokio::time::sleep(SHORTEST_INTERVAL).await;
            self.changed.notified().await;
        };
        let _ = tokio::time::timeout(self.check_interval, changed).await;
    }
}

/// Without the client.
impl fmt::Debug for SelfManaged {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SelfManaged")
            .field("namespace", &self.namespace)
            .field("secret_name", &self.secret_name)
            .field("dns_names", &self.dns_names)
            .field("webhook_configuration", &self.webhook_configuration)
            .field("field_manager", &self.field_manager)
            .field("lifetimes", &self.lifetimes)
            .field("check_interval", &self.check_interval)
            .finish_non_exhaustive()
    }
}

/// What one replica remembers between rounds.
struct Rounds {
    plan: SelfManaged,
    dns_names: BTreeSet<String>,
    secret: CertificateSecret,
    configuration: WebhookConfiguration,
    serving: ServingCertificate,
    /// What the Secret held last, whole and serving.
    remembered: StoredCertificates,
    /// The certificate in `serving` is the leaf of these.
    loaded: StoredCertificates,
    configuration_is_missing: bool,
}

impl Rounds {
    fn new(plan: SelfManaged, serving: ServingCertificate) -> Self {
        Self {
            dns_names: plan.dns_names.iter().cloned().collect(),
            secret: CertificateSecret::new(
                plan.client.clone(),
                &plan.namespace,
                &plan.secret_name,
                &plan.field_manager,
            ),
            configuration: WebhookConfiguration::new(
                plan.client.clone(),
                &plan.webhook_configuration,
                &plan.field_manager,
            ),
            serving,
            remembered: StoredCertificates::default(),
            loaded: StoredCertificates::default(),
            configuration_is_missing: false,
            plan,
        }
    }

    /// The configuration is read first: whoever changes the Secret after our reading writes the bundle after it too,
    /// and then our own write of the bundle is refused.
    async fn run(&mut self) -> Result<(), RoundError> {
        let configuration = self.configuration.read().await;
        let read = self.secret.read().await?;
        let published = match &configuration {
            Ok(Some(configuration)) => configuration.published(),
            Ok(None) => PublishedBundle::NoWebhook,
            Err(_) => PublishedBundle::Unknown,
        };
        let (stored, steps) = self.settle(self.starting_point(&read), &published, Timestamp::now())?;
        if stored != read.stored || !read.exists() || !read.bundle_is_right() {
            if let Err(error) = self.secret.write(&read, &stored).await {
                // What is stored already is as good as it was, also for a replica that has only just started.
                if serving_leaf(&read.stored, Timestamp::now()).is_ok() {
                    self.serve(&read.stored);
                    self.publish(configuration?, &read.stored).await?;
                }
                return Err(error.into());
            }
            tracing::info!(secret = %self.plan.secret_name, ?steps, "certificates written");
        }
        self.serve(&stored);
        self.publish(configuration?, &stored).await
    }

    /// What is stored; or, if the authority that replicas serve by is lost with it, what we remember, but with a new authority
    /// to come. A new one at once would be trusted before the other replicas serve by it.
    fn starting_point(&self, read: &ReadSecret) -> StoredCertificates {
        let now = Timestamp::now();
        let is_lost = serving_leaf(&read.stored, now).is_err()
            && serving_leaf(&self.remembered, now).is_ok()
            && !read.stored.knows_issuer_of(&self.remembered);
        if is_lost {
            tracing::warn!(
                secret = %self.plan.secret_name,
                "the Secret was emptied, deleted or damaged: its certificates are put back and will be replaced by new ones"
            );
            return self.remembered.clone().without_authority_keys();
        }
        read.stored.clone()
    }

    /// Carries out steps until the plan says to wait.
    fn settle(
        &self,
        mut stored: StoredCertificates,
        published: &PublishedBundle,
        now: Timestamp,
    ) -> Result<(StoredCertificates, Vec<Step>), RoundError> {
        let lifetimes = &self.plan.lifetimes;
        let mut steps = Vec::new();
        for _ in 0..MOST_STEPS {
            let step = next_step(&stored, published, &self.dns_names, lifetimes, now);
            if step == Step::Wait {
                return Ok((stored, steps));
            }
            carry_out(&step, &mut stored, &self.plan.field_manager, lifetimes, now)?;
            steps.push(step);
        }
        Err(RoundError::Unsettled)
    }

    /// Loads the leaf that is stored now. One that must not be served leaves the last good pair in use.
    fn serve(&mut self, stored: &StoredCertificates) {
        match serving_leaf(stored, Timestamp::now()) {
            Ok(leaf) => {
                if self.loaded.leaf.as_ref() != Some(leaf) {
                    self.serving.load(leaf.pair().clone());
                    tracing::info!(not_after = %leaf.pair().not_after(), "serving certificate loaded");
                    self.loaded = stored.clone();
                }
                self.remembered = stored.clone();
            }
            Err(reason) => tracing::warn!(?reason, "the stored serving certificate cannot be served"),
        }
    }

    async fn publish(
        &mut self,
        configuration: Option<ReadConfiguration>,
        stored: &StoredCertificates,
    ) -> Result<(), RoundError> {
        let name = &self.plan.webhook_configuration;
        let Some(configuration) = configuration else {
            if !self.configuration_is_missing {
                tracing::warn!(configuration = %name, "no such MutatingWebhookConfiguration yet: its caBundle is set once it is installed");
            }
            self.configuration_is_missing = true;
            return Ok(());
        };
        self.configuration_is_missing = false;
        let bundle_pem = stored.bundle_pem();
        if !configuration.has_bundle(&bundle_pem) {
            self.configuration.write(&configuration, &bundle_pem).await?;
            tracing::info!(configuration = %name, authorities = stored.authorities.len(), "caBundle written");
        }
        Ok(())
    }
}

impl RoundError {
    fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::Secret(SecretError::Conflict { .. })
                | Self::WebhookConfiguration(WebhookConfigurationError::Conflict { .. })
        )
    }
}

/// Doubles from [`SHORTEST_PAUSE`] up to [`LONGEST_PAUSE`], jittered.
fn pause_after(failures: u32) -> Duration {
    jittered(SHORTEST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE))
}

/// Between one half and the whole of `pause`, so that replicas do not stay in step.
fn jittered(pause: Duration) -> Duration {
    // The standard library seeds each hasher differently; that is random enough here.
    let random = std::hash::RandomState::new().hash_one(());
    let share = u32::try_from(random % 1024).unwrap_or_default();
    pause / 2 + pause / 2 * share / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_cap_and_differ() {
        assert!(pause_after(1) <= Duration::from_secs(1));
        for failures in 1..100 {
            assert!(pause_after(failures) <= LONGEST_PAUSE && pause_after(failures) >= SHORTEST_PAUSE / 2);
        }
        assert!(pause_after(100) >= LONGEST_PAUSE / 2);
        let pauses: BTreeSet<Duration> = (0..20).map(|_| pause_after(10)).collect();
        assert!(pauses.len() > 10, "no jitter");
    }
}
