//! Headers as load balancers write them, and everything else.

use super::*;

fn v1(line: &str) -> Vec<u8> {
    format!("{line}\r\n").into_bytes()
}

fn v2(command: u8, kind: u8, block: &[u8]) -> Vec<u8> {
    let len = u16::try_from(block.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[command, kind], &len, block].concat()
}

fn field(kind: u8, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).expect("short").to_be_bytes();
    [&[kind][..], &len, value].concat()
}

/// 192.0.2.1:56324 to 198.51.100.1:443.
const IPV4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xDC, 0x04, 0x01, 0xBB];

fn ipv6() -> Vec<u8> {
    let (source, destination): (Ipv6Addr, Ipv6Addr) = ("2001:db8::1".parse().expect("valid"), Ipv6Addr::LOCALHOST);
    [&source.octets()[..], &destination.octets(), &[0xDC, 0x04, 0x01, 0xBB]].concat()
}

fn whole(source: Option<&str>, bytes: &[u8]) -> Result<Progress, Malformed> {
    let source = source.map(|source| source.parse().expect("valid"));
    Ok(Progress::Header(Header { source, len: bytes.len() }))
}

/// Headers that are good, and what they say.
fn good() -> Vec<(Vec<u8>, Option<&'static str>)> {
    let longest = "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535";
    let (four, six) = (Some("192.0.2.1:56324"), Some("[2001:db8::1]:56324"));
    let fields = [field(0x01, b"h2"), field(0x02, b"reviews"), field(0xEA, &[1; 40]), field(0x04, &[])].concat();
    let checked = {
        let mut bytes =
            v2(0x21, 0x11, &[&IPV4[..], &fields, &field(FIELD_CRC32C, &[0; 4]), &field(0x05, b"id")].concat());
        let sum = !bytes.iter().fold(u32::MAX, crc32c);
        let at = bytes.len() - 5 - 4;
        bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    vec![
        (v1("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443"), four),
        (v1("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535"), Some("0.0.0.0:0")),
        (v1("PROXY TCP6 2001:db8::1 ::1 56324 443"), six),
        (v1("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2"), Some("[::ffff:192.0.2.1]:1")),
        (v1("PROXY UNKNOWN"), None),
        (v1(longest), None),
        (v1(&format!("PROXY UNKNOWN {}", "x".repeat(LINE_LEN_MAX - 16))), None),
        (v2(0x21, 0x11, &IPV4), four),
        (v2(0x21, 0x11, &[&IPV4[..], &fields].concat()), four),
        (checked, four),
        (v2(0x21, 0x21, &ipv6()), six),
        (v2(0x21, 0x11, &[&IPV4[..], &field(0xE0, &vec![7; BLOCK_LEN_MAX - 15])].concat()), four),
        (v2(0x20, 0x00, &[]), None),
        (v2(0x20, 0x11, &IPV4), None),
        (v2(0x20, 0xFF, &[9; 5]), None),
        (v2(0x21, 0x00, &[9; 5]), None),
        (v2(0x21, 0x31, &[b'/'; 216]), None),
    ]
}

#[test]
fn what_load_balancers_write_is_read() {
    for (bytes, source) in good() {
        assert_eq!(header(&bytes), whole(source, &bytes), "{}", bytes.escape_ascii());
        for followed in [&b"\x16\x03\x01\x02\x00"[..], b"\r\n", b"PROXY UNKNOWN\r\n", SIGNATURE] {
            let followed = [&bytes[..], followed].concat();
            assert_eq!(
                header(&followed),
                whole(source, &bytes),
                "{}: what follows is not looked at",
                bytes.escape_ascii()
            );
        }
    }
}

#[test]
fn every_prefix_asks_for_more_but_never_for_too_much() {
    for (bytes, _) in good() {
        for end in 0..bytes.len() {
            let progress = header(&bytes[..end]);
            let Ok(Progress::NeedMore(least)) = progress else { panic_at(&bytes[..end], progress) };
            assert!(least > end && least <= bytes.len(), "{}: {least}", bytes[..end].escape_ascii());
        }
    }
}

#[track_caller]
fn panic_at(bytes: &[u8], progress: Result<Progress, Malformed>) -> ! {
    unreachable!("{}: {progress:?}", bytes.escape_ascii())
}

#[test]
fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
    for bytes in
        [&b"\x16\x03\x01"[..], b"GET / HTTP/1.1\r\n\r\n", b"P ", b"PROXY\t", b"proxy TCP4", b"\r\n\r\nQ", b"\0"]
    {
        assert_eq!(header(bytes), Err(Malformed::NotProxy), "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_line_is_exactly_as_the_protocol_writes_it() {
    for line in [
        "PROXY TCP4 192.0.2.1 198.51.100.1 56324",
        "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 ",
        "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 1",
        "PROXY TCP4  192.0.2.1 198.51.100.1 56324 443",
        "PROXY  TCP4 192.0.2.1 198.51.100.1 56324 443",
        "PROXY TCP4 192.0.2.1\t198.51.100.1 56324 443",
        "PROXY TCP4 192.0.2.1 198.51.100.1 +5632 443",
        "PROXY TCP4 192.0.2.1 198.51.100.1 -1 443",
        "PROXY TCP4 192.0.2.1 198.51.100.1 056 443",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 00",
        "PROXY TCP4 192.0.2.1 198.51.100.1 65536 443",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 65536",
        "PROXY TCP4 192.0.2.1 198.51.100.1  443",
        "PROXY TCP4 192.0.2 198.51.100.1 1 2",
        "PROXY TCP4 192.0.2.01 198.51.100.1 1 2",
        "PROXY TCP4 192.0.2.256 198.51.100.1 1 2",
        "PROXY TCP4 192.0.2.1 198.51.100 1 2",
        "PROXY TCP4 2001:db8::1 ::1 1 2",
        "PROXY TCP6 192.0.2.1 198.51.100.1 1 2",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2",
        "PROXY TCP6 [2001:db8::1] [::1] 1 2",
        "PROXY tcp4 192.0.2.1 198.51.100.1 1 2",
        "PROXY UDP4 192.0.2.1 198.51.100.1 1 2",
        "PROXY UNKNOWNX",
        "PROXY unknown",
        "PROXY TCP4",
        "PROXY ",
        "PROXY TCP4 192.0.2.1\n198.51.100.1 1 2",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r",
    ] {
        assert_eq!(header(&v1(line)), Err(Malformed::Line), "{line:?}");
    }
    assert_eq!(header(b"PROXY UNKNOWN \xff\r\n"), Err(Malformed::Line), "not text");
}

#[test]
fn a_line_that_does_not_end_is_given_up_when_it_cannot_end_in_time() {
    let endless = [LINE_BEGIN, &[b'x'; LINE_LEN_MAX]].concat();
    assert_eq!(header(&endless[..LINE_LEN_MAX - 2]), Ok(Progress::NeedMore(LINE_LEN_MAX)));
    assert_eq!(header(&endless[..LINE_LEN_MAX - 1]), Err(Malformed::TooLong));
    let ending = [&endless[..LINE_LEN_MAX - 2], b"\r"].concat();
    assert_eq!(header(&ending), Ok(Progress::NeedMore(LINE_LEN_MAX)));
    assert_eq!(header(&[&endless[..LINE_LEN_MAX - 1], b"\r\n"].concat()), Err(Malformed::TooLong));
    assert_eq!(header(b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n"), Ok(Progress::NeedMore(40)), "no end without its CR");
}

#[test]
fn a_binary_header_is_of_version_2_and_for_tcp() {
    for (command, kind) in [
        (0x11, 0x11),
        (0x31, 0x11),
        (0x22, 0x11),
        (0x2F, 0x11),
        (0x01, 0x11),
        (0x21, 0x10),
        (0x21, 0x12),
        (0x21, 0x22),
        (0x21, 0x32),
        (0x21, 0x01),
        (0x21, 0x41),
        (0x21, 0xFF),
    ] {
        assert_eq!(header(&v2(command, kind, &IPV4)), Err(Malformed::Kind), "{command:#x} {kind:#x}");
    }
}

#[test]
fn lengths_that_lie_are_refused() {
    assert_eq!(header(&v2(0x21, 0x11, &IPV4[..11])), Err(Malformed::Length));
    assert_eq!(header(&v2(0x21, 0x11, &[])), Err(Malformed::Length));
    assert_eq!(header(&v2(0x21, 0x21, &ipv6()[..35])), Err(Malformed::Length));
    for fields in [&[0x04][..], &[0x04, 0], &[0x04, 0, 1], &[0x04, 255, 255, 0], &field(FIELD_CRC32C, &[0; 3])] {
        let bytes = v2(0x21, 0x11, &[&IPV4[..], fields].concat());
        assert_eq!(header(&bytes), Err(Malformed::Length), "{fields:?}");
    }
    for command in [0x20, 0x21] {
        let too_long = [SIGNATURE, &[command, 0x11, 0x10, 0x01]].concat();
        assert_eq!(header(&too_long), Err(Malformed::TooLong), "known before any of it is read");
    }
}

#[test]
fn a_checksum_that_is_there_has_to_be_right() {
    // The check value of CRC-32C, over the digits 1 to 9.
    assert_eq!(!b"123456789".iter().fold(u32::MAX, crc32c), 0xE306_9283);
    let (checked, _) = good().swap_remove(9);
    // A checksum under another name is none.
    let name = checked.len() - 5 - 4 - 3;
    for index in (FIXED_LEN..checked.len()).filter(|index| *index != name) {
        let mut bent = checked.clone();
        bent[index] ^= 1;
        assert!(header(&bent).is_err(), "byte {index}");
    }
}
