//! A mark on the whole file system (fanotify): when it is taken, what it says when it is not possible, what it leaves out, and
//! that changes flow before the map is filled.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::agent::Agent;
use crate::ground::{Ground, PATIENCE, holds_text, status, until};

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

/// What is mounted on `point` until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None`, and a word about it, where that is not allowed.
    fn new(point: &Path, arguments: &[&str]) -> Option<Self> {
        let point_text = point.to_str().expect("a scratch directory's name is plain");
        let arguments: Vec<&str> = arguments.iter().copied().chain([point_text]).collect();
        if succeeds("mount", &arguments) {
            return Some(Self(point.to_owned()));
        }
        eprintln!("skipped: cannot mount {arguments:?} here");
        None
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _already_gone = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn watch(ground: &Ground) -> Value {
    status(&ground.place.join("state")).map_or(Value::Null, |status| status["roots"][0]["watch"].clone())
}

/// Whether a mark is possible for this user on the file system of temporary files.
fn can_mark(ground: &Ground) -> bool {
    let root = fs::File::open(&ground.source).unwrap();
    match fansync::sys::fanotify::Fanotify::probe(&root) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("skipped: no mark is possible here: {error}");
            false
        }
    }
}

/// An agent that is asked for a mark and cannot have one says why, in the log and in `status`, and works.
fn works_without_a_mark(ground: &Ground, command: Command, why: &str) {
    let mut agent = Agent::spawn(command, &ground.place);
    agent.wait_live();
    assert!(agent.log().contains(why), "{}", agent.log());
    let told = watch(ground);
    assert_eq!(told["backend"], "inotify", "{told}");
    assert!(told["refused"].as_str().unwrap().contains(why), "{told}");
    fs::write(ground.at("after"), "x").unwrap();
    until("change", PATIENCE, &agent, || holds_text(&ground.there("after"), "x"));
}

fn mirror(ground: &Ground, watch: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
    command.arg("mirror").arg(&ground.source).arg(&ground.target).arg("--state").arg(ground.place.join("state"));
    command.args(["--watch", watch]);
    command
}

/// A live agent with these further lines about the root in its configuration.
fn configured(ground: &Ground, root: &str) -> Agent {
    let text = format!(
        "state_dir: {state}\ntunables: {{raise: false}}\nroots:\n  - name: data\n    path: {source}\n{root}    targets:\n      - url: \
         {target}\n",
        state = ground.place.join("state").display(),
        source = ground.source.display(),
        target = ground.target.display(),
    );
    ground.agent_by(&text)
}

