//! One simulation: a seed decides the tree, the agent's setup, what the programs do, what goes wrong, and whose turn it is.

use std::collections::BTreeMap;
use std::time::Duration;

use fansync::path::RelPath;
use fansync::sys::ground::Backend;

use super::agent::{Agent, Setup};
use super::checks::{bounded, converges, durable, order, watched};
use super::control::Control;
use super::disk::Disk;
use super::machine::Machine;
use super::rsync::Fault;
use super::target::Target;
use super::user::{self, User};

/// Turns of everybody until everything must be done.
const TURNS_MAX: u32 = 20_000;

/// After this everything that is not watched was looked through.
const UNWATCHED: Duration = Duration::from_secs(150);

/// What a run came to, to see that the simulation does what it is for.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub steps: u64,
    pub runs: u64,
    pub faults: u64,
    pub crashes: u64,
    pub warm: u64,
    pub overflows: u64,
    pub quiet: u64,
    pub splits: u64,
    pub handovers: u64,
    /// Files that were linked instead of sent.
    pub linked: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.runs += other.runs;
        self.faults += other.faults;
        self.crashes += other.crashes;
        self.warm += other.warm;
        self.overflows += other.overflows;
        self.quiet += other.quiet;
        self.splits += other.splits;
        self.handovers += other.handovers;
        self.linked += other.linked;
    }
}

struct World {
    machine: Machine,
    rng: fastrand::Rng,
    agent: Option<Agent>,
    setup: Setup,
    targets: Vec<Target>,
    disk: Disk,
    /// Of 100 rsyncs so many go wrong.
    faulty: u32,
    /// A target that is away until then.
    away: Vec<Duration>,
    may_crash: bool,
    /// Names whose files looked the same as the target's, with other content, when everything was compared by size and
    /// mtime: a start without a checkpoint cannot see them. With the content that they had.
    unseen: Vec<BTreeMap<RelPath, u64>>,
    tally: Tally,
}

/// Runs one seed to its end; panics when a checker complains.
pub fn run(seed: u64, backend: Backend, control: Control, trace: bool) -> Tally {
    let mut world = World::new(seed, backend, control, trace);
    for _phase in 0..world.rng.u32(1..4) {
        world.busy();
        world.quiet();
    }
    world.renames();
    world.quiet();
    world.watched();
    world.tally.linked = world.targets.iter().map(|target| target.linked).sum();
    world.tally
}

impl World {
    fn new(seed: u64, backend: Backend, control: Control, trace: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let write_max = Duration::from_millis(rng.u64(1..400));
        let user = User { left: 0, permille: 0, write_max, links: rng.u32(..4) == 0 };
        let machine = Machine::new(&mut rng, user, false);
        {
            let mut state = machine.lock();
            user::prepare(&mut state, rng.u32(..60));
            state.trace = trace;
            if rng.u32(..3) > 0 {
                state.queue_limit = [4, 8, 16, 64][rng.usize(..4)];
            }
            if rng.u32(..10) == 0 {
                state.watches_max = rng.usize(1..12);
            }
        }
        let mut dealing = fastrand::Rng::with_seed(seed ^ 0x6465_616c);
        let setup = Setup {
            shards: rng.u16(1..4),
            shard_depth: [1, 1, 2, 3][dealing.usize(..4)],
            split_min: [1, 1, 2, 4, u64::MAX][dealing.usize(..5)],
            targets: 1 + u16::from(rng.u32(..5) == 0),
            lanes: rng.u16(1..4),
            marks_max: [4, 12, 200, 10_000][rng.usize(..4)],
            kept_max: [5, 1_000][rng.usize(..2)],
            slack: write_max + Duration::from_millis(50),
            old_receiver: rng.u32(..10) == 0,
            backend,
            control,
        };
        // A mark has one reader.
        let setup = if backend == Backend::Fanotify { Setup { shards: 1, ..setup } } else { setup };
        machine.lock().say(|| format!("{setup:?}"));
        Self {
            machine,
            agent: None,
            targets: (0..setup.targets).map(|_| Target::new()).collect(),
            away: vec![Duration::ZERO; usize::from(setup.targets)],
            setup,
            disk: Disk::default(),
            faulty: [0, 10, 25, 60][rng.usize(..4)],
            may_crash: rng.bool(),
            unseen: vec![BTreeMap::new(); usize::from(setup.targets)],
            rng,
            tally: Tally::default(),
        }
    }

    fn start(&mut self) -> &mut Agent {
        if self.agent.is_none() {
            let seed = self.rng.u64(..);
            let agent = Agent::start(&self.machine, self.setup, seed, &self.disk);
            self.tally.warm += u64::from(agent.is_warm());
            self.agent = Some(agent);
        }
        self.agent.as_mut().expect("it was started")
    }

