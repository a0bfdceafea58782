//! The edges of the federation: clients from outside by HTTPRoutes, and hosts outside that may be called. With curl and openssl.

use std::fs;
use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use isthmus_tests::harness::wait_until;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket};

use crate::federation::{Cluster, SOON, federate, port};
use crate::hostile::odd_names;
use crate::workload::{HTTP, Mesh, Offer, TCP, Workload, manifests, service_export};

const HTTPS: u16 = 8443;
const CLEAR: u16 = 8080;
/// The host of a load balancer.
const BALANCER: u8 = 60;

/// Runs a tool of the operator's, if it is there.
async fn run(program: &str, args: &[&str]) -> Option<Output> {
    tokio::process::Command::new(program).args(args).kill_on_drop(true).output().await.ok()
}

/// A certificate for some names, signed by itself.
async fn certify(cluster: &Cluster, name: &str, hosts: &str) -> Option<()> {
    let file = |ending: &str| cluster.path(&format!("tls/{name}.{ending}")).display().to_string();
    let (key, certificate) = (file("key"), file("crt"));
    let names = format!("subjectAltName={hosts}");
    let args = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let own = ["-subj", "/CN=test", "-addext", &names, "-keyout", &key, "-out", &certificate];
    let output = run("openssl", &[&args[..], &own].concat()).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

/// An application that answers with the head of the request.
async fn mirror(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut lines = BufReader::new(stream).lines();
                let mut head = String::new();
                while let Ok(Some(line)) = lines.next_line().await {
                    if !line.is_empty() {
                        head += &format!("{line}\n");
                        continue;
                    }
                    let answer = format!("HTTP/1.1 200 OK\r\nx-app: 1\r\ncontent-length: {}\r\n\r\n{head}", head.len());
                    lines.get_mut().write_all(answer.as_bytes()).await.expect("written");
                    head.clear();
                }
            });
        }
    });
}

/// A load balancer that says, in version 2 of the PROXY protocol, that all its clients come from 192.0.2.7.
async fn balancer(cluster: &Cluster) {
    let (own, to) = (cluster.host(BALANCER).into(), cluster.at(HTTPS));
    let listener = TcpListener::bind(SocketAddr::new(own, HTTPS)).await.expect("bound");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::new(own, 0))?;
                let mut edge = socket.connect(to).await?;
                edge.write_all(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x9c\x40\x20\xfb")
                    .await?;
                copy_bidirectional(&mut client, &mut edge).await
            });
        }
    });
}

