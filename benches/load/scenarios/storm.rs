//! 15,000 clients that come at once: new ones, and those that return with their last event ids after the bridge was
//! restarted, for an event that was published meanwhile.

use crate::harness::{RabbitMq, free_port};
use crate::load_client::{LoadClient, Priority};
use crate::orders::{Connect, Connected, Protocol, Served};
use crate::publisher::{Load, Pace};
use crate::server::{self, Audience, Server};
use crate::table::{Row, Target};
use crate::trial::connect_order;

const CLIENTS: usize = 15_000;
/// Served within so many seconds of the last SYN.
const LIMIT: f64 = 2.0;
const ONE: Load = Load {
    events: 1,
    pace: Pace::PerSecond(100),
    bytes: 200,
};

pub async fn storm() -> Vec<Row> {
    let audience = Audience::team();
    let vhost = RabbitMq::shared().await.vhost();
    let setup = server::setup(&vhost).set("HTTP_BIND", format!("127.0.0.1:{}", free_port()));
    let mut server = Server::bridge_on(&vhost, &setup, &audience).await;
    // Their own work is part of what is timed, so they run as everybody does.
    let mut clients = LoadClient::start(Priority::Normal);
    // So that there is an id to return with.
    server.publisher.publish(0, &ONE, clients.complete()).await;
    let order = at_once(&server, audience.protocol(Served::Id));
    let new = clients.try_connect(order).await;

    drop(server);
    let mut publisher =
        crate::publisher::Amqp::connect(&vhost, "events.topic", audience.topic, 1).await;
    let turns = crate::publisher::Turns::new(1, &ONE, clients.complete());
    publisher.publish(turns, ONE.bytes).await;
    let server = Server::bridge_on(&vhost, &setup, &audience).await;
    let order = Connect {
        resume: true,
        ..at_once(&server, audience.protocol(Served::Event))
    };
    let returned = clients.try_connect(order).await;
    vec![
        row("new: from the last SYN until all are served", &new),
        row(
            "returning after a restart, each with the event it missed",
            &returned,
        ),
    ]
}

/// No request is sent before the last of them has asked for its connection.
fn at_once(server: &Server, protocol: Protocol) -> Connect {
    Connect {
        at_once: CLIENTS,
        protocol,
        ..connect_order(server, CLIENTS, 0)
    }
}

fn row(figure: &str, connected: &Connected) -> Row {
    let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
    let served = seconds(connected.serving_ns);
    Row {
        scenario: "connect-15000".to_owned(),
        figure: figure.to_owned(),
        measured: format!("{served:.2} s, {} of {CLIENTS} served", connected.served),
        against: format!("the SYNs took {:.2} s", seconds(connected.connecting_ns)),
        ratio: (connected.served == CLIENTS).then_some(served),
        target: Some(Target::AtMost(LIMIT)),
    }
}
