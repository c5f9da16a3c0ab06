//! What could not be done while a pod was waiting is tried again in the background.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{CredentialSource, NamespaceSource, PullSecretStore, StoreError, judge},
    domain::{
        decision::{Decision, Settings},
        image::LoginServer,
    },
    ensure::{EnsureError, Ensurer, MAX_LOGIN_SERVERS, WriteReason},
    under_way::UnderWay,
};

/// Namespaces whose pull secret is wanted and not yet right. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RetryQueue {
    waiting: Arc<Mutex<Waiting>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Waiting {
    namespaces: HashMap<String, Pending>,
    /// The login servers of all of them.
    login_servers: usize,
}

#[derive(Clone, Debug)]
struct Pending {
    /// Login servers that pods asked for, no more than a pull secret holds. While an attempt is under way, those that were
    /// asked for since it began.
    login_servers: BTreeSet<LoginServer>,
    /// Attempts in a row that failed.
    failures: u32,
    /// The kind of failure that was warned of.
    told: Option<&'static str>,
    next: Next,
}

/// The next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    At(Instant),
    /// One is under way. When it fails, the one after it waits, unless something changed meanwhile.
    UnderWay {
        changed: bool,
    },
}

/// Reviews can be sent by anybody who reaches the port, so what they leave behind is bounded.
const MAX_PENDING: usize = 20_000;
/// Login servers of all namespaces together, but for the first few of each.
const MAX_LOGIN_SERVERS_PENDING: usize = 100_000;
const FIRST_LOGIN_SERVERS: usize = 4;
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(300);

impl RetryQueue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks that the pull secret of `namespace` be made right for `login_servers`, a second from now. Where attempts failed
    /// already, that changes neither their number nor the time of the next one.
    pub fn push(&self, namespace: &str, login_servers: BTreeSet<LoginServer>) {
        self.push_at(namespace, login_servers, Next::after(0));
    }

    /// Asks it for many namespaces from now on, for so many in a second.
    pub fn push_in_turn(&self, wanted: impl IntoIterator<Item = (String, BTreeSet<LoginServer>)>, in_a_second: u16) {
        let mut due = Instant::now();
        for (namespace, login_servers) in wanted {
            self.push_at(&namespace, login_servers, Next::At(due));
            due += pause_between(in_a_second);
        }
    }

    fn push_at(&self, namespace: &str, login_servers: BTreeSet<LoginServer>, next: Next) {
        if login_servers.is_empty() {
            return;
        }
        {
            let mut waiting = self.waiting();
            if waiting.namespaces.contains_key(namespace) {
                return waiting.add(namespace, login_servers);
            }
            if waiting.namespaces.len() >= MAX_PENDING {
                tracing::warn!(namespace, "too many pull secrets are waiting, this one waits for its next pod");
                return;
            }
            let new = Pending { login_servers: BTreeSet::new(), failures: 0, told: None, next };
            waiting.namespaces.insert(namespace.to_owned(), new);
            waiting.add(namespace, login_servers);
        }
        self.changed.notify_one();
    }

    /// Makes everything due now: something changed that may have been the obstacle.
    pub fn hurry(&self) {
        let now = Instant::now();
        for pending in self.waiting().namespaces.values_mut() {
            pending.next = match pending.next {
                Next::At(_) => Next::At(now),
                Next::UnderWay { .. } => Next::UnderWay { changed: true },
            };
        }
        self.changed.notify_one();
    }

    /// Makes everything due that waits, so many in a second: the API server takes again what it would not take.
    fn hurry_in_turn(&self, in_a_second: u16) {
        let mut due = Instant::now();
        for pending in self.waiting().namespaces.values_mut() {
            match &mut pending.next {
                Next::At(at) if *at > due => {
                    *at = due;
                    due += pause_between(in_a_second);
                }
                Next::At(_) => {}
                // It may have begun before.
                Next::UnderWay { changed } => *changed = true,
            }
        }
    }

    /// Works on the queue until `shutdown`.
    pub async fn run<C: CredentialSource, S: PullSecretStore, N: NamespaceSource>(
        self,
        ensurer: Arc<Ensurer<C, S>>,
        namespaces: Arc<N>,
        settings: Arc<ArcSwap<Settings>>,
        shutdown: CancellationToken,
    ) {
        let mut under_way = UnderWay::default();
        let mut recoveries = ensurer.recovery.listen();
        loop {
            while under_way.has_place()
                && let Some((namespace, login_servers)) = self.begin_due()
            {
                let (queue, ensurer, namespaces, settings) = (&self, &ensurer, &namespaces, &settings);
                under_way.start(namespace.clone(), async move {
                    let done = attempt(&namespace, &login_servers, ensurer, namespaces.as_ref(), settings).await;
                    let left = match done {
                        Ok(()) => BTreeSet::new(),
                        Err(failure) => {
                            queue.tell(&namespace, &failure);
                            failure.left
                        }
                    };
                    queue.end(&namespace, left);
                });
            }
            let next = if under_way.has_place() { self.next_due() } else { None };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.changed.notified() => {}
                () = under_way.next() => {}
                () = recoveries.next() => self.hurry_in_turn(settings.load().limits.writes_per_second),
                () = async { match next {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                } } => {}
            }
        }
    }

    /// Begins the attempt that has been due longest, and gives what it is about.
    fn begin_due(&self) -> Option<(String, BTreeSet<LoginServer>)> {
        let now = Instant::now();
        let mut waiting = self.waiting();
        let Waiting { namespaces, login_servers } = &mut *waiting;
        let due =
            namespaces.iter_mut().filter_map(|(namespace, pending)| Some((pending.next.due()?, namespace, pending)));
        let (_, namespace, first) = due.filter(|(due, ..)| *due <= now).min_by_key(|(due, ..)| *due)?;
        first.next = Next::UnderWay { changed: false };
        *login_servers -= first.login_servers.len();
        Some((namespace.clone(), std::mem::take(&mut first.login_servers)))
    }

    /// Warns once for each namespace and kind of failure; a registry that is away for a night says the same at every attempt.
    fn tell(&self, namespace: &str, Failure { kind, reason, .. }: &Failure) {
        let told = self.waiting().namespaces.get_mut(namespace).and_then(|known| known.told.replace(kind));
        if told == Some(kind) {
            tracing::debug!(namespace, reason, "the pull secret still could not be made right");
        } else {
            tracing::warn!(
                namespace,
                reason,
                "the pull secret could not be made right, it is tried again if that may help"
            );
        }
    }

    /// Ends an attempt. What is left to do is tried again later; without anything the namespace is forgotten, unless it was
    /// asked for since the attempt began.
    fn end(&self, namespace: &str, left: BTreeSet<LoginServer>) {
        let mut waiting = self.waiting();
        let is_left = !left.is_empty();
        waiting.add(namespace, left);
        let Some(known) = waiting.namespaces.get_mut(namespace) else { return };
        if is_left {
            known.failures = known.failures.saturating_add(1);
        } else if !known.login_servers.is_empty() {
            known.failures = 0;
            known.told = None;
        } else {
            waiting.namespaces.remove(namespace);
            return;
        }
        known.next = match known.next {
            Next::UnderWay { changed: true } => Next::At(Instant::now()),
            _ => Next::after(known.failures),
        };
    }

    fn next_due(&self) -> Option<Instant> {
        self.waiting().namespaces.values().filter_map(|pending| pending.next.due()).min()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Adds to a namespace that waits what there is room for.
    fn add(&mut self, namespace: &str, login_servers: BTreeSet<LoginServer>) {
        let Some(pending) = self.namespaces.get_mut(namespace) else { return };
        for login_server in login_servers {
            let most =
                if self.login_servers < MAX_LOGIN_SERVERS_PENDING { MAX_LOGIN_SERVERS } else { FIRST_LOGIN_SERVERS };
            if pending.login_servers.len() >= most {
                return;
            }
            self.login_servers += usize::from(pending.login_servers.insert(login_server));
        }
    }
}

