//! Where the root's key is: offline with an operator, or an operator's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use isthmus_tests::harness::wait_until;
use serde_json::Value;

use crate::federation::{Cluster, DOMAIN, SOON, metric, port, settled, text};
use crate::vault::{SIGN, Vault, ca, done, imported, isthmus, refused, run, told};

/// Far more than what a certificate that is due at once has, and far less than what `ca sign` gives.
const DAY_MS: u64 = 24 * 3600 * 1000;

/// Nobody but the owner can get at a file, or at what it is in.
fn assert_private(path: &Path) {
    let mode = fs::metadata(path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
}

/// Every key below a directory. None is readable by others.
fn assert_keys_private(directory: &Path, at_least: usize) {
    let mut waiting = vec![directory.to_owned()];
    let mut keys = 0;
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "key") {
                assert_private(&path);
                keys += 1;
            }
        }
    }
    assert!(keys >= at_least, "{keys} keys below {}", directory.display());
}

const INIT_SIGNED: [&str; 5] = ["init", "--config", "gateway.yaml", "--signed", "signed.json"];
const INIT_OFFLINE: [&str; 7] = ["init", "--config", "gateway.yaml", "--root", "offline", "--root-cert", "root.crt"];

/// Changes one digit of the first certificate in the file.
fn tamper(cluster: &Cluster) {
    let path = cluster.path("signed.json");
    let mut file: Value = serde_json::from_slice(&fs::read(&path).expect("there")).expect("JSON");
    let certificate = &mut file["entries"][0]["certificates"]["gateway"];
    let mut digits = text(certificate);
    let last = if digits.ends_with('0') { "1" } else { "0" };
    digits.replace_range(digits.len() - 1.., last);
    *certificate = digits.into();
    fs::write(path, file.to_string()).expect("written");
}

async fn waiting(cluster: &Cluster) -> Vec<Value> {
    let answer = cluster.ask(["ca", "pending"]).await;
    assert_eq!(answer["offline"], true, "{answer}");
    answer["requests"].as_array().expect("a list").clone()
}

