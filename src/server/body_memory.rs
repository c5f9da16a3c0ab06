//! How much memory request bodies may take in all, since callers are not authenticated.
//!
//! The first [`FREE_BYTES`] of a body count as memory of its connection, so most reviews come here not at all. A body that
//! turns out longer counts by what it announces. When there is no room for it, a body that arrives too slowly gives way:
//! clients that take their time hold no memory that others want. What does not fit even so gets 503 with `Retry-After`,
//! upon which the API server asks again.

use std::{
    sync::{
        Arc, Mutex as Lock, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, Notify, Semaphore, SemaphorePermit},
    time::Instant,
};

/// What each body may take without asking: no more than its connection has read ahead. With as many as there may be
/// connections, 12.5 MiB.
pub(super) const FREE_BYTES: usize = super::READ_AHEAD;

/// Nearly all reviews are smaller.
const USUAL_BYTES: usize = 128 << 10;
/// For usual bodies: 128 of the longest at once.
const USUAL_MEMORY: usize = 16 << 20;
/// For large bodies: ten of the 3 MiB that the API server takes.
const LARGE_MEMORY: usize = 32 << 20;
/// How long a body waits for others to be answered. Shorter than any timeout of a webhook.
const WAIT: Duration = Duration::from_millis(500);

/// A body may fall this far behind [`PACE`] before it gives way. Much shorter than [`WAIT`].
const GRACE: Duration = Duration::from_millis(100);
/// Bytes in a second, a third of what the API server sends at least.
const PACE: usize = 1 << 20;

/// Memory for bodies, in two parts, so that large ones never stand in the way of the usual ones.
#[derive(Debug)]
pub(super) struct BodyMemory {
    usual: Pool,
    large: Pool,
}

impl Default for BodyMemory {
    fn default() -> Self {
        Self { usual: Pool::of(USUAL_MEMORY), large: Pool::of(LARGE_MEMORY) }
    }
}

impl BodyMemory {
    /// Room for a body of this many bytes, until dropped. `None`: there is none just now.
    pub(super) async fn room_for(&self, bytes: usize) -> Option<Room<'_>> {
        let pool = if bytes <= USUAL_BYTES { &self.usual } else { &self.large };
        let kibibytes = u32::try_from(kibibytes(bytes)).ok()?;
        let permit = match pool.memory.try_acquire_many(kibibytes) {
            Ok(permit) => permit,
            Err(_) => tokio::time::timeout(WAIT, pool.wait_for(kibibytes)).await.ok()??,
        };
        let (since, arrived, wanted) = (Instant::now(), AtomicUsize::default(), Notify::new());
        let arrival = Arc::new(Arrival { since, kibibytes, arrived, wanted });
        pool.arriving().push(arrival.clone());
        Some(Room { pool, arrival, _permit: permit })
    }
}

#[derive(Debug)]
struct Pool {
    /// In KiB.
    memory: Semaphore,
    /// Who waits for memory, one after the other.
    turn: Mutex<()>,
    /// Bodies that have room and are not complete.
    arriving: Lock<Vec<Arc<Arrival>>>,
}

impl Pool {
    fn of(bytes: usize) -> Self {
        Self { memory: Semaphore::new(kibibytes(bytes)), turn: Mutex::default(), arriving: Lock::default() }
    }

    async fn wait_for(&self, kibibytes: u32) -> Option<SemaphorePermit<'_>> {
        let _turn = self.turn.lock().await;
        tokio::select! {
            biased;
            permit = self.memory.acquire_many(kibibytes) => permit.ok(),
            never = self.push_out(kibibytes) => match never {},
        }
    }

    /// Makes bodies give way as they become too slow, until there is as much room as is wanted. Does not end by itself.
    async fn push_out(&self, kibibytes: u32) -> std::convert::Infallible {
        let mut missing = kibibytes;
        while missing > 0 {
            match self.push_out_slowest(Instant::now()) {
                Ok(freed) => missing = missing.saturating_sub(freed),
                Err(due) => tokio::time::sleep_until(due).await,
            }
        }
        std::future::pending().await
    }

    /// Gives how much that makes free, or when to try again.
    fn push_out_slowest(&self, now: Instant) -> Result<u32, Instant> {
        // Whoever comes later is not too slow before the grace has passed.
        let later = now + GRACE;
        let mut arriving = self.arriving();
        let slowest = arriving.iter().map(|arrival| arrival.due()).enumerate().min_by_key(|(_, due)| *due);
        match slowest {
            Some((index, due)) if due <= now => {
                let slowest = arriving.swap_remove(index);
                slowest.wanted.notify_one();
                Ok(slowest.kibibytes)
            }
            Some((_, due)) => Err(due.min(later)),
            None => Err(later),
        }
    }

    fn arriving(&self) -> MutexGuard<'_, Vec<Arc<Arrival>>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that is not complete.
