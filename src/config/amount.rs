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
