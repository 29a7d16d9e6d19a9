//! A TCP proxy, in front of the broker or of the bridge, which spoils the link on cue: cut as by a reset, refused, silent
//! as by a cable pulled, dead in one direction, late, slow, or in single bytes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::run;

/// What becomes of bytes in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Open,
    /// None passes; they wait.
    Silent,
    /// Each piece comes so much later, and the next is not looked at before.
    Late(Duration),
    /// So many pass in a second.
    Slow(u32),
    /// They pass one by one, each in a packet of its own.
    Sliced,
}

/// What becomes of whoever connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Open,
    /// It is let in and reset.
    Reset,
    /// Nobody listens.
    Closed,
}

/// One way through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From who connected to who listens.
    Outward,
    /// The other.
    Inward,
}

/// What the link does now.
#[derive(Clone, Copy, Debug)]
struct Link {
    outward: Flow,
    inward: Flow,
    door: Door,
    /// Connections are numbered by it, and those of a lower number are reset.
    era: u64,
    /// Those of a lower number are silent for good: something on the way has forgotten them.
    remembered: u64,
}

impl Link {
    fn flow(&self, direction: Direction, era: u64) -> Flow {
        match direction {
            _ if era < self.remembered => Flow::Silent,
            Direction::Outward => self.outward,
            Direction::Inward => self.inward,
        }
    }
}

/// A proxy. Ends when dropped, and with it what goes through it.
pub struct Proxy {
    port: u16,
    link: Arc<watch::Sender<Link>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy to a port of loopback.
    pub async fn to(target: u16) -> Self {
        let port = run::free_port();
        let listener = listen(port).await;
        let link = Arc::new(watch::Sender::new(Link {
            outward: Flow::Open,
            inward: Flow::Open,
            door: Door::Open,
            era: 1,
            remembered: 0,
        }));
        let accepting = tokio::spawn(accept(listener, port, target, link.subscribe()));
        Self {
            port,
            link,
            accepting,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Resets what is connected, and whatever connects.
    pub fn cut(&self) {
        self.link.send_modify(|link| {
            link.door = Door::Reset;
            link.era += 1;
        });
    }

    /// Resets what is connected, and listens no more.
    pub fn refuse(&self) {
        self.link.send_modify(|link| {
            link.door = Door::Closed;
            link.era += 1;
        });
    }

    /// Lets no byte pass any more, and closes nothing.
    pub fn silence(&self) {
        self.flows(Flow::Silent, Flow::Silent);
    }

    /// Lets no byte pass in one direction, and closes nothing.
    pub fn silence_one(&self, direction: Direction) {
        match direction {
            Direction::Outward => self.flows(Flow::Silent, Flow::Open),
            Direction::Inward => self.flows(Flow::Open, Flow::Silent),
        }
    }

    /// Lets bytes pass late, in both directions.
    pub fn delay(&self, by: Duration) {
        self.flows(Flow::Late(by), Flow::Late(by));
    }

    /// Lets so many bytes a second pass, in each direction of each connection.
    pub fn throttle(&self, bytes: u32) {
        self.flows(Flow::Slow(bytes), Flow::Slow(bytes));
    }

    /// Lets bytes pass one by one.
    pub fn slice(&self) {
        self.flows(Flow::Sliced, Flow::Sliced);
    }

    /// Lets bytes pass as they come again, those that waited first: a cable plugged in again.
    pub fn heal(&self) {
        self.flows(Flow::Open, Flow::Open);
    }

    /// What is connected is silent for good, what connects from now on passes: a firewall that has forgotten its
    /// connections.
    pub fn forget(&self) {
        self.link.send_modify(|link| {
            (link.outward, link.inward) = (Flow::Open, Flow::Open);
            link.era += 1;
            link.remembered = link.era;
        });
    }

    /// Resets what is connected, and lets new connections through.
    pub fn restore(&self) {
        self.link.send_modify(|link| {
            (link.outward, link.inward) = (Flow::Open, Flow::Open);
            link.door = Door::Open;
            link.era += 1;
            link.remembered = 0;
        });
    }

    fn flows(&self, outward: Flow, inward: Flow) {
        self.link
            .send_modify(|link| (link.outward, link.inward) = (outward, inward));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.link.send_modify(|link| {
            link.door = Door::Closed;
            link.era += 1;
            link.remembered = 0;
        });
    }
}

async fn listen(port: u16) -> TcpListener {
    TcpListener::bind(("127.0.0.1", port))
        .await
        .expect("a port of loopback that was free")
}

async fn accept(
    mut listener: TcpListener,
    port: u16,
    target: u16,
    mut link: watch::Receiver<Link>,
) {
    loop {
        let closed = async |link: &mut watch::Receiver<Link>| {
            link.wait_for(|link| link.door == Door::Closed)
                .await
                .is_ok()
        };
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((near, _)) = accepted {
                    tokio::spawn(carry(near, target, link.clone()));
                }
            }
            _ = closed(&mut link) => {
                drop(listener);
                if link.wait_for(|link| link.door != Door::Closed).await.is_err() {
                    return;
                }
                listener = listen(port).await;
            }
        }
    }
}

