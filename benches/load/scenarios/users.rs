//! Each client is a user of its own, and each event is for one of them: what an event costs must not depend on how many
//! others are connected.

use crate::publisher::{Load, Pace};
use crate::server::{Audience, Server};
use crate::table::{Row, Target};
use crate::trial::{Contestant, Recipients, Trial, in_turns, median};

const FEW: usize = 100;
const MANY: usize = 10_000;

pub async fn users() -> Vec<Row> {
    let load = Load {
        events: 25_000,
        pace: Pace::PerSecond(5_000),
        bytes: 200,
    };
    let mut contestants = Vec::new();
    for clients in [MANY, FEW] {
        let server = Server::bridge(&Audience::users(clients), &[]).await;
        contestants.push(
            Contestant::new(server, clients, 0)
                .await
                .expect("all are served"),
        );
    }
    let trials = in_turns(&mut contestants, &load, Recipients::One, 3).await;
    let [many, few] =
        [&trials[0], &trials[1]].map(|trials| median(trials, Trial::cpu_per_delivery));
    vec![Row {
        scenario: "users-10000".to_owned(),
        figure: "CPU per addressed event, 5,000 events/s".to_owned(),
        measured: format!("{many:.2} us"),
        against: format!("with {FEW} clients {few:.2} us"),
        ratio: Some(many / few),
        target: Some(Target::AtMost(1.5)),
    }]
}
