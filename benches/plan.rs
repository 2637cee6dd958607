//! The plan of one draft: from marks and looks to the lists of the rsync runs.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fansync::change::{BatchId, Class, Content, Draft, DraftMark, MarkKind, Priority};
use fansync::path::RelPath;
use fansync::plan::{Look, PlanOptions, Siblings, Sighting, plan};
use fansync::sys::clock::WallTime;
use fansync::sys::files::{EntryType, Identity, Status};

const POINTS: usize = 5_000;

const OPTIONS: PlanOptions = PlanOptions {
    large: 64 << 20,
    whole_max: 1 << 20,
    bytes_max: 1 << 30,
    entries_max: 100_000,
    follow_max: 50_000,
    missing_args: true,
    keep: false,
};

fn mark(number: usize) -> DraftMark {
    let path = format!("data/directory-{:03}/file-{number:06}.jpg", number / 100);
    DraftMark {
        deletes: fansync::change::Deletes::Single,
        path: RelPath::parse(path.as_bytes()).expect("a clean path"),
        kind: MarkKind::Point,
        content: Content::Resend,
        derived: false,
        attempts: 0,
        origin: None,
    }
}

/// Every tenth path is gone.
fn sighting(number: usize) -> Sighting {
    let status = Status {
        entry_type: EntryType::File,
        identity: Identity { device: 1, inode: number as u64 },
        links: 1,
        size: 10_000,
        changed: WallTime(0),
        modified: WallTime(0),
    };
    let look = if number.is_multiple_of(10) { Look::Absent } else { Look::Present(status) };
    Sighting { look, excluded: false, siblings: Siblings::default(), survey: None }
}

fn plan_points(criterion: &mut Criterion) {
    let draft = Draft {
        batch: BatchId(1),
        class: Class::Points,
        priority: Priority::Live,
        large: false,
        marks: (0..POINTS).map(mark).collect(),
    };
    let sightings: Vec<Sighting> = (0..POINTS).map(sighting).collect();
    let mut group = criterion.benchmark_group("plan");
    group.throughput(Throughput::Elements(POINTS as u64));
    group.bench_function("5,000 points, one in ten gone", |bencher| {
        bencher.iter(|| plan(black_box(&draft), black_box(&sightings), &OPTIONS));
    });
    group.finish();
}

criterion_group!(benches, plan_points);
criterion_main!(benches);
