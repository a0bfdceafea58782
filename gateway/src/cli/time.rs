//! Moments and spans as people read them.

use isthmus_model::time::UnixMillis;

/// Units of spans, longest first: length in milliseconds, name, and the least span that is told in it.
const UNITS: [(u64, &str, u64); 4] = [
    (86_400_000, "d", 2 * 86_400_000),
    (3_600_000, "h", 2 * 3_600_000),
    (60_000, "min", 2 * 60_000),
    (1_000, "s", 1_000),
];

/// A span of milliseconds, to the leading unit: `12 s`, `5 min`.
pub(super) fn span(millis: u64) -> String {
    let unit = UNITS.iter().find(|(_, _, least)| millis >= *least);
    unit.map_or_else(|| format!("{millis} ms"), |(length, name, _)| format!("{} {name}", millis / length))
}

/// A moment in RFC 3339, UTC, to the second.
pub(super) fn moment(at: UnixMillis) -> String {
    let seconds = i64::try_from(at.0 / 1_000).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    seconds.map_or_else(|| at.to_string(), |timestamp| timestamp.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_moments_read_naturally() {
        for (millis, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (12_400, "12 s"),
            (119_000, "119 s"),
            (300_000, "5 min"),
            (172_800_000, "2 d"),
        ] {
            assert_eq!(span(millis), text);
        }
        assert_eq!(moment(UnixMillis(1_700_000_000_999)), "2023-11-14T22:13:20Z");
        assert_eq!(moment(UnixMillis(u64::MAX)), "18446744073709551615 ms since the epoch");
    }
}
