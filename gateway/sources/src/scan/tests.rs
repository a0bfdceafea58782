use std::thread::yield_now;

use super::*;

struct Fixture {
    directory: tempfile::TempDir,
    scanner: Scanner,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("created");
        let scanner = Scanner::new(directory.path().to_owned(), Rules::default(), Watches::unavailable());
        Self { directory, scanner }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    /// Scans; returns names of services and problems (without the one about watching).
    fn scan(&mut self, first: bool) -> (Vec<String>, Vec<String>) {
        let scan = self.scanner.scan(first).unwrap_or_else(|error| self.scanner.scan_failed(&error));
        let services = scan.catalog.services.keys().map(ToString::to_string).collect();
        let problems = scan.problems.list.iter().map(ToString::to_string);
        (services, problems.filter(|problem| !problem.contains("cannot be watched")).collect())
    }

    /// Scans until nothing is put off.
    fn scan_settled(&mut self) -> (Vec<String>, Vec<String>) {
        loop {
            let result = self.scan(false);
            match self.scanner.due() {
                None => return result,
                Some(due) => {
                    while Instant::now() < due {
                        yield_now();
                    }
                }
            }
        }
    }
}

fn service(name: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n")
}

#[test]
fn a_truncated_file_keeps_its_objects_until_it_settles() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", &service("a"));
    assert_eq!(fixture.scan(true).0, ["default/a"]);
    fixture.write("a.yaml", "");
    assert_eq!(fixture.scan(false).0, ["default/a"], "may be half written");
    assert!(fixture.scanner.due().is_some());
    fixture.write("a.yaml", &(service("a") + &service("b")));
    assert_eq!(fixture.scan(false).0, ["default/a", "default/b"]);
    assert!(fixture.scanner.due().is_none());
    fixture.write("a.yaml", "");
    assert!(fixture.scan_settled().0.is_empty(), "an empty file is meant if it stays empty");
}

#[test]
fn what_cannot_be_read_keeps_its_last_good_state_and_is_reported() {
    let mut fixture = Fixture::new();
    for name in ["large.yaml", "link.yaml", "text.yaml"] {
        fixture.write(name, &service(name.trim_end_matches(".yaml")));
    }
    let good = fixture.scan(true).0;
    fixture.write("large.yaml", &"#".repeat(10 * 1024 * 1024));
    fixture.write("text.yaml", "\u{0}\u{1}");
    fs::remove_file(fixture.path("link.yaml")).expect("removed");
    std::os::unix::fs::symlink("/etc/hostname", fixture.path("link.yaml")).expect("linked");
    let (services, problems) = fixture.scan_settled();
    assert_eq!(services, good);
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[0].starts_with("large.yaml: over 1048576 bytes"), "{problems:?}");
    assert!(problems[1].starts_with("link.yaml: the symbolic link leads out"), "{problems:?}");
}

#[test]
fn a_directory_that_vanishes_keeps_its_last_state() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", &service("a"));
    fixture.scan(true);
    let aside = tempfile::tempdir().expect("created");
    fs::rename(fixture.directory.path(), aside.path().join("moved")).expect("moved");
    let (services, problems) = fixture.scan(false);
    assert_eq!(services, ["default/a"]);
    assert!(problems[0].contains("cannot be read"), "{problems:?}");
    fs::rename(aside.path().join("moved"), fixture.directory.path()).expect("moved back");
    assert_eq!(fixture.scan(false), (vec!["default/a".to_owned()], vec![]));
}

#[test]
fn a_file_that_becomes_a_directory_is_deleted() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", &service("a"));
    fixture.scan(true);
    fs::remove_file(fixture.path("a.yaml")).expect("removed");
    fs::create_dir(fixture.path("a.yaml")).expect("created");
    fixture.write("a.yaml/b.yaml", &service("b"));
    assert_eq!(fixture.scan(false).0, ["default/b"]);
}

#[test]
fn a_flood_of_new_files_does_not_push_out_known_ones() {
    let mut fixture = Fixture::new();
    fixture.write("z.yaml", &service("z"));
    fixture.scan(true);
    for number in 0..=FILES_MAX {
        fixture.write(&format!("{number:05}.yaml"), "");
    }
    let (services, problems) = fixture.scan(false);
    assert_eq!(services, ["default/z"]);
    assert_eq!(problems.len(), 2, "the two files over the limit");
    assert!(problems[0].starts_with("09999.yaml: not read"), "{problems:?}");
}

#[test]
fn unchanged_files_are_not_read_again() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", &service("a"));
    fixture.scan(true);
    let old = Instant::now() + STAMP_DISTRUST * 2;
    while Instant::now() < old {
        yield_now();
    }
    fixture.scan(false);
    assert!(fixture.scanner.known.values().all(|known| known.stamp.is_some()));
    // A scan that reads nothing does not join anew.
    let before = fixture.scanner.joined.0.clone();
    let scan = fixture.scanner.scan(false).expect("readable");
    assert!(Arc::ptr_eq(&before, &scan.catalog) && !fixture.scanner.stale);
}

#[test]
fn a_file_that_is_out_of_reach_is_not_waited_for() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", &service("a"));
    fixture.scan(true);
    fixture.write("a.yaml", "");
    fixture.scan(false);
    assert!(fixture.scanner.due().is_some());
    fs::remove_file(fixture.path("a.yaml")).expect("removed");
    std::os::unix::fs::symlink("/etc/hostname", fixture.path("a.yaml")).expect("linked");
    assert_eq!(fixture.scan_settled().0, ["default/a"]);
    // The same with the whole directory gone.
    fs::remove_file(fixture.path("a.yaml")).expect("removed");
    fixture.write("a.yaml", &service("b"));
    fixture.scan(false);
    assert!(fixture.scanner.due().is_some(), "a is missing from it");
    fs::remove_dir_all(fixture.directory.path()).expect("removed");
    assert_eq!(fixture.scan_settled().0, ["default/a", "default/b"]);
}
