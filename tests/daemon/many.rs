//! Many targets of one root: how many rsyncs there are at the same time, and that those that hang do not stop the others.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::agent::{Agent, watch_key};
use crate::compare::wait_until_equal;
use crate::ground::{Ground, PATIENCE, holds_text, until};

/// An rsync that writes `+` and `-` into a file when it begins and ends.
fn counted_rsync(ground: &Ground) -> (PathBuf, PathBuf) {
    let (program, log) = (ground.place.join("counted-rsync"), ground.place.join("counts"));
    fs::write(&log, "").unwrap();
    let script = format!("#!/bin/sh\necho + >> {0}\nrsync \"$@\"\ncode=$?\necho - >> {0}\nexit $code\n", log.display());
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    (program, log)
}

/// Runs, and how many of them at the same time at most.
fn counts(log: &str) -> (usize, usize) {
    let (mut runs, mut now, mut most) = (0, 0, 0);
    for line in log.lines() {
        match line {
            "+" => (runs, now) = (runs + 1, now + 1),
            _ => now -= 1,
        }
        most = most.max(now);
    }
    (runs, most)
}

fn agent(ground: &Ground, processes: usize, more: &str, urls: &[String]) -> Agent {
    let targets: Vec<String> = (0..)
        .zip(urls)
        .map(|(number, url)| format!("      - {{name: t{number}, url: \"{url}\", timeout: 3s, connect_timeout: 2s}}\n"))
        .collect();
    let text = format!(
        "state_dir: {}\nprocesses: {processes}\n{more}roots:\n  - path: {}\n{}    targets:\n{}",
        ground.place.join("state").display(),
        ground.source.display(),
        watch_key(),
        targets.concat()
    );
    ground.agent_by(&text)
}

#[test]
fn many_targets_share_few_processes_and_all_are_served() {
    const TARGETS: usize = 6;
    const PROCESSES: usize = 2;
    let ground = Ground::new();
    let daemon = ground.daemon();
    let (program, log) = counted_rsync(&ground);
    let names: Vec<String> = (0..TARGETS).map(|number| format!("t{number}")).collect();
    names.iter().for_each(|name| fs::create_dir(ground.there(name)).unwrap());
    let urls: Vec<String> = names.iter().map(|name| format!("{}/{name}", daemon.url())).collect();
    let mut agent = agent(&ground, PROCESSES, &format!("rsync: {}\n", program.display()), &urls);
    let equal = || {
        for name in &names {
            if let Err(found) =
                wait_until_equal(&ground.source, &ground.there(name), PATIENCE, Duration::from_millis(20))
            {
                panic!("{name}:\n{}\n{}", found.join("\n"), agent.last_log_lines(40));
            }
        }
    };
    equal();
    until("end of the runs", PATIENCE, &agent, || {
        let log = fs::read_to_string(&log).unwrap();
        log.lines().filter(|line| *line == "+").count() * 2 == log.lines().count()
    });
    // At the start each target was asked whether it is there, all at once.
    let before = fs::read_to_string(&log).unwrap().len();
    for number in 0..300 {
        fs::write(ground.at(&format!("f{number}")), number.to_string()).unwrap();
        if number % 10 == 0 {
            // A flood would be one batch for each.
            let name = format!("f{number}");
            until("one of them", PATIENCE, &agent, || {
                names.iter().any(|target| holds_text(&ground.there(target).join(&name), &number.to_string()))
            });
        }
    }
    equal();
    let (runs, most) = counts(&fs::read_to_string(&log).unwrap()[before..]);
    println!("{runs} runs, at most {most} at the same time");
    assert!(most <= PROCESSES && runs >= TARGETS * 2, "{runs} runs, {most} at the same time");
    assert!(agent.terminate().success());
}

#[test]
fn targets_that_hang_do_not_stop_the_others() {
    let ground = Ground::new();
    let daemon = ground.daemon();
    fs::create_dir(ground.there("well")).unwrap();
    // They take connections and never say a word.
    let silent: Vec<TcpListener> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let address = |listener: &TcpListener| format!("rsync://{}/mirror", listener.local_addr().unwrap());
    let urls: Vec<String> = silent.iter().map(address).chain([format!("{}/well", daemon.url())]).collect();
    let mut agent = agent(&ground, 3, "", &urls);
    for number in 0..3 {
        let name = format!("f{number}");
        fs::write(ground.at(&name), &name).unwrap();
        until(&name, PATIENCE, &agent, || holds_text(&ground.there("well").join(&name), &name));
    }
    agent.terminate();
}
