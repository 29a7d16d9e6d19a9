//! Ids as clients bring them back and as they are written, and the marks of records.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use sse_bridge::event::id::{EventId, MalformedId, Mark, Marking, Position};

use crate::message::{TIMESTAMP, USUAL, id, json};

const LARGE: usize = 64 * 1024;

#[divan::bench(sample_size = 1024, args = ["48211-9f3c01ab", "18446744073709551615-ffffffff"])]
fn parse(text: &str) -> Result<EventId, MalformedId> {
    text.parse()
}

#[divan::bench(sample_size = 1024, args = ["0048211-9f3c01ab", "48211-9F3C01AB", "everything"])]
fn parse_malformed(text: &str) -> Result<EventId, MalformedId> {
    text.parse()
}

#[divan::bench(sample_size = 1024, args = [48_211, u64::MAX])]
fn format(position: u64) -> String {
    id(black_box(position)).to_string()
}

#[divan::bench(sample_size = 256, args = [USUAL, LARGE])]
fn mark(bencher: Bencher, bytes: usize) {
    let body = json(bytes);
    bencher.counter(BytesCount::new(bytes)).bench(|| {
        Mark::of_record(
            Position::new(48_211),
            black_box("team.7.job.9.status"),
            None,
            Some(TIMESTAMP),
            black_box(&body),
        )
    });
}

#[divan::bench(sample_size = 256, args = [USUAL, LARGE])]
fn keyed_mark(bencher: Bencher, bytes: usize) {
    let body = json(bytes);
    let marking = Marking::keyed("a secret of thirty-two characters");
    bencher.counter(BytesCount::new(bytes)).bench(|| {
        marking.mark(
            Position::new(48_211),
            black_box("team.7.job.9.status"),
            None,
            Some(TIMESTAMP),
            black_box(&body),
        )
    });
}
