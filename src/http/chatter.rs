//! What a client says on an HTTP/2 connection besides its requests: settings, pings, resets (RFC 9113 §6). h2 answers all of
//! it for as long as it comes, and a setting can cost it work for every stream that is open. Here it has a bound. Nothing is
//! judged but how much of it there is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Frames that ask for nothing which a client may send within [`INTERVAL`]. One that closes a hundred tabs, or pings
/// several times a second, stays far below.
const MAX_FRAMES: u32 = 1_000;
const INTERVAL: Duration = Duration::from_secs(10);

/// What stands before the first frame (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;

/// What is left of a frame's head behind its length and its type: flags and stream (RFC 9113 §4.1).
const REST_OF_HEAD_BYTES: usize = 5;

/// A connection that reads along. It ends with an error once its client has said too much.
#[derive(Debug)]
pub(super) struct Bounded<S> {
    io: S,
    /// What comes before the next frame.
    skip: usize,
    /// How much of that one's length has come, of 3 bytes.
    known: u8,
    length: usize,
    frames: u32,
    since: Instant,
}

impl<S> Bounded<S> {
    /// A connection of which nothing was read yet.
    pub(super) fn new(io: S) -> Self {
        Self {
            io,
            skip: PREFACE_BYTES,
            known: 0,
            length: 0,
            frames: 0,
            since: Instant::now(),
        }
    }

    fn read_along(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let (skipped, rest) = bytes.split_at(self.skip.min(bytes.len()));
            self.skip -= skipped.len();
            let Some((byte, rest)) = rest.split_first() else {
                return Ok(());
            };
            bytes = rest;
            if self.known < 3 {
                self.length = self.length << 8 | usize::from(*byte);
                self.known += 1;
            } else {
                self.skip = REST_OF_HEAD_BYTES + std::mem::take(&mut self.length);
                self.known = 0;
                self.count(*byte)?;
            }
        }
    }

    /// Counts a frame by its type. Requests have bounds of their own, and window updates cost nothing that more bytes of
    /// anything else would not.
    fn count(&mut self, kind: u8) -> io::Result<()> {
        const DATA: u8 = 0;
        const HEADERS: u8 = 1;
        const WINDOW_UPDATE: u8 = 8;
        const CONTINUATION: u8 = 9;
        if matches!(kind, DATA | HEADERS | WINDOW_UPDATE | CONTINUATION) {
            return Ok(());
        }
        let now = Instant::now();
        if now >= self.since + INTERVAL {
            (self.frames, self.since) = (0, now);
        }
        self.frames += 1;
        if self.frames <= MAX_FRAMES {
            return Ok(());
        }
        Err(io::Error::other(
            "the client sends too many frames that ask for nothing",
        ))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        let (_, new) = buffer.filled().split_at(before);
        Poll::Ready(self.read_along(new))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const PING: u8 = 6;

    /// A frame of this type, whose payload looks like the heads of pings.
    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        frame.extend(
            [0, 0, 8, PING, 0, 0, 0, 0, 0]
                .iter()
                .cycle()
                .take(length.into()),
        );
        frame
    }

    /// How much is read of what a client sends before it has said too much.
    async fn read(sent: &[u8], at_once: usize) -> usize {
        let (mut client, server) = tokio::io::duplex(sent.len());
        tokio::io::AsyncWriteExt::write_all(&mut client, sent)
            .await
            .unwrap();
        drop(client);
        let mut bounded = Bounded::new(server);
        let mut buffer = vec![0; at_once];
        let mut total = 0;
        loop {
            match bounded.read(&mut buffer).await {
                Ok(0) | Err(_) => return total,
                Ok(read) => total += read,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_asks_for_nothing_is_counted_however_it_is_cut_and_whatever_stands_around_it() {
        let mut sent = PREFACE.to_vec();
        for kind in [0, 1, 8, 9] {
            for _ in 0..500 {
                sent.extend(frame(kind, 200));
            }
        }
        let innocent = sent.len();
        for number in 0..=1_000 {
            sent.extend(frame([2, 3, 4, PING, 250][number % 5], 8));
        }
        for at_once in [1, 7, 9, 4096] {
            assert_eq!(
                read(&sent[..innocent + 1_000 * 17], at_once).await,
                innocent + 17_000
            );
            let judged = read(&sent, at_once).await;
            assert!(
                (innocent + 12_000..innocent + 17_004).contains(&judged),
                "{judged}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_while_as_much_may_be_said_again() {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let mut bounded = Bounded::new(server);
        let mut buffer = vec![0; 64 * 1024];
        tokio::io::AsyncWriteExt::write_all(&mut client, PREFACE)
            .await
            .unwrap();
        for round in 0..5 {
            for _ in 0..1_000 {
                tokio::io::AsyncWriteExt::write_all(&mut client, &frame(PING, 8))
                    .await
                    .unwrap();
            }
            assert!(bounded.read(&mut buffer).await.is_ok(), "{round}");
            tokio::time::advance(INTERVAL).await;
        }
        for _ in 0..1_001 {
            tokio::io::AsyncWriteExt::write_all(&mut client, &frame(PING, 8))
                .await
                .unwrap();
        }
        assert!(bounded.read(&mut buffer).await.is_err());
    }
}
