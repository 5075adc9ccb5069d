//! How often a relay is asked to connect this node to a peer. Relays allow a source some tens of circuits in an hour, and all
//! that share its address twice as many, whether they come about or not. A peer that is met at a relay has several addresses,
//! one for each of the relay's; they are dialled at once, again for each who names that peer, and would use that up in a
//! minute. So of the dials through one relay to one peer the first alone asks, and after a refusal nobody for a while.
//!
//! Source: <https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md>.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use libp2p::{
    Multiaddr, PeerId, Transport, TransportError,
    core::transport::{DialOpts, ListenerId, TransportEvent},
    multiaddr::Protocol,
    relay::{
        client,
        outbound::hop::{ConnectError, ProtocolViolation},
    },
};
use tokio::sync::watch;

/// From a circuit to the connection over it. Until then the other dials are not told that they were in vain, for they may be
/// somebody else's, who would take it that the peer is not there.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// After a refusal, and twice as long after each second one, up to the last: the peer may be about to get its place at the
/// relay, and a fetch gives up after half a minute.
const FIRST_PAUSE: Duration = Duration::from_secs(4);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// Pairs of a relay and a peer that are remembered.
const MAX_PAIRS: usize = 1024;

/// Why there is no circuit.
#[derive(Debug, thiserror::Error)]
pub(super) enum CircuitError {
    #[error("the relay refused it a moment ago, and is asked again in {} s", .wait.as_secs().max(1))]
    Refused { wait: Duration },
    #[error("there is one by another address of the relay")]
    Opened,
    #[error(transparent)]
    Relay(#[from] client::transport::Error),
}

/// The transport of circuits.
pub(super) struct Circuits {
    inner: client::Transport,
    asked: Arc<Mutex<Asked>>,
}

impl Circuits {
    pub(super) fn new(inner: client::Transport) -> Self {
        let asked = Arc::default();
        Self { inner, asked }
    }
}

type Dial = BoxFuture<'static, Result<client::Connection, CircuitError>>;

impl Transport for Circuits {
    type Output = client::Connection;
    type Error = CircuitError;
    type ListenerUpgrade = BoxFuture<'static, Result<client::Connection, CircuitError>>;
    type Dial = Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<CircuitError>> {
        let listening = self.inner.listen_on(id, address);
        listening.map_err(|error| error.map(CircuitError::from))
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Dial, TransportError<CircuitError>> {
        let pair = pair(&address);
        let dial = self.inner.dial(address, options);
        let dial = dial.map_err(|error| error.map(CircuitError::from))?;
        let asked = Arc::clone(&self.asked);
        Ok(match pair {
            Some(pair) => ask(pair, asked, dial).boxed(),
            None => dial.map(|dialled| Ok(dialled?)).boxed(),
        })
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, CircuitError>> {
        Pin::new(&mut self.inner).poll(cx).map(|event| {
            event
                .map_upgrade(|upgrade| upgrade.map(|upgraded| Ok(upgraded?)).boxed())
                .map_err(CircuitError::from)
        })
    }
}

/// A relay, and whom it is asked for.
type Pair = (PeerId, PeerId);

fn pair(address: &Multiaddr) -> Option<Pair> {
    let mut peers = address.iter().filter_map(|part| match part {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    });
    Some((peers.next()?, peers.next()?))
}

/// Asks for a circuit when it is this dial's turn.
async fn ask(
    pair: Pair,
    asked: Arc<Mutex<Asked>>,
    dial: impl Future<Output = Result<client::Connection, client::transport::Error>>,
) -> Result<client::Connection, CircuitError> {
    let ours = loop {
        let mut other = match lock(&asked).turn(pair, Instant::now())? {
            Turn::Ours(ours) => break ours,
            Turn::Others(other) => other,
        };
        // Over another address of the relay nothing would be faster: libp2p asks over the first connection that there is
        // to the relay, or dials it once.
        if other.wait_for(|opened| *opened).await.is_ok() {
            tokio::time::sleep(HANDSHAKE).await;
            return Err(CircuitError::Opened);
        }
    };
    let dialled = dial.await;
    match &dialled {
        Ok(_) => {
            lock(&asked).opened(pair);
            ours.send_replace(true);
        }
        Err(error) if is_refusal(error) => lock(&asked).refused(pair, Instant::now()),
        Err(_) => {}
    }
    Ok(dialled?)
}

/// Whether the relay was reached, and said no.
fn is_refusal(error: &client::transport::Error) -> bool {
    use client::transport::Error;
    match error {
        Error::Connect(
            ConnectError::Io(_) | ConnectError::Protocol(ProtocolViolation::Codec(_)),
        ) => false,
        Error::Connect(_) => true,
        _ => false,
    }
}

fn lock(asked: &Mutex<Asked>) -> MutexGuard<'_, Asked> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What relays were asked for, and what they refused.
#[derive(Default)]
struct Asked(HashMap<Pair, Asking>);

#[derive(Default)]
struct Asking {
    /// Of the dial that is under way: whether it has its circuit. It has ended when nobody will say more.
    under_way: Option<watch::Receiver<bool>>,
    refusals: u32,
    refused_until: Option<Instant>,
}

enum Turn {
    /// To ask, and to say here that there is a circuit.
    Ours(watch::Sender<bool>),
    /// To wait for who asks.
    Others(watch::Receiver<bool>),
}

impl Asked {
    /// Whose turn it is.
    fn turn(&mut self, pair: Pair, now: Instant) -> Result<Turn, CircuitError> {
        let (ours, under_way) = watch::channel(false);
        if self.0.len() >= MAX_PAIRS && !self.0.contains_key(&pair) {
            self.0
                .retain(|_, asking| asking.matters(now) || asking.other().is_some());
            if self.0.len() >= MAX_PAIRS {
                return Ok(Turn::Ours(ours));
            }
        }
        let asking = self.0.entry(pair).or_default();
        let wait = asking
            .refused_until
            .map(|until| until.saturating_duration_since(now));
        if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
            return Err(CircuitError::Refused { wait });
        }
        if let Some(other) = asking.other() {
            return Ok(Turn::Others(other.clone()));
        }
        asking.under_way = Some(under_way);
        Ok(Turn::Ours(ours))
    }

    /// The relay made a circuit.
    fn opened(&mut self, pair: Pair) {
        self.0.remove(&pair);
    }

    /// The relay refused.
    fn refused(&mut self, pair: Pair, now: Instant) {
        if let Some(asking) = self.0.get_mut(&pair) {
            if !asking.matters(now) {
                asking.refusals = 0;
            }
            let pause = FIRST_PAUSE.saturating_mul(1 << (asking.refusals / 2).min(10));
            asking.refusals = asking.refusals.saturating_add(1);
            asking.refused_until = Some(now + pause.min(LAST_PAUSE));
        }
    }
}

impl Asking {
    /// The dial that is under way.
    fn other(&self) -> Option<&watch::Receiver<bool>> {
        let other = self.under_way.as_ref();
        other.filter(|other| other.has_changed().is_ok())
    }

