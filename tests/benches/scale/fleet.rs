//! Many gateways in one process: how long each takes to join, and all of them to agree again after all were stopped.

use std::io;
use std::time::{Duration, Instant};

use isthmus_federation::{Timing, enroll};
use isthmus_model::command::Command;
use isthmus_tests::bench::{Quantity, Report, Samples};
use tokio::net::TcpListener;

use super::gateway::{Gateway, PATIENCE, Place};
use super::world;

const FLEETS: [usize; 3] = [10, 50, 200];
/// Services on offer while they join and restart.
const EXPORTS: usize = 100;

/// Fleets up to `largest`.
pub(crate) async fn measure(report: &mut Report, largest: usize) -> io::Result<()> {
    for gateways in FLEETS.into_iter().filter(|gateways| *gateways <= largest) {
        of_size(report, gateways).await?;
    }
    Ok(())
}

async fn of_size(report: &mut Report, count: usize) -> io::Result<()> {
    let told = |what: &str| format!("{count} gateways: {what}");
    let (place, listener) = Place::new("cluster-0").await;
    let member = enroll::found(&place.name, &place.data()).map_err(io::Error::other)?;
    let first = Gateway::run_at(Timing::default(), member, listener).await;
    first.sees("the founding", |registry| registry.federation().is_some()).await;
    for number in 0..EXPORTS {
        let command = Command::SetExport { service: world::service(number), export: world::export(8080) };
        first.handle.propose(command).await.map_err(io::Error::other)?;
    }
    let (mut places, mut gateways, mut joins) = (vec![place], vec![first], Vec::new());
    for number in 1..count {
        let (place, listener) = Place::new(&format!("cluster-{number}")).await;
        let token = gateways[0].mint(&place, Duration::from_secs(60)).await;
        let begun = Instant::now();
        let member =
            enroll::join(&place.name, &place.data(), &token, PATIENCE, &isthmus_federation::dial::Connect::tcp())
                .await
                .map_err(io::Error::other)?;
        let gateway = Gateway::run_at(Timing::default(), member, listener).await;
        gateway.sees("every export", |registry| registry.exports().len() == EXPORTS).await;
        joins.push(begun.elapsed());
        places.push(place);
        gateways.push(gateway);
    }
    let joins: Samples = joins.into_iter().collect();
    report.figure(told("joined and in possession of every export: p50"), Quantity::Time(joins.percentile(50)));
    report.figure(told("joined and in possession of every export: slowest"), Quantity::Time(joins.max()));

    let begun = Instant::now();
    let change = Command::SetExport { service: world::service(EXPORTS), export: world::export(8080) };
    gateways[0].handle.propose(change).await.map_err(io::Error::other)?;
    for gateway in &gateways {
        gateway.sees("the change", |registry| registry.exports().len() > EXPORTS).await;
    }
    report.figure(told("a change seen by all"), Quantity::Time(begun.elapsed()));

    let addresses: Vec<_> = gateways.iter().map(|gateway| gateway.address).collect();
    for gateway in gateways {
        gateway.stop().await;
    }
    let begun = Instant::now();
    let mut gateways = Vec::new();
    for (place, address) in places.iter().zip(addresses) {
        let member = enroll::resume(&place.name, &place.data()).map_err(io::Error::other)?;
        let member = member.ok_or_else(|| io::Error::other("a member is one still"))?;
        gateways.push(Gateway::run_at(Timing::default(), member, TcpListener::bind(address).await?).await);
    }
    report.figure(told("all stopped, all running again"), Quantity::Time(begun.elapsed()));
    let change = Command::WithdrawExport { service: world::service(EXPORTS) };
    gateways[0].handle.propose(change).await.map_err(io::Error::other)?;
    for gateway in &gateways {
        gateway.sees("the change", |registry| registry.exports().len() == EXPORTS).await;
    }
    report.figure(told("all stopped, a new change seen by all"), Quantity::Time(begun.elapsed()));
    for gateway in gateways {
        gateway.stop().await;
    }
    Ok(())
}
