//! The replies of a server whose answers are short.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, BufReader, ReadBuf};

/// A connection that yields only so many bytes, a line at a time.
///
/// A caller that reads replies through a buffer and then begins TLS thus keeps nothing that came
/// after the last reply: a stranger between the two could have put it there, and it would pass for
/// something said in secret.
#[derive(Debug)]
pub(super) struct Replies<S> {
    inner: BufReader<S>,
    peer: SocketAddr,
    left: usize,
}

impl<S: AsyncRead> Replies<S> {
    pub(super) fn new(inner: S, peer: SocketAddr, limit: usize) -> Self {
        Self {
            inner: BufReader::new(inner),
            peer,
            left: limit,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replies<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let there = ready!(Pin::new(&mut this.inner).poll_fill_buf(context))?;
        if this.left == 0 && !there.is_empty() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the server says more than a server should",
            )));
        }
        let line = there.iter().position(|byte| *byte == b'\n');
        let length = line
            .map_or(there.len(), |at| at + 1)
            .min(buffer.remaining())
            .min(this.left);
        buffer.put_slice(there.get(..length).unwrap_or_default());
        Pin::new(&mut this.inner).consume(length);
        this.left -= length;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Replies<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S> AsyncTokioStream for Replies<S>
where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin + std::fmt::Debug,
{
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;

    use tokio::io::AsyncReadExt;

    use super::*;

    const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    #[tokio::test]
    async fn what_stands_behind_a_line_is_not_read_with_it() {
        let mut replies = Replies::new(&b"220 go\r\n250 forged\r\n"[..], PEER, 100);
        let mut buffer = [0; 100];
        let n = replies.read(&mut buffer).await.unwrap();
        assert_eq!(buffer.get(..n).unwrap(), b"220 go\r\n");
    }

    #[tokio::test]
    async fn a_server_that_never_stops_is_stopped() {
        let mut replies = Replies::new(tokio::io::repeat(b'x'), PEER, 10_000);
        let mut bytes = Vec::new();
        let error = replies.read_to_end(&mut bytes).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(bytes.len(), 10_000);
    }
}
