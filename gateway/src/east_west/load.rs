//! How many sessions each endpoint holds, and who gets the next one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use isthmus_model::catalog::Endpoint;

/// Open sessions by the address of the sidecar. An address without one is not in the map, so that it is no
/// larger than the number of connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Load(Arc<Mutex<HashMap<SocketAddr, usize>>>);

/// A session that is counted as long as this lives.
#[derive(Debug)]
pub(super) struct Session {
    load: Load,
    address: SocketAddr,
}

impl Load {
    /// The sidecars of `endpoints` that take sessions, the least loaded first.
    pub(super) fn order(&self, endpoints: &[Endpoint]) -> Vec<SocketAddr> {
        let ready = endpoints.iter().filter(|endpoint| endpoint.ready);
        let mut sidecars: Vec<SocketAddr> =
            ready.filter_map(|e| e.sidecar_port.map(|port| SocketAddr::new(e.address, port))).collect();
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sidecars.sort_by_key(|address| counts.get(address).copied().unwrap_or(0));
        sidecars
    }

    /// Counts a session.
    pub(super) fn enter(&self, address: SocketAddr) -> Session {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(address).or_default() += 1;
        Session { load: self.clone(), address }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut counts = self.load.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn endpoint(host: u8, sidecar_port: Option<u16>, ready: bool) -> Endpoint {
        Endpoint {
            address: [127, 0, 0, host].into(),
            ports: BTreeMap::from([(80, 8080)]),
            sidecar_port,
            workload: "shop/reviews".parse().expect("valid"),
            ready,
        }
    }

    #[test]
    fn the_least_loaded_ready_sidecar_comes_first() {
        let load = Load::default();
        let endpoints = [
            endpoint(1, Some(15006), true),
            endpoint(2, Some(15006), true),
            endpoint(3, None, true),
            endpoint(4, Some(15006), false),
        ];
        let order = load.order(&endpoints);
        assert_eq!(order.len(), 2, "neither the one without a sidecar nor the unready one");
        let session = load.enter(order[0]);
        assert_eq!(load.order(&endpoints)[0], order[1]);
        drop(session);
        assert!(load.0.lock().expect("not poisoned").is_empty());
    }
}
