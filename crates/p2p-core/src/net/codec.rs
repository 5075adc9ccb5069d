//! The codec of `/p2p-core/query/1`: a length, refused before anything is allocated, and that many bytes.

use std::{io, time::Duration};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};

use super::wire::{self, MAX_QUERY_LEN, MAX_REPLY_LEN, Query, Reply};

/// A header or a small message that takes longer than this to arrive is a stalled peer.
pub(crate) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(20);

/// Reads and writes queries and replies.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct QueryCodec;

impl request_response::Codec for QueryCodec {
    type Protocol = StreamProtocol;
    type Request = Query;
    type Response = Reply;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Query>
    where
        T: AsyncRead + Unpin + Send,
    {
        let bytes = read_message(io, MAX_QUERY_LEN).await?;
        wire::decode_query(&bytes).map_err(invalid)
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Reply>
    where
        T: AsyncRead + Unpin + Send,
    {
        let bytes = read_message(io, MAX_REPLY_LEN).await?;
        wire::decode_reply(&bytes).map_err(invalid)
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        query: Query,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_message(io, &wire::encode_query(&query)).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        reply: Reply,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_message(io, &wire::encode_reply(&reply)).await
    }
}

/// A peer's bytes that break the protocol.
pub(crate) fn invalid(error: wire::WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Fails with `TimedOut` if `work` takes longer than `limit`.
pub(crate) async fn within<F, R>(limit: Duration, work: F) -> io::Result<R>
where
    F: Future<Output = io::Result<R>>,
{
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Reads one length-prefixed message of at most `limit` bytes.
///
/// The buffer grows with what arrives, so that a length alone costs its sender more than it costs us.
pub(crate) async fn read_message<T>(io: &mut T, limit: usize) -> io::Result<Vec<u8>>
where
    T: AsyncRead + Unpin + Send,
{
    within(MESSAGE_TIMEOUT, async {
        let mut prefix = [0; 4];
        io.read_exact(&mut prefix).await?;
        let len = u32::from_le_bytes(prefix);
        if len as usize > limit {
            return Err(invalid(wire::WireError::OutOfBounds));
        }
        let mut bytes = Vec::new();
        let read = io.take(u64::from(len)).read_to_end(&mut bytes).await?;
        if read != len as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    })
    .await
}

/// Writes one length-prefixed message.
pub(crate) async fn write_message<T>(io: &mut T, bytes: &[u8]) -> io::Result<()>
where
    T: AsyncWrite + Unpin + Send,
{
    let len = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    within(MESSAGE_TIMEOUT, async {
        io.write_all(&len.to_le_bytes()).await?;
        io.write_all(bytes).await?;
        io.flush().await
    })
    .await
}
