//! Durations as people write them: `200ms`, `10s`, `90m`, `24h`, `7d`, or several in a row, `1h30m`.
//!
//! A plain number is refused, because nobody can tell its unit by looking.

use std::time::Duration;

/// Units with their length in milliseconds, longest first; the order in which durations are printed.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write a number with a unit (ms, s, m, h, d), for example 200ms, 10m or 24h")]
pub struct DurationError(String);

/// Reads a duration.
///
/// # Errors
/// [`DurationError`] for anything but numbers with units, and for what does not fit 64 bits of milliseconds.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    millis(text).map(Duration::from_millis).ok_or_else(|| DurationError(text.to_owned()))
}

fn millis(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let (_, unit_millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*unit_millis)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// Writes a duration in the form that [`parse`] reads, to the millisecond.
#[must_use]
pub fn format(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, unit_millis) in UNITS {
        if left >= unit_millis {
            text.push_str(&format!("{}{unit}", left / unit_millis));
            left %= unit_millis;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Serde with the text form, for fields that are durations.
pub(crate) mod text {
    use std::time::Duration;

    use serde::Serializer;

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format(*duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        for text in ["200ms", "10s", "10m", "1h30m", "1d", "7d12h", "0s"] {
            assert_eq!(format(parse(text).expect("valid")), text);
        }
        assert_eq!(format(Duration::from_secs(24 * 3600)), "1d");
        assert_eq!(parse("24h"), Ok(Duration::from_secs(24 * 3600)));
    }

    #[test]
    fn a_number_without_a_unit_is_refused() {
        for bad in
            ["", "10", "10m5", "m", "-1s", "1.5h", "10 m", "1w", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
