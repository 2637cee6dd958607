//! What the lanes of one target share of the way there: who keeps a connection open, what was seen of it, for `status`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Waker;
use parking_lot::Mutex;

use super::acks::AcksEnd;
use super::speed::Speed;
use crate::plan::WHOLE_MAX;

/// How long a target is left without waiting connections after it had too many.
const GIVEN_UP: Duration = Duration::from_secs(600);

/// How long a daemon may take to see the end of a connection. Its process looks for its own child every 20 ms.
const MOMENT: Duration = Duration::from_millis(500);

/// Files up to this are sent whole on a slow way: of what fits in a few packets no difference is worth its round of
/// checksums.
const WHOLE_MAX_SLOW: u64 = 8 * 1024;

/// When something is done for a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum When {
    /// As the measured speed of the way there suggests.
    #[default]
    Auto,
    /// Whatever the way is like.
    Always,
    /// Not at all.
    Never,
}

/// What is up to the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkOptions {
    /// It leads to another machine's rsync.
    pub remote: bool,
    /// Lanes that keep a connection open.
    pub warm: u16,
    /// Whether data is compressed.
    pub compress: When,
    /// Whether changed files are sent whole, rather than as differences.
    pub whole_file: When,
}

/// The way to one target.
#[derive(Debug, Default)]
pub struct Link {
    options: LinkOptions,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The dispatcher has something to send, or may have any moment.
    open: bool,
    given_up_until: Option<Instant>,
    /// Connections that wait for a list.
    waiting: u32,
    /// When the last connection ended, whatever it was for.
    ended_at: Option<Instant>,
    keepers: Vec<Arc<Waker>>,
    speed: Speed,
    refuses_compression: bool,
    view: LinkView,
}

/// What `status` says of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LinkView {
    /// It leads to another machine's rsync.
    pub is_remote: bool,
    /// How rsync's replies are acknowledged; `None` before the first run.
    pub acks: Option<AcksView>,
    /// An rsync waits for a list.
    pub is_warm: bool,
    /// Why none does.
    pub why_cold: &'static str,
    /// Runs by one that waited.
    pub warm_runs: u64,
    /// Runs that were started for their list.
    pub cold_runs: u64,
    /// Runs by one that waited whose connection was no good: they were made again.
    pub warm_broken: u64,
    /// Bytes on the wire, as far as connections were seen.
    pub bytes_sent: u64,
    /// The same, from there.
    pub bytes_received: u64,
    /// How fast it is.
    pub speed: Speed,
    /// Data is compressed now.
    pub compresses: bool,
}

/// How rsync's replies are acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcksView {
    /// At once.
    Quick,
    /// When the kernel thinks fit, and why.
    Plain(String),
}

impl Link {
    /// Nothing is known of it yet. The target was asked whether it is there a moment ago.
    #[must_use]
    pub fn new(options: LinkOptions) -> Self {
        let state = State { ended_at: Some(crate::sys::clock::now()), ..State::default() };
        Self { options, state: Mutex::new(state) }
    }

    /// Whether data is compressed now.
    #[must_use]
    pub fn compresses(&self) -> bool {
        self.compresses_in(&self.state.lock())
    }

    fn compresses_in(&self, state: &State) -> bool {
        match self.options.compress {
            When::Auto => state.speed.is_slow() && !state.refuses_compression,
            When::Always => true,
            When::Never => false,
        }
    }

    /// Takes note when these words are those of a daemon that refuses compression. Returns whether it goes without
    /// then, as nobody asked for it.
    pub(super) fn refuses_compression(&self, words: &str) -> bool {
        let refuses = self.options.compress == When::Auto && self.compresses() && words.contains("compress");
        self.state.lock().refuses_compression |= refuses;
        refuses
    }

    /// Files up to this are sent whole. Unit: bytes.
    #[must_use]
    pub fn whole_max(&self) -> u64 {
        match self.options.whole_file {
            When::Auto if self.state.lock().speed.is_slow() => WHOLE_MAX_SLOW,
            When::Auto => WHOLE_MAX,
            When::Always => u64::MAX,
            When::Never => 0,
        }
    }

    /// The waker of a lane that may keep a connection.
    pub fn add_keeper(&self, waker: Arc<Waker>) {
        self.state.lock().keepers.push(waker);
    }

