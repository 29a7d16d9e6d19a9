//! Back ends that publish all the while, each its own events in their order, each with a `message_id`, and publish again
//! what was not confirmed before they publish anything new.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::events;
use super::history::{Intent, Record, Recorder, number_of};
use crate::harness::{Message, Persistent, Vhost, eventually, within};

/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// What publishers are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Publish,
    Pause,
    Stop,
}

/// All publishers of a run.
pub struct Publishers {
    pace: watch::Sender<Pace>,
    running: Vec<JoinHandle<()>>,
    /// Who is between two events, by its place.
    idle: Vec<watch::Receiver<bool>>,
    vhost: Vhost,
    recorder: Recorder,
    /// How many marks were published.
    marks: u64,
}

impl Publishers {
    /// Starts so many, which publish so many events a second together.
    pub fn start(vhost: &Vhost, recorder: &Recorder, count: u32, rate: u32, seed: u64) -> Self {
        let pace = watch::Sender::new(Pace::Publish);
        let mut publishers = Self {
            running: Vec::new(),
            idle: Vec::new(),
            vhost: vhost.clone(),
            recorder: recorder.clone(),
            marks: 0,
            pace,
        };
        for publisher in 1..=count {
            let (idle, is_idle) = watch::channel(false);
            publishers.idle.push(is_idle);
            let one = Publisher {
                publisher,
                link: Persistent::to(vhost),
                recorder: recorder.clone(),
            };
            let every = Duration::from_secs(1) * count / rate;
            let random = fastrand::Rng::with_seed(seed ^ u64::from(publisher) << 32);
            let pace = publishers.pace.subscribe();
            publishers
                .running
                .push(tokio::spawn(one.publish_all(every, random, pace, idle)));
        }
        publishers
    }

    /// Pauses all, and returns when nothing is on its way.
    pub async fn pause(&self, limit: Duration) {
        self.pace.send_replace(Pace::Pause);
        eventually("every publisher has its confirm", limit, async || {
            self.idle.iter().all(|idle| *idle.borrow()).then_some(())
        })
        .await;
    }

    pub fn resume(&self) {
        self.pace.send_replace(Pace::Publish);
    }

    /// Publishes an event that nothing is published after until [`Publishers::resume`], and gives its number.
    pub async fn mark(&mut self, limit: Duration) -> u64 {
        self.pause(limit).await;
        self.marks += 1;
        let number = number_of(0, self.marks);
        let (intent, message) = events::make_mark(number, 0);
        let mut marker = Publisher {
            publisher: 0,
            link: Persistent::to(&self.vhost),
            recorder: self.recorder.clone(),
        };
        within(
            "a mark is published",
            limit,
            marker.publish(intent, &message),
        )
        .await;
        number
    }
}

struct Publisher {
    publisher: u32,
    link: Persistent,
    recorder: Recorder,
}

impl Publisher {
    async fn publish_all(
        mut self,
        every: Duration,
        mut random: fastrand::Rng,
        mut pace: watch::Receiver<Pace>,
        idle: watch::Sender<bool>,
    ) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sequence = 0;
        loop {
            ticks.tick().await;
            if *pace.borrow() != Pace::Publish {
                idle.send_replace(true);
                let next = pace.wait_for(|pace| *pace != Pace::Pause).await;
                if next.is_err() || next.is_ok_and(|pace| *pace == Pace::Stop) {
                    return;
                }
                idle.send_replace(false);
            }
            sequence += 1;
            let number = number_of(self.publisher, sequence);
            let (intent, message) = events::make(number, self.publisher, &mut random);
            self.publish(intent, &message).await;
        }
    }

    /// Publishes until it is confirmed.
    async fn publish(&mut self, intent: Intent, message: &Message) {
        let number = intent.number;
        self.recorder.record(&Record::Intent(intent));
        while let Err(cause) = self.link.try_publish(message).await {
            self.recorder.record(&Record::Refused { number, cause });
            sleep(AGAIN).await;
        }
        self.recorder.record(&Record::Confirmed { number });
    }
}
