//! The listener: our own loop over hyper, because what makes a storm of reconnects bearable (a long backlog, small
//! buffers, a bound on what the kernel holds for a client that reads nothing) is not to be had from `axum::serve`.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use prometheus::IntGauge;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::ServiceExt;

use super::connection::Connection;
use super::proxies::TrustedProxies;
use super::rate::ConnectionRate;
use super::tls::{self, Tls};
use super::{http1, http2};
use crate::faults::FaultLog;
use crate::lifecycle::{Lifecycle, Stage};
use crate::metrics::Metrics;
use crate::transport::sse::Link;
use crate::transport::{ClientAddress, Limits, Seat};

/// Connections that the kernel holds until they are accepted. It takes the lesser of this and `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// What the kernel may hold for a client that reads nothing, in bytes; Linux doubles it. Left alone it grows to
/// megabytes, which would stand between a slow client and the news that it is slow.
const SEND_BUFFER_BYTES: usize = 32 * 1024;

/// The largest head of a request, and about what hyper holds of an answer.
pub(super) const HYPER_BUFFER_BYTES: usize = 16 * 1024;

/// How long a client may take over the head of a request, the first or the next, and over a TLS handshake before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the listener rests when the kernel has no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// As long, where the client is only told that it is one too many: those who say nothing must not keep others from being told.
const TOLD_HEAD_TIMEOUT: Duration = Duration::from_secs(1);

/// How long what a client still sends is read after the last that it was told, and how much of it: a socket that is closed
/// with bytes unread is reset, and the reset can overtake what was told.
pub(super) const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// Connections over a limit that are told so, at one time; more are closed without a word. They take of the descriptors
/// that are kept for other things.
const TOLD_OVER_LIMIT: usize = 16;

/// A bound port and what answers there.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    router: Router,
    limits: ServerLimits,
    metrics: Arc<Metrics>,
    tls: Option<Arc<Tls>>,
}

/// What a listener's clients may take, and where they are counted.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// How many there may be, if that is bounded.
    pub room: Option<Room>,
    /// How fast they may come, if that is bounded.
    pub pace: Option<Pace>,
    /// How many one address may hold, if that is bounded.
    pub share: Option<Share>,
    /// Who is believed about whom a request is from.
    pub proxies: TrustedProxies,
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

/// How fast connections of one address may come: of a client behind a trusted proxy, its requests.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Counts them.
    pub rate: Arc<ConnectionRate>,
    /// What answers those that come too fast.
    pub when_over: Router,
}

/// How many connections one address may hold, whatever it does with them: who holds one without a stream takes a place in
/// [`Room`] too. A trusted proxy's are not counted.
#[derive(Clone, Debug)]
pub struct Share {
    /// Counts them.
    pub places: Limits,
    /// What answers those that are one too many.
    pub when_over: Router,
}

impl Server {
    /// Binds a port. Connections wait there until [`Server::run`]. With `tls`, nothing is served there in the clear.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn bind(
        address: SocketAddr,
        router: Router,
        limits: ServerLimits,
        metrics: Arc<Metrics>,
        tls: Option<Arc<Tls>>,
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
            tls,
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
            tls,
        } = self;
        let mut connections = JoinSet::new();
        let mut faults = FaultLog::default();
        let mut stopping = std::pin::pin!(closing.stopping());
        let served = Arc::new(Served {
            router,
            limits,
            metrics,
            tls,
            telling: Arc::new(Semaphore::new(TOLD_OVER_LIMIT)),
            streams: lifecycle.streams.clone(),
            closing,
        });
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
                    pause_after(&error, &mut faults).await;
                    continue;
                }
            };
            // Those that have ended make room, whether or not their end was looked at yet.
            while connections.try_join_next().is_some() {}
            let Some(admission) = served.admit(peer.ip(), connections.len()) else {
                continue;
            };
            let place = served.limits.sockets.clone().map(Place::take);
            if let Err(error) = tune(&socket, served.limits.stall) {
                tracing::debug!(%peer, %error, "cannot set the options of a socket; its client has gone");
                continue;
            }
            let visit = Visit {
                served: Arc::clone(&served),
                router: admission.router,
                link: Arc::new(Link::new(peer)),
                welcome: admission.welcome,
            };
            connections.spawn(async move {
                visit.serve(socket).await;
                drop((place, admission.held));
            });
        }
        drop(listener);
        lifecycle.doors.stopping().await;
    }
}

impl ServerLimits {
    /// The seat of one more connection beside those that are there, where those of an address are counted.
    fn seat(&self, peer: IpAddr, present: usize) -> Result<Option<Seat>, Over<'_>> {
        if let Some(room) = &self.room
            && present >= room.connections
        {
            return Err(Over {
                limit: "connection_limit",
                answer: &room.when_full,
            });
        }
        if self.proxies.contains(peer) {
            return Ok(None);
        }
        let client = ClientAddress::of(peer);
        if let Some(pace) = &self.pace
            && !pace.rate.admits(client, Instant::now())
        {
            return Err(Over {
                limit: "address_rate",
                answer: &pace.when_over,
            });
        }
        let Some(share) = &self.share else {
            return Ok(None);
        };
        let taken = share.places.take(None, client);
        taken.map(Some).map_err(|_| Over {
            limit: "address_limit",
            answer: &share.when_over,
        })
    }
}

/// A limit that a connection is over.
struct Over<'a> {
    /// As it is counted.
    limit: &'static str,
    answer: &'a Router,
}

/// How a connection is received.
struct Admission {
    router: Router,
    welcome: Welcome,
    /// What the connection holds as long as it lasts: its seat, or its permit to be told.
    held: (Option<Seat>, Option<OwnedSemaphorePermit>),
}

