//! Amounts of bytes as people write them: `512KiB`, `8MiB`, `1GiB`.
//!
//! A plain number is refused, because nobody can tell its unit by looking; so are units of a thousand, which are taken for
//! the others too often.

use std::num::NonZeroU64;

/// Units with their bytes, largest first.
const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Why a text is no amount of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an amount of bytes: write a number with a unit (KiB, MiB, GiB), for example 512KiB or 8MiB")]
pub struct SizeError(String);

/// Reads an amount of bytes.
///
/// # Errors
/// [`SizeError`] for anything but a number above zero with a unit, and for what does not fit 64 bits.
pub fn parse(text: &str) -> Result<NonZeroU64, SizeError> {
    let read = || {
        let (number, bytes) = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)))?;
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| number.parse::<u64>().ok()).flatten()?;
        number.checked_mul(*bytes).and_then(NonZeroU64::new)
    };
    read().ok_or_else(|| SizeError(text.to_owned()))
}

/// Writes an amount that [`parse`] read, in the largest unit in which it is a whole number.
#[must_use]
pub fn format(size: NonZeroU64) -> String {
    let whole = UNITS.iter().find(|(_, bytes)| size.get().is_multiple_of(*bytes));
    whole.map_or_else(|| size.to_string(), |(unit, bytes)| format!("{}{unit}", size.get() / bytes))
}

/// Serde with the text form, for fields that are amounts of bytes.
pub(crate) mod text {
    use std::num::NonZeroU64;

    use serde::Serializer;

    pub(crate) fn serialize<S: Serializer>(size: &NonZeroU64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format(*size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        for text in ["1KiB", "512KiB", "8MiB", "1GiB", "1025KiB"] {
            assert_eq!(format(parse(text).expect("valid")), text);
        }
        assert_eq!(format(parse("2048KiB").expect("valid")), "2MiB");
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        for bad in ["", "8", "MiB", "8MB", "8 MiB", "-1MiB", "+1MiB", "1.5MiB", "0MiB", "8mib", "99999999999999GiB"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