async fn carry(mut near: TcpStream, target: u16, mut link: watch::Receiver<Link>) {
    let (era, door) = {
        let link = link.borrow_and_update();
        (link.era, link.door)
    };
    if door != Door::Open {
        reset(&near);
        return;
    }
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", target)).await else {
        // As it would be without a proxy, or nearly: refused.
        reset(&near);
        return;
    };
    near.set_nodelay(true).expect("a socket's option");
    far.set_nodelay(true).expect("a socket's option");
    let ended = {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        let passing = async {
            let outward = pump(near_read, far_write, link.clone(), Direction::Outward, era);
            let inward = pump(far_read, near_write, link.clone(), Direction::Inward, era);
            tokio::try_join!(outward, inward)
        };
        let mut cut = link.clone();
        let is_cut = |link: &Link| link.era > era && era >= link.remembered;
        tokio::select! {
            ended = passing => ended.is_ok(),
            _ = cut.wait_for(is_cut) => false,
        }
    };
    if !ended {
        reset(&near);
        reset(&far);
    }
}

/// Closes with a reset when it is dropped.
fn reset(socket: &TcpStream) {
    // Where the other side was faster, there is nothing left to reset.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Carries one direction of a connection, to its end; an error ends both.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut link: watch::Receiver<Link>,
    direction: Direction,
    era: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        open(&mut link, direction, era).await;
        let length = from.read(&mut buffer).await?;
        // What was read when the link had fallen silent waits.
        let flow = open(&mut link, direction, era).await;
        let bytes = &buffer[..length];
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        match flow {
            Flow::Open | Flow::Silent => to.write_all(bytes).await?,
            Flow::Late(by) => {
                sleep(by).await;
                to.write_all(bytes).await?;
            }
            Flow::Slow(rate) => {
                // Twenty times a second, so that it is slow and not merely late.
                let piece = usize::try_from(rate / 20).expect("small").max(1);
                for piece in bytes.chunks(piece) {
                    to.write_all(piece).await?;
                    if link.borrow().flow(direction, era) == flow {
                        sleep(Duration::from_millis(50)).await;
                    }
                }
            }
            Flow::Sliced => {
                for byte in bytes.chunks(1) {
                    to.write_all(byte).await?;
                }
            }
        }
    }
}