/// What all connections of a listener share.
#[derive(Debug)]
pub(super) struct Served {
    router: Router,
    pub(super) limits: ServerLimits,
    metrics: Arc<Metrics>,
    tls: Option<Arc<Tls>>,
    /// Permits to be told of a limit.
    telling: Arc<Semaphore>,
    /// Holds what was not sent to its end.
    pub(super) streams: Stage,
    /// Stops when no more requests are taken.
    pub(super) closing: Stage,
}

/// One connection.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    pub(super) served: Arc<Served>,
    router: Router,
    pub(super) link: Arc<Link>,
    pub(super) welcome: Welcome,
}

/// What a connection is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Welcome {
    /// For whatever its client asks.
    In,
    /// For one answer, after which it makes room for the next that is to be told.
    Told,
}

impl Welcome {
    /// How long its client may take over the head of each request, and over a TLS handshake before the first.
    pub(super) const fn head_timeout(self) -> Duration {
        match self {
            Self::In => HEAD_TIMEOUT,
            Self::Told => TOLD_HEAD_TIMEOUT,
        }
    }
}

impl Served {
    /// How one more connection is received beside those that are there; none if it is closed without a word.
    fn admit(&self, peer: IpAddr, present: usize) -> Option<Admission> {
        let over = match self.limits.seat(peer, present) {
            Ok(seat) => {
                return Some(Admission {
                    router: self.router.clone(),
                    welcome: Welcome::In,
                    held: (seat, None),
                });
            }
            Err(over) => over,
        };
        self.refused(over.limit);
        let permit = Arc::clone(&self.telling).try_acquire_owned().ok()?;
        Some(Admission {
            router: over.answer.clone(),
            welcome: Welcome::Told,
            held: (None, Some(permit)),
        })
    }

    fn refused(&self, limit: &str) {
        self.metrics.connections_refused.of(limit).inc();
    }

    /// Who sends a request, and whether that one comes too fast: where it is no trusted proxy that brings it, that was
    /// asked when it connected.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> (ClientAddress, Option<&Pace>) {
        let limits = &self.limits;
        if !limits.proxies.contains(peer) {
            return (ClientAddress::of(peer), None);
        }
        let client = ClientAddress::of(limits.proxies.client(peer, headers));
        let over = limits
            .pace
            .as_ref()
            .filter(|pace| !pace.rate.admits(client, Instant::now()));
        (client, over)
    }
}

impl Visit {
    /// From its first byte to its last.
    async fn serve(self, socket: TcpStream) {
        let connection = Connection::new(
            socket,
            Arc::clone(&self.link),
            self.served.limits.stall,
            self.served.metrics.delivery_seconds.clone(),
        );
        match &self.served.tls {
            None => http1::serve(connection, &self).await,
            // Apart, so that a connection in the clear does not take the memory of one in TLS.
            Some(tls) => Box::pin(self.serve_tls(tls, connection)).await,
        }
    }

    async fn serve_tls(&self, tls: &Tls, connection: Connection) {
        let shaking = tls.acceptor().accept(connection);
        // Both are boxed, so that a connection holds its session once, and nothing of the handshake.
        let stream = match Box::pin(timeout(self.welcome.head_timeout(), shaking)).await {
            Ok(Ok(stream)) => Box::new(stream),
            Ok(Err(error)) => {
                tracing::debug!(peer = %self.link.peer, %error, "TLS handshake failed");
                return;
            }
            Err(_) => {
                tracing::debug!(peer = %self.link.peer, "TLS handshake took too long");
                return;
            }
        };
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() == Some(tls::HTTP2) {
            Box::pin(http2::serve(stream, self.clone())).await;
        } else {
            http1::serve(stream, self).await;
        }
    }

    /// Answers one request.
    pub(super) fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Answer>, Infallible>> + Send + use<> {
        let mut request = request.map(Body::new);
        let (client, over) = self.served.client(self.link.peer.ip(), request.headers());
        let router = match over {
            None => &self.router,
            Some(pace) => {
                self.served.refused("address_rate");
                &pace.when_over
            }
        };
        request.extensions_mut().insert(Arc::clone(&self.link));
        request.extensions_mut().insert(client);
        let answer = router.clone().oneshot(request);
        let under_way = self.served.streams.token();
        async move {
            let response = answer.await?;
            Ok(response.map(|body| Answer { body, under_way }))
        }
    }
}

/// An answer's body, which is under way until it is dropped.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    under_way: TaskTrackerToken,
}

impl Answer {
    /// Holds the process as this answer does.
    pub(super) fn under_way(&self) -> TaskTrackerToken {
        self.under_way.clone()
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether there is something to be read, now.
pub(super) async fn has_more(mut socket: impl AsyncRead + Unpin) -> bool {
    poll_fn(|context| {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let polled = Pin::new(&mut socket).poll_read(context, &mut buffer);
        Poll::Ready(polled.is_ready() && !buffer.filled().is_empty())
    })
    .await
}

/// Reads what a client still sends, so that it gets to read what it was told last.
pub(super) async fn linger(mut socket: impl AsyncRead + Unpin) {
    let reading = async {
        let mut buffer = [0; 4096];
        let mut left = LINGER_BYTES;
        while let Ok(read) = socket.read(&mut buffer).await
            && read > 0
            && left > read
        {
            left -= read;
        }
    };
    drop(timeout(LINGER, reading).await);
}

/// A socket that streams: small writes at once (RFC 9293 §3.7.4), a bound on what waits, and an end for peers that have vanished.
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
async fn pause_after(error: &io::Error, faults: &mut FaultLog) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    ) {
        if let Some(times) = faults.note(error, Instant::now()) {
            tracing::error!(%error, times, "cannot accept a connection; is the limit of open files (ulimit -n) reached?");
        }
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
