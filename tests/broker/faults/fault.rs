//! What may go wrong, and how it is done.

use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use tokio::time::sleep;

use super::browser::{Browser, Habits};
use super::world::{CONFIRM, Plan, STREAM, World, plain};
use crate::harness::{Direction, SOON, eventually};

/// What may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    BrokerKilled,
    BrokerStopped,
    LinkCut,
    LinkRefused,
    /// 25 times.
    LinkFlaps,
    /// No byte passes for a while, and then all that waited.
    LinkSilent,
    /// No byte passes on what is connected, for ever.
    LinkForgotten,
    LinkHalfOpen,
    LinkLate,
    LinkSlow,
    LinkSliced,
    ConsumerCancelled,
    /// RabbitMQ delivers nothing any more, and does not say so.
    ConsumerForgotten,
    QueueDeleted,
    /// With a 406.
    ChannelClosed,
    MemoryAlarm,
    BridgeKilled,
    BridgeKilledInMidFrame,
    BridgeTerminated,
    /// With SIGSTOP, for 20 seconds.
    BridgeStopped,
    /// While the other one has no link to the broker, so that its clients return to one that lags behind them.
    BridgeKilledBesideOneThatLags,
    ClientsCut,
    ClientsSilent,
    ClientsForgotten,
    ClientsSliced,
    ClientsSlow,
    ClientsFrozen,
    ClientsHalfClosed,
    ClientsWithForgedIds,
    /// Hundreds come back at once with ids of a while ago.
    Storm,
}

impl Fault {
    pub const ALL: &[Self] = &[
        Self::BrokerKilled,
        Self::BrokerStopped,
        Self::LinkCut,
        Self::LinkRefused,
        Self::LinkFlaps,
        Self::LinkSilent,
        Self::LinkForgotten,
        Self::LinkHalfOpen,
        Self::LinkLate,
        Self::LinkSlow,
        Self::LinkSliced,
        Self::ConsumerCancelled,
        Self::ConsumerForgotten,
        Self::QueueDeleted,
        Self::ChannelClosed,
        Self::MemoryAlarm,
        Self::BridgeKilled,
        Self::BridgeKilledInMidFrame,
        Self::BridgeTerminated,
        Self::BridgeStopped,
        Self::BridgeKilledBesideOneThatLags,
        Self::ClientsCut,
        Self::ClientsSilent,
        Self::ClientsForgotten,
        Self::ClientsSliced,
        Self::ClientsSlow,
        Self::ClientsFrozen,
        Self::ClientsHalfClosed,
        Self::ClientsWithForgedIds,
        Self::Storm,
    ];

    /// As it is called in the history.
    pub fn name(self) -> &'static str {
        match self {
            Self::BrokerKilled => "broker_killed",
            Self::BrokerStopped => "broker_stopped",
            Self::LinkCut => "link_cut",
            Self::LinkRefused => "link_refused",
            Self::LinkFlaps => "link_flaps",
            Self::LinkSilent => "link_silent",
            Self::LinkForgotten => "link_forgotten",
            Self::LinkHalfOpen => "link_half_open",
            Self::LinkLate => "link_late",
            Self::LinkSlow => "link_slow",
            Self::LinkSliced => "link_sliced",
            Self::ConsumerCancelled => "consumer_cancelled",
            Self::ConsumerForgotten => "consumer_forgotten",
            Self::QueueDeleted => "queue_deleted",
            Self::ChannelClosed => "channel_closed",
            Self::MemoryAlarm => "memory_alarm",
            Self::BridgeKilled => "bridge_killed",
            Self::BridgeKilledInMidFrame => "bridge_killed_in_mid_frame",
            Self::BridgeTerminated => "bridge_terminated",
            Self::BridgeStopped => "bridge_stopped",
            Self::BridgeKilledBesideOneThatLags => "bridge_killed_beside_one_that_lags",
            Self::ClientsCut => "clients_cut",
            Self::ClientsSilent => "clients_silent",
            Self::ClientsForgotten => "clients_forgotten",
            Self::ClientsSliced => "clients_sliced",
            Self::ClientsSlow => "clients_slow",
            Self::ClientsFrozen => "clients_frozen",
            Self::ClientsHalfClosed => "clients_half_closed",
            Self::ClientsWithForgedIds => "clients_with_forged_ids",
            Self::Storm => "storm",
        }
    }

    /// Whether it can be done where events come from this kind of queue, and be judged.
    pub fn is_possible(self, plan: &Plan) -> bool {
        match self {
            // A queue that is deleted loses what is in it, and nobody can say what that was.
            Self::QueueDeleted => plan.queue_type == "stream",
            // Only a stream's consumer looks whether there is more to come.
            Self::ConsumerForgotten => plan.queue_type == "stream",
            Self::BrokerKilled | Self::BrokerStopped | Self::MemoryAlarm => plan.own_broker,
            Self::BridgeKilledBesideOneThatLags => plan.replicas > 1,
            _ => true,
        }
    }
}