#[derive(Debug)]
struct Arrival {
    since: Instant,
    kibibytes: u32,
    /// In bytes.
    arrived: AtomicUsize,
    /// Others want its memory.
    wanted: Notify,
}

impl Arrival {
    /// From when on it is too slow, unless more arrives.
    fn due(&self) -> Instant {
        let microseconds = self.arrived.load(Ordering::Relaxed) as u64 * 1_000_000 / PACE as u64;
        self.since + GRACE + Duration::from_micros(microseconds)
    }
}

/// Memory for one body.
#[derive(Debug)]
pub(super) struct Room<'a> {
    pool: &'a Pool,
    arrival: Arc<Arrival>,
    _permit: SemaphorePermit<'a>,
}

impl Room<'_> {
    /// This many bytes of the body have arrived in all.
    pub(super) fn arrived(&self, bytes: usize) {
        self.arrival.arrived.store(bytes, Ordering::Relaxed);
    }

    /// Ends when the body has to give way, since it is slow and others want its memory.
    pub(super) async fn wanted(&self) {
        self.arrival.wanted.notified().await;
    }

    /// The body is complete and keeps its room until it is answered.
    pub(super) fn complete(&self) {
        self.pool.arriving().retain(|arrival| !Arc::ptr_eq(arrival, &self.arrival));
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.complete();
    }
}

/// Rounded up.
fn kibibytes(bytes: usize) -> usize {
    bytes.div_ceil(1 << 10)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::{super::BODY_LIMIT, *};

    /// Takes room for bodies of this size that are complete, as long as there is any.
    async fn fill(memory: &BodyMemory, bytes: usize) -> Vec<Room<'_>> {
        let mut held = Vec::new();
        while let Some(room) = memory.room_for(bytes).await {
            room.complete();
            held.push(room);
            assert!(held.len() * bytes <= USUAL_MEMORY.max(LARGE_MEMORY), "more is held than there is");
        }
        held
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_are_bounded_and_leave_the_usual_ones_alone() {
        let memory = BodyMemory::default();
        let mut held = fill(&memory, 3 << 20).await;
        assert_eq!(held.len(), 10);
        assert!(memory.room_for(USUAL_BYTES).await.is_some(), "large bodies stand in the way of a usual one");
        held.pop();
        assert!(memory.room_for(3 << 20).await.is_some(), "room that was given back is not used again");
    }

    #[tokio::test(start_paused = true)]
    async fn usual_bodies_are_bounded() {
        let memory = BodyMemory::default();
        assert_eq!(fill(&memory, USUAL_BYTES).await.len(), 128);
    }

    #[tokio::test(start_paused = true)]
    async fn the_largest_body_has_room() {
        assert!(BodyMemory::default().room_for(BODY_LIMIT).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_body_gives_way_once_another_waits() {
        let memory = BodyMemory::default();
        let mut held = Vec::new();
        for number in 0..128 {
            held.push(memory.room_for(USUAL_BYTES).await.unwrap());
            held[number].arrived(if number == 77 { FREE_BYTES } else { USUAL_BYTES - 1 });
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(held.iter().all(|room| room.wanted().now_or_never().is_none()), "nobody waits");
        let (found, given_way) = tokio::join!(memory.room_for(USUAL_BYTES), async {
            held[77].wanted().await;
            drop(held.remove(77));
        });
        let ((), found) = (given_way, found.expect("the slowest kept its room"));
        assert!(held.iter().all(|room| room.wanted().now_or_never().is_none()), "more gave way than was wanted");
        assert_eq!(memory.usual.arriving().len(), 128);
        drop((held, found));
        assert_eq!(memory.usual.memory.available_permits(), kibibytes(USUAL_MEMORY));
        assert!(memory.usual.arriving().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_keeps_the_pace_does_not_give_way() {
        let memory = BodyMemory::default();
        let mut held = Vec::new();
        for _ in 0..10 {
            held.push(memory.room_for(3 << 20).await.unwrap());
        }
        // At the API server's pace, while others wait.
        let wait = async { assert!(memory.room_for(3 << 20).await.is_none(), "one gave way") };
        let send = async {
            for twentieth in 1..=10 {
                tokio::time::sleep(WAIT / 10).await;
                for room in &held {
                    room.arrived(twentieth * (3 << 20) / 20);
                }
            }
        };
        tokio::join!(wait, send);
        assert!(held.iter().all(|room| room.wanted().now_or_never().is_none()));
    }
}
