//! The transports of a node: TCP with TLS or Noise and yamux, QUIC, circuits through a relay, names resolved by DNS; and
//! the guard before them that keeps a LAN-only node on its LAN.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    AsyncRead, AsyncWrite, FutureExt, TryFutureExt,
    future::{BoxFuture, Either},
    io::BufReader,
};
use libp2p::{
    Multiaddr, PeerId, Transport, TransportError,
    core::{
        UpgradeInfo,
        muxing::StreamMuxerBox,
        transport::{
            Boxed, DialOpts, ListenerId, OptionalTransport, TransportEvent,
            timeout::TransportTimeout,
        },
        upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, Version},
    },
    dns,
    identity::Keypair,
    noise,
    pnet::{PnetConfig, PreSharedKey},
    quic, relay, tcp,
};

use super::{circuits::Circuits, mux, tls};
use crate::content::Address;

/// A connection is there after this, with its handshakes, or it is given up. A packet that is lost twice is sent a third time
/// within it; whoever is silent longer holds up one of the few dials that may be under way. Less than the ten seconds that who
/// asks to be dialled back waits for the answer.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(8);

/// What may be dialled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guard {
    /// Only private ranges.
    pub(crate) lan_only: bool,
}

impl Guard {
    /// Whether a packet may be sent to this address.
    pub(crate) fn allows(self, address: &Multiaddr) -> bool {
        Address::from_multiaddr(address.clone()).is_ok_and(|a| !self.lan_only || a.is_private())
    }
}

/// A transport, and what drives its circuits.
pub(crate) type Built = (
    Boxed<(PeerId, StreamMuxerBox)>,
    Option<relay::client::Behaviour>,
);

/// Builds the transport of a node and, if asked for, the client side of relays. With a key, what goes over TCP is behind
/// it, and there is no QUIC, which knows no such thing.
pub(crate) fn build(
    keypair: &Keypair,
    guard: Guard,
    with_relay: bool,
    key: Option<[u8; 32]>,
) -> io::Result<Built> {
    let security = Security::new(keypair)?;
    let tcp = match key {
        Some(key) => secured(private_tcp(key), security.clone()),
        None => secured(plain_tcp(), security.clone()),
    };
    let quic = match key {
        Some(_) => OptionalTransport::none(),
        None => OptionalTransport::some(quic::tokio::Transport::new(quic::Config::new(keypair))),
    };
    let quic = quic.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let direct = Guarded {
        inner: tcp
            .or_transport(quic)
            .map(|either, _| either.into_inner())
            .boxed(),
        guard,
    };
    if guard.lan_only {
        // Resolving a name would itself send a packet beyond the LAN.
        return Ok((within_time(direct), None));
    }
    let resolving = dns::tokio::Transport::system(direct)?;
    if !with_relay {
        return Ok((within_time(resolving), None));
    }
    let (circuit, behaviour) = relay::client::new(keypair.public().to_peer_id());
    let circuit = Circuits::new(circuit)
        .upgrade(Version::V1Lazy)
        .authenticate(security)
        .multiplex(mux::Config)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let all = circuit
        .or_transport(resolving)
        .map(|either, _| either.into_inner());
    Ok((within_time(all), Some(behaviour)))
}

fn plain_tcp() -> tcp::tokio::Transport {
    tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
}

/// TCP behind the key of a private network. Who does not have it can say nothing that is understood.
fn private_tcp(
    key: [u8; 32],
) -> impl Transport<
    Output = impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Error: Send + Sync + 'static,
    ListenerUpgrade: Send + 'static,
    Dial: Send + 'static,
> + Send
+ Unpin
+ 'static {
    let config = PnetConfig::new(PreSharedKey::new(key));
    plain_tcp().and_then(move |socket, _| config.handshake(socket))
}

/// TLS or Noise, and streams, over sockets.
fn secured<T, C>(sockets: T, security: Security) -> Boxed<(PeerId, StreamMuxerBox)>
where
    T: Transport<Output = C, Error: Send + Sync + 'static, ListenerUpgrade: Send, Dial: Send>
        + Send
        + Unpin
        + 'static,
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    sockets
        .upgrade(Version::V1Lazy)
        .authenticate(security)
        .multiplex(mux::Config)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed()
}

/// Neither end of a connection waits longer than [`DIAL_TIMEOUT`] for it to come about.
fn within_time<T>(transport: T) -> Boxed<(PeerId, StreamMuxerBox)>
where
    T: Transport<Output = (PeerId, StreamMuxerBox), Error: Send + Sync, Dial: Send>
        + Send
        + Unpin
        + 'static,
    T::ListenerUpgrade: Send,
{
    TransportTimeout::new(transport, DIAL_TIMEOUT).boxed()
}

/// `/tls/1.0.0` or, for peers without it, `/noise`.
#[derive(Clone)]
struct Security {
    tls: tls::Config,
    noise: noise::Config,
}

impl Security {
    fn new(keypair: &Keypair) -> io::Result<Self> {
        Ok(Self {
            tls: tls::Config::new(keypair).map_err(io::Error::other)?,
            noise: noise::Config::new(keypair).map_err(io::Error::other)?,
        })
    }
}

const TLS: &str = "/tls/1.0.0";
const NOISE: &str = "/noise";

/// A connection after its security handshake. Reads of the socket are gathered before decryption.
type Secured<C> = Either<tls::TlsStream<BufReader<C>>, noise::Output<BufReader<C>>>;

/// Bytes read from a socket at once. The TLS stack alone would read a record, 16 KiB, at a time.
const READ_BUFFER: usize = 64 * 1024;

impl UpgradeInfo for Security {
    type Info = &'static str;
    type InfoIter = std::array::IntoIter<&'static str, 2>;

    fn protocol_info(&self) -> Self::InfoIter {
        [TLS, NOISE].into_iter()
    }
}

impl<C> InboundConnectionUpgrade<C> for Security
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, Secured<C>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_inbound(self, socket: C, info: Self::Info) -> Self::Future {
        let socket = BufReader::with_capacity(READ_BUFFER, socket);
        if info == TLS {
            self.tls
                .upgrade_inbound(socket, info)
                .map_ok(|(peer, stream)| (peer, Either::Left(stream)))
                .map_err(io::Error::other)
                .boxed()
        } else {
            self.noise
                .upgrade_inbound(socket, info)
                .map_ok(|(peer, stream)| (peer, Either::Right(stream)))
                .map_err(io::Error::other)
                .boxed()
        }
    }
}

impl<C> OutboundConnectionUpgrade<C> for Security
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, Secured<C>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_outbound(self, socket: C, info: Self::Info) -> Self::Future {
        let socket = BufReader::with_capacity(READ_BUFFER, socket);
        if info == TLS {
            self.tls
                .upgrade_outbound(socket, info)
                .map_ok(|(peer, stream)| (peer, Either::Left(stream)))
                .map_err(io::Error::other)
                .boxed()
        } else {
            self.noise
                .upgrade_outbound(socket, info)
                .map_ok(|(peer, stream)| (peer, Either::Right(stream)))
                .map_err(io::Error::other)
                .boxed()
        }
    }
}

/// A transport that does not dial where the [`Guard`] forbids it, whichever behaviour asks.
struct Guarded<T> {
    inner: T,
    guard: Guard,
}

impl<T> Transport for Guarded<T>
where
    T: Transport + Unpin,
{
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        if !self.guard.allows(&address) {
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        self.inner.dial(address, options)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}
