//! Durations and sizes as people write them: a whole number and a unit. A bare number is refused, since nobody
//! remembers which unit it would be in.

use std::time::Duration;

/// Why a text is not an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AmountError {
    /// Only digits.
    NoUnit,
    /// Not digits followed by a known unit.
    Malformed,
    /// More than a `u64` of the smallest unit.
    TooLarge,
}

/// Milliseconds in each unit, the largest first.
const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// Bytes in each unit, the largest first.
const SIZE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads `200ms`, `2s`, `10m` or `1h`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, AmountError> {
    parse(text, &DURATION_UNITS).map(Duration::from_millis)
}

/// Reads a duration of the command line, as in the file: `200ms`, `2s`, `10m` or `1h`.
///
/// # Errors
/// What to write instead.
pub fn duration_argument(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text).map_err(|error| match error {
        AmountError::NoUnit => "add a unit: ms, s, m or h",
        AmountError::Malformed => "write a number and a unit, such as 500ms, 30s, 10m or 1h",
        AmountError::TooLarge => "too long",
    })
}

/// Writes whole milliseconds so that [`parse_duration`] reads them again; a remainder below 1 ms is cut.
pub(super) fn duration_text(duration: Duration) -> String {
    text(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATION_UNITS, "ms")
}

/// Reads `512B`, `64KiB`, `8MiB`, `1GiB` or `1TiB`.
pub(super) fn parse_size(text: &str) -> Result<u64, AmountError> {
    parse(text, &SIZE_UNITS)
}

/// Writes `bytes` so that [`parse_size`] reads them again.
pub(super) fn size_text(bytes: u64) -> String {
    text(bytes, &SIZE_UNITS, "B")
}

/// Reads `512KiB/s` or `50MiB/s`: bytes per second.
pub(super) fn parse_rate(text: &str) -> Result<u64, AmountError> {
    match text.strip_suffix("/s") {
        Some(size) => parse_size(size),
        // What is a size lacks the unit of time.
        None => Err(match parse_size(text) {
            Ok(_) | Err(AmountError::NoUnit) => AmountError::NoUnit,
            Err(error) => error,
        }),
    }
}

/// Writes bytes per second as the configuration has them: `512KiB/s` or `50MiB/s`.
#[must_use]
pub fn rate_text(rate: u64) -> String {
    format!("{}/s", size_text(rate))
}

/// Reads a rate of the command line, as in the file: `512KiB/s` or `50MiB/s`.
///
/// # Errors
/// What to write instead.
pub fn rate_argument(text: &str) -> Result<u64, String> {
    let (least, most) = (*super::BANDWIDTH.start(), *super::BANDWIDTH.end());
    match parse_rate(text) {
        Ok(rate) if super::BANDWIDTH.contains(&rate) => Ok(rate),
        Ok(_) | Err(AmountError::TooLarge) => Err(format!("write {} to {}", rate_text(least), rate_text(most))),
        Err(AmountError::NoUnit | AmountError::Malformed) => Err("write it like 512KiB/s or 50MiB/s".to_owned()),
    }
}

/// Reads a time of day from `00:00` to `24:00`, in minutes.
pub(super) fn parse_clock(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse::<u16>().ok())?
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    (minute < 60 && (hour < 24 || (hour, minute) == (24, 0))).then_some(hour * 60 + minute)
}

/// Writes minutes so that [`parse_clock`] reads them again.
pub(super) fn clock_text(minutes: u16) -> String {
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Result<u64, AmountError> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(AmountError::Malformed);
    }
    let unit = unit.trim_start_matches(' ');
    if unit.is_empty() {
        return Err(AmountError::NoUnit);
    }
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or(AmountError::Malformed)?;
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)).ok_or(AmountError::TooLarge)
}

fn text(amount: u64, units: &[(&str, u64)], smallest: &str) -> String {
    match units.iter().find(|(_, factor)| amount >= *factor && amount.is_multiple_of(*factor)) {
        Some((name, factor)) => format!("{}{name}", amount / factor),
        None => format!("{amount}{smallest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_need_a_whole_number_and_a_unit() {
        let check = |text: &str, expected: Result<u64, AmountError>| {
            assert_eq!(parse_duration(text).map(|duration| duration.as_millis() as u64), expected, "{text}");
        };
        check("200ms", Ok(200));
        check("2s", Ok(2_000));
        check("10 m", Ok(600_000));
        check("1h", Ok(3_600_000));
        check("0s", Ok(0));
        check("200", Err(AmountError::NoUnit));
        check("1.5s", Err(AmountError::Malformed));
        check("-1s", Err(AmountError::Malformed));
        check("1S", Err(AmountError::Malformed));
        check("", Err(AmountError::Malformed));
        check("s", Err(AmountError::Malformed));
        check("1d", Err(AmountError::Malformed));
        check("99999999999999999999ms", Err(AmountError::TooLarge));
        check("18446744073709551615h", Err(AmountError::TooLarge));
    }

    #[test]
    fn rates_and_times_of_day_have_one_form() {
        let check = |text: &str, expected: Result<u64, AmountError>| assert_eq!(parse_rate(text), expected, "{text}");
        check("50MiB/s", Ok(50 << 20));
        check("512KiB/s", Ok(512 << 10));
        check("50MiB", Err(AmountError::NoUnit));
        check("50", Err(AmountError::NoUnit));
        check("50/s", Err(AmountError::NoUnit));
        check("50Mbit/s", Err(AmountError::Malformed));
        check("50MB/s", Err(AmountError::Malformed));
        check("fast", Err(AmountError::Malformed));
        for minutes in 0..=24 * 60 {
            assert_eq!(parse_clock(&clock_text(minutes)), Some(minutes));
        }
        for text in ["24:01", "8:00", "08:0", "08:60", "25:00", "+8:00", "08.00", "", ":", "08:00:00"] {
            assert_eq!(parse_clock(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for millis in [0, 1, 200, 1_000, 1_500, 60_000, 90_000, 3_600_000, 86_400_000, u64::MAX] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&duration_text(duration)), Ok(duration));
        }
        for bytes in [0, 1, 1023, 1024, 8 << 20, (8 << 20) + 1, 1 << 40, u64::MAX] {
            assert_eq!(parse_size(&size_text(bytes)), Ok(bytes));
        }
        assert_eq!(duration_text(Duration::from_millis(1_500)), "1500ms");
        assert_eq!(duration_text(Duration::from_secs(7_200)), "2h");
        assert_eq!(size_text(8 << 20), "8MiB");
    }
}
