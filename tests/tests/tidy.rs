//! The house rules that a compiler does not check. Each failure names the file and what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Lines of a file without its tests.
const FILE_LINES_MAX: usize = 500;
/// Half of all files are shorter.
const FILE_LINES_MEDIAN_MAX: usize = 200;
/// Composition belongs into a module that can be tested.
const MAIN_LINES_MAX: usize = 40;
/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] = ["util", "utils", "helper", "helpers", "manager", "managers", "common", "misc"];
/// Which of our crates may depend on which.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("isthmus-model", &[]),
    ("isthmus-wire", &["isthmus-model"]),
    ("isthmus-identity", &["isthmus-model"]),
    ("isthmus-sources", &["isthmus-model"]),
    ("isthmus-dns", &["isthmus-model"]),
    ("isthmus-proxy", &["isthmus-model", "isthmus-wire", "isthmus-identity"]),
    ("isthmus-federation", &["isthmus-model", "isthmus-wire", "isthmus-identity"]),
    (
        "isthmus",
        &[
            "isthmus-model",
            "isthmus-wire",
            "isthmus-identity",
            "isthmus-sources",
            "isthmus-dns",
            "isthmus-proxy",
            "isthmus-federation",
        ],
    ),
    ("isthmus-tests", &[]),
];
/// What the sidecar must stay free of: the registry, Kubernetes, and the DNS server.
const NOT_IN_PROXY: [&str; 5] = ["openraft", "redb", "kube", "hickory-server", "hickory-resolver"];

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the crate is a directory of the repository").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Every file of the repository, without what builds and tools leave behind.
fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).expect("a readable directory") {
            let path = entry.expect("a readable entry").path();
            let name = path.file_name().unwrap_or_default();
            if path.is_dir() && name != "target" && name != ".git" && name != "proptest-regressions" {
                waiting.push(path);
            } else if path.is_file() {
                found.push(path);
            }
        }
    }
    found
}

fn sources() -> impl Iterator<Item = PathBuf> {
    files().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
}

/// The path as a reader of the failure knows it.
fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn is_test(path: &Path) -> bool {
    let path = short(path);
    path.ends_with("/tests.rs") || path.split('/').skip(1).any(|part| part == "tests" || part == "benches")
}

/// Lines before the file's own tests.
fn lines_without_tests(path: &Path) -> usize {
    let text = read(path);
    text.find("#[cfg(test)]\nmod tests {").map_or(&text[..], |start| &text[..start]).lines().count()
}

#[track_caller]
fn assert_none(offenders: &[String], rule: &str) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

#[test]
fn files_are_small() {
    let mut counts: Vec<(usize, String)> =
        sources().filter(|path| !is_test(path)).map(|path| (lines_without_tests(&path), short(&path))).collect();
    counts.sort();
    let long = counts.iter().filter(|(lines, _)| *lines > FILE_LINES_MAX);
    let long: Vec<String> = long.map(|(lines, path)| format!("{path}: {lines} lines")).collect();
    assert_none(&long, "split a file of more than 500 lines by what its parts decide");
    let median = counts[counts.len() / 2].0;
    assert!(median <= FILE_LINES_MEDIAN_MAX, "the median file has {median} lines, {FILE_LINES_MEDIAN_MAX} at most");
}

#[test]
fn entry_points_only_compose() {
    let is_entry =
        |path: &PathBuf| path.ends_with("main.rs") || path.parent().is_some_and(|parent| parent.ends_with("src/bin"));
    let long = sources().filter(is_entry).filter(|path| read(path).lines().count() > MAIN_LINES_MAX);
    assert_none(&long.map(|path| short(&path)).collect::<Vec<_>>(), "move the body of main into app.rs (40 lines)");
}

#[test]
fn modules_are_named_after_what_they_do() {
    let says_nothing = |path: &PathBuf| {
        let stem = path.with_extension("");
        let directory = path.parent().and_then(Path::file_name);
        stem.file_name().into_iter().chain(directory).any(|name| EMPTY_NAMES.iter().any(|empty| name == *empty))
    };
    let offenders: Vec<String> = sources().filter(says_nothing).map(|path| short(&path)).collect();
    assert_none(&offenders, "name the module in the field's own words");
}

#[test]
fn every_file_says_what_it_is_for() {
    // The unit tests of a module are for what the module is for.
    let modules = sources().filter(|path| !path.ends_with("tests.rs"));
    let undocumented = modules.filter(|path| !read(path).starts_with("//!")).map(|path| short(&path));
    assert_none(&undocumented.collect::<Vec<_>>(), "start the file with `//!` and the reason that it exists");
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not hold what it looks for.
    let marks =
        [["to", "do!("], ["unimple", "mented!("], ["FIX", "ME"], ["TO", "DO"], ["XX", "X:"]].map(|mark| mark.concat());
    let unfinished = sources().flat_map(|path| {
        let text = read(&path);
        let found: Vec<String> = marks.iter().filter(|mark| text.contains(*mark)).cloned().collect();
        found.into_iter().map(move |mark| format!("{}: {mark}", short(&path)))
    });
    assert_none(&unfinished.collect::<Vec<_>>(), "finish it, or leave it out");
}

