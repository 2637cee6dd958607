//! A running agent, asked over its control socket by the real commands.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fansync::lab::{Daemon, DaemonOptions, MODULE, free_port};
use serde_json::{Value, json};

use crate::agent::{Agent, watch_key};
use crate::churn::Churn;
use crate::compare::differences;
use crate::ground::{Ground, PATIENCE, holds_text, until};
use crate::names::Names;

/// What a command said.
struct Said {
    code: i32,
    out: String,
    err: String,
}

fn said(command: &mut Command) -> Said {
    let output = command.output().expect("the program can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program speaks UTF-8");
    Said { code: output.status.code().expect("it exits"), out: text(output.stdout), err: text(output.stderr) }
}

impl Ground {
    fn state(&self) -> PathBuf {
        self.place.join("state")
    }

    /// Runs a command against the agent of this ground.
    fn ask<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
        said(command.args(arguments).arg("--state").arg(self.state()))
    }

    /// Runs a command that must be done.
    fn done<A: AsRef<OsStr>>(&self, arguments: &[A]) -> String {
        let said = self.ask(arguments);
        assert_eq!(said.code, 0, "{}{}", said.out, said.err);
        said.out
    }

    fn status(&self) -> (i32, Value) {
        let said = self.ask(&["status", "--json"]);
        (
            said.code,
            serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {} {}", said.out, said.err)),
        )
    }

    fn target_status(&self, index: usize) -> Value {
        self.status().1["roots"][0]["targets"][index].clone()
    }
}

