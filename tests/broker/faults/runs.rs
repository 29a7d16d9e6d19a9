//! Runs in which things go wrong while events flow, each judged by its history: see the checker for what is demanded.

use super::checker::Report;
use super::fault::Fault;
use super::world::{Plan, World};

/// Lets these faults come one after the other, and judges.
async fn run(plan: Plan, faults: &[Fault]) -> Report {
    let mut world = World::start(plan).await;
    for fault in faults {
        world.suffer(*fault).await;
    }
    world.finish().await
}

fn assert_clean(report: &Report) {
    println!("{report}");
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_no_gap_is_told_where_nothing_goes_wrong() {
    let mut world = World::start(Plan::stream(1)).await;
    world.storm(20).await;
    let report = world.finish().await;
    assert_clean(&report);
    assert!(report.summary.gaps.is_empty(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_nothing_is_lost() {
    let faults = [
        Fault::BridgeKilled,
        Fault::BrokerKilled,
        Fault::BridgeKilledInMidFrame,
    ];
    assert_clean(&run(Plan::stream(2), &faults).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_them() {
    let mut world = World::start(Plan::stream(3)).await;
    for fault in Fault::ALL.iter().skip(11) {
        let began = std::time::Instant::now();
        world.suffer(*fault).await;
        println!("{} {:?}", fault.name(), began.elapsed());
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    }
    assert_clean(&world.finish().await);
}
