//! curl and nginx: HTTP/1.0, HTTP/1.1 and HTTP/2 by every way, and what goes through CONNECT.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::nginx::{self, BIG, HTTP, HTTP2, PAGE, PORTS, TCP, TLS, TRAILER, WEB};
use super::{LARGE, Pair, installed, run, url};
use crate::federation::host;

const CLIENT: &str = "URI=spiffe://us-east.acme.mesh/ns/shop/sa/productpage";
const GATEWAY: &str = "URI=spiffe://us-east.acme.mesh/gateway/gw-1";

/// The option that makes curl speak HTTP/2 without asking. Some versions then fail at the second request of a connection, also
/// with no proxy: one request a run.
const HTTP2_ALONE: &str = "--http2-prior-knowledge";

/// A way to the server, as it is told to curl.
struct Way {
    curl: PathBuf,
    /// For the reader of a failure.
    name: String,
    options: Vec<String>,
    port: u16,
    files: TempDir,
}

/// What one run of curl brought.
struct Fetched {
    /// All heads, interim ones and trailers too.
    heads: String,
    body: Vec<u8>,
    /// For each response its status, its HTTP version, and the connections that were opened for it.
    responses: Vec<(u16, String, u32)>,
}

impl Fetched {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn status(&self) -> u16 {
        self.responses.last().expect("there was a response").0
    }

    /// The value of the last field of that name.
    fn field(&self, name: &str) -> Option<&str> {
        let fields = self.heads.lines().filter_map(|line| line.split_once(':'));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next_back()
    }
}

impl Way {
    fn new(curl: &Path, name: &str, options: &[&str], port: u16) -> Self {
        let options = options.iter().map(ToString::to_string).collect();
        let files = tempfile::tempdir().expect("a directory");
        Self { curl: curl.to_owned(), name: format!("{name} to {port}"), options, port, files }
    }

    fn speaks_http2(&self) -> bool {
        self.options.iter().any(|option| option == HTTP2_ALONE)
    }

    /// Runs curl for the paths, with more options.
    async fn fetch(&self, options: &[&str], paths: &[&str]) -> Fetched {
        let heads = self.files.path().join("heads");
        // Appended to by every transfer.
        fs::write(&heads, "").expect("written");
        let told = "%{stderr}%{http_code} %{http_version} %{num_connects}\\n";
        let heads_to = heads.to_str().expect("text");
        let mut args = vec!["-sS", "--globoff", "-w", told, "-D", heads_to];
        args.extend(self.options.iter().map(String::as_str).chain(options.iter().copied()));
        let urls: Vec<String> = paths.iter().map(|path| url(WEB, self.port, path)).collect();
        args.extend(urls.iter().map(String::as_str));
        let ended = run(&self.curl, &args, &[]).await;
        assert!(ended.success, "{}: curl {args:?}: {}", self.name, ended.stderr);
        let responses = ended.stderr.lines().map(|line| {
            let mut words = line.split(' ');
            let mut word = || words.next().expect("three words a response");
            let (status, version, opened) = (word(), word(), word());
            (status.parse().expect("a status"), version.to_owned(), opened.parse().expect("a number"))
        });
        let responses = responses.collect();
        let heads = fs::read_to_string(&heads).expect("curl wrote it");
        Fetched { heads, body: ended.stdout, responses }
    }

    async fn get(&self, path: &str) -> Fetched {
        self.fetch(&[], &[path]).await
    }

