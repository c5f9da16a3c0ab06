//! Keeps existing pull secrets in step with the stored credentials and the configuration.
//!
//! It acts on a change that this replica has seen, and once at the start for changes that nobody saw. It never acts on a
//! mere difference: another replica may have seen a new password before its file arrived here, and must not be undone.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{CredentialSource, NamespaceSource, PullSecretStore},
    ensure::{Ensurer, WriteReason},
    retry::RetryQueue,
};

/// Rewrites pull secrets when what they are made from changes.
#[derive(Debug)]
pub struct Reconciler<C, S, N> {
    /// Writes them.
    pub ensurer: Arc<Ensurer<C, S>>,
    /// Knows where they stand.
    pub store: Arc<S>,
    /// Knows what their namespaces are granted.
    pub namespaces: Arc<N>,
    /// Takes over what fails.
    pub retries: RetryQueue,
}

/// At most 50 pull secrets a second, so that 10,000 take under four minutes and the API server hardly notices.
const WRITE_INTERVAL: Duration = Duration::from_millis(20);
const AT_ONCE: usize = 8;

impl<C: CredentialSource, S: PullSecretStore, N: NamespaceSource> Reconciler<C, S, N> {
    /// Goes over all pull secrets now and after each change of `changes`, until `shutdown`.
    pub async fn run(self, mut changes: watch::Receiver<u64>, shutdown: CancellationToken) {
        loop {
            changes.mark_unchanged();
            self.retries.hurry();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.refresh_all() => {}
            }
            let announced = tokio::select! {
                () = shutdown.cancelled() => return,
                announced = changes.changed() => announced,
            };
            if announced.is_err() {
                // Nobody is left to announce a change; what stands is right.
                shutdown.cancelled().await;
                return;
            }
        }
    }

    async fn refresh_all(&self) {
        let mut ticks = tokio::time::interval(WRITE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let paced = futures_util::stream::unfold(
            (self.store.namespaces().into_iter(), ticks),
            |(mut names, mut ticks)| async {
                let name = names.next()?;
                ticks.tick().await;
                Some((name, (names, ticks)))
            },
        );
        paced.for_each_concurrent(AT_ONCE, |name| async move { self.refresh(&name).await }).await;
    }

    async fn refresh(&self, name: &str) {
        let Some(namespace) = self.namespaces.cached(name).filter(|namespace| !namespace.terminating) else {
            return;
        };
        if let Err(error) = self.ensurer.refresh(&namespace, WriteReason::Change).await {
            tracing::warn!(namespace = name, %error, "the pull secret could not be brought up to date");
            if error.may_pass() {
                self.retries.push_stale(name);
            }
        }
    }
}
