//! Transparent redirection: an application that knows nothing, and iptables before its sidecar.
//!
//! Needs root, `ip`, `iptables` and `setpriv`: a network namespace of the test's own, in which everything runs.

use std::path::Path;
use std::time::Duration;

use isthmus_tests::harness::{Netns, Spawn, wait_for};

use crate::federation::{Cluster, host};
use crate::workload::{HTTP, INBOUND, Mesh, OUTBOUND, Offer, TCP, manifests, sidecar};

/// In a namespace nobody can be asked directly; each question is a process.
const PATIENCE: Duration = Duration::from_secs(60);

/// The user that the application runs as. What it opens is redirected; what a sidecar opens must not be, or
/// it would be redirected to itself.
const APPLICATION: &str = "65534";

/// A namespace in which iptables works and the application has a user of its own; or why there is none.
fn namespace(name: &str) -> Result<Netns, String> {
    let netns = Netns::new(name)?;
    netns.run("iptables", &["-t", "nat", "-L", "-n"])?;
    application(&netns, "true")?;
    Ok(netns)
}

/// Leads the application's connections to `destination` to the sidecar.
fn redirect(netns: &Netns, destination: &str) {
    let to = OUTBOUND.to_string();
    let rule = ["-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", destination, "-m", "owner", "--uid-owner", APPLICATION];
    netns.run("iptables", &[&rule[..], &["-j", "REDIRECT", "--to-ports", &to]].concat()).expect("a rule");
}

/// Runs a script as the application.
fn application(netns: &Netns, script: &str) -> Result<String, String> {
    let user = ["--reuid", APPLICATION, "--regid", APPLICATION, "--clear-groups"];
    netns.run("setpriv", &[&user[..], &["bash", "-c", script]].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirected_connection_reaches_the_service_that_its_address_stands_for() {
    let netns = match namespace("redirect") {
        Ok(netns) => netns,
        Err(reason) => return eprintln!("SKIPPED: transparent redirection needs root, ip and iptables: {reason}"),
    };
    // Everything is inside: gateway, sidecars, application.
    let mut east = Cluster::new("us-east", "found: true").within(netns.name());
    east.start(None);
    east.process().wait_for_output(PATIENCE, "founded the federation").await;
    let (app, client) = (east.host(20), east.host(30));
    east.write("reviews.yaml", &manifests("reviews", &[app], Mesh::Sidecar, Offer::Exported));
    let (http, tcp) = (format!("{app}:{HTTP}"), format!("{app}:{TCP}"));
    let args = ["--service", "reviews", "--cluster", east.name, "--listen", &http, "--tcp-echo", &tcp];
    let _app = east.spawn("app", ["sample-app"].into_iter().chain(args));
    let _beside_app = sidecar(&east, "reviews", app, "").await;
    // REDIRECT leads to 127.0.0.1 for what leaves by the loopback.
    let redirected = format!("outbound: \"127.0.0.1:{OUTBOUND}\"\ninbound: \"{client}:{INBOUND}\"\n");
    let beside_client = sidecar(&east, "productpage", client, &redirected).await;
    beside_client.wait_for_output(PATIENCE, "certified").await;
    redirect(&netns, &east.vip_range());

    // A client that speaks plain HTTP to what DNS told. Its sidecar answers, with the client's identity: had
    // the gateway listening on that address answered, the caller would be the gateway.
    let services = || {
        let admin = format!("unix:{}", east.path("data/admin.sock").display());
        let listed = netns.run(crate::federation::BINARY, &["--admin", &admin, "-o", "json", "services"]).ok()?;
        let listed: serde_json::Value = serde_json::from_str(&listed).ok()?;
        listed["services"][0]["vip"].as_str().map(str::to_owned)
    };
    let vip = wait_for(PATIENCE, "the virtual address", async || services()).await;
    let authority = format!("{}:{HTTP}", host("reviews"));
    let request = format!("GET / HTTP/1.1\\r\\nHost: {authority}\\r\\nConnection: close\\r\\n\\r\\n");
    let script = format!("exec 3<>/dev/tcp/{vip}/{HTTP}; printf '{request}' >&3; cat <&3");
    let answer = wait_for(PATIENCE, "an answer", async || {
        application(&netns, &script).ok().filter(|answer| answer.starts_with("HTTP/1.1 200"))
    })
    .await;
    assert!(answer.contains("spiffe://us-east.acme.mesh/ns/shop/sa/productpage"), "{answer}");

    // TCP is redirected alike, and the server speaks first.
    let script = format!("exec 3<>/dev/tcp/{vip}/{TCP}; read -t 10 line <&3; echo \"$line\"");
    assert_eq!(application(&netns, &script).expect("a greeting"), "hello from us-east/reviews\n");

    // What is redirected without being the federation's goes where it was going.
    redirect(&netns, "127.1.2.3");
    let elsewhere = ["sample-app", "--service", "other", "--cluster", "nowhere", "--listen", "127.1.2.3:80"];
    let inside = ["netns", "exec", netns.name(), crate::federation::BINARY];
    let _elsewhere = Spawn::new("elsewhere", Path::new("ip")).args(inside).args(elsewhere).start(east.directory());
    let script = "exec 3<>/dev/tcp/127.1.2.3/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    wait_for(PATIENCE, "an answer from elsewhere", async || {
        application(&netns, script).ok().filter(|answer| answer.contains("nowhere"))
    })
    .await;

    // A rule that catches the sidecar's own connections too costs these connections, not the sidecar.
    let everyone = ["-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", "127.1.2.4", "-j", "REDIRECT", "--to-ports"];
    netns.run("iptables", &[&everyone[..], &[&OUTBOUND.to_string()]].concat()).expect("a rule");
    application(&netns, "exec 3<>/dev/tcp/127.1.2.4/80; cat <&3").expect("connected, then cut");
    beside_client.wait_for_output(PATIENCE, "redirected to itself").await;
    let answer = application(&netns, script).expect("the sidecar serves on");
    assert!(answer.contains("nowhere"), "{answer}");
}

