//! HTTP/1.1, byte for byte.

use super::{FORGED, HIDDEN, PATHS, STRANGER_HOSTS, Safe};

/// One connection's worth.
#[derive(Clone, Debug)]
pub struct Case {
    /// The row that it is of.
    pub row: u8,
    /// What is wrong with it.
    pub what: &'static str,
    /// What is sent. A further request is hidden in what follows the first.
    pub bytes: Vec<u8>,
    /// What may become of it.
    pub safe: Safe,
}

/// Writes cases for one server.
struct Writer<'a> {
    authority: &'a str,
    path: &'a str,
    cases: Vec<Case>,
}

impl Writer<'_> {
    /// A head and what follows, as it is.
    fn raw(&mut self, (row, safe): (u8, Safe), what: &'static str, text: impl AsRef<[u8]>) {
        let hidden = format!("GET {HIDDEN} HTTP/1.1\r\nHost: {}\r\n\r\n", self.authority);
        let bytes = [text.as_ref(), hidden.as_bytes()].concat();
        self.cases.push(Case { row, what, bytes, safe });
    }

    /// A request with those fields, each with its end, and that body.
    fn with(&mut self, kind: (u8, Safe), what: &'static str, fields: &str, body: &str) {
        let Self { authority, path, .. } = self;
        let text = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n{body}");
        self.raw(kind, what, text);
    }

    /// A request of that first line and that host.
    fn asking(&mut self, kind: (u8, Safe), what: &'static str, line: &str, hosts: &str) {
        self.raw(kind, what, format!("{line} HTTP/1.1\r\n{hosts}\r\n"));
    }
}

/// What is wrong with the message itself, whomever it is for: rows 1, 3 and 6, for every server. A good request for `path` at `authority`
/// would be answered with 200.
#[must_use]
pub fn messages(authority: &str, path: &str) -> Vec<Case> {
    let mut writer = Writer { authority, path, cases: Vec::new() };
    framing(&mut writer);
    chunks(&mut writer);
    endless(&mut writer);
    bytes(&mut writer);
    sizes(&mut writer);
    writer.cases
}

fn framing(writer: &mut Writer<'_>) {
    let refused = (1, Safe::Refused);
    let chunked = "Transfer-Encoding: chunked\r\n";
    // RFC 9112 §6.3 lets a server go by the coding if it closes the connection then.
    writer.with((1, Safe::Once), "a length, then a coding", &format!("Content-Length: 64\r\n{chunked}"), "0\r\n\r\n");
    writer.with((1, Safe::Once), "a coding, then a length", &format!("{chunked}Content-Length: 64\r\n"), "0\r\n\r\n");
    // §6.3 has a server take it for one, or refuse it.
    let twice = "Connection: close\r\nContent-Length: 1\r\nContent-Length: 1\r\n";
    writer.with((1, Safe::Once), "the same length twice", twice, "a");
    for (what, lengths) in [
        ("two lengths", &["1", "2"][..]),
        ("two lengths in one", &["1, 2"]),
        ("a signed length", &["+1"]),
        ("a negative length", &["-1"]),
        ("a length in hexadecimal", &["0x1"]),
        ("a length with a space", &["1 1"]),
        ("a length with a fraction", &["1.0"]),
        ("no length at all", &[""]),
        ("a length of 2^64 - 1", &["18446744073709551615"]),
        ("a length of 2^64", &["18446744073709551616"]),
    ] {
        let fields: String = lengths.iter().map(|length| format!("Content-Length: {length}\r\n")).collect();
        writer.with(refused, what, &fields, "a");
    }
    for (what, codings) in [
        ("two codings in one", &["gzip, chunked"][..]),
        ("chunked twice in one", &["chunked, chunked"]),
        ("two codings", &["gzip", "chunked"]),
        ("chunked twice", &["chunked", "chunked"]),
        ("chunked, and another after it", &["chunked, gzip"]),
        ("an unknown coding", &["xchunked"]),
        ("identity", &["identity"]),
        ("chunked with a parameter", &["chunked;a=b"]),
        ("chunked in quotes", &["\"chunked\""]),
        ("chunked after a tab and a form feed", &["\t\u{c}chunked"]),
    ] {
        let fields: String = codings.iter().map(|coding| format!("Transfer-Encoding: {coding}\r\n")).collect();
        writer.with(refused, what, &fields, "0\r\n\r\n");
    }
    let Writer { authority, path, .. } = *writer;
    let old = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\n{chunked}\r\n0\r\n\r\n");
    writer.raw(refused, "a coding in HTTP/1.0", old);
}

