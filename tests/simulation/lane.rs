//! A lane of the model agent: the worker's own planning and judging around a fake rsync.

use std::path::Path;
use std::time::{Duration, Instant};

use fansync::change::{DraftMark, MarkKind};
use fansync::dispatch::{LaneId, Order, Report};
use fansync::filter::Filter;
use fansync::plan::{LinkTable, Run};
use fansync::sys::ground::Ground as _;
use fansync::target::Location;
use fansync::watch::Source;
use fansync::worker::command::{self, Fence, Transport};
use fansync::worker::outcome::{Run as Ended, Verdict};
use fansync::worker::ship;
use fansync::worker::shipment::{self, Shipment, Sights};
use parking_lot::Mutex;

use super::machine::Machine;
use super::rsync::{Fault, ROOT_DESCRIPTOR, Rsync};
use super::target::Target;

/// How long an rsync may hang.
const DEADLINE: Duration = Duration::from_secs(190);

/// Files above this go to the large lane.
pub const LARGE: u64 = 50;

/// One lane.
#[derive(Debug)]
pub struct Lane {
    pub id: LaneId,
    transport: Transport,
    state: State,
    deadline: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Idle,
    Ordered(Order),
    Sending(Box<Sending>),
    Probing { missing_args: bool, run: Run, rsync: Box<Rsync> },
}

#[derive(Debug)]
struct Sending {
    order: Order,
    shipment: Shipment,
    /// The next one last.
    runs: Vec<Run>,
    rsync: Option<Rsync>,
}

/// What a lane needs of its surroundings for a step.
pub struct Around<'a> {
    pub source: &'a Source<Machine>,
    pub links: &'a Mutex<LinkTable>,
    pub target: &'a mut Target,
    /// What goes wrong with the next rsync.
    pub fault: &'a mut dyn FnMut() -> Fault,
    pub old_receiver: bool,
    pub backlog: usize,
}

impl Lane {
    pub fn new(number: u16) -> Self {
        let location = Location::parse(b"rsync://host/mod", Path::new("/")).expect("a daemon");
        let transport = Transport {
            program: "rsync".into(),
            location,
            password_file: None,
            timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            one_file_system: true,
            ssh: fansync::target::SshOptions::default(),
            control: None,
        };
        Self { id: LaneId(number), transport, state: State::Idle, deadline: None }
    }

    pub fn order(&mut self, order: Order) {
        assert!(self.is_idle(), "a lane is given an order only when it is idle");
        self.state = State::Ordered(order);
    }

    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// When a hanging rsync is stopped; nothing else happens until then.
    pub fn wakes(&self) -> Option<Instant> {
        self.deadline
    }

    fn start(&self, run: &Run, marks: &[DraftMark], missing_args: bool, around: &mut Around<'_>) -> Rsync {
        let attributes = marks.iter().filter(|mark| mark.kind == MarkKind::Attributes);
        let attributes = attributes.map(|mark| mark.path.clone()).collect();
        let arguments =
            command::arguments(&self.transport, &Filter::none(), run, Fence::Open, missing_args, ROOT_DESCRIPTOR);
        Rsync::start(&arguments, &command::list(run), (around.fault)(), around.old_receiver, attributes)
    }

    /// Goes on for a step; returns the reports, and whether names of shared inodes are to be searched.
    pub fn step(&mut self, around: &mut Around<'_>) -> (Vec<Report>, bool) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => (Vec::new(), false),
            State::Ordered(Order::Probe { missing_args }) => {
                let run = command::probe();
                let rsync = Box::new(self.start(&run, &[], missing_args, around));
                self.state = State::Probing { missing_args, run, rsync };
                (Vec::new(), false)
            }
            State::Ordered(Order::Send { draft, missing_args }) => {
                let sights = Sights {
                    source: around.source,
                    links: around.links,
                    large: LARGE,
                    whole_max: LARGE,
                    backlog: around.backlog,
                };
                let mut shipment = sights.prepare(&draft, missing_args);
                let mut runs = std::mem::take(&mut shipment.runs);
                around.source.root.lock().say(|| {
                    let marks: Vec<String> =
                        draft.marks.iter().map(|mark| format!("{:?} {}", mark.kind, mark.path)).collect();
                    format!("  batch {}: {marks:?} -> {runs:?}", draft.batch.0)
                });
                runs.reverse();
                let (seen, search) = (shipment.seen.take(), shipment.search_links);
                let order = Order::Send { draft, missing_args };
                self.state = State::Sending(Box::new(Sending { order, shipment, runs, rsync: None }));
                (seen.into_iter().collect(), search)
            }
            State::Probing { missing_args, run, mut rsync } => match self.advance(&run, &mut rsync, around) {
                None => {
                    self.state = State::Probing { missing_args, run, rsync };
                    (Vec::new(), false)
                }
                Some(verdict) => (vec![Report::Probed(shipment::probed(&verdict))], false),
            },
            State::Sending(mut sending) => (
                self.send(&mut sending, around).map_or_else(
                    || {
                        self.state = State::Sending(sending);
                        Vec::new()
                    },
                    |report| vec![report],
                ),
                false,
            ),
        }
    }

    fn send(&mut self, sending: &mut Sending, around: &mut Around<'_>) -> Option<Report> {
        let Order::Send { draft, missing_args } = &sending.order else { unreachable!("it sends") };
        let concluded = |conclusion| Some(Report::Concluded { batch: draft.batch, conclusion });
        let Some(run) = sending.runs.last().cloned() else {
            let shipment = std::mem::take(&mut sending.shipment);
            return concluded(shipment.finish());
        };
        let mut rsync = match sending.rsync.take() {
            Some(rsync) => rsync,
            None => self.start(&run, &draft.marks, *missing_args, around),
        };
        let Some(verdict) = self.advance(&run, &mut rsync, around) else {
            sending.rsync = Some(rsync);
            return None;
        };
        sending.runs.pop();
        around.source.root.lock().say(|| format!("  batch {}: {:?} {}", draft.batch.0, verdict.cause, verdict.words));
        sending.shipment.on_verdict(&run, verdict).and_then(concluded)
    }

    fn advance(&mut self, run: &Run, rsync: &mut Rsync, around: &mut Around<'_>) -> Option<Verdict> {
        let machine = &around.source.root;
        let ended = if rsync.hangs() {
            let deadline = *self.deadline.get_or_insert_with(|| machine.now() + DEADLINE);
            if machine.now() < deadline {
                return None;
            }
            rsync.stop()
        } else {
            rsync.step(machine, around.target)?
        };
        self.deadline = None;
        rsync.close(machine);
        let ended = Ended { exit: ended.exit, stdout: &ended.stdout, stderr: &ended.stderr, output_cut: false };
        Some(ship::judge(run, &ended, ROOT_DESCRIPTOR, &around.source.path, &self.transport.location))
    }

    /// The agent dies, and its rsync with it.
    pub fn die(&mut self, machine: &Machine) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Sending(sending) => {
                if let Some(mut rsync) = sending.rsync {
                    rsync.close(machine);
                }
            }
            State::Idle | State::Ordered(_) | State::Probing { .. } => {}
        }
    }
}
