//! Life of the process: who may stop it, what it waits for, and when it is ready.
//!
//! Every background task runs under [`Lifecycle::spawn`], so nothing is detached: a task that ends before it was asked to,
//! or panics, stops the whole process (Kubernetes then starts a fresh one) instead of leaving a webhook that looks alive
//! and does half of its work.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The stages of an orderly end and the tasks that take part in it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    draining: CancellationToken,
    stopping: CancellationToken,
    tasks: TaskTracker,
    failed: Arc<AtomicBool>,
}

impl Lifecycle {
    /// A process that runs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the drain begins: not ready any more, but every request is still answered.
    #[must_use]
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Cancelled when the drain is over: background tasks end.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Runs a task that lives as long as the process. One that ends early, or panics, stops the process.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let lifecycle = self.clone();
        self.tasks.spawn(async move {
            let ended = tokio::task::JoinSet::from_iter([task]).join_next().await;
            if lifecycle.stopping.is_cancelled() {
                return;
            }
            if let Some(Err(error)) = ended {
                tracing::error!(task = name, %error, "a background task panicked, the process stops");
            } else {
                tracing::error!(task = name, "a background task ended early, the process stops");
            }
            lifecycle.failed.store(true, Ordering::SeqCst);
            lifecycle.draining.cancel();
        });
    }

    /// Runs work that ends by itself and that the end of the process waits for.
    pub fn spawn_work<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.tasks.spawn(work)
    }

    /// Whether a background task ended before it was asked to.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Ends the background tasks and waits for them, `limit` at most.
    pub async fn stop(&self, limit: Duration) {
        self.draining.cancel();
        self.stopping.cancel();
        self.tasks.close();
        if tokio::time::timeout(limit, self.tasks.wait()).await.is_err() {
            tracing::warn!(remaining = self.tasks.len(), "background tasks did not end in time and are dropped");
        }
    }
}

/// SIGTERM and SIGINT: the first starts the drain, the second ends the process at once.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts to listen, so that a signal between this call and [`Signals::received`] is not lost.
    ///
    /// # Errors
    ///
    /// When the operating system refuses a signal handler.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal and gives its name.
    pub async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// What must have happened once before requests may come. Each part of the program holds a [`Gate`] and opens it.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    gates: Arc<Mutex<Vec<(&'static str, Gate)>>>,
}

impl Readiness {
    /// No gate yet, which is ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a gate that is closed until it is opened.
    #[must_use]
    pub fn gate(&self, name: &'static str) -> Gate {
        let gate = Gate { state: Arc::new(watch::Sender::new(false)) };
        self.gates.lock().unwrap_or_else(PoisonError::into_inner).push((name, gate.clone()));
        gate
    }

    /// The names of the gates that are still closed.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<&'static str> {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.iter().filter(|(_, gate)| !gate.is_open()).map(|(name, _)| *name).collect()
    }
}

/// One condition of readiness. Opened once, never closed again: losing the API server or Azure later does not make a
/// replica unready, since the patch needs neither.
#[derive(Clone)]
pub struct Gate {
    state: Arc<watch::Sender<bool>>,
}

impl Gate {
    /// Says that the condition holds.
    pub fn open(&self) {
        self.state.send_replace(true);
    }

    /// Waits until it is open.
    pub async fn opened(&self) {
        let mut state = self.state.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = state.wait_for(|open| *open).await;
    }

    fn is_open(&self) -> bool {
        *self.state.borrow()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.is_open() { "open" } else { "closed" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_the_closed_gates() {
        let readiness = Readiness::new();
        let certificate = readiness.gate("serving certificate");
        let caches = readiness.gate("caches");
        assert_eq!(readiness.waiting_for(), ["serving certificate", "caches"]);
        caches.open();
        assert_eq!(readiness.waiting_for(), ["serving certificate"]);
        certificate.open();
        assert!(readiness.waiting_for().is_empty());
    }

    #[tokio::test]
    async fn a_task_that_panics_starts_the_drain_and_counts_as_failure() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn("broken", async { panic!("for the test") });
        lifecycle.draining().cancelled().await;
        assert!(lifecycle.failed());
    }

    #[tokio::test]
    async fn a_task_that_ends_when_asked_is_no_failure() {
        let lifecycle = Lifecycle::new();
        let stopping = lifecycle.stopping().clone();
        lifecycle.spawn("orderly", async move { stopping.cancelled().await });
        lifecycle.stop(Duration::from_secs(5)).await;
        assert!(!lifecycle.failed());
    }

    #[tokio::test]
    async fn stopping_waits_for_work_under_way() {
        let lifecycle = Lifecycle::new();
        let done = Arc::new(AtomicBool::new(false));
        let flag = done.clone();
        drop(lifecycle.spawn_work(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            flag.store(true, Ordering::SeqCst);
        }));
        lifecycle.stop(Duration::from_secs(5)).await;
        assert!(done.load(Ordering::SeqCst));
    }
}
