//! Reads as much as the kernel has in one go.
//!
//! rustls asks for 4 KiB at a time, so a review of 8 KB would take three system calls, and one of 3 MiB eight hundred.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// What most reviews fit into.
const READ_SIZE: usize = 16 << 10;

thread_local! {
    /// The buffer of whoever reads next on this thread. To allocate one for each review takes longer than to fill it.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A stream that is read in large pieces. While nothing is under way it holds no buffer: ten thousand idle connections
/// would make it 160 MiB.
#[derive(Debug)]
pub(crate) struct ReadAhead<S> {
    stream: S,
    /// What was read, until all of it has been asked for.
    read: Vec<u8>,
    /// How much of `read` has been handed out.
    taken: usize,
}

impl<S> ReadAhead<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, read: Vec::new(), taken: 0 }
    }

    fn hand_out(&mut self, buffer: &mut ReadBuf<'_>) {
        let rest = &self.read[self.taken..];
        let length = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..length]);
        self.taken += length;
        if self.taken == self.read.len() {
            self.taken = 0;
            spare(mem::take(&mut self.read));
        }
    }
}

/// Leaves a buffer to whoever reads next.
fn spare(mut buffer: Vec<u8>) {
    buffer.clear();
    SPARE.set(buffer);
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read.is_empty() {
            if buffer.remaining() >= READ_SIZE {
                return Pin::new(&mut this.stream).poll_read(context, buffer);
            }
            let mut space = SPARE.take();
            space.reserve_exact(READ_SIZE);
            let polled = poll_read_buf(Pin::new(&mut this.stream), context, &mut space);
            if !matches!(polled, Poll::Ready(Ok(1..))) {
                spare(space);
                ready!(polled)?;
                return Poll::Ready(Ok(()));
            }
            this.read = space;
        }
        this.hand_out(buffer);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_read_is_what_was_sent_whatever_the_pieces() {
        let sent: Vec<u8> = (0..60_000_u32).flat_map(u32::to_le_bytes).collect();
        for size in [1, 5, 4096, READ_SIZE, READ_SIZE + 1, 100_000] {
            let (mut client, server) = tokio::io::duplex(70_000);
            let mut server = ReadAhead::new(server);
            let (all, ()) = tokio::join!(
                async {
                    let (mut received, mut piece) = (Vec::new(), vec![0; size]);
                    loop {
                        match server.read(&mut piece).await.unwrap() {
                            0 => return received,
                            length => received.extend_from_slice(&piece[..length]),
                        }
                    }
                },
                async {
                    client.write_all(&sent).await.unwrap();
                    drop(client);
                }
            );
            assert!(all == sent, "pieces of {size} bytes");
            assert_eq!(server.read.capacity(), 0, "an idle connection holds a buffer");
        }
    }

    #[tokio::test]
    async fn what_the_kernel_has_is_read_at_once() {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(&[1; 9000]).await.unwrap();
        let mut server = ReadAhead::new(server);
        let mut piece = [0; 4096];
        assert_eq!(server.read(&mut piece).await.unwrap(), 4096);
        assert_eq!(server.read.len() - server.taken, 9000 - 4096);
    }
}