/// A client that has no sidecar and speaks in the clear to where the application listens.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_the_clear_is_let_in_only_where_the_workload_says_so() {
    let netns = match namespace("clear") {
        Ok(netns) => netns,
        Err(reason) => return eprintln!("SKIPPED: transparent redirection needs root, ip and iptables: {reason}"),
    };
    let mut east = Cluster::new("us-east", "found: true").within(netns.name());
    east.start(None);
    east.process().wait_for_output(PATIENCE, "founded the federation").await;
    for (number, mode) in [(20, "permissive"), (21, "strict")] {
        let (service, app) = (format!("reviews-{mode}"), east.host(number));
        let manifests = manifests(&service, &[app], Mesh::Sidecar, Offer::Exported);
        // Nobody says what its ports speak.
        east.write(
            &format!("{service}.yaml"),
            &manifests.replace("name: http", "name: a").replace("name: tcp", "name: b"),
        );
        let (http, tcp) = (format!("{app}:{HTTP}"), format!("{app}:{TCP}"));
        let args = ["--service", &service, "--cluster", east.name, "--listen", &http, "--tcp-echo", &tcp];
        let _app = east.spawn(&format!("app-{mode}"), ["sample-app"].into_iter().chain(args));
        // REDIRECT leads to 127.0.0.1 for what leaves by the loopback; others come to the workload's address.
        let inbound = u16::from(number) + INBOUND;
        let settings = format!("inbound: \"0.0.0.0:{inbound}\"\ninbound_mode: {mode}\n");
        let beside = sidecar(&east, &service, app, &settings).await;
        beside.wait_for_output(PATIENCE, "certified").await;
        let rule = ["-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", &app.to_string(), "-m", "owner", "--uid-owner"];
        let to = ["-j", "REDIRECT", "--to-ports", &inbound.to_string()];
        netns.run("iptables", &[&rule[..], &[APPLICATION], &to].concat()).expect("a rule");

        let forged = "X-Forwarded-Client-Cert: URI=spiffe://us-east.acme.mesh/ns/shop/sa/admin";
        let request = format!("GET / HTTP/1.1\\r\\nHost: {http}\\r\\n{forged}\\r\\nConnection: close\\r\\n\\r\\n");
        let requests = format!("exec 3<>/dev/tcp/{app}/{HTTP}; printf '{request}' >&3; cat <&3");
        let greeting = format!("exec 3<>/dev/tcp/{app}/{TCP}; read -t 10 line <&3; echo \"$line\"");
        if mode == "strict" {
            for script in [&requests, &greeting] {
                let got = application(&netns, script).unwrap_or_default();
                let said = got.contains("HTTP") || got.contains("hello");
                assert!(!said, "a strict workload answers with an alert of TLS at most: {got:?}");
            }
            continue;
        }
        let answer = wait_for(PATIENCE, "an answer", async || {
            application(&netns, &requests).ok().filter(|answer| answer.starts_with("HTTP/1.1 200"))
        })
        .await;
        assert!(!answer.contains("spiffe://"), "nobody vouches for the caller: {answer}");
        assert_eq!(application(&netns, &greeting).expect("a greeting"), "hello from us-east/reviews-permissive\n");
    }
}