    /// Programs work, things go wrong, the agent may crash.
    fn busy(&mut self) {
        {
            let mut state = self.machine.lock();
            state.user.left = self.rng.u32(1..60);
            state.user.permille = [0, 5, 30, 150][self.rng.usize(..4)];
        }
        let steps = self.rng.u32(50..600);
        for _step in 0..steps {
            if self.machine.lock().user.left == 0 {
                break;
            }
            self.step();
        }
        let mut state = self.machine.lock();
        while state.user.left > 0 {
            user::act(&mut state);
        }
    }

    /// Directories are renamed, most of them while nothing is under way.
    fn renames(&mut self) {
        self.machine.lock().user.permille = [0, 0, 5, 30][self.rng.usize(..4)];
        for _round in 0..self.rng.u32(2..16) {
            if self.rng.u32(..4) > 0 {
                self.machine.lock().user.left = 0;
                for _turn in 0..60 {
                    if self.turn_of_all() {
                        break;
                    }
                }
                self.turn_of_all();
            }
            let mut state = self.machine.lock();
            state.user.left = self.rng.u32(..4);
            for _directory in 0..[1, 1, 1, 2, 3][self.rng.usize(..5)] {
                user::rename_directory(&mut state);
            }
            drop(state);
            for _step in 0..self.rng.u32(..60) {
                self.step();
            }
        }
        let mut state = self.machine.lock();
        while state.user.left > 0 {
            user::act(&mut state);
        }
    }

    /// Somebody's turn.
    fn step(&mut self) {
        self.tally.steps += 1;
        match self.rng.u32(..100) {
            0..=14 => user::act(&mut self.machine.lock()),
            15..=18 => self.pass(),
            19 if self.may_crash => self.crash(),
            20..=21 if self.faulty > 0 => {
                let target = self.rng.usize(..self.targets.len());
                self.away[target] = self.machine.lock().elapsed() + Duration::from_secs(self.rng.u64(..20));
            }
            turn => {
                let (sides, lanes) = {
                    let agent = self.start();
                    (agent.sides(), agent.lanes())
                };
                match turn {
                    22..=44 => {
                        let side = self.rng.usize(..sides);
                        self.start().shard_turn(side, false);
                    }
                    45..=59 => {
                        self.dispatcher();
                    }
                    60..=89 => {
                        let lane = self.rng.usize(..lanes);
                        self.lane(lane);
                    }
                    90..=94 => {
                        self.start().walker_step();
                    }
                    95 => {
                        self.start().link_turn();
                    }
                    _ => {
                        self.checkpoint();
                    }
                }
            }
        }
        bounded::queues(&self.machine.lock());
        let micros = self.rng.u64(..2_000);
        self.machine.lock().pass(Duration::from_micros(micros));
    }

    fn dispatcher(&mut self) -> bool {
        let (busy, cold) = {
            let agent = self.start();
            let before = agent.is_cold();
            (agent.dispatcher_turn(), agent.is_cold() && !before)
        };
        if cold {
            let state = self.machine.lock();
            for (target, unseen) in self.targets.iter().zip(&mut self.unseen) {
                *unseen = target.unseen(&state.files);
            }
        }
        busy
    }

    fn checkpoint(&mut self) -> bool {
        let Some(agent) = &mut self.agent else { return false };
        let fails = self.faulty > 0 && self.rng.u32(..10) == 0;
        agent.checkpoint_turn(&mut self.disk, fails)
    }

    fn lane(&mut self, number: usize) -> bool {
        let Some(agent) = &mut self.agent else { return false };
        let (rng, faulty, tally) = (&mut self.rng, self.faulty, &mut self.tally);
        let elapsed = self.machine.lock().elapsed();
        let away = &self.away;
        agent.lane_step(number, &mut self.targets, &mut |target| {
            tally.runs += 1;
            let fault = if away[target] > elapsed {
                Fault::Ends { step: 0, code: 10, litters: false }
            } else if rng.u32(..100) < faulty {
                fault(rng)
            } else {
                Fault::None
            };
            tally.faults += u64::from(fault != Fault::None);
            fault
        })
    }

    /// A while in which nobody does anything.
    fn pass(&mut self) {
        let millis = [10, 300, 3_000, 30_000][self.rng.usize(..4)];
        let millis = self.rng.u64(..millis);
        self.machine.lock().pass(Duration::from_millis(millis));
    }

