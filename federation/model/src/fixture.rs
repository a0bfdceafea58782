//! Members and their papers, made up, for tests of this crate and of those above it.

use std::cell::Cell;

use crate::blob::Blob;
use crate::command::{Command, Introduction};
use crate::name::FederationDomain;
use crate::registry::node::{Certificates, Node, NodeId, Pending, Requests, SealingKey};
use crate::registry::token::{Digest, Grant, Invitation};
use crate::registry::trust::{Custody, Envelope, Envelopes, Root};
use crate::time::UnixMillis;

thread_local! {
    static TOKENS_NEVER_WEAR_OUT: Cell<bool> = const { Cell::new(false) };
}

/// A known bug, for tests that have to notice it: on this thread, a token admits as many as come.
pub fn set_tokens_never_wear_out(broken: bool) {
    TOKENS_NEVER_WEAR_OUT.set(broken);
}

pub(crate) fn tokens_never_wear_out() -> bool {
    TOKENS_NEVER_WEAR_OUT.get()
}

/// The node id of the founder.
pub const FOUNDER: NodeId = 1;

/// Requests for two keys that `key` tells apart from all others.
#[must_use]
pub fn requests(key: u8) -> Requests {
    Requests {
        gateway_key: Digest([key; 32]),
        authority_key: Digest([!key; 32]),
        gateway: Blob(vec![1, key]),
        authority: Blob(vec![2, key]),
    }
}

/// A gateway on 127.0.11.`key`, with keys of its own.
///
/// # Panics
/// When a name is not valid.
#[must_use]
pub fn introduction(cluster: &str, gateway: &str, locality: &str, key: u8) -> Introduction {
    Introduction {
        cluster: cluster.parse().expect("a cluster name"),
        gateway: gateway.parse().expect("a label"),
        locality: locality.parse().expect("a locality"),
        east_west: ([127, 0, 11, key], 15443).into(),
        sealing_key: SealingKey(Digest([key ^ 0x55; 32])),
        requests: requests(key),
    }
}

/// What the root of the key `root` signed; valid until the end of time.
#[must_use]
pub fn certificates(root: u8) -> Certificates {
    Certificates {
        gateway: Blob(vec![3, root]),
        intermediate: Blob(vec![4, root]),
        root: Digest([root; 32]),
        not_after: UnixMillis(u64::MAX),
    }
}

/// An envelope for each of `keepers`.
#[must_use]
pub fn envelopes(keepers: impl IntoIterator<Item = NodeId>) -> Envelopes {
    let sealed = |keeper: NodeId| (keeper, Envelope { encapsulated: Blob(vec![5]), ciphertext: Blob(vec![6]) });
    Envelopes(keepers.into_iter().map(sealed).collect())
}

/// A root of the key `key`, sealed to `keepers`.
#[must_use]
pub fn root(key: u8, keepers: impl IntoIterator<Item = NodeId>) -> Root {
    let custody = Custody::Sealed { envelopes: envelopes(keepers) };
    Root { certificate: Blob(vec![0xde, 0xad, key]), key: Digest([key; 32]), custody }
}

/// The key of the first root.
pub const ROOT: u8 = 0xaa;

/// The founding, by `founder`, which keeps the root.
#[must_use]
pub fn found(federation: FederationDomain, founder: Introduction) -> Command {
    Command::Found { federation, root: root(ROOT, [FOUNDER]), founder, certificates: certificates(ROOT) }
}

/// The root's answer to the requests of the gateway that `requests(key)` asks for.
#[must_use]
pub fn issue(node: NodeId, key: u8, root: u8) -> Command {
    Command::Issue { node, authority_key: Digest([!key; 32]), certificates: certificates(root) }
}

/// A token's grant: one gateway of `cluster`.
///
/// # Panics
/// When the name is not valid.
#[must_use]
pub fn join(cluster: &str) -> Grant {
    let cluster = Some(cluster.parse().expect("a cluster name"));
    Grant::Join(Invitation { cluster, region: None, from: None, uses: 1 })
}

/// A certified member.
#[must_use]
pub fn member(cluster: &str, locality: &str, key: u8) -> Node {
    let introduction = introduction(cluster, "gw-1", locality, key);
    let at = UnixMillis(0);
    let mut node = Node::admitted(&introduction, at);
    node.pending = None;
    node.certify(Pending { requests: introduction.requests, since: at }, certificates(ROOT), at);
    node
}
