//! The bridge that teams write by hand: FastAPI, aio-pika, uvicorn, one process.

use std::net::SocketAddr;
use std::path::Path;

use super::Peer;
use crate::harness::{RabbitMq, command, free_port};
use crate::orders::{Protocol, Served};
use crate::publisher::{Amqp, Publisher};
use crate::server::Server;

pub async fn fastapi() -> Server {
    let vhost = RabbitMq::shared().await.vhost();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let port = free_port();
    let process = command(folder.join("target/peers-venv/bin/python"))
        .args([
            "-m",
            "uvicorn",
            "--host",
            "127.0.0.1",
            "--port",
            &port.to_string(),
        ])
        .args([
            "--backlog",
            "65535",
            "--log-level",
            "warning",
            "--no-access-log",
        ])
        .args(["--timeout-graceful-shutdown", "1"])
        .arg("--app-dir")
        .arg(folder.join("benches/peers"))
        .arg("fastapi_bridge:app")
        .env("RABBITMQ_URL", vhost.url())
        .spawn()
        .expect("`make bench-peers` installs it");
    let pid = process.id();
    let kept = Peer(process);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    super::listens("uvicorn", address).await;
    Server {
        name: "FastAPI + aio-pika".to_owned(),
        pids: vec![pid],
        address,
        protocol: Protocol::Sse {
            target: "/events?team_id=0".to_owned(),
            served: Served::Head,
        },
        publisher: Publisher::Amqp(Amqp::connect(&vhost, "events.topic", "team.0.n", 1).await),
        _kept: Box::new(kept),
    }
}