fn connect(state: &Path) -> UnixStream {
    let stream = UnixStream::connect(state.join("control.sock")).expect("the agent listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn read_line(stream: &UnixStream) -> Value {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

fn dead() -> String {
    format!("rsync://127.0.0.1:{}/{MODULE}", free_port().unwrap())
}

#[test]
fn status_tells_a_healthy_target_from_a_dead_one() {
    let ground = Ground::new();
    let daemon = ground.daemon();
    fs::create_dir(ground.at("d")).unwrap();
    fs::write(ground.at("d/f"), "f").unwrap();
    let mut agent = ground.agent(&[daemon.url().into()], &[]);
    ground.done(&["wait", "--timeout", "30s"]);
    until("full comparison", PATIENCE, &agent, || ground.target_status(0)["compared"] == true);
    let (code, status) = ground.status();
    assert_eq!(code, 0, "{status}");
    assert_eq!(status["pid"], agent.id());
    assert_eq!(status["state_dir"], ground.state().to_str().unwrap());
    let root = &status["roots"][0];
    assert_eq!((&root["name"], &root["state"], &root["watched"]), (&json!("source"), &json!("live"), &json!(2)));
    let target = &root["targets"][0];
    for (key, value) in [
        ("state", json!("ok")),
        ("url", json!(daemon.url())),
        ("cause", Value::Null),
        ("pending", json!(0)),
        ("in_flight", json!(0)),
        ("oldest_seconds", Value::Null),
        ("paused", json!(false)),
    ] {
        assert_eq!(target[key], value, "{key}: {target}");
    }
    assert!(ground.done(&["status"]).contains("root source"));
    assert!(agent.terminate().success());
    assert!(!ground.state().join("control.sock").exists(), "it is removed at the end");
    let gone = ground.ask(&["status"]);
    assert!(gone.code == 1 && gone.err.contains("no agent runs with the state folder"), "{}", gone.err);

    let dead = dead();
    let agent = ground.agent(&[daemon.url().into(), dead.clone().into()], &[]);
    fs::write(ground.at("d/g"), "g").unwrap();
    ground.done(&["wait", "--target", &daemon.url(), "--timeout", "30s"]);
    assert!(holds_text(&ground.there("d/g"), "g"));
    until("cause", PATIENCE, &agent, || ground.target_status(1)["cause"] == "connection_refused");
    let (code, status) = ground.status();
    assert_eq!(code, 3, "{status}");
    let target = &status["roots"][0]["targets"][1];
    assert!(target["words"].as_str().unwrap().contains("Connection refused"), "{target}");
    assert!(target["hint"].as_str().unwrap().contains("start the rsync daemon"), "{target}");
    assert!(target["failures"].as_u64().unwrap() > 0 && target["pending"].as_u64().unwrap() > 0, "{target}");
    assert_eq!(status["roots"][0]["targets"][0]["state"], "ok");
    let text = ground.ask(&["status"]);
    assert!(text.code == 3 && text.out.contains("connection refused: "), "{}", text.out);

    let waited = ground.ask(&["wait", "--timeout", "300ms"]);
    assert_eq!(waited.code, 4, "{}", waited.err);
    assert!(waited.err.contains(&dead) && waited.err.contains("connection_refused"), "{}", waited.err);
    assert!(!waited.err.contains(&daemon.url()), "{}", waited.err);
}

/// Random changes, a wait, and the trees are equal at that moment; while a neighbour writes all the time.
fn never_early(seed: u64, rounds: usize, noise: bool) {
    let ground = Ground::new();
    let [work, there] = [ground.at("work"), ground.there("work")];
    let mut churn = Churn::new(seed, work.clone(), ground.place.join("outside"), Names::Hostile);
    churn.fill(80);
    let daemon = ground.daemon();
    let configuration = ground.place.join("fansync.yaml");
    // Files that nobody closes settle soon, or the test would wait for little else.
    let text = format!(
        "state_dir: {}\nroots:\n  - name: data\n    path: {}\n{}    shards: 3\n    settle: {{quiet: 20ms, quiet_open: 100ms}}\n    \
         delete: {{hold_over: {{paths: 1000000, percent: 100}}}}\n    \
         targets:\n      - {{name: one, url: '{}'}}\n",
        ground.state().display(),
        ground.source.display(),
        watch_key(),
        daemon.url()
    );
    let second = noise.then(|| ground.place.join("second"));
    let more = second.as_ref().map(|second| format!("      - {{name: two, url: {}}}\n", second.display()));
    fs::write(&configuration, text + &more.unwrap_or_default()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
    command.arg("run").arg("--config").arg(&configuration);
    let mut agent = Agent::spawn(command, &ground.place);
    agent.wait_ready();
    let wait = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
        said(command.args(["wait", "--timeout", "60s", "--config"]).arg(&configuration))
    };
    assert_eq!(wait().code, 0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let beside = ground.at("noise");
        fs::create_dir(&beside).unwrap();
        if noise {
            let stop = &stop;
            scope.spawn(move || {
                let mut number = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let _gone = fs::write(beside.join(format!("n{}", number % 50)), number.to_string());
                    std::thread::park_timeout(Duration::from_micros(500));
                }
            });
        }
        let mut slowest = Duration::ZERO;
        for round in 0..rounds {
            churn.run(1 + round % 12);
            if round % 20 != 7 {
                churn.close_all();
            }
            let began = Instant::now();
            let said = wait();
            slowest = slowest.max(began.elapsed());
            let mut found = differences(&work, &there, 20);
            if let Some(second) = &second {
                found.extend(differences(&work, &second.join("work"), 20));
            }
            if said.code != 0 || !found.is_empty() {
                stop.store(true, Ordering::Relaxed);
                // Early, or never?
                std::thread::park_timeout(Duration::from_secs(4));
                found.push(format!("4 s later: {:?}", differences(&work, &there, 20)));
                let trace = churn.trace();
                let last = trace[trace.len().saturating_sub(30)..].join("\n");
                panic!(
                    "seed {seed}, round {round}: code {}, {}\n{}\n{last}\n{}",
                    said.code,
                    said.err,
                    found.join("\n"),
                    agent.last_log_lines(40)
                );
            }
        }
        stop.store(true, Ordering::Relaxed);
        println!("wait: {rounds} rounds, noise {noise}: slowest {slowest:?}");
    });
}

#[test]
fn wait_never_returns_early() {
    never_early(31, 200, false);
}

#[test]
fn wait_never_returns_early_while_others_write() {
    never_early(32, 25, true);
}

#[test]
#[ignore = "make soak"]
fn soak_wait_never_returns_early() {
    for seed in 100..110 {
        never_early(seed, 300, seed % 2 == 0);
    }
}

