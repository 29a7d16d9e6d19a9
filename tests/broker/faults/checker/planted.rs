//! The checker itself: a clean history passes, and whatever is planted in it is found.

use super::super::history::{
    Fault, Intent, Moment, ORIGIN, Person, Phase, Record, Rules, SECOND, Sample, Scope, number_of,
};
use super::{Kind, Report, check};

/// Milliseconds between what happens.
const STEP: Moment = SECOND / 100;

/// How many events there are, before poison.
const EVENTS: u64 = 40;

/// Who gets everything that teams are sent.
const EVERYTHING: u32 = 1;
/// Who asked for team 7 and broadcasts.
const SEVEN: u32 = 2;
/// Who asked for team 8, and only for a topic that is rare.
const NARROW: u32 = 3;
/// Who returns to the other replica in the middle.
const TRAVELLER: u32 = 4;

type Line = (Moment, Record);

/// A run, told as it should go: two publishers, four clients, two replicas, one fault.
struct Run {
    lines: Vec<Line>,
    now: Moment,
}

impl Run {
    fn new(queue_type: &str) -> Self {
        let mut run = Self {
            lines: Vec::new(),
            now: 0,
        };
        run.add(Record::Rules(Rules {
            seed: 1,
            queue_type: queue_type.into(),
            prefetch: 512,
            recovery_seconds: 10,
            dead_letters_at_most: Some(1),
            short_rings: false,
            short_history: false,
        }));
        for replica in [0, 1] {
            run.add(Record::Started {
                replica,
                incarnation: 1,
            });
            run.sample(replica, Phase::Start);
        }
        run
    }

    fn add(&mut self, record: Record) {
        self.now += STEP;
        self.lines.push((self.now, record));
    }

    fn sample(&mut self, replica: u32, phase: Phase) {
        self.add(Record::Sample(Sample {
            replica,
            phase,
            unacknowledged: 0,
            broker_up: true,
            threads: 12,
            descriptors: 30,
            memory: 50 << 20,
            history: 1 << 20,
        }));
    }

    fn person(&mut self, client: u32, audiences: &[&str], topics: &[&str]) {
        self.add(Record::Client(Person {
            client,
            scope: Scope {
                audiences: audiences.iter().map(|name| (*name).to_owned()).collect(),
                everything: audiences.is_empty(),
                topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            },
            slow: false,
        }));
    }

    fn connect(&mut self, client: u32, replica: u32, last_id: Option<&str>) {
        self.add(Record::Connect {
            client,
            replica,
            last_id: last_id.map(str::to_owned),
            forged: false,
        });
        self.add(Record::Checkpoint {
            client,
            id: last_id.unwrap_or(ORIGIN).to_owned(),
        });
    }

    fn publish(&mut self, intent: Intent) {
        let number = intent.number;
        self.add(Record::Intent(intent));
        self.add(Record::Confirmed { number });
    }
}

/// The offset of the nth event: one is skipped, as RabbitMQ does at a segment.
fn offset(event: u64) -> u64 {
    event + event / 10
}

fn id(event: u64) -> String {
    format!("{}-{:08x}", offset(event), event + 1)
}

/// Event 0 is publisher 1's first, event 1 publisher 2's first, and so on.
fn number(event: u64) -> u64 {
    number_of(u32::try_from(event % 2).unwrap() + 1, event / 2 + 1)
}

fn intent(event: u64) -> Intent {
    let (audience, topic) = match event % 4 {
        0 => ("team:7", "team.7.job.1.status"),
        1 => ("team:8", "team.8.job.1.status"),
        2 => ("broadcast", "broadcast.news"),
        _ if event == 39 => ("team:8", "team.8.rare"),
        _ => ("user:42", "user.42.note"),
    };
    Intent {
        number: number(event),
        publisher: u32::try_from(event % 2).unwrap() + 1,
        audience: audience.into(),
        topic: topic.into(),
        poison: None,
    }
}

fn is_for(client: u32, event: u64) -> bool {
    match client {
        EVERYTHING | TRAVELLER => true,
        SEVEN => event.is_multiple_of(2),
        _ => event == 39,
    }
}

