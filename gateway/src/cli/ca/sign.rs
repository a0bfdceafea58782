//! `isthmus ca sign`: works from files alone, on a machine without a network.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Read as _};
use std::path::PathBuf;
use std::time::SystemTime;

use isthmus_identity::{INTERMEDIATE_LIFETIME, RootAuthority};
use isthmus_model::spiffe::SpiffeId;
use isthmus_model::time::UnixMillis;

use super::{failed, gateways, read, write};
use crate::ca_files::{Asking, RequestsFile, Signed, SignedFile};
use crate::cli::{CliError, Output, print, tell, time};
use crate::config::duration;

pub(super) const EXAMPLES: &str = "\
Shows whose keys it is about to certify, and asks. Compare them with `isthmus ca pending` at a
gateway that you trust: whoever could change the file on its way can put other keys in it.
Requests for another federation or another root, and requests that are not made with their
own keys, are refused; then nothing is signed.

Examples:
  isthmus ca sign --root-dir root --requests requests.json --out signed.json
  isthmus ca sign --root-dir root --requests requests.json --out signed.json --yes";

/// What a person may type: `yes` and the end of the line.
const ANSWER_BYTES_MAX: u64 = 8;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The directory with root.key and root.crt
    #[arg(long, value_name = "DIR")]
    root_dir: PathBuf,
    /// What to sign: from `isthmus ca pending --export`, or from `isthmus init`
    #[arg(long, value_name = "FILE")]
    requests: PathBuf,
    /// Where to write what was signed
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Sign without asking
    #[arg(short, long)]
    yes: bool,
}

pub(super) fn run(args: &Args, output: Output) -> Result<(), CliError> {
    let requests: RequestsFile = read(&args.requests)?;
    let refused = |why: String| failed(&args.requests, why);
    requests.check().map_err(|error| refused(error.to_string()))?;
    if requests.entries.is_empty() {
        return Err(refused("it asks for nothing".to_owned()));
    }
    let federation = requests.federation.clone();
    let root = RootAuthority::load(&args.root_dir, federation).map_err(|error| failed(&args.root_dir, error))?;
    if root.is_made_for_another() {
        return Err(refused(format!("it is for {}, which the root was not made for", requests.federation)));
    }
    if root.digest() != requests.root {
        let (asked, own) = (requests.root, root.digest());
        return Err(refused(format!("it asks another root: {asked}, and this is {own}")));
    }
    tell(summary(&root, &requests));
    if !args.yes && !confirmed()? {
        return Err(CliError::Failed("nothing was signed".to_owned()));
    }
    let sign = |asking: &Asking| sign(&root, asking).map_err(|error| refused(error.to_string()));
    let signed = requests.entries.iter().map(sign).collect::<Result<Vec<_>, _>>()?;
    let signed = SignedFile::new(requests.federation, root.digest(), signed);
    write(&args.out, &signed)?;
    report(args, &signed, output)
}

fn sign(root: &RootAuthority, asking: &Asking) -> Result<Signed, isthmus_identity::IdentityError> {
    let Asking { cluster, gateway, requests } = asking.clone();
    let identity = SpiffeId::gateway(root.federation().trust_domain(&cluster), gateway.clone());
    let certificates = root.certify(&requests, &identity, INTERMEDIATE_LIFETIME, SystemTime::now())?;
    Ok(Signed { cluster, gateway, authority_key: requests.authority_key, certificates })
}

/// What is about to be signed.
fn summary(root: &RootAuthority, requests: &RequestsFile) -> String {
    let ends = time::moment(UnixMillis::from(root.not_after()));
    let mut text = format!(
        "federation  {}\nroot        {}, until {ends}\nto certify  {}, for {} at most\n",
        requests.federation,
        root.digest(),
        gateways(requests.entries.len()),
        duration::format(INTERMEDIATE_LIFETIME)
    );
    for Asking { cluster, gateway, requests } in &requests.entries {
        let (own, authority) = (requests.gateway_key, requests.authority_key);
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{cluster}/{gateway}\n  gateway key  {own}\n  cluster key  {authority}\n");
    }
    text
}

fn confirmed() -> Result<bool, CliError> {
    tell("Sign? Type yes:");
    let mut answer = String::new();
    let input = io::stdin();
    if input.is_terminal() {
        input.read_line(&mut answer)?;
    } else {
        // Whatever else it is, it is not more than a yes.
        input.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    }
    Ok(answer.trim() == "yes")
}

fn report(args: &Args, signed: &SignedFile, output: Output) -> Result<(), CliError> {
    let out = args.out.display();
    match output {
        Output::Json => {
            let entry = |signed: &Signed| {
                serde_json::json!({
                    "cluster": signed.cluster, "gateway": signed.gateway,
                    "certificates_end": signed.certificates.not_after,
                })
            };
            let entries: Vec<_> = signed.entries.iter().map(entry).collect();
            let answer = serde_json::json!({ "root": signed.root, "file": args.out, "signed": entries });
            print(&format!("{answer:#}\n"))
        }
        Output::Table => print(&format!(
            "signed for {}: {out}\nTake it to a gateway of the federation: isthmus ca import {out}\n\
             or, for the first gateway: isthmus init --config FILE --signed {out}\n",
            gateways(signed.entries.len())
        )),
    }
}
