//! How many connections a port keeps open. Callers are not authenticated, and every connection takes memory and a
//! descriptor for as long as its client likes.
//!
//! A new connection is always let in. When there are too many, the one whose last answer lies longest in the past is
//! closed, first among those on which no request is under way: connections that only take up room give way to those that
//! are used.

use std::{
    collections::HashMap,
    future::{Ready, ready},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use axum_server::accept::Accept;
use futures_util::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tower::Service;

/// The connections of one port. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Connections(Arc<Shared>);

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
    is_given_up: AtomicBool,
    /// Wakes whoever reads or writes.
    waker: AtomicWaker,
}

impl Connections {
    /// Keeps `most` connections of a port, which `port` names in the log.
    pub(super) fn at_most(most: usize, port: &'static str) -> Self {
        let (turns, open, is_full) = (AtomicU64::default(), Mutex::default(), AtomicBool::default());
        Self(Arc::new(Shared { port, most, turns, open, is_full }))
    }

    /// What to do when a connection fails: if it could not even be accepted, no descriptor is left, most likely, and some of
    /// those that are open give way.
    pub(super) fn make_room_on_failure(&self) -> impl Fn(Option<&SocketAddr>, &io::Error) + Send + Sync + 'static {
        let shared = self.0.clone();
        move |accepted, error| {
            if accepted.is_none() {
                // Some at a time: who is wanted may wait behind many others, and the next attempt is only a moment later.
                let mut open = shared.open();
                shared.give_up(open.len().div_ceil(8), &mut open, &error.to_string());
            }
        }
    }

    fn open(&self) -> Opened {
        let number = self.0.next_turn();
        let connection = Arc::new(Connection {
            turn: AtomicU64::new(number),
            is_asked: AtomicBool::default(),
            is_given_up: AtomicBool::default(),
            waker: AtomicWaker::new(),
        });
        let mut open = self.0.open();
        if open.len() >= self.0.most {
            self.0.give_up(1, &mut open, "as many as this port may have");
        }
        open.insert(number, connection.clone());
        drop(open);
        Opened { number, connection, shared: self.0.clone() }
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
        let mut order: Vec<_> = open
            .iter()
            .map(|(number, connection)| {
                (connection.is_asked.load(Ordering::Relaxed), connection.turn.load(Ordering::Relaxed), *number)
            })
            .collect();
        order.sort_unstable();
        for (_, _, number) in order.into_iter().take(count) {
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

    /// Has it been given up? If not, whoever asks is woken when it is.
    fn check(&self, context: &Context<'_>) -> io::Result<()> {
        self.waker.register(context.waker());
        if self.is_given_up.load(Ordering::Acquire) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

/// A connection's place, until dropped.
#[derive(Debug)]
struct Opened {
    number: u64,
    connection: Arc<Connection>,
    shared: Arc<Shared>,
}

impl Opened {
    fn answered(&self) {
        self.connection.turn.store(self.shared.next_turn(), Ordering::Relaxed);
        self.connection.is_asked.store(false, Ordering::Relaxed);
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let mut open = self.shared.open();
        open.remove(&self.number);
        if open.len() < self.shared.most / 2 {
            self.shared.is_full.store(false, Ordering::Relaxed);
        }
    }
}

impl<S> Accept<TcpStream, S> for Connections {
    type Stream = CountedStream;
    type Service = CountedService<S>;
    type Future = Ready<io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let place = self.open();
        let connection = place.connection.clone();
        ready(Ok((CountedStream { stream, place }, CountedService { service, connection })))
    }
}

/// A stream that ends when its connection is given up.
#[derive(Debug)]
pub(super) struct CountedStream {
    stream: TcpStream,
    place: Opened,
}

impl CountedStream {
    fn written(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(_))) {
            self.place.answered();
        }
        written
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.place.connection.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.place.connection.check(context)?;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.place.connection.check(context)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A service that notes requests on their connection.
#[derive(Clone, Debug)]
pub(super) struct CountedService<S> {
    service: S,
    connection: Arc<Connection>,
}

impl<S: Service<R>, R> Service<R> for CountedService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.connection.is_asked.store(true, Ordering::Relaxed);
        self.service.call(request)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn given_up(connections: &[Opened]) -> Vec<usize> {
        let given_up = |opened: &Opened| opened.connection.is_given_up.load(Ordering::Relaxed);
        connections.iter().enumerate().filter(|(_, opened)| given_up(opened)).map(|(index, _)| index).collect()
    }

    #[test]
    fn the_longest_silent_gives_way_and_one_with_a_request_last() {
        let connections = Connections::at_most(3, "test");
        let mut opened: Vec<_> = (0..3).map(|_| connections.open()).collect();
        opened[0].connection.is_asked.store(true, Ordering::Relaxed);
        opened[1].answered();
        assert_eq!(given_up(&opened), [0; 0]);
        opened.push(connections.open());
        assert_eq!(given_up(&opened), [2], "the first is asked, the second has answered since");
        opened.push(connections.open());
        assert_eq!(given_up(&opened), [1, 2]);
        for open in &opened[3..] {
            open.connection.is_asked.store(true, Ordering::Relaxed);
        }
        opened.push(connections.open());
        assert_eq!(given_up(&opened), [0, 1, 2], "all are asked, and the first has been for the longest time");
        assert_eq!(connections.0.open().len(), 3);
    }

    #[test]
    fn what_is_closed_leaves_room() {
        let connections = Connections::at_most(2, "test");
        let first = connections.open();
        for _ in 0..10 {
            drop(connections.open());
        }
        assert_eq!(given_up(&[first]), [0; 0]);
        assert!(connections.0.open().is_empty());
    }

    #[tokio::test]
    async fn a_connection_that_is_given_up_ends_while_somebody_reads() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connections = Connections::at_most(1, "test");
        let mut streams = Vec::new();
        for _ in 0..2 {
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut server, _) = connections.accept(listener.accept().await.unwrap().0, ()).await.unwrap();
            streams.push((client, tokio::spawn(async move { server.read_u8().await })));
            tokio::task::yield_now().await;
        }
        let (_, second) = streams.pop().unwrap();
        let (mut client, first) = streams.pop().unwrap();
        assert_eq!(first.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "it is closed");
        assert!(!second.is_finished());
    }
}