/// All goes well. A fault, that the traveller's connection does not survive, lies between events 19 and 20.
fn clean(queue_type: &str) -> Vec<Line> {
    let mut run = Run::new(queue_type);
    run.person(EVERYTHING, &[], &[]);
    run.person(SEVEN, &["team:7", "broadcast"], &[]);
    run.person(NARROW, &["team:8"], &["team.*.rare"]);
    run.person(TRAVELLER, &[], &[]);
    for client in [EVERYTHING, SEVEN, NARROW] {
        run.connect(client, 0, None);
    }
    run.connect(TRAVELLER, 1, None);
    for event in 0..EVENTS {
        if event == 20 {
            fault(&mut run);
        }
        run.publish(intent(event));
        for client in [EVERYTHING, SEVEN, NARROW, TRAVELLER] {
            if is_for(client, event) {
                run.add(Record::Event {
                    client,
                    id: id(event),
                    number: Some(number(event)),
                });
            }
        }
        if event % 10 == 5 {
            run.sample(0, Phase::Run);
            run.sample(1, Phase::Run);
            run.add(Record::Checkpoint {
                client: NARROW,
                id: id(event),
            });
        }
    }
    let poison = number_of(3, 1);
    run.publish(Intent {
        number: poison,
        publisher: 3,
        audience: "team:7".into(),
        topic: "team.7.x".into(),
        poison: Some("not_json".into()),
    });
    run.add(Record::DeadLetter {
        number: poison,
        reason: "not_json".into(),
    });
    for client in [EVERYTHING, SEVEN, NARROW, TRAVELLER] {
        run.add(Record::Finished { client, owed: true });
    }
    for replica in [0, 1] {
        run.sample(replica, Phase::Rest);
    }
    if queue_type == "stream" {
        log(&mut run, poison);
    }
    run.lines
}

fn fault(run: &mut Run) {
    run.add(Record::FaultBegin(Fault {
        fault: 1,
        kind: "bridge_killed".into(),
        replicas: vec![1],
        clients: vec![],
    }));
    run.add(Record::Closed {
        client: TRAVELLER,
        how: "broken".into(),
    });
    run.add(Record::Started {
        replica: 1,
        incarnation: 2,
    });
    run.add(Record::FaultEnd { fault: 1 });
    run.sample(1, Phase::Start);
    let stream = run
        .lines
        .iter()
        .any(|(_, record)| matches!(record, Record::Rules(rules) if rules.queue_type == "stream"));
    if stream {
        run.connect(TRAVELLER, 1, Some(&id(19)));
        return;
    }
    run.add(Record::Connect {
        client: TRAVELLER,
        replica: 1,
        last_id: Some(id(19)),
        forged: false,
    });
    run.add(Record::Gap {
        client: TRAVELLER,
        reason: "unknown".into(),
        missed: None,
    });
    run.add(Record::Checkpoint {
        client: TRAVELLER,
        id: "0-12345678".into(),
    });
}

fn log(run: &mut Run, poison: u64) {
    for event in 0..EVENTS {
        run.add(Record::Log {
            generation: 0,
            offset: offset(event),
            id: id(event),
            number: Some(number(event)),
        });
    }
    run.add(Record::Log {
        generation: 0,
        offset: 1_000,
        id: "1000-abcdef01".into(),
        number: Some(poison),
    });
}

fn judge(lines: &[Line]) -> Report {
    check(|| lines.iter().cloned())
}

/// Plants something in a clean history, and says what is found.
fn planted(queue_type: &str, plant: impl FnOnce(&mut Vec<Line>)) -> Vec<Kind> {
    let mut lines = clean(queue_type);
    let before = lines.clone();
    plant(&mut lines);
    assert_ne!(lines, before, "nothing was planted");
    judge(&lines).kinds()
}

/// Where a client is sent an event.
fn delivery(lines: &[Line], client: u32, event: u64) -> usize {
    let sent = Record::Event {
        client,
        id: id(event),
        number: Some(number(event)),
    };
    let found = lines.iter().position(|(_, record)| *record == sent);
    found.unwrap_or_else(|| panic!("client {client} is not sent {event}"))
}

