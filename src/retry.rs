//! What could not be done while a pod was waiting is tried again in the background.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{CredentialSource, NamespaceSource, PullSecretStore},
    domain::{
        decision::{self, Decision, Settings},
        image::LoginServer,
    },
    ensure::{Ensurer, MAX_LOGIN_SERVERS, WriteReason},
};

/// Namespaces whose pull secret is wanted and not yet right. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RetryQueue {
    pending: Arc<Mutex<HashMap<String, Pending>>>,
    changed: Arc<Notify>,
}

#[derive(Clone, Debug)]
struct Pending {
    /// Login servers that pods asked for, no more than a pull secret holds.
    login_servers: BTreeSet<LoginServer>,
    failures: u32,
    due: Instant,
}

/// Reviews can be sent by anybody who reaches the port, so what they leave behind is bounded.
const MAX_PENDING: usize = 20_000;
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(300);
const AT_ONCE: usize = 8;

impl RetryQueue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks that the pull secret of `namespace` be made right for `login_servers`, a second from now.
    pub fn push(&self, namespace: &str, login_servers: BTreeSet<LoginServer>) {
        self.insert(namespace, Pending { login_servers, failures: 0, due: Instant::now() });
    }

    /// Makes everything due now: something changed that may have been the obstacle.
    pub fn hurry(&self) {
        let now = Instant::now();
        for pending in self.pending.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            pending.due = now;
        }
        self.changed.notify_one();
    }

    /// Works on the queue until `shutdown`.
    pub async fn run<C: CredentialSource, S: PullSecretStore, N: NamespaceSource>(
        self,
        ensurer: Arc<Ensurer<C, S>>,
        namespaces: Arc<N>,
        settings: Arc<ArcSwap<Settings>>,
        shutdown: CancellationToken,
    ) {
        loop {
            let next = self.next_due();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.changed.notified() => continue,
                () = async { match next {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                } } => {}
            }
            let work =
                futures_util::stream::iter(self.take_due()).for_each_concurrent(AT_ONCE, |(namespace, pending)| {
                    let (queue, ensurer, namespaces, settings) = (&self, &ensurer, &namespaces, &settings);
                    async move {
                        if !attempt(&namespace, &pending, ensurer, namespaces.as_ref(), settings).await {
                            queue.insert(
                                &namespace,
                                Pending { failures: pending.failures.saturating_add(1), ..pending },
                            );
                        }
                    }
                });
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = work => {}
            }
        }
    }

    fn insert(&self, namespace: &str, wanted: Pending) {
        {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = pending.get_mut(namespace) {
                let room = MAX_LOGIN_SERVERS.saturating_sub(known.login_servers.len());
                let more = wanted.login_servers.into_iter().filter(|wanted| !known.login_servers.contains(wanted));
                let more: Vec<_> = more.take(room).collect();
                known.login_servers.extend(more);
                return;
            }
            if pending.len() >= MAX_PENDING {
                tracing::warn!(namespace, "too many pull secrets are waiting, this one waits for its next pod");
                return;
            }
            let due = Instant::now() + delay(wanted.failures);
            let login_servers = wanted.login_servers.into_iter().take(MAX_LOGIN_SERVERS).collect();
            pending.insert(namespace.to_owned(), Pending { login_servers, due, ..wanted });
        }
        self.changed.notify_one();
    }

    fn next_due(&self) -> Option<Instant> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).values().map(|pending| pending.due).min()
    }

    fn take_due(&self) -> Vec<(String, Pending)> {
        let now = Instant::now();
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.extract_if(|_, pending| pending.due <= now).collect()
    }
}

/// Whether there is nothing left to do.
async fn attempt<C: CredentialSource, S: PullSecretStore, N: NamespaceSource>(
    name: &str,
    pending: &Pending,
    ensurer: &Ensurer<C, S>,
    namespaces: &N,
    settings: &ArcSwap<Settings>,
) -> bool {
    let namespace = match namespaces.cached(name) {
        Some(namespace) => namespace,
        None => match namespaces.read(name).await {
            Ok(Some(namespace)) => Arc::new(namespace),
            Ok(None) => return true,
            Err(error) => {
                tracing::warn!(namespace = name, %error, "the pull secret is tried again later");
                return false;
            }
        },
    };
    let Decision::Inject(injection) = decision::decide(pending.login_servers.clone(), &namespace, &settings.load())
    else {
        return true;
    };
    match ensurer.ensure(&namespace, &injection.granted, WriteReason::Retry).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(namespace = name, %error, "the pull secret could not be made right");
            !error.may_pass()
        }
    }
}

/// Doubles from one second to five minutes, with half of it left to chance so that a burst does not come back as one.
pub(crate) fn delay(failures: u32) -> Duration {
    let full = FIRST_DELAY.saturating_mul(1 << failures.min(16)).min(LONGEST_DELAY);
    full.mul_f64(0.5 + 0.5 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admission::StoreError, ensure::EnsureError};

    #[test]
    fn delays_double_and_are_capped() {
        for (failures, longest) in [(0, 1), (1, 2), (2, 4), (8, 256), (9, 300), (40, 300), (u32::MAX, 300)] {
            let longest = Duration::from_secs(longest);
            for _ in 0..50 {
                let delay = delay(failures);
                assert!(delay <= longest && delay >= longest / 2, "{failures}: {delay:?}");
            }
        }
    }

    #[test]
    fn only_what_can_never_succeed_is_given_up() {
        let refused = StoreError::Refused("exceeded quota".to_owned());
        for error in [refused, StoreError::Unavailable(String::new()), StoreError::Conflict] {
            assert!(EnsureError::Store(error).may_pass());
        }
        let foreign = EnsureError::Foreign { name: String::new(), namespace: String::new() };
        for error in [EnsureError::Store(StoreError::NamespaceGone), foreign] {
            assert!(!error.may_pass(), "{error}");
        }
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let queue = RetryQueue::new();
        for number in 0..MAX_PENDING + 5 {
            queue.push(&format!("namespace-{number}"), BTreeSet::new());
        }
        assert_eq!(queue.pending.lock().unwrap().len(), MAX_PENDING);
    }

    #[tokio::test]
    async fn what_waits_for_one_namespace_is_bounded() {
        let rule = crate::domain::image::LoginServerRule::default();
        let login_servers = |numbers: std::ops::Range<usize>| {
            numbers.map(|number| rule.parse(&format!("registry{number}.azurecr.io")).unwrap()).collect()
        };
        let queue = RetryQueue::new();
        queue.push("team-a", login_servers(0..100));
        queue.push("team-a", login_servers(50..110));
        queue.push("team-b", login_servers(0..1000));
        let count = |namespace: &str| queue.pending.lock().unwrap()[namespace].login_servers.len();
        assert_eq!(count("team-a"), 110, "one that is known already takes no room");
        queue.push("team-a", login_servers(0..1000));
        assert_eq!([count("team-a"), count("team-b")], [MAX_LOGIN_SERVERS; 2]);
    }

    #[tokio::test]
    async fn hurry_makes_everything_due() {
        let queue = RetryQueue::new();
        queue.push("team-a", BTreeSet::new());
        assert!(queue.take_due().is_empty());
        queue.hurry();
        assert_eq!(queue.take_due().len(), 1);
    }
}