async fn import_refused(cluster: &Cluster, reason: &str) {
    let output = ca(cluster, &["import", "signed.json"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains(reason), "{}", told(&output));
}

/// Founds a federation under the vault's root, with certificates that are due at once.
async fn founded_from_files(vault: &Vault) -> Cluster {
    let mut east = Cluster::new("us-east", "");
    fs::copy(vault.path().join("root/root.crt"), east.path("root.crt")).expect("carried");
    done(east.directory(), &INIT_OFFLINE).await;

    // Started too early, the gateway says what its founding waits for, and founds nothing else.
    let mut early = east.spawn("early", ["gateway", "--config", "gateway.yaml"]);
    assert_eq!(early.wait(SOON).await.code(), Some(1));
    assert!(early.stderr().contains("isthmus init --signed"), "{}", early.stderr());
    refused(east.directory(), &["init", "--config", "gateway.yaml"], "waits for its root").await;

    // The operator has to say yes.
    fs::copy(east.path("requests.json"), vault.path().join("requests.json")).expect("carried in");
    refused(vault.path(), &SIGN[..8], "nothing was signed").await;
    assert!(!vault.path().join("signed.json").exists());

    // Asking again is the same request, and what was changed on the way is refused.
    done(east.directory(), &INIT_OFFLINE).await;
    vault.sign(&east).await;
    tamper(&east);
    refused(east.directory(), &INIT_SIGNED, "the gateway certificate cannot be used").await;
    vault.sign_shortly(&east);
    done(east.directory(), &INIT_SIGNED).await;
    done(east.directory(), &INIT_SIGNED).await;
    assert!(!east.path("data/founding.request.json").exists());
    east.start(None);
    east.ready().await;
    east
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offline_root_founds_renews_and_admits_from_files() {
    let vault = Vault::new(DOMAIN).await;
    let again = ["ca", "root", "--federation", DOMAIN, "--out", "root"];
    refused(vault.path(), &again, "it is not replaced").await;
    assert_private(&vault.path().join("root"));
    assert_keys_private(vault.path(), 1);
    let east = founded_from_files(&vault).await;

    // The founder's renewal waits, and its present certificates serve meanwhile.
    wait_until(SOON, "the renewal to wait", async || waiting(&east).await.len() == 1).await;
    let renewal = waiting(&east).await.remove(0);
    let ends = renewal["certificates_end"].as_u64().expect("it has certificates");
    let status = east.status().await["issuance"].clone();
    assert_eq!((status["waiting"].as_u64(), status["own_certificates_end"].as_u64()), (Some(1), Some(ends)));
    assert!(status["longest_wait_ms"].is_u64(), "{status}");
    let metrics = east.at(port::METRICS);
    assert_eq!(metric(metrics, "isthmus_issuance_waiting", "").await, Some(1.0));
    assert_eq!(metric(metrics, "isthmus_certificates_end_timestamp_seconds", "").await, Some((ends / 1000) as f64));
    wait_until(SOON, "the wait to be counted", async || {
        metric(metrics, "isthmus_issuance_longest_wait_seconds", "").await >= Some(1.0)
    })
    .await;
    let exported = ca(&east, &["pending", "--export", "requests.json"]).await;
    assert!(exported.status.success(), "{}", told(&exported));
    vault.sign(&east).await;
    assert_eq!(imported(&east).await, true);
    wait_until(SOON, "the new certificates", async || {
        let issuance = east.status().await["issuance"].clone();
        issuance["waiting"] == 0 && issuance["own_certificates_end"].as_u64() > Some(ends + DAY_MS)
    })
    .await;

    // A second cluster joins, and waits until it is signed for.
    let token = east.join_token("us-west").await;
    let mut west = Cluster::new("us-west", "");
    west.start(Some(&token));
    west.process().wait_for_output(SOON, "waiting for an operator to sign this gateway's certificates").await;
    let revision = east.revision().await;
    let asked = waiting(&east).await;
    assert_eq!((asked.len(), &asked[0]["cluster"]), (1, &Value::from("us-west")));
    assert!(asked[0]["certificates_end"].is_null(), "{asked:?}");
    assert!(ca(&east, &["pending", "--export", "requests.json"]).await.status.success());

    // What others signed is nothing here, and the vault signs nothing for others.
    let stranger = Vault::new(DOMAIN).await;
    stranger.sign_shortly(&east);
    import_refused(&east, "by another root").await;
    fs::copy(east.path("requests.json"), stranger.path().join("requests.json")).expect("carried in");
    refused(stranger.path(), &SIGN, "it asks another root").await;
    let foreign = fs::read_to_string(east.path("requests.json")).expect("there").replace(DOMAIN, "other.mesh");
    fs::write(vault.path().join("requests.json"), foreign).expect("written");
    refused(vault.path(), &SIGN, "which the root was not made for").await;
    vault.sign(&east).await;
    tamper(&east);
    import_refused(&east, "us-west/gw-1: the gateway certificate cannot be used").await;
    assert_eq!(east.revision().await, revision, "none of it changed anything");

    vault.sign(&east).await;
    assert_eq!(imported(&east).await, true);
    for cluster in [&east, &west] {
        settled(cluster, 2).await;
    }
    assert_eq!(imported(&east).await, false, "the second time changes nothing");
    assert_keys_private(&east.path("data"), 3);
    assert_keys_private(&west.path("data"), 3);
}

/// Makes CA certificates with `openssl` in a directory. `Ok(false)` where there is none.
async fn has_openssl(directory: &Path) -> bool {
    let mut version = tokio::process::Command::new("openssl");
    version.current_dir(directory).arg("version").output().await.is_ok_and(|output| output.status.success())
}

async fn openssl(directory: &Path, line: &str) {
    let args: Vec<&str> = line.split_whitespace().collect();
    let output = run(directory, "openssl", &args).await;
    assert!(output.status.success(), "openssl {line}: {}", told(&output));
}

const CA: &str = "-addext basicConstraints=critical,CA:TRUE,pathlen:1 -addext keyUsage=critical,keyCertSign";
/// What `openssl ca` needs to write a certificate with dates of one's choice.
const OPENSSL_CA: &str = "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\n\
    default_md=sha256\npolicy=p\nx509_extensions=e\n[p]\ncommonName=supplied\n\
    [e]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n";

/// An intermediate CA (`own`) that a root (`top`) signed, and every kind of certificate that must not be one's root.
async fn make_authorities(directory: &Path) {
    for name in ["top", "own"] {
        openssl(directory, &format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}.key")).await;
    }
    openssl(directory, &format!("req -x509 -new -key top.key -days 800 -subj /CN=top {CA} -out top.crt")).await;
    let own = "req -x509 -new -key own.key -CA top.crt -CAkey top.key -subj /O=Acme/CN=mesh -days 400";
    openssl(directory, &format!("{own} {CA} -out own.crt")).await;
    openssl(directory, &format!("req -x509 -new -key own.key -days 20 -subj /CN=short {CA} -out short.crt")).await;
    let leafy = CA.replace("pathlen:1", "pathlen:0");
    openssl(directory, &format!("req -x509 -new -key own.key -days 400 -subj /CN=leafy {leafy} -out leafy.crt")).await;
    let bound = format!("{CA} -addext nameConstraints=permitted;DNS:acme.mesh");
    openssl(directory, &format!("req -x509 -new -key own.key -days 400 -subj /CN=bound {bound} -out bound.crt")).await;
    let rsa = "req -x509 -newkey rsa:2048 -nodes -keyout rsa.key -subj /CN=rsa -days 400";
    openssl(directory, &format!("{rsa} {CA} -out rsa.crt")).await;
    fs::write(directory.join("ca.cnf"), OPENSSL_CA).expect("written");
    fs::write(directory.join("index.txt"), "").expect("written");
    openssl(directory, "req -new -key own.key -subj /CN=past -out past.csr").await;
    let dates = "-startdate 20200101000000Z -enddate 20210101000000Z -notext";
    openssl(
        directory,
        &format!("ca -selfsign -batch -config ca.cnf -in past.csr -keyfile own.key {dates} -out past.crt"),
    )
    .await;
    openssl(directory, "ec -in own.key -out sec1.key").await;
    fs::copy(directory.join("own.key"), directory.join("open.key")).expect("copied");
    for (name, mode) in [("open.key", 0o644), ("own.key", 0o600), ("top.key", 0o600), ("sec1.key", 0o600)] {
        fs::set_permissions(directory.join(name), fs::Permissions::from_mode(mode)).expect("changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_own_authority_founds_and_an_unfit_one_is_refused_with_the_reason() {
    let mut east = Cluster::new("us-east", "");
    let directory = east.directory().to_owned();
    if !has_openssl(&directory).await {
        eprintln!("SKIPPED: there is no openssl to make certificates with");
        return;
    }
    make_authorities(&directory).await;
    for (certificate, key, reason) in [
        ("rsa.crt", "rsa.key", "its key is not ECDSA on P-256"),
        ("leafy.crt", "own.key", "its path length of 0"),
        ("bound.crt", "own.key", "it has name constraints"),
        ("past.crt", "own.key", "it has expired"),
        ("short.crt", "own.key", "it ends in less than 180 days"),
        ("own.crt", "top.key", "it is not the key of own.crt"),
        ("own.crt", "open.key", "readable beyond its owner"),
        ("own.crt", "sec1.key", "openssl pkcs8 -topk8"),
        ("own.key", "own.key", "does not hold a PEM certificate"),
        ("nothing.crt", "own.key", "nothing.crt"),
    ] {
        let args = ["init", "--config", "gateway.yaml", "--root-cert", certificate, "--root-key", key];
        refused(&directory, &args, reason).await;
        assert!(!east.path("data/founding.json").exists() && !east.path("data/node.json").exists(), "{certificate}");
    }
    let half = isthmus(&directory, &["init", "--config", "gateway.yaml", "--root-cert", "own.crt"]).await;
    assert_eq!(half.status.code(), Some(2), "{}", told(&half));

    let own = ["init", "--config", "gateway.yaml", "--root-cert", "own.crt", "--root-key", "own.key"];
    done(&directory, &own).await;
    done(&directory, &own).await;
    let other = ["init", "--config", "gateway.yaml", "--root-cert", "top.crt", "--root-key", "top.key"];
    refused(&directory, &other, "under another root already").await;
    // It is sealed: the files are not needed any more, and no copy of the key is anywhere.
    let key = fs::read_to_string(directory.join("own.key")).expect("there");
    let secret = key.lines().nth(1).expect("a line of base64").to_owned();
    for name in ["own.key", "own.crt", "sec1.key", "open.key"] {
        fs::remove_file(directory.join(name)).expect("it was there");
    }
    for name in ["founding.json", "node.json"] {
        let file = fs::read_to_string(east.path("data").join(name)).expect("there");
        assert!(!file.contains(&secret), "{name}");
        assert_private(&east.path("data").join(name));
    }
    east.start(None);
    east.ready().await;
    let token = east.join_token("us-west").await;
    let mut west = Cluster::new("us-west", "");
    west.start(Some(&token));
    for cluster in [&east, &west] {
        settled(cluster, 2).await;
    }
    assert_keys_private(&east.path("data"), 3);
}
