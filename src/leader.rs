//! Which replica leads: the one that holds a Lease of our namespace.
//!
//! Leading only decides who writes in the background. Two leaders for a moment, or none, do no harm: every write names the
//! version that it replaces, and pods are served by every replica.

use std::{sync::Arc, time::Duration};

use kube::Client;
use kube_lease_manager::{LeaseManagerBuilder, LeaseManagerError};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// How long the lead is kept without a sign of life.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long before its end the lead is renewed.
const GRACE: Duration = Duration::from_secs(5);
/// While the API server is away, an election fails every few seconds.
const WARN_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Stands for election until `shutdown`, and tells `leader` the outcome.
pub async fn run(
    client: Client,
    namespace: String,
    lease: String,
    identity: String,
    leader: watch::Sender<bool>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let leader = Outcome { leader, metrics };
    let mut warned: Option<Instant> = None;
    while !shutdown.is_cancelled() {
        if let Err(error) = stand(&client, &namespace, &lease, &identity, &leader, &shutdown).await {
            if warned.is_some_and(|at| at.elapsed() < WARN_AGAIN_AFTER) {
                tracing::debug!(%error, lease, "the election is tried again");
            } else {
                warned = Some(Instant::now());
                tracing::warn!(%error, lease, "the election is tried again");
            }
        }
        leader.announce(false);
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
    }
}

/// Who wants to know the outcome.
struct Outcome {
    leader: watch::Sender<bool>,
    metrics: Arc<Metrics>,
}

impl Outcome {
    fn announce(&self, leads: bool) {
        self.leader.send_replace(leads);
        self.metrics.leading(leads);
    }
}

/// Follows one lease manager until it fails or `shutdown`.
async fn stand(
    client: &Client,
    namespace: &str,
    lease: &str,
    identity: &str,
    leader: &Outcome,
    shutdown: &CancellationToken,
) -> Result<(), LeaseManagerError> {
    let manager = LeaseManagerBuilder::new(client.clone(), lease)
        .with_namespace(namespace)
        .with_identity(identity)
        .with_duration(LEASE_DURATION.as_secs())
        .with_grace(GRACE.as_secs())
        .build()
        .await?;
    loop {
        let leads = tokio::select! {
            () = shutdown.cancelled() => {
                // The next leader then need not wait for the lease to run out.
                return manager.release().await;
            }
            leads = manager.changed() => leads?,
        };
        tracing::info!(leads, lease, "the lead has changed");
        leader.announce(leads);
    }
}
