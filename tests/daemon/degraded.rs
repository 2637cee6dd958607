//! The kernel has no watch left: what cannot be watched is looked through now and then, and told of; when there are
//! watches again, it is watched.
//!
//! The limit is that of a user namespace of the agent's own, so that nobody else on this machine is concerned.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::agent::Agent;
use crate::ground::{Ground, PATIENCE, holds_text, until};

const LIMIT: &str = "/proc/sys/user/max_inotify_watches";

fn status(ground: &Ground) -> Option<(Option<i32>, Value)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
    command.args(["status", "--json", "--state"]).arg(ground.place.join("state"));
    let output = command.output().expect("fansync can be run");
    Some((output.status.code(), serde_json::from_slice(&output.stdout).ok()?))
}

#[test]
fn directories_without_a_watch_are_looked_through_until_they_have_one() {
    let script = |limit: u32| format!("echo {limit} > {LIMIT}");
    if !Command::new("unshare").args(["-Ur", "sh", "-c", &script(1000)]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no user namespace is to be had here");
        return;
    }
    let ground = Ground::new();
    for number in 0..40 {
        fs::create_dir_all(ground.at(&format!("{number}/deep"))).unwrap();
        fs::write(ground.at(&format!("{number}/deep/f")), "old").unwrap();
    }
    let mut command = Command::new("unshare");
    command.args(["-Ur", "sh", "-c", &format!("{}; exec \"$@\"", script(30)), "sh"]);
    command.arg(env!("CARGO_BIN_EXE_fansync")).arg("mirror").arg(&ground.source).arg(&ground.target);
    command.arg("--state").arg(ground.place.join("state")).args(["--shards", "2"]);
    command.env("FANSYNC_TEST_UNWATCHED_MS", "500").env("FANSYNC_TEST_SLACK_MS", "200");
    let mut agent = Agent::spawn(command, &ground.place);
    agent.wait_ready();
    ground.wait_equal(&agent);

    let (code, told) = status(&ground).unwrap();
    assert_eq!(code, Some(3), "{told}");
    let unwatched = told["roots"][0]["unwatched"].as_u64().unwrap();
    assert!(unwatched >= 20, "{told}");
    assert_eq!(told["roots"][0]["degraded"][0]["reason"], "unwatched");
    let watermark = |told: &Value| told["roots"][0]["watermark"].as_f64();

    // Wherever it is, watched or not: changes, deletes and whole trees that are older than any watermark.
    fs::create_dir_all(ground.place.join("old tree/inner")).unwrap();
    fs::write(ground.place.join("old tree/inner/f"), "from outside").unwrap();
    for number in 0..40 {
        fs::write(ground.at(&format!("{number}/deep/f")), "new").unwrap();
        fs::write(ground.at(&format!("{number}/deep/g")), "also new").unwrap();
    }
    fs::rename(ground.place.join("old tree"), ground.at("39/deep/moved in")).unwrap();
    fs::remove_dir_all(ground.at("38/deep")).unwrap();
    ground.wait_equal(&agent);
    // The watermark does not stand still, nor does it run ahead of what was looked through.
    let before = watermark(&status(&ground).unwrap().1).unwrap();
    until("watermark", PATIENCE, &agent, || watermark(&status(&ground).unwrap().1).is_some_and(|now| now > before));

    let pid = agent.id().to_string();
    let raised =
        Command::new("nsenter").args(["-U", "--preserve-credentials", "-t", &pid, "sh", "-c", &script(1000)]).status();
    assert!(raised.is_ok_and(|status| status.success()), "the limit can be raised as it was lowered");
    let healthy = || status(&ground).is_some_and(|(code, told)| code == Some(0) && told["roots"][0]["unwatched"] == 0);
    until("healthy again without a restart", PATIENCE, &agent, healthy);
    for number in 0..37 {
        let name = format!("{number}/deep/f");
        fs::write(ground.at(&name), "watched").unwrap();
    }
    until("last change", PATIENCE, &agent, || {
        (0..37).all(|number| holds_text(&ground.there(&format!("{number}/deep/f")), "watched"))
    });
    ground.wait_equal(&agent);
}
