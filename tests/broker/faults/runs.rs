//! Runs in which things go wrong while events flow, each judged by its history: see the checker for what is demanded.
//!
//! Each prints its seed, and takes another one every time; `SOAK_SEED` repeats one. `make soak` lets the mix go on for
//! `SOAK_MINUTES`. Not here: the clock set forward while a token expires, as there are no tokens that expire yet.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::checker::{Report, Summary};
use super::fault::Fault;
use super::world::{Plan, World};

/// How long one broker and its bridges last in a soak, before it begins anew: a history in memory stays comparable, and
/// what fails can be repeated in minutes.
const ROUND: Duration = Duration::from_secs(4 * 60);

/// How long the mix lasts where nobody asks for more.
const SHORT_MIX: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_goes_wrong_no_gap_is_told_and_two_thousand_who_return_at_once_have_all_they_missed()
 {
    let mut world = World::start(Plan::stream(seed())).await;
    world.storm(2_000).await;
    let report = judge(world).await;
    assert!(report.summary.gaps.is_empty(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_or_stopped_costs_nobody_an_event() {
    let plan = Plan::stream(seed()).on_its_own_broker();
    let faults = [Fault::BrokerKilled, Fault::BrokerStopped];
    run(plan, &faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_the_broker_that_fails_in_whichever_way_costs_nobody_an_event() {
    let faults = [
        Fault::LinkCut,
        Fault::LinkRefused,
        Fault::LinkFlaps,
        Fault::LinkSilent,
        Fault::LinkForgotten,
        Fault::LinkHalfOpen,
        Fault::LinkLate,
        Fault::LinkSlow,
        Fault::LinkSliced,
    ];
    run(Plan::stream(seed()), &faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_rabbitmq_ends_and_a_memory_alarm_cost_nobody_an_event() {
    let plan = Plan::stream(seed()).on_its_own_broker();
    let faults = [
        Fault::ConsumerCancelled,
        Fault::ChannelClosed,
        Fault::ConsumerForgotten,
        Fault::MemoryAlarm,
    ];
    run(plan, &faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_deleted_is_made_again_and_everybody_is_told_what_that_cost() {
    let report = run(Plan::stream(seed()), &[Fault::QueueDeleted]).await;
    assert!(report.summary.gaps.contains_key("unknown"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_deleted_while_the_broker_has_forgotten_who_reads_it_is_missed_all_the_same()
 {
    let mut world = World::start(Plan::stream(seed())).await;
    world.delete_untold().await;
    world.recover().await;
    judge(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_killed_ended_or_stopped_costs_nobody_an_event() {
    let faults = [
        Fault::BridgeKilled,
        Fault::BridgeKilledInMidFrame,
        Fault::BridgeTerminated,
        Fault::BridgeStopped,
    ];
    let report = run(Plan::stream(seed()), &faults).await;
    assert!(report.summary.gaps.is_empty(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_return_to_a_replica_that_lags_behind_the_one_they_lost_are_told_of_no_gap() {
    let faults = [Fault::BridgeKilledBesideOneThatLags; 3];
    let report = run(Plan::stream(seed()), &faults).await;
    assert!(report.summary.gaps.is_empty(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_whose_ids_are_older_than_memory_miss_nothing_whatever_happens_meanwhile() {
    let plan = Plan {
        rate: 400,
        ..Plan::stream(seed())
    };
    let faults = [
        Fault::LinkCut,
        Fault::BridgeKilled,
        Fault::LinkSilent,
        Fault::Storm,
        Fault::BridgeTerminated,
        Fault::Storm,
    ];
    run(plan.with_little_memory(), &faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_cut_off_slow_frozen_or_lying_cost_nobody_an_event() {
    let faults = [
        Fault::ClientsCut,
        Fault::ClientsSilent,
        Fault::ClientsForgotten,
        Fault::ClientsSliced,
        Fault::ClientsSlow,
        Fault::ClientsFrozen,
        Fault::ClientsHalfClosed,
        Fault::ClientsWithForgedIds,
    ];
    run(Plan::stream(seed()), &faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_fall_behind_are_told_how_many_events_they_missed() {
    // A sixth of them are for a client that wants much: several times what its ring and the kernel's buffers hold.
    const EVENTS: f64 = 6_000.0;
    let plan = Plan {
        settings: vec![("SSE_CHANNEL_CAPACITY", "64".to_owned())],
        short_rings: true,
        rate: 600,
        ..Plan::stream(seed())
    };
    let mut world = World::start(plan).await;
    world.outrun_clients(EVENTS).await;
    world.recover().await;
    let report = judge(world).await;
    assert!(report.summary.gaps.contains_key("slow"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_quorum_queue_whatever_is_lost_is_told() {
    let plan = Plan::quorum(seed()).on_its_own_broker();
    let faults = [
        Fault::LinkCut,
        Fault::BridgeKilled,
        Fault::BrokerKilled,
        Fault::ChannelClosed,
        Fault::BridgeTerminated,
    ];
    run(plan, &faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_killed_twenty_times_under_five_hundred_events_a_second_loses_nothing_and_keeps_the_order()
 {
    const KILLS: u64 = 20;
    let plan = Plan {
        publishers: 10,
        rate: 500,
        clients: 200,
        // Each start reads it, which must not take the longer the longer the run takes.
        settings: vec![("HISTORY_MAX_AGE", "10s".to_owned())],
        ..Plan::stream(seed())
    };
    let mut world = World::start(plan).await;
    for _ in 0..KILLS {
        world.lose_bridge(Fault::BridgeKilled, 0..500).await;
        world.recover().await;
    }
    let report = judge(world).await;
    assert_eq!(report.summary.faults.get("bridge_killed"), Some(&KILLS));
    assert!(report.summary.gaps.is_empty(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mix_of_all_faults_costs_nobody_an_event() {
    let minutes: Option<f64> = std::env::var("SOAK_MINUTES")
        .ok()
        .map(|text| text.parse().expect("SOAK_MINUTES is a number"));
    let length = minutes.map_or(SHORT_MIX, |minutes| Duration::from_secs_f64(minutes * 60.0));
    let end = Instant::now() + length;
    // The first round's seed is the one that was asked for, so that each round can be repeated by its own.
    let mut seed = seed();
    let mut seeds = fastrand::Rng::with_seed(seed);
    let mut all = Summary::default();
    let mut rounds = 0;
    let mut clean = true;
    while Instant::now() < end {
        let round_end = end.min(Instant::now() + ROUND);
        let report = mix(seed, round_end).await;
        println!("round {rounds}, SOAK_SEED={seed}\n{report}\n");
        all.add(&report.summary);
        rounds += 1;
        clean = report.is_clean();
        if !clean {
            break;
        }
        seed = seeds.u64(..);
    }
    println!("{rounds} rounds\n{all}");
    assert!(clean, "SOAK_SEED={seed}");
}

/// A round: what happens, and in which order, is decided by the seed; how long it takes, by the machine.
async fn mix(seed: u64, end: Instant) -> Report {
    let mut random = fastrand::Rng::with_seed(seed);
    let plan = match random.u32(..4) {
        0 => Plan::quorum(seed),
        1 => Plan::stream(seed).with_little_memory(),
        _ => Plan::stream(seed),
    };
    let mut world = World::start(plan.on_its_own_broker()).await;
    let possible: Vec<Fault> = Fault::ALL
        .iter()
        .copied()
        .filter(|fault| fault.is_possible(&world.plan))
        .collect();
    while Instant::now() < end {
        let fault = possible[random.usize(..possible.len())];
        println!("{fault:?}");
        world.suffer(fault).await;
        // Now and then the next comes before this one has healed.
        if random.u32(..4) > 0 {
            world.recover().await;
            sleep(Duration::from_millis(random.u64(..3_000))).await;
        }
    }
    world.recover().await;
    world.finish().await
}

/// Lets these faults come one after the other, and judges.
async fn run(plan: Plan, faults: &[Fault]) -> Report {
    let mut world = World::start(plan).await;
    for fault in faults {
        world.suffer(*fault).await;
        world.recover().await;
    }
    judge(world).await
}

/// Ends a run, which must be clean.
async fn judge(world: World) -> Report {
    let report = world.finish().await;
    println!("{report}\n");
    assert!(report.is_clean(), "{report}");
    report
}

/// What decides all that is random. Another one each time, so that each run of the tests looks elsewhere.
fn seed() -> u64 {
    let seed = std::env::var("SOAK_SEED").ok().map_or_else(
        || fastrand::u64(..),
        |text| text.parse().expect("SOAK_SEED is a number"),
    );
    println!("SOAK_SEED={seed}");
    seed
}
