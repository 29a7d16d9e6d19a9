//! Ten thousand browsers.

use crate::harness::{Bridge, Message, RabbitMq, Swarm};

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_clients_connected_at_once_are_all_served() {
    const COUNT: usize = 10_000;
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost).start().await;
    let mut swarm = Swarm::connect(&bridge, COUNT, "team_id=7").await;
    assert_eq!(swarm.len(), COUNT);
    assert_eq!(
        bridge
            .metric("sse_bridge_connections{transport=\"sse\"}")
            .await,
        COUNT as f64
    );
    let producer = vhost.producer().await;
    for round in 0..3 {
        producer
            .publish(Message::to("team.7.x", round.to_string()))
            .await;
        swarm.each_receives(&round.to_string()).await;
    }
    drop(swarm);
    bridge
        .wait_metric("sse_bridge_connections{transport=\"sse\"}", |count| {
            count == 0.0
        })
        .await;
}
