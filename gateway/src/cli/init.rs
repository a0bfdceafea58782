//! `isthmus init`: where the root's key shall be, chosen before the first gateway starts.

use std::path::{Path, PathBuf};

use isthmus_federation::data_dir::DataDir;
use isthmus_federation::enroll::{self, EnrollError, GatewayName, Member};
use isthmus_identity::{RootAuthority, RootCertificate, certificate_key_digest};
use isthmus_model::registry::token::Digest;
use serde_json::json;

use super::ca::{failed, read, write};
use super::root_source::{RootArgs, RootSource};
use super::{CliError, Output, print};
use crate::ca_files::{Asking, RequestsFile, Signed, SignedFile};
use crate::config::GatewayConfig;

pub(super) const EXAMPLES: &str = "\
Prepares the data directory of the first gateway of a federation; `isthmus gateway` then founds it. Three ways:

  sealed    a new root; its key is sealed to the gateways that vote, and is written down nowhere.
            `found: true` in the configuration does the same without this command
  your own  a root or intermediate CA of yours: P-256, no path length or at least 1, no name
            constraints, valid for 180 days yet; its key is sealed the same way, the files
            are not copied
  offline   the key stays with you: joins and renewals wait until you sign them (`isthmus ca`)

Examples:
  # Sealed
  isthmus init --config gateway.yaml
  # Your own: PEM, the key as PKCS#8 with mode 0600
  isthmus init --config gateway.yaml --root-cert ca.crt --root-key ca.key
  # Offline, with root.crt from `isthmus ca root` on another machine
  isthmus init --config gateway.yaml --root offline --root-cert root.crt
  isthmus init --config gateway.yaml --signed signed.json";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The first gateway's configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    root: RootArgs,
    /// Where to write what the offline root has to sign
    #[arg(long, value_name = "FILE", default_value = "requests.json")]
    requests: PathBuf,
    /// What the offline root signed: goes on with a founding that was begun with --root offline
    #[arg(long, value_name = "FILE", conflicts_with_all = ["root", "root_cert", "root_key", "requests"])]
    signed: Option<PathBuf>,
}

pub(super) fn run(args: &Args, output: Output) -> Result<(), CliError> {
    let config = GatewayConfig::load(&args.config)?;
    let name = config.gateway_name(config.advertised(config.listen.east_west));
    let data = DataDir::open(&config.data_dir).map_err(told)?;
    let member = enroll::resume(&name, &data).map_err(told)?;
    if let Some(file) = &args.signed {
        return signed(args, &name, &data, member, file, output);
    }
    match args.root.read(&name.federation)? {
        RootSource::Unsaid | RootSource::New => sealed(args, &name, &data, member, None, output),
        RootSource::Own(root) => sealed(args, &name, &data, member, Some(root), output),
        RootSource::Offline(root) => offline(args, &name, &data, member, &root, output),
    }
}

fn told(error: impl std::fmt::Display) -> CliError {
    CliError::Failed(error.to_string())
}

fn sealed(
    args: &Args,
    name: &GatewayName,
    data: &DataDir,
    member: Option<Member>,
    root: Option<RootAuthority>,
    output: Output,
) -> Result<(), CliError> {
    let wanted = root.as_ref().map(RootAuthority::digest);
    let member = match (member, root) {
        (Some(member), _) => member,
        (None, Some(root)) => enroll::found_under(name, data, || Ok(root)).map_err(told)?,
        (None, None) => enroll::found(name, data).map_err(told)?,
    };
    prepared(args, &member, wanted, output)
}

fn offline(
    args: &Args,
    name: &GatewayName,
    data: &DataDir,
    member: Option<Member>,
    root: &RootCertificate,
    output: Output,
) -> Result<(), CliError> {
    if let Some(member) = member {
        return prepared(args, &member, Some(root.key()), output);
    }
    let requests = enroll::ask_root(name, data, root).map_err(told)?;
    let asking = Asking { cluster: name.cluster.clone(), gateway: name.gateway.clone(), requests };
    write(&args.requests, &RequestsFile::new(name.federation.clone(), root.key(), vec![asking.clone()]))?;
    let Asking { requests, .. } = asking;
    match output {
        Output::Json => {
            let answer = json!({
                "state": "waiting", "federation": name.federation, "root": root.key(), "requests": args.requests,
                "gateway_key": requests.gateway_key, "cluster_key": requests.authority_key,
            });
            print(&format!("{answer:#}\n"))
        }
        Output::Table => print(&format!(
            "The founding of {} waits for its root, whose key is offline.\n  gateway key  {}\n  cluster key  {}\n\
             1. Where the key is: isthmus ca sign --root-dir DIR --requests {} --out signed.json\n\
             2. Here: isthmus init --config {} --signed signed.json\n",
            name.federation,
            requests.gateway_key,
            requests.authority_key,
            args.requests.display(),
            args.config.display()
        )),
    }
}

fn signed(
    args: &Args,
    name: &GatewayName,
    data: &DataDir,
    member: Option<Member>,
    path: &Path,
    output: Output,
) -> Result<(), CliError> {
    let file: SignedFile = read::<Signed>(path)?;
    if file.federation != name.federation {
        let why = format!("it is for federation {}, the configuration says {}", file.federation, name.federation);
        return Err(failed(path, why));
    }
    let found = |_| enroll::found_signed(name, data, |requests| file.answer_to(requests).cloned());
    let member = match member {
        Some(member) => member,
        None => found(()).map_err(|error| match error {
            EnrollError::Identity(_) | EnrollError::NotForThisGateway => failed(path, error),
            error => told(error),
        })?,
    };
    prepared(args, &member, Some(file.root), output)
}

/// Tells that the gateway can start, unless what it is a member of has another root than was `wanted`.
fn prepared(args: &Args, member: &Member, wanted: Option<Digest>, output: Output) -> Result<(), CliError> {
    let roots: Vec<Digest> = member.roots.iter().filter_map(|root| certificate_key_digest(root).ok()).collect();
    if wanted.is_some_and(|wanted| !roots.contains(&wanted)) {
        let directory = member.data.path().display();
        return Err(CliError::Failed(format!(
            "{directory} belongs to a gateway under another root already: use an empty data_dir to found anew"
        )));
    }
    let name = &member.name;
    match output {
        Output::Json => {
            let answer = json!({ "state": "prepared", "federation": name.federation, "root": roots.first() });
            print(&format!("{answer:#}\n"))
        }
        Output::Table => {
            let root = roots.first().map(ToString::to_string).unwrap_or_default();
            let config = args.config.display();
            print(&format!(
                "{} of {} is prepared, under root {root}.\nStart it: isthmus gateway --config {config}\n",
                name.cluster, name.federation
            ))
        }
    }
}
