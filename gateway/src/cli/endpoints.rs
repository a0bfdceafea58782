//! `isthmus endpoints SVC`.

use std::str::FromStr;

use isthmus_model::locality::Proximity;
use isthmus_model::name::ServiceName;

use super::table::Table;
use crate::admin::api::{Destination, Endpoints, Level};

pub(super) const EXAMPLES: &str = "\
Examples:
  isthmus endpoints shop/reviews
  isthmus endpoints reviews.shop.svc.clusterset.local --port 9080
  isthmus endpoints shop/reviews -o json | jq '.levels[] | {proximity, share_permille}'";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The service: namespace/name, or its global host name
    #[arg(value_name = "SVC")]
    service: ServiceArgument,
    /// The service's port; its first one by default
    #[arg(long)]
    port: Option<u16>,
}

impl Args {
    /// The route that answers.
    pub(super) fn path(&self) -> String {
        let ServiceName { namespace, name } = &self.service.0;
        let query = self.port.map(|port| format!("?port={port}")).unwrap_or_default();
        format!("/v1/endpoints/{namespace}/{name}{query}")
    }
}

#[derive(Clone, Debug)]
struct ServiceArgument(ServiceName);

impl FromStr for ServiceArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = if text.contains('/') { text.parse().ok() } else { ServiceName::from_host(text) };
        let message =
            || format!("{text:?} is not a service: write namespace/name or name.namespace.svc.clusterset.local");
        name.map(Self).ok_or_else(message)
    }
}

pub(super) fn table(endpoints: &Endpoints) -> String {
    let Endpoints { service, host, .. } = endpoints;
    let port = endpoints.port.map_or_else(|| "no port".to_owned(), |port| format!("port {port}"));
    let vip = endpoints.vip.map_or_else(|| "no virtual address".to_owned(), |vip| format!("at {vip}"));
    let mut table = Table::new(&["LEVEL", "SHARE", "CLUSTER", "ADDRESS", "READY", "STATE", "IDENTITY"]);
    for level in &endpoints.levels {
        for destination in &level.destinations {
            table.row(row(level, destination));
        }
    }
    format!("{service} ({host}), {port}, {vip}\n\n{table}")
}

fn row(level: &Level, destination: &Destination) -> [String; 7] {
    let proximity = match level.proximity {
        Proximity::SameCluster => "same-cluster",
        Proximity::SameZone => "same-zone",
        Proximity::SameRegion => "same-region",
        Proximity::OtherRegion => "other-region",
    };
    let gateway = destination.gateway.as_ref().map(|gateway| format!("/{gateway}")).unwrap_or_default();
    let identities: Vec<String> = destination.identities.iter().map(ToString::to_string).collect();
    [
        proximity.to_owned(),
        format!("{}.{}%", destination.share_permille / 10, destination.share_permille % 10),
        format!("{}{gateway}", destination.cluster),
        destination.address.to_string(),
        format!("{}/{}", destination.ready, destination.total),
        state(destination).to_owned(),
        identities.join(", "),
    ]
}

fn state(destination: &Destination) -> &'static str {
    use isthmus_model::health::Reach;
    match (destination.reach, destination.used) {
        (Some(Reach::Down), _) => "down",
        (_, false) => "not ready",
        (Some(Reach::Unknown), true) => "assumed up",
        (_, true) => "up",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_can_be_named_in_two_ways() {
        for text in ["shop/reviews", "reviews.shop.svc.clusterset.local", "Reviews.shop.svc.clusterset.local."] {
            let service: ServiceArgument = text.parse().expect("valid");
            let args = Args { service, port: Some(9080) };
            assert_eq!(args.path(), "/v1/endpoints/shop/reviews?port=9080");
        }
        for bad in ["reviews", "reviews.shop", "shop/reviews/x", "Shop/reviews", "../x", ""] {
            assert!(bad.parse::<ServiceArgument>().is_err(), "{bad}");
        }
    }
}