#[test]
fn no_path_of_a_build_machine_is_left() {
    let mut paths: BTreeSet<String> = BTreeSet::from([format!("{}/", root().display())]);
    paths.extend(std::env::var("HOME").ok().filter(|home| home.len() > 1).map(|home| format!("{home}/")));
    paths.extend(["/home", "/Users"].map(|homes| format!("{homes}/")));
    let offenders = files().into_iter().filter_map(|path| {
        let text = read(&path);
        let found = paths.iter().find(|machine| text.contains(machine.as_str()))?;
        Some(format!("{}: {found}", short(&path)))
    });
    assert_none(&offenders.collect::<Vec<_>>(), "write the path relative to the repository, or leave it out");
}

/// What `cargo metadata` says about our packages. Without dependencies, so that it needs no network.
fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let mut metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    serde_json::from_value(metadata["packages"].take()).expect("a list of packages")
}

#[test]
fn dependencies_point_one_way() {
    let allowed = BTreeMap::from(ALLOWED);
    let mut offenders = Vec::new();
    for package in packages() {
        let name = package["name"].as_str().expect("a package has a name");
        let Some(allowed) = allowed.get(name) else {
            offenders.push(format!("{name} has no row in this test's table"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("a list") {
            let to = dependency["name"].as_str().expect("a dependency has a name");
            // For its tests a crate may use the test kit, and itself with another feature.
            let for_tests = (to == "isthmus-tests" || to == name) && dependency["kind"] == "dev";
            if allowed_table_has(to) && !allowed.contains(&to) && !for_tests {
                offenders.push(format!("{name} -> {to}"));
            }
        }
    }
    assert_none(&offenders, "our crates may not depend on each other this way");
}

fn allowed_table_has(name: &str) -> bool {
    ALLOWED.iter().any(|(ours, _)| *ours == name)
}

/// Package → what it depends on, from the lock file. It lists more than is compiled (other platforms,
/// tests), so what is absent here is absent everywhere.
fn locked() -> BTreeMap<String, BTreeSet<String>> {
    let lock = read(&root().join("Cargo.lock"));
    let mut packages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for block in lock.split("[[package]]").skip(1) {
        let name = block.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
        let needs = block.lines().filter_map(|line| line.strip_prefix(" \"")?.strip_suffix("\","));
        let needs = needs.filter_map(|need| need.split(' ').next()).map(str::to_owned);
        packages.entry(name.expect("a package has a name").to_owned()).or_default().extend(needs);
    }
    packages
}

/// `package` and everything that it depends on, also through others.
fn closure(package: &str) -> BTreeSet<String> {
    let locked = locked();
    let mut reached = BTreeSet::from([package.to_owned()]);
    let mut waiting = vec![package];
    while let Some(name) = waiting.pop() {
        let needs = locked.get(name).into_iter().flatten();
        waiting.extend(needs.filter(|need| reached.insert((*need).clone())).map(String::as_str));
    }
    reached
}

#[test]
fn the_sidecar_stays_small() {
    assert!(closure("isthmus").contains("openraft"), "the lock file was read");
    let reached = closure("isthmus-proxy");
    let heavy: Vec<String> =
        NOT_IN_PROXY.into_iter().filter(|heavy| reached.contains(*heavy)).map(Into::into).collect();
    assert_none(&heavy, "the proxy must not depend on these, not even through others");
}

/// The lines of a manifest that declare dependencies, in the sections whose header `wanted` picks.
fn declared(manifest: &str, wanted: impl Fn(&str) -> bool) -> Vec<&str> {
    let mut inside = false;
    let mut declared = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = wanted(line);
        } else if inside && line.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            declared.push(line);
        }
    }
    declared
}

#[test]
fn every_dependency_says_why_it_is_there() {
    let manifest = read(&root().join("Cargo.toml"));
    let declared = declared(&manifest, |section| section == "[workspace.dependencies]");
    assert!(declared.len() > 10, "the table was found");
    let silent = declared.into_iter().filter(|line| !line.starts_with("isthmus") && !line.contains(" # "));
    let silent = silent.chain(manifest.lines().filter(|line| line.starts_with("[workspace.dependencies.")));
    assert_none(&silent.map(str::to_owned).collect::<Vec<_>>(), "end the line with a comment: why this one");
}

#[test]
fn versions_are_chosen_in_one_place() {
    let mut offenders = Vec::new();
    for package in packages() {
        let path = PathBuf::from(package["manifest_path"].as_str().expect("a package has a manifest"));
        let manifest = read(&path);
        let own = declared(&manifest, |section| section.contains("dependencies"));
        let own = own.into_iter().filter(|line| {
            let line = line.replace(' ', "");
            !line.contains(".workspace=true") && !line.contains("{workspace=true")
        });
        offenders.extend(own.map(|line| format!("{}: {line}", short(&path))));
    }
    assert_none(&offenders, "take the version from the workspace's table");
}
