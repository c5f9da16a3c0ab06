//! Which replica leads: the one that holds a Lease of our namespace.
//!
//! Leading only decides who writes in the background. Two leaders for a moment, or none, do no harm: every write names the
//! version that it replaces, and pods are served by every replica.
//!
//! As with the controllers of Kubernetes, no replica believes another's clock: a holder is gone when its Lease has not
//! changed for `LEASE_DURATION` by the stopwatch of the one that looks, whatever `renewTime` says.
//!
//! Source: `tools/leaderelection/leaderelection.go` of client-go.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    core::ObjectMeta,
};
use serde_json::json;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{domain::pull_secret::MANAGER, metrics::Metrics};

/// How long the lead is kept without being renewed, and how long others wait for a sign of life.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// Time between two renewals.
const RENEWAL_PERIOD: Duration = Duration::from_secs(5);
/// Time after which a renewal that failed is tried again, and the Lease of another is looked at again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How long the API server may take in all.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Pauses of a replica that fails and does not lead grow to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// While the API server is away, an election fails again and again.
const WARN_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Stands for election through `client` until `shutdown`, and tells `leader` the outcome. `client` must not try again by
/// itself.
pub async fn run(
    client: Client,
    namespace: String,
    lease: String,
    identity: String,
    leader: watch::Sender<bool>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let leases = Api::namespaced(client, &namespace);
    let mut candidate =
        Candidate { leases, lease, identity, others: LastSeen::default(), leads_until: None, written: None };
    let announce = |leads: bool| {
        if leader.send_if_modified(|led| std::mem::replace(led, leads) != leads) {
            tracing::info!(leads, "the lead has changed");
        }
        metrics.leading(leads);
    };
    let mut failures = 0;
    let mut warned: Option<Instant> = None;
    loop {
        announce(candidate.leads());
        let begun = Instant::now();
        let Some(stood) = shutdown.run_until_cancelled(candidate.stand()).await else { break };
        match stood {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                let lease = &candidate.lease;
                if warned.is_some_and(|at| at.elapsed() < WARN_AGAIN_AFTER) {
                    tracing::debug!(%error, lease, "the election is tried again");
                } else {
                    warned = Some(Instant::now());
                    tracing::warn!(%error, lease, "the election is tried again");
                }
            }
        }
        announce(candidate.leads());
        if shutdown.run_until_cancelled(tokio::time::sleep(candidate.pause(failures, begun))).await.is_none() {
            break;
        }
    }
    announce(false);
    if let Err(error) = candidate.release().await {
        tracing::info!(%error, "the lead could not be released, others wait for its end");
    }
}

