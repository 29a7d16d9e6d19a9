//! Messages that find their audience, by each rule, and those that find none.

use divan::{Bencher, black_box};
use sse_bridge::event::address::AddressRules;
use sse_bridge::event::{HeaderValue, Message};

use crate::message::{USUAL, address_rules, json, message};

fn address(bencher: Bencher, rules: &AddressRules, message: &Message) {
    bencher.bench(|| rules.address(black_box(message)));
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::Text(value.to_owned())
}

#[divan::bench(sample_size = 256)]
fn by_header(bencher: Bencher) {
    let headers = [("trace", text("00-4bf9-01")), ("user-id", text("42"))];
    let message = message("orders.created", &headers, json(USUAL));
    address(bencher, &address_rules(), &message);
}

#[divan::bench(sample_size = 256)]
fn by_header_in_a_tenant(bencher: Bencher) {
    let headers = [
        ("tenant-id", text("acme")),
        ("team-id", HeaderValue::Integer(7)),
    ];
    let message = message("orders.created", &headers, json(USUAL));
    address(bencher, &address_rules(), &message);
}

#[divan::bench(
    sample_size = 256,
    args = ["team.7.job.9.status", "team.7.note", "user.42.mail", "channel.news.posted.today"]
)]
fn by_template(bencher: Bencher, routing_key: &str) {
    let message = message(routing_key, &[], json(USUAL));
    address(bencher, &address_rules(), &message);
}

#[divan::bench(sample_size = 64, args = [USUAL, 16 * 1024])]
fn by_field(bencher: Bencher, bytes: usize) {
    let rules = AddressRules {
        user_field: Some("/meta/user_id".parse().unwrap()),
        ..address_rules()
    };
    let jobs = String::from_utf8(json(bytes - 35).to_vec()).unwrap();
    let body = format!(r#"{{"jobs":{jobs},"meta":{{"user_id":42}}}}"#);
    let message = message("orders.created", &[], body.into());
    address(bencher, &rules, &message);
}

#[divan::bench(sample_size = 256)]
fn broadcast(bencher: Bencher) {
    let message = message("broadcast.maintenance", &[], json(USUAL));
    address(bencher, &address_rules(), &message);
}

#[divan::bench(sample_size = 64)]
fn refused_as_unaddressed(bencher: Bencher) {
    let message = message("orders.created", &[], json(USUAL));
    address(bencher, &address_rules(), &message);
}

#[divan::bench(sample_size = 64)]
fn refused_as_bad_address(bencher: Bencher) {
    let headers = [("user-id", HeaderValue::Other("bool"))];
    let message = message("orders.created", &headers, json(USUAL));
    address(bencher, &address_rules(), &message);
}
