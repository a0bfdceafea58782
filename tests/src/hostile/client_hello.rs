//! Server names in a TLS ClientHello (RFC 6066 §3) that no client library would send: row 12.

/// How a ClientHello may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It has the right name: there is a handshake.
    Right,
    /// No name can be read in it with certainty, or none that a host could have: there is no handshake.
    NoName,
    /// Whoever leads by names has to turn it away, for it may be read in several ways. A library that ends TLS may begin a handshake: it
    /// takes an address for no name, a trailing dot for a part of the name, and does not look at what comes behind the first name.
    Lenient,
}

/// The names of one ClientHello.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is wrong with them.
    pub what: &'static str,
    /// What each extension of that type says.
    pub names: Vec<Vec<u8>>,
    /// What may be made of it.
    pub reading: Reading,
}

const HOST_NAME: u8 = 0;
const UNKNOWN_NAME: u8 = 1;
const SERVER_NAME: [u8; 2] = [0, 0];

/// Every case, for a listener where `right` would be right.
#[must_use]
pub fn cases(right: &str) -> Vec<Case> {
    let host = |name: &[u8]| entry(HOST_NAME, name);
    let only = |name: &[u8]| vec![vector16(&host(name))];
    let list = |entries: &[Vec<u8>]| vec![vector16(&entries.concat())];
    let (own, other) = (host(right.as_bytes()), host(b"other.example"));
    let unknown = entry(UNKNOWN_NAME, b"other.example");
    let mixed = right.split_inclusive('.').enumerate();
    let mixed: String =
        mixed.map(|(at, label)| if at % 2 == 0 { label.to_ascii_uppercase() } else { label.to_owned() }).collect();
    let right_ones =
        [("the right name", only(right.as_bytes())), ("the right name in mixed case", only(mixed.as_bytes()))];
    let none = [
        ("two names", list(&[own.clone(), other.clone()])),
        ("two names, the right one behind", list(&[other.clone(), own.clone()])),
        ("the right name twice", list(&[own.clone(), own.clone()])),
        ("two extensions", [only(right.as_bytes()), only(b"other.example")].concat()),
        ("two extensions that agree", [only(right.as_bytes()), only(right.as_bytes())].concat()),
        ("an empty name", only(b"")),
        ("no name in the list", list(&[])),
        ("an extension without a list", vec![Vec::new()]),
        ("a list that is longer than its extension", vec![[&[0xff, 0xff], &own[..]].concat()]),
        ("a list that is shorter than its extension", vec![[&vector16(&own)[..], b"x"].concat()]),
        ("NUL in the name", only(format!("{right}\0.other.example").as_bytes())),
        ("a space in the name", only(format!("{right} x").as_bytes())),
        ("other letters in the name", only(format!("\u{e9}.{right}").as_bytes())),
        ("an empty label", only(format!("x..{right}").as_bytes())),
        ("a name of more than 300 bytes", only(format!("{}{right}", "a.".repeat(150)).as_bytes())),
        ("a name of another kind", list(&[entry(UNKNOWN_NAME, right.as_bytes())])),
        ("a name of another kind before the right one", list(&[unknown.clone(), own.clone()])),
    ];
    let lenient = [
        ("an IPv4 address", only(b"127.0.0.1")),
        ("an IPv6 address", only(b"::1")),
        ("a trailing dot", only(format!("{right}.").as_bytes())),
        ("a name of another kind behind the right one", list(&[own, unknown])),
    ];
    let case = |reading| move |(what, names)| Case { what, names, reading };
    let right_ones = right_ones.into_iter().map(case(Reading::Right));
    right_ones
        .chain(none.into_iter().map(case(Reading::NoName)))
        .chain(lenient.into_iter().map(case(Reading::Lenient)))
        .collect()
}

