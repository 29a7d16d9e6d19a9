//! A TCP proxy in front of the broker, which breaks the link on cue: cut as by a reset, or silent as by a cable pulled.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the link does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Bytes pass.
    Open,
    /// Connections stand, and new ones are taken, but no byte passes.
    Silent,
    /// Connections are dropped, new ones too.
    Cut,
}

/// A proxy. Ends when dropped.
pub struct Proxy {
    port: u16,
    link: Arc<watch::Sender<Link>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy to a port of loopback.
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port of loopback");
        let port = listener
            .local_addr()
            .expect("a bound listener has an address")
            .port();
        let link = Arc::new(watch::Sender::new(Link::Open));
        let state = Arc::clone(&link);
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, target, state.subscribe()));
            }
        });
        Self {
            port,
            link,
            accepting,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Drops what is connected, and whatever connects.
    pub fn cut(&self) {
        self.link.send_replace(Link::Cut);
    }

    /// Lets no byte pass any more, and closes nothing.
    pub fn silence(&self) {
        self.link.send_replace(Link::Silent);
    }

    /// Drops what is connected under another state, and lets new connections through.
    pub fn restore(&self) {
        self.link.send_replace(Link::Cut);
        self.link.send_replace(Link::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.link.send_replace(Link::Cut);
    }
}

async fn carry(near: TcpStream, target: u16, mut link: watch::Receiver<Link>) {
    if *link.borrow_and_update() == Link::Cut {
        return;
    }
    let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let outward = tokio::spawn(pump(near_read, far_write, link.clone()));
    let inward = tokio::spawn(pump(far_read, near_write, link.clone()));
    // A connection lives in one state, and may fall silent; every other change ends it.
    while link.changed().await.is_ok() {
        if *link.borrow_and_update() != Link::Silent {
            break;
        }
    }
    outward.abort();
    inward.abort();
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut link: watch::Receiver<Link>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let open = link.wait_for(|link| *link == Link::Open).await.is_ok();
        let length = from.read(&mut buffer).await.unwrap_or(0);
        let still_open = *link.borrow() == Link::Open;
        if !open || length == 0 {
            return;
        }
        if still_open && to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
