//! From the tree of a file to a [`GatewayConfig`]: defaults, bounds, and what must hold between fields.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use isthmus_model::spiffe::WorkloadName;
use isthmus_model::voters::VOTERS_MAX;
use isthmus_proxy::accept::{DRAIN_WITHIN, DRAIN_WITHIN_MAX};
use isthmus_proxy::message::quiet::QUIET_DEFAULT;
use isthmus_proxy::unix_socket::{PATH_BYTES_MAX, is_one_user};
use isthmus_sources::OPAQUE_PORTS;

use super::tree::{self, Located, Problem, Section};
use super::{
    ControlSocketConfig, Dns, GatewayConfig, Ingress, Join, Listen, ProxyProtocol, Raft, duration, is_loopback, size,
};
use crate::control::Users;

/// Resolvers to forward to; more than a handful only delays the answer that nobody has.
const UPSTREAMS_MAX: usize = 8;
/// Networks of load balancers before one listener: each connection is compared with them one by one.
const LOAD_BALANCERS_MAX: usize = 64;
/// The default life of a workload's certificate, as in Istio and Consul.
const CERTIFICATE_TTL_DEFAULT: Duration = Duration::from_secs(24 * 3600);
/// Below a minute, renewal would race with the five minutes that clocks are allowed to differ.
const CERTIFICATE_TTL_MIN: Duration = Duration::from_secs(60);
/// An intermediate lives 90 days; a certificate must not outlive the one that signed it.
const CERTIFICATE_TTL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Heartbeats faster than this are work without use even on loopback.
const HEARTBEAT_MIN: Duration = Duration::from_millis(10);
/// The registry stands still for an election: a minute of it is the most that can be meant.
const ELECTION_MAX: Duration = Duration::from_secs(60);
/// An election must survive a lost heartbeat or two.
const HEARTBEATS_PER_ELECTION_MIN: u32 = 3;
/// A voter that merely restarts keeps its seat: each change of voters seals the root's key anew.
const VOTER_REPLACE_MIN: Duration = Duration::from_secs(5);
/// Longer, and an operator is there sooner.
const VOTER_REPLACE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// The slowest that snapshots may go: ten megabytes take three minutes, and longer would let the log run away.
const SNAPSHOT_RATE_MIN: NonZeroU64 = NonZeroU64::new(64 << 10).expect("not zero");
/// The fastest: no link between clusters is faster.
const SNAPSHOT_RATE_MAX: NonZeroU64 = NonZeroU64::new(10 << 30).expect("not zero");
/// Users of the control socket: the workloads of one machine.
const USERS_MAX: usize = 1_024;
/// The shortest that streams from outside may be quiet: a slow application must not look like a silent one.
const STREAM_IDLE_MIN: Duration = Duration::from_secs(1);
/// The longest: what holds its places for longer is left behind.
const STREAM_IDLE_MAX: Duration = Duration::from_secs(24 * 3600);
/// A bound on the other timeouts, to catch a wrong unit.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Reads the text of a file in the directory `base`.
pub(super) fn read(text: &str, base: &Path) -> Result<GatewayConfig, Vec<Problem>> {
    // What else is wrong with it may only follow from the tab.
    read_tree(text, base).map_err(|problems| tree::tab(text).map_or(problems, |tab| vec![tab]))
}

