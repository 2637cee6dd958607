//! The limit of a target: what is sent takes its time, by one lane and by several. Lower bounds only: a busy machine is slower.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::agent::{Agent, watch_key};
use crate::ground::{Ground, PATIENCE, descendants, status, until};

const MIB: usize = 1 << 20;

fn is_whole(source: &Path, target: &Path) -> bool {
    let size = |path: &Path| fs::metadata(path).map(|metadata| metadata.len()).ok();
    size(target).is_some() && size(source) == size(target)
}

/// Bytes that no rsync would leave out or shorten.
fn noise(bytes: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut noise = vec![0; bytes];
    rng.fill(&mut noise);
    noise
}

/// The limits that the running rsyncs of the agent were given. Unit: KiB per second.
fn limits(agent: &Agent) -> Vec<u64> {
    let lines = descendants(agent.id()).into_keys().filter_map(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok());
    lines
        .filter_map(|line| {
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            let limit = words.iter().find_map(|word| word.strip_prefix(b"--bwlimit="))?;
            std::str::from_utf8(limit).ok()?.parse().ok()
        })
        .collect()
}

#[test]
fn what_is_sent_takes_the_time_that_its_limit_asks_for() {
    for local in [false, true] {
        let ground = Ground::new();
        let daemon = ground.daemon();
        let target = if local { ground.target.clone().into_os_string() } else { daemon.url().into() };
        let mut agent = ground.agent(&[target], &["--bandwidth", "1MiB/s"]);
        let status = status(&ground.place.join("state")).expect("it answers");
        assert_eq!(status["roots"][0]["targets"][0]["bandwidth"], 1 << 20);
        let began = Instant::now();
        fs::write(ground.at("file"), noise(4 * MIB)).unwrap();
        until("file", PATIENCE, &agent, || is_whole(&ground.at("file"), &ground.there("file")));
        let took = began.elapsed();
        println!("4 MiB at 1 MiB/s, local {local}: {took:?}");
        assert!(took >= Duration::from_millis(3_500), "{took:?}");
        assert!(agent.terminate().success());
    }
}

#[test]
fn lanes_share_the_limit_and_small_files_do_not_wait_for_a_large_one() {
    let ground = Ground::new();
    let daemon = ground.daemon();
    let text = format!(
        "state_dir: {}\nroots:\n  - name: data\n    path: {}\n{}    targets:\n      - url: {}\n        name: t\n        \
         large_file: 1MiB\n        bandwidth:\n          - {{from: \"20:00\", to: \"08:00\", limit: 1MiB/s}}\n          \
         - limit: 1MiB/s\n",
        ground.place.join("state").display(),
        ground.source.display(),
        watch_key(),
        daemon.url(),
    );
    let mut agent = ground.agent_by(&text);
    let began = Instant::now();
    fs::write(ground.at("large"), noise(4 * MIB)).unwrap();
    until("run of the large file", PATIENCE, &agent, || !limits(&agent).is_empty());
    let (mut together, mut written, mut early) = (0, 0, 0);
    until("all files", PATIENCE, &agent, || {
        let limits = limits(&agent);
        assert!(limits.iter().sum::<u64>() <= 1024, "{limits:?}");
        together = together.max(limits.len());
        if written < 10 {
            fs::write(ground.at(&format!("small-{written}")), noise(MIB / 10)).unwrap();
            written += 1;
        }
        let large = is_whole(&ground.at("large"), &ground.there("large"));
        let small =
            |number: &i32| is_whole(&ground.at(&format!("small-{number}")), &ground.there(&format!("small-{number}")));
        let arrived = (0..10).filter(small).count();
        if !large {
            early = early.max(arrived);
        }
        large && arrived == 10
    });
    let took = began.elapsed();
    println!("5 MiB at 1 MiB/s by {together} lanes: {took:?}; {early} of 10 small files before the large one");
    assert!(took >= Duration::from_millis(4_400), "{took:?}");
    assert!(together >= 2, "only one lane had something to send");
    assert!(early > 0, "no small file came before the large one");
    assert!(agent.terminate().success());
}
