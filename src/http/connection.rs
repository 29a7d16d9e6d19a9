//! A client's socket: notices when it takes no bytes for too long, and when it has taken what it was given.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use prometheus::Histogram;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use crate::metrics::Striped;
use crate::transport::sse::Link;

/// A socket with an eye on it.
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    link: Arc<Link>,
    /// How long a write may wait for room; zero is for ever.
    stall: Duration,
    /// There while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
    delivery_seconds: Striped<Histogram>,
}

impl Connection {
    pub(super) fn new(
        socket: TcpStream,
        link: Arc<Link>,
        stall: Duration,
        delivery_seconds: Striped<Histogram>,
    ) -> Self {
        Self {
            socket,
            link,
            stall,
            waiting: None,
            delivery_seconds,
        }
    }

    /// The kernel counts too, and may be first (`TCP_USER_TIMEOUT`).
    fn note_timeout<T>(&self, came_to: &Poll<io::Result<T>>) {
        if let Poll::Ready(Err(error)) = came_to
            && error.kind() == io::ErrorKind::TimedOut
        {
            self.link.stalled.store(true, Ordering::Relaxed);
        }
    }

    /// Passes on what a write came to, and ends one that has waited too long. Any byte taken begins the wait anew.
    fn watch(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.waiting = None;
            self.note_timeout(&written);
            return written;
        }
        if self.stall.is_zero() {
            return Poll::Pending;
        }
        let stall = self.stall;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(stall)));
        std::task::ready!(waiting.as_mut().poll(context));
        self.link.stalled.store(true, Ordering::Relaxed);
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client took no bytes for too long",
        )))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.socket).poll_read(context, buffer);
        self.note_timeout(&read);
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, buffers);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    /// hyper flushes once all that it had is written.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(under_way) = self.link.flushed() {
            self.delivery_seconds.observe(under_way.as_secs_f64());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
