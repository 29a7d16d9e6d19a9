//! What RabbitMQ sends, made readable before `lapin` sees it: a short string that is not UTF-8 (a routing key, a `type`,
//! a header's name...) is an error to its parser, and ends the whole link, again and again, at the same message.
//!
//! AMQP wants UTF-8 there (0-9-1 §4.2.5.3), but RabbitMQ carries any bytes. Here those that are illegal become
//! [`SUBSTITUTE`], so that no length changes. Headers that would harm whoever reads them are left out, and a header of our
//! own stands for them ([`Harm`]). The message is then dead-lettered for what it is (see [`message`](super::message)).
//! Bodies pass untouched.

mod frames;
mod payload;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use async_rs::{Runtime, Tokio};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::future::{self, Either};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use self::frames::Frames;
pub(super) use self::payload::{DEPTH, Harm, SUBSTITUTE};
use super::connection::LOGIN;
use super::trust::{Passage, Spoken};

/// How much is read from the socket at once.
const CHUNK: usize = 32 * 1024;

/// The runtime that `lapin` is to connect to one node with: tokio's, but for what its sockets read, and for what is under
/// them. `frame_max` is what `lapin` asks for; none, or 0, is the broker's.
pub(super) fn runtime(passage: Passage, frame_max: Option<u32>) -> Runtime<Mending> {
    let largest = match frame_max {
        None | Some(0) => usize::MAX,
        Some(frame_max) => frame_max as usize,
    };
    Runtime::new(Mending(Tokio::current(), passage, largest))
}

/// Tokio, with sockets that mend; the passage that each takes first, and the largest frame that it may give.
#[derive(Clone, Debug)]
pub(super) struct Mending(Tokio, Passage, usize);

impl RuntimeKit for Mending {}

impl Executor for Mending {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(work)
    }
}

impl Reactor for Mending {
    type TcpStream = Mended<Compat<Spoken>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(
        &self,
        duration: Duration,
    ) -> impl futures_util::Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        let Self(_, passage, largest) = self.clone();
        // A node that never ends its handshake must not keep `lapin`'s thread for ever.
        let patience = self.0.sleep(LOGIN);
        async move {
            let socket = connecting.await?.into_inner();
            let shaking = std::pin::pin!(passage.over(socket));
            match future::select(shaking, std::pin::pin!(patience)).await {
                Either::Left((spoken, _)) => Ok(Mended::new(spoken?.compat(), largest)),
                Either::Right(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }
}

/// A socket whose reader finds every short string in UTF-8.
pub(super) struct Mended<S> {
    socket: S,
    chunk: Box<[u8]>,
    frames: Frames,
}

impl<S> Mended<S> {
    fn new(socket: S, largest: usize) -> Self {
        Self {
            socket,
            chunk: vec![0; CHUNK].into_boxed_slice(),
            frames: Frames::new(largest),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Mended<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Self {
            socket,
            chunk,
            frames,
        } = self.get_mut();
        loop {
            let taken = frames.take(buffer);
            if taken > 0 || buffer.is_empty() {
                return Poll::Ready(Ok(taken));
            }
            let read = ready!(Pin::new(&mut *socket).poll_read(context, chunk))?;
            match chunk.get(..read) {
                Some(bytes) if read > 0 => frames.add(bytes),
                // The end: what is left is no whole frame, and whoever reads it will say so.
                _ => return Poll::Ready(Ok(frames.take_rest(buffer))),
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Mended<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(context, slices)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_close(context)
    }
}
