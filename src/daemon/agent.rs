//! Starting the threads of all roots, and ending them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::{Poll, Waker};
use parking_lot::Mutex;

use super::checkpoint::{CheckpointEnd, CheckpointLoop, Keeper};
use super::connection::Connections;
use super::control::{ControlLoop, ControlSocket, ControlStop, RootDesk};
use super::desk::Desk;
use super::inbox::{ErrandBox, Inbox};
use super::lane::{Ending, LaneInbox, LaneLoop};
use super::links::{LinkLoop, LinkSearch};
use super::pipeline::{Pipeline, RootStatus, TargetLog};
use super::rounds::Rounds;
use super::saver::{self, Resume, Saver};
use super::shard::{ShardLoop, WAKE};
use super::slots::Slots;
use super::walkers::Walkers;
use crate::bandwidth::Bandwidth;
use crate::change::{ChangeSetOptions, SettleOptions};
use crate::checkpoint::{Loaded, SavedRoot, Storage};
use crate::control::TargetName;
use crate::dispatch::{DeleteGuard, Dispatcher, Haste, HoldOver, LaneId, TargetOptions, Waits};
use crate::filter::Filter;
use crate::limits::Allowance;
use crate::plan::LinkTable;
use crate::sys::child::Inherited;
use crate::sys::clock::{self, ClockWatch};
use crate::sys::ground::Backend;
use crate::sys::mounts::MountWatch;
use crate::target::TargetId;
use crate::watch::{self, Asked, Choice, Shard, ShardId, ShardOptions, Source, StartError};
use crate::worker::command::Transport;
use crate::worker::heat::Heat;
use crate::worker::link::{Link, LinkOptions};
use crate::worker::run::Supervisor;
use crate::worker::ship::Shipper;
use crate::worker::throttle::Throttle;

/// How long the batches in flight may go on after the first request to stop.
const FINISH_WAIT: Duration = Duration::from_secs(5);

/// After that they are terminated; this much later they are killed.
const TERMINATE_WAIT: Duration = Duration::from_secs(3);

/// A root to be kept the same on its targets.
#[derive(Debug, Clone)]
pub struct RootSetup {
    /// Its name in logs.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What is kept the same.
    pub filter: Filter,
    /// Directories on other file systems are not entered.
    pub one_file_system: bool,
    /// How it is watched.
    pub watch: Asked,
    /// NFS clients write to it.
    pub nfs_exported: bool,
    /// Directories elsewhere whose events are of no interest.
    pub noisy: Vec<PathBuf>,
    /// Shards, at least one; a fanotify mark has one.
    pub shards: u16,
    /// How deep the directories lie that are dealt to them.
    pub shard_depth: u16,
    /// Settle times.
    pub settle: SettleOptions,
    /// How much further than the watermark a rescan looks back.
    pub slack: Duration,
    /// How often directories without a watch are looked through; `None`: as usual.
    pub unwatched_pause: Option<Duration>,
    /// By what pauses after a failure are divided.
    pub haste: Haste,
    /// Of all that decides what a target should hold: when it changes, everything is compared.
    pub fingerprint: u64,
    /// What may be deleted on the targets.
    pub deletes: DeleteSetup,
    /// Where it is sent.
    pub targets: Vec<TargetSetup>,
}

/// What may be deleted on a root's targets.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeleteSetup {
    /// Nothing, ever.
    pub keep: bool,
    /// More within a minute is held.
    pub hold_over: HoldOver,
    /// How long it is held; `None`: until somebody approves it.
    pub release_after: Option<Duration>,
}

/// A target of a root.
#[derive(Debug, Clone)]
pub struct TargetSetup {
    /// Its name in logs.
    pub name: String,
    /// How it is reached.
    pub transport: Transport,
    /// rsync processes at the same time.
    pub lanes: u16,
    /// How data is sent, and how many lanes keep an rsync waiting.
    pub link: LinkOptions,
    /// Files above this go to the large lane. Unit: bytes.
    pub large: u64,
    /// Marks kept while it is away, before they widen.
    pub backlog: usize,
    /// A local target gets plain files without rsync.
    pub direct: bool,
    /// How much it is sent in a second.
    pub bandwidth: Option<Bandwidth>,
}