#[test]
fn what_is_paused_is_kept_until_resume() {
    let ground = Ground::new();
    let daemon = ground.daemon();
    let second = ground.place.join("second");
    let agent = ground.agent(&[daemon.url().into(), second.clone().into()], &[]);
    ground.done(&["wait"]);
    // What is under way goes on, and a listing of the root that is would take the file along (seen on a busy machine).
    until("rest", PATIENCE, &agent, || {
        let target = &ground.status().1["roots"][0]["targets"][0];
        ["pending", "background", "in_flight"].iter().all(|key| target[key] == 0)
    });
    ground.done(&["pause", "--target", &daemon.url()]);
    fs::write(ground.at("f"), "one").unwrap();
    until("file on the other target", PATIENCE, &agent, || holds_text(&second.join("f"), "one"));
    let waited = ground.ask(&["wait", "--timeout", "300ms"]);
    assert!(waited.code == 4 && waited.err.contains("paused") && waited.err.contains(" f\n"), "{}", waited.err);
    assert!(!ground.there("f").exists());
    let (code, status) = ground.status();
    let target = &status["roots"][0]["targets"][0];
    assert_eq!((code, &target["state"], &target["cause"]), (3, &json!("paused"), &json!("operator")), "{target}");
    ground.done(&["resume", "--target", &daemon.url()]);
    ground.done(&["wait", "--timeout", "30s"]);
    assert!(holds_text(&ground.there("f"), "one"));

    ground.done(&["pause"]);
    fs::write(ground.at("f"), "two").unwrap();
    assert_eq!(ground.ask(&["wait", "--timeout", "300ms"]).code, 4);
    assert!(holds_text(&second.join("f"), "one"));
    assert_eq!(ground.status().1["roots"][0]["state"], "paused");
    ground.done(&["resume"]);
    ground.done(&["wait", "--timeout", "30s"]);
    assert!(holds_text(&second.join("f"), "two") && holds_text(&ground.there("f"), "two"));
    assert_eq!(ground.status().0, 0);
}

#[test]
fn a_dead_letter_is_shown_explained_and_tried_again_when_asked() {
    let ground = Ground::new();
    let port = Some(free_port().unwrap());
    let refuses = DaemonOptions { port, extra: "    exclude = /stuck".to_owned(), ..DaemonOptions::default() };
    let daemon = Daemon::start(&ground.target, &ground.place, &refuses).unwrap();
    let agent = ground.agent(&[daemon.url().into()], &[]);
    ground.done(&["wait", "--timeout", "30s"]);
    fs::write(ground.at("stuck"), "source").unwrap();
    // Each retry makes it due at once, so it need not take its pauses.
    until("dead letter", PATIENCE, &agent, || {
        ground.done(&["retry"]);
        ground.target_status(0)["dead_letters"]["count"] == 1
    });
    // One more attempt may be under way.
    let waits = || ground.target_status(0)["dead_letters"]["first"][0]["retry_in_seconds"].is_number();
    until("rest of the dead letter", PATIENCE, &agent, waits);
    let (code, status) = ground.status();
    assert_eq!(code, 3);
    let letter = &status["roots"][0]["targets"][0]["dead_letters"]["first"][0];
    assert_eq!((&letter["path"], letter["attempts"].as_u64().unwrap() >= 8), (&json!("stuck"), true), "{letter}");
    assert!(letter["retry_in_seconds"].as_f64().unwrap() > 300.0, "{letter}");
    let words = letter["words"].as_str().unwrap();
    assert!(words.contains("stuck") && words.len() <= 200, "{letter}");
    let explained = ground.done(&["explain", "stuck"]);
    assert!(explained.contains("a dead letter") && explained.contains(words), "{explained}");
    let waited = ground.ask(&["wait", "--timeout", "200ms"]);
    assert!(waited.code == 4 && waited.err.contains("stuck"), "{}", waited.err);

    drop(daemon);
    let _takes_it = Daemon::start(&ground.target, &ground.place, &DaemonOptions { port, ..DaemonOptions::default() });
    // What else was due while no daemon was there may have made the target pause, which counts as something to retry.
    until("healthy target", PATIENCE, &agent, || ground.done(&["retry", "elsewhere"]).contains("nothing waits"));
    assert!(ground.done(&["retry", ground.at("stuck").to_str().unwrap()]).contains("tried again now"));
    ground.done(&["wait", "--timeout", "30s"]);
    assert!(holds_text(&ground.there("stuck"), "source"));
    assert_eq!(ground.status().0, 0);
}