fn insert(lines: &mut Vec<Line>, index: usize, record: Record) {
    let at = lines[index].0;
    lines.insert(index, (at, record));
}

fn gap(client: u32, reason: &str, missed: Option<u64>) -> Record {
    Record::Gap {
        client,
        reason: reason.into(),
        missed,
    }
}

fn sample(lines: &mut [Line], phase: Phase) -> &mut Sample {
    let found = lines.iter_mut().find_map(|(_, record)| match record {
        Record::Sample(sample) if sample.phase == phase && sample.replica == 1 => Some(sample),
        _ => None,
    });
    found.expect("samples are taken")
}

fn make_slow(lines: &mut [Line], client: u32) {
    for (_, record) in lines {
        if let Record::Client(person) = record
            && person.client == client
        {
            person.slow = true;
        }
    }
}

#[test]
fn a_clean_history_passes() {
    for kind in ["stream", "quorum"] {
        let report = judge(&clean(kind));
        assert!(report.is_clean(), "{kind}: {report}");
        assert_eq!(report.summary.events, EVENTS + 1);
        assert_eq!(report.summary.confirmed, EVENTS + 1);
        assert_eq!(report.summary.clients, 4);
        assert_eq!(report.summary.reconnects, 1);
        assert_eq!(report.summary.deliveries, 40 + 20 + 1 + 40);
        assert_eq!(report.summary.recoveries, 1);
    }
}

#[test]
fn a_history_in_which_nothing_happened_proves_nothing() {
    for kind in ["stream", "quorum"] {
        let kinds = planted(kind, |lines| {
            lines.retain(|(_, record)| {
                !matches!(
                    record,
                    Record::Intent(_)
                        | Record::Confirmed { .. }
                        | Record::Event { .. }
                        | Record::DeadLetter { .. }
                        | Record::FaultBegin(_)
                )
            });
        });
        assert!(kinds.contains(&Kind::Nothing), "{kind}: {kinds:?}");
    }
}

#[test]
fn an_event_that_did_not_reach_an_entitled_client_is_found() {
    for kind in ["stream", "quorum"] {
        for (client, event) in [
            (EVERYTHING, 7),
            (SEVEN, 8),
            // The last ones, after which nothing comes.
            (EVERYTHING, 39),
            (SEVEN, 38),
            (NARROW, 39),
            // The first after a return, and the first of all.
            (TRAVELLER, 20),
            (EVERYTHING, 0),
        ] {
            let kinds = planted(kind, |lines| {
                lines.remove(delivery(lines, client, event));
            });
            assert_eq!(kinds, [Kind::Lost], "{kind}: client {client}, {event}");
        }
    }
}

#[test]
fn a_checkpoint_that_passes_over_an_event_is_found() {
    let kinds = planted("stream", |lines| {
        let place = delivery(lines, SEVEN, 20);
        lines.remove(place);
        insert(
            lines,
            place,
            Record::Checkpoint {
                client: SEVEN,
                id: id(20),
            },
        );
    });
    assert_eq!(kinds, [Kind::Lost]);
}

#[test]
fn a_client_that_never_joined_is_found() {
    for kind in ["stream", "quorum"] {
        let kinds = planted(kind, |lines| {
            lines.retain(|(_, record)| match record {
                Record::Checkpoint { client, .. } | Record::Event { client, .. } => {
                    *client != NARROW
                }
                _ => true,
            });
        });
        assert_eq!(kinds, [Kind::Lost], "{kind}");
    }
}

#[test]
fn an_event_that_was_published_and_not_confirmed_may_arrive_or_not() {
    for arrives in [true, false] {
        for kind in ["stream", "quorum"] {
            let kinds = planted(kind, |lines| {
                lines.retain(|(_, record)| {
                    *record != Record::Confirmed { number: number(9) }
                        && (arrives
                            || !matches!(record, Record::Event { number: Some(n), .. } | Record::Log { number: Some(n), .. } if *n == number(9)))
                });
            });
            assert_eq!(kinds, [], "{kind}");
        }
    }
}

