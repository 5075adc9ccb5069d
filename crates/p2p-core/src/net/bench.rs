//! Messages and the streaming of blocks, for the benchmarks.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{AsyncRead, AsyncWrite, future};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    kad::{ProviderRecord, RecordKey, store::RecordStore as _},
    request_response::Codec as _,
};
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, DuplexStream, ReadBuf},
    sync::{mpsc, oneshot},
};

use super::{
    block_codec::{BlocksAnswer, BlocksAsk, BlocksCodec, FRAME_QUEUE, Reception},
    records::{Bounds, Records},
    wire::{
        self, BLOCKS_PROTOCOL, BlocksItem, BlocksRequest, EndStatus, Frame, FrameHeader, Reply,
        Run, WireError,
    },
};
use crate::content::{BLOCK_LEN, BlockSet, ContentId, Geometry};

/// Bytes on their way between the two ends: about what a connection keeps in flight on loopback.
const IN_FLIGHT: usize = BLOCK_LEN;

/// A request for blocks.
pub struct Request(BlocksRequest);

impl Request {
    /// For this many runs of eight blocks of one content, with gaps between them.
    #[must_use]
    pub fn new(runs: u32) -> Self {
        let run = |n: u32| Run {
            start: n.saturating_mul(100),
            count: 8,
        };
        Self(BlocksRequest {
            number: 7,
            items: vec![BlocksItem {
                content: ContentId::EMPTY,
                size: 1 << 40,
                outline: true,
                runs: (0..runs).map(run).collect(),
            }],
        })
    }

    /// The bytes of the message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        wire::encode_blocks_request(&self.0)
    }

    /// Whether these bytes are such a message.
    #[must_use]
    pub fn decodes(bytes: &[u8]) -> bool {
        wire::decode_blocks_request(bytes).is_ok()
    }
}

/// The answer that says which blocks are held.
pub struct Have(Reply);

impl Have {
    /// These blocks of a content.
    #[must_use]
    pub fn new(geometry: Geometry, blocks: BlockSet) -> Self {
        Self(Reply::Have {
            size: geometry.size(),
            blocks,
        })
    }

    /// The bytes of the message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        wire::encode_reply(&self.0)
    }

    /// Whether these bytes are an answer.
    #[must_use]
    pub fn decodes(bytes: &[u8]) -> bool {
        wire::decode_reply(bytes).is_ok()
    }
}

/// The head of the frame of a block, as its bytes.
#[must_use]
pub fn frame_header(index: u32, block: Bytes) -> [u8; 12] {
    let frame = Frame::Block {
        item: 0,
        index,
        bytes: block,
    };
    frame.into_parts().0.to_bytes()
}

/// How long the payload is that this head announces; `None` if it is no head.
#[must_use]
pub fn parse_frame_header(raw: [u8; 12]) -> Option<usize> {
    let header: Result<FrameHeader, WireError> = FrameHeader::parse(raw);
    header.ok().map(FrameHeader::payload_len)
}

/// Sends one block `count` times through the codec of either side, joined in memory. The number of bytes that came out.
///
/// # Errors
/// None, unless the codec is broken.
pub async fn stream(block: Bytes, count: u32) -> io::Result<usize> {
    let protocol = StreamProtocol::new(BLOCKS_PROTOCOL);
    let (here, there) = tokio::io::duplex(IN_FLIGHT);
    let (mut here, mut there) = (Io(here), Io(there));
    let (mut asker, mut server) = (BlocksCodec::default(), BlocksCodec::default());

    let (arrived, mut arriving) = mpsc::channel(FRAME_QUEUE);
    let (_wanted, cancelled) = oneshot::channel();
    let ask = BlocksAsk {
        request: Request::new(1).0,
        reception: Some(Reception {
            frames: arrived,
            cancelled,
        }),
    };
    asker.write_request(&protocol, &mut here, ask).await?;
    server.read_request(&protocol, &mut there).await?;

    let (outgoing, frames) = mpsc::channel(FRAME_QUEUE);
    let (_asked, cancelled) = oneshot::channel();
    let answer = BlocksAnswer::Frames { frames, cancelled };
    let sending = async {
        for index in 0..count {
            let bytes = block.clone();
            let item = 0;
            let frame = Frame::Block { item, index, bytes };
            outgoing.send(frame).await.map_err(io::Error::other)?;
        }
        let status = EndStatus::Done;
        let end = Frame::End {
            status,
            retry_ms: 0,
        };
        outgoing.send(end).await.map_err(io::Error::other)
    };
    let receiving = async {
        let mut received = 0_usize;
        while let Some(frame) = arriving.recv().await {
            if let Frame::Block { bytes, .. } = frame {
                received = received.saturating_add(bytes.len());
            }
        }
        Ok(received)
    };
    let reading = async {
        let ended = asker.read_response(&protocol, &mut here).await;
        // With the codec goes its end of the channel, and the receiving is over.
        drop(asker);
        ended
    };
    let writing = server.write_response(&protocol, &mut there, answer);
    let (_, received, _, ()) = future::try_join4(sending, receiving, reading, writing).await?;
    Ok(received)
}

/// The records that strangers have a node keep.
pub struct Strangers {
    records: Records,
    began: Instant,
}

/// A stranger with records.
#[derive(Clone, Copy)]
pub struct Stranger(PeerId);

impl Stranger {
    /// Another one each time.
    #[must_use]
    pub fn new() -> Self {
        Self(PeerId::random())
    }
}

impl Default for Stranger {
    fn default() -> Self {
        Self::new()
    }
}

impl Strangers {
    /// None yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let records = Records::new(PeerId::random(), Bounds::default(), now);
        Self {
            records,
            began: now,
        }
    }

    /// A stranger announces a content, with addresses of this many bytes each. Whether that was kept.
    pub fn announce(&mut self, who: Stranger, id: ContentId, addresses: &[usize]) -> bool {
        let address = |len: &usize| {
            let unknown = vec![b'a'; len.saturating_sub(2)];
            let mut bytes = vec![0x36, u8::try_from(unknown.len()).unwrap_or(127)];
            bytes.extend(unknown);
            // A DNS name; of no bytes, the empty address.
            Multiaddr::try_from(bytes).unwrap_or_else(|_| Multiaddr::empty())
        };
        let record = ProviderRecord {
            key: RecordKey::new(&id.multihash()),
            provider: who.0,
            expires: self.began.checked_add(Duration::from_secs(3600)),
            addresses: addresses.iter().map(address).collect(),
        };
        self.records.add_provider(record).is_ok()
    }

    /// Records kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.foreign_len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets those that have expired by then.
    pub fn sweep(&mut self, now: Instant) {
        self.records.sweep(now);
    }
}

/// One end of a pipe in memory, with the traits that the codecs want.
struct Io(DuplexStream);

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let polled = Pin::new(&mut self.0).poll_read(cx, &mut buffer);
        polled.map_ok(|()| buffer.filled().len())
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
