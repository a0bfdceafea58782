//! A directory of manifests, edited while it is watched: as by hand, by tools, by the kubelet, and by someone
//! who means harm. Nothing here sleeps; every step waits for the state that it leads to.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_model::catalog::LocalService;
use isthmus_model::name::ServiceName;
use isthmus_sources::{FileSource, Kind, Rules, Severity, SourceError, SourceState};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

/// Far over anything that is waited for.
const DEADLINE: Duration = Duration::from_secs(20);

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata:
  name: reviews
  namespace: shop
spec:
  ports:
  - name: http
    port: 9080
";
const SLICE: &str = "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: reviews-1
  namespace: shop
  labels:
    kubernetes.io/service-name: reviews
  annotations:
    isthmus.dev/sidecar-port: \"15006\"
    isthmus.dev/service-account: reviews
addressType: IPv4
ports:
- name: http
  port: 9080
endpoints:
- addresses: [127.0.11.21]
";
const EXPORT: &str = "apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata:
  name: reviews
  namespace: shop
";

struct Live {
    directory: TempDir,
    _source: FileSource,
    state: watch::Receiver<Arc<SourceState>>,
}

impl Live {
    /// Starts on a directory with these files.
    async fn start(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("created");
        for (name, text) in files {
            fs::write(directory.path().join(name), text).expect("written");
        }
        Self::watch(directory).await
    }

    async fn watch(directory: TempDir) -> Self {
        let options = Rules { allow_loopback: true, ..Rules::default() };
        let source = FileSource::start(directory.path(), options).await.expect("started");
        let state = source.state();
        Self { directory, _source: source, state }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("removed");
    }

    fn now(&self) -> Arc<SourceState> {
        self.state.borrow().clone()
    }

    async fn wait_for(&mut self, what: impl Fn(&SourceState) -> bool) -> Arc<SourceState> {
        let found = timeout(DEADLINE, self.state.wait_for(|state| what(state))).await;
        let found = found.map(|state| state.expect("the source runs").clone());
        found.unwrap_or_else(|_| unreachable!("waited in vain; the state is {:?}", self.now()))
    }

    async fn wait_for_problem(&mut self, text: &str) -> Arc<SourceState> {
        self.wait_for(|state| state.problems.iter().any(|problem| problem.to_string().contains(text))).await
    }
}

fn service<'a>(state: &'a SourceState, name: &str) -> Option<&'a LocalService> {
    state.catalog.services.get(&name.parse::<ServiceName>().expect("valid"))
}

