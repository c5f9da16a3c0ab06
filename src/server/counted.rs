//! Streams and services that keep to the connection limit.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::service::Service;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

use super::{WRITE_TIMEOUT, connection_limit::Admitted};

/// A stream that ends when its connection is given up, or when a client takes nothing of what is written for
/// [`WRITE_TIMEOUT`]: its answers would stay in memory.
#[derive(Debug)]
pub(super) struct CountedStream<S = TcpStream> {
    stream: S,
    admitted: Arc<Admitted>,
    /// Runs while a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> CountedStream<S> {
    pub(super) fn new(stream: S, admitted: Arc<Admitted>) -> Self {
        Self { stream, admitted, deadline: None }
    }

    fn check(&self, context: &Context<'_>) -> io::Result<()> {
        if self.admitted.is_given_up(context) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// A write has been tried. One that waits, waits until the deadline.
    fn written(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIMEOUT)));
            return deadline.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        self.deadline = None;
        if matches!(written, Poll::Ready(Ok(_))) {
            self.admitted.answered();
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CountedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// A socket keeps nothing back, so this does not wait.
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
    admitted: Arc<Admitted>,
}

impl<S> CountedService<S> {
    pub(super) fn new(service: S, admitted: Arc<Admitted>) -> Self {
        Self { service, admitted }
    }
}

impl<S: Service<R>, R> Service<R> for CountedService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: R) -> Self::Future {
        self.admitted.asked();
        self.service.call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::Instant,
    };

    use super::{super::connection_limit::ConnectionLimit, *};

    #[tokio::test]
    async fn a_connection_that_is_given_up_ends_while_somebody_reads() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let limit = ConnectionLimit::at_most(1, "test");
        let mut streams = Vec::new();
        for _ in 0..2 {
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let mut server = CountedStream::new(listener.accept().await.unwrap().0, Arc::new(limit.admit()));
            streams.push((client, tokio::spawn(async move { server.read_u8().await })));
            tokio::task::yield_now().await;
        }
        let (_, second) = streams.pop().unwrap();
        let (mut client, first) = streams.pop().unwrap();
        assert_eq!(first.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "it is closed");
        assert!(!second.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_may_take_its_time_as_long_as_some_of_it_is_taken() {
        let (mut client, server) = tokio::io::duplex(10);
        let admitted = ConnectionLimit::at_most(1, "test").admit();
        let mut server = CountedStream::new(server, Arc::new(admitted));
        let started = Instant::now();
        let read = async {
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_secs(9)).await;
                client.read_u8().await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            written = server.write_all(&[0; 1000]) => written.unwrap_err(),
            () = read => unreachable!(),
            () = tokio::time::sleep(Duration::from_secs(3600)) => panic!("it is never given up"),
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 100 * 9 + 10);
    }
}
