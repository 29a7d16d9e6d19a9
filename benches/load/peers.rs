//! The others, each set up as its users would: installed by `benches/tools/setup.sh`, configured here, on loopback, ended by its pid.

mod fastapi;
mod nchan;
mod web_stomp;

pub use fastapi::fastapi;
pub use nchan::{is_installed as nchan_is_installed, nchan};
pub use web_stomp::web_stomp;

use std::net::SocketAddr;
use std::process::Child;

use tokio::net::TcpStream;

use super::harness::{SOON, eventually};

/// A process of another project. It may have children, which end with it.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        use rustix::process::{Pid, Signal, kill_process};
        // It may have ended already, which is as good. One that is killed outright would leave its children.
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

async fn listens(name: &str, address: SocketAddr) {
    eventually(&format!("{name} listens"), SOON, async || {
        TcpStream::connect(address).await.ok()
    })
    .await;
}