/// Why an agent could not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The root is not there, or cannot be read.
    #[error("cannot open the root {path}")]
    Root {
        /// The configured path.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The root cannot be watched.
    #[error("cannot watch the root {path}")]
    Watch {
        /// The configured path.
        path: PathBuf,
        /// Why.
        #[source]
        error: StartError,
    },
    /// No inotify instance, descriptor or thread is to be had.
    #[error("cannot set up {what}")]
    Resources {
        /// What for.
        what: &'static str,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A thread ended with an error.
    #[error("the thread {thread} ended")]
    Thread {
        /// Its name.
        thread: String,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// The running threads of all roots.
#[derive(Debug)]
pub struct Agent {
    roots: Vec<RunningRoot>,
    checkpoint: Option<(JoinHandle<io::Result<()>>, Arc<CheckpointEnd>)>,
    control: Option<RunningControl>,
    connections: Connections,
}

#[derive(Debug)]
struct RunningControl {
    stop: ControlStop,
    thread: JoinHandle<io::Result<()>>,
}

#[derive(Debug)]
struct RunningRoot {
    name: String,
    source: Arc<Source>,
    status: Arc<Mutex<RootStatus>>,
    stop: Arc<AtomicBool>,
    inbox: Arc<Inbox>,
    errands: Vec<Arc<ErrandBox>>,
    lanes: Vec<Arc<LaneInbox>>,
    links: Arc<LinkSearch>,
    walkers: Arc<Walkers>,
    desk: Arc<Desk>,
    targets: Vec<TargetName>,
    throttles: Vec<Option<Arc<Throttle>>>,
    pipeline: Option<JoinHandle<io::Result<()>>>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

pub(super) fn resources(what: &'static str) -> impl Fn(io::Error) -> AgentError {
    move |error| AgentError::Resources { what, error }
}

pub(super) fn spawn(
    name: String,
    body: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<JoinHandle<io::Result<()>>, AgentError> {
    std::thread::Builder::new().name(name).spawn(body).map_err(resources("a thread"))
}

impl Agent {
    /// Starts every root; `seed` decides the jitter of all pauses. With a checkpoint each goes on from where it was. What
    /// all their watches may hold together is `allowance`, and they have at most so many rsyncs at the same time. Sockets are
    /// made in `state`, or in a directory for temporary files.
    ///
    /// # Errors
    /// The first root that cannot be started; what was started before is stopped again.
    pub fn start(
        roots: Vec<RootSetup>,
        seed: u64,
        checkpoint: Option<(Storage, Loaded)>,
        allowance: &Arc<Allowance>,
        processes_max: usize,
        state: Option<&Path>,
    ) -> Result<Self, AgentError> {
        let slots = Slots::new(processes_max);
        let connections = Connections::new(state);
        let mut agent = Self { roots: Vec::new(), checkpoint: None, control: None, connections };
        let mut loaded = Loaded::default();
        let mut keepers = Vec::new();
        if let Some((storage, found)) = checkpoint {
            loaded = found;
            let (writer, theirs, end) = CheckpointLoop::new(storage, roots.len());
            keepers = theirs;
            let thread = spawn("checkpoint".to_owned(), move || {
                writer.run();
                Ok(())
            })?;
            agent.checkpoint = Some((thread, end));
        }
        let mut keepers = keepers.into_iter();
        for (index, root) in roots.into_iter().enumerate() {
            let saved = loaded.roots.remove(&root.name);
            let seed = seed.wrapping_add(index as u64);
            let shared = (&slots, &mut agent.connections);
            match start_root(root, seed, keepers.next(), saved, Arc::clone(allowance), shared) {
                Ok(running) => agent.roots.push(running),
                Err(error) => {
                    agent.stop();
                    agent.kill();
                    let _first_error_counts = agent.join();
                    return Err(error);
                }
            }
        }
        Ok(agent)
    }

    /// Answers what comes in at the control socket.
    ///
    /// # Errors
    /// When its thread cannot be made.
    pub fn open_control(&mut self, socket: ControlSocket) -> Result<(), AgentError> {
        let desks = self.roots.iter().map(RunningRoot::desk).collect();
        let (control, stop) = ControlLoop::open(socket, desks).map_err(resources("an event loop"))?;
        let thread = spawn("control".to_owned(), move || control.run())?;
        self.control = Some(RunningControl { stop, thread });
        Ok(())
    }

    /// What every root says of itself.
    #[must_use]
    pub fn status(&self) -> Vec<(String, RootStatus)> {
        self.roots.iter().map(|root| (root.name.clone(), root.status.lock().clone())).collect()
    }

    /// Directories watched, over all roots.
    #[must_use]
    pub fn watched(&self) -> i64 {
        self.roots.iter().map(|root| root.source.reading().watched).sum()
    }

    /// Whether a thread ended although nobody asked it to.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        // The thread of the checkpoint ends only when it is told to, and is told so in `join`.
        let checkpoint = self.checkpoint.as_ref().is_some_and(|(thread, _)| thread.is_finished());
        let control = self.control.as_ref();
        checkpoint
            || control.is_some_and(|control| !control.stop.is_stopped() && control.thread.is_finished())
            || self.connections.is_broken()
            || self.roots.iter().any(|root| {
                !root.stop.load(Ordering::Acquire)
                    && root.threads.iter().chain(&root.pipeline).any(JoinHandle::is_finished)
            })
    }

    /// Why a thread ended although nobody asked it to. The others are left as they are, since they may wait for it for
    /// ever: the process must end, and its children end with it.
    #[must_use]
    pub fn into_failure(mut self) -> AgentError {
        self.kill();
        // The lanes end by that; a dispatcher has a reason of its own.
        let checkpoint = self.checkpoint.into_iter().map(|(thread, _)| thread);
        let threads = self.roots.into_iter().flat_map(|root| root.pipeline.into_iter().chain(root.threads));
        let threads = threads.chain(checkpoint);
        let threads = threads.chain(self.connections.take_threads());
        let mut threads = threads.chain(self.control.map(|control| control.thread));
        let Some(thread) = threads.find(JoinHandle::is_finished) else {
            return AgentError::Resources { what: "the agent", error: io::Error::other("a thread ended") };
        };
        let name = thread.thread().name().unwrap_or("unnamed").to_owned();
        let ended = thread.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")));
        let error = ended.err().unwrap_or_else(|| io::Error::other("it ended without a reason"));
        AgentError::Thread { thread: name, error }
    }

    /// Takes no further batches; those in flight go on.
    pub fn stop(&self) {
        if let Some(control) = &self.control {
            control.stop.stop();
        }
        for root in &self.roots {
            root.stop.store(true, Ordering::Release);
            root.inbox.wake();
            root.links.stop();
            root.walkers.stop();
            for errands in &root.errands {
                errands.wake();
            }
        }
    }

    /// Whether no batch is in flight any more.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.roots.iter().all(|root| root.pipeline.as_ref().is_none_or(JoinHandle::is_finished))
    }

    /// How long to wait in [`Self::is_quiet`] before [`Self::terminate`], and then before [`Self::kill`].
    #[must_use]
    pub fn patience() -> (Duration, Duration) {
        (FINISH_WAIT, TERMINATE_WAIT)
    }

    /// Terminates the batches in flight.
    pub fn terminate(&self) {
        self.end_lanes(Ending::Terminate);
    }

    /// Kills the batches in flight.
    pub fn kill(&self) {
        self.end_lanes(Ending::Kill);
    }

    fn end_lanes(&self, ending: Ending) {
        for lane in self.roots.iter().flat_map(|root| &root.lanes) {
            lane.end(ending);
        }
    }

    /// Waits for every thread. Call [`Self::stop`] before.
    ///
    /// # Errors
    /// The first error that a thread ended with.
    pub fn join(mut self) -> Result<(), AgentError> {
        let mut first = Ok(());
        let mut join = |thread: JoinHandle<io::Result<()>>| {
            let name = thread.thread().name().unwrap_or("unnamed").to_owned();
            let ended = thread.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")));
            if let (Err(error), true) = (ended, first.is_ok()) {
                first = Err(AgentError::Thread { thread: name, error });
            }
        };
        if let Some(control) = self.control.take() {
            join(control.thread);
        }
        for root in &mut self.roots {
            if let Some(pipeline) = root.pipeline.take() {
                join(pipeline);
            }
            for lane in &root.lanes {
                lane.end(Ending::Finish);
            }
            for thread in root.threads.drain(..) {
                join(thread);
            }
        }
        // Nobody uses them any more.
        self.connections.stop();
        for thread in self.connections.take_threads() {
            join(thread);
        }
        // The last snapshots were offered by the dispatchers' ends.
        if let Some((thread, end)) = self.checkpoint.take() {
            end.stop();
            join(thread);
        }
        first
    }
}

impl RunningRoot {
    /// What the control thread needs of it.
    fn desk(&self) -> RootDesk {
        RootDesk {
            name: self.name.clone(),
            path: self.source.path.clone(),
            targets: self.targets.clone(),
            throttles: self.throttles.clone(),
            source: Arc::clone(&self.source),
            inbox: Arc::clone(&self.inbox),
            desk: Arc::clone(&self.desk),
            open: 0,
        }
    }
}

fn start_root(
    root: RootSetup,
    seed: u64,
    keeper: Option<Arc<Keeper>>,
    saved: Option<SavedRoot>,
    allowance: Arc<Allowance>,
    (slots, connections): (&Arc<Slots>, &mut Connections),
) -> Result<RunningRoot, AgentError> {
    let (started, started_wall) = (clock::now(), clock::coarse_now());
    let source = Source::open(&root.name, root.path.clone(), root.one_file_system, root.filter.clone())
        .map_err(|error| AgentError::Root { path: root.path.clone(), error })?;
    let unwatched_pause = root.unwatched_pause.unwrap_or(source.unwatched_pause);
    let source = source.with_slack(root.slack).with_unwatched_pause(unwatched_pause);
    let source = source.exported(root.nfs_exported).with_shard_depth(root.shard_depth);
    let choice = watch::choose(&source, root.watch, allowance.most());
    say_choice(&source, &choice);
    // A mark needs no watches.
    let (shard_count, allowance) = match choice.backend {
        Backend::Inotify => (root.shards.max(1), Some(allowance)),
        Backend::Fanotify => (1, None),
    };
    let source = source.within(allowance).watched_by(choice, root.noisy.clone());
    let source = Arc::new(source.keeping(root.deletes.keep));
    let locations: Vec<String> = root.targets.iter().map(|target| target.transport.location.to_string()).collect();
    let facts = saver::facts(&source, root.fingerprint).map_err(resources("the identity of the root"))?;
    let resume = match keeper {
        Some(_) => Resume::from(saved, &facts, &locations, source.ctimes_tell),
        None => Resume::cold("no state is kept", locations.len()),
    };
    source.remember(resume.entries_before.unwrap_or(0));
    let mount_watch = MountWatch::new().map_err(resources("/proc/self/mountinfo"))?;
    let saver = keeper.map(|keeper| Saver::new(keeper, root.name.clone(), facts, locations));
    let clock_watch = ClockWatch::new().map_err(resources("a timer"))?;
    let stop = Arc::new(AtomicBool::new(false));
    let links = Arc::new(Mutex::new(LinkTable::default()));
    let status = Arc::new(Mutex::new(RootStatus::default()));
    let inherited = Arc::new(Inherited::duplicate(&source.root).map_err(resources("a descriptor of the root"))?);

    let poll = Poll::new().map_err(resources("an event loop"))?;
    let waker = Waker::new(poll.registry(), WAKE).map_err(resources("an event loop"))?;
    let lanes_total = root.targets.iter().map(|target| usize::from(target.lanes.max(1))).sum();
    let inbox = Inbox::new(waker, lanes_total, usize::from(shard_count));

    // Everything that can fail comes before the first thread, so that nothing has to be undone.
    let mut shards = Vec::new();
    let mut errands = Vec::new();
    for number in 0..shard_count {
        let options = ShardOptions { id: ShardId(number), shards: shard_count };
        let what = match source.choice.backend {
            Backend::Inotify => "an inotify instance",
            Backend::Fanotify => "a fanotify mark",
        };
        let mut shard = Shard::create(Arc::clone(&source), options).map_err(resources(what))?;
        shard.start().map_err(|error| AgentError::Watch { path: root.path.clone(), error })?;
        let poll = Poll::new().map_err(resources("an event loop"))?;
        let waker = Waker::new(poll.registry(), WAKE).map_err(resources("an event loop"))?;
        errands.push(ErrandBox::new(waker));
        shards.push((shard, poll));
    }
    let mut supervisors = Vec::new();
    for target in &root.targets {
        for _lane in 0..target.lanes.max(1) {
            supervisors.push(Supervisor::create().map_err(resources("an event loop"))?);
        }
    }

    let throttle = |target: &TargetSetup| {
        let bandwidth = target.bandwidth.clone()?;
        Some(Arc::new(Throttle::new(bandwidth, target.lanes)))
    };
    let throttles: Vec<Option<Arc<Throttle>>> = root.targets.iter().map(throttle).collect();
    let mut threads = Vec::new();
    let (search, parker) = LinkSearch::new();
    let mut lanes = Vec::new();
    let mut ways = Vec::new();
    let mut supervisors = supervisors.into_iter();
    for (index, target) in root.targets.iter().enumerate() {
        let id = TargetId(u16::try_from(index).unwrap_or(u16::MAX));
        let mut of_target = Vec::new();
        let guard = Arc::new(Mutex::new(DeleteGuard::new(root.deletes.hold_over)));
        let link = Arc::new(Link::new(target.link));
        for (number, supervisor) in (0..target.lanes.max(1)).zip(&mut supervisors) {
            let lane_inbox = LaneInbox::new(supervisor.waker());
            let mut transport = target.transport.clone();
            let connection = connections.of(&mut transport)?;
            // The last lane is the first that is given small files.
            let heat = (number + target.link.warm >= target.lanes.max(1)).then(|| {
                link.add_keeper(supervisor.waker());
                Heat::new(target.transport.timeout)
            });
            let lane = LaneLoop {
                target: id,
                lane: LaneId(number),
                inbox: Arc::clone(&lane_inbox),
                reports: Arc::clone(&inbox),
                supervisor,
                shipper: Shipper {
                    source: Arc::clone(&source),
                    root: Arc::clone(&inherited),
                    links: Arc::clone(&links),
                    transport,
                    large: target.large,
                    guard: Arc::clone(&guard),
                    backlog: target.backlog,
                    direct: target.direct,
                    link: Arc::clone(&link),
                    throttle: throttles[index].clone(),
                },
                links: Arc::clone(&search),
                connection,
                heat,
                slots: Arc::clone(slots),
                idle_slot: None,
            };
            threads.push(spawn(format!("lane-{index}-{number}"), move || lane.run())?);
            of_target.push(lane_inbox);
        }
        lanes.push(of_target);
        ways.push(link);
    }
    let walkers = Walkers::new(Arc::clone(&source), Arc::clone(&inbox), errands.clone());
    let options: Vec<TargetOptions> = root
        .targets
        .iter()
        .map(|target| TargetOptions {
            lanes: target.lanes.max(1),
            changes: ChangeSetOptions { settle: root.settle, marks_max: target.backlog, saved: saver.is_some() },
        })
        .collect();
    let desk = Desk::new();
    let mut dispatcher = Dispatcher::new(&options, seed).with_haste(root.haste);
    dispatcher.release_after(root.deletes.release_after);
    let rounds = Arc::new(Rounds::new(usize::from(shard_count)));
    let pipeline = Pipeline {
        source: Arc::clone(&source),
        dispatcher,
        mount_watch,
        poll,
        inbox: Arc::clone(&inbox),
        desk: Arc::clone(&desk),
        waits: Waits::default(),
        rounds: Arc::clone(&rounds),
        links: (Arc::clone(&links), Arc::clone(&search)),
        lanes: lanes.clone(),
        slots: slots.join(Arc::clone(&inbox)),
        ways,
        logs: root.targets.iter().map(|target| TargetLog::new(target.name.clone())).collect(),
        status: Arc::clone(&status),
        stop: Arc::clone(&stop),
        started,
        started_wall,
        walkers: Arc::clone(&walkers),
        errands: errands.clone(),
        clock_watch,
        saver,
        resume,
        watermark: None,
    };
    let pipeline = spawn("dispatcher".to_owned(), move || pipeline.run())?;
    let link_loop = LinkLoop {
        search: Arc::clone(&search),
        parker,
        source: Arc::clone(&source),
        links: Arc::clone(&links),
        inbox: Arc::clone(&inbox),
    };
    threads.push(spawn("links".to_owned(), move || {
        link_loop.run();
        Ok(())
    })?);
    for number in 0..Walkers::threads() {
        let walkers = Arc::clone(&walkers);
        threads.push(spawn(format!("walker-{number}"), move || {
            walkers.run();
            Ok(())
        })?);
    }
    for (number, (shard, poll)) in shards.into_iter().enumerate() {
        let shard_loop = ShardLoop {
            shard,
            poll,
            inbox: Arc::clone(&inbox),
            errands: errands.clone(),
            stop: Arc::clone(&stop),
            source: Arc::clone(&source),
            kept: Vec::new(),
            kept_since: None,
            waiting_errands: Vec::new(),
            // Only the trunk has something to deal.
            dealt: number != 0,
            told_live: false,
            walkers: Arc::clone(&walkers),
            owed: 0,
            rounds: Arc::clone(&rounds),
            links: (Arc::clone(&links), Arc::clone(&search)),
            drained: 0,
        };
        threads.push(spawn(format!("shard-{number}"), move || shard_loop.run())?);
    }
    Ok(RunningRoot {
        name: root.name,
        source,
        status,
        stop,
        inbox,
        errands,
        lanes: lanes.into_iter().flatten().collect(),
        links: search,
        walkers,
        desk,
        targets: root.targets.iter().map(target_name).collect(),
        throttles,
        pipeline: Some(pipeline),
        threads,
    })
}

fn say_choice(source: &Source, choice: &Choice) {
    let (root, backend, reason) = (&source.name, choice.backend.name(), &choice.reason);
    match &choice.refused {
        Some(refused) => tracing::warn!(root, backend, "fanotify is not possible here, so inotify is used: {refused}"),
        None => tracing::info!(root, backend, reason, "watching by {backend}"),
    }
}

fn target_name(target: &TargetSetup) -> TargetName {
    TargetName { name: target.name.clone(), url: target.transport.location.to_string() }
}
