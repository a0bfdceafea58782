//! One of everything that replicas send each other and keep: the same in each version's fixtures.

use std::collections::{BTreeMap, BTreeSet};

use crate::raft_types::{Batch, LogEntry, LogId, Peer, PeerAddress, RegistryRaft, StoredMembership};
use isthmus_model::catalog::{AppProtocol, Export, ServicePort};
use isthmus_model::command::{Command, Entry};
use isthmus_model::fixture;
use isthmus_model::registry::Registry;
use isthmus_model::registry::token::{Digest, Grant, Invitation, TokenId};
use isthmus_model::registry::trust::Phase;
use isthmus_model::time::UnixMillis;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use openraft::{CommittedLeaderId, EntryPayload, Membership, SnapshotMeta, Vote};

fn valid<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is not valid"))
}

/// Which kind it is. Whoever adds one adds it to [`commands`] too.
fn kind(command: &Command) -> usize {
    match command {
        Command::Found { .. } => 0,
        Command::MintToken { .. } => 1,
        Command::RevokeToken { .. } => 2,
        Command::RedeemToken { .. } => 3,
        Command::RequestCertificates { .. } => 4,
        Command::Issue { .. } => 5,
        Command::Reseal { .. } => 6,
        Command::StartRotation { .. } => 7,
        Command::Acknowledge { .. } => 8,
        Command::AdvanceRotation { .. } => 9,
        Command::AbortRotation => 10,
        Command::UpdateNode { .. } => 11,
        Command::Drain { .. } => 12,
        Command::Leave { .. } => 13,
        Command::Fence { .. } => 14,
        Command::Unfence { .. } => 15,
        Command::SetAdministrator { .. } => 16,
        Command::SetExport { .. } => 17,
        Command::WithdrawExport { .. } => 18,
    }
}

const KINDS: usize = 19;

fn export() -> Export {
    let named = ServicePort { name: Some(valid("web")), port: 9080, protocol: AppProtocol::Http };
    let bare = ServicePort { name: None, port: 5432, protocol: AppProtocol::Tcp };
    Export { ports: vec![named, bare], identities: BTreeSet::from([valid("shop/reviews")]), terminated: true }
}

fn tokens() -> Vec<Command> {
    let invitation =
        Invitation { cluster: None, region: Some(valid("us-west-1")), from: Some(valid("10.0.0.0/8")), uses: 3 };
    let workload = Grant::Workload { cluster: valid("us-east"), workload: valid("shop/reviews") };
    let grants = [fixture::join("us-west"), Grant::Join(invitation), workload];
    let mint = |(number, grant): (u8, Grant)| Command::MintToken {
        id: TokenId::from_random([number; 8]),
        secret_hash: Digest([number; 32]),
        grant,
        expires_at: UnixMillis(1_900_000_000_000),
        gateway: valid("gw-1"),
        root: Digest([fixture::ROOT; 32]),
    };
    (1..).zip(grants).map(mint).collect()
}

