//! The effective configuration as a file.

use std::fmt;

use super::{GatewayConfig, Ingress, ProxyProtocol, duration, size};

impl fmt::Display for GatewayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = duration::format;
        writeln!(f, "federation: {}", quoted(self.federation.as_str()))?;
        writeln!(f, "cluster: {}", quoted(self.cluster.as_str()))?;
        writeln!(f, "gateway: {}", quoted(self.gateway.as_str()))?;
        writeln!(f, "locality: {}", quoted(&self.locality.to_string()))?;
        writeln!(f, "found: {}", self.found)?;
        writeln!(f, "data_dir: {}", quoted(&self.data_dir.to_string_lossy()))?;
        writeln!(f, "manifests: {}", quoted(&self.manifests.to_string_lossy()))?;
        writeln!(f, "listen:")?;
        for (name, address) in self.listen.all() {
            writeln!(f, "  {name}: {}", quoted(&address.to_string()))?;
        }
        writeln!(f, "proxy_protocol:")?;
        let ProxyProtocol { east_west, ingress } = &self.proxy_protocol;
        for (listener, balancers) in [("east_west", east_west), ("ingress", ingress)] {
            let balancers = balancers.iter().map(|network| quoted(&network.to_string()));
            writeln!(f, "  {listener}: [{}]", balancers.collect::<Vec<_>>().join(", "))?;
        }
        if let Some(socket) = &self.control_socket {
            writeln!(f, "control_socket:\n  path: {}\n  workloads:", quoted(&socket.path.to_string_lossy()))?;
            for (uid, workload) in &socket.workloads {
                writeln!(f, "    {uid}: {}", quoted(&workload.to_string()))?;
            }
        }
        if let Some(address) = self.advertise {
            writeln!(f, "advertise: {}", quoted(&address.to_string()))?;
        }
        if let Some(range) = self.vip_range {
            writeln!(f, "vip_range: {}", quoted(&range.to_string()))?;
        }
        let opaque: Vec<String> = self.opaque_ports.iter().map(u16::to_string).collect();
        writeln!(f, "opaque_ports: [{}]", opaque.join(", "))?;
        if let Some(ingress) = &self.ingress {
            write!(f, "{ingress}")?;
        }
        let upstreams: Vec<String> = self.dns.upstreams.iter().map(|address| quoted(&address.to_string())).collect();
        writeln!(f, "dns:\n  upstreams: [{}]", upstreams.join(", "))?;
        writeln!(f, "workload_certificate_ttl: {}", span(self.workload_certificate_ttl))?;
        let raft = &self.raft;
        writeln!(f, "raft:\n  heartbeat: {}", span(raft.heartbeat))?;
        writeln!(f, "  election_min: {}\n  election_max: {}", span(raft.election_min), span(raft.election_max))?;
        writeln!(f, "  voters: {}\n  voter_replace_after: {}", raft.voters, span(raft.voter_replace_after))?;
        writeln!(f, "  snapshot_rate: {}", size::format(raft.snapshot_rate))?;
        writeln!(f, "join:\n  attempt: {}\n  deadline: {}", span(self.join.attempt), span(self.join.deadline))?;
        writeln!(f, "drain: {}", span(self.drain))
    }
}

impl fmt::Display for Ingress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ingress:\n  gateway: {}", quoted(&self.gateway))?;
        writeln!(f, "  https: {}", quoted(&self.https.to_string()))?;
        if let Some(http) = self.http {
            writeln!(f, "  http: {}", quoted(&http.to_string()))?;
        }
        writeln!(f, "  certificates: {}", quoted(&self.certificates.to_string_lossy()))?;
        writeln!(f, "  stream_idle_timeout: {}", duration::format(self.stream_idle_timeout))
    }
}

/// A YAML double-quoted scalar; its escapes are those of JSON. Quoting spares asking whether a label such as
/// `1e3` or `no` would be read as something else.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