#[test]
fn an_event_that_is_sent_twice_is_found() {
    for kind in ["stream", "quorum"] {
        let kinds = planted(kind, |lines| {
            let place = delivery(lines, SEVEN, 8);
            let again = lines[place].1.clone();
            insert(lines, place + 1, again);
        });
        assert_eq!(kinds, [Kind::Repeated], "{kind}");
    }
}

#[test]
fn an_event_that_a_publisher_stored_twice_and_a_client_was_sent_twice_is_found() {
    let plant = |lines: &mut Vec<Line>, client_is_sent: bool| {
        if client_is_sent {
            let place = delivery(lines, EVERYTHING, 12);
            let again = Record::Event {
                client: EVERYTHING,
                id: "500-00c0ffee".into(),
                number: Some(number(11)),
            };
            insert(lines, place, again);
        }
        let again = Record::Log {
            generation: 0,
            offset: 500,
            id: "500-00c0ffee".into(),
            number: Some(number(11)),
        };
        let end = lines.len() - 1;
        insert(lines, end, again);
    };
    let kinds = planted("stream", |lines| plant(lines, true));
    assert!(kinds.contains(&Kind::Repeated), "{kinds:?}");
    assert_eq!(planted("stream", |lines| plant(lines, false)), []);
}

#[test]
fn events_in_another_order_are_found() {
    let kinds = planted("stream", |lines| {
        let (one, other) = (delivery(lines, SEVEN, 8), delivery(lines, SEVEN, 10));
        lines.swap(one, other);
    });
    assert!(kinds.contains(&Kind::OutOfOrder), "{kinds:?}");
    let kinds = planted("quorum", |lines| {
        let (one, other) = (delivery(lines, SEVEN, 8), delivery(lines, SEVEN, 10));
        lines.swap(one, other);
    });
    assert!(kinds.contains(&Kind::OutOfOrder), "{kinds:?}");
}

#[test]
fn a_queue_may_deliver_late_what_a_broken_link_had_taken() {
    let swap = |lines: &mut Vec<Line>| {
        let (one, other) = (
            delivery(lines, TRAVELLER, 24),
            delivery(lines, TRAVELLER, 28),
        );
        let late = lines[one].1.clone();
        lines[one].1 = lines[other].1.clone();
        lines[other].1 = late;
    };
    // Its replica had just been killed, the other had not.
    assert_eq!(planted("quorum", swap), []);
    let kinds = planted("quorum", |lines| {
        swap(lines);
        for (_, record) in lines {
            if let Record::FaultBegin(fault) = record {
                fault.replicas = vec![0];
            }
        }
    });
    assert_eq!(kinds, [Kind::OutOfOrder]);
}

#[test]
fn a_client_that_is_sent_back_without_a_word_is_found() {
    let kinds = planted("stream", |lines| {
        let place = delivery(lines, EVERYTHING, 30);
        insert(
            lines,
            place,
            Record::Checkpoint {
                client: EVERYTHING,
                id: id(3),
            },
        );
    });
    assert_eq!(kinds, [Kind::OutOfOrder]);
}

#[test]
fn a_stream_that_holds_a_publishers_events_in_another_order_is_found() {
    let kinds = planted("stream", |lines| {
        for (_, record) in lines {
            if let Record::Log {
                number: Some(found),
                ..
            } = record
            {
                *found = match *found {
                    n if n == number(8) => number(10),
                    n if n == number(10) => number(8),
                    n => n,
                };
            }
        }
    });
    assert!(kinds.contains(&Kind::PublishedOutOfOrder), "{kinds:?}");
}

#[test]
fn what_is_for_others_or_for_nobody_is_found() {
    for kind in ["stream", "quorum"] {
        // Of another team; of the right team and another topic; poison; of nobody.
        for (client, number) in [
            (SEVEN, number(9)),
            (NARROW, number(9)),
            (EVERYTHING, number_of(3, 1)),
            (EVERYTHING, 4_711),
        ] {
            let kinds = planted(kind, |lines| {
                let place = delivery(lines, EVERYTHING, 9) + 1;
                insert(
                    lines,
                    place,
                    Record::Event {
                        client,
                        id: id(9),
                        number: Some(number),
                    },
                );
            });
            assert_eq!(kinds, [Kind::Foreign], "{kind}: client {client}, {number}");
        }
    }
}

