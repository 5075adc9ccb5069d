//! What the network around a node allows, in words: what is known is gathered, and judged by a pure function.

use std::{net::IpAddr, time::Instant};

use tokio::sync::oneshot;

use super::{Node, blocking, command::Command, driver::Driver, error::NodeError};
use crate::{
    config::{DhtMode, NetworkConfig, RelayMode},
    content::Address,
    reach::{Nat, Tested, Upnp},
};

/// What a finding means for whoever runs the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Level {
    /// It is as it should be.
    Ok,
    /// It is good to know.
    Info,
    /// It works, but less well than it could.
    Warn,
    /// It does not work.
    Bad,
}

/// Something that was found out, and what can be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What it is about: `listening`, `reachable`, `nat`, `upnp`, `relays`, `dht` or `lan`.
    pub area: &'static str,
    /// How good or bad it is.
    pub level: Level,
    /// In a sentence.
    pub message: String,
    /// What to do, if anything.
    pub advice: Option<String>,
}

/// How others can reach a node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reachability {
    /// Directly, at these addresses: another node was there, or whoever runs this one says so.
    Direct(Vec<Address>),
    /// At relays only, from where holes are punched.
    Relayed,
    /// Nobody beyond the local network could, of those who tried.
    Unreachable,
    /// Nobody has tried yet.
    Unknown,
}

/// What the driver knows of it.
#[derive(Debug)]
pub(super) struct Facts {
    listening: Vec<Address>,
    external: Vec<Address>,
    tested: Vec<Tested>,
    nat: Nat,
    upnp: Upnp,
    neighbours: Vec<Address>,
    dht_mode: &'static str,
    dht_peers: usize,
    now: Instant,
}

/// An interface of the machine with one of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    name: String,
    ip: IpAddr,
    prefix: u8,
}

impl Driver {
    pub(super) fn facts(&mut self) -> Facts {
        Facts {
            listening: self.listening.clone(),
            external: self.external.clone(),
            tested: self.reach.tested().cloned().collect(),
            nat: self.reach.nat(&self.listening),
            upnp: self.reach.upnp,
            neighbours: self.reach.neighbours().cloned().collect(),
            dht_mode: self.hands.net.dht_mode(),
            dht_peers: self.hands.net.dht_peers(),
            now: self.hands.now,
        }
    }
}

impl Node {
    /// How others can reach this node, as far as is known.
    ///
    /// # Errors
    /// If the node has stopped.
    pub async fn reachability(&self) -> Result<Reachability, NodeError> {
        Ok(reachability(&self.facts().await?))
    }

    /// Looks at what the network allows this node, and says it in words, with what can be done: where it listens, whether
    /// and how others reach it, what the routers do, the DHT, the local network.
    ///
    /// # Errors
    /// If the node has stopped.
    pub async fn doctor(&self) -> Result<Vec<Finding>, NodeError> {
        let facts = self.facts().await?;
        let interfaces = blocking(interfaces).await?;
        Ok(judge(&facts, &self.inner.network, &interfaces))
    }

    async fn facts(&self) -> Result<Facts, NodeError> {
        let (reply, facts) = oneshot::channel();
        self.send(Command::Facts { reply }).await?;
        Ok(facts.await.map_err(|_| super::NodeStopped)?)
    }
}

fn interfaces() -> Vec<Interface> {
    let all = if_addrs::get_if_addrs().unwrap_or_default().into_iter();
    let others = all.filter(|interface| !interface.is_loopback());
    let described = others.map(|interface| Interface {
        ip: interface.ip(),
        prefix: match &interface.addr {
            if_addrs::IfAddr::V4(v4) => v4.prefixlen,
            if_addrs::IfAddr::V6(v6) => v6.prefixlen,
        },
        name: interface.name,
    });
    described.collect()
}