#[test]
fn explain_names_the_rule_and_the_mark() {
    let ground = Ground::new();
    let daemon = ground.daemon();
    fs::create_dir_all(ground.at("d/cache")).unwrap();
    let _agent = ground.agent(&[daemon.url().into()], &["--filter", "- cache/", "--filter", "+ *.c"]);
    ground.done(&["wait", "--timeout", "30s"]);
    let check = |path: &str, words: &[&str]| {
        let said = ground.done(&["explain", path]);
        for word in words {
            assert!(said.contains(word), "{word:?} is not in what is said of {path}:\n{said}");
        }
    };
    check("d/cache", &["excluded: rule 1 \"- cache/\" matches d/cache", "no mark"]);
    check("d/cache/x", &["excluded", "matches d/cache", "not there"]);
    check("x.c", &["included: rule 2 \"+ *.c\" matches x.c"]);
    check(ground.at("d").to_str().unwrap(), &["d in root source", "no rule matches"]);
    ground.done(&["pause"]);
    let odd: OsString = std::os::unix::ffi::OsStringExt::from_vec(b"d/a\n\xff".to_vec());
    fs::write(ground.source.join(&odd), "x").unwrap();
    fs::create_dir(ground.at("new")).unwrap();
    ground.ask(&["wait", "--timeout", "100ms"]);
    let said = ground.done(&[OsStr::new("explain"), &odd]);
    assert!(said.contains("d/a\\n\\xff in root source") && said.contains("waiting: point (resend, live)"), "{said}");
    check("new/f", &["above it, new: subtree"]);
    let refused = ground.ask(&["explain", "/elsewhere"]);
    assert!(refused.code == 2 && refused.err.contains("in none of the roots"), "{}", refused.err);
    let refused = ground.ask(&["explain", "d", "--root", "other"]);
    assert!(refused.code == 2 && refused.err.contains("no root 'other'"), "{}", refused.err);
    let refused = ground.ask(&["pause", "--target", "other"]);
    assert!(refused.code == 2 && refused.err.contains("no target 'other'"), "{}", refused.err);
}

#[test]
fn a_rescan_mends_what_was_changed_on_the_target() {
    let ground = Ground::new();
    let daemon = ground.daemon();
    fs::create_dir(ground.at("d")).unwrap();
    for name in ["f", "d/f"] {
        fs::write(ground.at(name), name).unwrap();
    }
    let _agent = ground.agent(&[daemon.url().into()], &[]);
    ground.done(&["wait", "--timeout", "30s"]);
    fs::remove_file(ground.there("f")).unwrap();
    fs::remove_file(ground.there("d/f")).unwrap();
    ground.done(&["rescan", "d"]);
    ground.done(&["wait", "--timeout", "30s"]);
    assert!(holds_text(&ground.there("d/f"), "d/f") && !ground.there("f").exists());
    ground.done(&["rescan"]);
    ground.done(&["wait", "--timeout", "30s"]);
    assert!(holds_text(&ground.there("f"), "f"));
    assert!(ground.done(&["approve"]).contains("nothing is held"));
}

#[test]
fn the_socket_is_private_and_replaces_that_of_a_killed_agent() {
    let ground = Ground::new();
    let daemon = ground.daemon();
    // A folder that others may enter, and an agent that masks nothing.
    fs::create_dir(ground.state()).unwrap();
    fs::set_permissions(ground.state(), fs::Permissions::from_mode(0o755)).unwrap();
    let start = |options: &str| {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("umask 0; exec \"$@\" {options}")).arg("sh").arg(env!("CARGO_BIN_EXE_fansync"));
        command.arg("mirror").arg(&ground.source).arg(daemon.url());
        let mut agent = Agent::spawn(command, &ground.place);
        agent.wait_ready();
        agent
    };
    let with_state = format!("--state '{}'", ground.state().display());
    let mut agent = start(&with_state);
    let socket = ground.state().join("control.sock");
    let metadata = fs::symlink_metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.mode() & 0o7777, 0o600);
    agent.kill();
    assert!(socket.exists(), "nobody was left to remove it");
    // A child that it had just started may have held the socket, until it became another program.
    until("word of its end", PATIENCE, &agent, || {
        let refused = ground.ask(&["status"]);
        assert_eq!(refused.code, 1, "{}", refused.err);
        refused.err.contains("no agent runs")
    });
    let mut agent = start(&with_state);
    assert_eq!(ground.status().1["pid"], agent.id());
    assert!(agent.terminate().success());

    let _stateless = start("--no-state");
    assert!(!socket.exists());
    assert_eq!(ground.ask(&["status"]).code, 1);
}

#[test]
fn a_state_folder_of_any_depth_has_its_socket() {
    let ground = Ground::new();
    let deep = ground.place.join("d".repeat(200)).join("e".repeat(200));
    let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
    command.arg("mirror").arg(&ground.source).arg(&ground.target).arg("--state").arg(&deep);
    let mut agent = Agent::spawn(command, &ground.place);
    agent.wait_ready();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
    let status = said(command.args(["status", "--json", "--state"]).arg(&deep));
    assert!(status.out.contains(&format!("\"pid\":{}", agent.id())), "{} {}", status.out, status.err);
}

