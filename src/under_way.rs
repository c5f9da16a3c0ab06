//! Work that is under way for namespaces: one piece for each at a time, and a few at once. One that takes long, since the API
//! server or a registry does not answer, leaves its place to the others.

use std::{collections::HashMap, fmt, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;

/// Pieces of work under way, by namespace. They go on only while somebody waits in [`UnderWay::next`].
#[derive(Default)]
pub(crate) struct UnderWay<'a> {
    work: FuturesUnordered<BoxFuture<'a, String>>,
    started: HashMap<String, Instant>,
}

/// Pieces of work at once, those that take long aside.
const AT_ONCE: usize = 8;
/// What is not done by then takes long. A write is usually done within a tenth of this.
const LONG: Duration = Duration::from_millis(500);
/// Pieces of work at once, those that take long included: how much is asked of an API server that does not answer.
const MOST: usize = 128;

impl<'a> UnderWay<'a> {
    /// Whether nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.started.is_empty()
    }

    /// Whether something is under way for the namespace.
    pub(crate) fn includes(&self, namespace: &str) -> bool {
        self.started.contains_key(namespace)
    }

    /// Whether more may be started now.
    pub(crate) fn has_place(&self) -> bool {
        self.started.len() < MOST && self.place_from().is_none()
    }

    /// Starts work for a namespace that is not included yet.
    pub(crate) fn start(&mut self, namespace: String, work: impl Future<Output = ()> + Send + 'a) {
        self.started.insert(namespace.clone(), Instant::now());
        self.work.push(Box::pin(async move {
            work.await;
            namespace
        }));
    }

    /// Carries on with the work until a piece of it is done or takes long: there may be a place now. Waits for ever while
    /// nothing is under way.
    pub(crate) async fn next(&mut self) {
        let place_from = self.place_from();
        let place = async {
            match place_from {
                Some(from) => tokio::time::sleep_until(from).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(namespace) = self.work.next() => {
                self.started.remove(&namespace);
            }
            () = place => {}
        }
    }

    /// When the first of those that have all places takes long; `None` when there is a place for what does not.
    fn place_from(&self) -> Option<Instant> {
        let now = Instant::now();
        let soon_long = self.started.values().map(|started| *started + LONG).filter(|long| *long > now);
        let (count, first) = soon_long.fold((0, None::<Instant>), |(count, first), long| {
            (count + 1, Some(first.map_or(long, |first| first.min(long))))
        });
        first.filter(|_| count >= AT_ONCE)
    }
}

impl fmt::Debug for UnderWay<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("UnderWay").field("started", &self.started).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_gives_up_its_place_and_is_bounded() {
        let mut under_way = UnderWay::default();
        let started = Instant::now();
        let mut number = 0;
        while started.elapsed() < Duration::from_secs(20) && number < 1000 {
            while under_way.has_place() {
                under_way.start(format!("hanging-{number}"), std::future::pending());
                number += 1;
            }
            assert_eq!(number, ((started.elapsed().as_millis() / 500 + 1) * 8).min(128) as usize);
            assert!(under_way.includes("hanging-0") && !under_way.is_empty());
            let _ = tokio::time::timeout(Duration::from_millis(700), under_way.next()).await;
        }
        assert_eq!(number, MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_done_leaves_nothing_behind() {
        let mut under_way = UnderWay::default();
        for number in 0..AT_ONCE {
            under_way.start(number.to_string(), tokio::time::sleep(Duration::from_millis(100)));
        }
        assert!(!under_way.has_place());
        under_way.next().await;
        assert!(under_way.has_place());
        while !under_way.is_empty() {
            under_way.next().await;
        }
        assert!(tokio::time::timeout(Duration::from_secs(60), under_way.next()).await.is_err());
    }
}
