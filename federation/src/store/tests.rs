//! The Raft library's own battery over this store, and what must survive a restart.

use std::sync::Arc;

use isthmus_model::command::Entry;
use isthmus_model::fixture;
use isthmus_model::time::UnixMillis;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload, RaftSnapshotBuilder};
use tempfile::TempDir;

use super::*;
use crate::raft_types::{Applied, LogEntry, LogId, RegistryRaft};

struct FreshStore;

impl StoreBuilder<RegistryRaft, LogStore, StateMachine, TempDir> for FreshStore {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (log, machine) = open(&dir.path().join("registry.redb"), &Disk::Real).expect("opens");
        Ok((dir, log, machine))
    }
}

#[test]
fn the_raft_librarys_own_suite_passes() {
    Suite::test_all(FreshStore).expect("the suite passes");
}

#[test]
fn the_registrys_file_is_its_owners_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("registry.redb");
    let mode = || fs::metadata(&path).expect("there").permissions().mode() & 0o777;
    drop(open(&path, &Disk::Real).expect("opens"));
    assert_eq!(mode(), 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("as an earlier version made it");
    drop(open(&path, &Disk::Real).expect("opens again"));
    assert_eq!(mode(), 0o600);
}

fn founding(index: u64) -> LogEntry {
    let founder = fixture::introduction("us-east", "gw-1", "us-east-1", 1);
    let command = fixture::found("acme.mesh".parse().expect("valid"), founder);
    let entry = Entry { origin: "us-east".parse().expect("valid"), at: UnixMillis(1), command };
    LogEntry { log_id: LogId::new(CommittedLeaderId::new(1, 1), index), payload: EntryPayload::Normal(entry.into()) }
}

#[tokio::test]
async fn a_snapshot_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("registry.redb");
    let registry = {
        let (_, mut machine) = open(&path, &Disk::Real).expect("opens");
        let applied = machine.apply([founding(1)]).await.expect("applies");
        assert!(matches!(applied[..], [Applied::Each(_)]));
        let mut builder = machine.get_snapshot_builder().await;
        builder.build_snapshot().await.expect("builds");
        Arc::clone(&machine.watch().borrow())
    };
    let (_, mut machine) = open(&path, &Disk::Real).expect("opens again");
    assert_eq!(*machine.watch().borrow(), registry);
    let (last_applied, _) = machine.applied_state().await.expect("reads");
    assert_eq!(last_applied.map(|id| id.index), Some(1));
}

#[tokio::test]
async fn a_file_of_another_format_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("registry.redb");
    {
        let database = Database::create(&path).expect("creates");
        let transaction = database.begin_write().expect("begins");
        transaction.open_table(META).expect("opens").insert("format", b"99".as_slice()).expect("inserts");
        transaction.commit().expect("commits");
    }
    let refusal = open(&path, &Disk::Real).map(|_| ()).expect_err("a future format");
    assert!(matches!(&refusal, OpenError::TooNew { found, .. } if found == "99"), "{refusal}");
}

#[test]
fn a_file_in_use_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("registry.redb");
    let _held = open(&path, &Disk::Real).expect("opens");
    assert!(matches!(open(&path, &Disk::Real).map(|_| ()), Err(OpenError::InUse { .. })));
}

#[test]
fn a_crash_while_the_file_is_made_is_forgotten_at_the_next_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("registry.redb");
    // What redb leaves when it is killed before it has written its magic number.
    std::fs::write(path.with_extension("redb.new"), vec![0; 4096]).expect("written");
    drop(open(&path, &Disk::Real).expect("opens"));
    assert!(path.exists() && !path.with_extension("redb.new").exists());
    drop(open(&path, &Disk::Real).expect("opens again"));
}

/// A file with some entries, and its bytes.
async fn written(path: &Path) -> Vec<u8> {
    {
        let (mut log, mut machine) = open(path, &Disk::Real).expect("opens");
        machine.apply([founding(1)]).await.expect("applies");
        machine.get_snapshot_builder().await.build_snapshot().await.expect("builds");
        log.save_vote(&openraft::Vote::new(1, 1)).await.expect("saved");
    }
    fs::read(path).expect("there")
}

