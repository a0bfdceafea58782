//! `isthmus ca import`.

use std::path::PathBuf;

use super::{failed, read};
use crate::admin::api::{CaIssued, CaRequests};
use crate::ca_files::{Signed, SignedFile};
use crate::cli::client;
use crate::cli::table::Table;
use crate::cli::{Asker, CliError, Output, print, tell, time};

pub(super) const EXAMPLES: &str = "\
Each certificate is verified against the federation's root and the request that waits for it,
and then agreed on. Importing a file again changes nothing. Importing needs the Unix socket
(--admin unix:PATH), in a cluster that administers the federation.

Examples:
  isthmus ca import signed.json
  isthmus --admin unix:/var/lib/isthmus/admin.sock ca import signed.json";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// What `isthmus ca sign` wrote
    file: PathBuf,
}

pub(super) async fn run(asker: &Asker, args: &Args) -> Result<(), CliError> {
    let SignedFile { federation, root, entries, .. } = read::<Signed>(&args.file)?;
    let own: CaRequests = typed(asker.client.get("/v1/ca/requests").await?)?;
    if federation != own.federation || root != own.root {
        let (ours, why) = (&own.federation, "signed for another federation or by another root");
        let told = format!("{why}: for {federation} by {root}; this gateway's is {ours}, {}", own.root);
        return Err(failed(&args.file, told));
    }
    let (mut taken, mut refused) = (Vec::new(), 0);
    // One at a time, so that one bad entry keeps no other gateway waiting.
    for signed in &entries {
        match asker.client.post("/v1/ca/certificates", signed).await {
            Ok(answer) => taken.push(typed::<CaIssued>(answer)?),
            Err(CliError::Failed(why)) => {
                refused += 1;
                tell(format_args!("isthmus: {}: {why}", args.file.display()));
            }
            Err(error) => return Err(error),
        }
    }
    match asker.output {
        Output::Json => print(&format!("{:#}\n", serde_json::json!({ "issued": taken })))?,
        Output::Table if taken.is_empty() => {}
        Output::Table => print(&table(&taken))?,
    }
    if refused > 0 {
        return Err(CliError::Failed(format!("{refused} of {} answers were refused", entries.len())));
    }
    Ok(())
}

fn typed<T: serde::de::DeserializeOwned>(answer: serde_json::Value) -> Result<T, CliError> {
    serde_json::from_value(answer).map_err(|error| client::unreadable(&error))
}

fn table(issued: &[CaIssued]) -> String {
    let mut table = Table::new(&["GATEWAY", "NODE", "CERTIFICATES END", "RESULT"]);
    for issued in issued {
        table.row([
            format!("{}/{}", issued.cluster, issued.gateway),
            issued.node.to_string(),
            time::moment(issued.certificates_end),
            if issued.changed { "taken".to_owned() } else { "was there already".to_owned() },
        ]);
    }
    table.to_string()
}
