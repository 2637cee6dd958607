//! Events per second out of a full read: the goal is at most 1 µs per event for reading and coalescing together.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fansync::event::{Record, decode, decode_fanotify};

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

/// The same of a fanotify mark: one record for all that is done to a file.
fn marked_buffer() -> (Vec<u8>, u64) {
    let mut bytes = Vec::with_capacity(BUFFER);
    for file in 0_u64.. {
        let name = format!("file-{file:08}.jpg");
        let body = (4 + 8 + 8 + 8 + name.len() + 1).next_multiple_of(4);
        if bytes.len() + 24 + body > BUFFER {
            return (bytes, file);
        }
        let mask = libc::FAN_CREATE | libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE;
        let end = bytes.len() + 24 + body;
        bytes.extend(u32::try_from(24 + body).expect("a name is short").to_ne_bytes());
        bytes.extend([libc::FANOTIFY_METADATA_VERSION, 0]);
        bytes.extend(24_u16.to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend((-1_i32).to_ne_bytes());
        bytes.extend(1_i32.to_ne_bytes());
        bytes.extend([libc::FAN_EVENT_INFO_TYPE_DFID_NAME, 0]);
        bytes.extend(u16::try_from(body).expect("a name is short").to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(8_u32.to_ne_bytes());
        bytes.extend(1_i32.to_ne_bytes());
        bytes.extend(7_u64.to_ne_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.resize(end, 0);
    }
    unreachable!("the buffer is finite")
}

fn decode_a_full_marked_buffer(criterion: &mut Criterion) {
    let (bytes, records) = marked_buffer();
    let mut group = criterion.benchmark_group("decode_fanotify");
    group.throughput(Throughput::Elements(records));
    group.bench_function("64 KiB of merged create, modify, close", |bencher| {
        bencher.iter(|| {
            let mut events = 0;
            decode_fanotify(black_box(&bytes), |record| match record {
                Record::Event(event) => events += usize::from(!event.name.is_empty()),
                Record::Nameless(_) | Record::Overflow => unreachable!("the records are whole"),
            });
            assert_eq!(events as u64, records * 3);
            events
        });
    });
    group.finish();
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

criterion_group!(benches, decode_a_full_buffer, decode_a_full_marked_buffer);
criterion_main!(benches);