#[tokio::test]
async fn a_file_that_the_disk_damaged_is_an_error_or_what_was_written_and_never_a_panic() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("registry.redb");
    let whole = written(&path).await;
    let state = async || {
        let (mut log, machine) = open(&path, &Disk::Real)?;
        let vote = log.read_vote().await.expect("readable");
        let registry = machine.watch().borrow().as_ref().clone();
        Ok::<_, OpenError>((registry, vote))
    };
    let expected = state().await.expect("whole");
    assert!(expected.0.federation().is_some() && expected.1.is_some());
    let mut refused = 0;
    for place in (0..whole.len()).step_by(509) {
        let mut damaged = whole.clone();
        for byte in damaged.iter_mut().skip(place).take(32) {
            *byte ^= 0x5a;
        }
        fs::write(&path, damaged).expect("written");
        match state().await {
            Ok(found) => assert_eq!(found, expected, "damaged at {place}"),
            Err(OpenError::Damaged { .. }) => refused += 1,
            Err(error) => panic!("damaged at {place}: {error}"),
        }
    }
    assert!(refused > 0);
    for len in [1, 100, 4096, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..len]).expect("written");
        assert!(matches!(state().await, Err(OpenError::Damaged { .. })), "cut to {len}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_to_the_log_does_not_wait_for_a_snapshot_that_is_written() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut log, _machine) = open(&dir.path().join("registry.redb"), &Disk::Real).expect("opens");
    let snapshots = snapshot::SnapshotFile::new(log.file().clone());
    let encoded = crate::snapshot::Encoded::new(vec![b'x'; 48 << 20]);
    let begun = std::time::Instant::now();
    let writing = tokio::task::spawn_blocking(move || {
        snapshots.write(&openraft::SnapshotMeta::default(), &encoded).expect("written");
        (begun.elapsed(), snapshots)
    });
    let (mut writes, mut slowest) = (0, std::time::Duration::ZERO);
    while !writing.is_finished() {
        let started = std::time::Instant::now();
        log.save_vote(&openraft::Vote::new(writes, 1)).await.expect("saved");
        (writes, slowest) = (writes + 1, slowest.max(started.elapsed()));
    }
    let (whole, snapshots) = writing.await.expect("no panic");
    println!("48 MiB of snapshot in {whole:?}; meanwhile {writes} writes, {slowest:?} at most");
    assert!(writes > 4 && slowest < whole / 2, "{writes} writes, {slowest:?} at most, {whole:?} for the snapshot");
    let (_, read) = snapshots.read().expect("readable").expect("there");
    assert_eq!(read.bytes.len(), 48 << 20);
}

#[tokio::test]
async fn a_snapshot_that_was_built_while_a_later_one_was_installed_does_not_replace_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("registry.redb");
    let (_, mut machine) = open(&path, &Disk::Real).expect("opens");
    machine.apply([founding(1)]).await.expect("applies");
    let mut early = machine.get_snapshot_builder().await;
    machine.apply([founding(2)]).await.expect("applies");
    let late = machine.get_snapshot_builder().await.build_snapshot().await.expect("builds");
    early.build_snapshot().await.expect("builds");
    let current = machine.get_current_snapshot().await.expect("reads").expect("there");
    assert_eq!((current.meta, current.snapshot.digest), (late.meta, late.snapshot.digest));
}

#[tokio::test]
async fn a_log_that_grows_takes_the_disk_and_not_memory() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (log, _machine) = open(&dir.path().join("registry.redb"), &Disk::Real).expect("opens");
    let file = log.file();
    let entry = vec![0; CACHE_BYTES_MAX / 64];
    for index in 0..256 {
        file.write(|transaction| Ok(transaction.open_table(LOG)?.insert(index, entry.as_slice()).map(drop)?))
            .expect("written");
    }
    let used = file.database.cache_stats().used_bytes();
    assert!((1..=CACHE_BYTES_MAX).contains(&used), "{used} bytes for four times as many");
}

#[tokio::test]
async fn a_batch_of_entries_fits_a_message_and_is_never_empty() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut log, _machine) = open(&dir.path().join("registry.redb"), &Disk::Real).expect("opens");
    let why = "x".repeat(100 << 10);
    log.file()
        .write(|transaction| {
            let mut table = transaction.open_table(LOG)?;
            for index in 1..=10_u64 {
                let command = isthmus_model::command::Command::Fence {
                    cluster: "us-west".parse().expect("valid"),
                    why: if index == 5 { why.repeat(10) } else { why.clone() },
                };
                let entry = Entry { origin: "us-east".parse().expect("valid"), at: UnixMillis(1), command };
                let log_id = LogId::new(CommittedLeaderId::new(1, 1), index);
                let entry = LogEntry { log_id, payload: EntryPayload::Normal(entry.into()) };
                table.insert(index, serde_json::to_vec(&entry).expect("serializable").as_slice())?;
            }
            Ok(())
        })
        .expect("written");
    let mut batches = Vec::new();
    let mut next = 1;
    while next <= 10 {
        let batch = openraft::RaftLogReader::limited_get_log_entries(&mut log, next, 11).await.expect("readable");
        next = batch.last().expect("never empty").log_id.index + 1;
        batches.push(batch.len());
    }
    assert_eq!(batches, [2, 2, 1, 2, 2, 1]);
}
