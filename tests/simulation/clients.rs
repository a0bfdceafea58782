//! Clients of the registry, who all want something else of the same few keys, and write down what they were told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use isthmus_federation::enroll::{EnrollError, Patience};
use isthmus_identity::BearerToken;
use isthmus_model::catalog::{AppProtocol, Export, ServicePort};
use isthmus_model::command::{Command, Outcome, Refusal};
use isthmus_model::name::ClusterName;
use isthmus_model::registry::Registry;
use isthmus_tests::history::History;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::host::{Door, Host};
use crate::models::{Key, Op, Told, What};
use crate::setting::{Setting, Story};
use crate::world::World;

/// Services of each cluster that are fought over.
const SERVICES: u16 = 2;
/// Values that a key may have: few, so that an answer tells something.
const VALUES: u16 = 3;
/// At each gateway.
const CLIENTS_PER_HOST: usize = 2;
/// A client rests so long between two operations, at most.
const REST: Duration = Duration::from_millis(1_500);
/// What a newcomer does without an answer: it comes again with the same keys, or gives up.
const NEWCOMER_PATIENCE: Patience = Patience { attempt: Duration::from_secs(5), deadline: Duration::from_secs(5) };
/// Machines of newcomers are numbered from here.
const NEWCOMERS_FROM: usize = 1_000;

/// What all clients saw. Clones share it.
pub(crate) type Seen = Arc<Mutex<History<Op, Told>>>;

/// The clients of a world.
pub(crate) struct Clients {
    pub(crate) seen: Seen,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// The tokens that newcomers fight for.
    tokens: Vec<BearerToken>,
}

fn service(number: u16) -> isthmus_model::name::ServiceName {
    format!("shop/s{number}").parse().expect("valid")
}

fn cluster(number: usize) -> ClusterName {
    format!("c{number}").parse().expect("valid")
}

fn command(op: Op, last: usize) -> Command {
    match (op.key, op.what) {
        (Key::Export { service: number, .. }, What::Set(Some(value))) => {
            let port = ServicePort { name: None, port: value, protocol: AppProtocol::Http };
            let export = Export { ports: vec![port], identities: Default::default(), terminated: false };
            Command::SetExport { service: service(number), export }
        }
        (Key::Export { service: number, .. }, _) => Command::WithdrawExport { service: service(number) },
        (Key::Draining { cluster: number }, what) => {
            Command::Drain { cluster: cluster(number), draining: what != What::Set(None) }
        }
        (Key::Administrator | Key::Token { .. }, what) => {
            Command::SetAdministrator { cluster: cluster(last), administrator: what != What::Set(None) }
        }
    }
}

/// What a registry holds under a key.
fn look(registry: &Registry, key: Key, last: usize, tokens: &[BearerToken]) -> Option<u16> {
    match key {
        Key::Export { cluster: number, service: name } => {
            let offer = registry.exports().get(&service(name))?.get(&cluster(number))?;
            offer.export.ports.first().map(|port| port.port)
        }
        Key::Draining { cluster: number } => registry.draining_since(&cluster(number)).map(|_| 1),
        Key::Administrator => registry.is_administrator(&cluster(last)).then_some(1),
        Key::Token { number } => {
            let redemptions = &registry.token(&tokens[number].id).ok()?.redemptions;
            let node = registry.nodes().get(&redemptions.first()?.node)?;
            node.gateway.as_str().trim_start_matches("gw-").parse().ok()
        }
    }
}

/// One client, at one gateway.
struct Client {
    number: usize,
    host: usize,
    last: usize,
    door: Door,
    chance: StdRng,
    seen: Seen,
    story: Story,
}

impl Client {
    fn wish(&mut self) -> Op {
        let value = self.chance.gen_range(0..=VALUES);
        let flag = What::Set((value > 1).then_some(1));
        // The first two clusters administer the federation: their wishes clash with those of all others.
        let rules = self.host < 2;
        match self.chance.gen_range(0..10) {
            0..2 if rules => Op { key: Key::Administrator, what: flag },
            0..4 => {
                let cluster = if rules { self.chance.gen_range(0..=self.last) } else { self.host };
                Op { key: Key::Draining { cluster }, what: flag }
            }
            _ => {
                let key = Key::Export { cluster: self.host, service: self.chance.gen_range(0..SERVICES) };
                Op { key, what: What::Set((value > 0).then_some(value)) }
            }
        }
    }

