//! Some gateways, the network between them, and what happened, told in virtual time.

use std::time::Duration;

use isthmus_federation::Handle;
use isthmus_federation::simulation::seed_this_thread;
use isthmus_identity::BearerToken;
use isthmus_model::catalog::Export;
use isthmus_model::command::{Command, Outcome};
use isthmus_model::fixture;
use isthmus_model::registry::Registry;
use isthmus_tests::wan::{Shape, VirtualWan};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::host::{Host, PATIENCE, address};
use crate::setting::Setting;

/// What is waited for takes seconds of virtual time, or never happens.
const SOON: Duration = Duration::from_secs(120);
const TOKEN_LIFE: Duration = Duration::from_secs(20 * 3600);

/// The simulated world.
pub(crate) struct World {
    pub(crate) setting: Setting,
    pub(crate) hosts: Vec<Host>,
    pub(crate) chance: StdRng,
}

/// Runs `life` in a world of its own, in which all chance follows from `seed`.
pub(crate) fn simulate<T>(seed: u64, life: impl AsyncFnOnce(&mut World) -> T) -> T {
    seed_this_thread(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_be_bytes()))
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let setting = Setting::new(VirtualWan::new(seed));
        let mut world = World { setting, hosts: Vec::new(), chance: StdRng::seed_from_u64(seed) };
        life(&mut world).await
    })
}

impl World {
    /// Founds a federation of `count` clusters with one gateway each, in three regions.
    pub(crate) async fn found(&mut self, count: usize) {
        for machine in 0..count {
            let locality = format!("r{}/z{machine}", machine % 3);
            self.hosts.push(Host::new(machine, &format!("c{machine}"), "gw-1", &locality, &self.setting));
            self.shape(machine);
            if machine == 0 {
                self.hosts[0].found().await;
                self.see(0, "the founding", |registry| registry.federation().is_some()).await;
            } else {
                let token = self.mint(0, &format!("c{machine}")).await;
                if let Err(error) = self.hosts[machine].join(&token, PATIENCE).await {
                    panic!("{machine} does not join: {error}");
                }
                self.hosts[machine].start().await;
            }
        }
        let everyone = move |registry: &Registry| registry.members().count() == count;
        for machine in 0..count {
            self.see(machine, "all members", everyone).await;
        }
        self.setting.story.tell(format!("{count} clusters are joined"));
    }

    /// Distances as between regions: those of one region are near.
    fn shape(&mut self, machine: usize) {
        for other in 0..machine {
            let near = machine % 3 == other % 3;
            let delay = Duration::from_millis(if near { 1 } else { self.chance.gen_range(10..70) });
            let shape = Shape { delay, jitter: delay / 10, bandwidth: None };
            self.setting.wan.shape(machine, other, shape);
            self.setting.wan.shape(other, machine, shape);
        }
    }

    /// The registry as a host has it.
    pub(crate) fn handle(&self, host: usize) -> Handle {
        self.hosts[host].handle().expect("it runs")
    }

    /// Waits until a host's registry is as `condition` says.
    pub(crate) async fn see(&self, host: usize, what: &str, mut condition: impl FnMut(&Registry) -> bool) {
        let mut registry = self.handle(host).registry();
        let seen = tokio::time::timeout(SOON, registry.wait_for(|registry| condition(registry))).await;
        let seen = seen.map(|seen| drop(seen.expect("the replica runs")));
        if seen.is_err() {
            panic!("{what}: not seen at {host} in time, but {:?}", *self.handle(host).status().borrow());
        }
    }

    /// Writes through every gateway, each in its cluster's own name, and returns how long the last one waited.
    pub(crate) async fn write_everywhere(&self, what: &str) -> Duration {
        let began = Instant::now();
        let writes = self.hosts.iter().map(|host| {
            let (handle, cluster) = (host.handle().expect("it runs"), host.name.cluster.clone());
            let export = Export { ports: Vec::new(), identities: Default::default(), terminated: false };
            let command = Command::SetExport { service: format!("ops/{what}").parse().expect("valid"), export };
            async move {
                let written =
                    tokio::time::timeout(SOON, async { while handle.propose(command.clone()).await.is_err() {} });
                assert!(written.await.is_ok(), "{cluster} cannot write, and is {:?}", *handle.status().borrow());
            }
        });
        futures_util::future::join_all(writes).await;
        began.elapsed()
    }

    /// Waits until every gateway has all that is agreed, and whether it is the same.
    pub(crate) async fn settle(&self, host: usize) {
        self.write_everywhere("end").await;
        let marker = "ops/end".parse().expect("valid");
        let count = self.hosts.len();
        let ended = |registry: &Registry| registry.exports().get(&marker).is_some_and(|offers| offers.len() == count);
        for other in 0..count {
            self.see(other, "the end", ended).await;
        }
        let own = self.handle(host).registry().borrow().clone();
        for other in 0..count {
            self.see(other, "the same registry", |registry| *registry == *own).await;
        }
    }

    /// Mints a token at a host for one gateway.
    pub(crate) async fn mint(&mut self, host: usize, cluster: &str) -> BearerToken {
        let handle = self.handle(host);
        let root = handle.registry().borrow().trust().expect("founded").issuer().key;
        let cluster_name = cluster.parse().expect("valid");
        let token = BearerToken::mint(crate::host::federation(), Some(cluster_name), vec![address(host)], root);
        let mint = Command::MintToken {
            id: token.id.clone(),
            secret_hash: token.secret.hash(),
            grant: fixture::join(cluster),
            expires_at: self.hosts[host].time().saturating_add(TOKEN_LIFE),
            gateway: "gw-1".parse().expect("valid"),
            root,
        };
        assert_eq!(handle.propose(mint).await.expect("takes it"), Outcome::Changed);
        token
    }
}
