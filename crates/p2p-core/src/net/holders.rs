//! Which servers of the DHT hold a record: each is asked for itself, what kad's own search does not tell.
//!
//! Like our announcements, the question goes over kad's protocol beside kad: one `GET_PROVIDERS` message, and one back.
//!
//! Source: <https://github.com/libp2p/specs/tree/master/kad-dht>.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{PeerId, StreamProtocol, kad::PeerInfo, request_response};
use prost::Message as _;

use super::{
    Net,
    announcements::Server,
    event::{HolderQuestion, NetEvent},
    translate::node_id,
};
use crate::content::{ContentId, NodeId};

/// Longest answer of a server: twenty providers, each with eight long addresses, are a third of it.
const MAX_ANSWER: usize = 64 * 1024;
/// Providers of an answer that are looked at.
const MAX_PROVIDERS: usize = 64;
/// `GET_PROVIDERS`.
const GET_PROVIDERS: i32 = 3;

/// A message of the DHT, as far as it matters here.
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
}

/// Asks a server whom it has for a key; the answer is whom it names.
#[derive(Debug, Clone, Default)]
pub(crate) struct HoldersCodec;

impl request_response::Codec for HoldersCodec {
    type Protocol = StreamProtocol;
    type Request = ContentId;
    type Response = Vec<NodeId>;

    fn read_request<T>(
        &mut self,
        _: &StreamProtocol,
        _: &mut T,
    ) -> impl Future<Output = io::Result<ContentId>> + Send
    where
        T: AsyncRead + Unpin + Send,
    {
        // What others ask is kad's to read.
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<NodeId>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let len = read_length(io).await?;
        let mut bytes = vec![0; len];
        io.read_exact(&mut bytes).await?;
        let answer = Message::decode(bytes.as_slice())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let named = answer.providers.into_iter().take(MAX_PROVIDERS);
        let named = named.filter_map(|peer| node_id(PeerId::from_bytes(&peer.id).ok()?));
        Ok(named.collect())
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        id: ContentId,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let question = Message {
            kind: GET_PROVIDERS,
            key: id.multihash().to_vec(),
            providers: Vec::new(),
        };
        io.write_all(&question.encode_length_delimited_to_vec())
            .await
    }

    fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        _: &mut T,
        _: Vec<NodeId>,
    ) -> impl Future<Output = io::Result<()>> + Send
    where
        T: AsyncWrite + Unpin + Send,
    {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

/// The length before a message, which is refused before anything is made room for.
async fn read_length(io: &mut (impl AsyncRead + Unpin + Send)) -> io::Result<usize> {
    let mut len = 0_usize;
    for shift in [0, 7, 14] {
        let mut byte = [0];
        io.read_exact(&mut byte).await?;
        let [byte] = byte;
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            if len > MAX_ANSWER {
                break;
            }
            return Ok(len);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "a message that is too long",
    ))
}

impl Net {
    /// Asks a server of the DHT, which has just answered a look-up, whom it has for a key. The answer is
    /// [`NetEvent::HolderAnswered`].
    pub(crate) fn ask_holder(&mut self, server: &Server, id: ContentId) -> Option<HolderQuestion> {
        let Server(PeerInfo { peer_id, .. }) = server;
        let holders = self.swarm.behaviour_mut().holders.as_mut()?;
        Some(HolderQuestion(holders.send_request(peer_id, id)))
    }
}

impl Server {
    /// Its peer id.
    pub(crate) fn node(&self) -> Option<NodeId> {
        node_id(self.0.peer_id)
    }
}

/// What a server's answer means to the node.
pub(super) fn on_event(event: request_response::Event<ContentId, Vec<NodeId>>) -> Option<NetEvent> {
    use request_response::{Event, Message};
    match event {
        Event::Message {
            message:
                Message::Response {
                    request_id,
                    response,
                },
            ..
        } => Some(NetEvent::HolderAnswered {
            question: HolderQuestion(request_id),
            named: Some(response),
        }),
        Event::OutboundFailure {
            request_id, error, ..
        } => {
            tracing::debug!(%error, "a server did not say what it holds");
            Some(NetEvent::HolderAnswered {
                question: HolderQuestion(request_id),
                named: None,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use futures::{executor::block_on, io::Cursor};
    use libp2p::request_response::Codec as _;

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<NodeId>> {
        let protocol = StreamProtocol::new("/test");
        block_on(HoldersCodec.read_response(&protocol, &mut Cursor::new(bytes)))
    }

    #[test]
    fn an_answer_names_peers_and_is_bounded() {
        let peers: Vec<PeerId> = (0..100).map(|_| PeerId::random()).collect();
        let id = |peer: &PeerId| Peer {
            id: peer.to_bytes(),
        };
        let mut answer = Message {
            kind: GET_PROVIDERS,
            key: Vec::new(),
            providers: peers[..2].iter().map(id).collect(),
        };
        // What is no peer id is left out.
        answer.providers.push(Peer { id: vec![1, 2, 3] });
        let named = read(&answer.encode_length_delimited_to_vec()).unwrap();
        assert_eq!(
            named,
            [node_id(peers[0]).unwrap(), node_id(peers[1]).unwrap()]
        );
        answer.providers = peers.iter().map(id).collect();
        let named = read(&answer.encode_length_delimited_to_vec()).unwrap();
        assert_eq!(named.len(), MAX_PROVIDERS);
        let empty = Message::default().encode_length_delimited_to_vec();
        assert_eq!(read(&empty).unwrap(), []);
    }

    #[test]
    fn what_is_too_long_or_cut_is_refused_before_it_is_read() {
        for bytes in [
            &[0xff, 0xff, 0xff, 0xff][..],
            &[0xff, 0xff, 0x7f],
            &[0x81, 0x80, 0x04],
            &[0x05, 1],
            &[0x02, 0xff, 0xff],
            &[],
        ] {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
        let longest = [&[0x80, 0x80, 0x04][..], &vec![0; MAX_ANSWER]].concat();
        assert!(read(&longest).is_err(), "its bytes are no message");
    }
}
