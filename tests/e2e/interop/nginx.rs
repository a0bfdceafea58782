//! nginx as the server: its configuration, what it serves, and a process of ours that it runs in.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use data_encoding::BASE64_MIME;
use isthmus_tests::harness::{Process, Spawn};

use super::{LARGE, Port};
use crate::federation::host;

/// The service.
pub(super) const WEB: &str = "web";
/// HTTP/1.1.
pub(super) const HTTP: u16 = 9080;
/// The same server as HTTP/2.
pub(super) const HTTP2: u16 = 9081;
/// The same as HTTP, under a name that says nothing of HTTP: bytes.
pub(super) const TCP: u16 = 7000;
/// HTTP over the server's own TLS: bytes.
pub(super) const TLS: u16 = 7443;

/// The service's ports. The one of bytes is another number than the server's.
pub(super) const PORTS: [Port; 4] = [
    Port::new("http", HTTP),
    Port::new("http2-web", HTTP2),
    Port { name: "tcp", number: TCP, at: HTTP },
    Port::new("tls", TLS),
];

/// A small text that is worth compressing.
pub(super) const PAGE: &str = "page.txt";
/// The file that holds [`LARGE`].
pub(super) const BIG: &str = "big";
/// The trailer field of `/trailers`.
pub(super) const TRAILER: &str = "x-checksum: 2cf24dba";

/// The small text.
pub(super) fn page() -> String {
    "so much depends upon a red wheel barrow\n".repeat(100)
}

/// Starts it at `address`, with all of its files in `directory`. Its certificate is `nginx/tls.crt` there. `extra` goes
/// into the server's configuration.
pub(super) fn start(nginx: &Path, directory: &Path, address: Ipv4Addr, extra: &str) -> Process {
    let prefix = directory.join("nginx");
    fs::create_dir_all(prefix.join("www/directory")).expect("a directory");
    fs::write(prefix.join("www").join(PAGE), page()).expect("written");
    fs::write(prefix.join("www").join(BIG), &*LARGE).expect("written");
    fs::write(prefix.join("www/directory/index.html"), "the index\n").expect("written");
    let certified = rcgen::generate_simple_self_signed(vec![host(WEB)]).expect("a certificate");
    fs::write(prefix.join("tls.crt"), pem("CERTIFICATE", certified.cert.der())).expect("written");
    fs::write(prefix.join("tls.key"), pem("PRIVATE KEY", &certified.signing_key.serialize_der())).expect("written");
    fs::write(prefix.join("nginx.conf"), configuration(address, extra)).expect("written");
    // Before it has read the file, it would write to the system's log.
    let args = ["-e", "stderr", "-p"].map(Into::into).into_iter().chain([prefix.into_os_string()]);
    let args = args.chain(["-c", "nginx.conf"].map(Into::into));
    Spawn::new("nginx", nginx).args::<std::ffi::OsString>(args).start(directory).expect("nginx runs")
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_MIME.encode(der).trim_end())
}

/// As a distribution's, but for where things are. `root` is who the tests' files belong to, if nginx is started by it.
fn configuration(address: Ipv4Addr, extra: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {kind};\n"))
        .concat();
    let (name, value) = TRAILER.split_once(": ").expect("a field");
    format!(
        "daemon off;\nuser root;\npid nginx.pid;\nevents {{}}\nhttp {{\n{temporary}  access_log off;\n  server {{\n    \
         listen {address}:{HTTP};\n    listen {address}:{HTTP2} http2;\n    listen {address}:{TLS} ssl http2;\n    \
         ssl_certificate tls.crt;\n    ssl_certificate_key tls.key;\n    \
         root www;\n    default_type text/plain;\n    client_max_body_size 0;\n    \
         gzip on;\n    gzip_types text/plain;\n    gzip_min_length 0;\n    gzip_proxied any;\n    \
         add_header x-connection $connection;\n    add_header x-on-connection $connection_requests;\n    \
         location = /caller {{ return 200 \"$http_x_forwarded_client_cert\"; }}\n    \
         location = /nothing {{ return 204; }}\n    \
         location = /closing/{PAGE} {{ keepalive_timeout 0; alias www/{PAGE}; }}\n    \
         location = /trailers {{ alias www/{PAGE}; add_header trailer {name}; add_trailer {name} {value}; }}\n    \
         location /small/ {{ client_max_body_size 1k; dav_methods PUT; }}\n    \
         location /files/ {{ dav_methods PUT DELETE; create_full_put_path on; }}\n    {extra}\n  }}\n}}\n"
    )
}
