use tokio::time::timeout;

use super::*;

/// Far over anything that is waited for.
const DEADLINE: Duration = Duration::from_secs(20);

async fn wait_for(source: &FileSource, what: impl Fn(&SourceState) -> bool) -> Arc<SourceState> {
    let mut state = source.state();
    let found = timeout(DEADLINE, state.wait_for(|state| what(state))).await;
    found.expect("in time").expect("the source runs").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_inotify_the_directory_is_polled_and_the_reason_told() {
    let directory = tempfile::tempdir().expect("created");
    let (_, happened) = watch::channel(());
    let path = directory.path().to_owned();
    let source =
        FileSource::start_with(path, Rules::default(), Watches::unavailable(), happened).await.expect("started");
    let first = wait_for(&source, |_| true).await;
    assert!(first.problems[0].reason.contains("max_user_watches"), "{:?}", first.problems);
    let manifest = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n";
    std::fs::write(directory.path().join("a.yaml"), manifest).expect("written");
    wait_for(&source, |state| state.catalog.services.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watch_ends_with_the_source() {
    let directory = tempfile::tempdir().expect("created");
    let source = FileSource::start(directory.path(), Rules::default()).await.expect("started");
    let mut state = source.state();
    state.mark_unchanged();
    drop(source);
    let ended = timeout(DEADLINE, state.changed()).await.expect("in time");
    assert!(ended.is_err(), "the channel closes");
}

#[test]
fn own_reads_are_no_change() {
    assert!(!is_change(EventKind::Access(AccessKind::Open(AccessMode::Any))));
    assert!(!is_change(EventKind::Access(AccessKind::Close(AccessMode::Read))));
    assert!(is_change(EventKind::Access(AccessKind::Close(AccessMode::Write))));
    assert!(is_change(EventKind::Other), "a queue overflow is a reason to look");
}
