//! What is measured, by name. The targets are in the table that ends a run; what has no target prints itself.

mod team;
mod users;
mod idle;
mod storm;
mod ingest;
mod growth;
mod replicas;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use futures_util::FutureExt;

use super::table::{self, Row};

/// Those with targets, in the order of the table.
const WITH_TARGETS: [&str; 10] = [
    "team-1000-paced",
    "team-1000-burst",
    "team-10000",
    "users-10000",
    "idle-memory",
    "connect-15000",
    "ingest-stream",
    "ingest-quorum",
    "ingest-classic",
    "heartbeats",
];

/// Runs the scenarios with these names, or all that have targets. One that fails does not take the others' results with it.
pub fn run(names: &[&str]) -> ExitCode {
    let names = if names.is_empty() {
        &WITH_TARGETS
    } else {
        names
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let (mut rows, mut failed) = (Vec::new(), Vec::new());
        for name in names {
            println!("\n{name}");
            match AssertUnwindSafe(scenario(name)).catch_unwind().await {
                Ok(found) => rows.extend(found),
                Err(_) => failed.push(*name),
            }
        }
        if !rows.is_empty() {
            println!("\n{}", table::render(&rows));
        }
        if failed.is_empty() {
            return ExitCode::SUCCESS;
        }
        println!("failed, for the reasons above: {}", failed.join(", "));
        ExitCode::FAILURE
    })
}

async fn scenario(name: &str) -> Vec<Row> {
    if let Some(name) = name.strip_prefix("peers-") {
        let team = [team::PACED, team::BURST, team::LARGE]
            .into_iter()
            .find(|team| team.scenario == name);
        team::against_peers(&team.unwrap_or_else(|| panic!("no team {name:?}"))).await;
        return Vec::new();
    }
    if let Some(growth) = growth::all().into_iter().find(|growth| growth.name == name) {
        growth.measure().await;
        return Vec::new();
    }
    match name {
        "growth-ingest" => replicas::ingest().await,
        "growth-readers" => replicas::readers().await,
        "growth-replicas" => replicas::replicas("stream").await,
        "growth-replica-queues" => replicas::replicas("classic").await,
        _ => return with_target(name).await,
    }
    Vec::new()
}

async fn with_target(name: &str) -> Vec<Row> {
    match name {
        "team-1000-paced" => team::paced().await,
        "team-1000-burst" => team::burst().await,
        "team-10000" => team::large().await,
        "users-10000" => users::users().await,
        "idle-memory" => idle::memory().await,
        "connect-15000" => storm::storm().await,
        "ingest-stream" => ingest::ingest("stream").await,
        "ingest-quorum" => ingest::ingest("quorum").await,
        "ingest-classic" => ingest::ingest("classic").await,
        "heartbeats" => idle::heartbeats().await,
        other => panic!("there is no scenario {other:?}: {WITH_TARGETS:?}"),
    }
}
