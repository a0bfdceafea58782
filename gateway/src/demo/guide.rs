//! What a person can try next, in commands that work as pasted.

use std::fmt::Write as _;
use std::time::Duration;

use super::files::manifest_file;
use super::layout::{GREETER_PORT, HTTP_PORT, Layout, service_name};
use super::processes::{Fleet, Name, Role, quote};
use super::programs::Programs;

/// The guide to a demo that is ready.
pub(super) fn render(layout: &Layout, fleet: &Fleet, programs: &Programs, ready: Duration) -> String {
    let (east, west) = (layout.founder(), layout.cluster("us-west"));
    let host = |service: &str| service_name(service).host();
    let dns = east.config.listen.dns;
    let dig = |service: &str| format!("dig +short @{} -p {} {}", dns.ip(), dns.port(), host(service));
    let page = east.workload("productpage").outbound();
    let isthmus = quote(&programs.isthmus().to_string_lossy());
    let mut text = String::new();
    let mut line = |line: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    };
    line(format!("\nReady in {:.1} s: {}.", ready.as_secs_f64(), names(layout)));
    line(format!("State, logs and demo.json: {}", layout.dir.display()));
    line("\nNames, also where the service does not run (details runs in us-east only):".to_owned());
    line(format!("  dig @{} -p {} {}", west.config.listen.dns.ip(), west.config.listen.dns.port(), host("details")));
    line("Through the gateway's forward proxy; the whole bookshop, across clusters:".to_owned());
    line(format!("  curl -x http://{} http://{}:{HTTP_PORT}/", west.config.listen.egress, host("productpage")));
    line("Through a workload's sidecar, with that workload's identity:".to_owned());
    line(format!("  curl -x http://{page} http://{}:{HTTP_PORT}/", host("reviews")));
    line("Without any proxy, by the address that DNS gives:".to_owned());
    let reviews = format!("{}:{HTTP_PORT}", host("reviews"));
    line(format!("  curl --resolve {reviews}:$({}) http://{reviews}/", dig("reviews")));
    line("Plain TCP, by CONNECT and by address (type something):".to_owned());
    line(format!("  nc -X connect -x {page} {} {GREETER_PORT}", host("greeter")));
    line(format!("  nc $({}) {GREETER_PORT}", dig("greeter")));
    line("How it stands:".to_owned());
    line(format!("  export ISTHMUS_ADMIN={}", quote(&format!("unix:{}", east.config.admin_socket().display()))));
    line(format!("  {isthmus} status; {isthmus} clusters; {isthmus} endpoints shop/reviews"));
    line("\nBreak something, then call again. What brings it back is below each:".to_owned());
    breakages(layout, fleet, programs).into_iter().for_each(&mut line);
    line("Withdraw a service:".to_owned());
    line(format!("  rm {}", quote(&manifest_file(east, "reviews").to_string_lossy())));
    line("\nCtrl-C stops all that the demo started; what you started again yourself is yours to stop.".to_owned());
    text
}

fn names(layout: &Layout) -> String {
    let names = layout.clusters.iter().map(|cluster| format!("{} ({})", cluster.name, cluster.region));
    names.collect::<Vec<_>>().join(", ")
}

fn breakages(layout: &Layout, fleet: &Fleet, programs: &Programs) -> Vec<String> {
    let (east, west) = (layout.founder(), layout.cluster("us-west"));
    let reviews = east.workload("reviews");
    let started = [programs.app(east, reviews), programs.sidecar(east, reviews), programs.gateway(west)];
    let mut lines: Vec<String> = started
        .into_iter()
        .filter_map(|(name, program)| Some((name, program, fleet.pid(name)?)))
        .flat_map(|(name, program, pid)| [format!("  kill -9 {pid}  # {name}"), format!("    {program} &")])
        .collect();
    let eu = layout.cluster("eu-central");
    let roles = eu.workloads.iter().flat_map(|w| [Role::App(w.service.name), Role::Sidecar(w.service.name)]);
    let pids = roles.chain([Role::Gateway]).filter_map(|role| fleet.pid(Name { cluster: eu.name, role }));
    let pids: Vec<String> = pids.map(|pid| pid.to_string()).collect();
    lines.push(format!("  kill -9 {}  # the whole region of {}", pids.join(" "), eu.name));
    if let Some(pid) = fleet.pid(Name { cluster: eu.name, role: Role::Gateway }) {
        lines.push(format!("  kill -STOP {pid}  # freezes the gateway of {}", eu.name));
        lines.push(format!("    kill -CONT {pid}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_guide_names_addresses_paths_and_commands() {
        let layout = Layout::new(Path::new("/demo"), 11);
        let programs = Programs::find().expect("a test is a binary too");
        let guide = render(&layout, &Fleet::default(), &programs, Duration::from_millis(2345));
        for expected in [
            "Ready in 2.3 s: us-east (us-east-1)",
            "dig @127.0.12.1 -p 15053 details.shop.svc.clusterset.local\n",
            "curl -x http://127.0.12.1:15001 http://productpage.shop.svc.clusterset.local:9080/\n",
            "--resolve reviews.shop.svc.clusterset.local:9080:$(dig +short @127.0.11.1 -p 15053 reviews.",
            "nc -X connect -x 127.0.11.20:15001 greeter.shop.svc.clusterset.local 7000\n",
            "export ISTHMUS_ADMIN=unix:/demo/us-east/data/admin.sock\n",
            "rm /demo/us-east/manifests/reviews.yaml\n",
        ] {
            assert!(guide.contains(expected), "{expected}\n{guide}");
        }
    }
}
