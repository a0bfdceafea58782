//! `isthmus backup` and `isthmus restore`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use isthmus_federation::backup::Image;
use isthmus_federation::data_dir::DataDir;
use isthmus_federation::enroll::{self, Restored};
use isthmus_identity::{OpeningKey, Recipient};
use isthmus_model::registry::Registry;
use serde::Serialize;
use serde_json::{Value, json};

use super::table::Table;
use super::{Asker, CliError, Output, print, tell, time};
use crate::admin::api::BackupRequest;
use crate::config::GatewayConfig;

pub(super) const EXAMPLES: &str = "\
Examples:
  isthmus backup keygen --out backup.key
  isthmus backup create federation.backup --recipient isthmus-recipient1.AbC...
  isthmus backup show federation.backup --identity backup.key";

const KEYGEN_EXAMPLES: &str = "\
Keep the file away from the gateways: who has it and a backup can become the federation's root.
Only the recipient goes to standard output; it is no secret.

Examples:
  isthmus backup keygen --out backup.key";

const CREATE_EXAMPLES: &str = "\
Ask a gateway that votes: it has the root's key, unless that is kept offline. Needs the Unix socket:
--admin unix:PATH. A file that exists is not replaced.

Examples:
  isthmus backup create federation.backup --recipient isthmus-recipient1.AbC...
  isthmus backup create federation-$(date +%F).backup --recipient \"$(cat backup.recipient)\"";

const SHOW_EXAMPLES: &str = "\
Reads the file to its end and fails if a byte of it was changed.

Examples:
  isthmus backup show federation.backup --identity backup.key
  isthmus backup show federation.backup --identity backup.key -o json | jq .members";

pub(super) const RESTORE_EXAMPLES: &str = "\
Prepares the gateway's data directory; `isthmus gateway` then starts the federation from it, with this gateway
as the only voter. Every other gateway comes back with `isthmus registry discard`. Use it only when the
federation's quorum is lost for good. docs/backup.md has the whole drill.

Examples:
  isthmus restore federation.backup --identity backup.key --config gateway.yaml
  isthmus gateway --config gateway.yaml";

/// A backup is its operator's alone, sealed as it is.
const FILE_MODE: u32 = 0o600;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key that backups are sealed to, and print its public half, the recipient
    #[command(after_help = KEYGEN_EXAMPLES)]
    Keygen {
        /// Where to put the private half (mode 0600)
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Save the registry and the root's key in a file that only the recipient can open
    #[command(after_help = CREATE_EXAMPLES)]
    Create {
        /// The backup's file
        file: PathBuf,
        /// Whom it is sealed to, as `backup keygen` printed it
        #[arg(long)]
        recipient: Recipient,
    },
    /// Check a backup and show what is in it
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// The backup's file
        file: PathBuf,
        /// The private half of the recipient's key
        #[arg(long, value_name = "FILE")]
        identity: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    /// The backup's file
    file: PathBuf,
    /// The private half of the recipient's key
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    /// The configuration of the gateway that shall start the federation again; the backup has to know it
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) async fn run(asker: &Asker, command: Command) -> Result<(), CliError> {
    match command {
        Command::Keygen { out } => keygen(&out, asker.output),
        Command::Create { file, recipient } => create(asker, &file, recipient).await,
        Command::Show { file, identity } => show(&file, &identity, asker.output),
    }
}

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::Failed(error.to_string())
}

fn answer(output: Output, json: &Value, text: &str) -> Result<(), CliError> {
    match output {
        Output::Json => print(&format!("{json:#}\n")),
        Output::Table => print(text),
    }
}

fn keygen(out: &Path, output: Output) -> Result<(), CliError> {
    if out.exists() {
        let why = "exists: a key is not replaced, backups may be sealed to it; name another file";
        return Err(CliError::Failed(format!("{} {why}", out.display())));
    }
    let key = OpeningKey::generate().map_err(failed)?;
    key.save(out).map_err(failed)?;
    let recipient = Recipient(key.public()).to_string();
    answer(output, &json!({ "recipient": recipient, "identity": out }), &format!("{recipient}\n"))
}

async fn create(asker: &Asker, file: &Path, recipient: Recipient) -> Result<(), CliError> {
    if file.exists() {
        return Err(CliError::Failed(format!("{} exists: name another file", file.display())));
    }
    let sealed = asker.client.fetch("/v1/backup", &BackupRequest { recipient: recipient.to_string() }).await?;
    write(file, &sealed).map_err(|error| CliError::Failed(format!("cannot write {}: {error}", file.display())))?;
    let text = format!("{}: {} bytes, sealed to {recipient}\n", file.display(), sealed.len());
    answer(asker.output, &json!({ "file": file, "bytes": sealed.len(), "recipient": recipient.to_string() }), &text)
}