/// Commands of every kind, in an order in which the registry takes them.
fn commands() -> Vec<Command> {
    let west = || fixture::introduction("us-west", "gw-1", "us-west-1/a", 2);
    let exports = [
        Command::SetExport { service: valid("shop/reviews"), export: export() },
        Command::SetExport { service: valid("shop/ratings"), export: export() },
        Command::WithdrawExport { service: valid("shop/ratings") },
    ];
    let root = Digest([0xbb; 32]);
    let others = [
        Command::RevokeToken { id: TokenId::from_random([3; 8]) },
        Command::RedeemToken {
            id: TokenId::from_random([1; 8]),
            secret_hash: Digest([1; 32]),
            newcomer: west(),
            from: Some(valid("192.0.2.7")),
        },
        fixture::issue(2, 2, fixture::ROOT),
        Command::RequestCertificates { node: 1, requests: fixture::requests(3) },
        Command::Reseal { root: Digest([fixture::ROOT; 32]), envelopes: fixture::envelopes([1, 2]) },
        Command::UpdateNode {
            node: 1,
            east_west: valid("[2001:db8::1]:15443"),
            control: Some(valid("10.0.0.5:15012")),
            locality: valid("us-east-1/b"),
        },
        Command::SetAdministrator { cluster: valid("us-west"), administrator: true },
        Command::Drain { cluster: valid("us-west"), draining: true },
        Command::StartRotation { root: fixture::root(0xbb, [1]) },
        Command::Acknowledge { node: 1, root, phase: Phase::Distribute },
        Command::AdvanceRotation { root, from: Phase::Distribute },
        Command::AbortRotation,
        Command::Fence { cluster: valid("us-west"), why: "its disk was sold".to_owned() },
        Command::Unfence { cluster: valid("us-west") },
        Command::Leave { cluster: valid("us-west") },
    ];
    let founder = fixture::introduction("us-east", "gw-1", "us-east-1/a", 1);
    let mut all = vec![fixture::found(valid("acme.mesh"), founder)];
    all.extend(tokens().into_iter().chain(exports).chain(others));
    let kinds: BTreeSet<usize> = all.iter().map(kind).collect();
    assert_eq!(kinds.len(), KINDS, "there is one of every kind");
    all
}

pub(super) fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(3, 1), index)
}

fn membership() -> Membership<u64, Peer> {
    let peer = |cluster: &str, port: u16| {
        let east_west = ([10, 0, 0, 1], port).into();
        Peer(Some(PeerAddress { cluster: valid(cluster), gateway: valid("gw-1"), east_west }))
    };
    Membership::new(
        vec![BTreeSet::from([1])],
        BTreeMap::from([(1, peer("us-east", 15_443)), (2, peer("us-west", 15_444))]),
    )
}

/// A log with entries of every kind.
pub(super) fn entries() -> Vec<LogEntry> {
    let normal = |(number, command): (u64, Command)| {
        let at = UnixMillis(1_800_000_000_000 + number);
        EntryPayload::Normal(Entry { origin: valid("us-east"), at, command }.into())
    };
    let own = [EntryPayload::Blank, EntryPayload::Membership(membership())];
    let payloads = own.into_iter().chain((0..).zip(commands()).map(normal));
    (1..).zip(payloads).map(|(index, payload)| LogEntry { log_id: log_id(index), payload }).collect()
}

/// An entry of several writes.
pub(super) fn several() -> LogEntry {
    let at = UnixMillis(1_800_000_000_000);
    let write = |command| Entry { origin: valid("us-west"), at, command };
    let batch = Batch::new(commands().into_iter().rev().take(2).map(write).collect());
    LogEntry { log_id: log_id(1), payload: EntryPayload::Normal(batch) }
}

/// The registry after all of them.
pub(super) fn registry() -> Registry {
    registry_after(&entries())
}

pub(super) fn registry_after(entries: &[LogEntry]) -> Registry {
    let mut registry = Registry::default();
    for entry in entries {
        if let EntryPayload::Normal(batch) = &entry.payload {
            for entry in batch.entries() {
                // Some are refused, as they may be.
                let _ = registry.apply(entry);
            }
        }
    }
    registry
}

pub(super) fn vote() -> Vote<u64> {
    Vote::new_committed(3, 1)
}

pub(super) fn append() -> AppendEntriesRequest<RegistryRaft> {
    AppendEntriesRequest {
        vote: vote(),
        prev_log_id: Some(log_id(0)),
        entries: entries(),
        leader_commit: Some(log_id(2)),
    }
}

pub(super) fn vote_request() -> VoteRequest<u64> {
    VoteRequest { vote: Vote::new(4, 2), last_log_id: Some(log_id(7)) }
}

pub(super) fn meta() -> SnapshotMeta<u64, Peer> {
    let last = entries().last().map(|entry| entry.log_id);
    let last_membership = StoredMembership::new(Some(log_id(2)), membership());
    SnapshotMeta { last_log_id: last, last_membership, snapshot_id: "3-1-27".to_owned() }
}