/// The same ClientHello with these server name extensions instead of its own, in one record.
///
/// # Panics
/// When `hello` is not one ClientHello in one record, or becomes too long for that.
#[must_use]
pub fn with_names(hello: &[u8], names: &[Vec<u8>]) -> Vec<u8> {
    const HEADERS: usize = 5 + 4;
    let (headers, body) = hello.split_at(HEADERS);
    assert!(headers[0] == 22 && headers[5] == 1, "a ClientHello");
    let mut rest = &body[2 + 32..]; // behind legacy_version and random
    take(&mut rest, 1); // legacy_session_id
    take(&mut rest, 2); // cipher_suites
    take(&mut rest, 1); // legacy_compression_methods
    let before = &body[..body.len() - rest.len()];
    let mut old = take(&mut rest, 2);
    // The pre-shared keys have to stay the last of them.
    let mut extensions: Vec<u8> = names.iter().flat_map(|name| [&SERVER_NAME[..], &vector16(name)].concat()).collect();
    while let Some((kind, mut data)) = old.split_at_checked(2) {
        let content = take(&mut data, 2);
        if kind != SERVER_NAME {
            extensions.extend([kind, &vector16(content)].concat());
        }
        old = data;
    }
    let body = [before, &vector16(&extensions)].concat();
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    let message = [&headers[5..6], &length[1..], &body].concat();
    [&headers[..3], &vector16(&message)].concat()
}

/// Takes a vector off whose length has so many bytes.
fn take<'a>(rest: &mut &'a [u8], length_bytes: usize) -> &'a [u8] {
    let (length, behind) = rest.split_at(length_bytes);
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (taken, behind) = behind.split_at(length);
    *rest = behind;
    taken
}

fn entry(kind: u8, name: &[u8]) -> Vec<u8> {
    [&[kind][..], &vector16(name)].concat()
}

fn vector16(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("short").to_be_bytes();
    [&length[..], bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: [&[u8]; 4] = [&[3, 3], &[0x5a; 32], &[2, 7, 7], &[0, 2, 0x13, 0x01, 1, 0]];
    const VERSIONS: &[u8] = &[0, 0x2b, 0, 3, 2, 3, 4];

    /// With the lengths of the record, of the message and of its extensions.
    fn hello(record: u8, message: u8, extensions: &[u8]) -> Vec<u8> {
        let length = u8::try_from(extensions.len()).expect("short");
        let headers = [22, 3, 1, 0, record, 1, 0, 0, message];
        [&headers[..], &START.concat(), &[0, length], extensions].concat()
    }

    #[test]
    fn names_are_replaced_and_lengths_corrected() {
        let named = [&[0, 0, 0, 6, 0, 4, 0, 0, 1, b'a'][..], VERSIONS].concat();
        let unnamed = hello(56, 52, VERSIONS);
        assert_eq!(with_names(&hello(66, 62, &named), &[]), unnamed);
        let twice = [&[0, 0, 0, 1, b'x', 0, 0, 0, 0][..], VERSIONS].concat();
        assert_eq!(with_names(&hello(66, 62, &named), &[b"x".to_vec(), Vec::new()]), hello(65, 61, &twice));
        assert_eq!(with_names(&unnamed, &[vec![0, 4, 0, 0, 1, b'a']]), hello(66, 62, &named));
    }

    #[test]
    fn names_are_written_as_they_are_meant() {
        let names = |what: &str| cases("a.b.c").into_iter().find(|case| case.what == what).expect("a case").names;
        assert_eq!(names("the right name in mixed case"), [b"\0\x08\0\0\x05A.b.C"]);
        assert_eq!(names("two extensions that agree"), [b"\0\x08\0\0\x05a.b.c"; 2]);
        assert_eq!(names("the right name twice"), [b"\0\x10\0\0\x05a.b.c\0\0\x05a.b.c"]);
        assert_eq!(names("a name of another kind"), [b"\0\x08\x01\0\x05a.b.c"]);
        assert_eq!(names("no name in the list"), [b"\0\0"]);
    }
}
