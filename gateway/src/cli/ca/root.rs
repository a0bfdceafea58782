//! `isthmus ca root`.

use std::path::PathBuf;
use std::time::SystemTime;

use isthmus_identity::RootAuthority;
use isthmus_model::name::FederationDomain;
use isthmus_model::time::UnixMillis;

use crate::cli::{CliError, Output, print, time};

use super::failed;

pub(super) const EXAMPLES: &str = "\
Makes DIR/root.key (mode 0600) and DIR/root.crt. The key never leaves DIR: keep the directory,
and a copy of it, away from every network. root.crt is no secret; `isthmus init --root offline`
and `isthmus ca rotate --root offline` need it. An existing root is not replaced.

Examples:
  isthmus ca root --federation acme.mesh --out root
  isthmus ca root --federation acme.mesh --out root -o json | jq -r .root";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The federation that it is to be the root of
    #[arg(long)]
    federation: FederationDomain,
    /// Where to keep it; made if need be, for its owner only
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn run(args: &Args, output: Output) -> Result<(), CliError> {
    let Args { federation, out } = args;
    if RootAuthority::is_in(out) {
        return Err(failed(out, "there is a root in it already, and it is not replaced: name another directory"));
    }
    let root = RootAuthority::create(federation, SystemTime::now()).map_err(|error| failed(out, error))?;
    root.save(out).map_err(|error| failed(out, error))?;
    let not_after = UnixMillis::from(root.not_after());
    match output {
        Output::Json => {
            let answer = serde_json::json!({
                "federation": federation, "root": root.digest(), "not_after": not_after, "directory": out,
            });
            print(&format!("{answer:#}\n"))
        }
        Output::Table => print(&format!(
            "root of {federation}, valid until {}\nkey  {}\n\
             Keep {dir}/root.key here. Take {dir}/root.crt to the first gateway:\n  \
             isthmus init --config FILE --root offline --root-cert root.crt\n\
             or to a gateway of a running federation, whose root it shall replace:\n  \
             isthmus ca rotate --root offline --root-cert root.crt\n",
            time::moment(not_after),
            root.digest(),
            dir = out.display()
        )),
    }
}
