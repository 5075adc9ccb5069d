//! Our provider records on their way to the servers of the DHT.
//!
//! kad itself looks for the closest servers of each key anew, and opens a stream for each record to each of them. Here the
//! records of neighbouring keys go together: one look-up, and to each server one stream of kad's own protocol with an
//! `ADD_PROVIDER` message for each key, after one another. Servers close the stream when they have read them all, which is
//! all the answer there is to these messages.

use std::{collections::HashMap, io};

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    kad::{KBucketKey, PeerInfo},
    request_response::{self, OutboundRequestId},
};
use prost::Message as _;

use super::{Net, event::NetEvent};
use crate::content::ContentId;

/// Addresses that we tell servers of ourselves; they keep no more.
const MAX_ADDRESSES: usize = 8;

/// Bytes read from a server before it closes the stream. It has nothing to say.
const MAX_ANSWER: usize = 1024;

/// Servers that hold each record; the answer to a look-up names as many.
pub(super) const REPLICAS: usize = libp2p::kad::K_VALUE.get();

/// A server of the DHT, and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server(pub(super) PeerInfo);

/// A group of ids on its way to its servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct GroupId(u64);

/// A message of the DHT, as far as we send it.
#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(message, repeated, tag = "9")]
    providers: Vec<Peer>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Peer {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    addresses: Vec<Vec<u8>>,
    #[prost(int32, tag = "3")]
    connection: i32,
}

/// `ADD_PROVIDER`.
const ADD_PROVIDER: i32 = 2;
/// The sender is connected to the provider: it is the provider.
const CONNECTED: i32 = 1;

/// The messages that tell of these ids, each after its length.
fn messages(ids: &[ContentId], local: PeerId, addresses: &[Multiaddr]) -> Bytes {
    let addresses = addresses.iter().take(MAX_ADDRESSES);
    let provider = Peer {
        id: local.to_bytes(),
        addresses: addresses.map(Multiaddr::to_vec).collect(),
        connection: CONNECTED,
    };
    let mut message = Message {
        kind: ADD_PROVIDER,
        key: Vec::new(),
        providers: vec![provider],
    };
    let mut bytes = Vec::new();
    for id in ids {
        message.key = id.multihash().to_vec();
        // Fails only when a buffer is full, and a vector never is.
        let _ = message.encode_length_delimited(&mut bytes);
    }
    bytes.into()
}

/// Writes records to a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecordsCodec;

impl request_response::Codec for RecordsCodec {
    type Protocol = StreamProtocol;
    type Request = Bytes;
    type Response = ();

    fn read_request<T>(
        &mut self,
        _: &StreamProtocol,
        _: &mut T,
    ) -> impl Future<Output = io::Result<Bytes>> + Send
    where
        T: AsyncRead + Unpin + Send,
    {
        // What others announce is kad's to read.
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<()>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut ignored = [0; MAX_ANSWER];
        let mut read = 0;
        while let Some(room) = ignored.get_mut(read..).filter(|room| !room.is_empty()) {
            match io.read(room).await {
                Ok(0) => return Ok(()),
                Ok(len) => read += len,
                // Some close by letting go of the stream.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        messages: Bytes,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&messages).await
    }

    fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        _: &mut T,
        (): (),
    ) -> impl Future<Output = io::Result<()>> + Send
    where
        T: AsyncWrite + Unpin + Send,
    {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

/// Groups under way.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    next: u64,
    open: HashMap<GroupId, Open>,
    requests: HashMap<OutboundRequestId, GroupId>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Open {
    waiting: usize,
    stored: usize,
    failed: usize,
}

impl Announcements {
    fn begin(&mut self, requests: Vec<OutboundRequestId>) -> GroupId {
        let id = GroupId(self.next);
        self.next = self.next.wrapping_add(1);
        let open = Open {
            waiting: requests.len(),
            ..Open::default()
        };
        self.open.insert(id, open);
        self.requests
            .extend(requests.into_iter().map(|request| (request, id)));
        id
    }

    /// A server took the records, or did not. The event, if it was the last.
    fn on_end(&mut self, request: OutboundRequestId, stored: bool) -> Option<NetEvent> {
        let group = self.requests.remove(&request)?;
        let open = self.open.get_mut(&group)?;
        open.waiting = open.waiting.saturating_sub(1);
        match stored {
            true => open.stored += 1,
            false => open.failed += 1,
        }
        if open.waiting > 0 {
            return None;
        }
        let Open { stored, failed, .. } = *open;
        self.open.remove(&group);
        Some(NetEvent::Announced {
            group,
            // Look-ups ask all of the closest servers, so half of them are plenty; fewer are tried again.
            stored: stored > 0 && stored >= failed,
        })
    }

    pub(super) fn on_event(
        &mut self,
        event: request_response::Event<Bytes, ()>,
    ) -> Option<NetEvent> {
        use request_response::{Event, Message};
        match event {
            Event::Message {
                message: Message::Response { request_id, .. },
                ..
            } => self.on_end(request_id, true),
            Event::OutboundFailure {
                request_id, error, ..
            } => {
                tracing::debug!(%error, "a server did not take our records");
                self.on_end(request_id, false)
            }
            _ => None,
        }
    }
}

impl Net {
    /// Tells the servers of the DHT that we hold these contents. The end is [`NetEvent::Announced`].
    pub(crate) fn announce(&mut self, ids: &[ContentId], servers: Vec<Server>) -> Option<GroupId> {
        let external: Vec<Multiaddr> = self.swarm.external_addresses().cloned().collect();
        let messages = messages(ids, *self.swarm.local_peer_id(), &external);
        let announce = self.swarm.behaviour_mut().announce.as_mut()?;
        let requests = servers.into_iter().map(|Server(server)| {
            // They have just answered a look-up: there is a connection, and no need to dial what others say of them.
            announce.send_request(&server.peer_id, messages.clone())
        });
        let requests: Vec<_> = requests.collect();
        if requests.is_empty() {
            return None;
        }
        Some(self.announcements.begin(requests))
    }
}

/// How many leading bits of its place on the ring the farthest of these servers shares with an id. 0 if there are fewer than
/// were asked for: then there are no others.
pub(super) fn shared_bits(key: &[u8], servers: &[PeerInfo]) -> u32 {
    if servers.len() < REPLICAS {
        return 0;
    }
    let target = KBucketKey::new(key.to_vec());
    let distances = servers
        .iter()
        .map(|server| target.distance(&KBucketKey::from(server.peer_id)));
    let farthest = distances.max().and_then(|distance| distance.ilog2());
    farthest.map_or(0, |log| 255_u32.saturating_sub(log))
}
