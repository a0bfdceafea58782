//! What every work needs before there is anything to measure: addresses, a directory, certificates.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use isthmus_tests::harness::{Loopback, http};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::isthmus::host;
use super::peer::Peer;
use super::trust::Trust;

/// How long a way may take until requests come through it: a registry is founded and a certificate issued meanwhile.
const OPEN_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks whether they do.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Who is where in the block of addresses.
pub(crate) mod hosts {
    /// Our gateway.
    pub(crate) const GATEWAY: u8 = 1;
    /// Another one, with another catalog.
    pub(crate) const OTHER_GATEWAY: u8 = 2;
    /// The sidecar of whoever calls.
    pub(crate) const CLIENT: u8 = 10;
    /// The sidecar of whoever is called, and its application.
    pub(crate) const SERVER: u8 = 11;
    /// An application without a sidecar.
    pub(crate) const PLAIN: u8 = 12;
    /// The others: where clients reach them.
    pub(crate) const ENVOY: u8 = 20;
    /// The second half of a pair.
    pub(crate) const ENVOY_SERVER: u8 = 21;
    pub(crate) const HAPROXY: u8 = 22;
    /// The same with `splice`.
    pub(crate) const HAPROXY_SPLICE: u8 = 23;
    pub(crate) const NGINX: u8 = 24;
}

/// Where applications serve HTTP.
pub(crate) const HTTP: u16 = 9080;
/// Where they serve gRPC.
pub(crate) const GRPC: u16 = 9090;
/// Where they do TLS themselves.
pub(crate) const TLS: u16 = 8443;
/// Where one says again what it hears.
pub(crate) const ECHO: u16 = 7000;
/// Where one says as much as is listened to.
pub(crate) const FLOOD: u16 = 7001;
/// Where the others take clients.
pub(crate) const PEER: u16 = 10_000;

/// Addresses that no other program uses, and a directory that goes away; whoever is on the stage must leave it before.
pub(crate) struct Stage {
    block: Loopback,
    directory: TempDir,
    pub(crate) trust: Trust,
}

impl Stage {
    /// Takes addresses, and writes certificates for the others.
    pub(crate) fn new() -> io::Result<Self> {
        let (block, directory) = (Loopback::block(), tempfile::tempdir()?);
        let trust = Trust::new(directory.path())?;
        Ok(Self { block, directory, trust })
    }

    /// Where processes run and have their files.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The address of one of [`hosts`].
    pub(crate) fn ip(&self, host: u8) -> Ipv4Addr {
        self.block.ip(host)
    }

    /// A port of one of [`hosts`].
    pub(crate) fn at(&self, host: u8, port: u16) -> SocketAddr {
        self.block.address(host, port)
    }
}

/// Waits until a GET of the service comes back through each of them.
///
/// # Errors
/// When it does not in time; with the last answer.
pub(crate) async fn open_to_http(peers: &[Peer], service: &str) -> io::Result<()> {
    let host = format!("{}:{HTTP}", host(service));
    open(peers, async |peer| match http::get_as(peer.at, &host, "/").await {
        Ok(response) if response.status == 200 => Ok(()),
        Ok(response) => Err(io::Error::other(format!("{}: {}", response.status, response.body))),
        Err(error) => Err(error),
    })
    .await
}

/// Waits until `probe` goes through each of them.
///
/// # Errors
/// When it does not in time; with the last answer.
pub(crate) async fn open(peers: &[Peer], probe: impl AsyncFn(&Peer) -> io::Result<()>) -> io::Result<()> {
    for peer in peers {
        let end = Instant::now() + OPEN_WITHIN;
        while let Err(error) = probe(peer).await {
            if Instant::now() > end {
                return Err(peer.blamed(&io::Error::other(format!("nothing comes through: {error}"))));
            }
            sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}
