//! A client for HTTP/1.1, one request per connection, written by hand: it shares no code with the
//! servers and proxies under test, and shows exactly what came over the wire.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// An answer later than this is a failure.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The longest answer that is taken.
const ANSWER_LEN_MAX: usize = 16 << 20;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The header, as it came, without the status line.
    pub header: String,
    /// The body, with chunks put together.
    pub body: String,
}

impl Response {
    /// The value of the first field of that name, in any case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.header, name)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is something else.
    pub fn json(&self) -> serde_json::Result<serde_json::Value> {
        serde_json::from_str(&self.body)
    }
}

/// `GET path` from the server at `address`.
///
/// # Errors
/// When there is no complete answer in time.
pub async fn get(address: SocketAddr, path: &str) -> io::Result<Response> {
    request(address, "GET", path, &address.to_string(), "").await
}

/// `GET path` from the server at `address`, which is asked as `host`.
///
/// # Errors
/// When there is no complete answer in time.
pub async fn get_as(address: SocketAddr, host: &str, path: &str) -> io::Result<Response> {
    request(address, "GET", path, host, "").await
}

/// `GET url` through the forward proxy at `proxy`. `url` is absolute: `http://host:port/path`.
///
/// # Errors
/// When there is no complete answer in time, or `url` is of another form.
pub async fn get_via_proxy(proxy: SocketAddr, url: &str) -> io::Result<Response> {
    let authority = url.strip_prefix("http://").and_then(|rest| rest.split('/').next());
    let authority = authority.ok_or_else(|| invalid("the URL does not start with http://"))?;
    request(proxy, "GET", url, authority, "").await
}

/// Any request to the server or proxy at `address`.
///
/// # Errors
/// When there is no complete answer in time.
pub async fn request(address: SocketAddr, method: &str, target: &str, host: &str, body: &str) -> io::Result<Response> {
    in_time(async { exchange(TcpStream::connect(address).await?, method, target, host, body).await }).await
}

/// `GET path` from the server on the Unix socket `socket`.
///
/// # Errors
/// When there is no complete answer in time.
pub async fn get_unix(socket: &Path, path: &str) -> io::Result<Response> {
    request_unix(socket, "GET", path, "").await
}

/// Any request to the server on the Unix socket `socket`; `body` is JSON unless empty.
///
/// # Errors
/// When there is no complete answer in time.
pub async fn request_unix(socket: &Path, method: &str, path: &str, body: &str) -> io::Result<Response> {
    in_time(async { exchange(UnixStream::connect(socket).await?, method, path, "localhost", body).await }).await
}

/// A connection to `authority` by CONNECT through the proxy at `proxy`.
///
/// # Errors
/// When the proxy does not answer 200; the error has the answer.
pub async fn connect_via_proxy(proxy: SocketAddr, authority: &str) -> io::Result<TcpStream> {
    in_time(async {
        let mut stream = TcpStream::connect(proxy).await?;
        stream.write_all(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes()).await?;
        let mut head = Vec::new();
        // Byte by byte: what comes after the header belongs to the tunnel.
        while !head.ends_with(b"\r\n\r\n") && head.len() < ANSWER_LEN_MAX {
            head.push(stream.read_u8().await?);
        }
        match parse_head(&head)? {
            Some(head) if head.status == 200 => Ok(stream),
            _ => Err(io::Error::other(String::from_utf8_lossy(&head).into_owned())),
        }
    })
    .await
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(ANSWER_WITHIN, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    target: &str,
    host: &str,
    body: &str,
) -> io::Result<Response> {
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    if !body.is_empty() {
        request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    request += "\r\n";
    request += body;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        let len = stream.read_buf(&mut answer).await?;
        if let Some(response) = parse(&answer, len == 0)? {
            return Ok(response);
        }
        if len == 0 || answer.len() > ANSWER_LEN_MAX {
            return Err(invalid("the answer is cut short or too long"));
        }
    }
}

struct Head<'a> {
    status: u16,
    header: &'a str,
    /// What came after it.
    rest: &'a [u8],
}

fn parse_head(bytes: &[u8]) -> io::Result<Option<Head<'_>>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| invalid("the header is not text"))?;
    let (line, header) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    let status = status.ok_or_else(|| invalid("this is not an HTTP/1 answer"))?;
    Ok(Some(Head { status, header, rest: &bytes[end + 4..] }))
}

/// Reads an answer to anything but HEAD and CONNECT (RFC 9112 §6.3). `None` while there is more to come.
fn parse(bytes: &[u8], ended: bool) -> io::Result<Option<Response>> {
    let Some(Head { status, header, rest }) = parse_head(bytes)? else { return Ok(None) };
    let chunked = field(header, "transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
    let body = if chunked {
        dechunk(rest)?
    } else if let Some(len) = field(header, "content-length") {
        let len: usize = len.parse().map_err(|_| invalid("Content-Length is not a number"))?;
        rest.get(..len).map(<[u8]>::to_vec)
    } else {
        (ended || status == 204 || status == 304).then(|| rest.to_vec())
    };
    Ok(body.map(|body| Response {
        status,
        header: header.to_owned(),
        body: String::from_utf8_lossy(&body).into_owned(),
    }))
}

/// Puts chunks together (RFC 9112 §7.1). `None` while the last one is missing.
fn dechunk(mut rest: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&rest[..end]).ok().and_then(|text| text.split(';').next());
        let size = size.and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
        let size = size.ok_or_else(|| invalid("a chunk's size is not a number"))?;
        if size == 0 {
            return Ok(Some(body));
        }
        let chunk = size.checked_add(end + 4).and_then(|len| rest.get(..len));
        let Some(chunk) = chunk else { return Ok(None) };
        body.extend_from_slice(&chunk[end + 2..end + 2 + size]);
        rest = &rest[chunk.len()..];
    }
}

fn field<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let fields = header.lines().filter_map(|line| line.split_once(':'));
    fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(answer: &str, ended: bool) -> Option<String> {
        parse(answer.as_bytes(), ended).expect("an HTTP answer").map(|response| response.body)
    }

    #[test]
    fn bodies_are_read_in_all_three_framings() {
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", false).as_deref(), Some("hi"));
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi", true), None);
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1;x=y\r\n!\r\n0\r\n\r\n";
        assert_eq!(body(chunked, false).as_deref(), Some("hi!"));
        assert_eq!(body(&chunked[..chunked.len() - 8], false), None);
        assert_eq!(body("HTTP/1.0 200 OK\r\n\r\nhi", false), None);
        assert_eq!(body("HTTP/1.0 200 OK\r\n\r\nhi", true).as_deref(), Some("hi"));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        assert!(parse(b"SSH-2.0-x\r\n\r\n", false).is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", false).is_err());
        let huge = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n";
        assert_eq!(parse(huge, false).expect("a number"), None);
    }
}
