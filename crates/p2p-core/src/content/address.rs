//! [`Address`]: where a node can be reached, as a multiaddr behind a type of our own.
//!
//! Invariant: an address is not empty and, with a node id appended, at most [`MAX_LEN`] bytes long.

use std::{fmt, net::IpAddr, str::FromStr};

use bincode::{
    Decode, Encode,
    de::Decoder,
    enc::Encoder,
    error::{DecodeError, EncodeError},
};
use multiaddr::{Multiaddr, PeerId, Protocol};

use super::{
    NodeId,
    encoding::{read_bytes, refuse},
};

/// Longest address in bytes. A relayed QUIC address with two certificate hashes has about 190.
const MAX_LEN: usize = 256;

/// Longest `/p2p/…` component in bytes: two for its code, one for its length, 44 for the id. An address without
/// one leaves this much room, so that appending a node id never makes it too long.
const NODE_LEN: usize = 47;

/// Longest text that is looked at: three characters for each byte is more than any component prints.
const MAX_TEXT: usize = 4 * MAX_LEN;

/// An address of a node: a multiaddr such as `/ip4/192.0.2.1/udp/4001/quic-v1/p2p/12D3Koo…`.
///
/// Source: <https://github.com/libp2p/specs/blob/master/addressing/README.md>.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(Multiaddr);

/// Why bytes or a text are not an [`Address`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseAddressError {
    /// Not a multiaddr that this version knows.
    #[error("not a multiaddr such as /ip4/192.0.2.1/tcp/4001")]
    Malformed,
    /// A multiaddr without a component.
    #[error("an empty address")]
    Empty,
    /// More than 256 bytes (with room for a node id).
    #[error("an address of {0} bytes is too long")]
    TooLong(usize),
    /// More than one IP address or name. A transport may take another for the host than whoever judges the address.
    #[error("an address that names more than one host")]
    ManyHosts,
}