impl World {
    /// Does it, and returns when it is over; what it broke may still be on its way back.
    pub async fn suffer(&mut self, fault: Fault) {
        self.remember_ids();
        match fault {
            Fault::BrokerKilled | Fault::BrokerStopped => self.lose_broker(fault).await,
            Fault::LinkCut
            | Fault::LinkRefused
            | Fault::LinkFlaps
            | Fault::LinkSilent
            | Fault::LinkForgotten
            | Fault::LinkHalfOpen
            | Fault::LinkLate
            | Fault::LinkSlow
            | Fault::LinkSliced => self.spoil_link(fault).await,
            Fault::ConsumerCancelled | Fault::ConsumerForgotten | Fault::ChannelClosed => {
                self.end_consumers(fault).await;
            }
            Fault::QueueDeleted => self.delete_queue().await,
            Fault::MemoryAlarm => self.raise_memory_alarm().await,
            Fault::BridgeKilled
            | Fault::BridgeKilledInMidFrame
            | Fault::BridgeTerminated
            | Fault::BridgeStopped => self.lose_bridge(fault, 0..2_000).await,
            Fault::BridgeKilledBesideOneThatLags => self.lose_bridge_beside_laggard().await,
            Fault::ClientsCut
            | Fault::ClientsSilent
            | Fault::ClientsForgotten
            | Fault::ClientsSliced
            | Fault::ClientsSlow => self.spoil_door(fault).await,
            Fault::ClientsFrozen => self.freeze_clients().await,
            Fault::ClientsHalfClosed | Fault::ClientsWithForgedIds => self.lead_astray(fault),
            Fault::Storm => self.storm(300).await,
        }
    }

    fn any_replica(&mut self) -> usize {
        self.random.usize(..self.replicas.len())
    }

