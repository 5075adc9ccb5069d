//! Readers of what is being fetched, as the fetch sees them: each says which blocks it waits for, and is told how the fetch
//! stands. A fetch may be there for readers alone; then it brings what they wait for, and ends with the last of them.

use std::{ops::Range, sync::Arc};

use tokio::sync::watch;

use super::{
    Goal, Order,
    session::{Session, Stage},
};
use crate::{
    node::{driver::Hands, error::FetchError},
    peers::FoundBy,
    store::Content,
};

/// How the fetch behind a reader stands.
#[derive(Debug, Clone)]
pub(crate) enum Standing {
    /// It is not known yet what is fetched.
    Searching,
    /// Blocks come, into this.
    Open(Arc<Content>),
    /// It has ended, and this is why nothing more comes; `Interrupted` if another one may be begun.
    Over(FetchError),
}

/// The place of a reader in a fetch.
#[derive(Debug)]
pub(crate) struct Seat {
    /// The blocks it waits for: from where it reads to the end of its read-ahead.
    pub(crate) wanted: watch::Receiver<Range<u32>>,
    /// Where it is told how things stand; closed when the reader is gone.
    pub(crate) told: watch::Sender<Standing>,
}

impl Session {
    /// A reader comes, with what it knows of whom to ask.
    pub(crate) fn join(&mut self, mut order: Order, seat: Seat, hands: &mut Hands) {
        if self.goal == Goal::Folder || matches!(self.stage, Stage::Finishing) {
            // What it wants is here, or will be once this is over: then it looks again.
            seat.told.send_replace(interrupted());
            return;
        }
        match self.learn(&mut order, hands) {
            Ok(()) => {
                self.seats.push(seat);
                self.seat_readers(hands);
            }
            // Of no concern to the others.
            Err(error) => {
                seat.told.send_replace(Standing::Over(error));
            }
        }
    }

    /// Takes in what an order says of the content and its providers.
    pub(super) fn learn(&mut self, order: &mut Order, hands: &mut Hands) -> Result<(), FetchError> {
        if let Some(ticket) = order.ticket.take() {
            self.accept(ticket.manifest().clone(), hands)?;
            for provider in ticket.providers() {
                let (node, addresses) = (provider.node(), provider.addresses());
                self.hear_of(node, addresses, FoundBy::Ticket, hands);
            }
        }
        for address in std::mem::take(&mut order.peers) {
            if let Some(peer) = address.node() {
                self.hear_of(peer, &[address.without_node()], FoundBy::Manual, hands);
            }
        }
        Ok(())
    }

    /// A fetch of all of it has been asked for, or is no longer.
    pub(crate) fn set_whole(&mut self, whole: bool, hands: &mut Hands) {
        if self.order.on_demand && self.whole != whole {
            self.whole = whole;
            self.seat_readers(hands);
        }
    }

    /// Looks where the readers are, and has fetched what they wait for.
    pub(crate) fn seat_readers(&mut self, hands: &mut Hands) {
        self.seats.retain(|seat| !seat.told.is_closed());
        let Stage::Transfer(transfer) = &mut self.stage else {
            return;
        };
        if self.goal == Goal::Folder {
            return;
        }
        if let Some(content) = transfer.content() {
            for seat in &self.seats {
                seat.told.send_if_modified(|standing| {
                    let is_news = matches!(standing, Standing::Searching);
                    if is_news {
                        *standing = Standing::Open(Arc::clone(&content));
                    }
                    is_news
                });
            }
        }
        let windows = self.seats.iter().map(|seat| seat.wanted.borrow().clone());
        transfer.set_readers(windows, !self.whole, hands.now);
        self.pump(hands);
    }

    /// Readers, and nobody else, are what this fetch was begun for, and they are gone.
    pub(super) fn is_deserted(&self) -> bool {
        let is_read = self.seats.iter().any(|seat| !seat.told.is_closed());
        self.order.on_demand && !is_read
    }

    /// Tells the readers that nothing more comes.
    pub(super) fn dismiss_readers(&mut self) {
        let why = match &self.outcome {
            Some(Err(error)) => Standing::Over(error.clone()),
            _ => interrupted(),
        };
        for seat in std::mem::take(&mut self.seats) {
            seat.told.send_replace(why.clone());
        }
    }
}

fn interrupted() -> Standing {
    Standing::Over(FetchError::Interrupted)
}