fn chunks(writer: &mut Writer<'_>) {
    for (what, body) in [
        ("a chunk's size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a chunk's size with an underscore", "5_\r\nhello\r\n0\r\n\r\n"),
        ("a chunk's size with a sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a chunk's size that overflows", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("no chunk's size", "\r\nhello\r\n0\r\n\r\n"),
        ("a chunk that is longer than its size", "2\r\nhello\r\n0\r\n\r\n"),
        ("a bare LF after a chunk's size", "5\nhello\r\n0\r\n\r\n"),
        ("a NUL after a chunk's size", "5\0\r\nhello\r\n0\r\n\r\n"),
    ] {
        writer.with((1, Safe::Broken), what, "Transfer-Encoding: chunked\r\n", body);
    }
}

/// What a chunked body may have beside its bytes, without end.
fn endless(writer: &mut Writer<'_>) {
    for (what, body) in [
        ("a chunk's extension of a megabyte", format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(1 << 20))),
        ("twenty thousand chunks' extensions", format!("{}0\r\n\r\n", "1;aaaaaaaaaaaaaaaa\r\nx\r\n".repeat(20_000))),
        ("a trailer of a megabyte", format!("0\r\nX: {}\r\n\r\n", "a".repeat(1 << 20))),
        ("a trailer's name of a megabyte", format!("0\r\n{}: a\r\n\r\n", "X".repeat(1 << 20))),
        ("a thousand trailers", format!("0\r\n{}\r\n", "X: a\r\n".repeat(1_000))),
    ] {
        writer.with((1, Safe::Broken), what, "Transfer-Encoding: chunked\r\n", &body);
    }
}

