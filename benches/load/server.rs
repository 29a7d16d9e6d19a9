//! What is measured: something that carries events to clients, and who publishes to it.

use std::any::Any;
use std::net::SocketAddr;
use std::path::Path;

use super::floor::{self, Floor};
use super::harness::{Bridge, RabbitMq, Setup, Vhost, command};
use super::orders::{Protocol, Served};
use super::publisher::{Amqp, Publisher};

pub struct Server {
    pub name: String,
    /// Its processes, all of whose time and memory counts.
    pub pids: Vec<u32>,
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub publisher: Publisher,
    /// What ends with it.
    pub _kept: Box<dyn Any>,
}

/// Who listens to what: the query of client `{n}`, and the routing key of an event `{n}`, counted modulo `audiences`.
#[derive(Clone, Debug)]
pub struct Audience {
    pub query: String,
    pub topic: &'static str,
    pub audiences: u64,
}

impl Audience {
    /// All clients are one team.
    pub fn team() -> Self {
        Self {
            query: "team_id=0".to_owned(),
            topic: "team.0.n",
            audiences: 1,
        }
    }

    /// Each client is a user of its own.
    pub fn users(clients: usize) -> Self {
        Self {
            query: "user_id={n}".to_owned(),
            topic: "user.{n}.n",
            audiences: clients as u64,
        }
    }

    /// How a client of the bridge asks for it.
    pub fn protocol(&self, served: Served) -> Protocol {
        Protocol::Sse {
            target: format!("/events?{}", self.query),
            served,
        }
    }
}

/// The environment variable that names another build of the bridge.
const PROGRAM: &str = "BRIDGE_PROGRAM";

/// A bridge as a user would start it: this build, or the one that is named.
pub fn setup(vhost: &Vhost) -> Setup {
    let setup = Bridge::on(vhost);
    match std::env::var_os(PROGRAM) {
        Some(program) => setup.program(Path::new(&program)),
        None => setup,
    }
}

impl Server {
    /// The bridge as a user would start it, with a virtual host to itself and these settings.
    pub async fn bridge(audience: &Audience, settings: &[(&str, String)]) -> Self {
        let vhost = RabbitMq::shared().await.vhost();
        let setup = settings
            .iter()
            .fold(setup(&vhost), |setup, (name, value)| setup.set(name, value));
        Self::bridge_on(&vhost, &setup, audience).await
    }

    pub async fn bridge_on(vhost: &Vhost, setup: &Setup, audience: &Audience) -> Self {
        let bridge = setup.start().await;
        let publisher =
            Amqp::connect(vhost, "events.topic", audience.topic, audience.audiences).await;
        Self {
            name: "sse-bridge".to_owned(),
            pids: vec![bridge.pid()],
            address: bridge.public,
            protocol: audience.protocol(Served::Id),
            publisher: Publisher::Amqp(publisher),
            _kept: Box::new(bridge),
        }
    }

    /// The floor, for so many clients, each event sent at once or gathered in the kernel.
    pub fn floor(clients: usize, gathers: bool) -> Self {
        let program = std::env::current_exe().expect("this program has a name");
        let floor = Floor::start(command(program), clients, gathers);
        Self {
            name: if gathers { "floor, gathering" } else { "floor" }.to_owned(),
            pids: vec![floor.pid()],
            address: floor.address,
            protocol: Protocol::Sse {
                target: "/".to_owned(),
                served: Served::Head,
            },
            publisher: Publisher::Floor(floor),
            _kept: Box::new(floor::ROLE),
        }
    }
}