impl Next {
    fn after(failures: u32) -> Self {
        Self::At(Instant::now() + delay(failures))
    }

    fn due(self) -> Option<Instant> {
        match self {
            Self::At(due) => Some(due),
            Self::UnderWay { .. } => None,
        }
    }
}

/// Why an attempt did not make all of it right.
struct Failure {
    /// By which it is told from another.
    kind: &'static str,
    /// In words.
    reason: String,
    /// What trying again later may help.
    left: BTreeSet<LoginServer>,
}

async fn attempt<C: CredentialSource, S: PullSecretStore, N: NamespaceSource>(
    name: &str,
    login_servers: &BTreeSet<LoginServer>,
    ensurer: &Ensurer<C, S>,
    namespaces: &N,
    settings: &ArcSwap<Settings>,
) -> Result<(), Failure> {
    let read = namespaces.read(name);
    let judged = judge(namespaces.cached(name), read, login_servers, &settings.load()).await.map_err(|error| {
        let reason = format!("the namespace could not be read: {error}");
        Failure { kind: error.as_label(), reason, left: login_servers.clone() }
    })?;
    let Some((namespace, Decision::Inject(injection))) = judged else { return Ok(()) };
    let Err(error) = ensurer.ensure(&namespace, &injection.granted, WriteReason::Retry).await else { return Ok(()) };
    if let EnsureError::Foreign { .. } = &error {
        ensurer.events.name_taken(name, &settings.load().pull_secret_name);
    }
    // One API server may know longer than another that a namespace goes away, and memory longer than both that it is there.
    if let EnsureError::Store(StoreError::NamespaceGone) = &error
        && let Ok(found) = namespaces.read(name).await
        && found.is_none_or(|namespace| namespace.terminating)
    {
        return Ok(());
    }
    Err(Failure { kind: error.as_label(), reason: error.to_string(), left: error.left(injection.granted.keys()) })
}

fn pause_between(in_a_second: u16) -> Duration {
    Duration::from_secs(1) / u32::from(in_a_second.max(1))
}

/// Doubles from one second to five minutes, with half of it left to chance so that a burst does not come back as one.
pub(crate) fn delay(failures: u32) -> Duration {
    delay_limit(failures).mul_f64(0.5 + 0.5 * fastrand::f64())
}

fn delay_limit(failures: u32) -> Duration {
    FIRST_DELAY.saturating_mul(1 << failures.min(16)).min(LONGEST_DELAY)
}

#[cfg(test)]
impl RetryQueue {
    /// Is nothing left to do?
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting().namespaces.is_empty()
    }
}

#[cfg(test)]
mod tests;
