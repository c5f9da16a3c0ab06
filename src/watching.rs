//! How watches are kept alive: when one is begun anew, when a connection counts as dead, how soon a broken one is resumed.
//!
//! A network that forgets a connection tells neither end. So a watch never lasts long, and one that stays silent for longer
//! is broken.
//!
//! An API server that comes back may have other data: of a backup that somebody restored. Resource versions are then lower
//! than before, and a watch that goes on from the newest that it saw is told nothing until they get there again. So after a
//! break everything is listed anew.

use std::{fmt, time::Duration};

use futures_util::{
    Stream, StreamExt,
    stream::{BoxStream, unfold},
};
use kube::{
    Api, Resource,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

/// How long a watch lasts. The API server ends it then, says shortly before from which version to go on, and the next one
/// begins at once; nothing is listed anew.
const WATCH_FOR: Duration = Duration::from_secs(60);
/// The connection of a watch on which nothing has come for so long is dead: no watch lasts longer. Less than the five seconds
/// after its end at which kube's `watcher` would go on without a word.
pub const READ_TIMEOUT: Duration = Duration::from_secs(63);
/// The first and the longest pause before a broken watch is resumed. Short, since pods are served by what it tells; there
/// are only a few watches, and only of a few replicas.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// A watch that broke this long after the last one has broken for another reason.
const CALM: Duration = Duration::from_secs(30);

/// Everything is listed no more often than this, however often a watch breaks.
const LIST_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Everything is listed after this time, or up to a third later, even if nothing broke.
const LIST_AFTER: Duration = Duration::from_secs(30 * 60);

/// Everything that is there now, then each change, for ever. A watch that breaks is an error and goes on after a pause; soon
/// after, and from time to time, everything is listed once more.
pub fn follow<K>(api: Api<K>, fields: Option<String>) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
{
    let timeout = u32::try_from(WATCH_FOR.as_secs()).ok();
    let configuration = watcher::Config { field_selector: fields, timeout, ..watcher::Config::default() };
    unfold(Following::new(move || watcher(api.clone(), configuration.clone()).boxed()), |mut following| async move {
        let event = following.next().await?;
        Some((event, following))
    })
}

struct Following<K, B> {
    begin: B,
    events: BoxStream<'static, watcher::Result<Event<K>>>,
    pauses: Pauses,
    pause: Option<Duration>,
    /// `None` until the list that is under way is complete.
    listed_at: Option<Instant>,
    list_again_at: Instant,
}

impl<K, B: Fn() -> BoxStream<'static, watcher::Result<Event<K>>>> Following<K, B> {
    fn new(begin: B) -> Self {
        let events = begin();
        let (pauses, list_again_at) = (Pauses::default(), Instant::now());
        Self { begin, events, pauses, pause: None, listed_at: None, list_again_at }
    }

    async fn next(&mut self) -> Option<watcher::Result<Event<K>>> {
        if let Some(pause) = self.pause.take() {
            tokio::time::sleep(pause).await;
        }
        let event = tokio::select! {
            biased;
            () = tokio::time::sleep_until(self.list_again_at), if self.listed_at.is_some() => {
                self.events = (self.begin)();
                self.events.next().await
            }
            event = self.events.next() => event,
        };
        match &event {
            Some(Ok(Event::Init)) => self.listed_at = None,
            Some(Ok(Event::InitDone)) => {
                let now = Instant::now();
                self.listed_at = Some(now);
                self.list_again_at = now + LIST_AFTER.mul_f64(1.0 + fastrand::f64() / 3.0);
            }
            Some(Err(_)) => {
                self.pause = Some(self.pauses.next());
                let soon = self.listed_at.map_or(self.list_again_at, |listed_at| listed_at + LIST_AGAIN_AFTER);
                self.list_again_at = self.list_again_at.min(soon);
            }
            _ => {}
        }
        event
    }
}

/// Pauses before a broken watch goes on: they double, and half of each is left to chance.
#[derive(Debug, Default)]
struct Pauses {
    failures: u32,
    last: Option<Instant>,
}

impl Pauses {
    /// A watch that begins and breaks again at once must not go on without a pause: calm alone counts.
    fn next(&mut self) -> Duration {
        let now = Instant::now();
        if self.last.replace(now).is_none_or(|last| now.duration_since(last) > CALM) {
            self.failures = 0;
        }
        let [first, longest] = PAUSES;
        let full = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures += 1;
        full.mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures_util::stream;
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    /// How often everything is listed in `minutes`, where the watch is silent and breaks so often.
    async fn lists_in(minutes: u64, breaks: usize, every: Duration) -> usize {
        let left = Arc::new(AtomicUsize::new(breaks));
        let begin = || {
            let listed = stream::iter([Ok(Event::Init), Ok(Event::InitDone)]);
            let watched = stream::repeat(left.clone()).then(move |left| async move {
                if left.load(Ordering::Relaxed) == 0 {
                    return std::future::pending().await;
                }
                tokio::time::sleep(every).await;
                left.fetch_sub(1, Ordering::Relaxed);
                Err(watcher::Error::NoResourceVersion)
            });
            listed.chain(watched).boxed()
        };
        let mut following = Following::<ConfigMap, _>::new(begin);
        let mut lists = 0;
        let watching = async {
            while let Some(event) = following.next().await {
                lists += usize::from(matches!(event, Ok(Event::InitDone)));
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(60 * minutes), watching).await.is_err(), "it ended");
        lists
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_break_everything_is_listed_anew() {
        for soon_or_late in [1, 29, 31, 500] {
            assert_eq!(lists_in(10, 1, Duration::from_secs(soon_or_late)).await, 2, "{soon_or_late}");
        }
        assert_eq!(lists_in(10, 0, Duration::ZERO).await, 1, "it never broke");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_breaks_and_breaks_causes_few_lists() {
        let lists = lists_in(60, usize::MAX, Duration::from_millis(1)).await;
        assert!((90..=121).contains(&lists), "{lists}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_break_that_did_not_show_is_made_good() {
        let lists = lists_in(24 * 60, 0, Duration::ZERO).await;
        assert!((37..=49).contains(&lists), "{lists}");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_seconds_and_begin_anew_after_calm() {
        let mut pauses = Pauses::default();
        for longest in [1, 2, 4, 5, 5, 5] {
            let (pause, longest) = (pauses.next(), Duration::from_secs(longest));
            assert!(pause <= longest && pause >= longest / 2, "{pause:?}, not up to {longest:?}");
            tokio::time::advance(pause).await;
        }
        tokio::time::advance(CALM + Duration::from_secs(1)).await;
        assert!(pauses.next() <= PAUSES[0]);
    }

    #[test]
    fn a_silent_watch_is_broken_only_when_it_should_have_ended() {
        // `WATCH_IDLE_TIMEOUT_MARGIN` in watcher.rs of kube-runtime.
        let ends_without_a_word = WATCH_FOR + Duration::from_secs(5);
        assert!(READ_TIMEOUT > WATCH_FOR + Duration::from_secs(2) && READ_TIMEOUT < ends_without_a_word);
    }
}