/// Waits until bytes pass, and says how.
async fn open(link: &mut watch::Receiver<Link>, direction: Direction, era: u64) -> Flow {
    let silent = |link: &Link| link.flow(direction, era) == Flow::Silent;
    match link.wait_for(|link| !silent(link)).await {
        Ok(link) => link.flow(direction, era),
        // The proxy is gone, and this connection with it.
        Err(_) => Flow::Open,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::{Instant, timeout};

    use super::{Direction, Proxy};
    use crate::harness::{SOON, within};

    /// Long enough that a byte would have come.
    const A_WHILE: Duration = Duration::from_millis(200);

    /// A proxy, and what listens behind it.
    async fn proxy() -> (Proxy, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        (Proxy::to(port).await, listener)
    }

    /// A connection through the proxy: both its ends.
    async fn connect(proxy: &Proxy, listener: &TcpListener) -> (TcpStream, TcpStream) {
        let connecting = async {
            let near = TcpStream::connect(("127.0.0.1", proxy.port()))
                .await
                .expect("it listens");
            (near, listener.accept().await.expect("it connects").0)
        };
        within("a connection", SOON, connecting).await
    }

    async fn passes(from: &mut TcpStream, to: &mut TcpStream) {
        from.write_all(b"x").await.expect("a write");
        assert_eq!(
            within("a byte", SOON, to.read_u8()).await.expect("a read"),
            b'x'
        );
    }

    async fn waits(from: &mut TcpStream, to: &mut TcpStream) {
        from.write_all(b"x").await.expect("a write");
        assert!(timeout(A_WHILE, to.read_u8()).await.is_err());
    }

    #[tokio::test]
    async fn what_is_cut_or_refused_is_reset_and_what_comes_then_too_until_it_is_restored() {
        for refuse in [false, true] {
            let (proxy, listener) = proxy().await;
            let (mut near, mut far) = connect(&proxy, &listener).await;
            passes(&mut near, &mut far).await;
            passes(&mut far, &mut near).await;
            if refuse {
                proxy.refuse();
            } else {
                proxy.cut();
            }
            for end in [&mut near, &mut far] {
                let error = within("an end", SOON, end.read_u8())
                    .await
                    .expect_err("a reset");
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            }
            crate::harness::eventually("nobody gets through", SOON, async || {
                match TcpStream::connect(("127.0.0.1", proxy.port())).await {
                    Ok(mut near) => (!refuse && near.read_u8().await.is_err()).then_some(()),
                    Err(_) => refuse.then_some(()),
                }
            })
            .await;
            proxy.restore();
            crate::harness::eventually("the door is open again", SOON, async || {
                TcpStream::connect(("127.0.0.1", proxy.port())).await.ok()
            })
            .await;
        }
    }

    #[tokio::test]
    async fn what_waited_while_it_was_silent_comes_when_it_heals() {
        let (proxy, listener) = proxy().await;
        let (mut near, mut far) = connect(&proxy, &listener).await;
        proxy.silence();
        waits(&mut near, &mut far).await;
        waits(&mut far, &mut near).await;
        proxy.heal();
        for end in [&mut near, &mut far] {
            assert_eq!(
                within("the byte", SOON, end.read_u8())
                    .await
                    .expect("a read"),
                b'x'
            );
        }
    }

    #[tokio::test]
    async fn one_direction_can_be_dead_and_the_other_alive() {
        let (proxy, listener) = proxy().await;
        let (mut near, mut far) = connect(&proxy, &listener).await;
        proxy.silence_one(Direction::Inward);
        passes(&mut near, &mut far).await;
        waits(&mut far, &mut near).await;
        proxy.heal();
        within("the byte", SOON, near.read_u8())
            .await
            .expect("a read");
        proxy.silence_one(Direction::Outward);
        passes(&mut far, &mut near).await;
        waits(&mut near, &mut far).await;
    }

    #[tokio::test]
    async fn what_is_forgotten_stays_silent_and_what_is_new_passes() {
        let (proxy, listener) = proxy().await;
        let (mut near, mut far) = connect(&proxy, &listener).await;
        proxy.forget();
        waits(&mut near, &mut far).await;
        let (mut new_near, mut new_far) = connect(&proxy, &listener).await;
        passes(&mut new_near, &mut new_far).await;
        proxy.heal();
        waits(&mut far, &mut near).await;
    }

    #[tokio::test]
    async fn late_slow_and_sliced_bytes_all_come() {
        let (proxy, listener) = proxy().await;
        let (mut near, mut far) = connect(&proxy, &listener).await;
        let mut came = [0; 1000];
        for (spoil, at_least) in [
            (
                &(|proxy: &Proxy| proxy.delay(A_WHILE)) as &dyn Fn(&Proxy),
                A_WHILE,
            ),
            (&|proxy: &Proxy| proxy.throttle(4000), A_WHILE),
            (&|proxy: &Proxy| proxy.slice(), Duration::ZERO),
        ] {
            spoil(&proxy);
            let began = Instant::now();
            near.write_all(&[7; 1000]).await.expect("a write");
            within("all bytes", SOON, far.read_exact(&mut came))
                .await
                .expect("a read");
            assert_eq!(came, [7; 1000]);
            assert!(began.elapsed() >= at_least, "{:?}", began.elapsed());
        }
    }

    #[tokio::test]
    async fn half_a_close_is_half_a_close_behind_it_too() {
        let (proxy, listener) = proxy().await;
        let (mut near, mut far) = connect(&proxy, &listener).await;
        near.shutdown().await.expect("half a close");
        let mut rest = Vec::new();
        within("the end", SOON, far.read_to_end(&mut rest))
            .await
            .expect("no reset");
        passes(&mut far, &mut near).await;
    }
}
