//! `peers [--watch]`: who is connected and who is known, and what changes.

use std::time::{SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use p2p_core::{Event, FoundBy, PeerInfo, PeerState};

use super::{Outbox, dialable};
use crate::context::Context;
use crate::control::protocol::{PeerReply, Reply};
use crate::exit::Failure;

pub async fn execute(context: &Context, watch: bool, out: &Outbox) -> Result<(), Failure> {
    // Listening before listing: a peer that joins in between is told twice rather than never.
    let events = context.node.events();
    for peer in context.node.peers() {
        out.send(Reply::Peer(describe(&peer, None))).await?;
    }
    if !watch {
        return Ok(());
    }
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let (peer, what) = match &event {
            Event::PeerJoined(peer) => (peer, "joined"),
            Event::PeerLeft(peer) => (peer, "left"),
            Event::PeerChanged(peer) => (peer, "changed"),
            _ => continue,
        };
        out.send(Reply::Peer(describe(peer, Some(what)))).await?;
    }
    Err(Failure::new("stopped", "the node stopped"))
}

fn describe(peer: &PeerInfo, event: Option<&str>) -> PeerReply {
    let state = match peer.state {
        PeerState::Connected => "connected",
        _ => "known",
    };
    PeerReply {
        peer: peer.peer.to_string(),
        state: state.to_owned(),
        addresses: dialable(peer.peer, &peer.addresses),
        rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        agent: peer.agent.clone(),
        found: peer
            .found
            .iter()
            .map(|how| found_by(*how).to_owned())
            .collect(),
        since: peer.since.map(unix_seconds),
        last_seen: unix_seconds(peer.last_seen),
        up: peer.up,
        down: peer.down,
        relayed: peer.relayed,
        event: event.map(str::to_owned),
    }
}

fn found_by(how: FoundBy) -> &'static str {
    match how {
        FoundBy::Mdns => "mdns",
        FoundBy::Dht => "dht",
        FoundBy::Bootstrap => "bootstrap",
        FoundBy::Inbound => "inbound",
        FoundBy::Ticket => "ticket",
        FoundBy::Exchange => "exchange",
        FoundBy::Manual => "manual",
        FoundBy::Cache => "cache",
        _ => "other",
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
