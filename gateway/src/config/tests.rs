use std::path::Path;
use std::time::Duration;

use super::*;

/// The fewest lines that make a configuration.
const LEAST: &str = "\
federation: acme.mesh
cluster: us-east
locality: us-east-1
data_dir: data
manifests: manifests
";

fn config(extra: &str) -> GatewayConfig {
    GatewayConfig::parse(&format!("{LEAST}{extra}"), Path::new("/etc/isthmus")).expect("valid")
}

/// The problems of the least configuration with `extra` from line 6 on, as `line: message`.
fn problems(extra: &str) -> Vec<String> {
    let problems = GatewayConfig::parse(&format!("{LEAST}{extra}"), Path::new("")).expect_err("invalid");
    problems.into_iter().map(|problem| format!("{}: {}", problem.line, problem.message)).collect()
}

fn the_problem(extra: &str) -> String {
    let mut found = problems(extra);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("valid")
}

#[test]
fn the_least_configuration_listens_on_loopback_at_the_fixed_ports() {
    let config = config("");
    assert_eq!(config.gateway.as_str(), "gw-1");
    assert_eq!(config.data_dir, Path::new("/etc/isthmus/data"));
    assert_eq!(config.admin_socket(), Path::new("/etc/isthmus/data/admin.sock"));
    let ports: Vec<u16> = config.listen.all().iter().map(|(_, address)| address.port()).collect();
    assert_eq!(ports, [15443, 15053, 15012, 15001, 15000, 15020, 15021]);
    assert!(config.listen.all().iter().all(|(_, address)| is_loopback(address.ip())));
    assert!(!config.found);
    assert_eq!(config.workload_certificate_ttl, Duration::from_secs(24 * 3600));
    assert_eq!(config.raft, Raft::default());
}

#[test]
fn one_address_moves_every_listener_but_admin_stays_on_loopback() {
    let public = config("address: 10.0.0.5\n").listen;
    assert_eq!(public.east_west, socket("10.0.0.5:15443"));
    assert_eq!(public.admin, socket("127.0.0.1:15000"));
    let own_loopback = config("address: 127.0.11.1\n").listen;
    assert_eq!(own_loopback.admin, socket("127.0.11.1:15000"));
    let mixed = config("address: 10.0.0.5\nlisten:\n  dns: 10.0.0.6\n  control: \"[::1]:0\"\n").listen;
    assert_eq!((mixed.dns, mixed.control), (socket("10.0.0.6:15053"), socket("[::1]:0")));
}

#[test]
fn what_is_advertised_defaults_to_what_was_bound() {
    let bound = socket("127.0.0.1:40000");
    assert_eq!(config("listen: {east_west: \"127.0.0.1:0\"}\n").advertised(bound), bound);
    assert_eq!(config("advertise: 203.0.113.7\n").advertised(bound), socket("203.0.113.7:15443"));
}

#[test]
fn the_documented_example_is_valid_and_prints_as_itself() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/gateway.yaml");
    let example = GatewayConfig::load(&file).expect("the example is valid");
    assert_eq!(example.raft, Raft::default(), "the example shows the defaults");
    assert_eq!(example.join, Join::default(), "the example shows the defaults");
    assert_eq!(GatewayConfig::parse(&example.to_string(), Path::new("")).expect("what is printed is valid"), example);
    let json = serde_json::to_string(&example).expect("serializes");
    assert_eq!(GatewayConfig::parse(&json, Path::new("")).expect("its JSON is valid YAML"), example);
}

#[test]
fn load_balancers_are_addresses_or_networks() {
    let found = config("proxy_protocol:\n  east_west: [10.0.0.7, 10.1.0.0/24, \"2001:db8::/64\"]\n");
    let shown: Vec<String> = found.proxy_protocol.east_west.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.0.0.7/32", "10.1.0.0/24", "2001:db8::/64"]);
    assert_eq!(GatewayConfig::parse(&found.to_string(), Path::new("")).expect("valid"), found);
    let many = vec!["10.0.0.7"; 65].join(", ");
    let ingress = "ingress: {gateway: a, https: 1.1.1.1:1, certificates: t}";
    let found = config(&format!("{ingress}\nproxy_protocol: {{ingress: [10.0.0.7]}}\n"));
    assert_eq!(GatewayConfig::parse(&found.to_string(), Path::new("")).expect("valid"), found);
    assert_eq!((found.proxy_protocol.ingress.len(), found.proxy_protocol.east_west.len()), (1, 0));
    let problem = the_problem(&format!("proxy_protocol: {{east_west: [{many}]}}\n"));
    assert_eq!(problem, "6: `proxy_protocol.east_west` takes 64 entries at most, found 65");
}