#[test]
fn an_overlay_is_watched_by_inotify_and_told_why() {
    let ground = Ground::in_memory();
    for part in ["lower", "upper", "work"] {
        fs::create_dir(ground.place.join(part)).unwrap();
    }
    let part = |name: &str| ground.place.join(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", part("lower"), part("upper"), part("work"));
    let Some(_mounted) = Mounted::new(&ground.source, &["-t", "overlay", "-o", &options, "overlay"]) else { return };
    works_without_a_mark(&ground, mirror(&ground, "fanotify"), "overlay needs index=on,nfs_export=on");
}

#[test]
fn a_btrfs_subvolume_is_watched_by_inotify_and_told_why() {
    let ground = Ground::new();
    let image = ground.place.join("image");
    fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    let image = image.display().to_string();
    if !succeeds("mkfs.btrfs", &["-q", &image]) {
        eprintln!("skipped: no mkfs.btrfs here");
        return;
    }
    let top = ground.place.join("top");
    fs::create_dir(&top).unwrap();
    let Some(_top) = Mounted::new(&top, &["-o", "loop", &image]) else { return };
    if !succeeds("btrfs", &["subvolume", "create", &top.join("inner").display().to_string()]) {
        eprintln!("skipped: no btrfs here");
        return;
    }
    let device = fs::read_to_string("/proc/self/mounts").unwrap();
    let top_text = top.display().to_string();
    let device =
        device.lines().find(|line| line.split(' ').nth(1) == Some(&top_text)).unwrap().split(' ').next().unwrap();
    let Some(_inner) = Mounted::new(&ground.source, &["-o", "subvol=inner", device]) else { return };
    works_without_a_mark(&ground, mirror(&ground, "fanotify"), "btrfs subvolume");
}

#[test]
fn a_user_without_privileges_watches_by_inotify_and_is_told_why() {
    let ground = Ground::new();
    for path in [&ground.place, &ground.source, &ground.target] {
        chown(path, Some(65_534), Some(65_534)).unwrap();
    }
    let drop = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let binary = env!("CARGO_BIN_EXE_fansync");
    if !succeeds("setpriv", &[&drop[..], &[binary, "--version"]].concat()) {
        eprintln!("skipped: this test needs root, setpriv, and a program that everybody may run");
        return;
    }
    let mirror = mirror(&ground, "fanotify");
    let mut command = Command::new("setpriv");
    command.args(drop).arg(mirror.get_program()).args(mirror.get_args());
    works_without_a_mark(&ground, command, "CAP_SYS_ADMIN");
}

#[test]
fn a_container_watches_by_inotify_and_is_told_why() {
    let ground = Ground::new();
    if !succeeds("unshare", &["-Ur", "true"]) {
        eprintln!("skipped: no user namespace is to be had here");
        return;
    }
    let mirror = mirror(&ground, "fanotify");
    let mut command = Command::new("unshare");
    command.arg("-Ur").arg(mirror.get_program()).args(mirror.get_args());
    works_without_a_mark(&ground, command, "first user namespace");
}

#[test]
fn a_root_that_is_a_file_system_of_its_own_is_marked() {
    let ground = Ground::new();
    let Some(_mounted) = Mounted::new(&ground.source, &["-t", "tmpfs", "tmpfs"]) else { return };
    if !can_mark(&ground) {
        return;
    }
    let mut agent = Agent::spawn(mirror(&ground, "auto"), &ground.place);
    agent.wait_ready();
    let told = watch(&ground);
    assert_eq!(told["backend"], "fanotify", "{told}");
    assert!(told["reason"].as_str().unwrap().contains("file system of its own"), "{told}");
    assert!(told["refused"].is_null(), "{told}");
    fs::create_dir_all(ground.at("a/b/c")).unwrap();
    fs::write(ground.at("a/b/c/f"), "x").unwrap();
    ground.wait_equal(&agent);
    fs::rename(ground.at("a/b"), ground.at("b")).unwrap();
    fs::write(ground.at("b/c/f"), "y").unwrap();
    ground.wait_equal(&agent);
}

/// Wherever the first walk is, changes are told of: in directories that it has not met, in new ones, in ones that moved.
#[test]
fn changes_flow_before_the_map_is_filled() {
    let ground = Ground::in_memory();
    if !can_mark(&ground) {
        return;
    }
    let outside = ground.place.join("outside");
    fs::create_dir_all(outside.join("deep")).unwrap();
    fs::write(outside.join("deep/f"), "from outside").unwrap();
    for number in 0..8_000 {
        fs::create_dir_all(ground.at(&format!("{}/{}/{number}", number % 20, number % 7))).unwrap();
    }
    let mut agent = Agent::spawn(mirror(&ground, "fanotify"), &ground.place);
    agent.wait_ready();
    for number in (0..8_000).step_by(79) {
        let directory = ground.at(&format!("{}/{}/{number}", number % 20, number % 7));
        fs::write(directory.join("f"), number.to_string()).unwrap();
        match number % 3 {
            0 => fs::create_dir_all(directory.join("new/newer")).unwrap(),
            1 => fs::rename(&directory, directory.with_file_name(format!("moved-{number}"))).unwrap(),
            _ => fs::remove_dir_all(&directory).unwrap(),
        }
    }
    fs::rename(&outside, ground.at("3/came")).unwrap();
    ground.wait_equal(&agent);
    let told = watch(&ground);
    assert_eq!(told["backend"], "fanotify", "{told}");
}

#[test]
fn what_happens_in_a_noisy_directory_is_not_even_read() {
    let ground = Ground::new();
    if !can_mark(&ground) {
        return;
    }
    let [noisy, other] = ["noisy", "other"].map(|name| ground.place.join(name));
    for directory in [&noisy, &other] {
        fs::create_dir(directory).unwrap();
    }
    let agent = configured(&ground, &format!("    watch: fanotify\n    noisy: [{}]\n", noisy.display()));
    ground.wait_equal(&agent);
    if agent.log().contains("cannot leave out") {
        eprintln!("skipped: this kernel cannot ignore a directory");
        return;
    }
    // Others use the file system too: the least of some attempts is what counts.
    let read_meanwhile = |place: &Path, round: usize| {
        let events = || {
            let status = status(&ground.place.join("state")).expect("it answers");
            status["roots"][0]["events"].as_u64().unwrap()
        };
        let before = events();
        for number in 0..500 {
            fs::write(place.join(number.to_string()), "x").unwrap();
        }
        let name = format!("after-{round}");
        fs::write(ground.at(&name), "x").unwrap();
        until("change", PATIENCE, &agent, || holds_text(&ground.there(&name), "x"));
        events() - before
    };
    let least =
        |place: &Path, first: usize| (first..first + 5).map(|round| read_meanwhile(place, round)).min().unwrap();
    let (quiet, loud) = (least(&noisy, 0), least(&other, 10));
    assert!(quiet < 500 && loud >= 500, "{quiet} events of the ignored directory, {loud} of another one");
}

/// Opens a file as an NFS server does: by its handle, after its name was dropped from the kernel's memory, so that the open file
/// has no name. `None` where that cannot be brought about.
fn opened_by_handle(path: &Path) -> Option<fs::File> {
    use std::os::fd::AsRawFd as _;
    let file = fs::File::open(path).unwrap();
    let handle = fansync::sys::handle::name_to_handle_at(&file).ok()?;
    drop(file);
    let directory = fs::File::open(path.parent().unwrap()).unwrap();
    // What was not written back yet stays in memory.
    directory.sync_all().unwrap();
    fs::File::open(path).unwrap().sync_all().unwrap();
    fs::write("/proc/sys/vm/drop_caches", "2").ok()?;
    let place = fansync::sys::handle::open_by_handle_at(&directory, handle.as_handle()).ok()?;
    let link = format!("/proc/self/fd/{}", place.as_raw_fd());
    if fs::read_link(&link).unwrap() == path {
        return None;
    }
    fs::File::options().append(true).open(link).ok()
}

/// What NFS clients write arrives although the kernel knows no name of the file when it is written. inotify says nothing of that.
#[test]
fn what_is_written_by_way_of_a_handle_is_found_and_sent() {
    use std::io::Write as _;
    let ground = Ground::new();
    if !can_mark(&ground) {
        return;
    }
    for directory in ["a/b", "c"] {
        fs::create_dir_all(ground.at(directory)).unwrap();
    }
    for name in ["a/b/f", "c/left out.tmp", "c/other", "top"] {
        fs::write(ground.at(name), "old").unwrap();
    }
    fs::hard_link(ground.at("c/other"), ground.at("a/link")).unwrap();
    let settle = "    settle: {quiet: 50ms, quiet_open: 100ms, max: 1s}\n";
    let agent = configured(&ground, &format!("    nfs_exported: true\n{settle}    filters: ['- *.tmp']\n"));
    let told = watch(&ground);
    assert_eq!(told["backend"], "fanotify", "{told}");
    until("first copy", PATIENCE, &agent, || holds_text(&ground.there("a/b/f"), "old"));

    let mut written = 0;
    for (round, name) in ["a/b/f", "top", "c/other", "a/b/f", "c/left out.tmp"].into_iter().enumerate() {
        let Some(mut file) = opened_by_handle(&ground.at(name)) else { continue };
        written += 1;
        let text = format!(" and {round}");
        // The last one stays open, as an NFS server keeps it.
        file.write_all(text.as_bytes()).unwrap();
        let there = ground.there(name);
        if name.ends_with(".tmp") {
            continue;
        }
        let expected = fs::read(ground.at(name)).unwrap();
        until(name, PATIENCE, &agent, || fs::read(&there).is_ok_and(|content| content == expected));
    }
    if written == 0 {
        eprintln!("skipped: the names of files stay in this file system's memory");
        return;
    }
    until("other name", PATIENCE, &agent, || {
        fs::read(ground.there("a/link")).ok() == fs::read(ground.at("a/link")).ok()
    });
    assert!(!ground.there("c/left out.tmp").exists());
    // What was told without a name does not hold up those who wait for everything.
    let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
    command.args(["wait", "--timeout", "30s", "--state"]).arg(ground.place.join("state"));
    assert!(command.output().unwrap().status.success(), "{}", agent.log());
}
