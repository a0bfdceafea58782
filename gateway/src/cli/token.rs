//! `isthmus token`.

use std::time::Duration;

use clap::Subcommand;
use ipnet::IpNet;
use isthmus_model::name::{ClusterName, Label};
use isthmus_model::registry::token::TokenId;
use isthmus_model::spiffe::WorkloadName;

use super::table::Table;
use super::{Asker, CliError, Output, tell, time};
use crate::admin::api::{Grant, Invitation, TokenCreated, TokenRequest, TokenRevoked, TokenState, Tokens};
use crate::config::duration;

pub(super) const EXAMPLES: &str = "\
Examples:
  isthmus token create --cluster us-west --ttl 10m
  isthmus token list
  isthmus token revoke 00010203040506ff";

const CREATE_EXAMPLES: &str = "\
Only the token goes to standard output. It is shown once; the federation keeps a hash.
Creating a token needs the Unix socket: --admin unix:PATH.

Examples:
  # Lets one gateway of cluster us-west join within ten minutes
  isthmus token create --cluster us-west --ttl 10m
  # Lets three gateways of any new cluster in a region join within an hour, from one network
  isthmus token create --region eu-central-1 --uses 3 --from 10.3.0.0/16 --ttl 1h
  # Lets sidecars of a workload of this cluster get its identity for a day
  isthmus token create --workload shop/reviews --ttl 24h > reviews.token";

const LIST_EXAMPLES: &str = "\
Examples:
  isthmus token list
  isthmus token list -o json | jq -r '.tokens[] | select(.state == \"open\") | .id'";

const REVOKE_EXAMPLES: &str = "\
Revoking needs the Unix socket: --admin unix:PATH.

Examples:
  isthmus token revoke 00010203040506ff";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a token and print it
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
    /// List the tokens on record
    #[command(after_help = LIST_EXAMPLES)]
    List,
    /// Make a token useless from now on
    #[command(after_help = REVOKE_EXAMPLES)]
    Revoke {
        /// The token's id, as `isthmus token list` shows it
        id: TokenId,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    grant: GrantArgs,
    /// How long the token works: 10m, 24h, 7d
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration::parse)]
    ttl: Duration,
}

/// What the token is good for: a join, or a workload.
#[derive(Debug, clap::Args)]
struct GrantArgs {
    /// A join token: lets a gateway of this cluster join
    #[arg(long)]
    cluster: Option<ClusterName>,
    /// A join token: lets a gateway of a cluster in this region join
    #[arg(long)]
    region: Option<Label>,
    /// How many gateways may join with it
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "workload")]
    uses: u32,
    /// Where they have to come from, as the gateways that they ask see it
    #[arg(long, value_name = "CIDR", conflicts_with = "workload")]
    from: Option<IpNet>,
    /// A workload token: lets sidecars of this workload attach, until it expires
    #[arg(long, value_name = "NAMESPACE/SERVICE-ACCOUNT", conflicts_with_all = ["cluster", "region"])]
    workload: Option<WorkloadName>,
}

impl GrantArgs {
    fn read(self) -> Result<Grant, CliError> {
        let Self { cluster, region, uses, from, workload } = self;
        match workload {
            Some(workload) => Ok(Grant::Workload { workload }),
            None if cluster.is_none() && region.is_none() => {
                Err(CliError::Usage("token create: give --cluster, --region or --workload".to_owned()))
            }
            None => Ok(Grant::Join(Invitation { cluster, region, from, uses })),
        }
    }
}

pub(super) async fn run(asker: &Asker, command: Command) -> Result<(), CliError> {
    match command {
        Command::Create(args) => create(asker, args).await,
        Command::List => asker.show("/v1/tokens", table).await,
        Command::Revoke { id } => {
            let answer = asker.client.delete(&format!("/v1/tokens/{id}")).await?;
            asker.print(answer, revoked)
        }
    }
}

async fn create(asker: &Asker, args: CreateArgs) -> Result<(), CliError> {
    let grant = args.grant.read()?;
    let hint = match &grant {
        Grant::Join(Invitation { cluster: Some(cluster), .. }) => {
            format!("in cluster {cluster}: isthmus gateway --config FILE --join TOKEN")
        }
        Grant::Join(_) => "in a new cluster: isthmus gateway --config FILE --join TOKEN".to_owned(),
        Grant::Workload { workload } => format!("for the sidecars of {workload}"),
    };
    let request = TokenRequest { grant, ttl_seconds: args.ttl.as_secs() };
    let answer = asker.client.post("/v1/tokens", &request).await?;
    if asker.output == Output::Table
        && let Ok(TokenCreated { id, expires_at, .. }) = serde_json::from_value(answer.clone())
    {
        tell(format_args!("token {id}, until {}; use it {hint}", time::moment(expires_at)));
    }
    asker.print(answer, |created: &TokenCreated| format!("{}\n", created.token))
}

fn revoked(revoked: &TokenRevoked) -> String {
    let TokenRevoked { id, changed, known } = revoked;
    let before = if *changed { "" } else { " before" };
    let unknown = if *known {
        ""
    } else {
        "; it is not on record: sidecars of this cluster that came by it long ago are certified no more"
    };
    format!("token {id} was revoked{before}{unknown}\n")
}

fn table(tokens: &Tokens) -> String {
    let mut table = Table::new(&["TOKEN", "FOR", "STATE", "USED", "EXPIRES", "MINTED BY", "MINTED"]);
    for token in &tokens.tokens {
        let state = match token.state {
            TokenState::Open => "open",
            TokenState::Used => "used",
            TokenState::Revoked => "revoked",
            TokenState::Expired => "expired",
        };
        let purpose = match &token.grant {
            Grant::Join(invitation) => join_of(invitation),
            Grant::Workload { workload } => format!("workload {workload}"),
        };
        let uses = match &token.grant {
            Grant::Join(Invitation { uses, .. }) => format!("{} of {uses}", token.redemptions.len()),
            Grant::Workload { .. } => "-".to_owned(),
        };
        table.row([
            token.id.to_string(),
            purpose,
            state.to_owned(),
            uses,
            time::moment(token.expires_at),
            format!("{}/{}", token.minted_by, token.minted_at_gateway),
            time::moment(token.minted_at),
        ]);
    }
    table.to_string()
}

fn join_of(invitation: &Invitation) -> String {
    let Invitation { cluster, region, from, .. } = invitation;
    let mut text = match (cluster, region) {
        (Some(cluster), None) => format!("join of {cluster}"),
        (Some(cluster), Some(region)) => format!("join of {cluster} in {region}"),
        (None, Some(region)) => format!("join from {region}"),
        (None, None) => "join".to_owned(),
    };
    if let Some(from) = from {
        text.push_str(&format!(", from {from}"));
    }
    text
}
