//! Events that become frames: the block of every client, and the envelope of those that ask for it.

use bytes::Bytes;
use divan::Bencher;
use divan::counter::BytesCount;
use sse_bridge::frame::{Block, Frame, sse};
use tokio::time::Instant;

use crate::message::{event, frame, id, json, json_of_lines, team};

const SIZES: [usize; 3] = [200, 2 * 1024, 64 * 1024];

fn encode(bencher: Bencher, body: &Bytes) {
    let audience = team("7");
    let now = Instant::now();
    bencher
        .counter(BytesCount::new(body.len()))
        .with_inputs(|| event(48_211, &audience, body))
        .bench_local_values(|event| Frame::encode(event, now));
}

#[divan::bench(sample_size = 16, args = SIZES)]
fn one_line(bencher: Bencher, bytes: usize) {
    encode(bencher, &json(bytes));
}

#[divan::bench(sample_size = 16, args = SIZES)]
fn many_lines(bencher: Bencher, bytes: usize) {
    encode(bencher, &json_of_lines(bytes));
}

fn envelope(bencher: Bencher, body: &Bytes) {
    let audience = team("7");
    bencher
        .counter(BytesCount::new(body.len()))
        .with_inputs(|| frame(48_211, &audience, body))
        .bench_local_refs(|frame| frame.sse_envelope().len());
}

#[divan::bench(sample_size = 16, args = SIZES)]
fn envelope_of_one_line(bencher: Bencher, bytes: usize) {
    envelope(bencher, &json(bytes));
}

#[divan::bench(sample_size = 16, args = SIZES)]
fn envelope_of_many_lines(bencher: Bencher, bytes: usize) {
    envelope(bencher, &json_of_lines(bytes));
}

#[divan::bench(sample_size = 256)]
fn checkpoint() -> Block {
    sse::checkpoint(divan::black_box(id(48_211)))
}
