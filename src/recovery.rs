//! Announces that the API server takes again what it would not take, so that what waits for that need not wait on.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

/// Tells all who listen. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Recovery(watch::Sender<()>);

/// What one listener hears.
#[derive(Debug)]
pub struct Announcements {
    heard: watch::Receiver<()>,
    /// Something was announced, and is yet to be told.
    is_due: bool,
    told: Option<Instant>,
}

/// The least time between two announcements. Where one write is refused for ever, each success of another one looks like a
/// recovery.
const PAUSE: Duration = Duration::from_secs(30);

impl Recovery {
    /// Something was refused or got no answer, and now something was taken.
    pub fn announce(&self) {
        self.0.send_replace(());
    }

    /// Hears what is announced from now on.
    #[must_use]
    pub fn listen(&self) -> Announcements {
        Announcements { heard: self.0.subscribe(), is_due: false, told: None }
    }
}

impl Announcements {
    /// Waits for the next announcement. What is announced within half a minute of the last comes after it, as one. Nothing is
    /// lost when this future is dropped.
    pub async fn next(&mut self) {
        if !self.is_due {
            if self.heard.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            self.is_due = true;
        }
        if let Some(told) = self.told {
            tokio::time::sleep_until(told + PAUSE).await;
        }
        self.heard.mark_unchanged();
        self.is_due = false;
        self.told = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn announcements_come_at_once_and_then_not_too_often() {
        let recovery = Recovery::default();
        let mut announcements = recovery.listen();
        let started = Instant::now();
        let wait = Duration::from_secs(1);
        assert!(tokio::time::timeout(wait, announcements.next()).await.is_err(), "nothing was announced");
        recovery.announce();
        announcements.next().await;
        assert_eq!(started.elapsed(), wait);
        for _ in 0..100 {
            recovery.announce();
            assert!(tokio::time::timeout(wait / 10, announcements.next()).await.is_err());
        }
        announcements.next().await;
        assert_eq!(started.elapsed(), wait + PAUSE, "what was announced in the pause is not lost");
        assert!(tokio::time::timeout(10 * PAUSE, announcements.next()).await.is_err(), "and counts as one");
    }
}
