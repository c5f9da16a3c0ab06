//! How much memory request bodies may take in all, since callers are not authenticated.
//!
//! A body counts by what it announces, before a byte of it is read. What does not fit gets 503 with `Retry-After`, upon which
//! the API server asks again.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};

/// Memory for bodies, in two parts, so that large ones never stand in the way of the usual ones.
#[derive(Debug)]
pub(super) struct BodyMemory {
    usual: Semaphore,
    large: Semaphore,
}

/// Nearly all reviews are smaller.
const USUAL_BYTES: usize = 128 << 10;
/// For usual bodies: a thousand of 16 KiB at once.
const USUAL_MEMORY: usize = 16 << 20;
/// For large bodies: ten of the 3 MiB that the API server takes.
const LARGE_MEMORY: usize = 32 << 20;
/// How long a body waits for others to be answered. Shorter than any timeout of a webhook.
const WAIT: Duration = Duration::from_millis(500);

impl Default for BodyMemory {
    fn default() -> Self {
        let pool = |bytes| Semaphore::new(kibibytes(bytes));
        Self { usual: pool(USUAL_MEMORY), large: pool(LARGE_MEMORY) }
    }
}

impl BodyMemory {
    /// Room for a body of this many bytes, until dropped. `None`: there is none just now.
    pub(super) async fn room_for(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let pool = if bytes <= USUAL_BYTES { &self.usual } else { &self.large };
        let permits = u32::try_from(kibibytes(bytes)).ok()?;
        match pool.try_acquire_many(permits) {
            Err(TryAcquireError::NoPermits) => tokio::time::timeout(WAIT, pool.acquire_many(permits)).await.ok()?.ok(),
            room => room.ok(),
        }
    }
}

/// Rounded up.
fn kibibytes(bytes: usize) -> usize {
    bytes.div_ceil(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::{super::BODY_LIMIT, *};

    #[tokio::test(start_paused = true)]
    async fn large_bodies_are_bounded_and_leave_the_usual_ones_alone() {
        let memory = BodyMemory::default();
        let mut held = Vec::new();
        while let Some(room) = memory.room_for(3 << 20).await {
            held.push(room);
            assert!(held.len() <= LARGE_MEMORY / (3 << 20), "more is held than there is");
        }
        assert_eq!(held.len(), 10);
        assert!(memory.room_for(16 << 10).await.is_some(), "large bodies stand in the way of a usual one");
        held.pop();
        assert!(memory.room_for(3 << 20).await.is_some(), "room that was given back is not used again");
    }

    #[tokio::test(start_paused = true)]
    async fn the_largest_body_has_room() {
        assert!(BodyMemory::default().room_for(BODY_LIMIT).await.is_some());
    }
}
