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
/// The connection of a watch on which nothing has come for so long is dead: no watch lasts longer.
pub const READ_TIMEOUT: Duration = Duration::from_secs(75);
/// The first and the longest pause before a broken watch is resumed. Short, since pods are served by what it tells; there
/// are only a few watches, and only of a few replicas.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// A watch that broke this long after the last one has broken for another reason.
const CALM: Duration = Duration::from_secs(30);

/// Everything is listed no more often than this, however often a watch breaks.
const LIST_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Everything that is there now, then each change, for ever. A watch that breaks is an error and goes on after a pause; soon
/// after, everything is listed once more.
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
    is_listing: bool,
    listed_at: Instant,
    /// It broke since.
    is_in_doubt: bool,
}

impl<K, B: Fn() -> BoxStream<'static, watcher::Result<Event<K>>>> Following<K, B> {
    fn new(begin: B) -> Self {
        let events = begin();
        Self {
            begin,
            events,
            pauses: Pauses::default(),
            pause: None,
            is_listing: true,
            listed_at: Instant::now(),
            is_in_doubt: false,
        }
    }

    async fn next(&mut self) -> Option<watcher::Result<Event<K>>> {
        if let Some(pause) = self.pause.take() {
            tokio::time::sleep(pause).await;
        }
        let may_list_again = tokio::time::sleep_until(self.listed_at + LIST_AGAIN_AFTER);
        let event = tokio::select! {
            biased;
            () = may_list_again, if self.is_in_doubt => {
                self.events = (self.begin)();
                (self.is_listing, self.is_in_doubt) = (true, false);
                self.events.next().await
            }
            event = self.events.next() => event,
        };
        match &event {
            Some(Ok(Event::Init)) => (self.is_listing, self.is_in_doubt) = (true, false),
            Some(Ok(Event::InitDone)) => (self.is_listing, self.listed_at) = (false, Instant::now()),
            Some(Err(_)) => {
                self.pause = Some(self.pauses.next());
                self.is_in_doubt = !self.is_listing;
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

    /// How often everything is listed within an hour, where the watch is silent and breaks so often.
    async fn lists_in_an_hour(breaks: usize, every: Duration) -> usize {
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
        assert!(tokio::time::timeout(Duration::from_secs(3600), watching).await.is_err(), "it ended");
        lists
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_break_everything_is_listed_anew() {
        for soon_or_late in [1, 29, 31, 1000] {
            assert_eq!(lists_in_an_hour(1, Duration::from_secs(soon_or_late)).await, 2, "{soon_or_late}");
        }
        assert_eq!(lists_in_an_hour(1, Duration::from_secs(7200)).await, 1, "it never broke");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_breaks_and_breaks_causes_few_lists() {
        let lists = lists_in_an_hour(usize::MAX, Duration::from_millis(1)).await;
        assert!((90..=121).contains(&lists), "{lists}");
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
        assert!(READ_TIMEOUT > WATCH_FOR + Duration::from_secs(10));
    }
}
