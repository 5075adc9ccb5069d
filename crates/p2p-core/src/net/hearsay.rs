//! What is believed of addresses that others name: nothing that would have this node dial into a network from which they are
//! not themselves. kad dials whomever the answers to its queries name, at the addresses they name; so a stranger could have
//! every node that asks it knock at `192.168.1.1`, or at a service of the node's own machine.

use libp2p::Multiaddr;

use crate::content::Address;

/// From how far away an address can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// From the machine itself.
    Machine,
    /// From its local network.
    Lan,
    /// From everywhere.
    World,
}

impl Reach {
    /// Of the other end of a connection. What leads through a relay may come from anywhere.
    pub(super) fn of_remote(address: &Multiaddr) -> Self {
        let direct = Address::from_multiaddr(address.clone()).ok();
        match direct.filter(|address| !address.is_relayed()) {
            Some(address) if address.is_loopback() => Self::Machine,
            Some(address) if address.is_private() => Self::Lan,
            _ => Self::World,
        }
    }

    /// Of an address that somebody named; `None` if it is none to dial on their word. Such is each name of the public DNS:
    /// its owner decides anew, each time, what it stands for.
    pub(super) fn of_named(address: &Multiaddr) -> Option<Self> {
        let address = Address::from_multiaddr(address.clone()).ok()?;
        match (address.is_loopback(), address.is_private()) {
            (true, _) => Some(Self::Machine),
            (false, true) => Some(Self::Lan),
            (false, false) => address.is_global_ip().then_some(Self::World),
        }
    }

    /// Whether somebody that far away can know of this address.
    pub(super) fn knows(self, address: &Multiaddr) -> bool {
        Self::of_named(address).is_some_and(|named| named >= self)
    }
}
