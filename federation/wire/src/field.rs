//! Single fields of messages: every text is bounded before it is parsed, every number before it is cast.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use isthmus_model::name::NameError;

use crate::error::WireError;

/// The longest text in any field. A service's name is the longest name that is sent: two labels of 63
/// characters and a slash; an IPv6 address with scope and port stays below 80.
pub(crate) const TEXT_LEN_MAX: usize = 128;

/// A text of a bounded length.
pub(crate) fn text<'a>(field: &'static str, text: &'a str) -> Result<&'a str, WireError> {
    if text.len() <= TEXT_LEN_MAX {
        Ok(text)
    } else {
        Err(WireError::TooLong { field, length: text.len(), limit: TEXT_LEN_MAX })
    }
}

/// A name of any kind.
pub(crate) fn name<T: FromStr<Err = NameError>>(field: &'static str, value: &str) -> Result<T, WireError> {
    text(field, value)?.parse().map_err(|source| WireError::Name { field, source })
}

/// An IP address.
pub(crate) fn address(field: &'static str, value: &str) -> Result<IpAddr, WireError> {
    let bad = |_| WireError::Address { field, text: value.to_owned(), expected: "an IP address" };
    text(field, value)?.parse().map_err(bad)
}

/// An IP address with a port.
pub(crate) fn socket_address(field: &'static str, value: &str) -> Result<SocketAddr, WireError> {
    let bad = |_| WireError::Address { field, text: value.to_owned(), expected: "an IP address with a port" };
    text(field, value)?.parse().map_err(bad)
}

/// A port number.
pub(crate) fn port(field: &'static str, value: u32) -> Result<u16, WireError> {
    let bad = |_| WireError::OutOfRange { field, value: value.into(), limit: u16::MAX.into() };
    u16::try_from(value).map_err(bad)
}

/// A number of entries.
pub(crate) fn count(field: &'static str, count: usize, limit: usize) -> Result<(), WireError> {
    if count <= limit { Ok(()) } else { Err(WireError::TooMany { field, count, limit }) }
}

#[cfg(test)]
mod tests {
    use isthmus_model::name::ServiceName;

    use super::*;

    #[test]
    fn the_longest_names_and_addresses_fit() {
        let label = "a".repeat(63);
        assert!(name::<ServiceName>("f", &format!("{label}/{label}")).is_ok());
        let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255%4294967295]:65535";
        assert!(socket_address("f", longest).is_ok());
    }

    #[test]
    fn a_long_text_is_refused_before_it_is_parsed_or_copied() {
        let long = "a".repeat(TEXT_LEN_MAX + 1);
        let refused = WireError::TooLong { field: "f", length: TEXT_LEN_MAX + 1, limit: TEXT_LEN_MAX };
        assert_eq!(name::<ServiceName>("f", &long), Err(refused.clone()));
        assert_eq!(address("f", &long), Err(refused));
    }

    #[test]
    fn ports_are_sixteen_bits() {
        assert_eq!(port("f", 65_535), Ok(65_535));
        assert_eq!(port("f", 65_536), Err(WireError::OutOfRange { field: "f", value: 65_536, limit: 65_535 }));
    }
}
