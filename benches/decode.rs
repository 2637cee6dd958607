//! Events per second out of a full read: the goal is at most 1 µs per event for reading and coalescing together.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fansync::event::{Record, decode};

/// What one read of the shard takes at most. Unit: bytes.
const BUFFER: usize = 64 * 1024;

/// A buffer full of create, modify, close as a writer of small files makes them, and how many that are.
fn buffer() -> (Vec<u8>, u64) {
    let mut bytes = Vec::with_capacity(BUFFER);
    let mut events = 0;
    for file in 0.. {
        let name = format!("file-{file:08}.jpg");
        for mask in [libc::IN_CREATE, libc::IN_MODIFY, libc::IN_CLOSE_WRITE] {
            let padded = (name.len() / 16 + 1) * 16;
            if bytes.len() + 16 + padded > BUFFER {
                return (bytes, events);
            }
            let header = [1, mask, 0, u32::try_from(padded).expect("a name is short")];
            bytes.extend(header.into_iter().flat_map(u32::to_ne_bytes));
            bytes.extend_from_slice(name.as_bytes());
            bytes.resize(bytes.len() + padded - name.len(), 0);
            events += 1;
        }
    }
    unreachable!("the buffer is finite")
}

fn decode_a_full_buffer(criterion: &mut Criterion) {
    let (bytes, events) = buffer();
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(events));
    group.bench_function("64 KiB of create, modify, close", |bencher| {
        bencher.iter(|| {
            let mut name_bytes = 0;
            decode(black_box(&bytes), |record| match record {
                Record::Event(event) => name_bytes += event.name.len(),
                Record::Nameless(_) | Record::Overflow => unreachable!("the records are whole"),
            });
            name_bytes
        });
    });
    group.finish();
}

criterion_group!(benches, decode_a_full_buffer);
criterion_main!(benches);
