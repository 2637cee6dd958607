//! The main thread while an agent runs: signals, progress, the end.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use super::logging;
use super::report::Failure;
use crate::checkpoint::{self, Loaded, Opened, Storage};
use crate::daemon::{Agent, ControlSocket, RootSetup};
use crate::limits::Allowance;
use crate::sys::clock;
use crate::sys::lock::{Lock, try_lock};

/// Between two looks at the progress, and at the threads.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// Between two progress lines in the log.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// How long the lock of a state folder is waited for: a child of an agent that was killed holds it too, from when it was forked
/// until it has become another program (80 ms were seen on a busy machine).
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Makes the state folder (mode 0700) and takes its lock.
pub fn lock_state(state: &Path) -> Result<Lock, Failure> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(|error| {
        Failure::wrong(format!(
            "cannot create the state folder {}: {error}; name another one by --state or state_dir",
            state.display()
        ))
    })?;
    let path = state.join("lock");
    let until = clock::now() + LOCK_PATIENCE;
    let locked = loop {
        match try_lock(&path) {
            Ok(None) if clock::now() < until => std::thread::park_timeout(LOCK_PAUSE),
            other => break other,
        }
    };
    match locked {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(Failure::wrong(format!(
            "another fansync runs with the state folder {}: stop it first, or name another folder",
            state.display()
        ))),
        Err(error) => Err(Failure::wrong(format!("cannot lock {}: {error}", path.display()))),
    }
}

/// Opens the checkpoint in the state folder. Without one everything is compared at each start: worse, but no reason not to
/// start.
fn open_checkpoint(state: &Path, roots: &[RootSetup]) -> Option<(Storage, Loaded)> {
    let names: Vec<&str> = roots.iter().map(|root| root.name.as_str()).collect();
    let opened = checkpoint::open(state).and_then(|mut opened| opened.storage.begin(&names).map(|()| opened));
    match opened {
        Ok(Opened { storage, loaded, aside }) => {
            if let Some((path, error)) = aside {
                tracing::error!(
                    aside = %path.display(),
                    error = super::report::chain(&error.into()),
                    "the checkpoint could not be read and was set aside: comparing everything in the background"
                );
            }
            Some((storage, loaded))
        }
        Err(error) => {
            tracing::error!(
                state = %state.display(),
                error = super::report::chain(&error.into()),
                "no checkpoint can be kept: everything will be compared at the next start"
            );
            None
        }
    }
}

/// Runs an agent until SIGTERM or SIGINT; a second signal ends it at once. Its state is kept in `state`, whose lock is held.
///
/// Its watches hold what `allowance` says; the kernel's limits are raised before this. At most `processes` rsyncs run at the same time.
pub fn serve(roots: Vec<RootSetup>, state: Option<&Path>, allowance: Allowance, processes: u16) -> Result<(), Failure> {
    // The handlers come first: a signal during a long first walk must not leave anything behind.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut signals, Token(0), Interest::READABLE)?;
    let seed = u64::from(std::process::id());
    // First, so that whoever asks waits for the start instead of being told that nobody is there.
    let socket = state.map(ControlSocket::bind).transpose().map_err(|error| {
        let shown = state.map(|state| state.display().to_string()).unwrap_or_default();
        anyhow::Error::from(error).context(format!("cannot make the control socket in {shown}"))
    })?;
    let checkpoint = state.and_then(|state| open_checkpoint(state, &roots));
    let mut agent = Agent::start(roots, seed, checkpoint, &Arc::new(allowance), usize::from(processes), state)?;
    if let Some(Err(error)) = socket.map(|socket| agent.open_control(socket)) {
        agent.stop();
        agent.kill();
        let _first_error_counts = agent.join();
        return Err(error.into());
    }
    let mut watcher = Watcher { said_at: clock::now(), done: false };
    wait(&mut poll, None, |_| {
        watcher.look(&agent);
        agent.is_broken() || signals.pending().next().is_some()
    })?;
    if agent.is_broken() {
        return Err(agent.into_failure().into());
    }
    tracing::info!("stopping: transfers in flight get {} s to finish", Agent::patience().0.as_secs());
    agent.stop();
    let (finish, terminate) = Agent::patience();
    let mut ended = wait(&mut poll, Some(finish), |_| agent.is_quiet() || signals.pending().next().is_some())?;
    if !agent.is_quiet() && !ended {
        agent.terminate();
        ended = wait(&mut poll, Some(terminate), |_| agent.is_quiet() || signals.pending().next().is_some())?;
    }
    if !agent.is_quiet() {
        if ended {
            tracing::warn!("second signal: killing the transfers in flight");
        }
        agent.kill();
    }
    agent.join()?;
    Ok(())
}

/// Polls until `done`, or until `patience` is over; returns whether it was done.
fn wait(poll: &mut Poll, patience: Option<Duration>, mut done: impl FnMut(Instant) -> bool) -> io::Result<bool> {
    let mut events = Events::with_capacity(4);
    let until = patience.map(|patience| clock::now() + patience);
    loop {
        let now = clock::now();
        if done(now) {
            return Ok(true);
        }
        if until.is_some_and(|until| now >= until) {
            return Ok(false);
        }
        let pause = if patience.is_some() { LOOK_PAUSE / 10 } else { LOOK_PAUSE };
        match poll.poll(&mut events, Some(pause)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
    }
}

/// Shows how far the comparison of the start is.
struct Watcher {
    said_at: Instant,
    done: bool,
}

impl Watcher {
    fn look(&mut self, agent: &Agent) {
        if self.done {
            return;
        }
        let status = agent.status();
        let total = u64::try_from(agent.watched()).unwrap_or(0);
        let targets: Vec<_> = status
            .iter()
            .flat_map(|(root, status)| status.targets.iter().map(move |target| (root, status.live, target)))
            .collect();
        let waiting: Vec<_> = targets.iter().filter(|(_, _, target)| !target.compared).collect();
        self.done = !targets.is_empty() && waiting.is_empty();
        let slowest = waiting.iter().map(|(_, _, target)| target.directories).min();
        if let Some(bar) = logging::progress() {
            match slowest {
                Some(compared) => {
                    bar.set_length(total.max(compared));
                    bar.set_position(compared);
                }
                None if self.done => bar.finish_and_clear(),
                None => {}
            }
        }
        if !self.done && clock::now().saturating_duration_since(self.said_at) >= LOG_PAUSE {
            self.said_at = clock::now();
            for (root, live, target) in waiting {
                tracing::info!(
                    root,
                    target = target.name,
                    live,
                    compared = target.directories,
                    directories = total,
                    pending = target.pending,
                    "comparing"
                );
            }
        }
    }
}
