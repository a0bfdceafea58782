//! Load generators: wrk and h2load for HTTP, and our own for what there is none for.

pub(crate) mod h2load;
pub(crate) mod tcp;
pub(crate) mod tls;
pub(crate) mod wrk;

use std::time::Duration;

/// Connections that send at once.
pub(crate) const CLIENTS: usize = 32;

/// Reads a time as wrk and h2load print it: `1.23ms`.
fn time(text: &str) -> Option<Duration> {
    let split = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}
