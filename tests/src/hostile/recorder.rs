//! An application that remembers every request that it was sent whole.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A request that came whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its head, byte for byte, with the empty line.
    pub head: Vec<u8>,
    /// What came between it and the end, without chunks: the first [`KEPT_MAX`](Recorder::KEPT_MAX) bytes.
    pub body: Vec<u8>,
    /// The lines behind the last chunk, byte for byte, without the empty one.
    pub trailers: Vec<u8>,
}

impl Request {
    /// What stands between the method and the version.
    #[must_use]
    pub fn target(&self) -> &[u8] {
        let mut words = self.head.split(|byte| *byte == b' ' || *byte == b'\r');
        words.nth(1).unwrap_or_default()
    }

    /// Whether the head or the trailers say that anywhere, in any case.
    #[must_use]
    pub fn says(&self, text: &str) -> bool {
        self.count(text) > 0
    }

    /// How often the head and the trailers say that, in any case.
    #[must_use]
    pub fn count(&self, text: &str) -> usize {
        let fields = [&self.head[..], &self.trailers].concat();
        String::from_utf8_lossy(&fields).to_ascii_lowercase().matches(&text.to_ascii_lowercase()).count()
    }
}

/// The application. It speaks HTTP/1.1 by the letter, sharing no code with what is tested, and answers with 200.
#[derive(Clone, Debug)]
pub struct Recorder {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Recorder {
    /// The answer to this target is [`LARGE`](Self::LARGE) bytes long.
    pub const LARGE_TARGET: &str = "/large";
    /// More than any buffer on the way.
    pub const LARGE: usize = 8 << 20;
    /// Bytes of a body that are remembered.
    pub const KEPT_MAX: u64 = 4 << 10;

    /// Listens on the loopback until the runtime ends.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let recorder = Self { address: listener.local_addr()?, requests: Arc::default() };
        let requests = recorder.requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let requests = requests.clone();
                tokio::spawn(async move { serve(stream, &requests).await });
            }
        });
        Ok(recorder)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What came since this was last asked.
    #[must_use]
    pub fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn serve(stream: TcpStream, requests: &Mutex<Vec<Request>>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_until(b'\n', &mut head).await? == 0 {
                return Ok(());
            }
        }
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let (body, trailers) = if text.contains("\r\ntransfer-encoding: chunked\r\n") {
            read_chunks(&mut stream).await?
        } else {
            let length =
                text.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.split('\r').next()?.parse().ok());
            let mut body = Vec::new();
            keep(&mut stream, length.unwrap_or(0), &mut body).await?;
            (body, Vec::new())
        };
        let request = Request { head, body, trailers };
        let large = request.target().starts_with(Recorder::LARGE_TARGET.as_bytes());
        requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        let length = if large { Recorder::LARGE } else { 2 };
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes()).await?;
        let mut left = tokio::io::repeat(b'x').take(length as u64);
        tokio::io::copy(&mut left, &mut stream).await?;
        stream.flush().await?;
    }
}

/// Reads so many bytes, if they come, and appends what is to be remembered of them.
async fn keep(stream: &mut BufReader<TcpStream>, length: u64, body: &mut Vec<u8>) -> io::Result<()> {
    let room = Recorder::KEPT_MAX.saturating_sub(body.len() as u64).min(length);
    let kept = (&mut *stream).take(room).read_to_end(body).await? as u64;
    let passed = tokio::io::copy(&mut stream.take(length - room), &mut tokio::io::sink()).await?;
    if kept + passed < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// The body and the trailers.
async fn read_chunks(stream: &mut BufReader<TcpStream>) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let size = line.trim_end().split(';').next().and_then(|size| u64::from_str_radix(size, 16).ok());
        let size = size.ok_or(io::ErrorKind::InvalidData)?;
        if size == 0 {
            break;
        }
        keep(stream, size, &mut body).await?;
        let mut end = [0; 2];
        stream.read_exact(&mut end).await?;
    }
    let mut trailers = Vec::new();
    loop {
        let before = trailers.len();
        if stream.read_until(b'\n', &mut trailers).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if &trailers[before..] == b"\r\n" {
            trailers.truncate(before);
            return Ok((body, trailers));
        }
    }
}