fn bytes(writer: &mut Writer<'_>) {
    let refused = (3, Safe::Refused);
    for (what, fields) in [
        ("NUL in a value", "X: a\0b\r\n"),
        ("NUL in a name", "X\0: a\r\n"),
        ("a bare CR in a value", "X: a\rb\r\n"),
        ("a bare CR for a line's end", "X: a\rY: b\r\n"),
        ("a fold with a space", "X: a\r\n b\r\n"),
        ("a fold with a tab", "X: a\r\n\tb\r\n"),
        ("a space before the colon", "X : a\r\n"),
        ("a tab before the colon", "X\t: a\r\n"),
        ("a name that is empty", ": a\r\n"),
        ("a line without a colon", "X\r\n"),
        ("a name with a space", "X Y: a\r\n"),
        ("a name with a quote", "X\"Y: a\r\n"),
        ("a name in other letters", "X\u{e9}: a\r\n"),
        ("DEL in a value", "X: a\u{7f}b\r\n"),
    ] {
        writer.with(refused, what, fields, "");
    }
    let Writer { authority, path, .. } = *writer;
    for (what, head) in [
        ("a fold before the first field", format!("GET {path} HTTP/1.1\r\n X: a\r\nHost: {authority}\r\n\r\n")),
        ("NUL in the target", format!("GET {path}\0 HTTP/1.1\r\nHost: {authority}\r\n\r\n")),
        ("a space in the target", format!("GET {path} x HTTP/1.1\r\nHost: {authority}\r\n\r\n")),
        ("a tab in the target", format!("GET {path}\tx HTTP/1.1\r\nHost: {authority}\r\n\r\n")),
        ("a bare CR in the first line", format!("GET {path}\rx HTTP/1.1\r\nHost: {authority}\r\n\r\n")),
        ("a method that is none", format!("G(T {path} HTTP/1.1\r\nHost: {authority}\r\n\r\n")),
        ("no version", format!("GET {path}\r\nHost: {authority}\r\n\r\n")),
        ("another version", format!("GET {path} HTTP/1.2\r\nHost: {authority}\r\n\r\n")),
        ("HTTP/2 in text", format!("GET {path} HTTP/2.0\r\nHost: {authority}\r\n\r\n")),
        ("no HTTP at all", "\u{1}\u{2}\u{3}\r\n\r\n".to_owned()),
        ("a TLS ClientHello", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\r\n\r\n".to_owned()),
    ] {
        writer.raw(refused, what, head);
    }
    // RFC 9112 §2.2 lets a recipient take it. It is passed on as CR LF, so that nobody behind can read it in another way.
    let bare = format!("GET {path} HTTP/1.1\nHost: {authority}\nConnection: close\n\n");
    writer.raw((3, Safe::Once), "a bare LF for a line's end", bare);
}

fn sizes(writer: &mut Writer<'_>) {
    let refused = (6, Safe::Refused);
    writer.with(refused, "a thousand fields", &"X: a\r\n".repeat(1_000), "");
    writer.with(refused, "a field of a megabyte", &format!("X: {}\r\n", "a".repeat(1 << 20)), "");
    writer.with(refused, "cookies of a megabyte", &format!("Cookie: {}\r\n", "a=1; ".repeat(200_000)), "");
    let Writer { authority, path, .. } = *writer;
    let long = format!("GET {path}{} HTTP/1.1\r\nHost: {authority}\r\n\r\n", "a".repeat(1 << 20));
    writer.raw(refused, "a target of a megabyte", long);
}

/// Whom it is for: rows 2, 4, 9, 11 and 13, for proxies. `authority` is what a listener serves.
#[must_use]
pub fn targets(authority: &str) -> Vec<Case> {
    let mut writer = Writer { authority, path: "/", cases: Vec::new() };
    hosts(&mut writer);
    tunnels(&mut writer);
    paths(&mut writer);
    claims(&mut writer);
    strangers(&mut writer);
    writer.cases
}

fn hosts(writer: &mut Writer<'_>) {
    let authority = writer.authority;
    let refused = (4, Safe::Refused);
    let own = format!("Host: {authority}\r\n");
    for (what, line, hosts) in [
        ("no host", "GET /".to_owned(), String::new()),
        ("two hosts", "GET /".to_owned(), format!("{own}{own}")),
        ("two hosts that differ", "GET /".to_owned(), format!("{own}Host: other.example\r\n")),
        ("target and host differ", format!("GET http://{authority}/"), "Host: other.example\r\n".to_owned()),
        ("an absolute target and no host", format!("GET http://{authority}/"), String::new()),
        ("user information", format!("GET http://me@{authority}/"), own.clone()),
        ("user information in the host", "GET /".to_owned(), format!("Host: me@{authority}\r\n")),
        ("an empty host", "GET /".to_owned(), "Host: \r\n".to_owned()),
        ("two hosts in one", "GET /".to_owned(), format!("Host: {authority}, {authority}\r\n")),
        ("a host with a path", "GET /".to_owned(), format!("Host: {authority}/x\r\n")),
        ("a port of 65,536", "GET /".to_owned(), "Host: a.example:65536\r\n".to_owned()),
        ("a target without a slash", "GET x".to_owned(), own.clone()),
        ("an asterisk that is no question", "GET *".to_owned(), own.clone()),
        ("https in the clear", format!("GET https://{authority}/"), own.clone()),
        ("a scheme that is none", "GET gopher://a.example/".to_owned(), "Host: a.example\r\n".to_owned()),
    ] {
        writer.asking(refused, what, &line, &hosts);
    }
}

fn tunnels(writer: &mut Writer<'_>) {
    let authority = writer.authority;
    let own = format!("Host: {authority}\r\n");
    let connect = format!("CONNECT {authority}");
    for (what, fields) in [
        ("CONNECT with a length", "Content-Length: 5\r\n"),
        ("CONNECT with a coding", "Transfer-Encoding: chunked\r\n"),
        ("CONNECT with both", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
    ] {
        writer.asking((2, Safe::Refused), what, &connect, &format!("{own}{fields}"));
    }
    writer.asking((2, Safe::Refused), "CONNECT without a port", "CONNECT a.example", "Host: a.example\r\n");
    // What stands behind does not switch: what was sent with the question is no request then.
    let asks = format!("{own}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAA\r\n");
    writer.asking((2, Safe::Once), "bytes after an Upgrade that nobody takes up", "GET /", &asks);
    let other = format!("{own}Connection: Upgrade, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n");
    writer.asking((2, Safe::Once), "bytes after an Upgrade to h2c", "GET /", &other);
}

fn paths(writer: &mut Writer<'_>) {
    for (sent, arrives) in PATHS {
        let end = format!(" HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", writer.authority);
        writer.raw((9, Safe::As(arrives)), "a path", [b"GET ", sent, end.as_bytes()].concat());
    }
}

fn claims(writer: &mut Writer<'_>) {
    for (what, fields) in [
        ("a client certificate", format!("X-Forwarded-Client-Cert: URI=spiffe://{FORGED}\r\n")),
        ("the same for CGI", format!("X_Forwarded_Client_Cert: URI=spiffe://{FORGED}\r\n")),
        ("Forwarded", format!("Forwarded: for={FORGED}\r\n")),
        ("a data plane's own", format!("X-Isthmus-Outcome: {FORGED}\r\nx_isthmus_reason: {FORGED}\r\n")),
        ("what the connection nominates", format!("Connection: X-Secret\r\nX-Secret: {FORGED}\r\n")),
        ("proxy authorization", format!("Proxy-Authorization: {FORGED}\r\n")),
    ] {
        let fields = format!("Connection: close\r\n{fields}");
        writer.with((11, Safe::Cleaned), what, &fields, "");
    }
    for name in ["X-Forwarded-For", "X_Forwarded_For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP"] {
        let fields = format!("Connection: close\r\n{name}: {FORGED}\r\n");
        writer.with((11, Safe::Entered), "where it comes from", &fields, "");
    }
}

fn strangers(writer: &mut Writer<'_>) {
    let elsewhere = (13, Safe::Elsewhere);
    for host in STRANGER_HOSTS {
        writer.asking(elsewhere, "CONNECT to what is not the federation's", &format!("CONNECT {host}"), &close(host));
        writer.asking(
            elsewhere,
            "a request to what is not the federation's",
            &format!("GET http://{host}/"),
            &close(host),
        );
    }
    let host = writer.authority.rsplit_once(':').map_or(writer.authority, |(host, _)| host);
    let admin = format!("{host}:15000");
    writer.asking(elsewhere, "CONNECT to a port that nobody offers", &format!("CONNECT {admin}"), &close(&admin));
}

fn close(host: &str) -> String {
    format!("Host: {host}\r\nConnection: close\r\n")
}
