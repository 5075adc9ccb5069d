//! The transport of simulated networks: libp2p's memory transport, without encryption, where nobody is told that another is
//! gone.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, future::BoxFuture};
use libp2p::{
    Multiaddr, PeerId, Transport, TransportError,
    core::{
        UpgradeInfo,
        muxing::StreamMuxerBox,
        transport::{
            Boxed, DialOpts, ListenerId, MemoryTransport, TransportEvent, timeout::TransportTimeout,
        },
        upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, Version},
    },
};

use super::{mux, transport::DIAL_TIMEOUT};

/// A connection that begins with both sides naming themselves, and nothing more.
#[derive(Debug, Clone)]
struct Plain(PeerId);

impl Plain {
    async fn greet<C>(self, mut socket: C) -> io::Result<(PeerId, C)>
    where
        C: futures::AsyncRead + futures::AsyncWrite + Unpin,
    {
        let own = self.0.to_bytes();
        socket.write_all(&[own.len() as u8]).await?;
        socket.write_all(&own).await?;
        socket.flush().await?;
        let mut len = [0];
        socket.read_exact(&mut len).await?;
        let mut other = vec![0; usize::from(len[0])];
        socket.read_exact(&mut other).await?;
        let other = PeerId::from_bytes(&other).map_err(io::Error::other)?;
        Ok((other, socket))
    }
}

impl UpgradeInfo for Plain {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/simulation")
    }
}

impl<C> InboundConnectionUpgrade<C> for Plain
where
    C: futures::AsyncRead + futures::AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, C);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_inbound(self, socket: C, _: &'static str) -> Self::Future {
        self.greet(socket).boxed()
    }
}

impl<C> OutboundConnectionUpgrade<C> for Plain
where
    C: futures::AsyncRead + futures::AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, C);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_outbound(self, socket: C, _: &'static str) -> Self::Future {
        self.greet(socket).boxed()
    }
}

/// The memory transport; but nobody is told that a node is gone.
struct Unanswered(MemoryTransport);

impl Transport for Unanswered {
    type Output = <MemoryTransport as Transport>::Output;
    type Error = <MemoryTransport as Transport>::Error;
    type ListenerUpgrade = <MemoryTransport as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        self.0.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        Ok(match self.0.dial(address, options) {
            Ok(dial) => dial.boxed(),
            Err(TransportError::Other(_)) => std::future::pending().boxed(),
            Err(error) => return Err(error),
        })
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// The transport of a node.
pub(super) fn transport(local: PeerId) -> Boxed<(PeerId, StreamMuxerBox)> {
    let upgraded = Unanswered(MemoryTransport::new())
        .upgrade(Version::V1Lazy)
        .authenticate(Plain(local))
        .multiplex(mux::Config)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    TransportTimeout::new(upgraded, DIAL_TIMEOUT).boxed()
}
