//! The thread behind the control socket: it takes requests, asks the dispatchers and hands out their answers.
//!
//! No thread waits for a client, and this one waits for nobody: sockets do not block, a client has [`PATIENCE`] for
//! each request and answer, and one that says nothing gives its place to the next.
//!
//! [`PATIENCE`]: super::clients

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::net::UnixListener;
use mio::{Events, Interest, Poll, Token, Waker};

use super::clients::{Client, Open, Wish};
use super::desk::{ASKED_MAX, Ask, Desk, Part, Question};
use super::inbox::Inbox;
use super::status;
use crate::control::{Answer, Command, FailureKind, Request, RootName, SOCKET, TargetName};
use crate::path::RelPath;
use crate::sys::{clock, socket};
use crate::target::TargetId;
use crate::watch::Source;
use crate::worker::throttle::Throttle;

/// Clients at the same time. One that asks nothing gives its place to the next.
const CLIENTS_MAX: usize = 16;

/// After an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

const WAKE: Token = Token(0);
const LISTENER: Token = Token(1);
const FIRST_CLIENT: usize = 2;

/// What the control thread knows of a root.
#[derive(Debug)]
pub(super) struct RootDesk {
    pub name: String,
    pub path: PathBuf,
    pub targets: Vec<TargetName>,
    /// Those of the targets that have a limit.
    pub throttles: Vec<Option<Arc<Throttle>>>,
    pub source: Arc<Source>,
    pub inbox: Arc<Inbox>,
    pub desk: Arc<Desk>,
    /// Questions without an answer.
    pub open: usize,
}

impl RootDesk {
    pub(super) fn target_name(&self, target: TargetId) -> String {
        self.targets.get(usize::from(target.0)).map_or_else(String::new, |target| target.name.clone())
    }

    fn target(&self, name: &str) -> Option<TargetId> {
        let index = self.targets.iter().position(|target| target.name == name)?;
        u16::try_from(index).ok().map(TargetId)
    }
}

/// The socket, bound: whoever connects waits until the agent answers.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    folder: OwnedFd,
    state_dir: PathBuf,
}

impl ControlSocket {
    /// Binds the socket in the state folder, whose lock the caller holds: so whatever has its name is stale.
    ///
    /// # Errors
    /// Those of opening the folder, and of unlink(2) and bind(2).
    pub fn bind(state_dir: &Path) -> io::Result<Self> {
        let folder = socket::open_folder(state_dir)?;
        let listener = UnixListener::from_std(socket::listen(&folder, SOCKET)?);
        Ok(Self { listener, folder, state_dir: state_dir.to_owned() })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _gone_already = socket::remove(&self.folder, SOCKET);
    }
}

/// The control thread.
#[derive(Debug)]
pub(super) struct ControlLoop {
    poll: Poll,
    socket: ControlSocket,
    stop: Arc<AtomicBool>,
    roots: Vec<RootDesk>,
    clients: Vec<Option<Client>>,
    tickets: u64,
    accept_at: Option<Instant>,
}

