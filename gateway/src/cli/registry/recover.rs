//! `isthmus registry recover`.

use std::path::PathBuf;

use isthmus_federation::data_dir::DataDir;
use isthmus_federation::enroll::{self, GatewayName, Remains, Restored};
use isthmus_model::registry::Registry;
use serde_json::json;

use crate::cli::{CliError, Output, print, tell};
use crate::config::GatewayConfig;

pub(super) const EXAMPLES: &str = "\
For when most of the gateways that vote are lost for good. This one goes on alone with the registry that
it has: what was agreed and did not reach it is lost. It has to have voted, unless the root is offline, and
must not run. Every other gateway that is left comes back with `isthmus registry discard`. With --force left
out, it tells what it would do. docs/backup.md has the drill.

Examples:
  isthmus registry recover --config gateway.yaml
  isthmus registry recover --config gateway.yaml --force
  isthmus gateway --config gateway.yaml";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The configuration of the gateway that is left
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Do it. There is no way back to the old registry
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &Args, output: Output) -> Result<(), CliError> {
    let config = GatewayConfig::load(&args.config)?;
    let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
    let data = DataDir::open(&config.data_dir).map_err(|error| failed(&error))?;
    let name = config.gateway_name(config.advertised(config.listen.east_west));
    if args.force {
        let restored = enroll::recover(&name, &data).map_err(|error| failed(&error))?;
        return recovered(args, &name, &restored, output);
    }
    let remains = enroll::remains(&name, &data).map_err(|error| failed(&error))?;
    print(&told(&name, &remains, output))?;
    Err(CliError::Failed("nothing was done: --force does it, and there is no way back".to_owned()))
}

/// The gateways but this one, as `cluster/gateway`.
fn others(registry: &Registry, own: u64) -> Vec<String> {
    let others = registry.members().filter(|(id, _)| **id != own);
    others.map(|(_, node)| format!("{}/{}", node.cluster, node.gateway)).collect()
}

fn told(name: &GatewayName, Remains { survey, node }: &Remains, output: Output) -> String {
    let voter = |id: &u64| match survey.registry.nodes().get(id) {
        Some(node) => format!("{}/{}", node.cluster, node.gateway),
        None => format!("node {id}"),
    };
    let voters: Vec<String> = survey.voters.iter().map(voter).collect();
    let others = others(&survey.registry, *node);
    match output {
        Output::Json => {
            let ((term, index), committed) = (survey.last, survey.committed);
            let answer = json!({
                "node": node, "voters": voters, "last_term": term, "last_log": index, "committed": committed,
                "revision": survey.registry.revision(), "others": others,
            });
            format!("{answer:#}\n")
        }
        Output::Table => format!(
            "gateway    {}/{} of {}, node {node}\nvoters     {}\nlog        ends in term {} with entry {}; {} are known here to be agreed\n\
             members    {} other gateways: {}\n",
            name.cluster,
            name.gateway,
            name.federation,
            voters.join(", "),
            survey.last.0,
            survey.last.1,
            survey.committed,
            others.len(),
            others.join(", "),
        ),
    }
}

fn recovered(args: &Args, name: &GatewayName, restored: &Restored, output: Output) -> Result<(), CliError> {
    let (others, config) = (others(&restored.registry, restored.node), args.config.display());
    match output {
        Output::Json => {
            let answer = json!({ "node": restored.node, "others": others });
            print(&format!("{answer:#}\n"))?;
        }
        Output::Table => print(&format!(
            "{}/{} is the only voter of {} now; its old registry is beside the new one, as registry.redb.lost-…\n",
            name.cluster, name.gateway, name.federation
        ))?,
    }
    tell(format_args!("isthmus: start it: isthmus gateway --config {config}"));
    if !others.is_empty() {
        tell(format_args!(
            "isthmus: then on each of {} that is left: stop the gateway, run isthmus registry discard --config FILE, \
             start it; and take out those that are lost with `isthmus cluster fence`",
            others.join(", ")
        ));
    }
    Ok(())
}