#[test]
fn a_body_that_nobody_published_is_found() {
    let kinds = planted("stream", |lines| {
        let place = delivery(lines, EVERYTHING, 9);
        insert(
            lines,
            place,
            Record::Event {
                client: EVERYTHING,
                id: id(9),
                number: None,
            },
        );
    });
    assert_eq!(kinds, [Kind::Corrupt]);
}

#[test]
fn an_id_that_is_not_the_events_own_is_found() {
    for wrong in [id(11), "77-deadbeef".to_owned()] {
        let kinds = planted("stream", |lines| {
            let place = delivery(lines, TRAVELLER, 10);
            if let Record::Event { id, .. } = &mut lines[place].1 {
                *id = wrong;
            }
        });
        assert!(kinds.contains(&Kind::WrongId), "{kinds:?}");
    }
    let kinds = planted("stream", |lines| {
        for (_, record) in lines {
            if let Record::Checkpoint { client: NARROW, id } = record {
                *id = "77-deadbeef".into();
            }
        }
    });
    assert!(kinds.contains(&Kind::WrongId), "{kinds:?}");
}

#[test]
fn a_gap_that_is_true_passes_and_a_missing_one_is_found() {
    for (told, expected) in [(true, vec![]), (false, vec![Kind::Lost])] {
        for kind in ["stream", "quorum"] {
            let kinds = planted(kind, |lines| {
                make_slow(lines, SEVEN);
                for event in [24, 26, 28] {
                    lines.remove(delivery(lines, SEVEN, event));
                }
                if told {
                    let place = delivery(lines, SEVEN, 30);
                    insert(lines, place, gap(SEVEN, "slow", Some(3)));
                }
            });
            assert_eq!(kinds, expected, "{kind}, told: {told}");
        }
    }
}

#[test]
fn a_gap_that_counts_wrong_is_found() {
    let kinds = planted("stream", |lines| {
        make_slow(lines, SEVEN);
        lines.remove(delivery(lines, SEVEN, 24));
        let place = delivery(lines, SEVEN, 26);
        insert(lines, place, gap(SEVEN, "slow", Some(2)));
    });
    assert_eq!(kinds, [Kind::WrongCount]);
}

#[test]
fn a_gap_of_one_audience_may_lie_among_the_events_of_another() {
    for (missed, expected) in [
        (Some(3), vec![]),
        (None, vec![]),
        (Some(2), vec![Kind::Lost]),
        (Some(4), vec![Kind::WrongCount]),
    ] {
        let kinds = planted("stream", |lines| {
            make_slow(lines, EVERYTHING);
            // Told when all of them were published.
            let place = delivery(lines, EVERYTHING, 29);
            let at = lines[place].0;
            let kept =
                [24, 25, 27].map(|event| lines[delivery(lines, EVERYTHING, event)].1.clone());
            let gone = [23, 24, 25, 26, 27, 28];
            for event in gone {
                lines.remove(delivery(lines, EVERYTHING, event));
            }
            let place = delivery(lines, EVERYTHING, 29);
            lines.splice(
                place..place,
                std::iter::once(gap(EVERYTHING, "slow", missed))
                    .chain(kept)
                    .map(|record| (at, record)),
            );
        });
        assert_eq!(kinds, expected, "{missed:?}");
    }
    // What was published after it was told is not covered.
    let kinds = planted("stream", |lines| {
        make_slow(lines, EVERYTHING);
        let place = delivery(lines, EVERYTHING, 23);
        insert(lines, place, gap(EVERYTHING, "slow", Some(1)));
        lines.remove(delivery(lines, EVERYTHING, 28));
    });
    assert_eq!(kinds, [Kind::Lost, Kind::WrongCount]);
}

#[test]
fn a_gap_told_after_the_next_event_covers_nothing() {
    let kinds = planted("stream", |lines| {
        make_slow(lines, SEVEN);
        lines.remove(delivery(lines, SEVEN, 24));
        let place = delivery(lines, SEVEN, 26) + 1;
        insert(lines, place, gap(SEVEN, "slow", Some(1)));
    });
    assert!(kinds.contains(&Kind::Lost), "{kinds:?}");
}

