//! The formats of this version and of the one before, as files in `tests/fixtures`.
//!
//! Those of the version before were written by it, and have to be read. Those of this version have to be what it writes: if
//! a test says that they are not, the format has changed, and needs a protocol or a store format of its own
//! ([`crate::protocol`], [`crate::store`]). If that is what was meant, or a file is new, run the tests with
//! `WRITE_FIXTURES=1`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use isthmus_model::registry::Registry;
use isthmus_wire::peer::{RaftMessage, SnapshotPiece};
use openraft::RaftSnapshotBuilder;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftStateMachine};
use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::every;
use crate::protocol::{self, Spoken};
use crate::raft_types::{LogEntry, RegistryRaft};
use crate::snapshot::{Answer, Encoded, Head, Image};
use crate::store::{self, OpenError};
use crate::understood;

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Entries of [`every::entries`] that are in the snapshot.
const COMPACTED: usize = 20;

fn path(protocol: u32, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/protocol-{protocol}/{name}"))
}

fn kept(protocol: u32, name: &str) -> Vec<u8> {
    fs::read(path(protocol, name)).unwrap_or_else(|error| panic!("{name} of protocol {protocol}: {error}"))
}

/// Holds what this version writes against what was kept.
#[track_caller]
fn assert_kept(name: &str, written: &[u8]) {
    if std::env::var_os("WRITE_FIXTURES").is_some() {
        fs::write(path(protocol::LATEST, name), written).expect("written");
    }
    let kept = kept(protocol::LATEST, name);
    let (kept, written) = (String::from_utf8_lossy(&kept), String::from_utf8_lossy(written));
    assert_eq!(kept, written, "the format of {name} has changed: see the module's documentation");
}

/// A registry's file as text.
#[derive(Serialize, Deserialize)]
struct Dump {
    log: BTreeMap<u64, String>,
    meta: BTreeMap<String, String>,
}

impl Dump {
    fn of(path: &Path) -> Self {
        let database = Database::open(path).expect("opens");
        let transaction = database.begin_read().expect("begins");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        let (log, meta) = (transaction.open_table(LOG).expect("there"), transaction.open_table(META).expect("there"));
        let log = log.iter().expect("rows").map(|row| row.expect("a row"));
        let meta = meta.iter().expect("rows").map(|row| row.expect("a row"));
        Self {
            log: log.map(|(index, entry)| (index.value(), text(entry.value()))).collect(),
            meta: meta.map(|(name, record)| (name.value().to_owned(), text(record.value()))).collect(),
        }
    }

    fn restore(&self, path: &Path) {
        let database = Database::create(path).expect("creates");
        let transaction = database.begin_write().expect("begins");
        {
            let mut log = transaction.open_table(LOG).expect("opens");
            let mut meta = transaction.open_table(META).expect("opens");
            for (index, entry) in &self.log {
                log.insert(index, entry.as_bytes()).expect("inserted");
            }
            for (name, record) in &self.meta {
                meta.insert(name.as_str(), record.as_bytes()).expect("inserted");
            }
        }
        transaction.commit().expect("committed");
    }
}

fn head(image: &Encoded) -> Head {
    Head { vote: every::vote(), meta: every::meta(), len: image.bytes.len() as u64, sha256: image.digest }
}

fn message(protocol: u32, spoken: Option<Spoken>) -> RaftMessage {
    RaftMessage {
        format: protocol,
        body: serde_json::to_vec(&every::vote_request()).expect("serializable"),
        quorum_age_ms: Some(12),
        lineage: vec![7; 32],
        clock_ms: Some(1_800_000_000_000),
        spoken: spoken.map(|spoken| isthmus_wire::peer::Spoken { software: "0.1.0".to_owned(), ..spoken.tell() }),
    }
}

#[test]
fn messages_of_the_version_before_are_read() {
    let append: AppendEntriesRequest<RegistryRaft> = understood::read(&kept(2, "append.json")).expect("understood");
    assert_eq!(append.entries, every::entries());
    assert_eq!((append.vote, append.leader_commit), (every::vote(), every::append().leader_commit));
    let vote: VoteRequest<u64> = understood::read(&kept(2, "vote.json")).expect("understood");
    assert_eq!(vote, every::vote_request());
    let read = RaftMessage::decode(kept(2, "message.bin").as_slice()).expect("decodes");
    assert_eq!(read, message(2, None));
    let spoken = Spoken::told(read.spoken, read.format);
    assert_eq!(Spoken::own().common(&spoken), Some(2), "its sender is answered as it understands");
}

