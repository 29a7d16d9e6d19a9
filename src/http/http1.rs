//! One HTTP/1.1 connection (RFC 9112). hyper reads its requests and writes its answers, but for an event stream: that is
//! the last answer on its connection, and once it begins hyper is let go, with its buffers. What the stream has to send
//! then goes to the socket as it is: one write for an event that comes alone, of bytes that all its clients share.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use axum::body::Bytes;
use bytes::{Buf, BytesMut};
use http::header::CONNECTION;
use http::{Method, Request, Version, response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::server::{HYPER_BUFFER_BYTES, Visit, has_more, linger};
use crate::transport::sse::{EventStream, Framing, Handover};

/// What ends a body in chunks (RFC 9112 §7.1): one of no bytes, and no trailers.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Serves one connection to its end.
pub(super) async fn serve<S>(io: S, visit: &Visit)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Boxed, so that a stream does not hold the memory of what came before it.
    let (mut socket, outcome) = Box::pin(answer_requests(io, visit)).await;
    let (ended, _under_way) = match outcome {
        Outcome::Ended(ended, under_way) => (ended, under_way),
        Outcome::Stream(taken) => {
            let Taken {
                head,
                stream,
                under_way,
            } = *taken;
            let ended = match Writing::new(&mut socket, head, stream).await {
                Ok(()) => Ended::Well,
                Err(error) => {
                    tracing::debug!(peer = %visit.link.peer, %error, "stream ended");
                    Ended::Gone
                }
            };
            (ended, Some(under_way))
        }
    };
    if ended == Ended::Gone || socket.shutdown().await.is_err() {
        return;
    }
    if ended == Ended::Refused || has_more(&mut socket).await {
        Box::pin(linger(socket)).await;
    }
}

/// What is to be done with a connection when hyper is done with it.
enum Outcome {
    /// It has ended. The token is held until what was sent last has left.
    Ended(Ended, Option<TaskTrackerToken>),
    /// What is left of it is a stream.
    Stream(Box<Taken>),
}

/// How a connection came to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Well,
    /// The client sent what is no request: it may still be sending.
    Refused,
    /// Nobody is there.
    Gone,
}

/// A stream, and what stands before it.
struct Taken {
    head: BytesMut,
    stream: EventStream,
    under_way: TaskTrackerToken,
}

/// Answers requests until the connection ends or a stream is all that is left of it.
async fn answer_requests<S>(io: S, visit: &Visit) -> (S, Outcome)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Held until the connection has ended, if its answer is its last.
    let last_answer = Arc::new(OnceLock::new());
    let taken = Arc::new(Mutex::new(None));
    let (slot, held) = (Arc::clone(&taken), Arc::clone(&last_answer));
    // What hyper has not sent of an earlier answer would be lost with it.
    let is_first = Cell::new(true);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let handover = Arc::new(Handover::default());
        let is_plain = request.version() == Version::HTTP_11 && request.method() == Method::GET;
        if is_first.replace(false) && is_plain {
            request.extensions_mut().insert(Arc::clone(&handover));
        }
        let answer = visit.answer(request);
        let (slot, held) = (Arc::clone(&slot), Arc::clone(&held));
        // Boxed, as hyper lets go of a socket without closing it only then.
        Box::pin(async move {
            let Ok(response) = answer.await;
            let under_way = response.body().under_way();
            if let Some(stream) = handover.take() {
                let (head, _) = response.into_parts();
                let taken = Taken {
                    head: written(&head),
                    stream,
                    under_way,
                };
                *lock(&slot) = Some(Box::new(taken));
                return pending().await;
            }
            let close = response.headers().get(CONNECTION);
            if close.is_some_and(|value| value == "close") {
                held.get_or_init(|| under_way);
            }
            Ok::<_, Infallible>(response)
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(visit.welcome.head_timeout())
        .max_buf_size(HYPER_BUFFER_BYTES)
        .serve_connection(TokioIo::new(io), service);
    let ended = poll_fn(|context| match connection.poll_without_shutdown(context) {
        Poll::Pending if lock(&taken).is_some() => Poll::Ready(None),
        ended => ended.map(Some),
    })
    .await;
    let socket = connection.into_parts().io.into_inner();
    if let Some(taken) = lock(&taken).take() {
        return (socket, Outcome::Stream(taken));
    }
    let ended = match ended {
        None | Some(Ok(())) => Ended::Well,
        Some(Err(error)) => {
            // Clients come and go as they like; only this connection is told.
            tracing::debug!(peer = %visit.link.peer, %error, "connection ended");
            match error.is_parse() {
                true => Ended::Refused,
                false => Ended::Gone,
            }
        }
    };
    (socket, Outcome::Ended(ended, last_answer.get().cloned()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The head of an answer whose body comes in chunks, as hyper would write it.
fn written(head: &response::Parts) -> BytesMut {
    let mut text = Vec::with_capacity(512);
    // Writing into memory does not fail.
    drop(write!(text, "HTTP/1.1 {}\r\n", head.status));
    for (name, value) in &head.headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    let date = httpdate::fmt_http_date(SystemTime::now());
    drop(write!(
        text,
        "transfer-encoding: chunked\r\ndate: {date}\r\n\r\n"
    ));
    BytesMut::from(&*text)
}

/// Sends a stream until it ends (`Ok`), or its client goes or takes nothing for too long.
struct Writing<'a, S> {
    socket: &'a mut S,
    stream: EventStream,
    /// What stands before the first bytes of the stream, and is sent with them.
    head: Option<BytesMut>,
    unsent: Bytes,
    /// What is unsent is all there is: the stream wakes the task when there is more.
    is_all: bool,
    /// The stream has ended; what is unsent is the last.
    is_last: bool,
    /// How much the client sent that nobody asked for.
    ignored: usize,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Writing<'a, S> {
    fn new(socket: &'a mut S, head: BytesMut, stream: EventStream) -> Self {
        Self {
            socket,
            stream,
            head: Some(head),
            unsent: Bytes::new(),
            is_all: false,
            is_last: false,
            ignored: 0,
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.unsent.is_empty() {
                let written = Pin::new(&mut *self.socket).poll_write(context, &self.unsent);
                let Poll::Ready(sent) = written else {
                    // By the time it is sent there may be more.
                    self.is_all = false;
                    return Poll::Pending;
                };
                let sent = sent?;
                if sent == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.unsent.advance(sent);
            }
            if self.is_last {
                return Pin::new(&mut *self.socket).poll_flush(context);
            }
            if std::mem::take(&mut self.is_all) {
                ready!(Pin::new(&mut *self.socket).poll_flush(context))?;
                return Poll::Pending;
            }
            match self.stream.poll_bytes(context, Framing::Chunked) {
                Poll::Ready(Some(bytes)) => {
                    self.unsent = match self.head.take() {
                        None => bytes,
                        Some(mut head) => {
                            head.extend_from_slice(&bytes);
                            head.freeze()
                        }
                    };
                    self.is_all = self.stream.has_told_all();
                }
                Poll::Ready(None) => {
                    self.unsent = Bytes::from_static(LAST_CHUNK);
                    self.is_last = true;
                }
                Poll::Pending => self.is_all = true,
            }
        }
    }

    /// Ready when the client has closed its side: nobody reads a stream any more. Whatever it sends is ignored, up to a bound.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ignored < HYPER_BUFFER_BYTES {
            let mut bytes = [0; 256];
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut *self.socket).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.ignored += buffer.filled().len();
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Writing<'_, S> {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.poll_send(context) {
            Poll::Pending => this.poll_gone(context),
            ended => ended,
        }
    }
}
