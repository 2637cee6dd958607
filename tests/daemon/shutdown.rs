//! The end of the agent while a transfer runs: soon, and nobody is left behind.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use fansync::lab::Daemon;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::agent::Agent;
use crate::ground::{Ground, PATIENCE, descendants, still_there, until};

/// A daemon that answers nothing any more until it is dropped.
struct Stopped<'a>(&'a Daemon);

impl<'a> Stopped<'a> {
    fn stop(daemon: &'a Daemon) -> Self {
        killpg(group(daemon), Signal::SIGSTOP).unwrap();
        Self(daemon)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _gone_already = killpg(group(self.0), Signal::SIGCONT);
    }
}

fn group(daemon: &Daemon) -> Pid {
    Pid::from_raw(i32::try_from(daemon.pid()).unwrap())
}

/// An agent with transfers under way that will not end by themselves, and all of its processes.
fn hanging<'a>(ground: &Ground, daemon: &'a Daemon) -> (Agent, Stopped<'a>, BTreeMap<i32, u64>) {
    fs::write(ground.at("before"), "").unwrap();
    let agent = ground.agent(&[daemon.url().into()], &[]);
    ground.wait_equal(&agent);
    until("comparison", PATIENCE, &agent, || agent.log().contains("everything is compared"));
    let stopped = Stopped::stop(daemon);
    fs::write(ground.at("big"), vec![b'x'; 9 << 20]).unwrap();
    fs::write(ground.at("small"), "small").unwrap();
    until("two transfers", PATIENCE, &agent, || rsyncs(agent.id()) >= 2);
    let processes = descendants(agent.id());
    (agent, stopped, processes)
}

/// How many of the agent's processes are rsync itself.
fn rsyncs(agent: u32) -> usize {
    let is_rsync =
        |pid: &&i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "rsync");
    descendants(agent).keys().filter(is_rsync).count()
}

#[test]
fn sigterm_ends_a_hanging_transfer_within_ten_seconds() {
    let ground = Ground::new();
    let daemon = ground.daemon();
    let (mut agent, _stopped, processes) = hanging(&ground, &daemon);
    let began = Instant::now();
    let status = agent.terminate();
    println!("SIGTERM with hanging transfers: ended after {:?}", began.elapsed());
    assert!(began.elapsed() <= Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(status.code(), Some(0), "{}", agent.last_log_lines(20));
    assert_eq!(still_there(&processes), Vec::<i32>::new());
}

#[test]
fn a_second_sigterm_ends_it_at_once() {
    let ground = Ground::new();
    let daemon = ground.daemon();
    let (mut agent, _stopped, processes) = hanging(&ground, &daemon);
    agent.signal(Signal::SIGTERM);
    until("first word", PATIENCE, &agent, || agent.log().contains("stopping: "));
    let began = Instant::now();
    let status = agent.terminate();
    println!("second SIGTERM: ended after {:?}", began.elapsed());
    assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(status.code(), Some(0), "{}", agent.last_log_lines(20));
    assert!(agent.log().contains("second signal"), "{}", agent.log());
    assert_eq!(still_there(&processes), Vec::<i32>::new());
}

#[test]
fn a_transfer_that_can_finish_is_let_finish() {
    let ground = Ground::new();
    let daemon = ground.daemon();
    // One that waits is no transfer.
    let mut agent = ground.agent(&[daemon.url().into()], &["--warm", "0"]);
    until("comparison", PATIENCE, &agent, || agent.log().contains("everything is compared"));
    fs::write(ground.at("big"), vec![b'x'; 64 << 20]).unwrap();
    until("a transfer", PATIENCE, &agent, || rsyncs(agent.id()) > 0 || ground.there("big").exists());
    assert_eq!(agent.terminate().code(), Some(0));
    assert_eq!(
        fs::metadata(ground.there("big")).map(|metadata| metadata.len()).ok(),
        Some(64 << 20),
        "{}",
        agent.log()
    );
}

/// PR_SET_PDEATHSIG: an orphan would work against the next agent.
#[test]
fn sigkill_of_the_agent_takes_its_transfers_along() {
    let ground = Ground::new();
    let daemon = ground.daemon();
    let (mut agent, _stopped, processes) = hanging(&ground, &daemon);
    agent.kill();
    let took = until("end of all children", Duration::from_secs(3), &agent, || still_there(&processes).is_empty());
    println!("SIGKILL: {} processes ended after {took:?}", processes.len());
}

/// A local target: rsync's own receiver is a grandchild, which no death signal reaches; it ends because its sender does.
#[test]
fn sigkill_of_the_agent_leaves_no_local_receiver_behind() {
    let ground = Ground::new();
    fs::write(ground.at("big"), vec![b'x'; 32 << 20]).unwrap();
    let slow = ground.slow_rsync();
    let mut agent = ground.agent(&[ground.target.clone().into()], &["--rsync", &slow]);
    until("sender, generator and receiver", PATIENCE, &agent, || rsyncs(agent.id()) >= 3);
    let processes = descendants(agent.id());
    agent.kill();
    let took = until("end of all children", Duration::from_secs(5), &agent, || still_there(&processes).is_empty());
    println!("SIGKILL, local target: {} processes ended after {took:?}", processes.len());
    assert!(!ground.there("big").exists());
}