#[test]
fn a_false_gap_is_found() {
    // Nobody was slow, nothing has expired, every id was of this log.
    for kind in ["stream", "quorum"] {
        for reason in ["slow", "expired", "unknown"] {
            let kinds = planted(kind, |lines| {
                let place = delivery(lines, SEVEN, 26);
                insert(lines, place, gap(SEVEN, reason, None));
            });
            assert!(
                kinds.contains(&Kind::FalseGap),
                "{kind}, {reason}: {kinds:?}"
            );
        }
    }
    // It may have been slow, and missed nothing.
    let kinds = planted("stream", |lines| {
        make_slow(lines, SEVEN);
        let place = delivery(lines, SEVEN, 26);
        insert(lines, place, gap(SEVEN, "slow", None));
    });
    assert_eq!(kinds, [Kind::FalseGap]);
}

#[test]
fn a_gap_lets_events_come_again_and_nothing_else_does() {
    let plant = |lines: &mut Vec<Line>, forged: bool| {
        let mut place = delivery(lines, EVERYTHING, 10) + 1;
        let mut add = |record| {
            insert(lines, place, record);
            place += 1;
        };
        add(Record::Closed {
            client: EVERYTHING,
            how: "ended".into(),
        });
        add(Record::Connect {
            client: EVERYTHING,
            replica: 0,
            last_id: Some(if forged { "x".to_owned() } else { id(10) }),
            forged,
        });
        if forged {
            add(gap(EVERYTHING, "unknown", None));
            add(Record::Checkpoint {
                client: EVERYTHING,
                id: ORIGIN.into(),
            });
        }
        for event in 0..=10 {
            add(Record::Event {
                client: EVERYTHING,
                id: id(event),
                number: Some(number(event)),
            });
        }
    };
    let mut lines = clean("stream");
    plant(&mut lines, true);
    let report = judge(&lines);
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.summary.repeats, 11);
    let kinds = planted("stream", |lines| plant(lines, false));
    assert_eq!(kinds, [Kind::Repeated]);
}

#[test]
fn a_forged_id_that_is_believed_is_found() {
    for kind in ["stream", "quorum"] {
        let kinds = planted(kind, |lines| {
            let place = delivery(lines, EVERYTHING, 10) + 1;
            insert(
                lines,
                place,
                Record::Connect {
                    client: EVERYTHING,
                    replica: 0,
                    last_id: Some("9999-deadbeef".into()),
                    forged: true,
                },
            );
        });
        assert_eq!(kinds, [Kind::MissingGap], "{kind}");
    }
}

#[test]
fn a_stream_that_was_made_anew_excuses_a_gap_and_nothing_else() {
    let plant = |lines: &mut Vec<Line>, told: bool| {
        // From event 30 on all stands in a second stream, from its beginning.
        let place = delivery(lines, EVERYTHING, 29) + 2;
        let deleted = Fault {
            fault: 2,
            kind: "queue_deleted".into(),
            replicas: vec![],
            clients: vec![],
        };
        insert(lines, place, Record::FaultBegin(deleted));
        insert(lines, place + 1, Record::FaultEnd { fault: 2 });
        for client in [EVERYTHING, SEVEN, NARROW, TRAVELLER] {
            if told {
                insert(lines, place + 2, gap(client, "unknown", None));
                let id = ORIGIN.into();
                insert(lines, place + 3, Record::Checkpoint { client, id });
            }
        }
        for (_, record) in lines {
            if let Record::Log {
                generation, number, ..
            } = record
                && number
                    .is_some_and(|number| (30..EVENTS).any(|event| self::number(event) == number))
            {
                *generation = 1;
            }
        }
    };
    assert_eq!(planted("stream", |lines| plant(lines, true)), []);
    // Events 28 and 29 were not sent before: the gap covers them.
    let kinds = planted("stream", |lines| {
        plant(lines, true);
        lines.remove(delivery(lines, SEVEN, 28));
    });
    assert_eq!(kinds, []);
    let kinds = planted("stream", |lines| {
        plant(lines, false);
        lines.remove(delivery(lines, SEVEN, 28));
    });
    assert_eq!(kinds, [Kind::Lost]);
}

