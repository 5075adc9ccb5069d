//! Where others reach this node, after it has moved. The library confirms an address once and never takes it back.

use std::{
    collections::HashSet,
    net::{IpAddr, UdpSocket},
};

use libp2p::{Multiaddr, kad};

use super::{Net, event::NetEvent, translate::address};
use crate::{config::DhtMode, content::Address};

/// Addresses that are remembered, to be believed again.
const MAX_CONFIRMED: usize = 64;

/// What is known of the addresses at which others reach this node.
#[derive(Default)]
pub(super) struct OwnAddresses {
    /// As whoever runs the node says. These stay.
    told: Vec<Address>,
    /// At some time of this run others reached us there.
    confirmed: HashSet<Multiaddr>,
    /// Whence packets to the world went when one was last confirmed.
    way_out: Option<IpAddr>,
}

impl OwnAddresses {
    pub(super) fn new(told: &[Address]) -> Self {
        Self {
            told: told.to_vec(),
            ..Self::default()
        }
    }
}

impl Net {
    /// Others reach us at an address.
    pub(super) fn on_confirmed(&mut self, address: &Multiaddr) {
        if self.own.confirmed.len() < MAX_CONFIRMED {
            self.own.confirmed.insert(address.clone());
        }
        self.own.way_out = way_out();
    }

    /// A peer sees us at an address that is not confirmed. True if it was before: no test is made twice, and we are back.
    pub(super) fn on_seen_again(&mut self, seen: &Multiaddr) -> bool {
        let is_known = self.own.confirmed.contains(seen);
        if is_known {
            self.swarm.add_external_address(seen.clone());
            self.own.way_out = way_out();
            self.become_server();
        }
        is_known
    }

    /// An address that was listened on is gone, and so is where others reached us through it: itself, and what a router
    /// made of it.
    pub(super) fn on_left(&mut self, old: &Address) {
        let Some(ip) = old.ip().filter(|ip| !ip.is_loopback()) else {
            return;
        };
        let is_way_out = self.own.way_out == Some(ip);
        let told = &self.own.told;
        let external = self.swarm.external_addresses().cloned();
        let gone = external.filter_map(address).filter(|known| {
            let behind_router = is_way_out && known.ip().is_some_and(|known| known.is_ipv4());
            let was_there = known.ip() == Some(ip) || behind_router;
            was_there && !known.is_relayed() && !told.contains(known)
        });
        let gone: Vec<Address> = gone.collect();
        if gone.is_empty() {
            return;
        }
        for gone in gone {
            self.swarm.remove_external_address(gone.as_multiaddr());
            self.queue.push_back(NetEvent::Unreachable(gone));
        }
        self.serve_no_longer();
    }

    /// Who is reached nowhere keeps no records for others.
    fn serve_no_longer(&mut self) {
        let external = self.swarm.external_addresses().cloned();
        let is_reached = external
            .filter_map(address)
            .any(|address| !address.is_relayed());
        if self.dht == DhtMode::Auto
            && !is_reached
            && let Some(kad) = self.swarm.behaviour_mut().kad.as_mut()
        {
            kad.set_mode(Some(kad::Mode::Client));
        }
    }

    /// Others have reached us, so we can keep records for them.
    pub(super) fn become_server(&mut self) {
        if self.dht != DhtMode::Auto {
            return;
        }
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut()
            && kad.mode() == kad::Mode::Client
        {
            kad.set_mode(Some(kad::Mode::Server));
        }
    }
}

/// The address that a packet to the world would be sent from by IPv4. None is sent.
fn way_out() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use libp2p::{core::transport::ListenerId, swarm::SwarmEvent};

    use super::*;
    use crate::{config::NetworkConfig, net::NodeKey};

    /// At home there is a router for IPv4 and an address of IPv6; then the node moves, and comes back.
    #[tokio::test]
    async fn who_moves_is_not_reached_where_it_was() {
        let told: Address = "/ip4/45.0.0.9/tcp/1".parse().unwrap();
        let config = NetworkConfig {
            listen: Vec::new(),
            mdns: false,
            external: vec![told.clone()],
            ..NetworkConfig::default()
        };
        let key = NodeKey::from_secret([1; 32]).unwrap();
        let mut net = Net::start(&key, &config, 8, "test", Instant::now()).unwrap();
        let [v4, v6]: [Multiaddr; 2] =
            ["/ip4/45.0.0.1/tcp/1", "/ip6/2a00::1/tcp/1"].map(|address| address.parse().unwrap());
        for address in [&v4, &v6] {
            net.swarm.add_external_address(address.clone());
            net.translate(SwarmEvent::ExternalAddrConfirmed {
                address: address.clone(),
            });
        }
        net.own.way_out = Some([192, 168, 1, 5].into());
        let left = |net: &mut Net, address: &str| {
            net.translate(SwarmEvent::ExpiredListenAddr {
                listener_id: ListenerId::next(),
                address: address.parse().unwrap(),
            });
            let external: HashSet<&Multiaddr> = net.swarm.external_addresses().collect();
            [&v4, &v6].map(|address| external.contains(address))
        };
        assert_eq!(left(&mut net, "/ip4/172.17.0.1/tcp/1"), [true, true]);
        assert_eq!(left(&mut net, "/ip4/192.168.1.5/tcp/1"), [false, true]);
        assert_eq!(net.dht_mode(), "server");
        assert_eq!(left(&mut net, "/ip6/2a00::1/tcp/1"), [false, false]);
        let external: Vec<&Multiaddr> = net.swarm.external_addresses().collect();
        assert_eq!(external, [told.as_multiaddr()]);
        let unreachable: Vec<&NetEvent> = net.queue.iter().collect();
        assert!(matches!(
            unreachable[..],
            [NetEvent::Unreachable(_), NetEvent::Unreachable(_)]
        ));

        let back = net.translate(SwarmEvent::NewExternalAddrCandidate {
            address: v4.clone(),
        });
        assert!(matches!(back, Some(NetEvent::Reachable(_))));
        assert!(net.swarm.external_addresses().any(|known| *known == v4));
        let new = "/ip4/45.0.0.2/tcp/1".parse().unwrap();
        let unknown = net.translate(SwarmEvent::NewExternalAddrCandidate { address: new });
        assert!(unknown.is_none());
    }
}
