//! What was renamed is not sent again: the target links what it has under the old name, and the trees are equal whatever
//! happens around it. What went over the wire is counted by a relay before the daemon.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fansync::lab::MODULE;

use crate::agent::Agent;
use crate::ground::{Ground, PATIENCE, until};

/// Counts what goes to a daemon and back.
struct Relay {
    port: u16,
    bytes: Arc<AtomicU64>,
}

impl Relay {
    /// Ends with the process; its threads end with their connections.
    fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let bytes = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&bytes);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(daemon) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                for stream in [&client, &daemon] {
                    let _without_it_is_slower = stream.set_nodelay(true);
                }
                let ends = (client.try_clone().unwrap(), daemon.try_clone().unwrap());
                Self::copy(client, daemon, Arc::clone(&counter));
                Self::copy(ends.1, ends.0, Arc::clone(&counter));
            }
        });
        Self { port: own, bytes }
    }

    fn copy(mut from: TcpStream, mut to: TcpStream, counter: Arc<AtomicU64>) {
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                counter.fetch_add(count as u64, Ordering::Relaxed);
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _both_may_be_gone = to.shutdown(std::net::Shutdown::Write);
        });
    }

    fn url(&self) -> String {
        format!("rsync://127.0.0.1:{}/{MODULE}", self.port)
    }

    fn sent(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A tree, a daemon behind a relay, and an agent that has brought everything over.
struct Scene {
    ground: Ground,
    relay: Relay,
    agent: Agent,
    _daemon: fansync::lab::Daemon,
}

/// So many bytes are more than what is said of a move, and less than what is moved.
const MOVED_MAX: u64 = 100 * 1024;
/// How often a rename is made again when it was a plain transfer.
const RENAMES_MAX: usize = 3;

impl Scene {
    fn new(options: &[&str], fill: impl FnOnce(&Ground)) -> Self {
        let ground = Ground::new();
        fill(&ground);
        let daemon = ground.daemon();
        let port = daemon.url().rsplit_once(':').unwrap().1.split('/').next().unwrap().parse().unwrap();
        let relay = Relay::before(port);
        let agent = ground.agent(&[relay.url().into()], options);
        let scene = Self { ground, relay, agent, _daemon: daemon };
        scene.settle();
        scene
    }

    /// Everything is there, and nothing is under way.
    fn settle(&self) {
        self.ground.wait_equal(&self.agent);
        let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
        command.args(["wait", "--timeout", "60s", "--state"]).arg(self.ground.place.join("state"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // What ended while the queues were read for the first one ended before they are read for this one.
        assert!(command.status().unwrap().success());
    }

    /// Does something; gives how many bytes went over the wire until the target is the same.
    fn costs(&self, what: impl FnOnce(&Ground)) -> u64 {
        let before = self.relay.sent();
        what(&self.ground);
        self.settle();
        self.relay.sent() - before
    }

    /// The least that it costs: what happens to be known of a name at the moment, on a busy machine, may make one rename
    /// a plain transfer.
    fn rename(&self, from: &str, to: &str) -> u64 {
        let there = || self.costs(|ground| fs::rename(ground.at(from), ground.at(to)).unwrap());
        let mut least = there();
        for _again in 0..RENAMES_MAX {
            if least < MOVED_MAX {
                break;
            }
            self.costs(|ground| fs::rename(ground.at(to), ground.at(from)).unwrap());
            least = least.min(there());
        }
        least
    }
}

/// Files that no compression and no delta makes small.
fn fill(directory: &Path, files: usize, size: usize) {
    fs::create_dir_all(directory).unwrap();
    let mut rng = fastrand::Rng::with_seed(files as u64);
    for number in 0..files {
        let content: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(size).collect();
        fs::write(directory.join(format!("file-{number}")), content).unwrap();
    }
}

const FILES: usize = 200;
const SIZE: usize = 20_000;

#[test]
fn a_renamed_directory_is_not_sent_again_wherever_it_goes() {
    let scene = Scene::new(&["--hold-over", "1000000"], |ground| {
        fill(&ground.at("d"), FILES, SIZE);
        fill(&ground.at("d/sub/deeper"), 10, SIZE);
        std::os::unix::fs::symlink("file-1", ground.at("d/link")).unwrap();
        fs::create_dir_all(ground.at("other/place")).unwrap();
    });
    for (from, to) in [
        ("d", "e"),
        ("e", "other/e"),
        ("other/e", "other/place/with a blank, and \u{e4}"),
        ("other/place/with a blank, and \u{e4}/sub", "other/sub"),
        ("other/sub", "other/place/sub"),
        ("other/place", "place"),
        ("place", "-d"),
    ] {
        // Between a shard's directories and the root's there is no telling; see the next test.
        let crosses = from.contains('/') != to.contains('/');
        let bytes = if crosses {
            scene.costs(|ground| fs::rename(ground.at(from), ground.at(to)).unwrap())
        } else {
            scene.rename(from, to)
        };
        println!("{from} to {to}: {bytes} bytes");
        assert!(crosses || bytes < MOVED_MAX, "{from} to {to}: {bytes} bytes");
    }
}

#[test]
fn a_large_directory_moves_within_its_budget_and_without_tripping_the_guard() {
    let scene = Scene::new(&[], |ground| {
        fill(&ground.at("d"), 1_500, 4_000);
        fill(&ground.at("stays"), 12, 1);
    });
    let began = std::time::Instant::now();
    fs::rename(scene.ground.at("d"), scene.ground.at("e")).unwrap();
    let before = scene.relay.sent();
    until("moved directory", PATIENCE, &scene.agent, || {
        scene.ground.there("e/file-1499").exists() && !scene.ground.there("d").exists()
    });
    let took = began.elapsed();
    scene.settle();
    let bytes = scene.relay.sent() - before;
    println!("1,500 files: {took:?}, {bytes} bytes");
    assert!(bytes < 150 * 1024, "{bytes} bytes");
    // A delete that is none of a move is asked about, as ever.
    fs::remove_dir_all(scene.ground.at("e")).unwrap();
    until("hold", PATIENCE, &scene.agent, || scene.agent.log().contains("deletes held"));
    assert!(scene.ground.there("e").exists());
}

#[test]
fn what_happens_around_a_rename_is_on_the_target_too() {
    let scene = Scene::new(&[], |ground| {
        for name in ["a", "b", "c", "f", "g", "h", "i", "k"] {
            fill(&ground.at(name), 20, SIZE);
        }
    });
    let ground = &scene.ground;
    let rename = |from: &str, to: &str| fs::rename(ground.at(from), ground.at(to)).unwrap();
    // A write by a descriptor that was open before.
    let mut open = fs::OpenOptions::new().write(true).open(ground.at("a/file-3")).unwrap();
    rename("a", "a2");
    open.write_all(b"written after the rename").unwrap();
    drop(open);
    fs::write(ground.at("a2/new"), "new").unwrap();
    // A chain.
    rename("b", "b2");
    rename("b2", "b3");
    // There and back.
    rename("c", "c2");
    rename("c2", "c");
    // The old name is there again, and holds what looks the same and is not.
    let modified = fs::metadata(ground.at("f/file-0")).unwrap().modified().unwrap();
    rename("f", "f2");
    fs::create_dir(ground.at("f")).unwrap();
    fs::write(ground.at("f/file-0"), vec![7; SIZE]).unwrap();
    fs::File::options().write(true).open(ground.at("f/file-0")).unwrap().set_modified(modified).unwrap();
    fs::set_permissions(ground.at("f/file-0"), std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    // Two that change their names with each other.
    let exchanged = Command::new("mv").arg("--exchange").arg(ground.at("g")).arg(ground.at("h")).output().unwrap();
    if !exchanged.status.success() {
        rename("g", "t");
        rename("h", "g");
        rename("t", "h");
    }
    // Removed at once.
    rename("i", "i2");
    fs::remove_dir_all(ground.at("i2")).unwrap();
    // Hard links, and a file of the same inode elsewhere.
    fs::hard_link(ground.at("k/file-0"), ground.at("k/file-00")).unwrap();
    fs::hard_link(ground.at("k/file-1"), ground.at("outside")).unwrap();
    rename("k", "k2");
    fs::write(ground.at("outside"), "by the other name").unwrap();
    scene.settle();
    // The old name and the new one share nothing on the target any more.
    fs::set_permissions(ground.at("f2/file-1"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(ground.at("f/file-1"), "f").unwrap();
    scene.settle();
    let bytes = scene.rename("f2", "f3");
    assert!(bytes < MOVED_MAX, "{bytes} bytes");
}

#[test]
fn a_name_that_the_old_one_gets_back_shares_nothing_with_what_moved() {
    use std::os::unix::fs::PermissionsExt as _;
    let scene = Scene::new(&[], |ground| fill(&ground.at("d"), 20, SIZE));
    let ground = &scene.ground;
    for round in 0..5 {
        let (old, new) = (ground.at("d"), ground.at(&format!("e{round}")));
        fs::rename(&old, &new).unwrap();
        // The same content, size and times: only the mode tells them apart.
        let copied = Command::new("cp").arg("-a").arg(&new).arg(&old).status().unwrap();
        assert!(copied.success());
        for number in 0..20 {
            fs::set_permissions(old.join(format!("file-{number}")), fs::Permissions::from_mode(0o600)).unwrap();
        }
        scene.settle();
    }
}

#[test]
fn names_that_cannot_be_said_exactly_arrive_all_the_same() {
    let names: [&[u8]; 9] = [b"*", b"[a]", b"a?", b"a\\b", b"a\nb", b"\xff\xfe", b"#a", b"a b ", b"$(touch x);'\"&|"];
    let scene = Scene::new(&[], |ground| fill(&ground.at("start"), 5, SIZE));
    let mut at = scene.ground.at("start");
    for name in names {
        let next = scene.ground.source.join(OsStr::from_bytes(name));
        let bytes = scene.costs(|_| fs::rename(&at, &next).unwrap());
        println!("{}: {bytes} bytes", String::from_utf8_lossy(name));
        at = next;
    }
}

#[test]
fn what_is_excluded_stays_out_of_a_move_and_what_is_not_any_more_arrives() {
    let ground = Ground::new();
    fill(&ground.at("d"), 5, SIZE);
    fs::write(ground.at("d/x.tmp"), "left out").unwrap();
    fill(&ground.at("d/cache"), 1, SIZE);
    let daemon = ground.daemon();
    let agent = ground.agent(&[daemon.url().into()], &["--filter", "- /d/cache/", "--filter", "- *.tmp"]);
    until("first comparison", PATIENCE, &agent, || agent.log().contains("everything is compared"));
    assert!(ground.there("d/file-4").exists() && !ground.there("d/cache").exists());
    fs::write(ground.there("d/kept.tmp"), "not ours").unwrap();
    fs::rename(ground.at("d"), ground.at("e")).unwrap();
    until("what was left out", PATIENCE, &agent, || ground.there("e/cache/file-0").exists());
    until("directory", PATIENCE, &agent, || ground.there("e/file-4").exists() && !ground.there("d/file-0").exists());
    assert!(!ground.there("e/x.tmp").exists() && !ground.there("e/kept.tmp").exists());
    assert!(ground.there("d/kept.tmp").exists(), "what the rules exclude is not ours to delete");
}

#[test]
fn a_local_target_is_moved_too() {
    let ground = Ground::new();
    fill(&ground.at("d"), FILES, SIZE);
    let agent = ground.agent(&[ground.target.clone().into()], &[]);
    ground.wait_equal(&agent);
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let settle = || {
        for _round in 0..2 {
            let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
            command.args(["wait", "--timeout", "60s", "--state"]).arg(ground.place.join("state"));
            assert!(command.status().unwrap().success());
        }
    };
    settle();
    let mut kept = false;
    for (from, to) in [("d", "e"), ("e", "d"), ("d", "e"), ("e", "d")] {
        let before = inode(&ground.there(from).join("file-7"));
        fs::rename(ground.at(from), ground.at(to)).unwrap();
        ground.wait_equal(&agent);
        settle();
        kept |= inode(&ground.there(to).join("file-7")) == before;
    }
    assert!(kept, "it was sent again each time: {}", agent.log());
}
