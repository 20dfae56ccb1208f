//! What each step of the hot path takes: `cargo bench` in benches/.

use std::hint::black_box;

use bytes::BytesMut;
use copilot_grpc_bench::steps;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

fn frame(criterion: &mut Criterion) {
    let turn = steps::turn(5);
    let mut group = criterion.benchmark_group("frame");
    group.throughput(Throughput::Bytes(turn.len() as u64));
    group.bench_function("a turn", |bencher| {
        let fresh = || BytesMut::from(&turn[..]);
        bencher.iter_batched_ref(fresh, |buffer| steps::frames(black_box(buffer)), BatchSize::SmallInput);
    });
}

/// Steps that work on one message, for those that differ most.
fn messages(criterion: &mut Criterion) {
    let bodies = steps::bodies(&steps::turn(5));
    for kind in
        ["assistant.message_delta", "assistant.message", "assistant.streaming_delta", "system.message"]
    {
        let mark = format!("\"type\":\"{kind}\"");
        let body = bodies.iter().find(|body| memchr::memmem::find(body, mark.as_bytes()).is_some());
        let body = body.expect("a message of this kind");
        let params = steps::envelope(body).expect("a notification");
        let mut group = criterion.benchmark_group(kind);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function("envelope", |bencher| bencher.iter(|| steps::envelope(black_box(body))));
        group.bench_function("peek", |bencher| bencher.iter(|| steps::peek(black_box(&params))));
        group.bench_function("parse", |bencher| bencher.iter(|| steps::parse(black_box(&params))));
        let event = steps::parse(&params).expect("an event");
        group.bench_function("encode", |bencher| {
            bencher.iter_batched(|| event.clone(), steps::encode, BatchSize::SmallInput);
        });
    }
}

criterion_group!(hot_path, frame, messages);
criterion_main!(hot_path);
