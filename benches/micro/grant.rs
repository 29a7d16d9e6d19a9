//! What a client may see of what it asks for, and whether an event is of that.

use std::collections::BTreeSet;

use divan::{Bencher, black_box};
use sse_bridge::auth::{Grant, Permission, Reach, Validity, Wanted};
use sse_bridge::event::EventName;
use sse_bridge::event::address::Attributes;
use sse_bridge::event::audience::Identifier;
use sse_bridge::event::filter::Filter;
use sse_bridge::event::scope::Scope;

use crate::message::{address_rules, json, message, user};

fn identifiers(prefix: &str, count: usize) -> Vec<Identifier> {
    (0..count)
        .map(|number| format!("{prefix}{number}").parse().unwrap())
        .collect()
}

/// Somebody in so many teams who may listen to all channels of the news.
fn grant(teams: usize) -> Grant {
    let reach = Reach::Somebody {
        tenant: Some("acme".parse().unwrap()),
        user: Some("42".parse().unwrap()),
        teams: BTreeSet::from_iter(identifiers("team-", teams)),
        channels: vec!["news.#".parse().unwrap()],
    };
    Grant::new(reach, vec![Permission::Read], Validity::default())
}

fn wanted() -> Wanted {
    Wanted {
        broadcast: true,
        ..Wanted::default()
    }
}

#[divan::bench(sample_size = 64, args = [1, 50])]
fn all_that_is_granted(bencher: Bencher, teams: usize) {
    let (grant, wanted) = (grant(teams), wanted());
    bencher.bench(|| grant.scope(black_box(&wanted)));
}

#[divan::bench(sample_size = 64, args = [1, 50])]
fn what_was_asked_for(bencher: Bencher, teams: usize) {
    let grant = grant(50);
    let wanted = Wanted {
        teams: identifiers("team-", teams),
        channels: identifiers("news.", 1),
        ..wanted()
    };
    bencher.bench(|| grant.scope(black_box(&wanted)));
}

#[divan::bench(sample_size = 64)]
fn refused(bencher: Bencher) {
    let grant = grant(50);
    let wanted = Wanted {
        teams: identifiers("team-", 51),
        ..wanted()
    };
    bencher.bench(|| grant.scope(black_box(&wanted)));
}

#[divan::bench(sample_size = 1024)]
fn everything_covers(bencher: Bencher) {
    let audience = user("42");
    let scope = Scope::Everything {
        tenant: None,
        broadcast: false,
    };
    bencher.bench(|| scope.covers(black_box(&audience)));
}

#[divan::bench(sample_size = 256)]
fn filter_by_topic_name_and_attribute(bencher: Bencher) {
    let topic = "team.7.job.9.status";
    let addressed = address_rules().address(&message(topic, &[], json(200)));
    let attributes: Attributes = addressed.unwrap().attributes;
    let name: EventName = "job.status".parse().unwrap();
    let filter = Filter {
        topics: vec!["team.*.job.#".parse().unwrap()],
        names: vec!["job.failed".parse().unwrap(), name.clone()],
        attributes: vec![("job_id".to_owned(), vec!["8".to_owned(), "9".to_owned()])],
    };
    bencher.bench(|| filter.matches(black_box(topic), Some(&name), &attributes));
}
