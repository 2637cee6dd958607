//! While a large tree is compared for the first time, changes are on the target within a second.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::compare::wait_until_equal;
use crate::ground::{Ground, holds_text};

const PAUSE: Duration = Duration::from_millis(100);
const COMPARED: &str = "everything is compared";
const PATIENCE: Duration = Duration::from_secs(300);

/// `directories` of ten files each, in top-level directories of a hundred.
fn cold_start(directories: usize, latency_max: Duration) {
    let ground = Ground::new();
    for number in 0..directories {
        let directory = ground.at(&format!("{}/{}", number / 100, number % 100));
        fs::create_dir_all(&directory).unwrap();
        for file in 0..10 {
            fs::write(directory.join(file.to_string()), format!("{number} {file}")).unwrap();
        }
    }
    // Half of it is there already.
    let mut copy = Command::new("rsync");
    copy.arg("-a").args((0..directories / 200).map(|number| ground.at(&number.to_string()))).arg(&ground.target);
    assert!(copy.status().unwrap().success());

    let daemon = ground.daemon();
    let began = Instant::now();
    let mut agent = ground.agent(&[daemon.url().into()], &[]);
    let live = began.elapsed();
    let mut rng = fastrand::Rng::with_seed(5);
    let mut pending: Vec<(Instant, PathBuf, String)> = Vec::new();
    let mut took: Vec<Duration> = Vec::new();
    let (mut next, mut made) = (Instant::now(), 0);
    let mut compared = None;
    loop {
        let now = Instant::now();
        if now >= next {
            next = now + PAUSE;
            if compared.is_none() {
                compared = agent.log().contains(COMPARED).then(|| began.elapsed());
            }
            if compared.is_none() || made < 10 {
                // Files that the comparison has still to reach, and new ones.
                let number = rng.usize(..directories);
                let name = if made % 2 == 0 { "5".to_owned() } else { format!("new {made}") };
                let name = format!("{}/{}/{name}", number / 100, number % 100);
                let text = format!("live change {made}");
                fs::write(ground.at(&name), &text).unwrap();
                pending.push((Instant::now(), ground.there(&name), text));
                made += 1;
            }
        }
        pending.retain(|(since, path, text)| {
            let arrived = holds_text(path, text);
            if arrived {
                took.push(since.elapsed());
            }
            !arrived
        });
        if compared.is_some() && pending.is_empty() && made >= 10 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{pending:?}\n{}", agent.last_log_lines(40));
        std::thread::park_timeout(Duration::from_millis(2));
    }
    took.sort_unstable();
    let max = *took.last().unwrap();
    println!(
        "cold start of {} files in {directories} directories: live after {live:?}, compared after {:?}, {} KiB; \
         {made} live changes: p50 {:?}, max {max:?}",
        directories * 10,
        compared.unwrap(),
        agent.rss_kib(),
        took[took.len() / 2],
    );
    if let Err(found) = wait_until_equal(&ground.source, &ground.target, PATIENCE, Duration::from_millis(200)) {
        panic!("{}\n{}", found.join("\n"), agent.last_log_lines(40));
    }
    assert!(max <= latency_max, "{max:?}");
    assert!(agent.terminate().success());
}

#[test]
fn changes_overtake_the_comparison_of_the_start() {
    cold_start(1_000, Duration::from_secs(3));
}

#[test]
#[ignore = "make soak"]
fn soak_changes_overtake_the_comparison_of_a_large_start() {
    cold_start(10_000, Duration::from_secs(1));
}
