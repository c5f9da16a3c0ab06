//! How watches are kept alive: when one is begun anew, when a connection counts as dead, how soon a broken one is resumed.
//!
//! A network that forgets a connection tells neither end. So a watch never lasts long, and one that stays silent for longer
//! is broken.

use std::time::Duration;

use kube::runtime::{utils::Backoff, watcher};
use tokio::time::Instant;

/// How long a watch lasts. The API server ends it then, says shortly before from which version to go on, and the next one
/// begins at once; nothing is listed anew.
const WATCH_FOR: Duration = Duration::from_secs(60);
/// The connection of a watch on which nothing has come for so long is dead: no watch lasts longer.
pub const READ_TIMEOUT: Duration = Duration::from_secs(75);
/// The first and the longest pause before a broken watch is resumed. Short, since pods are served by what it tells; there
/// are only a few watches, and only of a few replicas.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// A watch that broke this long after the last one has broken for another reason.
const CALM: Duration = Duration::from_secs(30);

/// A watch of these fields.
#[must_use]
pub fn configuration(fields: Option<String>) -> watcher::Config {
    let timeout = u32::try_from(WATCH_FOR.as_secs()).ok();
    watcher::Config { field_selector: fields, timeout, ..watcher::Config::default() }
}

/// Pauses before a broken watch is resumed: they double, and half of each is left to chance.
#[derive(Debug, Default)]
pub struct Pauses {
    failures: u32,
    last: Option<Instant>,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.last.replace(now).is_none_or(|last| now.duration_since(last) > CALM) {
            self.failures = 0;
        }
        let [first, longest] = PAUSES;
        let full = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures += 1;
        Some(full.mul_f64(0.5 + 0.5 * fastrand::f64()))
    }
}

impl Backoff for Pauses {
    /// A watch that begins and breaks again at once must not be resumed without a pause: calm alone counts.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_seconds_and_begin_anew_after_calm() {
        let mut pauses = Pauses::default();
        for longest in [1, 2, 4, 5, 5, 5] {
            pauses.reset();
            let (pause, longest) = (pauses.next().unwrap(), Duration::from_secs(longest));
            assert!(pause <= longest && pause >= longest / 2, "{pause:?}, not up to {longest:?}");
            tokio::time::advance(pause).await;
        }
        tokio::time::advance(CALM + Duration::from_secs(1)).await;
        assert!(pauses.next().unwrap() <= PAUSES[0]);
    }

    #[test]
    fn a_silent_watch_is_broken_only_when_it_should_have_ended() {
        assert!(READ_TIMEOUT > WATCH_FOR + Duration::from_secs(10));
        assert_eq!(configuration(None).timeout, Some(60));
    }
}
