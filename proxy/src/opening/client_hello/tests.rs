//! Real and crafted ClientHellos, whole and in pieces.

use super::*;

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("short");
    [&kind.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

fn name_entry(kind: u8, name: &[u8]) -> Vec<u8> {
    let length = u16::try_from(name.len()).expect("short");
    [&[kind][..], &length.to_be_bytes(), name].concat()
}

fn server_names(entries: &[Vec<u8>]) -> Vec<u8> {
    let list = entries.concat();
    let length = u16::try_from(list.len()).expect("short");
    extension(EXTENSION_SERVER_NAME, &[&length.to_be_bytes()[..], &list].concat())
}

fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let extensions = extensions.concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(u16::try_from(extensions.len()).expect("short").to_be_bytes());
    body.extend(extensions);
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&[HANDSHAKE_CLIENT_HELLO][..], &length[1..], &body].concat()
}

/// Splits a message into records of at most `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).expect("short").to_be_bytes();
        [&[RECORD_HANDSHAKE, 3, 1][..], &length, part].concat()
    };
    message.chunks(size).flat_map(record).collect()
}

fn hello(name: &[u8]) -> Vec<u8> {
    records(&message(&[extension(43, &[2, 3, 4]), server_names(&[name_entry(0, name)])]), 16 * 1024)
}

#[test]
fn one_name_is_read_in_any_case_and_any_framing() {
    let name = b"Reviews.Shop.svc.us-west.acme.mesh";
    let expected = Ok(Progress::Sni("reviews.shop.svc.us-west.acme.mesh".to_owned()));
    assert_eq!(sni(&hello(name)), expected);
    let message = message(&[server_names(&[name_entry(0, name)])]);
    for size in [1, 2, 3, 5, 50, 1000] {
        assert_eq!(sni(&records(&message, size)), expected, "records of {size}");
    }
    let followed = [hello(name), vec![20, 3, 3, 0, 1, 1]].concat();
    assert_eq!(sni(&followed), expected, "what follows is not looked at");
}

#[test]
fn every_prefix_asks_for_more_but_never_for_too_much() {
    for whole in [hello(b"a.b"), records(&message(&[server_names(&[name_entry(0, b"a.b")])]), 3)] {
        for end in 0..whole.len() {
            match sni(&whole[..end]) {
                Ok(Progress::NeedMore(total)) => assert!(total > end && total <= whole.len(), "{end}: {total}"),
                other => assert!(matches!(other, Ok(Progress::NeedMore(_))), "{end}: {other:?}"),
            }
        }
    }
}

#[test]
fn no_name_is_told_apart_from_bad_names() {
    assert_eq!(sni(&records(&message(&[extension(43, &[2, 3, 4])]), 1000)), Ok(Progress::NoSni));
    for name in [
        &b""[..],
        b"10.0.0.1",
        b"1",
        b"::1",
        b"a.b.",
        b".a",
        b"a..b",
        b"a b",
        b"a\0b",
        b"a_b",
        b"\xc3\xbc.b",
        b"a/b",
        &[b'a'; 64],
        &[b"a.".repeat(127), b"b".to_vec()].concat(),
    ] {
        assert_eq!(sni(&hello(name)), Err(Malformed::NotAHostName), "{name:?}");
    }
    let one = || name_entry(0, b"a.b");
    for names in [vec![], vec![one(), one()], vec![one(), name_entry(1, b"x")], vec![name_entry(1, b"x")]] {
        let bytes = records(&message(&[server_names(&names)]), 1000);
        assert_eq!(sni(&bytes), Err(Malformed::NotOneName), "{names:?}");
    }
    let twice = message(&[server_names(&[one()]), server_names(&[one()])]);
    assert_eq!(sni(&records(&twice, 1000)), Err(Malformed::NotOneName));
}

#[test]
fn what_is_not_a_client_hello_is_refused_at_once() {
    assert_eq!(sni(b"G"), Err(Malformed::NotTls));
    assert_eq!(sni(b"GET / HTTP/1.1\r\n"), Err(Malformed::NotTls));
    assert_eq!(sni(&[0; 16]), Err(Malformed::NotTls));
    assert_eq!(sni(&[22, 2]), Err(Malformed::NotTls), "SSL 2");
    assert_eq!(sni(&[22, 3, 1, 0, 4, 2]), Err(Malformed::NotTls), "a ServerHello");
    assert_eq!(sni(&[22, 3, 1, 0, 0]), Err(Malformed::Length), "an empty record");
    assert_eq!(sni(&[22, 3, 1, 0, 4, 1, 0, 64, 0]), Err(Malformed::TooLong));
    assert_eq!(sni(&[22, 3, 1, 0, 4, 1, 255, 255, 255]), Err(Malformed::TooLong));
}

#[test]
fn lengths_that_lie_are_refused_and_nothing_panics() {
    let whole = hello(b"a.b");
    for index in 5..whole.len() {
        for value in [0, 1, 127, 128, 255] {
            let mut bent = whole.clone();
            bent[index] = value;
            let _ = sni(&bent);
        }
    }
    let mut trailing = message(&[server_names(&[name_entry(0, b"a.b")])]);
    trailing.push(0);
    trailing[3] += 1;
    assert_eq!(sni(&records(&trailing, 1000)), Err(Malformed::Length));
}