    async fn live(mut self) {
        loop {
            tokio::time::sleep(REST.mul_f64(self.chance.r#gen())).await;
            let Some((handle, life)) = self.door.open() else { continue };
            let op = self.wish();
            let invocation = self.seen.lock().expect("no panic").invoke(self.number, op);
            let command = command(op, self.last);
            let settled = life.run_until_cancelled(handle.try_to_propose(&command)).await.flatten();
            let told = match settled {
                Some(Ok(Outcome::Changed)) => Told::Changed,
                Some(Ok(Outcome::Unchanged)) => Told::Unchanged,
                Some(other) => panic!("{op:?} came to {other:?}"),
                None => {
                    self.story.tell(format!("client {} does not know what became of {op:?}", self.number));
                    continue;
                }
            };
            self.story.tell(format!("client {}: {op:?}: {told:?}", self.number));
            self.seen.lock().expect("no panic").returned(invocation, told);
        }
    }
}

/// A gateway that wants in with a token that another one has too.
async fn come(token: BearerToken, number: usize, newcomer: u16, setting: Setting, seen: Seen) {
    let machine = NEWCOMERS_FROM + 10 * number + usize::from(newcomer);
    let host = Host::new(machine, &format!("n{number}"), &format!("gw-{newcomer}"), "r9/z9", &setting);
    let op = Op { key: Key::Token { number }, what: What::Redeem(newcomer) };
    for _attempt in 0..3 {
        let invocation = seen.lock().expect("no panic").invoke(machine, op);
        let told = match host.join(&token, NEWCOMER_PATIENCE).await {
            Ok(_) => Told::Admitted,
            Err(EnrollError::Refused(Refusal::TokenUsed)) => Told::TokenUsed,
            Err(other) => {
                setting.story.tell(format!("newcomer {newcomer} to n{number}: {other}"));
                continue;
            }
        };
        setting.story.tell(format!("newcomer {newcomer} to n{number}: {told:?}"));
        seen.lock().expect("no panic").returned(invocation, told);
        return;
    }
}

impl Clients {
    /// Starts clients at all gateways of `world`, and prepares `tokens` to be fought for.
    pub(crate) async fn start(world: &mut World, tokens: usize) -> Self {
        let last = world.hosts.len() - 1;
        let rules = Command::SetAdministrator { cluster: cluster(1), administrator: true };
        world.handle(0).propose(rules).await.expect("agreed");
        let mut clients = Self {
            seen: Arc::new(Mutex::new(History::new())),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            tokens: Vec::new(),
        };
        for number in 0..tokens {
            let mut token = world.mint(0, &format!("n{number}")).await;
            token.contacts = (0..=last).map(|_| crate::host::address(world.chance.gen_range(0..=last))).collect();
            clients.tokens.push(token);
        }
        for number in 0..world.hosts.len() * CLIENTS_PER_HOST {
            let host = number % world.hosts.len();
            let (door, story) = (world.hosts[host].door.clone(), world.setting.story.clone());
            let chance = StdRng::seed_from_u64(world.chance.r#gen());
            let client = Client { number, host, last, door, chance, seen: clients.seen.clone(), story };
            clients.tasks.spawn(clients.stop.clone().run_until_cancelled_owned(client.live()));
        }
        clients
    }

    /// Sends two newcomers who have the same token.
    pub(crate) fn send_newcomers(&self, world: &World, number: usize) {
        let Some(token) = self.tokens.get(number) else { return };
        for newcomer in [1, 2] {
            let (setting, seen) = (world.setting.clone(), self.seen.clone());
            self.tasks.spawn(come(token.clone(), number, newcomer, setting, seen));
        }
    }

    /// Ends all clients, waits for what newcomers are at, and looks at all keys, where `host` has all that is agreed.
    pub(crate) async fn stop(self, world: &World, host: usize) -> History<Op, Told> {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        world.settle(host).await;
        let mut seen = self.seen.lock().expect("no panic");
        let registry = world.handle(host).registry().borrow().clone();
        let last = world.hosts.len() - 1;
        let exports = (0..=last).flat_map(|cluster| (0..SERVICES).map(move |service| Key::Export { cluster, service }));
        let others = (0..=last).map(|cluster| Key::Draining { cluster }).chain([Key::Administrator]);
        let tokens = (0..self.tokens.len()).map(|number| Key::Token { number });
        for key in exports.chain(others).chain(tokens) {
            let invocation = seen.invoke(usize::MAX, Op { key, what: What::Look });
            let found = look(&registry, key, last, &self.tokens);
            seen.returned(invocation, Told::Holds(found));
        }
        std::mem::take(&mut seen)
    }
}
