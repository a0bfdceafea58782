//! Writes of three replicas beside those of three etcd servers, on one disk, in turns.
//!
//! Each of the clients waits for one write before the next, and they are spread over the three: two thirds of the writes
//! go through a follower, of ours and of etcd's. Ours all run in this process, so that a write of ours spares a
//! hop that etcd's client makes; etcd's servers share the processors with this program instead.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_federation::{Handle, Timing, enroll};
use isthmus_model::command::Command;
use isthmus_tests::bench::{Quantity, Report, Samples};
use tokio::task::JoinSet;

use super::etcd::{self, Client, Etcd};
use super::gateway::{Gateway, PATIENCE, Place};
use super::world;

const CLIENTS: [usize; 2] = [1, 64];
/// Turns of each, and how long one is.
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);
/// Services that one client writes in turn.
const SERVICES_PER_CLIENT: usize = 50;
/// Twice what etcd takes is still well.
const TARGET: Quantity = Quantity::Times(2.0);

/// Who takes writes.
#[derive(Clone)]
enum Writer {
    Ours(Box<Handle>),
    Etcd(Client),
}

impl Writer {
    async fn write(&self, client: usize, number: usize) -> Result<(), String> {
        let service = world::service(client * SERVICES_PER_CLIENT + number % SERVICES_PER_CLIENT);
        // Another port each time round.
        let port = 8_000 + u16::try_from(number / SERVICES_PER_CLIENT % 1_000).unwrap_or_default() * 2;
        let command = Command::SetExport { service: service.clone(), export: world::export(port) };
        match self {
            Self::Ours(handle) => handle.propose(command).await.map(drop).map_err(|error| error.to_string()),
            Self::Etcd(client) => {
                let value = serde_json::to_vec(&command).map_err(|error| error.to_string())?;
                client.put(service.to_string().into_bytes(), value).await.map_err(|status| status.to_string())
            }
        }
    }
}

/// What was seen of one of both.
#[derive(Default)]
struct Seen {
    took: Vec<Duration>,
    rates: Vec<usize>,
    /// How far each client is.
    next: usize,
}

impl Seen {
    async fn round(&mut self, writers: &Arc<Vec<Writer>>, clients: usize) -> io::Result<()> {
        let (begun, first) = (Instant::now(), self.next);
        let mut under_way = JoinSet::new();
        for client in 0..clients {
            let writers = writers.clone();
            under_way.spawn(async move {
                let mut took = Vec::new();
                while begun.elapsed() < ROUND {
                    let at = Instant::now();
                    writers[client % writers.len()].write(client, first + took.len()).await?;
                    took.push(at.elapsed());
                }
                Ok::<_, String>(took)
            });
        }
        let (mut count, mut longest) = (0, 0);
        while let Some(took) = under_way.join_next().await {
            let took = took?.map_err(io::Error::other)?;
            (count, longest) = (count + took.len(), longest.max(took.len()));
            self.took.extend(took);
        }
        self.next += longest;
        self.rates.push((count as f64 / begun.elapsed().as_secs_f64()) as usize);
        Ok(())
    }

    fn rate(&mut self) -> usize {
        self.rates.sort_unstable();
        self.rates[self.rates.len() / 2]
    }
}

pub(crate) async fn measure(report: &mut Report) -> io::Result<()> {
    let (_places, gateways) = three().await?;
    let ours: Vec<Writer> = gateways.iter().map(|gateway| Writer::Ours(Box::new(gateway.handle.clone()))).collect();
    let ours = Arc::new(ours);
    let theirs = match etcd::version() {
        None => {
            println!("  etcd is NOT INSTALLED: ours is compared with nothing; apt-get install etcd-server");
            None
        }
        Some(version) => {
            println!("  {version}");
            Some(Etcd::start().await?)
        }
    };
    let others = theirs.as_ref().map(|etcd| Arc::new(etcd.clients.iter().cloned().map(Writer::Etcd).collect()));
    for clients in CLIENTS {
        let (mut own, mut other) = (Seen::default(), Seen::default());
        for _ in 0..ROUNDS {
            own.round(&ours, clients).await?;
            if let Some(others) = &others {
                other.round(others, clients).await?;
            }
        }
        let own_p99 = tell(report, "registry", clients, &mut own);
        if others.is_some() {
            let other_p99 = tell(report, "etcd", clients, &mut other);
            let rate = other.rate() as f64 / own.rate() as f64;
            report.below(format!("{clients} clients, etcd's writes for one of ours"), Quantity::Times(rate), TARGET);
            let p99 = own_p99.as_secs_f64() / other_p99.as_secs_f64();
            report.below(format!("{clients} clients, our p99 for etcd's"), Quantity::Times(p99), TARGET);
        }
    }
    for gateway in gateways {
        gateway.stop().await;
    }
    Ok(())
}

fn tell(report: &mut Report, whose: &str, clients: usize, seen: &mut Seen) -> Duration {
    let took: Samples = std::mem::take(&mut seen.took).into_iter().collect();
    report.figure(format!("{clients} clients, {whose}: writes a second"), Quantity::Count(seen.rate()));
    report.figure(format!("{clients} clients, {whose}: p50"), Quantity::Time(took.percentile(50)));
    report.figure(format!("{clients} clients, {whose}: p99"), Quantity::Time(took.percentile(99)));
    took.percentile(99)
}

/// Three gateways that all vote, with the timing that gateways have by default.
async fn three() -> io::Result<(Vec<Place>, Vec<Gateway>)> {
    let (place, listener) = Place::new("us-east").await;
    let member = enroll::found(&place.name, &place.data()).map_err(io::Error::other)?;
    let first = Gateway::run_at(Timing::default(), member, listener).await;
    first.sees("the founding", |registry| registry.federation().is_some()).await;
    let (mut places, mut gateways) = (vec![place], vec![first]);
    for cluster in ["us-west", "eu-central"] {
        let (place, listener) = Place::new(cluster).await;
        let token = gateways[0].mint(&place, Duration::from_secs(60)).await;
        let member =
            enroll::join(&place.name, &place.data(), &token, PATIENCE, &isthmus_federation::dial::Connect::tcp())
                .await
                .map_err(io::Error::other)?;
        gateways.push(Gateway::run_at(Timing::default(), member, listener).await);
        places.push(place);
    }
    for gateway in &gateways {
        gateway.stands("three voters", |status| status.voters == [1, 2, 3]).await;
    }
    Ok((places, gateways))
}