fn exported(state: &SourceState) -> bool {
    service(state, "shop/reviews").is_some_and(|reviews| reviews.exported)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_state_is_complete() {
    let live = Live::start(&[("reviews.yaml", &format!("{SERVICE}---\n{SLICE}---\n{EXPORT}"))]).await;
    let state = live.now();
    assert!(state.problems.is_empty(), "{:?}", state.problems);
    assert_eq!(state.files, 1);
    let reviews = service(&state, "shop/reviews").expect("known");
    assert!(reviews.exported);
    assert_eq!(reviews.endpoints[0].sidecar_port, Some(15006));
    assert_eq!(reviews.endpoints[0].workload.to_string(), "shop/reviews");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_comes_and_goes_with_its_file() {
    let mut live = Live::start(&[("service.yaml", SERVICE)]).await;
    assert!(!exported(&live.now()));
    for _ in 0..3 {
        live.write("export.yaml", EXPORT);
        live.wait_for(exported).await;
        live.remove("export.yaml");
        live.wait_for(|state| !exported(state)).await;
    }
    assert!(live.now().problems.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_before_its_service_is_reported_until_the_service_is_there() {
    let mut live = Live::start(&[("export.yaml", EXPORT)]).await;
    let problem = live.now().problems[0].clone();
    assert_eq!((problem.file.as_deref(), problem.line), (Some("export.yaml"), Some(4)));
    assert_eq!(problem.object.map(|object| object.kind), Some(Kind::ServiceExport));
    assert!(problem.reason.contains("no Service of this name"), "{}", problem.reason);
    live.write("service.yaml", SERVICE);
    let state = live.wait_for(exported).await;
    assert!(state.problems.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_yaml_is_reported_with_file_and_line_and_the_last_good_state_stays() {
    let mut live = Live::start(&[("all.yaml", &format!("{SERVICE}---\n{EXPORT}"))]).await;
    let good = live.now().catalog.clone();
    live.write("all.yaml", &format!("{SERVICE}---\n{}", EXPORT.replace("metadata:", "metadata: {")));
    let state = live.wait_for_problem("not valid YAML").await;
    let problem = &state.problems[0];
    assert_eq!(problem.file.as_deref(), Some("all.yaml"));
    assert!(problem.line.is_some_and(|line| (11..=15).contains(&line)), "{problem}");
    assert_eq!(problem.severity, Severity::Error);
    assert!(Arc::ptr_eq(&good, &state.catalog), "the very same catalog");
    live.write("all.yaml", SERVICE);
    let state = live.wait_for(|state| !exported(state)).await;
    assert!(state.problems.is_empty(), "mended, and the export cleanly removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_object_keeps_its_last_good_state() {
    let mut live = Live::start(&[("service.yaml", SERVICE), ("slice.yaml", SLICE)]).await;
    let good = live.now().catalog.clone();
    live.write("slice.yaml", &SLICE.replace("127.0.11.21", "169.254.169.254"));
    let state = live.wait_for_problem("link-local").await;
    assert_eq!(state.problems[0].line, Some(16));
    assert_eq!(
        state.problems[0].object.as_ref().map(ToString::to_string).as_deref(),
        Some("EndpointSlice shop/reviews-1")
    );
    assert_eq!(state.catalog, good);
    live.write("slice.yaml", &SLICE.replace("127.0.11.21", "127.0.11.22"));
    live.wait_for(|state| state.problems.is_empty() && state.catalog != good).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_in_an_earlier_file_leaves_what_is_in_force() {
    let port = |state: &SourceState| service(state, "shop/reviews").map(|reviews| reviews.ports[0].port);
    let mut live = Live::start(&[("b.yaml", SERVICE)]).await;
    live.write("a.yaml", &SERVICE.replace("9080", "9090"));
    let state = live.wait_for_problem("a.yaml:4: Service shop/reviews: it is in b.yaml:4 too").await;
    assert_eq!(port(&state), Some(9080));
    live.remove("b.yaml");
    let state = live.wait_for(|state| state.problems.is_empty()).await;
    assert_eq!(port(&state), Some(9090));
    live.write("b.yaml", SERVICE);
    live.wait_for_problem("b.yaml:4: Service shop/reviews: it is in a.yaml:4 too").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_into_place_is_one_step() {
    let mut live = Live::start(&[("reviews.yaml", SERVICE)]).await;
    for port in 9081..9090 {
        live.write(".reviews.yaml.tmp", &SERVICE.replace("9080", &port.to_string()));
        fs::rename(live.path(".reviews.yaml.tmp"), live.path("reviews.yaml")).expect("renamed");
        let state = live.wait_for(|state| {
            assert!(service(state, "shop/reviews").is_some(), "never missing in between");
            service(state, "shop/reviews").is_some_and(|reviews| reviews.ports[0].port == port)
        });
        assert!(state.await.problems.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_written_file_takes_nothing_away() {
    let mut live = Live::start(&[("all.yaml", &format!("{SERVICE}---\n{EXPORT}"))]).await;
    // Truncated, then half of it, as a slow writer leaves it.
    live.write("all.yaml", "");
    live.write("all.yaml", &SERVICE[..SERVICE.len() / 2]);
    live.write("marker.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: marker}\nspec: {ports: [{port: 1}]}\n");
    live.wait_for(|state| {
        assert!(exported(state), "last good state");
        service(state, "default/marker").is_some()
    })
    .await;
    live.write("all.yaml", &format!("{}---\n{EXPORT}", SERVICE.replace("9080", "9999")));
    let state = live.wait_for(|state| {
        assert!(exported(state), "last good state");
        service(state, "shop/reviews").is_some_and(|reviews| reviews.ports[0].port == 9999)
    });
    assert!(state.await.problems.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn new_subdirectories_are_watched_too() {
    let mut live = Live::start(&[]).await;
    fs::create_dir_all(live.path("team/shop")).expect("created");
    live.write("team/shop/service.yaml", SERVICE);
    live.wait_for(|state| service(state, "shop/reviews").is_some()).await;
    live.write("team/shop/export.yaml", EXPORT);
    live.wait_for(exported).await;
    fs::remove_dir_all(live.path("team")).expect("removed");
    live.wait_for(|state| state.catalog.services.is_empty()).await;
    fs::create_dir_all(live.path("team/shop")).expect("created again");
    live.write("team/shop/service.yaml", SERVICE);
    live.wait_for(|state| service(state, "shop/reviews").is_some()).await;
}

/// The kubelet writes a new directory and swaps one symbolic link.
#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_swap_is_followed() {
    let directory = tempfile::tempdir().expect("created");
    let version = |name: &str, text: &str| {
        fs::create_dir(directory.path().join(name)).expect("created");
        fs::write(directory.path().join(name).join("all.yaml"), text).expect("written");
        symlink(name, directory.path().join("..data_tmp")).expect("linked");
        fs::rename(directory.path().join("..data_tmp"), directory.path().join("..data")).expect("swapped");
    };
    version("..2026_1", SERVICE);
    symlink("..data/all.yaml", directory.path().join("all.yaml")).expect("linked");
    let options = Rules { allow_loopback: true, ..Rules::default() };
    let source = FileSource::start(directory.path(), options).await.expect("started");
    let mut state = source.state();
    assert!(service(&state.borrow(), "shop/reviews").is_some_and(|reviews| !reviews.exported));
    version("..2026_2", &format!("{SERVICE}---\n{EXPORT}"));
    timeout(DEADLINE, state.wait_for(|state| exported(state))).await.expect("in time").expect("running");
    fs::remove_dir_all(directory.path().join("..2026_1")).expect("removed");
    version("..2026_3", SERVICE);
    let withdrawn = timeout(DEADLINE, state.wait_for(|state| !exported(state))).await;
    assert!(withdrawn.expect("in time").expect("running").problems.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_goes_and_comes_back_is_followed() {
    let mut live = Live::start(&[("service.yaml", SERVICE)]).await;
    let aside = tempfile::tempdir().expect("created");
    fs::rename(live.directory.path(), aside.path().join("moved")).expect("moved");
    let state = live.wait_for_problem("cannot be read").await;
    assert!(service(&state, "shop/reviews").is_some(), "last good state");
    fs::create_dir(live.directory.path()).expect("created");
    live.write("service.yaml", SERVICE);
    live.write("export.yaml", EXPORT);
    assert!(live.wait_for(exported).await.problems.is_empty());
    // And it is watched again, not only found.
    live.remove("export.yaml");
    live.wait_for(|state| !exported(state)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_files_cost_nothing_but_a_report() {
    let mut live = Live::start(&[("service.yaml", SERVICE)]).await;
    let outside = tempfile::tempdir().expect("created");
    fs::write(outside.path().join("stolen.yaml"), EXPORT).expect("written");
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 10].join(", "));
    }
    live.write("bomb.yaml", &bomb);
    live.write("deep.yaml", &"[".repeat(1_000_000));
    live.write("duplicate.yaml", "apiVersion: v1\nkind: Service\nkind: Secret\n");
    live.write("large.yaml", &"a: b\n".repeat(2 * 1024 * 1024));
    live.write("unknown.yaml", "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\n");
    live.write("wide.yaml", &"- 1\n".repeat(250_000));
    symlink(outside.path().join("stolen.yaml"), live.path("stolen.yaml")).expect("linked");
    let bad = ["bomb", "deep", "duplicate", "large", "stolen", "unknown", "wide"];
    let state = live.wait_for(|state| state.problems.len() == bad.len()).await;
    for (problem, name) in state.problems.iter().zip(bad) {
        assert_eq!(problem.file, Some(format!("{name}.yaml")), "{problem}");
    }
    assert!(!exported(&state) && state.catalog.services.len() == 1);
    live.write("export.yaml", EXPORT);
    live.wait_for(exported).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_files_are_read_in_bounded_time() {
    let directory = tempfile::tempdir().expect("created");
    for number in 0..5_000 {
        let text = SERVICE.replace("name: reviews", &format!("name: s{number}"));
        fs::write(directory.path().join(format!("{number}.yaml")), text).expect("written");
    }
    let started = Instant::now();
    let mut live = Live::watch(directory).await;
    assert_eq!(live.now().catalog.services.len(), 5_000);
    live.write("export.yaml", &EXPORT.replace("name: reviews", "name: s4999"));
    live.wait_for(|state| service(state, "shop/s4999").is_some_and(|last| last.exported)).await;
    assert!(started.elapsed() < DEADLINE, "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_is_not_published() {
    let mut live = Live::start(&[("service.yaml", SERVICE)]).await;
    live.state.mark_unchanged();
    let before = live.now().scanned_at;
    live.write("service.yaml", &format!("{SERVICE}# a comment\n"));
    live.write("notes.txt", "not a manifest");
    let looked = async {
        while live.now().scanned_at == before {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, looked).await.expect("the change is looked at");
    assert!(!live.state.has_changed().expect("the source runs"));
}

#[tokio::test]
async fn a_missing_directory_is_an_error_at_the_start() {
    let directory = tempfile::tempdir().expect("created").path().join("missing");
    let error = FileSource::start(&directory, Rules::default()).await.expect_err("it does not exist");
    assert!(matches!(error, SourceError::Directory { .. }));
    assert!(error.to_string().contains("check that it exists"), "{error}");
}