/// Stops the control thread.
#[derive(Debug)]
pub(super) struct ControlStop {
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl ControlStop {
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        super::inbox::wake(&self.waker);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

impl ControlLoop {
    /// Answers what comes in at the socket.
    pub(super) fn open(mut socket: ControlSocket, roots: Vec<RootDesk>) -> io::Result<(Self, ControlStop)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        poll.registry().register(&mut socket.listener, LISTENER, Interest::READABLE)?;
        for root in &roots {
            root.desk.open(Arc::clone(&waker));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let control = Self {
            poll,
            socket,
            stop: Arc::clone(&stop),
            roots,
            clients: (0..CLIENTS_MAX).map(|_| None).collect(),
            tickets: 0,
            accept_at: None,
        };
        Ok((control, ControlStop { stop, waker }))
    }

    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// When the poll is broken.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(CLIENTS_MAX + FIRST_CLIENT);
        loop {
            let now = clock::now();
            let patience = self.clients.iter().flatten().filter_map(Client::look_at);
            let wake_at = patience.chain(self.accept_at).min();
            let wait = wake_at.map(|at| at.saturating_duration_since(now));
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            if self.stop.load(Ordering::Acquire) {
                return Ok(());
            }
            let now = clock::now();
            let mut accept = self.accept_at.take_if(|at| *at <= now).is_some();
            let mut ready = [false; CLIENTS_MAX];
            for event in &events {
                match event.token() {
                    WAKE => {}
                    LISTENER => accept = true,
                    Token(token) => {
                        let slot = token - FIRST_CLIENT;
                        // Closed on both sides: whatever it asked, nobody waits for it.
                        if event.is_error() || event.is_write_closed() {
                            self.drop_client(slot);
                        }
                        ready[slot] = true;
                    }
                }
            }
            for slot in (0..CLIENTS_MAX).filter(|slot| ready[*slot]) {
                self.advance(now, slot);
            }
            self.take_answers(now);
            for slot in 0..CLIENTS_MAX {
                let over = self.clients[slot].as_ref().and_then(Client::until).is_some_and(|until| until <= now);
                if over {
                    self.drop_client(slot);
                }
                let open = self.clients[slot].as_mut().and_then(|client| client.open.as_mut());
                if let Some(open) = open
                    && open.deadline.take_if(|deadline| *deadline <= now).is_some()
                {
                    open.given_up = true;
                    give_up(&self.roots, open);
                }
            }
            if accept {
                self.accept(now);
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        loop {
            match self.socket.listener.accept() {
                Ok((stream, _)) => self.welcome(now, stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a client of the control socket");
                    self.accept_at = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn welcome(&mut self, now: Instant, stream: mio::net::UnixStream) {
        let mut client = Client::new(stream, now);
        let free = self.clients.iter().position(Option::is_none);
        let slot = free.or_else(|| {
            let idle = (0..CLIENTS_MAX).filter_map(|slot| Some((self.clients[slot].as_ref()?.until()?, slot)));
            idle.min().map(|(_, slot)| slot)
        });
        let Some(slot) = slot else {
            let words = format!("{CLIENTS_MAX} clients wait for answers already: try again later");
            client.answer(now, failed(FailureKind::Agent, words), true);
            // As much as fits without waiting, which is all of so little.
            let _gone = client.advance();
            return;
        };
        self.drop_client(slot);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let token = Token(FIRST_CLIENT + slot);
        if self.poll.registry().register(&mut client.stream, token, interest).is_ok() {
            self.clients[slot] = Some(client);
            self.advance(now, slot);
        }
    }

    fn drop_client(&mut self, slot: usize) {
        // Closing its descriptor takes it out of the poll. Answers to its questions find nobody.
        let Some(client) = self.clients[slot].take() else { return };
        if let Some(open) = client.open.filter(|open| !open.given_up) {
            give_up(&self.roots, &open);
        }
    }

    fn advance(&mut self, now: Instant, slot: usize) {
        loop {
            let Some(client) = &mut self.clients[slot] else { return };
            match client.advance() {
                Wish::Nothing => return,
                Wish::End => return self.drop_client(slot),
                Wish::Refusal => {
                    let words = "the line is too long".to_owned();
                    client.answer(now, failed(FailureKind::Request, words), true);
                }
                Wish::Answer(line) => match Request::parse(&line) {
                    Ok(request) => match self.begin(now, request.command) {
                        Ok(open) => {
                            if let Some(client) = &mut self.clients[slot] {
                                client.open = Some(open);
                            }
                        }
                        Err(answer) => self.answer(now, slot, answer, false),
                    },
                    Err(words) => self.answer(now, slot, failed(FailureKind::Request, words), true),
                },
            }
        }
    }

    fn answer(&mut self, now: Instant, slot: usize, answer: Answer, last: bool) {
        if let Some(client) = &mut self.clients[slot] {
            client.answer(now, answer, last);
        }
    }

    /// Asks the dispatchers; gives the answer if it is known at once.
    fn begin(&mut self, now: Instant, command: Command) -> Result<Open, Answer> {
        let (root, target) = match &command {
            Command::Roots => return Err(self.root_names()),
            Command::Status { root } | Command::Rescan { root, .. } => (root, &None),
            Command::Wait { root, target, .. }
            | Command::Pause { root, target }
            | Command::Resume { root, target }
            | Command::Retry { root, target, .. }
            | Command::Approve { root, target } => (root, target),
            Command::Explain { root, .. } => {
                if root.is_none() && self.roots.len() > 1 {
                    return Err(no_such("name the root of the path", "roots", &self.names()));
                }
                (root, &None)
            }
        };
        let chosen = self.choose(root.as_deref(), target.as_deref())?;
        if chosen.iter().any(|(index, _)| self.roots[*index].open >= ASKED_MAX) {
            return Err(failed(FailureKind::Agent, "too much is asked at the same time: try again later".to_owned()));
        }
        self.tickets += 1;
        let ticket = self.tickets;
        for (index, target) in &chosen {
            let root = &mut self.roots[*index];
            let asked = root.desk.ask(&root.inbox, Ask { ticket, question: question(&command, *target) });
            assert!(asked, "a desk has room for every open question");
            root.open += 1;
        }
        let missing = chosen.into_iter().map(|(index, _)| index).collect();
        let timeout = match &command {
            Command::Wait { timeout_ms, .. } => timeout_ms.map(Duration::from_millis),
            _ => None,
        };
        let deadline = timeout.and_then(|timeout| now.checked_add(timeout));
        Ok(Open { ticket, command, missing, parts: Vec::new(), deadline, given_up: false })
    }

    /// The roots that are meant, each with the target that is meant in it.
    fn choose(&self, root: Option<&str>, target: Option<&str>) -> Result<Vec<(usize, Option<TargetId>)>, Answer> {
        let indices: Vec<usize> =
            (0..self.roots.len()).filter(|index| root.is_none_or(|name| self.roots[*index].name == name)).collect();
        if indices.is_empty() {
            let what = format!("there is no root '{}'", root.unwrap_or_default());
            return Err(no_such(&what, "roots", &self.names()));
        }
        let Some(name) = target else { return Ok(indices.into_iter().map(|index| (index, None)).collect()) };
        let chosen: Vec<_> =
            indices.iter().filter_map(|index| Some((*index, Some(self.roots[*index].target(name)?)))).collect();
        if chosen.is_empty() {
            let targets = indices.iter().flat_map(|index| &self.roots[*index].targets);
            let names: Vec<&str> = targets.map(|target| target.name.as_str()).collect();
            return Err(no_such(&format!("there is no target '{name}'"), "targets", &names));
        }
        Ok(chosen)
    }

    fn names(&self) -> Vec<&str> {
        self.roots.iter().map(|root| root.name.as_str()).collect()
    }

    fn root_names(&self) -> Answer {
        let roots = self.roots.iter().map(|root| RootName {
            name: root.name.clone(),
            path: status::shown(&root.path),
            targets: root.targets.clone(),
        });
        Answer::Roots { roots: roots.collect() }
    }

    fn take_answers(&mut self, now: Instant) {
        for index in 0..self.roots.len() {
            while let Some((ticket, part)) = self.roots[index].desk.answer() {
                self.roots[index].open -= 1;
                let asked = |client: &Option<Client>| {
                    client.as_ref().and_then(|client| client.open.as_ref()).is_some_and(|open| open.ticket == ticket)
                };
                let Some(slot) = self.clients.iter().position(asked) else { continue };
                let Some(open) = self.clients[slot].as_mut().and_then(|client| client.open.as_mut()) else { continue };
                open.missing.retain(|missing| *missing != index);
                open.parts.push((index, part));
                if !open.missing.is_empty() {
                    continue;
                }
                let Some(open) = self.clients[slot].as_mut().and_then(|client| client.open.take()) else { continue };
                let answer = self.conclude(open);
                self.answer(now, slot, answer, false);
                self.advance(now, slot);
            }
        }
    }

    /// All roots have answered: one answer of theirs.
    fn conclude(&self, mut open: Open) -> Answer {
        open.parts.sort_unstable_by_key(|(index, _)| *index);
        let mut count = 0;
        let mut roots = Vec::new();
        let (mut reached, mut missing) = (true, Vec::new());
        for (index, part) in open.parts {
            let root = &self.roots[index];
            match (part, &open.command) {
                (Part::View(view), _) => roots.push(status::root(root, *view)),
                (Part::Count(some), _) => count += some,
                (Part::Explained(targets, now), Command::Explain { path, directory, .. }) => {
                    return Answer::Explained(Box::new(status::explained(root, path, *directory, targets, now)));
                }
                (Part::Explained(..) | Part::Reached, _) => {}
                (Part::NotReached(parts), _) => {
                    reached = false;
                    missing.extend(parts.into_iter().map(|part| status::missing(root, part)));
                }
            }
        }
        match open.command {
            Command::Status { .. } => Answer::Status(Box::new(status::agent(&self.socket.state_dir, roots))),
            Command::Wait { .. } if reached => Answer::Reached,
            Command::Wait { .. } => Answer::NotReached { missing },
            _ => Answer::Done { count },
        }
    }
}

fn question(command: &Command, target: Option<TargetId>) -> Question {
    let whole =
        |path: &Option<crate::control::WirePath>| path.as_ref().map_or_else(RelPath::root, |path| path.0.clone());
    match command {
        Command::Roots | Command::Status { .. } => Question::View,
        Command::Wait { .. } => Question::Wait(target),
        Command::Pause { .. } => Question::Pause(target),
        Command::Resume { .. } => Question::Resume(target),
        Command::Rescan { path, .. } => Question::Rescan(whole(path)),
        Command::Retry { path, .. } => Question::Retry(target, whole(path)),
        Command::Approve { .. } => Question::Approve(target),
        Command::Explain { path, .. } => Question::Explain(path.0.clone()),
    }
}

/// Ends a wait at the roots that have not answered. Any other question is answered anyway.
fn give_up(roots: &[RootDesk], open: &Open) {
    if matches!(open.command, Command::Wait { .. }) {
        for index in &open.missing {
            let root = &roots[*index];
            let put = root.desk.ask(&root.inbox, Ask { ticket: open.ticket, question: Question::GiveUp });
            assert!(put, "a desk has room to give every open question up");
        }
    }
}

fn failed(kind: FailureKind, words: String) -> Answer {
    Answer::Failed { kind, words }
}

fn no_such(what: &str, kind: &str, names: &[&str]) -> Answer {
    failed(FailureKind::Request, format!("{what}; {kind}: {}", names.join(", ")))
}
