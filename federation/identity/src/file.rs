//! Keys and certificates as files: PEM (RFC 7468), written so that a crash leaves the old file or the
//! new one, never half of one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use data_encoding::BASE64;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::error::IdentityError;

/// Who may read a file that is written here.
#[derive(Clone, Copy)]
pub(crate) enum Secrecy {
    /// Mode 0600.
    Owner,
    /// Mode 0644.
    World,
}

/// The largest PEM file that is read. A P-256 key takes 241 bytes, a certificate less than 2 KiB.
const FILE_LEN_MAX: u64 = 16 * 1024;
/// Characters per line of the base64 body (RFC 7468 §2).
const PEM_LINE_LEN: usize = 64;

/// Creates the directory and its parents, for the owner only, unless they exist.
pub(crate) fn create_dir(dir: &Path) -> Result<(), IdentityError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create", dir))
}

/// Replaces the file atomically and durably: write aside, fsync, rename, fsync the directory.
pub(crate) fn write_pem(path: &Path, label: &str, der: &[u8], secrecy: Secrecy) -> Result<(), IdentityError> {
    let text = encode_pem(label, der);
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = Path::new(&aside);
    // A crash may have left one behind, with any content.
    match fs::remove_file(aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", aside)(error)),
        _ => {}
    }
    let mode = match secrecy {
        Secrecy::Owner => 0o600,
        Secrecy::World => 0o644,
    };
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(aside).map_err(failed("create", aside))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write", aside))?;
    fs::rename(aside, path).map_err(failed("replace", path))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_dir(dir)
}

/// Reads a whole PEM file. With [`Secrecy::Owner`], refuses one that group or others can access.
pub(crate) fn read_pem(path: &Path, secrecy: Secrecy) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let file = File::open(path).map_err(failed("open", path))?;
    let mode = file.metadata().map_err(failed("inspect", path))?.permissions().mode() & 0o7777;
    if matches!(secrecy, Secrecy::Owner) && mode & 0o077 != 0 {
        return Err(IdentityError::KeyPermissions { path: path.to_owned(), mode });
    }
    // Sized once, so that no copy of a key is left behind by a growing buffer.
    let mut content = Zeroizing::new(Vec::with_capacity(FILE_LEN_MAX as usize));
    file.take(FILE_LEN_MAX).read_to_end(&mut content).map_err(failed("read", path))?;
    Ok(content)
}

/// Reads a PEM file with one section of that label.
pub(crate) fn read_labelled(path: &Path, label: &str, secrecy: Secrecy) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let content = read_pem(path, secrecy)?;
    let body = std::str::from_utf8(&content).ok().and_then(|text| {
        let body = text.trim().strip_prefix(&format!("-----BEGIN {label}-----"))?;
        let body = Zeroizing::new(body.strip_suffix(&format!("-----END {label}-----"))?.replace(['\r', '\n'], ""));
        BASE64.decode(body.as_bytes()).ok()
    });
    let expected = "one PEM section of the expected kind";
    body.map(Zeroizing::new).ok_or_else(|| IdentityError::FileContent { path: path.to_owned(), expected })
}

/// Reads the first certificate of a PEM file.
pub(crate) fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, IdentityError> {
    let pem = read_pem(path, Secrecy::World)?;
    CertificateDer::from_pem_slice(&pem)
        .map_err(|_| IdentityError::FileContent { path: path.to_owned(), expected: "a PEM certificate" })
}

/// Writes a certificate as PEM.
pub(crate) fn write_certificate(path: &Path, der: &[u8]) -> Result<(), IdentityError> {
    write_pem(path, "CERTIFICATE", der, Secrecy::World)
}

/// Makes renames in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), IdentityError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}

fn encode_pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(BASE64.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(body.len() + body.len() / PEM_LINE_LEN + 2 * label.len() + 40));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE_LEN));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::File { action, path, source }
}
