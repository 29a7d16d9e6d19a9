//! One HTTP/2 connection (RFC 9113): many streams over one socket, all of them parts of one task, so that they end with
//! it. Its bounds suit event streams: few requests, small ones, answers without end.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::header::CONNECTION;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::chatter::Bounded;
use super::server::{Answer, HYPER_BUFFER_BYTES, LINGER, Visit, Welcome, linger};
use crate::transport::sse::Link;

/// Streams that one connection may hold. A browser shares one connection among all tabs of an origin.
const MAX_STREAMS: u32 = 100;

/// How often the other end must prove that it is there, and how long it may take over it.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What a client may send before it is read: requests are small, and a body is read at once or not at all.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;

/// What is held of one stream whose client takes nothing.
const SEND_BUFFER_BYTES: usize = 32 * 1024;

/// Streams that a client opened and reset before they were looked at, and errors of its that were answered with a reset:
/// more of either ends the connection (CVE-2023-44487, CVE-2025-8671).
const MAX_RESETS: usize = 20;

/// How long an ending connection may take once its last stream has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves one connection to its end.
pub(super) async fn serve<S>(io: S, visit: Visit)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut io = Bounded::new(io);
    let under_way = converse(&mut io, &visit).await;
    // A client answers to the last that it is told. Were the socket closed by then, it would be reset, and what still waits
    // in it for the client be lost.
    let farewell = Box::pin(async {
        if io.shutdown().await.is_ok() {
            linger(&mut io).await;
        }
    });
    drop(timeout(LINGER, farewell).await);
    drop(under_way);
}

/// Answers requests until the connection ends. What it gives back holds the process until the last was sent.
async fn converse<S>(io: S, visit: &Visit) -> Option<TaskTrackerToken>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let flow = Arc::new(Flow::default());
    let begun = Begun::default();
    let requests = {
        let (visit, flow) = (visit.clone(), Arc::clone(&flow));
        service_fn(move |request: http::Request<Incoming>| {
            let (answer, flow) = (visit.answer(request), Arc::clone(&flow));
            async move {
                answer.await.map(|mut response| {
                    // Of HTTP/1.1 only: here streams end, not connections (RFC 9113 §8.2.2).
                    response.headers_mut().remove(CONNECTION);
                    response.map(|body| Observed { body, flow })
                })
            }
        })
    };
    let mut connection = std::pin::pin!(
        http2::Builder::new(begun.clone())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_header_list_size(HEADER_LIST_BYTES)
            .max_pending_accept_reset_streams(MAX_RESETS)
            .max_local_error_reset_streams(MAX_RESETS)
            .serve_connection(TokioIo::new(io), requests)
    );
    let mut streams = FuturesUnordered::new();
    let mut stopping = std::pin::pin!(visit.served.closing.stopping());
    let mut is_stopping = false;
    let mut is_closing = false;
    let is_told = visit.welcome == Welcome::Told;
    // Runs while there is no stream: nobody holds a connection open for nothing. Of who is only told, from the first answer on.
    let mut idle = std::pin::pin!(sleep(visit.welcome.head_timeout()));
    // Held from the first stream on: what was sent at the end may still wait in the connection when its streams are gone.
    let mut under_way = None;
    let ended = poll_fn(|context| {
        if !is_stopping && stopping.as_mut().poll(context).is_ready() {
            is_stopping = true;
            under_way.get_or_insert_with(|| visit.served.streams.token());
            connection.as_mut().graceful_shutdown();
            if streams.is_empty() {
                idle.as_mut().reset(Instant::now() + LAST_WORDS);
            }
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                return Poll::Ready(ended);
            }
            let mut moved = false;
            for stream in begun.take() {
                under_way.get_or_insert_with(|| visit.served.streams.token());
                streams.push(Stream {
                    work: Some(stream),
                    flow: Arc::clone(&flow),
                    link: Arc::clone(&visit.link),
                    stall: visit.served.limits.stall,
                    blocked: false,
                    waiting: None,
                });
                moved = true;
            }
            while let Poll::Ready(Some(())) = streams.poll_next_unpin(context) {
                moved = true;
                if is_told {
                    // Whatever else its client asks for, and whether or not it heeds that the connection ends.
                    if !is_closing {
                        is_closing = true;
                        connection.as_mut().graceful_shutdown();
                        idle.as_mut().reset(Instant::now() + LAST_WORDS);
                    }
                } else if streams.is_empty() {
                    let patience = if is_stopping {
                        LAST_WORDS
                    } else {
                        visit.welcome.head_timeout()
                    };
                    idle.as_mut().reset(Instant::now() + patience);
                }
            }
            if !moved {
                break;
            }
        }
        let may_end = streams.is_empty() || (is_told && is_closing);
        if may_end && idle.as_mut().poll(context).is_ready() {
            if is_closing || is_stopping || under_way.is_none() {
                return Poll::Ready(Ok(()));
            }
            // A last chance for a request that is on its way.
            is_closing = true;
            connection.as_mut().graceful_shutdown();
            idle.as_mut().reset(Instant::now() + LAST_WORDS);
            context.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(peer = %visit.link.peer, %error, "connection ended");
    }
    under_way
}

#[expect(clippy::cast_possible_truncation, reason = "it is small")]
const HEADER_LIST_BYTES: u32 = HYPER_BUFFER_BYTES as u32;

/// Streams that hyper has begun and that the connection's task has not taken yet.
#[derive(Clone, Default)]
struct Begun(Arc<Mutex<Vec<Work>>>);

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Begun {
    fn take(&self) -> Vec<Work> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Begun {
    fn execute(&self, stream: F) {
        let mut begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        begun.push(Box::pin(stream));
    }
}

/// What the answer's body that was asked last said. A connection's streams are asked one after the other, so that one
/// place is enough for all of them.
#[derive(Debug, Default)]
struct Flow(AtomicU8);

impl Flow {
    const SILENT: u8 = 0;
    const WAITING: u8 = 1;
    const GAVE: u8 = 2;
}

/// One request and its answer, until that has been taken.
struct Stream {
    /// Gone once the client has taken nothing for too long, and its stream with it.
    work: Option<Work>,
    flow: Arc<Flow>,
    link: Arc<Link>,
    stall: Duration,
    /// hyper holds something for which the client has no room, and so does not ask for more.
    blocked: bool,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Future for Stream {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(work) = this.work.as_mut() else {
            return Poll::Ready(());
        };
        this.flow.0.store(Flow::SILENT, Ordering::Relaxed);
        if work.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        match this.flow.0.load(Ordering::Relaxed) {
            Flow::SILENT => {}
            said => {
                this.blocked = said == Flow::GAVE;
                this.waiting = None;
            }
        }
        if !this.blocked || this.stall.is_zero() {
            return Poll::Pending;
        }
        let stall = this.stall;
        let waiting = this.waiting.get_or_insert_with(|| Box::pin(sleep(stall)));
        std::task::ready!(waiting.as_mut().poll(context));
        // Dropped, it is reset; what ends with it is told why.
        this.link.stalled.store(true, Ordering::Relaxed);
        this.work = None;
        this.link.stalled.store(false, Ordering::Relaxed);
        Poll::Ready(())
    }
}

/// An answer's body that says whether it had something when it was asked.
struct Observed {
    body: Answer,
    flow: Arc<Flow>,
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let said = if polled.is_ready() {
            Flow::GAVE
        } else {
            Flow::WAITING
        };
        self.flow.0.store(said, Ordering::Relaxed);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