#[test]
fn the_beginning_of_a_stream_that_was_made_anew_may_lead_into_the_old_one_for_a_moment() {
    let plant = |lines: &mut Vec<Line>, deleted: bool| {
        let place = delivery(lines, EVERYTHING, 29) + 2;
        let mut told = vec![
            Record::FaultBegin(Fault {
                fault: 2,
                kind: "queue_deleted".into(),
                replicas: vec![],
                clients: vec![],
            }),
            Record::FaultEnd { fault: 2 },
        ];
        if !deleted {
            told.clear();
        }
        let back_at_the_beginning = [
            gap(EVERYTHING, "unknown", None),
            Record::Checkpoint {
                client: EVERYTHING,
                id: ORIGIN.into(),
            },
        ];
        told.extend(back_at_the_beginning.clone());
        // A narrow client hears of what is others'.
        told.push(Record::Checkpoint {
            client: EVERYTHING,
            id: ORIGIN.into(),
        });
        told.extend((0..30).map(|event| Record::Event {
            client: EVERYTHING,
            id: id(event),
            number: Some(number(event)),
        }));
        if deleted {
            told.extend(back_at_the_beginning);
        }
        let at = lines[place].0;
        lines.splice(place..place, told.into_iter().map(|record| (at, record)));
        for (_, record) in lines {
            if let Record::Log {
                generation, number, ..
            } = record
                && deleted
                && number
                    .is_some_and(|number| (30..EVENTS).any(|event| self::number(event) == number))
            {
                *generation = 1;
            }
        }
    };
    // The others were not told that the stream is another, and need not be: they had all of the old one.
    assert_eq!(planted("stream", |lines| plant(lines, true)), []);
    let kinds = planted("stream", |lines| plant(lines, false));
    assert_eq!(kinds, [Kind::FalseGap]);
}

#[test]
fn what_the_broker_confirmed_and_does_not_hold_is_told_apart_from_what_the_bridge_lost() {
    let forget = |lines: &mut Vec<Line>| {
        lines.retain(|(_, record)| {
            !matches!(record, Record::Event { number: Some(n), .. } | Record::Log { number: Some(n), .. } if *n == number(33))
        });
    };
    assert_eq!(planted("stream", forget), [Kind::LostByBroker]);
    let mut lines = clean("stream");
    forget(&mut lines);
    for (_, record) in &mut lines {
        if let Record::FaultBegin(fault) = record {
            "broker_killed".clone_into(&mut fault.kind);
        }
    }
    let report = judge(&lines);
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.summary.lost_by_broker, 1);
}

#[test]
fn more_unacknowledged_than_the_prefetch_is_found() {
    for (kind, most) in [("stream", 2 * 512), ("quorum", 512)] {
        for (more, expected) in [(0, &[][..]), (1, &[Kind::OverPrefetch])] {
            let kinds = planted(kind, |lines| {
                sample(lines, Phase::Run).unacknowledged = most + more;
            });
            assert_eq!(kinds, expected, "{kind}");
        }
    }
}

#[test]
fn what_stays_unacknowledged_is_found() {
    let kinds = planted("stream", |lines| {
        sample(lines, Phase::Rest).unacknowledged = 1;
    });
    assert_eq!(kinds, [Kind::Unsettled]);
}

#[test]
fn a_leak_is_found() {
    for grow in [
        |sample: &mut Sample| sample.threads += 100,
        |sample: &mut Sample| sample.descriptors += 100,
        |sample: &mut Sample| sample.memory += 500 << 20,
    ] {
        let kinds = planted("stream", |lines| grow(sample(lines, Phase::Rest)));
        assert_eq!(kinds, [Kind::Leak]);
    }
    // What is in memory on purpose is none.
    let kinds = planted("stream", |lines| {
        let rest = sample(lines, Phase::Rest);
        rest.memory += 500 << 20;
        rest.history += 250 << 20;
    });
    assert_eq!(kinds, []);
}

