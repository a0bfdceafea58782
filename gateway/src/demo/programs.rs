//! How each of the demo's processes is started: the command lines, and the executables behind them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::layout::{Cluster, GREETER_PORT, Workload, authority, service};
use super::processes::{Name, Program, Role};

/// The sidecar's own binary.
const PROXY_BINARY: &str = "isthmus-proxy";

/// The executables.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    isthmus: PathBuf,
    /// The small sidecar binary, if it stands beside this one.
    proxy: Option<PathBuf>,
}

impl Programs {
    /// The running binary, and what stands beside it.
    ///
    /// # Errors
    /// When the system does not tell which binary runs.
    pub(super) fn find() -> anyhow::Result<Self> {
        let isthmus = std::env::current_exe().context("cannot tell which binary this is")?;
        let proxy = Some(isthmus.with_file_name(PROXY_BINARY)).filter(|path| path.is_file());
        Ok(Self { isthmus, proxy })
    }

    /// The binary with the command line.
    pub(super) fn isthmus(&self) -> &Path {
        &self.isthmus
    }

    /// A cluster's gateway, once it is a member or the founder.
    pub(super) fn gateway(&self, cluster: &Cluster) -> (Name, Program) {
        let args = ["gateway".into(), "--config".into(), cluster.config_file().into_os_string()];
        let program = Program { binary: self.isthmus.clone(), args: args.into(), log: log(&cluster.dir, "gateway") };
        (Name { cluster: cluster.name, role: Role::Gateway }, program)
    }

    /// A cluster's gateway that joins with the token in `token_file`.
    pub(super) fn joining_gateway(&self, cluster: &Cluster, token_file: &Path) -> (Name, Program) {
        let (name, mut program) = self.gateway(cluster);
        // From a file, so that the secret is not in the list of processes.
        program.args.extend(["--join".into(), OsString::from(format!("@{}", token_file.display()))]);
        (name, program)
    }

    /// A workload's application.
    pub(super) fn app(&self, cluster: &Cluster, workload: &Workload) -> (Name, Program) {
        let app = workload.service;
        let mut args: Vec<OsString> = vec!["sample-app".into()];
        let mut flag = |name: &str, value: String| args.extend([name.into(), value.into()]);
        flag("--service", app.name.into());
        flag("--version", workload.version.into());
        flag("--cluster", cluster.name.into());
        flag("--listen", workload.http().to_string());
        if app.port == GREETER_PORT {
            flag("--tcp-echo", workload.app().to_string());
        }
        if !app.calls.is_empty() {
            flag("--proxy", format!("http://{}", workload.outbound()));
        }
        for name in app.calls {
            flag("--calls", format!("{name}=http://{}/", authority(service(name))));
        }
        let program = Program { binary: self.isthmus.clone(), args, log: log(&cluster.dir, app.name) };
        (Name { cluster: cluster.name, role: Role::App(app.name) }, program)
    }

    /// A workload's sidecar.
    pub(super) fn sidecar(&self, cluster: &Cluster, workload: &Workload) -> (Name, Program) {
        let config: [OsString; 2] = ["--config".into(), workload.config_file.clone().into_os_string()];
        let (binary, args) = match &self.proxy {
            Some(proxy) => (proxy.clone(), config.into()),
            None => (self.isthmus.clone(), ["proxy".into()].into_iter().chain(config).collect()),
        };
        let log = log(&cluster.dir, &format!("{}-sidecar", workload.service.name));
        (Name { cluster: cluster.name, role: Role::Sidecar(workload.service.name) }, Program { binary, args, log })
    }
}

fn log(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("logs/{name}.log"))
}

#[cfg(test)]
mod tests {
    use super::super::layout::Layout;
    use super::*;

    #[test]
    fn command_lines_name_what_each_process_needs() {
        let layout = Layout::new(Path::new("/demo"), 11);
        let mut programs = Programs { isthmus: "/bin/isthmus".into(), proxy: None };
        let east = layout.founder();
        let (name, app) = programs.app(east, east.workload("reviews"));
        assert_eq!(name.to_string(), "the application reviews of us-east");
        assert_eq!(
            app.to_string(),
            "/bin/isthmus sample-app --service reviews --version v1 --cluster us-east --listen 127.0.11.21:9080 \
             --proxy http://127.0.11.21:15001 --calls ratings=http://ratings.shop.svc.clusterset.local:9080/"
        );
        let west = layout.cluster("us-west");
        let greeter = programs.app(west, west.workload("greeter")).1.to_string();
        assert!(greeter.ends_with("--listen 127.0.12.24:9080 --tcp-echo 127.0.12.24:7000"), "{greeter}");
        let join = programs.joining_gateway(west, Path::new("/demo/us-west/join.token")).1.to_string();
        assert_eq!(join, "/bin/isthmus gateway --config /demo/us-west/gateway.yaml --join @/demo/us-west/join.token");
        let sidecar = programs.sidecar(west, west.workload("ratings")).1.to_string();
        assert_eq!(sidecar, "/bin/isthmus proxy --config /demo/us-west/sidecars/ratings.yaml");
        programs.proxy = Some("/bin/isthmus-proxy".into());
        let sidecar = programs.sidecar(west, west.workload("ratings")).1.to_string();
        assert_eq!(sidecar, "/bin/isthmus-proxy --config /demo/us-west/sidecars/ratings.yaml");
    }
}
