//! Bodies that are checked.

use bytes::Bytes;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use sse_bridge::event::payload::{PayloadFormat, PayloadRules};

use crate::message::{json, json_of_lines};

const SIZES: [usize; 4] = [200, 2 * 1024, 16 * 1024, 64 * 1024];

fn check(bencher: Bencher, format: PayloadFormat, body: &Bytes) {
    let rules = PayloadRules {
        format,
        max_bytes: 256 * 1024,
    };
    bencher
        .counter(BytesCount::new(body.len()))
        .bench(|| rules.check(black_box(body)));
}

#[divan::bench(sample_size = 16, args = SIZES)]
fn json_on_one_line(bencher: Bencher, bytes: usize) {
    check(bencher, PayloadFormat::Json, &json(bytes));
}

#[divan::bench(sample_size = 16, args = SIZES)]
fn json_on_many_lines(bencher: Bencher, bytes: usize) {
    check(bencher, PayloadFormat::Json, &json_of_lines(bytes));
}

#[divan::bench(sample_size = 64, args = SIZES)]
fn text(bencher: Bencher, bytes: usize) {
    check(bencher, PayloadFormat::Text, &json(bytes));
}

#[divan::bench(sample_size = 64)]
fn refused(bencher: Bencher) {
    let body = json(200);
    check(bencher, PayloadFormat::Json, &body.slice(..199));
}