#[test]
fn a_link_that_is_back_too_late_is_found() {
    // Everything after the fault happens 12 seconds later, the fault's end apart: the link is late.
    let kinds = planted("stream", |lines| {
        let end = lines
            .iter()
            .position(|(_, record)| matches!(record, Record::FaultEnd { .. }));
        let end = end.expect("a fault ends");
        for (at, _) in &mut lines[end + 1..] {
            *at += 12 * SECOND;
        }
    });
    assert_eq!(kinds, [Kind::SlowRecovery]);
    // The link is up, but nothing comes by it: the clients of that replica get everything late.
    let kinds = planted("stream", |lines| {
        let first = delivery(lines, TRAVELLER, 20);
        for (at, _) in &mut lines[first..] {
            *at += 12 * SECOND;
        }
    });
    assert_eq!(kinds, [Kind::SlowRecovery]);
    let kinds = planted("stream", |lines| {
        let mut fault_is_over = false;
        for (_, record) in lines {
            fault_is_over |= matches!(record, Record::FaultEnd { .. });
            if let Record::Sample(sample) = record
                && sample.replica == 1
                && fault_is_over
            {
                sample.broker_up = false;
            }
        }
    });
    assert_eq!(kinds, [Kind::SlowRecovery]);
}

#[test]
fn poison_without_its_dead_letter_and_letters_of_what_is_none_are_found() {
    let letter = |number, reason: &str| Record::DeadLetter {
        number,
        reason: reason.into(),
    };
    let poison = number_of(3, 1);
    for (letters, expected) in [
        (vec![], vec![Kind::DeadLetters]),
        (vec![letter(poison, "not_json")], vec![]),
        // A fault stands beside it, which may cost one more.
        (
            vec![letter(poison, "not_json"), letter(poison, "not_json")],
            vec![],
        ),
        (
            vec![
                letter(poison, "not_json"),
                letter(poison, "not_json"),
                letter(poison, "not_json"),
            ],
            vec![Kind::DeadLetters],
        ),
        (vec![letter(poison, "too_large")], vec![Kind::DeadLetters]),
        (
            vec![letter(poison, "not_json"), letter(number(3), "not_json")],
            vec![Kind::DeadLetters],
        ),
    ] {
        for kind in ["stream", "quorum"] {
            let mut lines = clean(kind);
            lines.retain(|(_, record)| !matches!(record, Record::DeadLetter { .. }));
            let end = lines.len() - 1;
            for letter in &letters {
                insert(&mut lines, end, letter.clone());
            }
            assert_eq!(judge(&lines).kinds(), expected, "{kind}: {letters:?}");
        }
    }
}

#[test]
fn an_entitled_client_that_is_refused_is_found() {
    let kinds = planted("stream", |lines| {
        let place = delivery(lines, EVERYTHING, 10);
        insert(
            lines,
            place,
            Record::Answered {
                client: EVERYTHING,
                status: 503,
            },
        );
    });
    assert_eq!(kinds, [Kind::Refused]);
}

#[test]
fn in_a_queue_a_restart_excuses_a_gap_and_what_comes_again_after_it() {
    // The traveller misses what was published while the bridge was away, and is sent again what was not acknowledged.
    let mut lines = clean("quorum");
    lines.remove(delivery(&lines, TRAVELLER, 19));
    let joined = lines
        .iter()
        .position(|(_, record)| *record == gap(TRAVELLER, "unknown", None))
        .expect("it is told")
        + 2;
    insert(
        &mut lines,
        joined,
        Record::Event {
            client: TRAVELLER,
            id: "1-12345678".into(),
            number: Some(number(18)),
        },
    );
    let report = judge(&lines);
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.summary.repeats, 1);
}

#[test]
fn in_a_queue_what_was_lost_long_before_a_restart_is_found() {
    let mut lines = clean("quorum");
    lines.remove(delivery(&lines, TRAVELLER, 3));
    let later = delivery(&lines, TRAVELLER, 10);
    for (at, _) in &mut lines[later..] {
        *at += 60 * SECOND;
    }
    assert_eq!(judge(&lines).kinds(), [Kind::Lost]);
}
