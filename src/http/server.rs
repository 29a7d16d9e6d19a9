//! The listener: our own loop over hyper, because what makes a storm of reconnects bearable (a long backlog, small
//! buffers, a bound on what the kernel holds for a client that reads nothing) is not to be had from `axum::serve`.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::header::CONNECTION;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::IntGauge;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::connection::Connection;
use crate::lifecycle::{Lifecycle, Stage};
use crate::metrics::Metrics;
use crate::transport::sse::Link;

/// Connections that the kernel holds until they are accepted. It takes the lesser of this and `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// What the kernel may hold for a client that reads nothing, in bytes; Linux doubles it. Left alone it grows to
/// megabytes, which would stand between a slow client and the news that it is slow.
const SEND_BUFFER_BYTES: usize = 32 * 1024;

/// The largest head of a request, and about what hyper holds of an answer.
const HYPER_BUFFER_BYTES: usize = 16 * 1024;

/// How long a client may take over the head of a request, the first or the next.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the listener rests when the kernel has no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections over the limit that are told so, at one time; more are closed without a word. They take of the descriptors
/// that are kept for other things.
const TOLD_OVER_LIMIT: usize = 16;

/// A bound port and what answers there.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    router: Router,
    limits: ServerLimits,
    metrics: Arc<Metrics>,
}

/// What a listener's clients may take, and where they are counted.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// How many there may be, if that is bounded.
    pub room: Option<Room>,
    /// How long a socket may take no bytes; zero is for ever.
    pub stall: Duration,
    /// Counts connections open now, where it is given.
    pub sockets: Option<IntGauge>,
}

/// How many connections there may be.
#[derive(Clone, Debug)]
pub struct Room {
    /// In all.
    pub connections: usize,
    /// What answers those that are one too many.
    pub when_full: Router,
}

impl Server {
    /// Binds a port. Connections wait there until [`Server::run`].
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn bind(
        address: SocketAddr,
        router: Router,
        limits: ServerLimits,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from_std(socket.into())?;
        Ok(Self {
            listener,
            router,
            limits,
            metrics,
        })
    }

    /// Where it listens: the port that was chosen, where none was given.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `closing` is stopping, then accepts no more; what is connected is let go when the doors close, by
    /// when streams and answers under way have ended.
    pub async fn run(self, closing: Stage, lifecycle: Lifecycle) {
        let Self {
            listener,
            router,
            limits,
            metrics,
        } = self;
        let mut connections = JoinSet::new();
        let mut stopping = std::pin::pin!(closing.stopping());
        loop {
            let accepted = tokio::select! {
                () = &mut stopping => break,
                accepted = listener.accept() => accepted,
                // Ended connections are forgotten; a panic in one is no end of the others.
                Some(_) = connections.join_next() => continue,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            };
            let place = limits.sockets.clone().map(Place::take);
            let mut router = &router;
            if let Some(room) = limits.room.as_ref()
                && connections.len() >= room.connections
            {
                metrics.connections_refused.of("connection_limit").inc();
                if connections.len() >= room.connections + TOLD_OVER_LIMIT {
                    continue;
                }
                router = &room.when_full;
            }
            if let Err(error) = tune(&socket, limits.stall) {
                tracing::debug!(%peer, %error, "cannot set the options of a socket; its client has gone");
                continue;
            }
            let served = serve(
                socket,
                peer,
                router.clone(),
                limits.stall,
                Arc::clone(&metrics),
                lifecycle.streams.clone(),
            );
            connections.spawn(async move {
                served.await;
                drop(place);
            });
        }
        drop(listener);
        lifecycle.doors.stopping().await;
    }
}

/// One connection, from its first byte to its last.
async fn serve(
    socket: TcpStream,
    peer: SocketAddr,
    router: Router,
    stall: Duration,
    metrics: Arc<Metrics>,
    streams: Stage,
) {
    let link = Arc::new(Link::new(peer));
    let io = TokioIo::new(Connection::new(
        socket,
        Arc::clone(&link),
        stall,
        metrics.delivery_seconds.clone(),
    ));
    // Held until this connection has ended, if its answer is its last: what the client was sent at the end may still wait
    // for room in its socket when the answer's body is gone.
    let last_answer = Arc::new(OnceLock::new());
    let held = Arc::clone(&last_answer);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&link));
        let answer = router.clone().oneshot(request.map(Body::new));
        let (under_way, held) = (streams.token(), Arc::clone(&held));
        async move {
            answer.await.map(|response: Response<Body>| {
                let is_last = response
                    .headers()
                    .get(CONNECTION)
                    .is_some_and(|value| value == "close");
                if is_last {
                    held.get_or_init(|| under_way.clone());
                }
                response.map(|body| {
                    body.map_frame(move |frame| {
                        let _ = &under_way;
                        frame
                    })
                })
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HYPER_BUFFER_BYTES)
        .serve_connection(io, service);
    // Clients come and go as they like; only this connection is told.
    if let Err(error) = connection.await {
        tracing::debug!(%peer, %error, "connection ended");
    }
    drop(last_answer);
}

/// A socket that streams: small writes at once, a bound on what waits, and an end for peers that have vanished.
fn tune(socket: &TcpStream, stall: Duration) -> io::Result<()> {
    let socket = socket2::SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    if !stall.is_zero() {
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(stall))?;
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(stall)
                .with_interval(stall / 3 + Duration::from_secs(1)),
        )?;
    }
    Ok(())
}

/// A connection that went away before it was accepted costs nothing; a lack of descriptors passes as others close.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    ) {
        tracing::error!(%error, "cannot accept a connection; is the limit of open files (ulimit -n) reached?");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// A connection's place in the gauge.
struct Place(IntGauge);

impl Place {
    fn take(sockets: IntGauge) -> Self {
        sockets.inc();
        Self(sockets)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.dec();
    }
}
