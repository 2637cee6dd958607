//! Wall-clock stamps that can be compared with a ctime.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

/// A moment of the real-time clock in nanoseconds since 1970, as `statx` reports a ctime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub i64);

impl WallTime {
    /// The moment `span` earlier.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)))
    }
}

/// Reads `CLOCK_REALTIME_COARSE`: a change made after this call never carries an earlier ctime
/// (clock_gettime(2); a precise clock would run ahead of the stamps by up to one tick).
#[must_use]
pub fn coarse_now() -> WallTime {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    WallTime(time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec))
}

/// The real-time clock less the boot-time clock, in nanoseconds. It stays what it is, but for slewing, until somebody sets
/// the clock or the machine boots again.
#[must_use]
pub fn boot_offset() -> i64 {
    let nanos = |id| {
        let time = rustix::time::clock_gettime(id);
        time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
    };
    nanos(rustix::time::ClockId::Realtime).saturating_sub(nanos(rustix::time::ClockId::Boottime))
}

/// Which boot this is (random(4), `boot_id`).
///
/// # Errors
/// Those of reading `/proc/sys/kernel/random/boot_id`.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Whether something keeps the real-time clock right (adjtimex(2): not `STA_UNSYNC`).
///
/// # Errors
/// Those of adjtimex(2).
pub fn is_synchronised() -> io::Result<bool> {
    let mut status = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: the pointer is to memory of the right type for the whole call, which keeps nothing of it. The structure is
    // numbers only, for which zeros are values; with `modes` 0 the call writes them and changes no clock.
    #[expect(unsafe_code, reason = "neither rustix nor nix has the call")]
    let (state, status) = unsafe {
        let state = libc::adjtimex(status.as_mut_ptr());
        (state, status.assume_init().status)
    };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(status & libc::STA_UNSYNC == 0)
}

/// A moment of the week as the clock on the wall shows it. Where the clocks are put forward an hour is missing, and where they
/// are put back one comes twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// From Monday, 0.
    pub weekday: u8,
    /// Of the day, from midnight.
    pub minute: u16,
}

/// What the clock on the wall shows (`TZ`, else localtime(5)).
#[must_use]
pub fn local_now() -> LocalTime {
    local(&jiff::Zoned::now())
}

fn local(time: &jiff::Zoned) -> LocalTime {
    let part = |number: i8| u16::from(number.unsigned_abs());
    LocalTime {
        weekday: time.weekday().to_monday_zero_offset().unsigned_abs(),
        minute: part(time.hour()) * 60 + part(time.minute()),
    }
}

/// Tells when the real-time clock was set (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`). Slewing is not told.
#[derive(Debug)]
pub struct ClockWatch(OwnedFd);

impl ClockWatch {
    /// Begins to watch.
    ///
    /// # Errors
    /// Those of timerfd_create(2) and timerfd_settime(2).
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let watch = Self(rustix::time::timerfd_create(TimerfdClockId::Realtime, flags)?);
        watch.arm()?;
        Ok(watch)
    }

    /// A moment that never comes: the timer only ever ends by being cancelled.
    fn arm(&self) -> io::Result<()> {
        let never = Timespec { tv_sec: i64::MAX / 2_000_000_000, tv_nsec: 0 };
        let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        rustix::time::timerfd_settime(&self.0, flags, &Itimerspec { it_interval: nothing, it_value: never })?;
        Ok(())
    }

    /// Whether the clock was set since the last call.
    ///
    /// # Errors
    /// Those of read(2) and timerfd_settime(2).
    pub fn was_set(&self) -> io::Result<bool> {
        let mut count = [0; 8];
        match rustix::io::read(&self.0, &mut count) {
            Ok(_) => Ok(false),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
            Err(rustix::io::Errno::CANCELED) => {
                self.arm()?;
                Ok(true)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// The descriptor, for `mio::unix::SourceFd`: readable when the clock was set.
    #[must_use]
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Reads the monotonic clock: the one home of `Instant::now` outside of tests.
#[must_use]
pub fn now() -> std::time::Instant {
    #[expect(clippy::disallowed_methods, reason = "its one home")]
    std::time::Instant::now()
}

/// Processor time of the calling thread so far.
#[must_use]
pub fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Processor time of this process so far, without its children.
#[must_use]
pub fn process_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_week_is_that_of_the_wall_clock_also_where_it_is_put_forward_and_back() {
        let zone = jiff::tz::TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let check = |utc: &str, weekday: u8, clock: (u16, u16)| {
            let time: jiff::Timestamp = utc.parse().unwrap();
            let expected = LocalTime { weekday, minute: clock.0 * 60 + clock.1 };
            assert_eq!(local(&time.to_zoned(zone.clone())), expected, "{utc}");
        };
        check("2026-01-05T07:30:00Z", 0, (8, 30));
        check("2026-07-05T21:59:00Z", 6, (23, 59));
        check("2026-07-05T22:00:00Z", 0, (0, 0));
        // The last Sunday of March: after 01:59 comes 03:00.
        check("2026-03-29T00:59:00Z", 6, (1, 59));
        check("2026-03-29T01:00:00Z", 6, (3, 0));
        // The last Sunday of October: 02:30 twice.
        check("2026-10-25T00:30:00Z", 6, (2, 30));
        check("2026-10-25T01:30:00Z", 6, (2, 30));
        check("2026-10-25T02:00:00Z", 6, (3, 0));
    }

    #[test]
    fn the_clock_says_whether_something_keeps_it_right() {
        assert!(is_synchronised().is_ok());
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn a_clock_that_nobody_set_is_not_told_and_one_that_was_set_is_told_once() {
        let watch = ClockWatch::new().unwrap();
        assert!(!watch.was_set().unwrap());
        // Setting it to what it is is setting it.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        if let Err(error) = rustix::time::clock_settime(rustix::time::ClockId::Realtime, now) {
            eprintln!("skipped: the clock cannot be set here: {error}");
            return;
        }
        assert!(watch.was_set().unwrap());
        assert!(!watch.was_set().unwrap());
    }
}