/// Writes a file that was not there, whole or not at all.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    // Unlike a rename, a link replaces nothing.
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    linked
}

fn open(file: &Path, identity: &Path) -> Result<(Image, OpeningKey), CliError> {
    let shown = file.display();
    let identity = OpeningKey::load(identity).map_err(|error| CliError::Failed(format!("--identity: {error}")))?;
    let source = File::open(file).map_err(|error| CliError::Failed(format!("cannot read {shown}: {error}")))?;
    let image = Image::read(BufReader::new(source), &identity);
    Ok((image.map_err(|error| CliError::Failed(format!("{shown}: {error}")))?, identity))
}

/// A gateway in a backup.
#[derive(Serialize)]
struct Member {
    cluster: String,
    gateway: String,
    node: u64,
    east_west: String,
    exports: usize,
}

fn members(registry: &Registry) -> Vec<Member> {
    let member = |(id, node): (&u64, &isthmus_model::registry::node::Node)| Member {
        cluster: node.cluster.to_string(),
        gateway: node.gateway.to_string(),
        node: *id,
        east_west: node.east_west.to_string(),
        exports: registry.exports_of(&node.cluster).len(),
    };
    registry.members().map(member).collect()
}

fn show(file: &Path, identity: &Path, output: Output) -> Result<(), CliError> {
    let (image, _) = open(file, identity)?;
    let federation = image.domain().map(ToString::to_string).unwrap_or_default();
    let members = members(&image.registry);
    let root = if image.has_root_key() { "sealed" } else { "offline" };
    let (revision, tokens) = (image.registry.revision(), image.registry.tokens().len());
    let json = json!({
        "federation": federation,
        "taken_at": image.taken_at,
        "taken_by": { "cluster": image.cluster, "gateway": image.gateway },
        "stale_since": image.stale_since,
        "revision": revision,
        "root_key": root,
        "services": image.registry.exports().len(),
        "tokens": tokens,
        "members": members,
    });
    let mut text = format!(
        "Federation  {federation}\nTaken       {} by {}/{}\nRevision    {revision}{}\nRoot key    {}\nServices    {}\nTokens      {tokens}\n\n",
        time::moment(image.taken_at),
        image.cluster,
        image.gateway,
        image.stale_since.map(|since| format!(", without a quorum since {}", time::moment(since))).unwrap_or_default(),
        if image.has_root_key() { "in the backup" } else { "offline, with the operator" },
        image.registry.exports().len(),
    );
    let mut table = Table::new(&["CLUSTER", "GATEWAY", "NODE", "EAST-WEST", "EXPORTS"]);
    for Member { cluster, gateway, node, east_west, exports } in members {
        table.row([cluster, gateway, node.to_string(), east_west, exports.to_string()]);
    }
    text.push_str(&table.to_string());
    answer(output, &json, &text)
}

pub(super) fn restore(args: &RestoreArgs, output: Output) -> Result<(), CliError> {
    let config = GatewayConfig::load(&args.config)?;
    let (image, identity) = open(&args.file, &args.identity)?;
    let data = DataDir::open(&config.data_dir).map_err(failed)?;
    let name = config.gateway_name(config.advertised(config.listen.east_west));
    let taken_at = image.taken_at;
    let restored = enroll::restore(image, &identity, &name, &data).map_err(failed)?;
    let Restored { node, kept_identity, registry } = restored;
    let others: Vec<String> = registry
        .members()
        .filter(|(id, _)| **id != node)
        .map(|(_, node)| format!("{}/{}", node.cluster, node.gateway))
        .collect();
    let text = format!(
        "{} is {}/{} of {}, node {node}, {}.\nThe registry is that of {}.\n",
        config.data_dir.display(),
        name.cluster,
        name.gateway,
        name.federation,
        if kept_identity { "with the keys that it had" } else { "with new keys" },
        time::moment(taken_at),
    );
    let json = json!({ "node": node, "kept_identity": kept_identity, "taken_at": taken_at, "others": others });
    answer(output, &json, &text)?;
    let config = args.config.display();
    tell(format_args!("isthmus: start it: isthmus gateway --config {config}"));
    if !others.is_empty() {
        tell(format_args!(
            "isthmus: then on each of {}: stop the gateway, run isthmus registry discard --config FILE, start it",
            others.join(", ")
        ));
    }
    Ok(())
}