const ROUTES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{name: public, sectionName: https}]
  hostnames: [www.example.com]
  rules:
  - matches: [{path: {value: /app}}]
    filters:
    - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-From, value: outside}]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [X-App], set: [{name: X-Edge, value: '1'}]}}
    backendRefs: [{name: mirror, port: 9080}]
  - matches: [{path: {value: /far}}]
    backendRefs: [{name: details, port: 9080}]
  - matches: [{path: {value: /gone}}]
    backendRefs: [{name: nobody, port: 9080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: to-https, namespace: shop}
spec:
  parentRefs: [{name: public, sectionName: http}]
  rules:
  - filters:
    - {type: RequestRedirect, requestRedirect: {scheme: https, port: 8443, statusCode: 301}}
  - matches: [{path: {value: /plain}}]
    filters:
    - {type: RequestRedirect, requestRedirect: {hostname: www.example.org}}
";

struct Edge {
    east: Cluster,
    _west: Cluster,
    _details: Workload,
}

/// Two clusters; the first takes requests from outside. None where a tool is missing.
async fn edge() -> Option<Edge> {
    let mut clusters = [Cluster::new("us-east", "found: true"), Cluster::new("us-west", "")];
    let east = &clusters[0];
    fs::create_dir(east.path("tls")).expect("a directory");
    certify(east, "a", "DNS:www.example.com,DNS:example.com").await?;
    certify(east, "b", "DNS:*.example.org").await?;
    let mut config = fs::read_to_string(east.path("gateway.yaml")).expect("written");
    let (https, http) = (east.at(HTTPS), east.at(CLEAR));
    config += &format!("ingress: {{gateway: public, https: \"{https}\", http: \"{http}\", certificates: tls}}\n");
    config += &format!("proxy_protocol: {{ingress: [{}]}}\n", east.host(BALANCER));
    fs::write(east.path("gateway.yaml"), config).expect("written");
    federate(&mut clusters).await;
    let [east, west] = clusters;
    let details = Workload::exported(&west, "details", 21).await;
    for port in [HTTP, TCP] {
        mirror((east.host(40), port).into()).await;
    }
    let mirror = manifests("mirror", &[east.host(40)], Mesh::None, Offer::Exported);
    // Nobody says what its ports speak.
    east.write("mirror.yaml", &mirror.replace("name: http", "name: a").replace("name: tcp", "name: b"));
    east.write("routes.yaml", ROUTES);
    east.sees("mirror", "us-east", 1).await;
    east.sees("details", "us-west", 1).await;
    Some(Edge { east, _west: west, _details: details })
}

/// What curl gets: the head and body, or what it says of the failure.
async fn curl(cluster: &Cluster, host: &str, path: &str, more: &[&str]) -> String {
    let url = format!("https://{host}:{HTTPS}{path}");
    let resolve = format!("{host}:{HTTPS}:{}", cluster.at(HTTPS).ip());
    let args = ["-s", "-S", "-i", "-k", "--path-as-is", "--max-time", "20", "--resolve", &resolve];
    let output = run("curl", &[&args[..], more, &[&url]].concat()).await.expect("curl runs");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_server_names_are_shown_no_certificate_or_that_of_one_right_name() {
    let Some(edge) = edge().await else {
        return eprintln!("SKIPPED: certificates for clients from outside need openssl");
    };
    // An address is no name, and nothing is shown to who asks for none. Who asks with a dot behind the name, or with more behind that, is
    // shown what is valid for the name; each request's host is then held against it.
    odd_names("edge", edge.east.at(HTTPS), "www.example.com", false).await;
    let served = async || curl(&edge.east, "www.example.com", "/app/", &[]).await.contains(" 200");
    wait_until(SOON, "somebody who asks for one right name", served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_from_outside_reach_services_by_routes() {
    let Some(edge) = edge().await else {
        return eprintln!("SKIPPED: clients from outside need openssl and curl");
    };
    let east = &edge.east;
    let forged = ["-H", "X-Forwarded-For: 1.2.3.4", "-H", "X-Forwarded-Client-Cert: URI=spiffe://forged"];
    wait_until(SOON, "a route", async || curl(east, "www.example.com", "/app/", &[]).await.contains(" 200")).await;
    for version in ["--http1.1", "--http2"] {
        let answer = curl(east, "www.example.com", "/app/x%2Fy/../z?q=%2e", &[&[version], &forged[..]].concat()).await;
        let lower = answer.to_lowercase();
        assert!(answer.contains(" 200") && answer.contains("GET /z?q=%2e HTTP/1.1"), "{version}: {answer}");
        assert!(lower.contains("x-edge: 1") && !lower.contains("x-app: 1"), "{version}: {answer}");
        for said in [
            "x-from: outside",
            "x-forwarded-proto: https",
            "x-forwarded-host: www.example.com",
            "x-forwarded-port: 8443",
            "x-forwarded-for: 127.",
            "host: mirror.shop.svc.clusterset.local:9080",
        ] {
            assert!(lower.contains(said), "{version}: {said}: {answer}");
        }
        assert!(!answer.contains("1.2.3.4") && !answer.contains("forged"), "{version}: {answer}");
    }
    // A service of another cluster, by this one's gateway.
    let answer = curl(east, "www.example.com", "/far", &[]).await;
    assert!(answer.contains("\"cluster\": \"us-west\""), "{answer}");

    for (path, more, expected) in [
        ("/", &[][..], " 404"),
        ("/application", &[], " 404"),
        ("/gone", &[], " 500"),
        ("/app/../far", &[], "us-west"),
        ("/app/..%2ffar", &[], " 400"),
        ("/app/..;/far", &[], " 400"),
        ("/app/..%5cfar", &["--http2"], " 400"),
        ("/app", &["-H", "Host: shop.example.org"], " 421"),
        ("/app", &["-H", "Host: shop.example.org", "--http2"], " 421"),
        ("/app", &["-H", "Host: example.com"], " 404"),
        ("/app", &["--tls-max", "1.2"], "curl: ("),
        ("/app", &["--http1.1", "-X", "CONNECT"], " 405"),
        // What the application does not do is not told in the words of whoever asked it.
        ("/app", &["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"], " 501"),
    ] {
        let answer = curl(east, "www.example.com", path, more).await;
        assert!(answer.contains(expected), "{path} {more:?}: {answer}");
        assert!(!answer.contains("127."), "nothing of the inside is told: {answer}");
    }
    let unknown = curl(east, "www.example.net", "/app", &[]).await;
    assert!(unknown.contains("curl: (35)"), "no certificate is shown for another name: {unknown}");
    let clear = format!("http://{}/a/b?c", east.at(CLEAR));
    let moved = run("curl", &["-s", "-i", "-H", "Host: www.example.com", &clear]).await.expect("curl runs");
    let moved = String::from_utf8_lossy(&moved.stdout).to_lowercase();
    assert!(moved.contains(" 301") && moved.contains("location: https://www.example.com:8443/a/b?c"), "{moved}");

    // To where it listens, whatever port the client thinks it calls.
    let plain = format!("http://{}/plain", east.at(CLEAR));
    let moved = run("curl", &["-s", "-i", "-H", "Host: www.example.com:4711", &plain]).await.expect("curl runs");
    let moved = String::from_utf8_lossy(&moved.stdout).to_lowercase();
    assert!(moved.contains(" 302") && moved.contains("location: http://www.example.org:8080/plain\r"), "{moved}");

    // A renewed certificate is shown without a restart; in place of a broken one its last good one, and the others are renewed.
    fs::write(east.path("tls/b.key"), "broken").expect("written");
    certify(east, "a", "DNS:www.example.com,DNS:www.example.net").await;
    assert!(curl(east, "www.example.com", "/app", &[]).await.contains(" 200"));
    wait_until(SOON, "the new certificate", async || curl(east, "www.example.net", "/", &[]).await.contains(" 404"))
        .await;
    assert!(curl(east, "shop.example.org", "/", &[]).await.contains(" 404"), "the last good one is shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_load_balancer_the_client_is_who_it_says() {
    let Some(edge) = edge().await else {
        return eprintln!("SKIPPED: clients from outside need openssl and curl");
    };
    let east = &edge.east;
    balancer(east).await;
    let its_address = east.host(BALANCER).to_string();
    let through = format!("www.example.com:{HTTPS}:{its_address}:{HTTPS}");
    let served = async || curl(east, "www.example.com", "/app/", &[]).await.contains(" 200");
    wait_until(SOON, "a route", served).await;
    for version in ["--http1.1", "--http2"] {
        let args = [version, "--connect-to", &through, "-H", "X-Forwarded-For: 1.2.3.4"];
        let answer = curl(east, "www.example.com", "/app/", &args).await;
        assert!(answer.contains(" 200") && answer.contains("x-forwarded-for: 192.0.2.7\n"), "{version}: {answer}");
    }
    let wordless = curl(east, "www.example.com", "/app/", &["--interface", &its_address]).await;
    assert!(wordless.starts_with("curl: ("), "what comes from there without a header is closed: {wordless}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_outside_may_be_called_if_they_are_listed() {
    let mut east = Cluster::new("us-east", "found: true");
    east.start(None);
    east.ready().await;
    let outside = SocketAddr::new(east.host(50).into(), 8088);
    mirror(outside).await;
    let entry = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: payments, namespace: shop}}\nspec:\n  \
         hosts: [api.example.com, \"*.example.org\"]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  \
         endpoints: [{{address: {}}}]\n  ports:\n  - {{number: 80, protocol: HTTP, targetPort: 8088}}\n  \
         - {{number: 443, protocol: TLS, targetPort: 8088}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: local, namespace: shop}}\nspec:\n  \
         hosts: [no-such-name.example.net]\n  ports: [{{number: 80, protocol: HTTP}}]\n---\n{}",
        outside.ip(),
        service_export("ghost")
    );
    east.write("outside.yaml", &entry);
    let proxy = format!("http://{}", east.at(port::EGRESS));
    let curl = async |args: &[&str]| {
        let base = ["-s", "-S", "-i", "--max-time", "20", "-x", &proxy];
        let output = run("curl", &[&base[..], args].concat()).await?;
        Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    if curl(&["http://api.example.com/"]).await.is_none() {
        return eprintln!("SKIPPED: hosts outside need curl");
    }
    wait_until(SOON, "the entry", async || {
        curl(&["http://api.example.com/"]).await.is_some_and(|a| a.contains(" 200"))
    })
    .await;
    let secret = "X-Forwarded-Client-Cert: URI=spiffe://us-east.acme.mesh/ns/shop/sa/x";
    let answer = curl(&["-H", secret, "http://api.example.com/pay?a=b"]).await.expect("curl runs");
    assert!(answer.contains("GET /pay?a=b HTTP/1.1") && answer.contains("host: api.example.com\n"), "{answer}");
    assert!(!answer.to_lowercase().contains("forwarded"), "nothing of the mesh goes out: {answer}");
    for (args, expected) in [
        (&["-p", "http://shop.example.org:443/x"][..], "GET /x HTTP/1.1"),
        (&["-p", "http://api.example.com/y"], "GET /y HTTP/1.1"),
        (&["http://api.example.com:443/"], " 403"),
        (&["http://api.example.com:81/"], "a ServiceEntry allows 80, 443"),
        (&["http://example.org/"], " 403"),
        (&["-p", "http://evil.example:443/"], "403"),
        (&["-p", "http://169.254.169.254:80/"], "403"),
        (&["http://127.0.0.1:15000/v1/status"], " 403"),
        (&["http://no-such-name.example.net/"], " 502"),
    ] {
        let answer = curl(args).await.expect("curl runs");
        assert!(answer.contains(expected), "{args:?}: {answer}");
    }
    east.remove("outside.yaml");
    wait_until(SOON, "the entry to be gone", async || {
        curl(&["http://api.example.com/"]).await.is_some_and(|answer| answer.contains(" 403"))
    })
    .await;
    tokio::time::timeout(Duration::from_secs(1), async { east.status().await }).await.expect("the gateway is well");
}