fn read_tree(text: &str, base: &Path) -> Result<GatewayConfig, Vec<Problem>> {
    let root = tree::parse(text).map_err(|problem| vec![problem])?;
    let mut problems = Vec::new();
    let config = tree::read_file(root, &mut problems, |top| gateway(top, base));
    problems.sort();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

fn gateway(top: &mut Section<'_>, base: &Path) -> Option<GatewayConfig> {
    let federation = top.required("federation", str::parse);
    let cluster = top.required("cluster", str::parse);
    let gateway = top.scalar("gateway", str::parse).map(|name| name.value).or_else(|| "gw-1".parse().ok());
    let locality = top.required("locality", str::parse);
    let found = top.scalar("found", boolean).is_some_and(|found| found.value);
    let path = |text: &str| if text.is_empty() { Err("the path is empty") } else { Ok(base.join(text)) };
    let data_dir = top.required("data_dir", path);
    let manifests = top.required("manifests", path);
    let listen = listen(top);
    let has_ingress = top.has("ingress");
    let proxy_protocol = top.section("proxy_protocol", |section| proxy_protocol(section, has_ingress));
    let has_socket = top.has("control_socket");
    let control_socket = top.section("control_socket", |section| has_socket.then(|| control_socket(section, base)));
    let advertise = advertise(top, listen.as_ref());
    let vip_range = vip_range(top, &own_addresses(listen.as_ref(), advertise));
    let opaque_ports = opaque_ports(top);
    let ingress = top.section("ingress", |section| has_ingress.then(|| ingress(section, base, listen.as_ref())));
    let dns = top.section("dns", |section| dns(section, listen.as_ref()));
    let ttl = top.scalar("workload_certificate_ttl", within(CERTIFICATE_TTL_MIN, CERTIFICATE_TTL_MAX));
    let raft = top.section("raft", raft);
    let join = top.section("join", join);
    let drain = top.scalar("drain", within(Duration::ZERO, DRAIN_WITHIN_MAX));
    Some(GatewayConfig {
        federation: federation?,
        cluster: cluster?,
        gateway: gateway?,
        locality: locality?,
        found,
        data_dir: data_dir?,
        manifests: manifests?,
        listen: listen?,
        proxy_protocol,
        control_socket: control_socket.flatten(),
        advertise,
        vip_range,
        opaque_ports,
        ingress: ingress.flatten(),
        dns,
        workload_certificate_ttl: ttl.map_or(CERTIFICATE_TTL_DEFAULT, |ttl| ttl.value),
        raft,
        join,
        drain: drain.map_or(DRAIN_WITHIN, |drain| drain.value),
    })
}

fn boolean(text: &str) -> Result<bool, &'static str> {
    text.parse().map_err(|_| "write true or false")
}

fn within(min: Duration, max: Duration) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        let found = duration::parse(text).map_err(|error| error.to_string())?;
        if (min..=max).contains(&found) {
            return Ok(found);
        }
        Err(format!("{text} is out of bounds: from {} to {} is allowed", duration::format(min), duration::format(max)))
    }
}

/// Bytes a second at which snapshots of the registry may go.
fn rate(text: &str) -> Result<NonZeroU64, String> {
    let found = size::parse(text).map_err(|error| error.to_string())?;
    if (SNAPSHOT_RATE_MIN..=SNAPSHOT_RATE_MAX).contains(&found) {
        return Ok(found);
    }
    let (min, max) = (size::format(SNAPSHOT_RATE_MIN), size::format(SNAPSHOT_RATE_MAX));
    Err(format!("{text} is out of bounds: from {min} to {max} a second is allowed"))
}

/// An address with or without its port.
fn address(port: u16) -> impl Fn(&str) -> Result<SocketAddr, String> {
    move |text| {
        let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port));
        let message = || format!("{text:?} is not an address: write IP or IP:port, for example 10.0.0.5:{port}");
        bare.or_else(|_| text.parse()).map_err(|_| message())
    }
}

/// One listener's name, its fixed port, and how it defaults.
struct Listener {
    name: &'static str,
    port: u16,
    loopback_only: bool,
}

const fn listener(name: &'static str, port: u16) -> Listener {
    Listener { name, port, loopback_only: false }
}

fn listen(top: &mut Section<'_>) -> Option<Listen> {
    let base = top.scalar("address", str::parse::<IpAddr>);
    let base = base.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.value);
    top.section("listen", |section| {
        let mut taken: Vec<(&'static str, SocketAddr)> = Vec::new();
        let mut bind = |listener: Listener| bind(section, &listener, base, &mut taken);
        let east_west = bind(listener("east_west", 15443));
        let dns = bind(listener("dns", 15053));
        let control = bind(listener("control", 15012));
        let egress = bind(listener("egress", 15001));
        let admin = bind(Listener { name: "admin", port: 15000, loopback_only: true });
        let metrics = bind(listener("metrics", 15020));
        let readiness = bind(listener("readiness", 15021));
        Some(Listen {
            east_west: east_west?,
            dns: dns?,
            control: control?,
            egress: egress?,
            admin: admin?,
            metrics: metrics?,
            readiness: readiness?,
        })
    })
}