    /// The agent dies; what it has left must lead to all that is not done.
    fn crash(&mut self) {
        let Some(agent) = self.agent.take() else { return };
        self.tally.crashes += 1;
        let source = std::sync::Arc::clone(&agent.source);
        agent.die();
        let mut state = self.machine.lock();
        state.say(|| "the agent dies".to_owned());
        // The state of this moment, undisturbed.
        let permille = std::mem::take(&mut state.user.permille);
        drop(state);
        if let (Some(record), Control::Sound) = (self.disk.record(), self.setup.control) {
            for ((target, marks), unseen) in self.targets.iter().zip(self.disk.marks()).zip(&self.unseen) {
                durable::check(&source, &record, &marks, target, unseen);
            }
        }
        let mut state = self.machine.lock();
        state.user.permille = permille;
        for _operation in 0..self.rng.u32(..4) {
            user::act(&mut state);
        }
        drop(state);
        self.pass();
    }

    /// The programs rest and nothing goes wrong: the agent has to end up with equal trees, and say so.
    fn quiet(&mut self) {
        {
            let mut state = self.machine.lock();
            state.user.permille = 0;
            state.pass(Duration::from_millis(400));
            state.say(|| "quiet".to_owned());
        }
        let faulty = std::mem::take(&mut self.faulty);
        self.away.fill(Duration::ZERO);
        let since = self.machine.lock().elapsed();
        for turns in 0.. {
            assert!(turns < TURNS_MAX, "no convergence within {TURNS_MAX} turns");
            let clean = self.turn_of_all();
            let spent = self.machine.lock().elapsed() - since;
            let agent = self.agent.as_ref().expect("it had its turn");
            converges::in_time(spent, || agent.views());
            // What is not watched is looked through every minute.
            if clean && (!agent.is_degraded() || spent > UNWATCHED) {
                break;
            }
        }
        self.tally.quiet += 1;
        if let Some(agent) = &mut self.agent {
            self.tally.splits += std::mem::take(&mut agent.splits);
            self.tally.handovers += std::mem::take(&mut agent.handovers);
        }
        let state = self.machine.lock();
        let lost = state.instances.iter().map(|instance| instance.lost);
        let lost = lost.chain(state.groups.iter().map(|group| group.lost));
        self.tally.overflows += lost.map(|lost| u64::from(lost > 0)).sum::<u64>();
        for (target, unseen) in self.targets.iter().zip(&self.unseen) {
            converges::equal(&state, target, unseen);
            order::check(target);
        }
        drop(state);
        self.faulty = faulty;
    }

    /// At the end: what left by rename is given up after a moment, and what changes hands is let go; then each directory has
    /// one watch.
    fn watched(&mut self) {
        self.machine.lock().pass(Duration::from_millis(200));
        while !self.turn_of_all() {}
        // A mark has no watches, and an agent that is broken on purpose is to lose something.
        let watches = self.setup.backend == Backend::Inotify && self.setup.control == Control::Sound;
        if watches && !self.agent.as_ref().is_some_and(Agent::is_degraded) {
            watched::once(&self.machine.lock());
        }
    }

    /// Everybody's turn, in a random order; then time goes on to when something is due. Returns whether all is clean.
    fn turn_of_all(&mut self) -> bool {
        let (sides, lanes) = {
            let agent = self.start();
            (agent.sides(), agent.lanes())
        };
        let mut turns: Vec<usize> = (0..sides + lanes + 4).collect();
        self.rng.shuffle(&mut turns);
        let mut busy = false;
        for turn in turns {
            busy |= match turn {
                turn if turn < sides => self.start().shard_turn(turn, true),
                turn if turn < sides + lanes => self.lane(turn - sides),
                turn => match turn - sides - lanes {
                    0 => self.dispatcher(),
                    1 => self.start().walker_step(),
                    2 => self.start().link_turn(),
                    _ => self.checkpoint(),
                },
            };
        }
        let agent = self.agent.as_ref().expect("it was started");
        let queued = {
            let state = self.machine.lock();
            state.instances.iter().any(|instance| instance.queued() > 0)
                || state.groups.iter().any(|group| group.queued() > 0)
        };
        let clean = !busy && !queued && agent.is_clean();
        if !busy {
            let until = agent.wakes_at();
            let mut state = self.machine.lock();
            let now = state.now();
            let span = until.map_or(Duration::from_millis(100), |until| until.saturating_duration_since(now));
            state.pass(span + Duration::from_micros(1));
        }
        clean
    }
}

fn fault(rng: &mut fastrand::Rng) -> Fault {
    let step = rng.u32(..12);
    match rng.u32(..10) {
        0..=3 => {
            let code = [10, 11, 12, 20, 30][rng.usize(..5)];
            Fault::Ends { step, code, litters: code != 10 && code != 11 && rng.bool() }
        }
        4 => Fault::Killed { step },
        5 => Fault::Hangs { step },
        6 | 7 => Fault::Refuses { step },
        _ => Fault::Mumbles { step },
    }
}
