//! The codec of `/p2p-core/blocks/1`: one request, answered by a stream of frames.
//!
//! The clone that writes the request also reads its response, so it can hand each frame to a bounded channel as it
//! arrives; the responder's clone pulls from a bounded channel as it writes. Memory per transfer is the two channels,
//! whatever the length of the run. A full channel stops the reading, and with it the peer's window.

use std::{io, time::Duration};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};
use tokio::sync::{mpsc, oneshot};

use super::{
    buffers::Buffers,
    codec::{invalid, read_message, within, write_message},
    wire::{
        self, BlocksRequest, EndStatus, FRAME_HEADER_LEN, Frame, FrameHeader,
        MAX_BLOCKS_REQUEST_LEN,
    },
};

/// No byte for this long and the response is given up; the scheduler has long moved the blocks elsewhere by then.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// Frames between a connection and the thread that reads or writes the disk: 1 MiB of blocks.
pub(crate) const FRAME_QUEUE: usize = 4;

/// A request for blocks and, on the asking side, where its frames go.
#[derive(Debug)]
pub(crate) struct BlocksAsk {
    pub(crate) request: BlocksRequest,
    /// `None` on the answering side.
    pub(crate) reception: Option<Reception>,
}

/// Where the frames of a response go.
#[derive(Debug)]
pub(crate) struct Reception {
    pub(crate) frames: mpsc::Sender<Frame>,
    /// Resolves when the response is no longer wanted; dropping the sender says the same.
    pub(crate) cancelled: oneshot::Receiver<()>,
}

/// A response: on the answering side the frames to write, on the asking side how it ended.
#[derive(Debug)]
pub(crate) enum BlocksAnswer {
    /// Frames to write, ended by an `End` frame.
    Frames {
        frames: mpsc::Receiver<Frame>,
        /// Resolves when the asker wants no more; dropping the sender says the same.
        cancelled: oneshot::Receiver<()>,
    },
    /// How the response ended.
    Ended { status: EndStatus, retry_ms: u32 },
}

/// Reads and writes requests for blocks and their streamed responses.
#[derive(Debug, Default)]
pub(crate) struct BlocksCodec {
    reception: Option<Reception>,
}

impl Clone for BlocksCodec {
    /// A fresh codec for another stream: the reception belongs to one request only.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl request_response::Codec for BlocksCodec {
    type Protocol = StreamProtocol;
    type Request = BlocksAsk;
    type Response = BlocksAnswer;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<BlocksAsk>
    where
        T: AsyncRead + Unpin + Send,
    {
        let bytes = read_message(io, MAX_BLOCKS_REQUEST_LEN).await?;
        Ok(BlocksAsk {
            request: wire::decode_blocks_request(&bytes).map_err(invalid)?,
            reception: None,
        })
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<BlocksAnswer>
    where
        T: AsyncRead + Unpin + Send,
    {
        let Some(Reception { frames, cancelled }) = self.reception.take() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let reading = std::pin::pin!(read_frames(io, frames));
        match futures::future::select(reading, cancelled).await {
            futures::future::Either::Left((result, _)) => result,
            futures::future::Either::Right(_) => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        ask: BlocksAsk,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        self.reception = ask.reception;
        write_message(io, &wire::encode_blocks_request(&ask.request)).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        answer: BlocksAnswer,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let BlocksAnswer::Frames { frames, cancelled } = answer else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let writing = std::pin::pin!(write_frames(io, frames));
        match futures::future::select(writing, cancelled).await {
            futures::future::Either::Left((result, _)) => result,
            futures::future::Either::Right(_) => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

async fn write_frames<T>(io: &mut T, mut frames: mpsc::Receiver<Frame>) -> io::Result<()>
where
    T: AsyncWrite + Unpin + Send,
{
    while let Some(frame) = frames.recv().await {
        let last = matches!(frame, Frame::End { .. });
        within(FRAME_TIMEOUT, write_frame(io, frame)).await?;
        if last {
            return within(FRAME_TIMEOUT, async { io.flush().await }).await;
        }
    }
    // The serving thread stopped before its end: the asker must not take this for a complete answer.
    Err(io::ErrorKind::ConnectionAborted.into())
}

async fn write_frame<T>(io: &mut T, frame: Frame) -> io::Result<()>
where
    T: AsyncWrite + Unpin + Send,
{
    let (header, payload) = frame.into_parts();
    io.write_all(&header.to_bytes()).await?;
    io.write_all(&payload).await
}

async fn read_frames<T>(io: &mut T, frames: mpsc::Sender<Frame>) -> io::Result<BlocksAnswer>
where
    T: AsyncRead + Unpin + Send,
{
    let buffers = Buffers::default();
    loop {
        let frame = within(FRAME_TIMEOUT, read_frame(io, &buffers)).await?;
        if let Frame::End { status, retry_ms } = frame {
            return Ok(BlocksAnswer::Ended { status, retry_ms });
        }
        if frames.send(frame).await.is_err() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    }
}

async fn read_frame<T>(io: &mut T, buffers: &Buffers) -> io::Result<Frame>
where
    T: AsyncRead + Unpin + Send,
{
    let mut raw = [0; FRAME_HEADER_LEN];
    io.read_exact(&mut raw).await?;
    let header = FrameHeader::parse(raw).map_err(invalid)?;
    let mut payload = buffers.take(header.payload_len());
    io.read_exact(payload.as_mut()).await?;
    header.into_frame(payload.freeze()).map_err(invalid)
}