#[test]
fn an_entry_of_several_writes_is_what_it_was() {
    assert_kept("several.json", &serde_json::to_vec(&every::several()).expect("serializable"));
    let read: LogEntry = understood::read(&kept(protocol::LATEST, "several.json")).expect("understood");
    assert_eq!(read, every::several());
}

#[test]
fn messages_of_this_version_are_what_they_were() {
    assert_kept("append.json", &serde_json::to_vec(&every::append()).expect("serializable"));
    assert_kept("vote.json", &serde_json::to_vec(&every::vote_request()).expect("serializable"));
    let image = Encoded::of(&Image { meta: every::meta(), registry: every::registry().into() }).expect("serializable");
    assert_kept("snapshot.json", &image.bytes);
    assert_eq!(*image.read().expect("understood").registry, every::registry());
    let head = head(&image);
    let head_bytes = serde_json::to_vec(&head).expect("serializable");
    assert_kept("head.json", &head_bytes);
    assert_eq!(understood::read::<Head>(&head_bytes).expect("understood"), head);
    let answers = [Answer::Next(262_144), Answer::Settled(every::vote())];
    assert_kept("answers.json", &serde_json::to_vec(&answers).expect("serializable"));
    let message = message(protocol::LATEST, Some(Spoken::own()));
    assert_kept("message.bin", &message.encode_to_vec());
    let piece = SnapshotPiece { message: Some(message), offset: 262_144, data: b"bytes".to_vec() };
    assert_kept("piece.bin", &piece.encode_to_vec());
}

#[test]
fn fields_that_a_newer_version_adds_to_a_message_do_not_break_it() {
    // Field 99, a string; and one within what is spoken.
    let mut newer = message(protocol::LATEST, Some(Spoken::own())).encode_to_vec();
    newer.extend_from_slice(&[0x9a, 0x06, 3, b'n', b'e', b'w']);
    let read = RaftMessage::decode(newer.as_slice()).expect("decodes");
    assert_eq!(read, message(protocol::LATEST, Some(Spoken::own())));
}

