//! RabbitMQ's own way to browsers: the Web-STOMP plugin, a queue for each client. Its processor time is the whole node's, as
//! the plugin lives in it; what the node does for the other servers is not in theirs.

use std::net::SocketAddr;

use lapin::ExchangeKind;
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;

use crate::harness::{PASSWORD, RabbitMq, USER};
use crate::orders::Protocol;
use crate::publisher::{Amqp, Publisher};
use crate::server::Server;

/// A node of its own with the plugin, whose clients are all subscribed to one routing key.
pub async fn web_stomp() -> Server {
    let node = RabbitMq::private_with_web_stomp().await;
    let vhost = node.vhost();
    let connection = vhost.connect().await;
    let channel = connection.create_channel().await.expect("a channel");
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let declared = channel.exchange_declare(
        "events.topic".into(),
        ExchangeKind::Topic,
        options,
        FieldTable::default(),
    );
    declared.await.expect("an exchange");
    let address = SocketAddr::from(([127, 0, 0, 1], node.second_port()));
    super::listens("Web-STOMP", address).await;
    Server {
        name: "Web-STOMP".to_owned(),
        pids: vec![node.pid()],
        address,
        protocol: Protocol::WebStomp {
            vhost: vhost.name().to_owned(),
            user: USER.to_owned(),
            password: PASSWORD.to_owned(),
            destination: "/exchange/events.topic/team.0.n".to_owned(),
        },
        publisher: Publisher::Amqp(Amqp::connect(&vhost, "events.topic", "team.0.n", 1).await),
        _kept: Box::new(node),
    }
}
