//! The limit of a target, as its runs take their parts of it.
//!
//! A run keeps what it was given until it ends, also when the hour brings another limit. Left out: to give more or less to a run
//! under way. rsync has no way to be told; the pacing of its socket would be one (socket(7), `SO_MAX_PACING_RATE`), set from here for
//! each [`Part`] whenever the limit changes.

use std::ffi::OsString;
use std::time::Duration;

use parking_lot::Mutex;

use crate::bandwidth::{Bandwidth, Share, Shares};
use crate::sys::clock;

/// Shared by all lanes of a target.
#[derive(Debug)]
pub struct Throttle {
    bandwidth: Bandwidth,
    shares: Mutex<Shares>,
}

/// What one run may send; given back when it is dropped.
#[derive(Debug)]
pub struct Part<'a> {
    throttle: &'a Throttle,
    share: Share,
}

/// What a run is told that asks for its part.
#[derive(Debug)]
pub enum Told<'a> {
    /// There is no limit now.
    NoLimit,
    /// To send so much.
    Part(Part<'a>),
    /// To ask again, or to say that it will not.
    Wait,
}

impl Throttle {
    /// For a target with so many lanes.
    #[must_use]
    pub fn new(bandwidth: Bandwidth, lanes: u16) -> Self {
        Self { bandwidth, shares: Mutex::new(Shares::new(lanes)) }
    }

    /// What is the limit now. Unit: bytes per second.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        self.bandwidth.at(clock::local_now())
    }

    /// The part of a run, perhaps of a large file.
    pub fn take(&self, large: bool) -> Told<'_> {
        let Some(limit) = self.limit() else { return Told::NoLimit };
        match self.shares.lock().take(limit, large) {
            Some(share) => Told::Part(Part { throttle: self, share }),
            None => Told::Wait,
        }
    }

    /// Who was told to wait does not ask again.
    pub fn give_up(&self) {
        self.shares.lock().give_up();
    }
}

impl Part<'_> {
    /// What rsync is told (rsync(1), `--bwlimit`: KiB per second).
    #[must_use]
    pub fn argument(&self) -> OsString {
        OsString::from(format!("--bwlimit={}", self.share.rate))
    }

    /// How long a run of so many bytes takes at least; twice that, as its lists and checksums count too.
    #[must_use]
    pub fn patience(&self, bytes: u64) -> Duration {
        Duration::from_secs((bytes / 512).div_ceil(self.share.rate.max(1)))
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        self.throttle.shares.lock().give_back(self.share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_given_back_and_a_slow_run_has_its_time() {
        let throttle = Throttle::new(Bandwidth::always(64 << 10), 2);
        let part = |large| match throttle.take(large) {
            Told::Part(part) => Some(part),
            Told::NoLimit => panic!("there is one"),
            Told::Wait => None,
        };
        let first = part(false).unwrap();
        assert_eq!(first.argument(), "--bwlimit=42");
        assert!(part(true).is_none());
        drop(first);
        let (large, small) = (part(true).unwrap(), part(false).unwrap());
        assert_eq!((large.argument(), small.argument()), ("--bwlimit=48".into(), "--bwlimit=16".into()));
        assert_eq!(small.patience(16 << 10), Duration::from_secs(2));
        drop((large, small));
        assert_eq!(part(false).unwrap().argument(), "--bwlimit=42");
        let open = Throttle::new(Bandwidth { windows: Vec::new() }, 2);
        assert!(matches!(open.take(true), Told::NoLimit) && open.limit().is_none());
    }
}
