//! How many connections a port keeps open. Callers are not authenticated, and every connection takes memory and a
//! descriptor for as long as its client likes.
//!
//! A new connection is always let in. When there are too many, the one whose last answer lies longest in the past is
//! closed, first among those on which no request is under way. While more than half have never sent a request, one of those
//! is taken: connections that only take up room give way to those that are used. No more than half, since a new connection
//! of the API server has sent nothing yet either, and callers who send one request each must not push it out.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Context,
};

use futures_util::task::AtomicWaker;

/// The connections of one port. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct ConnectionLimit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    port: &'static str,
    most: usize,
    /// What happened last has the highest number.
    turns: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    /// Said already; said again only after there was room.
    is_full: AtomicBool,
}

#[derive(Debug)]
struct Connection {
    /// When it was opened, or its last answer written.
    turn: AtomicU64,
    /// A request has arrived and nothing has been answered yet.
    is_asked: AtomicBool,
    /// A request has arrived at some time.
    is_used: AtomicBool,
    is_given_up: AtomicBool,
    /// Wakes whoever reads or writes.
    waker: AtomicWaker,
}

impl ConnectionLimit {
    /// Keeps `most` connections of a port, which `port` names in the log.
    pub(super) fn at_most(most: usize, port: &'static str) -> Self {
        let (turns, open, is_full) = (AtomicU64::default(), Mutex::default(), AtomicBool::default());
        Self(Arc::new(Shared { port, most, turns, open, is_full }))
    }

    /// Makes room because a connection could not even be accepted: no descriptor is left, most likely.
    pub(super) fn make_room(&self, error: &io::Error) {
        // Some at a time: who is wanted may wait behind many others, and the next attempt is only a moment later.
        let mut open = self.0.open();
        self.0.give_up(open.len().div_ceil(8), &mut open, &error.to_string());
    }

    /// Lets a connection in.
    pub(super) fn admit(&self) -> Admitted {
        let number = self.0.next_turn();
        let connection = Arc::new(Connection {
            turn: AtomicU64::new(number),
            is_asked: AtomicBool::default(),
            is_used: AtomicBool::default(),
            is_given_up: AtomicBool::default(),
            waker: AtomicWaker::new(),
        });
        let mut open = self.0.open();
        if open.len() >= self.0.most {
            self.0.give_up(1, &mut open, "as many as this port may have");
        }
        open.insert(number, connection.clone());
        drop(open);
        Admitted { number, connection, shared: self.0.clone() }
    }
}

impl Shared {
    fn next_turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }

    fn give_up(&self, count: usize, open: &mut HashMap<u64, Arc<Connection>>, reason: &str) {
        if !self.is_full.swap(true, Ordering::Relaxed) {
            let (port, connections) = (self.port, open.len());
            tracing::warn!(port, connections, reason, "too many connections: those that are silent longest are closed");
        }
        let used = open.values().filter(|connection| connection.is_used.load(Ordering::Relaxed)).count();
        let most_are_used = used * 2 >= open.len();
        let mut order: Vec<_> = open
            .iter()
            .map(|(number, connection)| {
                let is_of_the_fewer = connection.is_used.load(Ordering::Relaxed) != most_are_used;
                let is_asked = connection.is_asked.load(Ordering::Relaxed);
                (is_asked, is_of_the_fewer, connection.turn.load(Ordering::Relaxed), *number)
            })
            .collect();
        order.sort_unstable();
        for (_, _, _, number) in order.into_iter().take(count) {
            if let Some(connection) = open.remove(&number) {
                connection.give_up();
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// A connection's place, until dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    number: u64,
    connection: Arc<Connection>,
    shared: Arc<Shared>,
}

impl Admitted {
    /// A request has arrived.
    pub(super) fn asked(&self) {
        self.connection.is_used.store(true, Ordering::Relaxed);
        self.connection.is_asked.store(true, Ordering::Relaxed);
    }

    /// An answer has been written, or at least a part of it.
    pub(super) fn answered(&self) {
        self.connection.turn.store(self.shared.next_turn(), Ordering::Relaxed);
        self.connection.is_asked.store(false, Ordering::Relaxed);
    }

    /// Has the connection been given up? If not, whoever asked last is woken when it is.
    pub(super) fn is_given_up(&self, context: &Context<'_>) -> bool {
        self.connection.waker.register(context.waker());
        self.connection.is_given_up.load(Ordering::Acquire)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.shared.open();
        open.remove(&self.number);
        if open.len() < self.shared.most / 2 {
            self.shared.is_full.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given_up(connections: &[Admitted]) -> Vec<usize> {
        let given_up = |admitted: &Admitted| admitted.connection.is_given_up.load(Ordering::Relaxed);
        connections.iter().enumerate().filter(|(_, admitted)| given_up(admitted)).map(|(index, _)| index).collect()
    }

    #[test]
    fn the_longest_silent_gives_way_and_one_with_a_request_last() {
        let limit = ConnectionLimit::at_most(3, "test");
        let mut admitted: Vec<_> = (0..3).map(|_| limit.admit()).collect();
        admitted[0].asked();
        admitted[1].answered();
        assert_eq!(given_up(&admitted), [0; 0]);
        admitted.push(limit.admit());
        assert_eq!(given_up(&admitted), [2], "the first is asked, the second has answered since");
        admitted.push(limit.admit());
        assert_eq!(given_up(&admitted), [1, 2]);
        for open in &admitted[3..] {
            open.asked();
        }
        admitted.push(limit.admit());
        assert_eq!(given_up(&admitted), [0, 1, 2], "all are asked, and the first has been for the longest time");
        assert_eq!(limit.0.open().len(), 3);
    }

    #[test]
    fn a_flood_of_one_kind_does_not_push_out_the_other() {
        for flood_is_used in [false, true] {
            let limit = ConnectionLimit::at_most(8, "test");
            let open = |is_used| {
                let admitted = limit.admit();
                if is_used {
                    admitted.asked();
                    admitted.answered();
                }
                admitted
            };
            let mut admitted: Vec<_> = (0..3).map(|_| open(!flood_is_used)).collect();
            admitted.extend((0..100).map(|_| open(flood_is_used)));
            assert_eq!(given_up(&admitted), (3..98).collect::<Vec<_>>(), "a flood that is used: {flood_is_used}");
        }
    }

    #[test]
    fn what_is_closed_leaves_room() {
        let limit = ConnectionLimit::at_most(2, "test");
        let first = limit.admit();
        for _ in 0..10 {
            drop(limit.admit());
        }
        assert_eq!(given_up(&[first]), [0; 0]);
        assert!(limit.0.open().is_empty());
    }
}
