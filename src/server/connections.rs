//! Accepts connections and serves HTTP/1.1 on each of them until the process stops.
//!
//! Written on hyper itself: what axum-server adds is HTTP/2, which nobody speaks here and which made the program two
//! megabytes larger, and for every request work that we have no use for.

mod read_ahead;

use std::{fmt, io, net::TcpListener, pin::pin, sync::Arc, time::Duration};

use axum::http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::Service,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use self::read_ahead::ReadAhead;
use super::{
    HANDSHAKE_TIMEOUT, HEADER_TIMEOUT, READ_AHEAD,
    connection_limit::{Admitted, ConnectionLimit},
    counted::{CountedService, CountedStream},
};
use crate::lifecycle::Lifecycle;

/// After a failure to accept, as when there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the lifecycle is stopping. Then idle connections are closed, and those under way finish their request; the
/// end of the process waits for them.
///
/// # Errors
///
/// When the listener cannot be used.
pub(super) async fn serve<T, S, B>(
    listener: TcpListener,
    limit: ConnectionLimit,
    transport: T,
    service: S,
    lifecycle: Lifecycle,
) -> io::Result<()>
where
    T: Transport,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: std::error::Error + Send + Sync + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let accepted = tokio::select! {
            () = lifecycle.stopping().cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                let (transport, service) = (transport.clone(), service.clone());
                let connection = connection(socket, limit.admit(), transport, service, lifecycle.clone());
                drop(lifecycle.spawn_work(connection));
            }
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                limit.make_room(&error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What is spoken below HTTP.
pub(super) trait Transport: Clone + Send + 'static {
    /// A connection on which HTTP is spoken.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Shakes hands with the client.
    fn shake_hands(&self, socket: CountedStream) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Nothing but TCP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain;

impl Transport for Plain {
    type Stream = CountedStream;

    async fn shake_hands(&self, socket: CountedStream) -> io::Result<CountedStream> {
        Ok(socket)
    }
}

/// TLS.
#[derive(Clone)]
pub(super) struct Tls(TlsAcceptor);

impl Tls {
    pub(super) fn new(configuration: Arc<rustls::ServerConfig>) -> Self {
        Self(configuration.into())
    }
}

impl Transport for Tls {
    type Stream = TlsStream<ReadAhead<CountedStream>>;

    async fn shake_hands(&self, socket: CountedStream) -> io::Result<Self::Stream> {
        tokio::time::timeout(HANDSHAKE_TIMEOUT, self.0.accept(ReadAhead::new(socket))).await?
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// One connection from its first byte to its last. How it ends is the client's affair.
async fn connection<T, S, B>(socket: TcpStream, admitted: Admitted, transport: T, service: S, lifecycle: Lifecycle)
where
    T: Transport,
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: std::error::Error + Send + Sync + 'static,
    B: Body + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    // An answer is one write; it shall not wait for what was sent before it to be acknowledged.
    let _ = socket.set_nodelay(true);
    let admitted = Arc::new(admitted);
    let socket = CountedStream::new(socket, admitted.clone());
    let stopping = lifecycle.stopping();
    let stream = tokio::select! {
        () = stopping.cancelled() => return,
        stream = transport.shake_hands(socket) => stream,
    };
    let Ok(stream) = stream else { return };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(READ_AHEAD);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), CountedService::new(service, admitted)));
    tokio::select! {
        biased;
        _ = &mut connection => return,
        () = stopping.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// The client went away before it was accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
    )
}
