//! How fetches begin: one at a time for each content, shared by those who read it.

use tokio::sync::{oneshot, watch};

use super::{
    driver::{Driver, SessionId},
    error::FetchError,
    event::Event,
    fetch::{Order, Outcome, Progress, Seat, session::Session},
};

/// A fetch that waits for another of the same content.
pub(super) struct QueuedFetch {
    pub(super) order: Box<Order>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) reply: oneshot::Sender<Result<Outcome, FetchError>>,
}

impl Driver {
    pub(super) fn fetch(&mut self, fetch: QueuedFetch) {
        let running = self.sessions.values_mut().find(|s| s.id == fetch.order.id);
        if let Some(session) = running {
            // One for readers goes on for good: now it is to bring everything.
            session.set_whole(true, &mut self.hands);
            return self.queued.push(fetch);
        }
        let QueuedFetch {
            order,
            progress,
            reply,
        } = fetch;
        let number = self.next_session();
        let session = Session::new(number, *order, progress, Some(reply), self.hands.now);
        self.begin(session);
    }

    /// A reader joins the fetch of what it reads, or has one begun that brings what it reads.
    pub(super) fn read(&mut self, order: Order, seat: Seat) {
        let running = self.sessions.values_mut().find(|s| s.id == order.id);
        if let Some(session) = running {
            return session.join(order, seat, &mut self.hands);
        }
        let number = self.next_session();
        let (progress, _) = watch::channel(Progress::of(order.id));
        let mut session = Session::new(number, order, progress, None, self.hands.now);
        session.seats.push(seat);
        self.begin(session);
    }

    fn next_session(&mut self) -> SessionId {
        let number = SessionId(self.next_session);
        self.next_session += 1;
        number
    }

    fn begin(&mut self, mut session: Session) {
        self.hands.tell(Event::FetchStarted { id: session.id });
        session.start(&mut self.hands);
        self.sessions.insert(session.number, session);
        self.dirty = true;
    }

    /// Orders that were dropped while they waited no longer have all of a content brought that others only read.
    pub(super) fn forget_dropped_orders(&mut self) {
        if self.queued.iter().all(|fetch| !fetch.reply.is_closed()) {
            return;
        }
        self.queued.retain(|fetch| !fetch.reply.is_closed());
        for session in self.sessions.values_mut() {
            let whole = self.queued.iter().any(|fetch| fetch.order.id == session.id);
            session.set_whole(whole, &mut self.hands);
        }
    }
}