impl Address {
    /// Reads the binary form of a multiaddr.
    ///
    /// # Errors
    /// [`ParseAddressError`] if it is malformed, empty or too long.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseAddressError> {
        if bytes.len() > MAX_LEN {
            return Err(ParseAddressError::TooLong(bytes.len()));
        }
        let inner =
            Multiaddr::try_from(bytes.to_vec()).map_err(|_| ParseAddressError::Malformed)?;
        Self::from_multiaddr(inner)
    }

    /// The binary form, at most 256 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// Wraps a multiaddr of the network layer, with the same checks as [`Address::from_bytes`].
    pub(crate) fn from_multiaddr(inner: Multiaddr) -> Result<Self, ParseAddressError> {
        if inner.is_empty() {
            return Err(ParseAddressError::Empty);
        }
        let len = inner.as_ref().len();
        let room = if matches!(inner.iter().last(), Some(Protocol::P2p(_))) {
            0
        } else {
            NODE_LEN
        };
        if len.saturating_add(room) > MAX_LEN {
            return Err(ParseAddressError::TooLong(len));
        }
        if inner.iter().filter(is_host).count() > 1 {
            return Err(ParseAddressError::ManyHosts);
        }
        Ok(Self(inner))
    }

    /// The multiaddr, for the network layer.
    pub(crate) fn as_multiaddr(&self) -> &Multiaddr {
        &self.0
    }

    /// The node that the address ends in (`/p2p/…`), if it names one.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        match self.0.iter().last() {
            Some(Protocol::P2p(peer)) => NodeId::from_bytes(&peer.to_bytes()).ok(),
            _ => None,
        }
    }

    /// The same address of this node: `/p2p/…` appended, in place of one that it may end in.
    #[must_use]
    pub fn with_node(&self, node: NodeId) -> Self {
        let bare = self.bare();
        match PeerId::from_bytes(node.as_bytes()) {
            Ok(peer) => Self(bare.with(Protocol::P2p(peer))),
            // Cannot happen: a node id is checked by the same rules. The address without it is still right.
            Err(_) => Self(bare),
        }
    }

    /// The address without a trailing `/p2p/…`, unless nothing else would be left.
    #[must_use]
    pub fn without_node(&self) -> Self {
        let bare = self.bare();
        if bare.is_empty() {
            self.clone()
        } else {
            Self(bare)
        }
    }

    fn bare(&self) -> Multiaddr {
        let mut inner = self.0.clone();
        if matches!(inner.iter().last(), Some(Protocol::P2p(_))) {
            inner.pop();
        }
        inner
    }

    /// The IP address it begins with: the node's, or its relay's. `None` for a DNS name.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self.0.iter().next()? {
            Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
            Protocol::Ip6(ip) => Some(IpAddr::V6(ip).to_canonical()),
            Protocol::Ip6zone(_) => match self.0.iter().nth(1)? {
                Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether it leads to the machine itself (`127.0.0.0/8`, `::1`, `localhost`).
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match (self.ip(), self.dns_name()) {
            (Some(ip), _) => ip.is_loopback(),
            (None, Some(name)) => name == "localhost" || name.ends_with(".localhost"),
            (None, None) => matches!(
                self.0.iter().next(),
                Some(Protocol::Memory(_) | Protocol::Unix(_))
            ),
        }
    }

    /// The port of TCP or UDP.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.0.iter().find_map(|part| match part {
            Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
            _ => None,
        })
    }

    /// Whether it means something only on this machine or in its local network: loopback, RFC 1918, carrier-grade
    /// NAT (`100.64.0.0/10`), link-local, unique local, unspecified, and names under `.local`, `.lan`,
    /// `.internal` and `.home.arpa`. Such an address is not announced to, nor believed from, strangers.
    #[must_use]
    pub fn is_private(&self) -> bool {
        if self.is_loopback() {
            return true;
        }
        match (self.ip(), self.dns_name()) {
            (Some(IpAddr::V4(ip)), _) => {
                let [a, b, ..] = ip.octets();
                ip.is_private() || ip.is_link_local() || a == 0 || (a == 100 && (b & 0xc0) == 64)
            }
            (Some(IpAddr::V6(ip)), _) => {
                ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_unspecified()
            }
            (None, Some(name)) => {
                !name.contains('.')
                    || [".local", ".lan", ".internal", ".home.arpa"]
                        .iter()
                        .any(|zone| name.ends_with(zone))
            }
            (None, None) => false,
        }
    }

    /// Whether it is worth telling to, or hearing from, the whole network: an IP address or DNS name that is neither
    /// private nor reserved for documentation, benchmarks, multicast or future use.
    #[must_use]
    pub fn is_global(&self) -> bool {
        if self.is_private() {
            return false;
        }
        match (self.ip(), self.dns_name()) {
            (Some(IpAddr::V4(ip)), _) => {
                let [a, b, ..] = ip.octets();
                let benchmark = a == 198 && (b & 0xfe) == 18;
                !(benchmark || ip.is_documentation() || a >= 224)
            }
            (Some(IpAddr::V6(ip)), _) => {
                let [a, b, ..] = ip.segments();
                !((a == 0x2001 && b == 0xdb8) || ip.is_multicast())
            }
            (None, name) => name.is_some(),
        }
    }

    /// Whether it is an IP address that is global. What a name stands for, its owner decides, each time anew: a stranger's
    /// may lead to `127.0.0.1`.
    pub(crate) fn is_global_ip(&self) -> bool {
        self.ip().is_some() && self.is_global()
    }

    /// Whether it is reached over QUIC version 1.
    #[must_use]
    pub fn is_quic(&self) -> bool {
        self.has(|part| matches!(part, Protocol::QuicV1))
    }

    /// Whether it is reached over TCP, plain or below a WebSocket.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        self.has(|part| matches!(part, Protocol::Tcp(_)))
    }

    /// Whether it leads through a relay (`/p2p-circuit`).
    #[must_use]
    pub fn is_relayed(&self) -> bool {
        self.has(|part| matches!(part, Protocol::P2pCircuit))
    }

    fn has(&self, wanted: impl Fn(&Protocol<'_>) -> bool) -> bool {
        self.0.iter().any(|part| wanted(&part))
    }

    /// The DNS name it begins with, in lower case and without a final dot.
    fn dns_name(&self) -> Option<String> {
        match self.0.iter().next()? {
            Protocol::Dns(name)
            | Protocol::Dns4(name)
            | Protocol::Dns6(name)
            | Protocol::Dnsaddr(name) => Some(name.trim_end_matches('.').to_ascii_lowercase()),
            _ => None,
        }
    }
}