#[test]
fn the_only_agent_is_found_and_several_are_named() {
    let ground = Ground::new();
    let home = ground.place.join("home");
    let start = |target: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
        command.arg("mirror").arg(&ground.source).arg(target).env("XDG_STATE_HOME", &home);
        let mut agent = Agent::spawn(command, &ground.place);
        agent.wait_ready();
        agent
    };
    let ask =
        || said(Command::new(env!("CARGO_BIN_EXE_fansync")).args(["status", "--json"]).env("XDG_STATE_HOME", &home));
    let none = ask();
    assert!(none.code == 1 && none.err.contains("no agent of this user runs"), "{}", none.err);
    let mut first = start(&ground.target);
    let one = ask();
    assert!(one.out.contains(&format!("\"pid\":{}", first.id())), "{} {}", one.out, one.err);
    let mut second = start(&ground.place.join("second"));
    let several = ask();
    assert!(several.code == 2 && several.err.contains("2 agents run"), "{}", several.err);
    for folder in fs::read_dir(home.join("fansync")).unwrap() {
        let folder = folder.unwrap().path();
        assert!(several.err.contains(folder.to_str().unwrap()), "{folder:?}: {}", several.err);
    }
    assert_eq!(several.err.lines().count(), 1);
    // The folder of one that was killed is passed over.
    first.kill();
    assert!(ask().out.contains(&format!("\"pid\":{}", second.id())));
    assert!(second.terminate().success());
}

#[test]
fn garbage_and_idle_clients_do_not_disturb_the_agent() {
    let ground = Ground::new();
    let daemon = ground.daemon();
    let mut agent = ground.agent(&[daemon.url().into()], &[]);
    ground.done(&["wait", "--timeout", "30s"]);
    let before = agent.rss_kib();

    let began = Instant::now();
    let idle: Vec<UnixStream> = (0..100).map(|_| connect(&ground.state())).collect();
    for (line, words) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "not a request"),
        (b"\xff\xfe\x00\n", "not a request"),
        (b"{\"protocol\":7,\"command\":\"status\"}\n", "protocol 7"),
        (b"{\"protocol\":1,\"command\":\"explain\",\"path\":\"../../etc\"}\n", "'..'"),
        (b"{\"protocol\":1,\"command\":\"status\",\"root\":\"nowhere\"}\n", "no root 'nowhere'"),
        (&vec![b'x'; 70_000], "too long"),
    ] {
        let mut client = connect(&ground.state());
        // It may hang up before it has read all of a line that is too long.
        let _hung_up = client.write_all(line);
        let answer = read_line(&client);
        assert_eq!((&answer["answer"], &answer["kind"]), (&json!("failed"), &json!("request")), "{answer}");
        assert!(answer["words"].as_str().unwrap().contains(words), "{answer}");
    }
    // Several requests of one client, one without its end.
    let mut client = connect(&ground.state());
    client.write_all(b"\n{\"protocol\":1,\"command\":\"roots\"}\n{\"protocol\":1,\"command\":\"wait\"}").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answers = String::new();
    client.read_to_string(&mut answers).unwrap();
    let kinds: Vec<Value> =
        answers.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["answer"].clone()).collect();
    assert_eq!(kinds, ["roots", "reached"]);

    // As many waits as there are places: the next is told so, and a wait whose client is gone leaves its place.
    ground.done(&["pause"]);
    fs::write(ground.at("f"), "f").unwrap();
    let wait = b"{\"protocol\":1,\"command\":\"wait\"}\n";
    let mut waiting: Vec<UnixStream> = (0..16)
        .map(|_| {
            let mut client = connect(&ground.state());
            client.write_all(wait).unwrap();
            client
        })
        .collect();
    until("refusal", PATIENCE, &agent, || {
        let said = ground.ask(&["status"]);
        said.code == 1 && said.err.contains("16 clients")
    });
    waiting.pop();
    until("place", PATIENCE, &agent, || ground.ask(&["status"]).code == 3);
    ground.done(&["resume"]);
    for client in &waiting {
        assert_eq!(read_line(client)["answer"], "reached");
    }
    assert!(holds_text(&ground.there("f"), "f"));

    // Whoever says nothing is sent away.
    for mut client in idle {
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    }
    assert!(began.elapsed() < PATIENCE);
    let after = agent.rss_kib();
    assert!(after < before + 20 * 1024, "{before} KiB before, {after} KiB after");
    assert_eq!(ground.status().0, 0);
    assert!(agent.terminate().success());
}
