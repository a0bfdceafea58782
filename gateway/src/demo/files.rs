//! The files that a cluster starts from: its gateway's configuration, its manifests, its sidecars' configurations.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use isthmus_proxy::config::INBOUND_PORT;

use super::layout::{Cluster, Layout, Workload};
use crate::config::GatewayConfig;

/// Secrets lie beside what is not secret: the whole directory is its owner's.
pub(super) const DIRECTORY_MODE: u32 = 0o700;
/// For files with a secret in them.
const SECRET_MODE: u32 = 0o600;
/// For all others.
const FILE_MODE: u32 = 0o644;

/// Writes the files of every cluster. Manifests that are there already stay as they are: they are the user's.
///
/// # Errors
/// What could not be written; or the directory has a demo at other addresses, which its registry remembers.
pub(super) fn write(layout: &Layout) -> anyhow::Result<()> {
    for cluster in &layout.clusters {
        check_addresses(cluster)?;
        for part in ["data", "logs", "sidecars"] {
            create_directory(&cluster.dir.join(part))?;
        }
        write_file(&cluster.config_file(), &cluster.config.to_string(), FILE_MODE)?;
        if !cluster.config.manifests.exists() {
            create_directory(&cluster.config.manifests)?;
            for workload in &cluster.workloads {
                write_file(&manifest_file(cluster, workload.service.name), &manifests(workload), FILE_MODE)?;
            }
        }
        for workload in &cluster.workloads {
            write_file(&workload.config_file, &sidecar_config(cluster, workload), FILE_MODE)?;
        }
    }
    Ok(())
}

/// Where the manifests of a service of the bookshop are.
pub(super) fn manifest_file(cluster: &Cluster, service: &str) -> PathBuf {
    cluster.config.manifests.join(format!("{service}.yaml"))
}

/// The manifests of a workload: its service's template with its own values.
pub(super) fn manifests(workload: &Workload) -> String {
    let template = workload.service.manifests;
    let filled = template.replace("${ADDRESS}", &workload.ip.to_string()).replace("${VERSION}", workload.version);
    filled.replace("${SIDECAR_PORT}", &INBOUND_PORT.to_string())
}

fn sidecar_config(cluster: &Cluster, workload: &Workload) -> String {
    format!(
        "token_file: {}.token\ngateways: [\"{}\"]\nworkload_address: {}\nmetrics: {}\ndrain_seconds: 2\n",
        workload.service.name,
        cluster.config.listen.control,
        workload.ip,
        workload.status(),
    )
}

fn check_addresses(cluster: &Cluster) -> anyhow::Result<()> {
    let file = cluster.config_file();
    if !file.exists() {
        return Ok(());
    }
    let before = GatewayConfig::load(&file)
        .with_context(|| format!("the demo that was here before; remove {} to start afresh", file.display()))?;
    let (then, now) = (before.listen.east_west, cluster.config.listen.east_west);
    if then != now {
        bail!(
            "the demo in {} had its gateway of {} at {then}, not at {now}: give the --address-block that it had, or another --state-dir",
            cluster.dir.display(),
            cluster.name,
        );
    }
    Ok(())
}

/// Creates a directory, and those above it, for its owner alone.
pub(super) fn create_directory(path: &Path) -> anyhow::Result<()> {
    let created = fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path);
    created.with_context(|| format!("cannot create {}", path.display()))
}

/// Writes a file that holds a secret.
pub(super) fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    write_file(path, text, SECRET_MODE)
}

/// Writes a file in one step: who reads it finds the old text or the new one.
pub(super) fn write_file(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    // Hidden, so that no source takes the draft for a manifest.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.draft"));
    let write = || -> io::Result<()> {
        // A draft that a crash left behind would keep its mode.
        fs::remove_file(&draft).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        fs::OpenOptions::new().create_new(true).write(true).mode(mode).open(&draft)?.write_all(text.as_bytes())?;
        fs::rename(&draft, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a file that anyone may read who may enter the directory.
pub(super) fn write_public(path: &Path, text: &str) -> anyhow::Result<()> {
    write_file(path, text, FILE_MODE)
}

#[cfg(test)]
mod tests {
    use isthmus_proxy::config::SidecarConfig;
    use isthmus_sources::{FileSource, Rules};

    use super::super::layout::service_name;
    use super::*;

    #[tokio::test]
    async fn the_manifests_are_taken_without_a_problem() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path(), 11);
        write(&layout).expect("written");
        for cluster in &layout.clusters {
            let options = Rules { allow_loopback: true, ..Rules::default() };
            let source = FileSource::start(&cluster.config.manifests, options).await.expect("readable");
            let state = source.state().borrow().clone();
            assert!(state.problems.is_empty(), "{:?}", state.problems);
            assert_eq!(state.catalog.services.len(), cluster.workloads.len());
            for workload in &cluster.workloads {
                let service = &state.catalog.services[&service_name(workload.service.name)];
                let endpoint = service.ready().next().expect("one endpoint");
                assert!(service.exported);
                assert_eq!(service.ports[0].protocol.is_http(), workload.service.name != "greeter");
                assert_eq!((endpoint.address, endpoint.sidecar_port), (workload.ip.into(), Some(INBOUND_PORT)));
                assert_eq!(endpoint.ports[&workload.service.port], workload.service.port);
                assert_eq!(endpoint.workload.to_string(), format!("shop/{}", workload.service.name));
            }
        }
    }

    #[test]
    fn a_second_start_keeps_manifests_and_refuses_other_addresses() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path(), 11);
        write(&layout).expect("written");
        let reviews = manifest_file(layout.founder(), "reviews");
        fs::remove_file(&reviews).expect("there");
        write(&layout).expect("written again");
        assert!(!reviews.exists(), "a withdrawn service stays withdrawn");
        let error = write(&Layout::new(dir.path(), 14)).expect_err("another block").to_string();
        assert!(error.contains("127.0.11.1:15443") && error.contains("--address-block"), "{error}");
    }

    #[test]
    fn configurations_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path(), 11);
        write(&layout).expect("written");
        for cluster in &layout.clusters {
            assert_eq!(GatewayConfig::load(&cluster.config_file()).expect("valid"), cluster.config);
        }
        let reviews = layout.founder().workload("reviews");
        let error = SidecarConfig::load(&reviews.config_file).expect_err("there is no token yet").to_string();
        assert!(error.contains(&reviews.token_file.display().to_string()), "{error}");
    }
}
