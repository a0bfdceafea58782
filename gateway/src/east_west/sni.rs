//! What a server name on the east-west port means. Pure.

use std::sync::Arc;

use isthmus_model::snapshot::{Service, Snapshot};

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// This gateway's services for other gateways.
    Gateway,
    /// A newcomer's first contact.
    Newcomer,
    /// A service that this cluster exports.
    Service(Arc<Service>),
    /// Nothing here: another cluster's name, a service that is not exported, or no name of ours.
    Unknown,
}

impl Meaning {
    /// Reads a server name, whatever its case (RFC 6066 §3).
    pub(super) fn of(sni: &str, view: &Snapshot) -> Self {
        let domain = view.site.trust_domain();
        if let Some(name) = domain.service_of_sni(sni) {
            // Not exported and not existing look the same from outside.
            let exported = view.services.get(&name).filter(|service| service.exported_here);
            return exported.map_or(Self::Unknown, |service| Self::Service(service.clone()));
        }
        if sni.eq_ignore_ascii_case(&domain.gateway_sni()) {
            Self::Gateway
        } else if sni.eq_ignore_ascii_case(&view.site.federation.join_sni()) {
            Self::Newcomer
        } else {
            Self::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use isthmus_model::snapshot::{Coverage, Site};

    use super::*;

    fn view() -> Snapshot {
        let site = Site {
            federation: "acme.mesh".parse().expect("valid"),
            cluster: "us-east".parse().expect("valid"),
            locality: "us-east-1".parse().expect("valid"),
        };
        let view = Snapshot::empty(site, Coverage::Complete);
        let services = [("shop/reviews", true), ("shop/private", false)].map(|(name, exported_here)| {
            let name: isthmus_model::name::ServiceName = name.parse().expect("valid");
            Service {
                name,
                vip: None,
                ports: Vec::new(),
                federated: exported_here,
                exported_here,
                endpoints: Arc::from([]),
                remotes: Vec::new(),
                traffic: isthmus_model::traffic::TrafficPolicy::usual(),
                routes: isthmus_model::http_route::ServiceRoutes::default(),
            }
        });
        view.with(services)
    }

    #[test]
    fn names_lead_where_they_say() {
        let view = view();
        for (sni, meaning) in [
            ("gateway.us-east.acme.mesh", Meaning::Gateway),
            ("Gateway.US-East.acme.mesh", Meaning::Gateway),
            ("join.acme.mesh", Meaning::Newcomer),
        ] {
            assert_eq!(Meaning::of(sni, &view), meaning, "{sni}");
        }
        let service = Meaning::of("Reviews.shop.svc.us-east.acme.mesh", &view);
        assert!(matches!(service, Meaning::Service(service) if service.name.to_string() == "shop/reviews"));
    }

    #[test]
    fn everything_else_leads_nowhere() {
        let view = view();
        for sni in [
            "gateway.us-west.acme.mesh",
            "reviews.shop.svc.us-west.acme.mesh",
            "private.shop.svc.us-east.acme.mesh",
            "ghost.shop.svc.us-east.acme.mesh",
            "reviews.shop.svc.clusterset.local",
            "x.reviews.shop.svc.us-east.acme.mesh",
            "us-east.acme.mesh",
            "acme.mesh",
            "example.com",
            "",
        ] {
            assert_eq!(Meaning::of(sni, &view), Meaning::Unknown, "{sni}");
        }
    }
}