#[test]
fn defaults_print_as_themselves() {
    let config = config("");
    assert_eq!(GatewayConfig::parse(&config.to_string(), Path::new("")).expect("valid"), config);
}

#[test]
fn every_problem_is_told_with_its_line() {
    let text =
        "federation: acme\ncluster: US\nlocality: r\nsurprise: 1\ndns:\n  upstreams:\n    - 1.1.1.1\n    - nobody\n";
    let error = GatewayConfig::parse(text, Path::new("")).expect_err("invalid");
    let lines: Vec<(u64, &str)> =
        error.iter().map(|p| (p.line, p.message.split(':').next().unwrap_or_default())).collect();
    assert_eq!(
        lines,
        [
            (1, "`data_dir` is missing"),
            (1, "`federation`"),
            (1, "`manifests` is missing"),
            (2, "`cluster`"),
            (
                4,
                "`surprise` is not a field; there are federation, cluster, gateway, locality, found, data_dir, manifests, address, listen, proxy_protocol, control_socket, advertise, vip_range, opaque_ports, ingress, dns, workload_certificate_ttl, raft, join, drain"
            ),
            (8, "`dns.upstreams`"),
        ]
    );
}

#[test]
fn each_value_is_checked() {
    for (extra, expected) in [
        ("found: maybe\n", "6: `found`: write true or false"),
        ("gateway:\n", "6: `gateway` has no value"),
        ("gateway: [a]\n", "6: `gateway`: expected one value"),
        ("drain: 10\n", "6: `drain`: \"10\" is not a duration"),
        ("workload_certificate_ttl: 10s\n", "6: `workload_certificate_ttl`: 10s is out of bounds: from 1m to 7d"),
        ("address: localhost\n", "6: `address`: invalid IP address"),
        ("listen:\n  dns: 53\n", "7: `listen.dns`: \"53\" is not an address"),
        ("listen:\n  admin: 10.0.0.5:15000\n", "7: `listen.admin`: it answers without asking who asks"),
        (
            "listen:\n  egress: 127.0.0.1:15012\n",
            "7: `listen.egress`: 127.0.0.1:15012 is already taken by `listen.control`",
        ),
        ("listen: 127.0.0.1\n", "6: expected fields in listen"),
        ("listen: {http: 127.0.0.1}\n", "6: `listen.http` is not a field; there are east_west"),
        ("listen: {east_west: 0.0.0.0}\n", "1: `advertise` is missing"),
        ("advertise: 0.0.0.0:15443\n", "6: `advertise`: 0.0.0.0:15443 is not an address that others can dial"),
        ("opaque_ports: [25, 0]\n", "6: `opaque_ports`: \"0\" is not a port: write a number from 1 to 65535"),
        (
            "ingress: {gateway: a, https: 127.0.0.1:15012, certificates: t}\n",
            "6: `ingress.https`: 127.0.0.1:15012 is already",
        ),
        (
            "ingress: {gateway: a, https: 1.1.1.1:1, http: 1.1.1.1:1, certificates: t}\n",
            "6: `ingress.http`: 1.1.1.1:1 is already",
        ),
        ("ingress:\n  gateway: a\n  https: 0.0.0.0\n", "6: `ingress.certificates` is missing"),
        ("proxy_protocol: {east_west: 10.0.0.7}\n", "6: `proxy_protocol.east_west` takes a list"),
        ("proxy_protocol: {east_west: [lb.example]}\n", "6: `proxy_protocol.east_west`: \"lb.example\" is not a range"),
        (
            "proxy_protocol: {east_west: [10.0.0.7, 10.0.0.7/24]}\n",
            "6: `proxy_protocol.east_west`: 10.0.0.7/24 has bits behind its prefix: write 10.0.0.0/24",
        ),
        ("proxy_protocol: {east_west: [0.0.0.0/0]}\n", "6: `proxy_protocol.east_west`: 0.0.0.0/0 is everyone"),
        (
            "proxy_protocol: {east_west: [\"::ffff:10.0.0.7\"]}\n",
            "6: `proxy_protocol.east_west`: ::ffff:10.0.0.7/128 is of IPv4: write 10.0.0.7",
        ),
        ("proxy_protocol: {dns: [10.0.0.7]}\n", "6: `proxy_protocol.dns` is not a field; there are east_west, ingress"),
        ("proxy_protocol: {ingress: [10.0.0.7]}\n", "6: `proxy_protocol.ingress`: there is no `ingress`"),
        ("vip_range: 10.11.0.1/16\n", "6: `vip_range`: 10.11.0.1/16 has bits behind its prefix: write 10.11.0.0/16"),
        ("vip_range: 10.11.0.0/31\n", "6: `vip_range`: 10.11.0.0/31 has no room"),
        ("vip_range: 127.0.0.0/8\n", "6: `vip_range`: 127.0.0.0/8 has the gateway's own address 127.0.0.1 in it"),
        (
            "advertise: 10.11.0.5\nvip_range: 10.11.0.0/16\n",
            "7: `vip_range`: 10.11.0.0/16 has the gateway's own address 10.11.0.5 in it",
        ),
        (
            "dns: {upstreams: [\"127.0.0.1:15053\"]}\n",
            "6: `dns.upstreams`: 127.0.0.1:15053 is this gateway's own DNS listener",
        ),
        (
            "listen: {dns: \"0.0.0.0:53\"}\ndns: {upstreams: [1.1.1.1, 127.0.0.53]}\n",
            "7: `dns.upstreams`: 127.0.0.53:53 is this gateway's own DNS listener",
        ),
        ("dns: {upstreams: 1.1.1.1}\n", "6: `dns.upstreams` takes a list"),
        ("dns: {upstreams: [0.0.0.0]}\n", "6: `dns.upstreams`: 0.0.0.0 is not the address of a resolver"),
        ("raft:\n  heartbeat: 600ms\n", "6: `raft.election_min` is less than 3 heartbeats (1s800ms)"),
        ("raft:\n  election_min: 3s\n", "6: `raft.election_max` is not more than"),
        ("join:\n  attempt: 2m\n", "6: `join.attempt` is longer than `join.deadline`"),
    ] {
        let found = the_problem(extra);
        assert!(found.starts_with(expected), "{extra:?} gave {found:?}");
    }
}