    /// Whether connections may wait at all: the dispatcher's word.
    pub fn open(&self, open: bool) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.open, open) && !open {
            state.wake();
        }
    }

    /// Whether a connection may wait now.
    #[must_use]
    pub fn may_wait(&self, now: Instant) -> bool {
        let state = self.state.lock();
        state.open && state.given_up_until.is_none_or(|until| until <= now)
    }

    /// The target has too few connections, so none waits any more. Returns whether that may help: one waits, or one of
    /// ours ended a moment ago, which the daemon counts still.
    pub fn give_up(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.given_up_until = Some(now + GIVEN_UP);
        state.view.why_cold = "the target has too few connections";
        state.wake();
        state.waiting > 0 || state.ended_at.is_some_and(|at| now.saturating_duration_since(at) < MOMENT)
    }

    /// A connection waits from now on.
    pub(super) fn begin_wait(&self) {
        self.state.lock().waiting += 1;
    }

    /// It does not wait any more.
    pub(super) fn end_wait(&self, now: Instant, why: &'static str) {
        let mut state = self.state.lock();
        state.ended_at = Some(now);
        state.waiting = state.waiting.saturating_sub(1);
        if !why.is_empty() && state.view.why_cold != "the target has too few connections" {
            state.view.why_cold = why;
        }
    }

    /// A run has ended. Says once why its replies cannot be acknowledged at once.
    pub(super) fn on_run(&self, warm: bool, acks: &AcksEnd) -> Option<String> {
        let mut state = self.state.lock();
        let runs = if warm { &mut state.view.warm_runs } else { &mut state.view.cold_runs };
        *runs += 1;
        if let Some(info) = &acks.info {
            state.speed.on_connection(info);
            state.view.bytes_sent += info.bytes_acknowledged;
            state.view.bytes_received += info.bytes_received;
        }
        match (&acks.info, &acks.lack) {
            (Some(_), _) => state.view.acks = Some(AcksView::Quick),
            (None, Some(error)) => {
                let known = matches!(state.view.acks, Some(AcksView::Plain(_)));
                let words = error.to_string();
                state.view.acks = Some(AcksView::Plain(words.clone()));
                return (!known).then_some(words);
            }
            // It ended before its connection was found.
            (None, None) => {}
        }
        None
    }

    /// A connection was used and has ended.
    pub(super) fn on_end(&self, now: Instant) {
        self.state.lock().ended_at = Some(now);
    }

    /// A run by a connection that waited came to nothing.
    pub(super) fn on_broken(&self) {
        self.state.lock().view.warm_broken += 1;
    }

    fn why_cold(&self, state: &State) -> &'static str {
        match state.view.why_cold {
            _ if self.options.warm == 0 => "none is asked for",
            _ if state.waiting > 0 => "",
            _ if !state.open => "nothing is sent now",
            "" => "nothing was sent yet",
            why => why,
        }
    }

    /// For `status`.
    #[must_use]
    pub fn view(&self) -> LinkView {
        let state = self.state.lock();
        LinkView {
            is_remote: self.options.remote,
            is_warm: state.waiting > 0,
            why_cold: self.why_cold(&state),
            speed: state.speed,
            compresses: self.compresses_in(&state),
            ..state.view.clone()
        }
    }
}

impl State {
    fn wake(&self) {
        for waker in &self.keepers {
            let _it_ends = waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::connection::TcpInfo;

    fn link(compress: When, whole_file: When, rate: u64) -> Link {
        let link = Link::new(LinkOptions { compress, whole_file, ..LinkOptions::default() });
        for _run in 0..5 {
            let info = TcpInfo { bytes_acknowledged: 1 << 20, delivery_rate: rate, ..TcpInfo::default() };
            let said = link.on_run(false, &AcksEnd { info: Some(info), lack: None });
            assert_eq!(said, None);
        }
        link
    }

    #[test]
    fn a_slow_way_is_compressed_and_gets_differences_unless_somebody_decided() {
        let check = |compress, whole_file, rate, expected: (bool, u64)| {
            let link = link(compress, whole_file, rate);
            assert_eq!((link.compresses(), link.whole_max()), expected, "{compress:?} {whole_file:?} {rate}");
        };
        check(When::Auto, When::Auto, 1_000_000, (true, WHOLE_MAX_SLOW));
        check(When::Auto, When::Auto, 100_000_000, (false, WHOLE_MAX));
        check(When::Always, When::Always, 100_000_000, (true, u64::MAX));
        check(When::Never, When::Never, 1_000_000, (false, 0));
    }

    #[test]
    fn a_target_that_refuses_compression_goes_without() {
        let link = link(When::Auto, When::Auto, 1_000_000);
        assert!(!link.refuses_compression("The server is configured to refuse --delete"));
        assert!(link.refuses_compression("The server is configured to refuse --compress"));
        assert!(!link.compresses());
        assert_eq!(link.view().bytes_sent, 5 << 20);
    }

    #[test]
    fn why_replies_cannot_be_acknowledged_at_once_is_said_once() {
        let link = Link::default();
        let lack = || AcksEnd { info: None, lack: Some(std::io::Error::from_raw_os_error(libc::EPERM)) };
        assert!(link.on_run(false, &lack()).is_some_and(|words| words.contains("not permitted")));
        assert_eq!(link.on_run(false, &lack()), None);
        assert!(matches!(link.view().acks, Some(AcksView::Plain(_))));
    }

    #[test]
    fn a_target_that_has_too_few_connections_is_left_without() {
        let link = Link::default();
        let now = crate::sys::clock::now();
        assert!(!link.may_wait(now), "the dispatcher has not said so");
        link.open(true);
        assert!(link.may_wait(now));
        link.begin_wait();
        assert!(link.give_up(now), "one waits");
        link.end_wait(now, "");
        assert!(link.give_up(now + MOMENT / 2), "its end may not have been seen");
        assert!(!link.give_up(now + MOMENT) && !link.may_wait(now));
        link.give_up(now);
        assert!(link.may_wait(now + GIVEN_UP));
        link.open(false);
        assert!(!link.may_wait(now + GIVEN_UP));
    }
}
