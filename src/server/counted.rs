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
};

use super::connection_limit::Admitted;

/// A stream that ends when its connection is given up.
#[derive(Debug)]
pub(super) struct CountedStream {
    stream: TcpStream,
    admitted: Arc<Admitted>,
}

impl CountedStream {
    pub(super) fn new(stream: TcpStream, admitted: Arc<Admitted>) -> Self {
        Self { stream, admitted }
    }

    fn check(&self, context: &Context<'_>) -> io::Result<()> {
        if self.admitted.is_given_up(context) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    fn written(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(_))) {
            self.admitted.answered();
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
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
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
    use tokio::io::AsyncReadExt as _;

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
}
