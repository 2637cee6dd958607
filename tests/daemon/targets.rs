//! One target is dead from start to end: it costs the other nothing, and catches up when it comes.

use std::fs;
use std::time::Duration;

use fansync::lab::{Daemon, DaemonOptions, MODULE, free_port};

use crate::churn::Churn;
use crate::compare::wait_until_equal;
use crate::ground::{Ground, trickle};
use crate::names::Names;

const FILES: usize = 40;
/// Generous, because other tests run beside this one; the measured ratio is printed.
const RATIO_MAX: f64 = 3.0;
const RSS_MAX_KIB: u64 = 200 * 1024;
const LINES_MAX: usize = 60;

#[test]
fn a_dead_target_costs_the_other_nothing_and_catches_up() {
    let ground = Ground::new();
    fs::remove_dir(&ground.source).unwrap();
    let mut churn = Churn::new(11, ground.source.clone(), ground.place.join("outside"), Names::Plain);
    churn.fill(80);
    let daemon = ground.daemon();

    let mut alone = ground.agent(&[daemon.url().into()], &[]);
    ground.wait_equal(&alone);
    let without = trickle(&alone, &ground.source, &ground.target, "alone", FILES);
    assert!(alone.terminate().success());

    let port = free_port().unwrap();
    let dead = format!("rsync://127.0.0.1:{port}/{MODULE}");
    let mut agent = ground.agent(&[daemon.url().into(), dead.clone().into()], &[]);
    ground.wait_equal(&agent);
    let with = trickle(&agent, &ground.source, &ground.target, "beside", FILES);
    churn.run(400);
    churn.close_all();
    ground.wait_equal(&agent);

    let rss = agent.rss_kib();
    let lines = agent.log().lines().filter(|line| line.contains(&dead)).count();
    let ratio = with[FILES / 2].as_secs_f64() / without[FILES / 2].as_secs_f64();
    println!(
        "dead target: p50 {:?} alone, {:?} beside it, ratio {ratio:.2}; max {:?}, {:?}; {rss} KiB, {lines} lines about it",
        without[FILES / 2],
        with[FILES / 2],
        without[FILES - 1],
        with[FILES - 1],
    );
    assert!(ratio <= RATIO_MAX, "{ratio}");
    assert!(rss < RSS_MAX_KIB, "{rss} KiB");
    assert!((1..=LINES_MAX).contains(&lines), "{lines} lines:\n{}", agent.log());

    let late = ground.place.join("late");
    fs::create_dir(&late).unwrap();
    let options = DaemonOptions { port: Some(port), ..DaemonOptions::default() };
    let _late_daemon = Daemon::start(&late, &ground.place, &options).unwrap();
    // Its next probe is at most a minute away.
    match wait_until_equal(&ground.source, &late, Duration::from_secs(90), Duration::from_millis(100)) {
        Ok(took) => println!("dead target: equal {took:?} after its start"),
        Err(found) => panic!("{}\n{}", found.join("\n"), agent.last_log_lines(40)),
    }
    ground.wait_equal(&agent);
    assert!(agent.log().contains("target takes changes again"), "{}", agent.log());
    assert!(agent.terminate().success());
}
