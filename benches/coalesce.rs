//! The change set: what a mark costs, and a whole round of mark, take and conclude.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fansync::change::{ChangeSet, ChangeSetOptions, Fate, Mark, MarkKind, Now, SettleOptions, Want};
use fansync::path::RelPath;
use fansync::sys::clock::{coarse_now, now};

const POINTS: usize = 10_000;

const WANT: Want = Want { large: false, background: true, marks_max: 5_000, newest: false };

fn empty() -> ChangeSet {
    ChangeSet::new(ChangeSetOptions { settle: SettleOptions::default(), marks_max: 200_000, saved: true })
}

fn at(instant: Instant) -> Now {
    Now { instant, wall: coarse_now() }
}

/// Files of one tree, a hundred to a directory.
fn points() -> Vec<Mark> {
    (0..POINTS)
        .map(|file| {
            let path = format!("data/year-2026/directory-{:03}/file-{file:06}.jpg", file / 100);
            Mark::new(RelPath::parse(path.as_bytes()).expect("a clean path"), MarkKind::Point)
        })
        .collect()
}

fn filled(marks: &[Mark], time: Instant) -> ChangeSet {
    let mut set = empty();
    for mark in marks {
        set.mark(at(time), mark);
    }
    set
}

fn coalesce(criterion: &mut Criterion) {
    let marks = points();
    let start = now();
    let mut group = criterion.benchmark_group("coalesce");
    group.throughput(Throughput::Elements(POINTS as u64));
    group.bench_function("mark 10,000 points, take, conclude", |bencher| {
        bencher.iter(|| {
            let mut set = filled(black_box(&marks), start);
            let later = start + Duration::from_secs(60);
            let mut done = 0;
            while let Some(draft) = set.take(later, WANT) {
                done += draft.marks.len();
                black_box(set.conclude(at(later), draft.batch, |_| Fate::Done));
            }
            assert!(done >= POINTS);
            done
        });
    });
    group.bench_function("mark one hot path 10,000 times", |bencher| {
        bencher.iter(|| {
            let mut set = empty();
            let mut time = start;
            for _event in 0..POINTS {
                time += Duration::from_micros(10);
                set.mark(Now { instant: time, wall: fansync::sys::clock::WallTime(0) }, black_box(&marks[0]));
            }
            set.pending()
        });
    });
    let mut gone = Mark::new(RelPath::parse(b"data/year-2026").expect("a clean path"), MarkKind::Point);
    gone.gone_directory = true;
    group.bench_function("a gone directory sweeps 10,000 points", |bencher| {
        bencher.iter_batched_ref(
            || filled(&marks, start),
            |set| {
                set.mark(at(start + Duration::from_millis(1)), black_box(&gone));
                set.pending()
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30);
    targets = coalesce
}
criterion_main!(benches);