    /// Whether the last refusal was so lately that it counts.
    fn matters(&self, now: Instant) -> bool {
        self.refused_until
            .is_some_and(|until| now < until + LAST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any_pair() -> Pair {
        (PeerId::random(), PeerId::random())
    }

    fn wait(turn: Result<Turn, CircuitError>) -> Duration {
        match turn {
            Err(CircuitError::Refused { wait }) => wait,
            _ => panic!("may ask"),
        }
    }

    fn ours(turn: Result<Turn, CircuitError>) -> watch::Sender<bool> {
        match turn {
            Ok(Turn::Ours(ours)) => ours,
            _ => panic!("may not ask"),
        }
    }

    #[test]
    fn the_relay_and_the_peer_are_known_from_the_address() {
        let (relay, peer) = any_pair();
        let address: Multiaddr =
            format!("/ip4/192.0.2.1/udp/4711/quic-v1/p2p/{relay}/p2p-circuit/p2p/{peer}")
                .parse()
                .unwrap();
        assert_eq!(pair(&address), Some((relay, peer)));
        assert_eq!(pair(&"/ip4/192.0.2.1/tcp/4711".parse().unwrap()), None);
    }

    #[test]
    fn after_each_refusal_the_pause_is_longer_until_there_is_a_circuit() {
        let (mut asked, pair, start) = (Asked::default(), any_pair(), Instant::now());
        let mut now = start;
        for seconds in [4, 4, 8, 8, 16, 16, 32, 32, 60, 60] {
            let _ours = ours(asked.turn(pair, now));
            asked.refused(pair, now);
            let pause = Duration::from_secs(seconds);
            assert_eq!(wait(asked.turn(pair, now)), pause);
            // Others are asked for.
            let _other = ours(asked.turn((pair.0, PeerId::random()), now));
            now += pause;
        }
        let _ours = ours(asked.turn(pair, now));
        asked.opened(pair);
        drop(ours(asked.turn(pair, now)));
        asked.refused(pair, now);
        assert_eq!(wait(asked.turn(pair, now)), FIRST_PAUSE);

        // Those of this morning do not count.
        for _ in 0..10 {
            asked.refused(pair, now);
        }
        let late = now + LAST_PAUSE + LAST_PAUSE;
        let _ours = ours(asked.turn(pair, late));
        asked.refused(pair, late);
        assert_eq!(wait(asked.turn(pair, late)), FIRST_PAUSE);
    }

    #[test]
    fn one_asks_and_the_others_wait_for_it() {
        let (mut asked, pair, now) = (Asked::default(), any_pair(), Instant::now());
        let first = ours(asked.turn(pair, now));
        assert!(matches!(asked.turn(pair, now), Ok(Turn::Others(_))));
        // One that ended otherwise is followed by the next.
        drop(first);
        let _second = ours(asked.turn(pair, now));
        assert!(matches!(asked.turn(pair, now), Ok(Turn::Others(_))));
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let (mut asked, now) = (Asked::default(), Instant::now());
        for _ in 0..2 * MAX_PAIRS {
            let pair = any_pair();
            let _ours = ours(asked.turn(pair, now));
            asked.refused(pair, now);
        }
        assert_eq!(asked.0.len(), MAX_PAIRS);
        let late = now + FIRST_PAUSE + LAST_PAUSE;
        let _ours = ours(asked.turn(any_pair(), late));
        assert_eq!(asked.0.len(), 1);
    }

    #[tokio::test]
    async fn who_waited_is_told_that_there_is_a_circuit_or_tries_itself() {
        let asked = Arc::<Mutex<Asked>>::default();
        let never = || futures::future::pending();
        let failing = || async { Err(client::transport::Error::MalformedMultiaddr) };

        let pair = any_pair();
        let first = ours(lock(&asked).turn(pair, Instant::now()));
        let second = tokio::spawn(ask(pair, Arc::clone(&asked), never()));
        tokio::task::yield_now().await;
        first.send_replace(true);
        drop(first);
        assert!(matches!(second.await.unwrap(), Err(CircuitError::Opened)));

        let pair = any_pair();
        let first = ours(lock(&asked).turn(pair, Instant::now()));
        let second = tokio::spawn(ask(pair, Arc::clone(&asked), failing()));
        tokio::task::yield_now().await;
        drop(first);
        assert!(matches!(second.await.unwrap(), Err(CircuitError::Relay(_))));

        let refused = ConnectError::NoReservation;
        let refusing = async { Err(client::transport::Error::Connect(refused)) };
        let refused = ask(pair, Arc::clone(&asked), refusing).await;
        assert!(matches!(refused, Err(CircuitError::Relay(_))));
        let again = ask(pair, Arc::clone(&asked), never()).await;
        assert!(matches!(again, Err(CircuitError::Refused { .. })));
    }
}
