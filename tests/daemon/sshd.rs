//! A throw-away sshd on loopback: its own keys, its own configuration, the user that runs the tests.

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fansync::lab::{free_port, write_private};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::agent::Agent;
use crate::ground::descendants;

const READY_MAX: Duration = Duration::from_secs(10);

/// Dropping it ends it and all its sessions.
pub struct Sshd {
    child: Child,
    port: u16,
    place: PathBuf,
}

impl Sshd {
    /// One that takes our key and is known by its own.
    pub fn start(scratch: &Path) -> Self {
        // With all that a path on ssh's command line may hold and has a meaning there.
        let place = scratch.join("sshd 100% ~#");
        fs::create_dir(&place).expect("the scratch directory can be written");
        for name in ["host", "id"] {
            keygen(&place.join(name));
        }
        let port = free_port().expect("a port is free");
        let sshd = Self { child: Self::spawn(&place, port), port, place };
        sshd.takes_our_key(None);
        sshd.is_known_by("host");
        sshd
    }

    fn spawn(place: &Path, port: u16) -> Child {
        if geteuid().is_root() {
            // Where it locks itself in before a login; its service makes it, and no service runs here.
            fs::create_dir_all("/run/sshd").expect("root may make it");
        }
        let config = place.join("config");
        let text = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey \"{0}/host\"\nAuthorizedKeysFile \"{1}/authorized\"\nUsePAM no\n\
             StrictModes no\nPidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\n",
            place.display(),
            place.display().to_string().replace('%', "%%"),
        );
        write_private(&config, &text).expect("the scratch directory can be written");
        let program = ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let mut child = Command::new(program.expect("sshd is installed: make tools"))
            .arg("-D")
            .arg("-f")
            .arg(&config)
            .arg("-E")
            .arg(place.join("log"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sshd can be started");
        let began = Instant::now();
        while !greets(port) {
            if let Some(status) = child.try_wait().expect("it is our child") {
                panic!("sshd ended with {status}: {}", fs::read_to_string(place.join("log")).unwrap_or_default());
            }
            assert!(began.elapsed() < READY_MAX, "sshd does not greet");
            std::thread::park_timeout(Duration::from_millis(10));
        }
        child
    }

    /// Ends it with all its sessions, and starts it again on the same port.
    pub fn restart(&mut self) {
        self.end();
        self.child = Self::spawn(&self.place, self.port);
    }

    pub fn end(&mut self) {
        let sessions = descendants(self.child.id());
        let listener = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid is an i32"));
        let _gone_already = kill(listener, Signal::SIGKILL);
        for pid in sessions.into_keys() {
            let _gone_already = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _status = self.child.wait();
    }

    /// Our key is taken; with a `command`, that runs instead of what is asked for, which is `$SSH_ORIGINAL_COMMAND`.
    pub fn takes_our_key(&self, command: Option<&str>) {
        let key = fs::read_to_string(self.place.join("id.pub")).expect("it was just made");
        let command = command.map_or_else(String::new, |command| format!("command=\"{command}\" "));
        fs::write(self.place.join("authorized"), format!("{command}{key}")).expect("it is ours");
    }

    pub fn takes_no_key(&self) {
        fs::write(self.place.join("authorized"), "").expect("it is ours");
    }

    /// What we know as its key: that of `name`, one of its `host` and of our `id`.
    pub fn is_known_by(&self, name: &str) {
        let key = fs::read_to_string(self.place.join(format!("{name}.pub"))).expect("it was just made");
        fs::write(self.known_hosts(), format!("[127.0.0.1]:{} {key}", self.port)).expect("it is ours");
    }

    pub fn is_not_known(&self) {
        fs::write(self.known_hosts(), "").expect("it is ours");
    }

    fn known_hosts(&self) -> PathBuf {
        self.place.join("known")
    }

    pub fn url(directory: &Path) -> String {
        format!("127.0.0.1:{}", directory.display())
    }

    /// The keys of a target in a configuration.
    pub fn keys(&self) -> String {
        format!(
            "timeout: 20s, connect_timeout: 10s, ssh: {{port: {}, identity_file: \"{}\", known_hosts: \"{}\"}}",
            self.port,
            self.place.join("id").display(),
            self.known_hosts().display()
        )
    }

    /// A live agent, by command line.
    pub fn agent(&self, source: &Path, targets: &[&Path], scratch: &Path) -> Agent {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
        command.arg("mirror").arg(source).args(targets.iter().map(|target| Self::url(target)));
        command.arg("--state").arg(scratch.join("state")).args(["--hold-over", "1000000"]);
        let place = self.place.display().to_string();
        let in_place = |name: &str| format!("\"{}/{name}\"", place.replace('%', "%%"));
        for option in [
            format!("Port={}", self.port),
            format!("IdentityFile={}", in_place("id")),
            "IdentitiesOnly=yes".to_owned(),
            format!("UserKnownHostsFile={}", in_place("known")),
        ] {
            command.args(["--ssh-option", &option]);
        }
        let mut agent = Agent::spawn(command, scratch);
        agent.wait_ready();
        agent
    }

    /// How many logins it has accepted.
    pub fn logins(&self) -> usize {
        let log = fs::read_to_string(self.place.join("log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("Accepted publickey")).count()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.end();
    }
}

fn keygen(file: &Path) {
    let mut command = Command::new("ssh-keygen");
    let status = command.args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]).arg(file).status();
    assert!(status.expect("ssh-keygen is installed: make tools").success());
}

fn greets(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    let mut greeting = [0; 4];
    let patience = Some(Duration::from_secs(5));
    stream.set_read_timeout(patience).is_ok() && stream.read_exact(&mut greeting).is_ok() && &greeting == b"SSH-"
}
