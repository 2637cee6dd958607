//! A clock that is set while the agent runs. A program of its own, because every agent of the machine is told.

#![expect(
    clippy::disallowed_methods,
    reason = "a test driver starts processes, reaps them and reads the clock; the bans are for the agent"
)]

#[path = "daemon/agent.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon")]
mod agent;
#[path = "daemon/churn.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon")]
mod churn;
#[path = "daemon/compare.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon")]
mod compare;
#[path = "daemon/ground.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon")]
mod ground;

#[path = "daemon/names.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon")]
mod names;

use std::fs;

use ground::{Ground, PATIENCE, until};

/// Setting the clock to what it is is setting it: ctimes of before and after cannot be compared.
#[test]
fn a_clock_that_is_set_leads_to_a_full_comparison_and_a_new_watermark() {
    let ground = Ground::new();
    fs::create_dir(ground.at("d")).unwrap();
    fs::write(ground.at("d/f"), "as it is").unwrap();
    let daemon = ground.daemon();
    let agent = ground.agent(&[daemon.url().into()], &[]);
    until("comparison", PATIENCE, &agent, || agent.log().contains("everything is compared"));
    // Behind the agent's back: only a comparison finds that.
    fs::write(ground.there("d/f"), "damaged, and of another size").unwrap();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    if let Err(error) = rustix::time::clock_settime(rustix::time::ClockId::Realtime, now) {
        eprintln!("skipped: the clock cannot be set here: {error}");
        return;
    }
    until("full comparison", PATIENCE, &agent, || ground::holds_text(&ground.there("d/f"), "as it is"));
    assert!(agent.log().contains("clock was set"));
    // It goes on from there: the next run has a watermark again.
    fs::write(ground.at("d/g"), "later").unwrap();
    until("later change", PATIENCE, &agent, || ground::holds_text(&ground.there("d/g"), "later"));
    let has_watermark = || {
        let copy = tempfile::tempdir().unwrap();
        let file = "checkpoint.redb";
        fs::copy(ground.place.join("state").join(file), copy.path().join(file)).unwrap();
        let opened = fansync::checkpoint::open(copy.path()).unwrap();
        opened
            .loaded
            .roots
            .values()
            .any(|root| root.record.watermark.is_some_and(|mark| mark.0 / 1_000_000_000 > now.tv_sec))
    };
    until("watermark of after that", PATIENCE, &agent, has_watermark);
}
