//! `isthmus ca pending`.

use std::path::PathBuf;

use super::{gateways, write};
use crate::admin::api::{CaRequest, CaRequests};
use crate::ca_files::{Asking, RequestsFile};
use crate::cli::client;
use crate::cli::table::Table;
use crate::cli::{Asker, CliError, tell, time};

pub(super) const EXAMPLES: &str = "\
Shows gateways that join and gateways that renew; those keep their present certificates until
these end. With a root that is sealed in the registry, voters sign within seconds and the list
is empty.

Examples:
  isthmus ca pending
  isthmus ca pending --export requests.json
  isthmus ca pending -o json | jq '.requests[] | {cluster, waiting_ms, certificates_end}'";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Write what waits into a file, for `isthmus ca sign` on the machine that keeps the root's key
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
}

pub(super) async fn run(asker: &Asker, args: &Args) -> Result<(), CliError> {
    let answer = asker.client.get("/v1/ca/requests").await?;
    if let Some(path) = &args.export {
        let waiting: CaRequests = serde_json::from_value(answer.clone()).map_err(|error| client::unreadable(&error))?;
        if !waiting.offline {
            let why = "the root's key is sealed to the voters, which sign by themselves: there is nothing to export";
            return Err(CliError::Failed(why.to_owned()));
        }
        if waiting.requests.is_empty() {
            return Err(CliError::Failed("nothing waits for the root: no file was written".to_owned()));
        }
        let who = gateways(waiting.requests.len());
        write(path, &file(waiting))?;
        let shown = path.display();
        tell(format_args!("requests of {who} in {shown}; where the root's key is: isthmus ca sign --requests {shown}"));
    }
    asker.print(answer, table)
}

fn file(waiting: CaRequests) -> RequestsFile {
    let asking = |CaRequest { cluster, gateway, requests, .. }: CaRequest| Asking { cluster, gateway, requests };
    let CaRequests { federation, root, requests, .. } = waiting;
    RequestsFile::new(federation, root, requests.into_iter().map(asking).collect())
}

pub(in crate::cli) fn table(waiting: &CaRequests) -> String {
    let who = if waiting.offline { "an operator signs" } else { "voters sign" };
    if waiting.requests.is_empty() {
        return format!("nothing waits for the root; {who}\n");
    }
    let mut table = Table::new(&["GATEWAY", "NODE", "WAITS", "CERTIFICATES END", "CLUSTER KEY"]);
    for request in &waiting.requests {
        table.row([
            format!("{}/{}", request.cluster, request.gateway),
            request.node.to_string(),
            time::span(request.waiting_ms),
            request.certificates_end.map_or_else(|| "joining, has none".to_owned(), time::moment),
            request.requests.authority_key.to_string(),
        ]);
    }
    table.to_string()
}