fn bind(
    section: &mut Section<'_>,
    listener: &Listener,
    base: IpAddr,
    taken: &mut Vec<(&'static str, SocketAddr)>,
) -> Option<SocketAddr> {
    let &Listener { name, port, loopback_only } = listener;
    let ip = if loopback_only && !is_loopback(base) { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { base };
    let present = section.has(name);
    let found = section.scalar(name, address(port));
    if present && found.is_none() {
        return None;
    }
    let Located { line, value } = found.unwrap_or(Located { line: section.line(), value: SocketAddr::new(ip, port) });
    if loopback_only && !is_loopback(value.ip()) {
        let message = "it answers without asking who asks, so it must be a loopback address (127.0.0.0/8 or ::1)";
        section.report(line, format!("`listen.{name}`: {message}"));
        return None;
    }
    if let Some((other, _)) = taken.iter().find(|(_, other)| collide(*other, value)) {
        section.report(line, format!("`listen.{name}`: {value} is already taken by `listen.{other}`"));
        return None;
    }
    taken.push((name, value));
    Some(value)
}

/// Whether two sockets cannot both be bound.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let overlap = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && overlap
}

fn advertise(top: &mut Section<'_>, listen: Option<&Listen>) -> Option<SocketAddr> {
    let port = listen.map_or(15443, |listen| listen.east_west.port());
    let present = top.has("advertise");
    let found = top.scalar("advertise", |text| {
        let reached = address(port)(text)?;
        if reached.ip().is_unspecified() || reached.ip().is_multicast() || reached.port() == 0 {
            return Err(format!("{text} is not an address that others can dial"));
        }
        Ok(reached)
    });
    let everywhere = listen.is_some_and(|listen| listen.east_west.ip().is_unspecified());
    if everywhere && !present {
        let line = top.line();
        let message = "`advertise` is missing: `listen.east_west` takes every address, so say which one others reach";
        top.report(line, message.to_owned());
    }
    found.map(|found| found.value)
}

fn control_socket(section: &mut Section<'_>, base: &Path) -> Option<ControlSocketConfig> {
    let path = section.required("path", |text| {
        let path = base.join(text);
        if text.is_empty() {
            return Err("the path is empty".to_owned());
        }
        if path.as_os_str().len() > PATH_BYTES_MAX {
            return Err(format!("a socket's path has at most {PATH_BYTES_MAX} bytes, and {} has more", path.display()));
        }
        Ok(path)
    });
    let user = |text: &str| match text.parse() {
        Ok(uid) if is_one_user(uid) => Ok(uid),
        Ok(_) => Err("stands for users that the system cannot name: give the workload a user of its own"),
        Err(_) => Err("not a numeric user id; `id -u NAME` tells it"),
    };
    let line = section.line();
    let workloads: Vec<(u32, WorkloadName)> =
        section.section("workloads", |section| section.entries(USERS_MAX, user, str::parse));
    if workloads.is_empty() {
        section
            .report(line, "`control_socket.workloads` names nobody: write `UID: namespace/service-account`".to_owned());
    }
    let mut users = Users::new();
    for (uid, workload) in workloads {
        if users.insert(uid, workload).is_some() {
            section.report(line, format!("`control_socket.workloads`: user {uid} is there twice: keep one"));
        }
    }
    Some(ControlSocketConfig { path: path?, workloads: users })
}

/// Where the gateway itself is.
fn own_addresses(listen: Option<&Listen>, advertise: Option<SocketAddr>) -> Vec<IpAddr> {
    let listeners = listen.into_iter().flat_map(|listen| listen.all().map(|(_, address)| address));
    listeners.chain(advertise).map(|address| address.ip()).filter(|ip| !ip.is_unspecified()).collect()
}

/// A network, without bits behind its prefix.
fn range(text: &str) -> Result<IpNet, String> {
    let range = text.parse::<IpNet>().map_err(|_| format!("{text:?} is not a range: write it as 10.11.0.0/16"))?;
    if range.trunc() == range {
        Ok(range)
    } else {
        Err(format!("{range} has bits behind its prefix: write {}", range.trunc()))
    }
}

/// Load balancers, each by its address or its network.
fn proxy_protocol(section: &mut Section<'_>, has_ingress: bool) -> ProxyProtocol {
    let network = |text: &str| {
        let network = text.parse::<IpAddr>().map(IpNet::from).or_else(|_| range(text))?;
        if network.prefix_len() == 0 {
            return Err(format!("{network} is everyone, who could then claim to be anyone: list the load balancers"));
        }
        match network.addr().to_canonical() {
            IpAddr::V4(address) if network.addr().is_ipv6() => Err(format!("{network} is of IPv4: write {address}")),
            _ => Ok(network),
        }
    };
    let mut listed = |listener| section.list(listener, LOAD_BALANCERS_MAX, network).unwrap_or_default();
    let (east_west, ingress) = (listed("east_west"), listed("ingress"));
    if let Some(first) = ingress.first().filter(|_| !has_ingress) {
        let problem = "`proxy_protocol.ingress`: there is no `ingress` that they could stand before";
        section.report(first.line, problem.to_owned());
    }
    let networks = |listed: Vec<Located<IpNet>>| listed.into_iter().map(|network| network.value).collect();
    ProxyProtocol { east_west: networks(east_west), ingress: networks(ingress) }
}

fn vip_range(top: &mut Section<'_>, own: &[IpAddr]) -> Option<IpNet> {
    let found = top.scalar("vip_range", |text| {
        let range = range(text)?;
        // The registry's numbers start at 1, and the last address of a range stays unused.
        if range.max_prefix_len() - range.prefix_len() < 2 {
            return Err(format!("{range} has no room for a service; use a /16 to have room for all"));
        }
        if let Some(own) = own.iter().find(|own| range.contains(*own)) {
            return Err(format!("{range} has the gateway's own address {own} in it: a service would get it too"));
        }
        Ok(range)
    });
    found.map(|found| found.value)
}

/// Requests from outside come to addresses of their own: what else the gateway listens on is not for everyone.
fn ingress(section: &mut Section<'_>, base: &Path, listen: Option<&Listen>) -> Option<Ingress> {
    let taken: Vec<(&'static str, SocketAddr)> = listen.into_iter().flat_map(Listen::all).collect();
    let free = |port: u16| {
        let taken = taken.clone();
        move |text: &str| {
            let found = address(port)(text)?;
            match taken.iter().find(|(_, other)| collide(*other, found)) {
                Some((other, _)) => Err(format!("{found} is already taken by `listen.{other}`")),
                None => Ok(found),
            }
        }
    };
    let gateway = section
        .required("gateway", |text| if text.is_empty() { Err("the name is empty") } else { Ok(text.to_owned()) });
    let https = section.required("https", free(443));
    let http = section.scalar("http", free(80));
    let certificates = section
        .required("certificates", |text| if text.is_empty() { Err("the path is empty") } else { Ok(base.join(text)) });
    if let (Some(https), Some(http)) = (https, &http)
        && collide(https, http.value)
    {
        section.report(http.line, format!("`ingress.http`: {} is already taken by `ingress.https`", http.value));
    }
    let stream_idle_timeout = section
        .scalar("stream_idle_timeout", within(STREAM_IDLE_MIN, STREAM_IDLE_MAX))
        .map_or(QUIET_DEFAULT, |found| found.value);
    let (gateway, https, http) = (gateway?, https?, http.map(|http| http.value));
    Some(Ingress { gateway, https, http, certificates: certificates?, stream_idle_timeout })
}

fn opaque_ports(top: &mut Section<'_>) -> BTreeSet<u16> {
    let port = |text: &str| match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{text:?} is not a port: write a number from 1 to 65535")),
    };
    let given = top.list("opaque_ports", usize::from(u16::MAX), port);
    given.map_or(OPAQUE_PORTS.into(), |given| given.into_iter().map(|port| port.value).collect())
}

fn dns(section: &mut Section<'_>, listen: Option<&Listen>) -> Dns {
    let upstream = |text: &str| {
        let upstream = address(53)(text)?;
        if listen.is_some_and(|listen| is_own_dns(upstream, listen)) {
            return Err(format!("{upstream} is this gateway's own DNS listener: questions would go in circles"));
        }
        let dialable = !upstream.ip().is_unspecified() && upstream.port() != 0;
        if dialable { Ok(upstream) } else { Err(format!("{text} is not the address of a resolver")) }
    };
    let upstreams = section.list("upstreams", UPSTREAMS_MAX, upstream).unwrap_or_default();
    Dns { upstreams: upstreams.into_iter().map(|upstream| upstream.value).collect() }
}

/// Whether a question to `upstream` would arrive at the gateway itself, as far as the configuration tells.
fn is_own_dns(upstream: SocketAddr, listen: &Listen) -> bool {
    let everywhere = listen.dns.ip().is_unspecified();
    let is_own = || listen.all().iter().any(|(_, address)| address.ip() == upstream.ip());
    let arrives = upstream.ip() == listen.dns.ip() || everywhere && (is_loopback(upstream.ip()) || is_own());
    upstream.port() == listen.dns.port() && arrives
}

fn raft(section: &mut Section<'_>) -> Raft {
    let default = Raft::default();
    let line = section.line();
    let mut timing =
        |name, min, max, default| section.scalar(name, within(min, max)).unwrap_or(Located { line, value: default });
    let heartbeat = timing("heartbeat", HEARTBEAT_MIN, ELECTION_MAX, default.heartbeat);
    let election_min = timing("election_min", HEARTBEAT_MIN, ELECTION_MAX, default.election_min);
    let election_max = timing("election_max", HEARTBEAT_MIN, ELECTION_MAX, default.election_max);
    if election_min.value < heartbeat.value * HEARTBEATS_PER_ELECTION_MIN {
        let least = duration::format(heartbeat.value * HEARTBEATS_PER_ELECTION_MIN);
        let message = format!(
            "`raft.election_min` is less than {HEARTBEATS_PER_ELECTION_MIN} heartbeats ({least}): one lost heartbeat would start an election"
        );
        section.report(election_min.line, message);
    }
    if election_max.value <= election_min.value {
        let message =
            "`raft.election_max` is not more than `raft.election_min`: followers would stand for election together";
        section.report(election_max.line, message.to_owned());
    }
    let voters = section.scalar("voters", |text| match text.parse() {
        Ok(voters) if voters <= VOTERS_MAX && voters % 2 == 1 => Ok(voters),
        _ => Err("write 1, 3, 5 or 7: an even number tolerates no more failures than one less"),
    });
    let replace_after = section.scalar("voter_replace_after", within(VOTER_REPLACE_MIN, VOTER_REPLACE_MAX));
    let snapshot_rate = section.scalar("snapshot_rate", rate);
    Raft {
        heartbeat: heartbeat.value,
        election_min: election_min.value,
        election_max: election_max.value,
        voters: voters.map_or(default.voters, |voters| voters.value),
        voter_replace_after: replace_after.map_or(default.voter_replace_after, |after| after.value),
        snapshot_rate: snapshot_rate.map_or(default.snapshot_rate, |rate| rate.value),
    }
}

fn join(section: &mut Section<'_>) -> Join {
    let default = Join::default();
    let mut timeout = |name, default| {
        section.scalar(name, within(Duration::from_millis(100), TIMEOUT_MAX)).map_or(default, |found| found.value)
    };
    let join = Join { attempt: timeout("attempt", default.attempt), deadline: timeout("deadline", default.deadline) };
    if join.attempt > join.deadline {
        section.report(section.line(), "`join.attempt` is longer than `join.deadline`".to_owned());
    }
    join
}
