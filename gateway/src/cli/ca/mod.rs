//! `isthmus ca`: the root of trust, its replacement, and its key where that is offline, with the files that go there
//! and come back.

mod import;
mod pending;
mod root;
mod rotate;
mod sign;
mod status;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;

use clap::Subcommand;

use super::{Asker, CliError};
use crate::ca_files::{CaFile, Entry, FILE_BYTES_MAX};

pub(super) const EXAMPLES: &str = "\
Examples:
  isthmus ca status
  isthmus ca rotate
  # On the machine that keeps the root's key, once
  isthmus ca root --federation acme.mesh --out root
  # At a gateway: what waits for the root, as a file for that machine
  isthmus ca pending --export requests.json
  # There: look at it, and sign
  isthmus ca sign --root-dir root --requests requests.json --out signed.json
  # At a gateway: bring the answer
  isthmus ca import signed.json";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the roots of trust, and how far a change of root is
    #[command(after_help = status::EXAMPLES)]
    Status,
    /// Replace the root of trust by a new one, while traffic goes on
    #[command(after_help = rotate::EXAMPLES)]
    Rotate(rotate::Args),
    /// Make a root and keep its key in a directory of this machine
    #[command(after_help = root::EXAMPLES)]
    Root(root::Args),
    /// List the gateways that wait for the root to certify them
    #[command(after_help = pending::EXAMPLES)]
    Pending(pending::Args),
    /// Sign requests from a file with a root's key in a directory; asks no gateway
    #[command(after_help = sign::EXAMPLES)]
    Sign(sign::Args),
    /// Bring signed certificates to the federation
    #[command(after_help = import::EXAMPLES)]
    Import(import::Args),
}

pub(super) async fn run(asker: &Asker, command: Command) -> Result<(), CliError> {
    match command {
        Command::Status => asker.show("/v1/ca", status::table).await,
        Command::Rotate(args) => rotate::run(asker, args).await,
        Command::Root(args) => root::run(&args, asker.output),
        Command::Pending(args) => pending::run(asker, &args).await,
        Command::Sign(args) => sign::run(&args, asker.output),
        Command::Import(args) => import::run(asker, &args).await,
    }
}

/// How many gateways, in words.
fn gateways(count: usize) -> String {
    if count == 1 { "1 gateway".to_owned() } else { format!("{count} gateways") }
}

/// A failure that names the file.
pub(super) fn failed(path: &Path, error: impl std::fmt::Display) -> CliError {
    CliError::Failed(format!("{}: {error}", path.display()))
}

/// Reads a file of entries within its bound.
pub(super) fn read<T: Entry>(path: &Path) -> Result<CaFile<T>, CliError> {
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(|error| failed(path, error))?;
    // One byte more than may be, so that a file that is too long is told from one that fits.
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut text).map_err(|error| failed(path, error))?;
    CaFile::parse(&text).map_err(|error| failed(path, error))
}

/// Writes a file of entries, whole or not at all.
pub(super) fn write<T: Entry>(path: &Path, file: &CaFile<T>) -> Result<(), CliError> {
    let text = file.to_text().map_err(|error| failed(path, error))?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = Path::new(&draft);
    let written = fs::File::create(draft).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(draft, path)
    });
    written.map_err(|error| failed(path, error))
}