#[test]
fn text_that_is_no_yaml_is_a_problem_at_its_line() {
    assert!(the_problem("dns: [\n").starts_with("6: not valid YAML: "), "{}", the_problem("dns: [\n"));
    assert_eq!(the_problem("cluster: again\n"), "6: `cluster` is there twice: keep one");
    assert_eq!(the_problem("---\na: 1\n"), "7: `---` begins another document: keep one");
    assert_eq!(GatewayConfig::parse("", Path::new("")).expect_err("empty").len(), 5);
    assert_eq!(GatewayConfig::parse("- a\n", Path::new("")).expect_err("a list").first().map(|p| p.line), Some(1));
}

#[test]
fn a_tab_is_told_as_such_and_not_as_what_the_parser_makes_of_it() {
    for tabbed in ["\tfoo: 1\n", "listen:\n\tdns: 127.0.0.1\n", "join:\n  \tfoo: 1\n"] {
        let found = the_problem(tabbed);
        assert!(found.ends_with(": the line is indented with a tab: indent with spaces"), "{tabbed:?} gave {found:?}");
    }
    let first = GatewayConfig::parse("\tfoo: bar\n", Path::new("")).expect_err("invalid");
    assert_eq!((first.len(), first[0].line), (1, 1));
    config("drain: 5s\n\t# a comment may be\n");
    let json = GatewayConfig::parse("{\n\t\"federation\": \"acme.mesh\"\n}", Path::new("")).expect_err("incomplete");
    assert!(json.iter().all(|problem| problem.message.ends_with("is missing")), "{json:?}");
}

#[test]
fn a_file_that_is_not_there_says_so() {
    let error = GatewayConfig::load(Path::new("/nowhere/gateway.yaml")).expect_err("missing");
    assert!(error.to_string().starts_with("/nowhere/gateway.yaml:1: cannot read the file: "), "{error}");
}

