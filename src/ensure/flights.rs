//! One flight per namespace.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

type Locks = Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>;

/// One lock per namespace that is being written or read, and none for the others.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    locks: Locks,
}

impl Flights {
    /// Waits until nobody else is at work on this namespace.
    pub(crate) async fn join(&self, namespace: &str) -> Flight {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.entry(namespace.to_owned()).or_default().clone()
        };
        let guard = lock.lock_owned().await;
        Flight { locks: self.locks.clone(), namespace: namespace.to_owned(), guard: Some(guard) }
    }
}

/// The right to work on a namespace, until dropped.
pub(crate) struct Flight {
    locks: Locks,
    namespace: String,
    guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard = None;
        // More owners than the map means that somebody waits, who will clean up in turn.
        if locks.get(&self.namespace).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_namespace_has_one_flight_and_leaves_nothing_behind() {
        let flights = Flights::default();
        let first = flights.join("team-a").await;
        let second = flights.join("team-a");
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending(), "two flights at once");
        drop(flights.join("team-b").await);
        drop(first);
        drop(second.await);
        assert!(flights.locks.lock().unwrap().is_empty());
    }
}