fn is_host(part: &Protocol<'_>) -> bool {
    matches!(
        part,
        Protocol::Ip4(_)
            | Protocol::Ip6(_)
            | Protocol::Dns(_)
            | Protocol::Dns4(_)
            | Protocol::Dns6(_)
            | Protocol::Dnsaddr(_)
            | Protocol::Memory(_)
            | Protocol::Unix(_)
    )
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_TEXT {
            return Err(ParseAddressError::TooLong(text.len()));
        }
        let inner = text.parse().map_err(|_| ParseAddressError::Malformed)?;
        Self::from_multiaddr(inner)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Encode for Address {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.as_ref().encode(encoder)
    }
}

impl<Context> Decode<Context> for Address {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Self::from_bytes(&read_bytes(decoder, MAX_LEN)?).map_err(refuse)
    }
}
bincode::impl_borrow_decode!(Address);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::encoding;
    use proptest::prelude::*;

    const NODE: &str = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
    const RELAY: &str = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N";

    fn address(text: &str) -> Address {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn names_its_node_only_at_the_end() {
        let node: NodeId = NODE.parse().unwrap();
        let relay: NodeId = RELAY.parse().unwrap();
        let plain = address("/ip4/192.0.2.1/udp/4001/quic-v1");
        assert_eq!(plain.node(), None);
        assert_eq!(plain.with_node(node).node(), Some(node));
        assert_eq!(
            plain.with_node(relay).with_node(node),
            plain.with_node(node)
        );
        assert_eq!(plain.with_node(node).without_node(), plain);
        assert_eq!(plain.without_node(), plain);

        let circuit = address(&format!("/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit"));
        assert_eq!(circuit.node(), None);
        assert_eq!(circuit.without_node(), circuit);
        assert!(circuit.is_relayed() && circuit.is_tcp() && !circuit.is_quic());
        let through = circuit.with_node(node);
        assert_eq!(through.node(), Some(node));
        assert_eq!(through.to_string(), format!("{circuit}/p2p/{NODE}"));

        let only = address(&format!("/p2p/{NODE}"));
        assert_eq!(only.without_node(), only);
        assert_eq!(only.with_node(relay).node(), Some(relay));
    }

    #[test]
    fn knows_private_from_global() {
        // (text, loopback, private, global)
        let cases = [
            ("/ip4/127.0.0.1/tcp/1", true, true, false),
            ("/ip4/127.255.0.9/tcp/1", true, true, false),
            ("/ip6/::1/tcp/1", true, true, false),
            ("/ip6/::ffff:127.0.0.1/tcp/1", true, true, false),
            ("/dns4/localhost/tcp/1", true, true, false),
            ("/dns/x.LOCALHOST./tcp/1", true, true, false),
            ("/ip4/10.0.0.1/tcp/1", false, true, false),
            ("/ip4/172.16.0.1/tcp/1", false, true, false),
            ("/ip4/172.32.0.1/tcp/1", false, false, true),
            ("/ip4/192.168.1.1/tcp/1", false, true, false),
            ("/ip6/::ffff:192.168.1.1/tcp/1", false, true, false),
            ("/ip4/100.64.0.1/tcp/1", false, true, false),
            ("/ip4/100.127.255.255/tcp/1", false, true, false),
            ("/ip4/100.128.0.1/tcp/1", false, false, true),
            ("/ip4/100.63.0.1/tcp/1", false, false, true),
            ("/ip4/169.254.3.4/tcp/1", false, true, false),
            ("/ip4/0.0.0.0/tcp/1", false, true, false),
            ("/ip6/fe80::1/tcp/1", false, true, false),
            ("/ip6zone/eth0/ip6/fe80::1/tcp/1", false, true, false),
            ("/ip6/fd12::1/tcp/1", false, true, false),
            ("/ip6/::/tcp/1", false, true, false),
            ("/dns/nas/tcp/1", false, true, false),
            ("/dns/nas.local/tcp/1", false, true, false),
            ("/dns/nas.home.arpa/tcp/1", false, true, false),
            ("/ip4/192.0.2.1/tcp/1", false, false, false),
            ("/ip4/198.18.0.1/tcp/1", false, false, false),
            ("/ip4/224.0.0.251/tcp/1", false, false, false),
            ("/ip4/255.255.255.255/tcp/1", false, false, false),
            ("/ip6/2001:db8::1/tcp/1", false, false, false),
            ("/ip6/ff02::1/tcp/1", false, false, false),
            ("/ip4/8.8.8.8/udp/1/quic-v1", false, false, true),
            ("/ip6/2606:4700::1111/tcp/1", false, false, true),
            ("/dns4/example.org/tcp/1", false, false, true),
            ("/dnsaddr/bootstrap.example.org", false, false, true),
            ("/memory/7", true, true, false),
        ];
        for (text, loopback, private, global) in cases {
            let a = address(text);
            assert_eq!(a.is_loopback(), loopback, "loopback {text}");
            assert_eq!(a.is_private(), private, "private {text}");
            assert_eq!(a.is_global(), global, "global {text}");
        }
        assert_eq!(
            address("/ip4/1.2.3.4/tcp/1").ip(),
            Some([1, 2, 3, 4].into())
        );
        assert_eq!(address("/dns/example.org/tcp/1").ip(), None);
    }

    #[test]
    fn names_one_host() {
        for text in [
            "/ip4/8.8.8.8/tcp/1/ip4/127.0.0.1/tcp/22",
            "/ip4/192.168.1.1/tcp/1/ip4/8.8.8.8/tcp/80",
            "/ip6/2606:4700::1111/udp/1/quic-v1/dns4/localhost/tcp/22",
            "/dns4/example.org/tcp/1/ip6/::1/tcp/22",
            "/ip4/8.8.8.8/tcp/1/memory/7",
        ] {
            let parsed = text.parse::<Address>();
            assert_eq!(parsed, Err(ParseAddressError::ManyHosts), "{text}");
        }
        assert!(address("/ip4/8.8.8.8/tcp/1").is_global_ip());
        assert!(!address("/dns4/example.org/tcp/1").is_global_ip());
        assert!(!address("/ip4/10.0.0.1/tcp/1").is_global_ip());
    }

    #[test]
    fn is_bounded_with_its_node() {
        let name = |len: usize| format!("/dns/{}", "a".repeat(len));
        // The name costs its code, its length (two bytes from 128 on) and itself.
        let longest = address(&name(MAX_LEN - NODE_LEN - 3));
        let node = NodeId::from_bytes(&[&[0, 42][..], &[9; 42]].concat()).unwrap();
        assert_eq!(longest.with_node(node).to_bytes().len(), MAX_LEN);
        let again = Address::from_bytes(&longest.with_node(node).to_bytes());
        assert_eq!(again, Ok(longest.with_node(node)));
        let over = name(MAX_LEN - NODE_LEN - 2).parse::<Address>();
        assert!(matches!(over, Err(ParseAddressError::TooLong(_))));
        assert!(matches!(
            "/".repeat(5000).parse::<Address>(),
            Err(ParseAddressError::TooLong(_))
        ));
        assert!(matches!(
            Address::from_bytes(&[4; 257]),
            Err(ParseAddressError::TooLong(257))
        ));
        assert_eq!(Address::from_bytes(&[]), Err(ParseAddressError::Empty));
        assert_eq!("".parse::<Address>(), Err(ParseAddressError::Empty));
        for text in [
            "/",
            "ip4/1.2.3.4",
            "/ip4/1.2.3",
            "/ip4/1.2.3.4/tcp/70000",
            "/nonsense/1",
        ] {
            assert_eq!(
                text.parse::<Address>(),
                Err(ParseAddressError::Malformed),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_or_kept_exactly(
            bytes in prop::collection::vec(prop::sample::select(vec![0u8, 1, 4, 6, 41, 53, 54, 145, 2, 3, 165, 34, 36, 204, 127]), 0..60)
        ) {
            if let Ok(a) = Address::from_bytes(&bytes) {
                prop_assert_eq!(a.to_bytes(), bytes);
                let _ = (a.to_string(), a.node(), a.ip(), a.is_private(), a.is_global());
                prop_assert_eq!(encoding::decode::<Address, 300>(&encoding::encode(&a)), Ok(a));
            }
        }
    }
}