#[test]
fn an_entry_of_a_newer_version_is_refused_and_never_skipped() {
    let known = String::from_utf8(kept(protocol::LATEST, "append.json")).expect("text");
    for (newer, what) in [
        (known.replace(r#""kind":"drain""#, r#""kind":"evacuate""#), "unknown variant `evacuate`"),
        (known.replace(r#""draining":true"#, r#""draining":true,"percent":30"#), "percent`"),
        (known.replace(r#""terminated":true"#, r#""terminated":true,"weight":5"#), "weight`"),
        (known.replace(r#""payload":"Blank""#, r#""payload":"Barrier""#), "unknown variant `Barrier`"),
    ] {
        assert_ne!(newer, known);
        let read = understood::read::<AppendEntriesRequest<RegistryRaft>>(newer.as_bytes());
        let refused = read.expect_err(what).to_string();
        assert!(refused.contains(what) && refused.contains("upgrade this gateway"), "{refused}");
    }
}

async fn state(path: &Path) -> (Registry, Vec<u64>) {
    let (mut log, machine) = store::open(path, &store::Disk::Real).expect("opens");
    assert_eq!(log.read_vote().await.expect("readable"), Some(every::vote()));
    assert_eq!(log.read_committed().await.expect("readable"), Some(every::log_id(22)));
    let entries = log.try_get_log_entries(..).await.expect("readable");
    assert_eq!(entries, every::entries()[COMPACTED..]);
    let registry = machine.watch().borrow().as_ref().clone();
    (registry, entries.iter().map(|entry| entry.log_id.index).collect())
}

fn compacted() -> Registry {
    every::registry_after(&every::entries()[..COMPACTED])
}

#[tokio::test]
async fn a_file_of_the_version_before_is_taken_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("registry.redb");
    let before: Dump = serde_json::from_slice(&kept(2, "store.json")).expect("a dump");
    before.restore(&path);
    for start in ["taken over", "and stays so"] {
        let (registry, log) = state(&path).await;
        assert_eq!(registry, compacted(), "{start}");
        assert_eq!(log.first(), Some(&(COMPACTED as u64 + 1)), "{start}");
    }
    let after = Dump::of(&path);
    assert_eq!((after.meta["format"].as_str(), &after.log), ("3", &before.log));
    assert!(after.meta["snapshot"].len() < before.meta["snapshot"].len() / 2, "it lies in pieces");
    let survey = store::survey(&path).expect("readable");
    assert_eq!((survey.registry, survey.last.1), (every::registry(), every::entries().len() as u64));
}

#[tokio::test]
async fn a_file_of_this_version_is_what_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("registry.redb");
    {
        let (mut log, mut machine) = store::open(&path, &store::Disk::Real).expect("opens");
        machine.apply(every::entries()[..COMPACTED].to_vec()).await.expect("applied");
        machine.get_snapshot_builder().await.build_snapshot().await.expect("built");
        log.save_vote(&every::vote()).await.expect("saved");
        log.purge(every::log_id(COMPACTED as u64)).await.expect("purged");
        log.save_committed(Some(every::log_id(22))).await.expect("saved");
    }
    let mut dump = Dump::of(&path);
    dump.meta.remove("id");
    assert_kept("store.json", &serde_json::to_vec_pretty(&dump).expect("serializable"));
}

#[tokio::test]
async fn a_file_with_what_only_another_version_knows_is_refused_with_what_to_do() {
    let dump = || serde_json::from_slice::<Dump>(&kept(2, "store.json")).expect("a dump");
    let refusal = |dump: &Dump| {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("registry.redb");
        dump.restore(&path);
        let before = Dump::of(&path);
        let refusal = store::open(&path, &store::Disk::Real).map(|_| ()).expect_err("refused");
        if matches!(refusal, OpenError::TooNew { .. } | OpenError::TooOld { .. }) {
            assert_eq!(Dump::of(&path).meta, before.meta, "it is left alone");
        }
        refusal.to_string()
    };
    for (format, advice) in [("1", "start the version between them once"), ("4", "use the version that wrote it")] {
        let mut other = dump();
        other.meta.insert("format".to_owned(), format.to_owned());
        assert!(refusal(&other).contains(advice), "{}", refusal(&other));
    }
    // Written by a newer version that kept the layout.
    let mut newer = dump();
    let entry = newer.log.values_mut().next().expect("an entry");
    *entry = entry.replacen(r#""kind":"#, r#""urgent":true,"kind":"#, 1);
    assert!(refusal(&newer).contains("`payload.Normal.command.urgent`"), "{}", refusal(&newer));
    let mut newer = dump();
    let snapshot = newer.meta.get_mut("snapshot").expect("one");
    *snapshot = snapshot.replacen(r#""registry":{"#, r#""registry":{"quotas":{"us-east":5},"#, 1);
    assert!(refusal(&newer).contains("`registry.quotas`"), "{}", refusal(&newer));
}

#[tokio::test]
async fn a_snapshot_that_the_disk_changed_is_an_error() {
    const PIECES: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("snapshot");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("registry.redb");
    {
        let (_, mut machine) = store::open(&path, &store::Disk::Real).expect("opens");
        machine.apply(every::entries()).await.expect("applied");
        machine.get_snapshot_builder().await.build_snapshot().await.expect("built");
    }
    {
        let database = Database::open(&path).expect("opens");
        let transaction = database.begin_write().expect("begins");
        {
            let mut pieces = transaction.open_table(PIECES).expect("opens");
            let piece = pieces.get((0, 0)).expect("readable").expect("there").value().to_vec();
            // Still JSON, and a registry: another port.
            let changed = String::from_utf8(piece).expect("text").replacen("5432", "5433", 1);
            pieces.insert((0, 0), changed.as_bytes()).expect("inserted");
        }
        transaction.commit().expect("committed");
    }
    let refused = store::open(&path, &store::Disk::Real).map(|_| ()).expect_err("damaged").to_string();
    assert!(refused.contains("the snapshot in the registry's file is damaged"), "{refused}");
}
