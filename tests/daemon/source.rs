//! The root is replaced under the running agent: nothing is deleted, nothing is sent, and it goes on when it is back.

use std::fs;
use std::time::Duration;

use crate::compare::Snapshot;
use crate::ground::{Ground, PATIENCE, until};

const HELD: &str = "held: the root is not what it was";

#[test]
fn a_replaced_root_deletes_nothing_and_is_resumed_when_it_is_back() {
    let ground = Ground::new();
    fs::create_dir_all(ground.at("d/e")).unwrap();
    for number in 0..20 {
        fs::write(ground.at(&format!("d/e/{number}")), "content").unwrap();
    }
    let daemon = ground.daemon();
    let mut agent = ground.agent(&[daemon.url().into()], &[]);
    ground.wait_equal(&agent);
    until("comparison", PATIENCE, &agent, || agent.log().contains("everything is compared"));
    let before = Snapshot::take(&ground.target);

    let away = ground.place.join("away");
    fs::rename(&ground.source, &away).unwrap();
    fs::create_dir(&ground.source).unwrap();
    // In the old root, whose watches live on, and in the new one.
    fs::write(away.join("d/e/0"), "changed while away").unwrap();
    fs::remove_file(away.join("d/e/1")).unwrap();
    fs::write(ground.at("new"), "in the wrong root").unwrap();
    until("word of being held", PATIENCE, &agent, || agent.log().contains(HELD));
    fs::remove_dir_all(away.join("d")).unwrap();
    // Long enough for several of its looks: each would have deleted.
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        assert_eq!(before.differences(&Snapshot::take(&ground.target), 10), Vec::<String>::new());
        std::thread::park_timeout(Duration::from_millis(50));
    }
    assert_eq!(agent.log().matches(HELD).count(), 1, "said once:\n{}", agent.log());

    fs::remove_dir_all(&ground.source).unwrap();
    fs::rename(&away, &ground.source).unwrap();
    fs::write(ground.at("after"), "back").unwrap();
    ground.wait_equal(&agent);
    until("word of the root's return", PATIENCE, &agent, || agent.log().contains("the root is back"));
    // A mark tells nothing of the root itself.
    let told = agent.log().matches("the root was removed, renamed").count();
    assert!(told <= 1, "not at its return:\n{}", agent.log());
    assert!(agent.terminate().success());
}