/// Why the outcome of an election is not known.
#[derive(Debug, thiserror::Error)]
enum ElectionError {
    #[error("the API server gave no answer in time")]
    NoAnswer(#[from] tokio::time::error::Elapsed),
    #[error(transparent)]
    Refused(#[from] kube::Error),
}

/// One replica in the election.
struct Candidate {
    leases: Api<Lease>,
    lease: String,
    identity: String,
    others: LastSeen,
    /// From before the last renewal was sent, so that it ends for us before it does for others.
    leads_until: Option<Instant>,
    /// The version of the Lease as we wrote it last, while nobody else is known to have written since.
    written: Option<String>,
}

/// What another replica wrote last, and when we saw it first.
#[derive(Default)]
struct LastSeen(Option<(LeaseSpec, Instant)>);

impl Candidate {
    fn leads(&self) -> bool {
        !self.lead_left().is_zero()
    }

    fn lead_left(&self) -> Duration {
        self.leads_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Renews the lead or takes a free one. A lead that could not be renewed is kept until its end.
    async fn stand(&mut self) -> Result<(), ElectionError> {
        let begun = Instant::now();
        let limit = if self.leads() { ANSWER_LIMIT.min(self.lead_left()) } else { ANSWER_LIMIT };
        let holds = tokio::time::timeout(limit, self.hold()).await??;
        self.leads_until = holds.then(|| begun + LEASE_DURATION);
        Ok(())
    }

    async fn hold(&mut self) -> kube::Result<bool> {
        let now = MicroTime(Timestamp::now());
        let mut ours = json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": LEASE_DURATION.as_secs(),
            "renewTime": now,
        });
        if let Some(version) = self.written.take() {
            match self.replace(Some(version), ours.clone()).await {
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                answer => return self.note(answer),
            }
        }
        let found = self.leases.get_opt(&self.lease).await?;
        let Some(Lease { metadata: ObjectMeta { resource_version, .. }, spec }) = found else {
            ours["acquireTime"] = json!(now);
            let answer = self.create(ours).await;
            return self.note(answer);
        };
        let spec = spec.unwrap_or_default();
        let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty());
        if holder != Some(&self.identity) {
            if holder.is_some() && !self.others.is_gone(&spec) {
                return Ok(false);
            }
            ours["acquireTime"] = json!(now);
            ours["leaseTransitions"] = json!(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        let answer = self.replace(resource_version, ours).await;
        self.note(answer)
    }

    /// Whether we are the one who wrote.
    fn note(&mut self, answer: kube::Result<Lease>) -> kube::Result<bool> {
        match answer {
            Ok(lease) => {
                self.written = lease.metadata.resource_version;
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The next leader then need not wait for the end of our lead.
    async fn release(self) -> Result<(), ElectionError> {
        if !self.leads() {
            return Ok(());
        }
        Ok(tokio::time::timeout(ANSWER_LIMIT, self.clear()).await??)
    }

    async fn clear(&self) -> kube::Result<()> {
        let Lease { metadata, spec } = self.leases.get(&self.lease).await?;
        if spec.and_then(|spec| spec.holder_identity).is_some_and(|holder| holder == self.identity) {
            self.replace(metadata.resource_version, json!({"holderIdentity": null})).await?;
        }
        Ok(())
    }

    async fn create(&self, spec: serde_json::Value) -> kube::Result<Lease> {
        let lease = json!({"metadata": {"name": self.lease}, "spec": spec});
        let lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        self.leases.create(&parameters, &lease).await
    }

    /// Of two that replace the same version, the second is refused.
    async fn replace(&self, version: Option<String>, spec: serde_json::Value) -> kube::Result<Lease> {
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": spec});
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        self.leases.patch(&self.lease, &parameters, &Patch::Merge(patch)).await
    }

    /// Until the next attempt. `begun` is when the last one was.
    fn pause(&self, failures: u32, begun: Instant) -> Duration {
        if self.leads() {
            let pause = if failures == 0 { RENEWAL_PERIOD.saturating_sub(begun.elapsed()) } else { AGAIN_AFTER };
            return pause.min(self.lead_left());
        }
        let full = AGAIN_AFTER.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE);
        full.mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

impl LastSeen {
    /// Is this the Lease of a holder that has shown no sign of life for too long?
    fn is_gone(&mut self, spec: &LeaseSpec) -> bool {
        match &self.0 {
            Some((seen, since)) if seen == spec => since.elapsed() >= LEASE_DURATION,
            _ => {
                self.0 = Some((spec.clone(), Instant::now()));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_holder_is_gone_when_its_lease_stands_still_whatever_its_clock_said() {
        for renewed_at in ["1999-01-01T00:00:00Z", "2099-01-01T00:00:00Z"] {
            let renewed_at: Timestamp = renewed_at.parse().unwrap();
            let renewed = |number| LeaseSpec {
                holder_identity: Some("another".to_owned()),
                renew_time: Some(MicroTime(renewed_at + jiff::SignedDuration::from_secs(number))),
                ..LeaseSpec::default()
            };
            let mut others = LastSeen::default();
            for number in 0..10 {
                assert!(!others.is_gone(&renewed(number)), "it was renewed");
                tokio::time::advance(LEASE_DURATION.mul_f64(0.9)).await;
                assert!(!others.is_gone(&renewed(number)), "it may be renewed yet");
            }
            tokio::time::advance(LEASE_DURATION.mul_f64(0.2)).await;
            assert!(others.is_gone(&renewed(9)));
        }
    }
}
