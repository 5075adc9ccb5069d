//! What the network tells the node, in the node's own types.

use std::time::Duration;

use libp2p::{kad, request_response};

use super::{
    announcements::{GroupId, Server},
    block_codec::BlocksAnswer,
    wire::{BlocksRequest, EndStatus, Query, Reply},
};
use crate::{
    content::{Address, NodeId},
    peers::FoundBy,
    reach::Upnp,
};

/// A query sent by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct QueryId(pub(super) request_response::OutboundRequestId);

/// A request for blocks sent by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BlocksId(pub(super) request_response::OutboundRequestId);

/// A request for blocks sent to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct UploadId(pub(super) request_response::InboundRequestId);

/// A walk through the DHT started by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LookupId(pub(super) kad::QueryId);

/// Where the reply to a peer's query goes.
#[derive(Debug)]
pub(crate) struct ReplySlot(pub(super) request_response::ResponseChannel<Reply>);

/// Where the frames answering a peer's request go.
#[derive(Debug)]
pub(crate) struct AnswerSlot(pub(super) request_response::ResponseChannel<BlocksAnswer>);

/// Why a request of ours came to nothing, by blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NetFault {
    /// No connection, or it broke.
    Unreachable,
    /// Nothing came in time.
    Timeout,
    /// The peer does not speak the protocol.
    Unsupported,
    /// The peer broke the protocol.
    Protocol,
    /// We stopped it ourselves.
    Cancelled,
}

/// A question to a server of the DHT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct HolderQuestion(pub(super) request_response::OutboundRequestId);

/// Something happened on the network.
#[derive(Debug)]
pub(crate) enum NetEvent {
    /// We listen on this address.
    Listening(Address),
    /// We no longer do.
    ListenEnded(Vec<Address>),
    /// A server of the DHT said whom it has for a key, or said nothing.
    HolderAnswered {
        question: HolderQuestion,
        named: Option<Vec<NodeId>>,
    },
    /// A peer tried whether we can be reached there.
    Tested {
        address: Address,
        reachable: bool,
        by: NodeId,
    },
    /// What the router said.
    Upnp(Upnp),
    /// Others can reach us here.
    Reachable(Address),
    /// Not any more.
    Unreachable(Address),
    /// A connection to a peer.
    Connected {
        peer: NodeId,
        address: Address,
        inbound: bool,
        relayed: bool,
    },
    /// The last connection to a peer ended.
    Disconnected { peer: NodeId },
    /// A peer said what it is and where it listens.
    Identified {
        peer: NodeId,
        agent: String,
        addresses: Vec<Address>,
        speaks_ours: bool,
        /// It offers to relay.
        relays: bool,
        /// It keeps records of the DHT.
        serves_dht: bool,
        /// Where it sees us.
        observed: Option<Address>,
    },
    /// A relay keeps a place for us: peers can meet us there.
    RelayAccepted { relay: NodeId },
    /// A relay refused, or keeps it no longer.
    RelayEnded { relay: NodeId },
    /// A ping came back.
    Rtt { peer: NodeId, rtt: Duration },
    /// A ping did not.
    Silent { peer: NodeId },
    /// A peer was heard of.
    Discovered {
        peer: NodeId,
        address: Address,
        by: FoundBy,
    },
    /// A peer has this address, says it or another.
    AddressOfPeer { peer: NodeId, address: Address },
    /// A dial failed.
    DialFailed { peer: Option<NodeId>, why: String },
    /// A peer asks something.
    Asked {
        peer: NodeId,
        query: Query,
        slot: ReplySlot,
    },
    /// A peer answered a query, or did not.
    Answered {
        query: QueryId,
        result: Result<Reply, NetFault>,
    },
    /// A peer asks for blocks.
    BlocksAsked {
        peer: NodeId,
        upload: UploadId,
        request: BlocksRequest,
        slot: AnswerSlot,
    },
    /// A response to a peer has been written, or could not be.
    UploadEnded { upload: UploadId },
    /// A response to us has ended.
    BlocksEnded {
        request: BlocksId,
        result: Result<(EndStatus, u32), NetFault>,
    },
    /// The DHT names providers.
    ProvidersFound {
        lookup: LookupId,
        peers: Vec<NodeId>,
    },
    /// A walk for providers has ended.
    LookupEnded { lookup: LookupId },
    /// A walk for the servers closest to a content has ended.
    ServersFound {
        lookup: LookupId,
        servers: Vec<Server>,
        /// How many leading bits the farthest shares with the place of the content.
        shared_bits: u32,
    },
    /// The DHT's servers hold, or do not hold, our records.
    Announced { group: GroupId, stored: bool },
}
