//! The command line as people and scripts meet it: help, exit codes and where output goes.

use std::path::Path;
use std::process::{Command, Output};

/// Every command of the command line, by its words.
const COMMANDS: [&str; 39] = [
    "gateway",
    "proxy",
    "sample-app",
    "status",
    "clusters",
    "services",
    "endpoints",
    "problems",
    "token",
    "token create",
    "token list",
    "token revoke",
    "init",
    "audit",
    "cluster",
    "cluster drain",
    "cluster leave",
    "cluster fence",
    "cluster unfence",
    "cluster administrator",
    "backup",
    "backup keygen",
    "backup create",
    "backup show",
    "restore",
    "registry",
    "registry status",
    "registry recover",
    "registry discard",
    "ca",
    "ca status",
    "ca rotate",
    "ca root",
    "ca pending",
    "ca sign",
    "ca import",
    "config",
    "config check",
    "config show",
];

fn isthmus(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    command.env_remove("ISTHMUS_ADMIN").args(arguments.split_whitespace()).output().expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[test]
fn every_command_has_help_with_examples() {
    for command in COMMANDS {
        let help = isthmus(&format!("{command} --help"));
        assert!(help.status.success(), "{command}: {}", stderr(&help));
        assert!(stdout(&help).contains("Examples:\n"), "{command}: {}", stdout(&help));
    }
}

#[test]
fn the_help_lists_every_command_and_no_other() {
    let help = stdout(&isthmus("--help"));
    assert!(help.contains("Exit codes: 0 done"), "{help}");
    let listed: Vec<String> =
        ["", "token", "cluster", "backup", "registry", "ca", "config"].iter().flat_map(|of| subcommands(of)).collect();
    for command in COMMANDS {
        assert!(listed.iter().any(|listed| listed == command), "{command} is not listed");
    }
    for command in &listed {
        // Needs nothing to be tried out but itself: it is tested with its module.
        assert!(command == "demo" || COMMANDS.contains(&command.as_str()), "{command} has no test here");
    }
}

/// The commands that the help of `of` lists.
fn subcommands(of: &str) -> Vec<String> {
    let help = stdout(&isthmus(&format!("{of} --help")));
    let section = help.split("Commands:\n").nth(1).unwrap_or_default();
    let lines = section.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    names.filter(|name| *name != "help").map(|name| format!("{of} {name}").trim().to_owned()).collect()
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        "",
        "nothing",
        "gateway",
        "gateway --config g.yaml --join not-a-token",
        "endpoints reviews",
        "token create",
        "token create --cluster a --workload b/c",
        "token create --cluster A",
        "token create --cluster a --ttl 10",
        "token revoke x",
        "--admin tcp:1 status",
        "sample-app --service reviews",
    ] {
        let output = isthmus(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {}", stderr(&output));
    }
}

#[test]
fn a_damaged_token_is_not_repeated() {
    let secret = "QAaWYMGTTPaBxyz-_damaged";
    for arguments in [
        format!("gateway --config g.yaml --join isthmus1.{secret}"),
        format!("gateway --config g.yaml --join sthmus1.{secret}"),
        format!("gateway --config g.yaml --jion isthmus1.{secret}"),
        format!("gateway --config g.yaml --jion=isthmus1.{secret}"),
        format!("gateway --config g.yaml isthmus1.{secret}"),
        format!("token revoke isthmus1.{secret}"),
        format!("isthmus1.{secret}"),
    ] {
        let output = isthmus(&arguments);
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(!told.contains("QAa") && !told.contains("xyz"), "{told}");
        assert!(!told.is_empty());
    }
    let told = stderr(&isthmus("gateway --config g.yaml --join isthmus1.AbC"));
    assert!(told.contains("--join: the token is damaged: copy it again"), "{told}");
}

#[test]
fn a_gateway_that_cannot_be_reached_exits_with_3_and_says_what_to_check() {
    for arguments in ["status", "-o json clusters", "token create --cluster us-west", "endpoints shop/reviews"] {
        let output = isthmus(&format!("--admin unix:/nowhere/admin.sock {arguments}"));
        assert_eq!(output.status.code(), Some(3), "{arguments}");
        let told = stderr(&output);
        assert!(told.contains("cannot reach the gateway at unix:/nowhere/admin.sock"), "{told}");
        assert!(told.contains("Check that it runs"), "{told}");
    }
}

#[test]
fn the_admin_address_can_come_from_the_environment() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    let output = command.env("ISTHMUS_ADMIN", "http://127.0.0.1:1").arg("status").output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("http://127.0.0.1:1"), "{}", stderr(&output));
}

#[test]
fn a_bad_configuration_is_told_line_by_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("gateway.yaml");
    std::fs::write(
        &file,
        "federation: acme.mesh\ncluster: us-east\nlocality: US\nsurprise: 1\ndata_dir: d\nmanifests: m\n",
    )
    .expect("written");
    let file = file.display();
    for arguments in [format!("config check {file}"), format!("config show {file}"), format!("gateway -c {file}")] {
        let output = isthmus(&arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments}");
        let told = stderr(&output);
        let lines: Vec<&str> = told.lines().collect();
        assert!(lines[0].starts_with(&format!("{file}:3: `locality`: ")), "{told}");
        assert!(lines[1].starts_with(&format!("{file}:4: `surprise` is not a field")), "{told}");
        assert_eq!(lines.len(), 2, "{told}");
    }
    let json = isthmus(&format!("-o json config check {file}"));
    assert!(stdout(&json).contains("\"line\": 3"), "{}", stdout(&json));
    assert_eq!(json.status.code(), Some(1));
}

#[test]
fn a_reader_that_went_away_is_no_error_to_tell() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/gateway.yaml");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    let output = command.args(["config", "show"]).arg(example).stdout(writer).output().expect("the binary runs");
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(141), ""));
}

#[test]
fn the_documented_configuration_is_good_and_prints_as_a_good_one() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/gateway.yaml");
    let checked = isthmus(&format!("config check {}", example.display()));
    assert_eq!((checked.status.code(), stdout(&checked).as_str()), (Some(0), "ok\n"), "{}", stderr(&checked));

    let shown = stdout(&isthmus(&format!("config show {}", example.display())));
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("copy.yaml");
    std::fs::write(&copy, &shown).expect("written");
    assert_eq!(stdout(&isthmus(&format!("config show {}", copy.display()))), shown);
}
