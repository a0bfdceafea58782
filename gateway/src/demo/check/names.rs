//! DNS: every exported name everywhere, and nothing else.

use anyhow::ensure;

use super::{Tour, dns};
use crate::demo::layout::{GREETER_PORT, service_name};

/// A service that nobody exports.
const UNEXPORTED: &str = "secrets";

/// Asks every gateway.
pub(super) async fn resolve(tour: Tour<'_>) -> anyhow::Result<String> {
    let host = |service: &str| service_name(service).host();
    let mut addresses = Vec::new();
    for cluster in &tour.layout.clusters {
        let (server, range) = (cluster.config.listen.dns, cluster.config.vip_range);
        for service in ["reviews", "details", "greeter"] {
            let address = dns::address(server, &host(service)).await?;
            ensure!(
                range.is_some_and(|range| range.contains(&address)),
                "{service} is at {address} in {}",
                cluster.name
            );
            if service == "reviews" {
                addresses.push(address.to_string());
            }
        }
        let (port, target) = dns::service(server, &format!("_tcp._tcp.{}", host("greeter"))).await?;
        ensure!(port == GREETER_PORT && target == host("greeter"), "{} says {target}:{port}", cluster.name);
        dns::absent(server, &host(UNEXPORTED)).await?;
        // MCS: a name of one cluster's share of a service must not exist.
        dns::absent(server, &format!("us-east.{}", host("reviews"))).await?;
    }
    Ok(format!("reviews at {}; details also where it does not run; SRV; NXDOMAIN", addresses.join(", ")))
}