/// Whether two addresses are in one network.
fn same_network(a: IpAddr, b: IpAddr, prefix: u8) -> bool {
    let bits = |a: u128, b: u128, length: u8| {
        let shift = length.saturating_sub(prefix);
        let cut = |bits: u128| bits.checked_shr(u32::from(shift)).unwrap_or(0);
        cut(a) == cut(b)
    };
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => bits(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => bits(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

fn reachability(facts: &Facts) -> Reachability {
    let direct = |address: &&Address| !address.is_relayed() && address.is_global();
    let addresses: Vec<Address> = facts.external.iter().filter(direct).cloned().collect();
    if !addresses.is_empty() {
        return Reachability::Direct(addresses);
    }
    if facts.external.iter().any(Address::is_relayed) {
        return Reachability::Relayed;
    }
    let mut public = facts.tested.iter().filter(|t| t.address.is_global());
    match public.next() {
        Some(_) => Reachability::Unreachable,
        None => Reachability::Unknown,
    }
}

fn finding(area: &'static str, level: Level, message: impl Into<String>) -> Finding {
    Finding {
        area,
        level,
        message: message.into(),
        advice: None,
    }
}

impl Finding {
    fn with(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// All findings, in the order in which one would look.
fn judge(facts: &Facts, config: &NetworkConfig, interfaces: &[Interface]) -> Vec<Finding> {
    let mut findings = vec![listening(facts)];
    if config.lan_only {
        let message = "nothing leaves the local network: lan_only is set";
        findings.push(finding("reachable", Level::Ok, message));
    } else {
        findings.push(reachable(facts, config));
        findings.extend(facts.tested.iter().map(|tested| test(tested, facts.now)));
        findings.push(nat(facts));
        findings.push(upnp(facts, config));
        findings.push(relays(facts, config));
    }
    findings.push(dht(facts, config));
    findings.extend(lan(facts, config, interfaces));
    findings
}

fn list<'a>(addresses: impl IntoIterator<Item = &'a Address>) -> String {
    let texts: Vec<String> = addresses.into_iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn listening(facts: &Facts) -> Finding {
    let own = facts.listening.iter().filter(|a| !a.is_relayed());
    let own: Vec<&Address> = own.collect();
    if own.is_empty() {
        return finding("listening", Level::Bad, "this node listens nowhere")
            .with("look at [network] listen, and whether another program has the port");
    }
    let udp = own.iter().any(|address| address.is_quic());
    let message = format!("listens on {}", list(own));
    match udp {
        true => finding("listening", Level::Ok, message),
        false => finding("listening", Level::Info, message)
            .with("without an address of UDP (…/udp/4711/quic-v1) holes are harder to punch"),
    }
}

/// The ports to forward, in words.
fn ports(facts: &Facts) -> String {
    let own = facts.listening.iter().filter(|a| !a.is_relayed());
    let port = own.filter_map(Address::port).next();
    port.map_or_else(
        || "the port of this node".to_owned(),
        |port| format!("TCP and UDP port {port}"),
    )
}

fn reachable(facts: &Facts, config: &NetworkConfig) -> Finding {
    let forward = format!("forward {} to this machine on the router", ports(facts));
    match reachability(facts) {
        Reachability::Direct(addresses) => finding(
            "reachable",
            Level::Ok,
            format!("others reach this node directly, at {}", list(&addresses)),
        ),
        Reachability::Relayed => finding(
            "reachable",
            Level::Warn,
            "others meet this node at a relay; from there both sides try to connect directly",
        )
        .with(forward),
        Reachability::Unreachable => finding(
            "reachable",
            Level::Bad,
            "others could not connect when they tried",
        )
        .with(match config.relay {
            RelayMode::Client => format!("{forward}, or stay connected to a node that relays"),
            _ => format!("{forward}, or set relay = \"client\""),
        }),
        Reachability::Unknown => finding(
            "reachable",
            Level::Info,
            "nobody has tried yet whether this node can be reached",
        )
        .with("connect it to nodes with public addresses ([network] bootstrap), and ask again in a minute"),
    }
}

fn test(tested: &Tested, now: Instant) -> Finding {
    let ago = now.saturating_duration_since(tested.at).as_secs();
    let (level, how) = match tested.reachable {
        true => (Level::Ok, "was reached"),
        false => (Level::Info, "was not reached"),
    };
    let message = format!("{} {how} by {}, {ago} s ago", tested.address, tested.by);
    finding("reachable", level, message)
}

fn nat(facts: &Facts) -> Finding {
    match facts.nat {
        Nat::None => finding("nat", Level::Ok, "no router changes the addresses of this node"),
        Nat::EndpointIndependent => finding(
            "nat",
            Level::Ok,
            "the router keeps the port, whoever is spoken to: holes can be punched",
        ),
        Nat::Symmetric => finding(
            "nat",
            Level::Warn,
            "the router takes another port for each connection: holes can be punched only to those who have a better one",
        )
        .with(format!("forward {}, if others shall reach this node", ports(facts))),
        Nat::Unknown => finding(
            "nat",
            Level::Info,
            "too few nodes with public addresses have told what they see of this one",
        ),
    }
}

fn upnp(facts: &Facts, config: &NetworkConfig) -> Finding {
    if !config.upnp {
        return finding(
            "upnp",
            Level::Info,
            "the router is not asked to open a port: upnp is off",
        );
    }
    match facts.upnp {
        Upnp::Mapped => finding("upnp", Level::Ok, "the router has opened a port"),
        Upnp::NoGateway => finding("upnp", Level::Info, "no router here opens ports by UPnP")
            .with("it may have to be allowed in the router's settings"),
        Upnp::NotRoutable => finding(
            "upnp",
            Level::Warn,
            "the router has no public address itself: there is another one behind it",
        )
        .with("have the other router forward the port, or ask the provider for a public address"),
        Upnp::Unknown => finding("upnp", Level::Info, "the router has not answered yet"),
    }
}

fn relays(facts: &Facts, config: &NetworkConfig) -> Finding {
    let places = facts.external.iter().filter(|a| a.is_relayed()).count();
    match (config.relay, places) {
        (RelayMode::Off, _) => finding("relays", Level::Info, "relays are not used: relay is off"),
        (RelayMode::Server, _) => finding("relays", Level::Ok, "this node relays for others"),
        (RelayMode::Client, 0) => finding(
            "relays",
            Level::Info,
            "no relay keeps a place for this node",
        ),
        (RelayMode::Client, n) => finding(
            "relays",
            Level::Ok,
            format!("others can meet this node at {n} addresses of relays"),
        ),
    }
}

fn dht(facts: &Facts, config: &NetworkConfig) -> Finding {
    match (config.dht, facts.dht_peers) {
        (DhtMode::Off, _) => finding(
            "dht",
            Level::Info,
            "the DHT is off: only peers that are connected are asked",
        ),
        (_, 0) => finding(
            "dht",
            Level::Bad,
            "no server of the DHT is known: content is found at connected peers only",
        )
        .with("name a node that is usually on in [network] bootstrap"),
        (_, known) => finding(
            "dht",
            Level::Ok,
            format!(
                "{known} servers of the DHT are known; this node is a {}",
                facts.dht_mode
            ),
        ),
    }
}

fn lan(facts: &Facts, config: &NetworkConfig, interfaces: &[Interface]) -> Vec<Finding> {
    if !config.mdns {
        let message = "neighbours are not looked for: mdns is off";
        return vec![finding("lan", Level::Info, message)];
    }
    let on = |interface: &Interface| {
        let ips = facts.neighbours.iter().filter_map(Address::ip);
        ips.filter(|ip| same_network(*ip, interface.ip, interface.prefix))
            .count()
    };
    let described = interfaces.iter().map(|interface| {
        let (name, ip) = (&interface.name, interface.ip);
        match on(interface) {
            0 => finding("lan", Level::Info, format!("no neighbour was heard on {name} ({ip})")).with(
                "if there is one: some access points keep their clients apart, and firewalls drop UDP port 5353",
            ),
            n => finding("lan", Level::Ok, format!("neighbours were heard on {name} ({ip}), at {n} addresses")),
        }
    });
    let findings: Vec<Finding> = described.collect();
    if findings.is_empty() {
        return vec![finding("lan", Level::Warn, "this machine is on no network")];
    }
    findings
}

#[cfg(test)]
#[path = "doctor_tests.rs"]
mod tests;
