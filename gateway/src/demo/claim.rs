//! Two demos must not share addresses or a state directory. Both are claimed before anything is started.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

use super::layout::{Cluster, Layout};

/// The host and port of each cluster's block that a demo holds as long as it runs. Nobody talks to it.
const MARK: (u8, u16) = (254, 15_000);

/// The addresses and the state directory, this process's own as long as this lives: the kernel takes both
/// locks back whatever becomes of the process.
#[derive(Debug)]
pub(super) struct Claim {
    _marks: Vec<UdpSocket>,
    _directory: File,
}

impl Claim {
    /// Claims everything in `layout`. The state directory exists.
    ///
    /// # Errors
    /// Who else has it, as far as that can be told.
    pub(super) fn take(layout: &Layout) -> anyhow::Result<Self> {
        let path = layout.dir.join("demo.lock");
        let directory = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another demo runs in {}: stop it, or give another --state-dir", layout.dir.display());
        }
        let marks = layout.clusters.iter().map(mark).collect::<anyhow::Result<_>>()?;
        for address in listeners(layout) {
            // The listener is closed again at once; its process will bind it in a moment.
            TcpListener::bind(address).map_err(|error| explain(address, &error))?;
        }
        Ok(Self { _marks: marks, _directory: directory })
    }
}

fn mark(cluster: &Cluster) -> anyhow::Result<UdpSocket> {
    let [a, b, block, _] = match cluster.config.listen.east_west {
        SocketAddr::V4(address) => address.ip().octets(),
        SocketAddr::V6(_) => bail!("the demo's addresses are IPv4"),
    };
    let address = SocketAddr::from((Ipv4Addr::new(a, b, block, MARK.0), MARK.1));
    UdpSocket::bind(address).map_err(|error| explain(address, &error))
}

fn listeners(layout: &Layout) -> impl Iterator<Item = SocketAddr> {
    let gateways = layout.clusters.iter().flat_map(|cluster| cluster.config.listen.all().map(|(_, address)| address));
    gateways.chain(layout.workloads().flat_map(|w| [w.app(), w.http(), w.outbound(), w.inbound(), w.status()]))
}

fn explain(address: SocketAddr, error: &io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another demo runs there, or one that was killed left its processes (their ids are in its demo.json); \
             stop it, or give another --address-block"
        }
        io::ErrorKind::AddrNotAvailable => {
            "the machine has no such loopback address: Linux has all of 127.0.0.0/8, other systems need them added to lo0"
        }
        _ => "check that this user may listen there",
    };
    anyhow::anyhow!("cannot use {address}: {error}; {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_demo_is_told_what_it_shares_with_the_first() {
        // Blocks that neither the demo nor any other test uses.
        let (block, next) = (244, 247);
        let (one, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let refused = |dir: &tempfile::TempDir, block| {
            Claim::take(&Layout::new(dir.path(), block)).expect_err("taken").to_string()
        };
        let first = Claim::take(&Layout::new(one.path(), block)).expect("free");
        assert!(refused(&one, next).contains("--state-dir"));
        let overlap = refused(&other, block + 2);
        assert!(overlap.contains("127.0.246.254") && overlap.contains("--address-block"), "{overlap}");
        drop(first);
        let stranger = TcpListener::bind("127.0.245.1:15053").expect("free");
        assert!(refused(&other, block).contains("127.0.245.1:15053"));
        drop(stranger);
        Claim::take(&Layout::new(other.path(), block)).expect("free again");
    }
}
