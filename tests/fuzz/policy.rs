//! Who may call what: the decision against the rule as one sentence, and what must not be told apart from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use bolero::check;
use bolero::generator::*;
use isthmus_model::catalog::Endpoint;
use isthmus_model::name::ServiceName;
use isthmus_model::policy::{Denial, admit, authorize};
use isthmus_model::snapshot::{Coverage, RemoteCluster, Service, Site, Snapshot};
use isthmus_model::spiffe::SpiffeId;

/// An instance: on which host, and its application's port for each of two.
#[derive(Clone, Debug, TypeGenerator)]
struct Instance {
    #[generator(0..3_u8)]
    host: u8,
    ports: [Option<u16>; 2],
    ready: bool,
}

#[derive(Clone, Debug, TypeGenerator)]
struct Offered {
    #[generator(0..3_u8)]
    number: u8,
    exported: bool,
    #[generator(produce::<Vec<Instance>>().with().len(0..4_usize))]
    instances: Vec<Instance>,
}

#[derive(Clone, Debug, TypeGenerator)]
struct World {
    /// Whether each of three other clusters is a member.
    members: [bool; 3],
    #[generator(produce::<Vec<Offered>>().with().len(0..4_usize))]
    services: Vec<Offered>,
}

#[derive(Clone, Debug, TypeGenerator)]
struct Request {
    is_of_another_federation: bool,
    /// The own cluster's, or another's.
    #[generator(0..4_usize)]
    cluster: usize,
    is_gateway: bool,
    #[generator(0..4_u8)]
    service: u8,
    #[generator(0..3_usize)]
    port: usize,
    #[generator(0..3_u8)]
    host: u8,
}

const CLUSTERS: [&str; 4] = ["own", "c1", "c2", "c3"];

fn address(host: u8) -> IpAddr {
    [127, 0, 11, host].into()
}

fn name(number: u8) -> ServiceName {
    format!("shop/s{number}").parse().expect("valid")
}

impl World {
    fn view(&self) -> Snapshot {
        let locality = "r0".parse().expect("valid");
        let site =
            Site { federation: "acme.mesh".parse().expect("valid"), cluster: "own".parse().expect("valid"), locality };
        let mut view = Snapshot::empty(site.clone(), Coverage::Complete);
        for (name, _) in CLUSTERS[1..].iter().zip(self.members).filter(|(_, member)| *member) {
            let locality = site.locality.clone();
            let (proximity, gateways) = (locality.proximity(&locality), BTreeMap::new());
            let cluster = RemoteCluster { name: name.parse().expect("valid"), locality, proximity, gateways };
            view.clusters.insert(cluster.name.clone(), cluster.into());
        }
        view.with(self.services.iter().map(Offered::service))
    }

    /// The last word on a service.
    fn service(&self, number: u8) -> Option<&Offered> {
        self.services.iter().rev().find(|service| service.number == number)
    }
}

impl Offered {
    fn service(&self) -> Service {
        let endpoint = |instance: &Instance| {
            let ports = (0..).zip(instance.ports).filter_map(|(port, app)| Some((port, app?)));
            Endpoint {
                address: address(instance.host),
                ports: ports.collect(),
                sidecar_port: None,
                workload: "shop/default".parse().expect("valid"),
                ready: instance.ready,
            }
        };
        Service {
            name: name(self.number),
            vip: None,
            ports: Vec::new(),
            federated: self.exported,
            exported_here: self.exported,
            endpoints: self.instances.iter().map(endpoint).collect(),
            remotes: Vec::new(),
            traffic: isthmus_model::traffic::TrafficPolicy::usual(),
            routes: isthmus_model::http_route::ServiceRoutes::default(),
        }
    }
}

impl Request {
    fn peer(&self) -> SpiffeId {
        let federation = if self.is_of_another_federation { "other.mesh" } else { "acme.mesh" };
        let path = if self.is_gateway { "gateway/gw-1" } else { "ns/shop/sa/productpage" };
        format!("spiffe://{}.{federation}/{path}", CLUSTERS[self.cluster]).parse().expect("valid")
    }

    fn is_of_member(&self, world: &World) -> bool {
        !self.is_of_another_federation && (self.cluster == 0 || world.members[self.cluster - 1])
    }

    /// Where it may land: a member's request, for a service that is exported or its own, at an instance that is here and has
    /// that port.
    fn may_land_on(&self, world: &World) -> BTreeSet<SocketAddr> {
        let service = world.service(self.service);
        let service = service.filter(|service| self.is_of_member(world) && (service.exported || self.cluster == 0));
        let here = service.into_iter().flat_map(|service| &service.instances);
        let here = here.filter(|instance| instance.host == self.host);
        let ports = here.filter_map(|instance| *instance.ports.get(self.port)?);
        ports.map(|port| SocketAddr::new(address(self.host), port)).collect()
    }

    fn decide(&self, view: &Snapshot) -> Result<SocketAddr, Denial> {
        let port = u16::try_from(self.port).expect("small");
        admit(view, &self.peer(), &name(self.service), port, address(self.host))
    }
}

#[test]
fn decisions() {
    check!().with_iterations(15_000).with_type::<(World, Request)>().for_each(|(world, request)| {
        let (view, may_land_on) = (world.view(), request.may_land_on(world));
        let decision = request.decide(&view);
        match &decision {
            Ok(landed) => assert!(may_land_on.contains(landed), "{landed} of {may_land_on:?}"),
            Err(_) => assert!(may_land_on.is_empty(), "{decision:?}, and {may_land_on:?}"),
        }
        // Whether it may at all is decided alike, wherever it arrived.
        let authorized = authorize(&view, &request.peer(), &name(request.service)).map(|service| service.name.clone());
        let refused = |denial: &Denial| matches!(denial, Denial::NotMember(_) | Denial::NotExported(_));
        assert_eq!(authorized.is_err(), decision.as_ref().is_err_and(refused));
        assert_eq!(matches!(decision, Err(Denial::NotMember(_))), !request.is_of_member(world));
    });
}

#[test]
fn what_is_not_exported_does_not_exist_for_others() {
    check!().with_iterations(5_000).with_type::<(World, Request)>().for_each(|(world, request)| {
        let mut without = world.clone();
        without.services.retain(|service| service.number != request.service);
        let hidden = request.cluster != 0 && world.service(request.service).is_some_and(|service| !service.exported);
        if hidden {
            assert_eq!(request.decide(&world.view()), request.decide(&without.view()));
        }
    });
}

#[test]
fn less_of_anything_lets_nobody_in() {
    check!().with_iterations(5_000).with_type::<(World, Request, u8)>().for_each(|(world, request, number)| {
        let before = request.decide(&world.view());
        let mut less = world.clone();
        let number = usize::from(*number);
        less.members[number % 3] = false;
        if let Some(service) = less.services.get_mut(number / 3 % 4) {
            service.exported = false;
            service.instances.truncate(number / 12);
        }
        assert!(before.is_ok() || request.decide(&less.view()).is_err(), "{before:?} before");
    });
}