#[test]
fn an_endless_file_is_not_read_to_its_end() {
    let error = GatewayConfig::load(Path::new("/dev/zero")).expect_err("endless");
    assert!(error.to_string().contains("larger than 262144 bytes"), "{error}");
}

#[test]
fn the_gateways_own_listeners_are_known_to_the_manifests_reader() {
    let own = |text: &str| config(text).manifest_rules().own.into_iter().flatten().collect::<Vec<_>>();
    let local = own("address: 127.0.11.1\n");
    assert!(local.contains(&socket("127.0.11.1:15443")) && local.contains(&socket("127.0.11.1:15000")), "{local:?}");
    let behind = own("address: 0.0.0.0\nadvertise: 192.0.2.1:443\n");
    assert!(behind.contains(&socket("192.0.2.1:15012")) && behind.contains(&socket("192.0.2.1:443")), "{behind:?}");
}

#[test]
fn the_control_socket_names_users_and_their_workloads() {
    let extra =
        "control_socket:\n  path: run/control.sock\n  workloads:\n    1000: shop/reviews\n    0: shop/ratings\n";
    let found = config(extra);
    let socket = found.control_socket.clone().expect("configured");
    assert_eq!(socket.path, Path::new("/etc/isthmus/run/control.sock"));
    let users: Vec<_> = socket.workloads.iter().map(|(uid, workload)| (*uid, workload.to_string())).collect();
    assert_eq!(users, [(0, "shop/ratings".to_owned()), (1000, "shop/reviews".to_owned())]);
    assert_eq!(GatewayConfig::parse(&found.to_string(), Path::new("")).expect("valid"), found);
    let json = serde_json::to_string(&found).expect("serializes");
    assert_eq!(GatewayConfig::parse(&json, Path::new("")).expect("its JSON is valid YAML"), found);
}

#[test]
fn voters_are_odd_and_few() {
    let raft = |fields: &str| format!("raft: {{{fields}}}\n");
    let found = config(&raft("voters: 7, voter_replace_after: 1h")).raft;
    assert_eq!((found.voters, found.voter_replace_after), (7, Duration::from_secs(3600)));
    for voters in ["0", "2", "9", "many"] {
        let problem = the_problem(&raft(&format!("voters: {voters}")));
        assert!(problem.starts_with("6: `raft.voters`: write 1, 3, 5 or 7"), "{problem}");
    }
    assert!(the_problem(&raft("voter_replace_after: 1s")).contains("out of bounds"));
    assert_eq!(config(&raft("snapshot_rate: 1MiB")).raft.snapshot_rate.get(), 1 << 20);
    assert!(the_problem(&raft("snapshot_rate: 1KiB")).contains("from 64KiB to 10GiB a second"));
    assert!(the_problem(&raft("snapshot_rate: 1000000")).contains("for example 512KiB"));
}

#[test]
fn users_of_the_control_socket_are_checked_one_by_one() {
    let with = |workloads: &str| format!("control_socket:\n  path: control.sock\n  workloads:\n{workloads}\n");
    for (workloads, expected) in [
        (
            "    reviews: shop/reviews",
            "9: `control_socket.workloads.reviews`: not a numeric user id; `id -u NAME` tells it",
        ),
        (
            "    65534: shop/reviews",
            "9: `control_socket.workloads.65534`: stands for users that the system cannot name",
        ),
        ("    1000: reviews", "9: `control_socket.workloads.1000`: "),
        ("    1000: shop/reviews\n    1000: shop/ratings", "10: `1000` is there twice: keep one"),
        ("    1000: shop/reviews\n    01000: shop/ratings", "6: `control_socket.workloads`: user 1000 is there twice"),
    ] {
        let found = problems(&with(workloads));
        assert!(found.iter().any(|problem| problem.starts_with(expected)), "{expected}: {found:?}");
    }
    assert!(problems("control_socket: {}\n").iter().any(|problem| problem == "6: `control_socket.path` is missing"));
    assert!(problems(&with("")).iter().any(|problem| problem.contains("has no value")), "{:?}", problems(&with("")));
    let long = format!("control_socket:\n  path: {}\n  workloads: {{1: shop/reviews}}\n", "a".repeat(101));
    assert!(the_problem(&long).starts_with("7: `control_socket.path`: a socket's path has at most 100 bytes"));
}