    /// A file for curl to send or to write to.
    fn file(&self, name: &str) -> String {
        self.files.path().join(name).to_str().expect("text").to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_nginx_notice_nothing_of_what_is_between_them() {
    let Some([curl, nginx]) = installed(["curl", "nginx"], "apt-get install curl nginx-light") else { return };
    let pair = Pair::run(WEB, &PORTS, |directory, address| nginx::start(&nginx, directory, address, "")).await;
    for way in ways(&curl, &pair) {
        reads(&way).await;
        conditions_and_ranges(&way).await;
        writes(&way).await;
        trailers(&way).await;
    }
    for (proxy, caller) in [(pair.sidecar(), CLIENT), (pair.egress(), GATEWAY)] {
        let proxy = proxy.to_string();
        let way = Way::new(&curl, "proxy", &["-x", &proxy], HTTP);
        assert!(way.get("/caller").await.text().ends_with(caller));
    }
    connections(&Way::new(&curl, "sidecar", &["-x", &pair.sidecar().to_string()], HTTP)).await;
    old_clients(&ways(&curl, &pair)[..3]).await;
    for proxy in [pair.sidecar(), pair.egress()] {
        bytes_by_connect(&curl, &pair, proxy).await;
    }
}

/// Each way with each protocol that a client may speak there.
fn ways(curl: &Path, pair: &Pair) -> Vec<Way> {
    let (sidecar, egress) = (pair.sidecar().to_string(), pair.egress().to_string());
    let resolve = format!("{}:{HTTP}:{}", host(WEB), pair.vip);
    let resolve2 = format!("{}:{HTTP2}:{}", host(WEB), pair.vip);
    vec![
        Way::new(curl, "sidecar", &["-x", &sidecar], HTTP),
        Way::new(curl, "egress", &["-x", &egress], HTTP),
        Way::new(curl, "virtual address", &["--resolve", &resolve], HTTP),
        Way::new(curl, "CONNECT to the sidecar", &["-p", "-x", &sidecar], HTTP),
        Way::new(curl, "HTTP/2 through CONNECT to the egress", &["-p", "-x", &egress, HTTP2_ALONE], HTTP),
        Way::new(curl, "HTTP/2 at the virtual address", &["--resolve", &resolve, HTTP2_ALONE], HTTP),
        Way::new(curl, "sidecar", &["-x", &sidecar], HTTP2),
        Way::new(curl, "HTTP/2 at the virtual address", &["--resolve", &resolve2, HTTP2_ALONE], HTTP2),
    ]
}

async fn reads(way: &Way) {
    let got = way.get(&format!("/{PAGE}")).await;
    assert_eq!((got.status(), got.text()), (200, nginx::page()), "{}", way.name);
    let version = if way.speaks_http2() { "2" } else { "1.1" };
    assert_eq!(got.responses[0].1, version, "{}", way.name);

    let head = way.fetch(&["-I"], &[&format!("/{BIG}")]).await;
    assert_eq!(
        (head.status(), head.field("content-length")),
        (200, Some(LARGE.len().to_string().as_str())),
        "{}",
        way.name
    );
    let nothing = way.get("/nothing").await;
    assert_eq!((nothing.status(), nothing.body.len()), (204, 0), "{}", way.name);
    assert_eq!(way.get("/absent").await.status(), 404, "{}", way.name);

    let big = way.get(&format!("/{BIG}")).await;
    assert!(big.body == *LARGE, "{}: {} bytes that are not the file's", way.name, big.body.len());
    // Compressed on the fly: of no length that is known before.
    let compressed = way.fetch(&["--compressed"], &[&format!("/{PAGE}")]).await;
    assert_eq!(compressed.field("content-encoding"), Some("gzip"), "{}: {}", way.name, compressed.heads);
    assert_eq!(compressed.text(), nginx::page(), "{}", way.name);
    // nginx says where to go by the host and port that it was asked for.
    let moved = way.get("/directory").await;
    assert_eq!(moved.field("location"), Some(url(WEB, way.port, "/directory/").as_str()), "{}", way.name);
}

async fn conditions_and_ranges(way: &Way) {
    let (page, big) = (format!("/{PAGE}"), format!("/{BIG}"));
    let etag = way.file("etag");
    way.fetch(&["--etag-save", &etag], &[&page]).await;
    let unchanged = way.fetch(&["--etag-compare", &etag], &[&page]).await;
    assert_eq!((unchanged.status(), unchanged.body.len()), (304, 0), "{}: {}", way.name, unchanged.heads);

    for (range, expected) in [("1000-70999", &LARGE[1000..71_000]), ("-5", &LARGE[LARGE.len() - 5..])] {
        let part = way.fetch(&["-r", range], &[&big]).await;
        assert_eq!(part.status(), 206, "{} {range}", way.name);
        assert!(part.body == expected, "{} {range}: {} other bytes", way.name, part.body.len());
    }
    let several = way.fetch(&["-r", "0-4,10-14"], &[&page]).await;
    assert_eq!(several.status(), 206, "{}", way.name);
    assert!(several.field("content-type").is_some_and(|kind| kind.starts_with("multipart/byteranges")), "{}", way.name);
    assert_eq!(way.fetch(&["-r", "99999-"], &[&page]).await.status(), 416, "{}", way.name);
    // A download that broke off goes on.
    let file = way.file("resumed");
    fs::write(&file, &LARGE[..LARGE.len() - 1000]).expect("written");
    way.fetch(&["-C", "-", "-o", &file], &[&big]).await;
    assert!(fs::read(&file).expect("there") == *LARGE, "{}", way.name);
}

async fn writes(way: &Way) {
    let (file, sent) = (way.file("sent"), &LARGE[..3 << 20]);
    fs::write(&file, sent).expect("written");
    let chunked = ["-H", "Transfer-Encoding: chunked"];
    // Without a 100 curl waits for a minute, and the test not as long.
    let waiting = ["-H", "Expect: 100-continue", "--expect100-timeout", "60"];
    for (name, options) in [("plain", &[][..]), ("chunked", &chunked), ("waiting", &waiting)] {
        let path = format!("/files/{}/{name}", way.name.replace(' ', "-"));
        let put = way.fetch(&[&["-T", &file], options].concat(), &[&path]).await;
        assert_eq!(put.status(), 201, "{} {name}: {}", way.name, put.heads);
        assert!(way.get(&path).await.body == sent, "{} {name}: other bytes arrived", way.name);
        assert_eq!(way.fetch(&["-X", "DELETE"], &[&path]).await.status(), 204, "{} {name}", way.name);
    }
    if way.speaks_http2() {
        // Some versions of curl take an answer that comes before the upload is through for an error, also directly from nginx.
        return;
    }
    // Refused by its length, before it is read.
    let refused = way.fetch(&["-T", &file], &["/small/sent"]).await;
    assert_eq!(refused.status(), 413, "{}: {}", way.name, refused.heads);
}

async fn trailers(way: &Way) {
    if way.port == HTTP2 {
        // There nginx tells the length as well: HTTP/1.1 has trailers or a length, and curl reads no further than the length.
        return;
    }
    let got = way.fetch(&["-H", "TE: trailers"], &["/trailers"]).await;
    assert_eq!(got.text(), nginx::page(), "{}", way.name);
    let (name, value) = TRAILER.split_once(": ").expect("a field");
    assert_eq!(got.field(name), Some(value), "{}: {}", way.name, got.heads);
}

/// Connections are kept on both ends, and closed when either end says so.
async fn connections(way: &Way) {
    let page = format!("/{PAGE}");
    let opened = |fetched: &Fetched| fetched.responses.iter().map(|(_, _, opened)| *opened).collect::<Vec<_>>();
    let kept = way.fetch(&[], &[page.as_str(); 3]).await;
    assert_eq!(opened(&kept), [1, 0, 0]);
    let by_server: Vec<&str> = kept.heads.lines().filter(|line| line.starts_with("x-on-connection: ")).collect();
    let served = kept.field("x-on-connection").and_then(|count| count.parse::<u32>().ok());
    assert!(served.is_some_and(|count| count >= 3), "each had a connection of its own to nginx: {by_server:?}");
    let closed = way.fetch(&["-H", "Connection: close"], &[page.as_str(); 3]).await;
    assert_eq!((opened(&closed), closed.field("connection")), (vec![1; 3], Some("close")));
    // nginx closes after each answer; that is between it and its sidecar.
    let closing = format!("/closing/{PAGE}");
    let many = way.fetch(&[], &[closing.as_str(); 20]).await;
    assert!(many.responses.iter().all(|(status, _, _)| *status == 200), "{:?}", many.responses);
    assert_eq!(opened(&many)[1..], [0; 19]);
}

/// An HTTP/1.0 client knows neither chunks nor connections that are kept.
async fn old_clients(ways: &[Way]) {
    for way in ways {
        for options in [&["-0"][..], &["-0", "--compressed"]] {
            let got = way.fetch(options, &[&format!("/{PAGE}")]).await;
            assert_eq!((got.status(), got.text()), (200, nginx::page()), "{}", way.name);
            assert_eq!(got.field("transfer-encoding"), None, "{}: {}", way.name, got.heads);
        }
        let big = way.fetch(&["-0"], &[&format!("/{BIG}")]).await;
        assert!(big.body == *LARGE, "{}: {} bytes that are not the file's", way.name, big.body.len());
    }
}

/// What is behind a CONNECT to a port of bytes is the server itself, with its TLS if it has some.
async fn bytes_by_connect(curl: &Path, pair: &Pair, proxy: SocketAddr) {
    let proxy = proxy.to_string();
    let way = Way::new(curl, "CONNECT", &["-p", "-x", &proxy], TCP);
    let big = way.get(&format!("/{BIG}")).await;
    assert!(big.body == *LARGE, "{} bytes that are not the file's", big.body.len());
    let certificate = pair.west.path("nginx/tls.crt");
    let target = format!("https://{}:{TLS}/{BIG}", host(WEB));
    let args = ["-sS", "-x", &proxy, "-w", "%{stderr}%{http_version}", "--cacert"].map(Into::into);
    let ended = run(curl, args.into_iter().chain([certificate.into_os_string(), target.into()]), &[]).await;
    assert_eq!(ended.stderr, "2", "{}", ended.told());
    assert!(ended.stdout == *LARGE, "{} bytes that are not the file's", ended.stdout.len());
}
