//! How fast the way to a target is, from what the kernel saw of finished connections. Pure.
//!
//! It decides two things: on a slow way data is compressed and even small files go as differences, on a fast one
//! neither is worth its processor time (notes/rsync.md 5.3).

use crate::sys::connection::TcpInfo;

/// Below this a way is slow. Unit: bytes per second. Why 12 MB/s: 100 Mbit/s. A core compresses and compares several
/// times as much, so that it is not what is waited for.
const SLOW: f64 = 12e6;

/// A slow way is fast again from here on.
const FAST: f64 = 18e6;

/// Less than this tells of the round trip, not of the rate. Unit: bytes.
const TELLING: u64 = 64 * 1024;

/// Samples before a way is called slow: one may have met other traffic.
const SAMPLES_MIN: u32 = 3;

/// What the latest sample counts for.
const SHARE: f64 = 0.3;

/// The estimate.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Speed {
    rate: f64,
    samples: u32,
    slow: bool,
    /// Smoothed round trip of the latest connection. Unit: microseconds; 0 before the first.
    pub rtt_us: u32,
}

impl Speed {
    /// A connection is through.
    pub fn on_connection(&mut self, info: &TcpInfo) {
        if info.rtt_us > 0 {
            self.rtt_us = info.rtt_us;
        }
        let rate = info.delivery_rate as f64;
        // What the sender bounds was at least so fast.
        let tells = info.bytes_acknowledged >= TELLING && rate > 0.0 && (!info.bounded_by_sender || rate > self.rate);
        if !tells {
            return;
        }
        // Only what is not bounded by the sender is needed to call it slow; a faster moment is believed at once.
        self.samples = self.samples.saturating_add(1);
        self.rate = if self.samples == 1 { rate } else { self.rate + SHARE * (rate - self.rate) };
        self.slow = match self.slow {
            true => self.rate < FAST,
            false => self.rate < SLOW && self.samples >= SAMPLES_MIN,
        };
    }

    /// Whether the way is known to be slow.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.slow
    }

    /// Bytes per second, as far as they are known.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        (self.samples > 0).then_some(self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(rate: f64, bounded_by_sender: bool) -> TcpInfo {
        TcpInfo {
            rtt_us: 300,
            bytes_acknowledged: 1 << 20,
            delivery_rate: rate as u64,
            bounded_by_sender,
            ..TcpInfo::default()
        }
    }

    /// Whether the way is slow after these rates, in MB/s.
    fn slow(rates: &[f64]) -> bool {
        let mut speed = Speed::default();
        rates.iter().for_each(|rate| speed.on_connection(&connection(rate * 1e6, false)));
        speed.is_slow()
    }

    #[test]
    fn a_way_is_slow_after_some_slow_samples_and_fast_again_well_above_that() {
        assert!(!slow(&[]));
        assert!(!slow(&[1.0, 1.0]));
        assert!(slow(&[1.0, 1.0, 1.0]));
        assert!(!slow(&[100.0, 100.0, 1.0, 1.0]), "other traffic");
        assert!(slow(&[100.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]));
        assert!(slow(&[1.0, 1.0, 1.0, 15.0, 15.0, 15.0, 15.0, 15.0]), "not fast enough");
        assert!(!slow(&[1.0, 1.0, 1.0, 100.0]));
        assert!(!slow(&[15.0; 9]), "nor slow enough");
    }

    #[test]
    fn what_tells_nothing_is_left_out() {
        let mut speed = Speed::default();
        for _run in 0..9 {
            speed.on_connection(&TcpInfo { bytes_acknowledged: 1_000, ..connection(1e6, false) });
            speed.on_connection(&TcpInfo { delivery_rate: 0, ..connection(1e6, false) });
        }
        assert_eq!((speed.rate(), speed.rtt_us), (None, 300));
        speed.on_connection(&connection(50e6, true));
        assert_eq!(speed.rate(), Some(50e6), "at least so fast");
        for _run in 0..9 {
            speed.on_connection(&connection(1e6, true));
        }
        assert_eq!(speed.rate(), Some(50e6), "the sender had no more");
    }
}