    /// Lets it last: a fault has a length.
    async fn last(&mut self, milliseconds: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.random.u64(milliseconds))).await;
    }

    async fn lose_broker(&mut self, fault: Fault) {
        let every = self.every_replica();
        let begun = self.begin(fault.name(), &every, &[]);
        if fault == Fault::BrokerKilled {
            self.broker.own().kill();
        } else {
            self.broker.own().stop().await;
        }
        self.last(0..2_000).await;
        self.broker.own().start().await;
        // It greets before it can do all that is asked of it.
        self.wait_for_queue().await;
        self.end(begun);
    }

    async fn spoil_link(&mut self, fault: Fault) {
        let replica = self.any_replica();
        let begun = self.begin(fault.name(), &[self.replicas[replica].number], &[]);
        let length = match fault {
            Fault::LinkFlaps => 20..100,
            Fault::LinkForgotten => 0..1,
            _ => 500..5_000,
        };
        let times = if fault == Fault::LinkFlaps { 25 } else { 1 };
        for _ in 0..times {
            let link = &self.replicas[replica].link;
            match fault {
                Fault::LinkRefused => link.refuse(),
                Fault::LinkSilent => link.silence(),
                Fault::LinkForgotten => link.forget(),
                Fault::LinkHalfOpen if (self.plan.seed ^ u64::from(begun)) & 1 == 0 => {
                    link.silence_one(Direction::Inward);
                }
                Fault::LinkHalfOpen => link.silence_one(Direction::Outward),
                Fault::LinkLate => link.delay(Duration::from_millis(150)),
                Fault::LinkSlow => link.throttle(20_000),
                Fault::LinkSliced => link.slice(),
                _ => link.cut(),
            }
            self.last(length.clone()).await;
            let link = &self.replicas[replica].link;
            match fault {
                Fault::LinkCut | Fault::LinkRefused => link.restore(),
                Fault::LinkFlaps => {
                    link.restore();
                    self.last(length.clone()).await;
                }
                Fault::LinkForgotten => {}
                _ => link.heal(),
            }
        }
        self.end(begun);
    }

    /// RabbitMQ itself cancels the consumers, or forgets them, or closes their channels with a 406, as it would for a
    /// record that nobody acknowledged for half an hour.
    async fn end_consumers(&mut self, fault: Fault) {
        // There are none to be ended while a link is still away.
        self.recover().await;
        let every = self.every_replica();
        let mut before = Vec::new();
        for replica in &self.replicas {
            before.push(replica.reconnects().await);
        }
        let action = match fault {
            // The fourth of a server's state is its own, whose second is its configuration, whose sixth writes to the socket.
            Fault::ConsumerCancelled => {
                "rabbit_writer:send_command(element(6, element(2, element(4, sys:get_state(C)))), {'basic.cancel', T, true})"
            }
            Fault::ConsumerForgotten => "gen_server2:cast(C, {queue_event, Q, eol})",
            _ => "rabbit_channel:do(C, {'basic.ack', 1000000000, false})",
        };
        let every_consumer = self.vhost.each_consumer(STREAM, action) + ".";
        let begun = self.begin(fault.name(), &every, &[]);
        let count = self.broker.control(&["eval", &every_consumer]).await;
        // One that just ended may still be in the table.
        let count: usize = count.trim().parse().expect("a number");
        assert!(count >= every.len(), "only {count} consumers were found");
        if fault == Fault::ConsumerForgotten {
            // Nobody can tell it from a pause: it lasts until a bridge looks whether there is more, after five seconds.
            self.last(5_000..5_001).await;
        }
        self.end(begun);
        if fault != Fault::ConsumerForgotten {
            for (replica, before) in self.replicas.iter().zip(before) {
                replica.wait_reconnected(before, SOON).await;
            }
        }
    }

    async fn delete_queue(&mut self) {
        let begun = self.begin_deletion().await;
        self.vhost.delete_queue(STREAM).await;
        self.wait_for_queue().await;
        self.end(begun);
        self.publishers.resume();
    }

    /// The stream is deleted, and the broker tells none of the bridges.
    pub async fn delete_untold(&mut self) {
        let begun = self.begin_deletion().await;
        let deletion = self.vhost.deletion_that_nobody_is_told(STREAM);
        self.broker.control(&["eval", &deletion]).await;
        self.wait_for_queue().await;
        self.publishers.resume();
        // It lasts until each bridge looks, after five seconds without an event, or after a minute.
        self.recover().await;
        self.end(begun);
    }

    async fn begin_deletion(&mut self) -> u32 {
        // What it holds is written down first, as nobody can read it afterwards.
        self.read_log().await;
        let every = self.every_replica();
        self.begin(Fault::QueueDeleted.name(), &every, &[])
    }

    async fn wait_for_queue(&self) {
        eventually("the queue is there", CONFIRM, async || {
            self.vhost.queue(STREAM).await
        })
        .await;
    }

    async fn raise_memory_alarm(&mut self) {
        // Publishing is blocked, and with it dead letters; what is consumed goes on.
        let begun = self.begin(Fault::MemoryAlarm.name(), &[], &[]);
        self.broker
            .control(&["set_vm_memory_high_watermark", "absolute", "1MB"])
            .await;
        eventually("RabbitMQ raises its alarm", SOON, async || {
            let alarms = self
                .broker
                .control(&["eval", "length(rabbit_alarm:get_alarms())."])
                .await;
            (alarms.trim() != "0").then_some(())
        })
        .await;
        self.last(1_000..6_000).await;
        self.broker
            .control(&["set_vm_memory_high_watermark", "0.4"])
            .await;
        self.end(begun);
    }

    /// A bridge ends in this way, and is started again after so many milliseconds.
    pub async fn lose_bridge(&mut self, fault: Fault, away: std::ops::Range<u64>) {
        let which = self.any_replica();
        let number = self.replicas[which].number;
        let spoilt = match fault {
            Fault::BridgeKilledInMidFrame => self.spoilt_clients(),
            _ => Vec::new(),
        };
        let begun = self.begin(fault.name(), &[number], &spoilt);
        match fault {
            Fault::BridgeStopped => {
                self.replicas[which].bridge().signal(Signal::STOP);
                self.last(20_000..20_001).await;
                self.replicas[which].bridge().signal(Signal::CONT);
                self.end(begun);
                return;
            }
            Fault::BridgeTerminated => self.replicas[which].terminate(SOON).await,
            Fault::BridgeKilledInMidFrame => {
                // So slow that hardly a piece ends where an event ends.
                self.replicas[which].door.throttle(4_000);
                self.last(500..1_000).await;
                self.replicas[which].kill();
                // What was still on its way is lost, in the middle of an event.
                self.replicas[which].door.restore();
            }
            _ => self.replicas[which].kill(),
        }
        self.last(away).await;
        self.replicas[which].start_again().await;
        self.end(begun);
    }

    async fn lose_bridge_beside_laggard(&mut self) {
        let laggard = self.any_replica();
        let other = (laggard + 1) % self.replicas.len();
        let every = self.every_replica();
        let begun = self.begin(Fault::BridgeKilledBesideOneThatLags.name(), &every, &[]);
        self.replicas[laggard].link.cut();
        // Long enough for the other to be ahead.
        self.last(500..1_500).await;
        self.replicas[other].kill();
        self.last(1_000..3_000).await;
        self.replicas[other].start_again().await;
        self.replicas[laggard].link.restore();
        self.end(begun);
    }

    fn spoilt_clients(&self) -> Vec<u32> {
        let spoilt = self.clients.iter().filter(|client| client.habits.spoilt);
        spoilt.map(|client| client.number).collect()
    }

    async fn spoil_door(&mut self, fault: Fault) {
        let replica = self.any_replica();
        let spoilt = self.spoilt_clients();
        let begun = self.begin(fault.name(), &[], &spoilt);
        let door = &self.replicas[replica].door;
        match fault {
            Fault::ClientsCut => door.cut(),
            Fault::ClientsSilent => door.silence(),
            Fault::ClientsForgotten => door.forget(),
            Fault::ClientsSliced => door.slice(),
            _ => door.throttle(2_000),
        }
        self.last(500..5_000).await;
        let door = &self.replicas[replica].door;
        match fault {
            Fault::ClientsCut => door.restore(),
            Fault::ClientsForgotten => {}
            _ => door.heal(),
        }
        self.end(begun);
    }

    fn lead_astray(&mut self, fault: Fault) {
        let tenth = self.clients.len() / 10 + 1;
        let first = self.random.usize(..self.clients.len());
        let chosen: Vec<usize> = (0..tenth)
            .map(|step| (first + step * 7) % self.clients.len())
            .collect();
        let numbers: Vec<u32> = chosen
            .iter()
            .map(|index| self.clients[*index].number)
            .collect();
        let begun = self.begin(fault.name(), &[], &numbers);
        for index in chosen {
            let client = &self.clients[index];
            match fault {
                Fault::ClientsHalfClosed => client.half_close(),
                _ => client.forge(),
            }
        }
        self.end(begun);
    }

    async fn freeze_clients(&mut self) {
        let begun = self.freeze();
        self.last(2_000..10_000).await;
        self.thaw(begun);
    }

    /// Clients read nothing until every bridge has taken in so many more events.
    pub async fn outrun_clients(&mut self, events: f64) {
        const CONSUMED: &str = "sse_bridge_events_consumed_total";
        let begun = self.freeze();
        let outrun = self.replicas.iter().map(async |replica| {
            let bridge = replica.bridge();
            let enough = bridge.metric(CONSUMED).await + events;
            eventually("so many events have come", CONFIRM, async || {
                (bridge.metric(CONSUMED).await >= enough).then_some(())
            })
            .await;
        });
        join_all(outrun).await;
        self.thaw(begun);
    }

    /// Those whose buffers are so small that it matters.
    fn slow_clients(&self) -> impl Iterator<Item = &Browser> {
        self.clients.iter().filter(|client| client.habits.slow)
    }

    fn freeze(&mut self) -> u32 {
        let numbers: Vec<u32> = self.slow_clients().map(|client| client.number).collect();
        let begun = self.begin(Fault::ClientsFrozen.name(), &[], &numbers);
        self.slow_clients().for_each(Browser::freeze);
        begun
    }

    fn thaw(&mut self, begun: u32) {
        self.slow_clients().for_each(Browser::thaw);
        self.end(begun);
    }

    /// So many come at once with ids that others had a while ago, read on to where the others are, and go.
    pub async fn storm(&mut self, count: u32) {
        // Where they come from, and how far they have to come, is not known while a link is away.
        self.recover().await;
        self.remember_ids();
        let ids = self.old_ids.clone();
        self.last(1_000..4_000).await;
        let begun = self.begin(Fault::Storm.name(), &[], &[]);
        let mut storm = Vec::new();
        for number in 0..count {
            let id = ids[self.random.usize(..ids.len())].clone();
            let scope = super::events::scope(number);
            let habits = Habits {
                last_id: Some(id),
                ..plain(scope)
            };
            storm.push(self.make_client(habits));
        }
        let newest = self.clients[0].last_id();
        let position = |id: &str| -> Option<u64> { id.split_once('-')?.0.parse().ok() };
        eventually(
            "those who came back have what they missed",
            CONFIRM,
            async || {
                let reached = storm
                    .iter()
                    .all(|client| position(&client.last_id()) >= position(&newest));
                reached.then_some(())
            },
        )
        .await;
        for client in storm {
            client.leave(false).await;
        }
        self.end(begun);
    }
}
