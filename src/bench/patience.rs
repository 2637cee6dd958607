//! Waiting: on a condition, for a bounded time, ended by Ctrl-C.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::sys::clock;

/// Set by SIGINT, SIGTERM and SIGHUP, so that the stage is cleared on the way out as at any other end.
#[derive(Debug, Clone)]
pub(super) struct Interrupt(Arc<AtomicBool>);

/// Somebody wants us to end.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

impl Interrupt {
    /// Catches the signals from now on.
    pub(super) fn watch() -> io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    /// An error once a signal came.
    pub(super) fn check(&self) -> Result<(), Interrupted> {
        if self.0.load(Ordering::Relaxed) { Err(Interrupted) } else { Ok(()) }
    }

    /// Asks `condition` every `step` until it holds; false when `limit` is over before that.
    pub(super) fn until(
        &self,
        limit: Duration,
        step: Duration,
        mut condition: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<bool> {
        let deadline = clock::now() + limit;
        loop {
            if condition()? {
                return Ok(true);
            }
            self.check()?;
            if clock::now() >= deadline {
                return Ok(false);
            }
            std::thread::park_timeout(step);
        }
    }

    /// One that no signal sets.
    #[cfg(test)]
    pub(super) fn never() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }
}
