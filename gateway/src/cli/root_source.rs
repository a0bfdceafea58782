//! Where a root comes from, on the command line: the same flags found a federation and replace its root.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::ValueEnum;
use isthmus_identity::{IdentityError, RootAuthority, RootCertificate};
use isthmus_model::name::FederationDomain;

use super::CliError;
use super::ca::failed;

/// Where the root's key shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Custody {
    /// In the registry, sealed to the gateways that vote
    Sealed,
    /// With you, on another machine
    Offline,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct RootArgs {
    /// Where the root's key shall be
    #[arg(long, value_enum)]
    root: Option<Custody>,
    /// A root or intermediate CA of your own, PEM
    #[arg(long, value_name = "FILE", required_if_eq("root", "offline"))]
    root_cert: Option<PathBuf>,
    /// Its key, PEM (PKCS#8), to be sealed
    #[arg(long, value_name = "FILE", requires = "root_cert")]
    root_key: Option<PathBuf>,
}

/// What the flags say.
#[derive(Debug)]
pub(super) enum RootSource {
    /// Nothing.
    Unsaid,
    /// A new one, sealed.
    New,
    /// An operator's own, to be sealed.
    Own(RootAuthority),
    /// One whose key is elsewhere.
    Offline(RootCertificate),
}

impl RootArgs {
    /// Reads and checks the files that are named, for a root of `federation`.
    pub(super) fn read(&self, federation: &FederationDomain) -> Result<RootSource, CliError> {
        match (self.root, &self.root_cert, &self.root_key) {
            (None, None, _) => Ok(RootSource::Unsaid),
            (Some(Custody::Sealed), None, _) => Ok(RootSource::New),
            (Some(Custody::Offline), Some(certificate), None) => {
                let root = RootCertificate::load(certificate, federation, SystemTime::now());
                root.map(RootSource::Offline).map_err(|error| failed(certificate, error))
            }
            (Some(Custody::Offline), ..) => {
                let why = "--root offline: give --root-cert, and keep the key where it is";
                Err(CliError::Usage(why.to_owned()))
            }
            (_, Some(certificate), Some(key)) => adopt(federation, certificate, key).map(RootSource::Own),
            (_, Some(_), None) => {
                let why = "--root-cert: give --root-key too, to be sealed, or --root offline to keep it";
                Err(CliError::Usage(why.to_owned()))
            }
        }
    }
}

fn adopt(federation: &FederationDomain, certificate: &Path, key: &Path) -> Result<RootAuthority, CliError> {
    let adopted = RootAuthority::adopt(federation.clone(), certificate, key, SystemTime::now());
    adopted.map_err(|error| match error {
        IdentityError::Certificate { .. } => failed(certificate, error),
        IdentityError::KeyMismatch => failed(key, format_args!("it is not the key of {}", certificate.display())),
        IdentityError::FileContent { path, expected } if path == key => {
            let convert = format!("openssl pkcs8 -topk8 -nocrypt -in {}", key.display());
            failed(key, format_args!("it does not hold {expected}; another form of one is converted with: {convert}"))
        }
        error => CliError::Failed(error.to_string()),
    })
}
