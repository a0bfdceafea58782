//! `isthmus services`.

use isthmus_model::catalog::AppProtocol;
use isthmus_model::health::Reach;

use super::table::Table;
use crate::admin::api::{Backend, Service, Services};

pub(super) const EXAMPLES: &str = "\
Examples:
  isthmus services
  isthmus services -o json | jq -r '.services[] | select(.federated) | .host'";

pub(super) fn table(services: &Services) -> String {
    let mut table = Table::new(&["SERVICE", "SCOPE", "VIP", "PORTS", "CLUSTERS (READY/ALL)"]);
    for service in &services.services {
        table.row([
            service.name.to_string(),
            if service.federated { "federation".to_owned() } else { "cluster".to_owned() },
            service.vip.map(|vip| vip.to_string()).unwrap_or_default(),
            ports(service),
            join(service.backends.iter().map(backend)),
        ]);
    }
    table.to_string()
}

fn ports(service: &Service) -> String {
    join(service.ports.iter().map(|port| {
        let protocol = match port.protocol {
            AppProtocol::Http => "http",
            AppProtocol::Http2 => "http2",
            AppProtocol::Tcp => "tcp",
            AppProtocol::Detect => "detect",
        };
        format!("{}/{protocol}", port.port)
    }))
}

fn backend(backend: &Backend) -> String {
    let Backend { cluster, ready, total, .. } = backend;
    let remark = match (backend.reach, backend.exported) {
        (Reach::Down, _) => " (down)",
        (_, false) => " (not exported)",
        _ => "",
    };
    format!("{cluster} {ready}/{total}{remark}")
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}
