//! What happens when a request ends early: deadlines, blame, back-off, cancels and drops.

use std::time::{Duration, Instant};

use super::scheduler::Scheduler;
use super::source::{STRIKES, Source};
use super::types::{Action, DropReason, Fault, RequestId, SourceId};

/// The first pause between searches for more sources; losing one goes back to it.
pub(super) const FIND_FIRST: Duration = Duration::from_secs(5);

impl Scheduler {
    pub(super) fn expiry_of(&self, source: &Source) -> Option<Instant> {
        let oldest = self.requests.get(*source.open.first()?)?;
        oldest.heard.checked_add(self.config.progress_deadline)
    }

    /// Ends the oldest request of every source that let the deadline pass, and its other one if the source said nothing
    /// at all for as long.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.paused_since.is_some() {
            return;
        }
        let late: Vec<SourceId> = self
            .sources
            .iter()
            .filter(|(_, source)| self.expiry_of(source).is_some_and(|expiry| expiry <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            let Some(source) = self.sources.get(&id) else {
                continue;
            };
            let silence = now.saturating_duration_since(source.heard);
            let all = silence >= self.config.progress_deadline;
            let open = source.open.clone();
            let late = open.iter().take(if all { open.len() } else { 1 });
            let mut owes = false;
            for request in late {
                let known = self.requests.get(*request);
                owes |= known.is_some_and(|request| !request.waiting.is_empty());
                self.cancel(*request, now);
            }
            if owes {
                self.blame(id, Fault::Timeout, now);
            }
            self.after_step();
        }
    }

    /// A fault's consequence for a source whose request has been closed. Faults that come while it rests are the same
    /// event seen by its other request.
    pub(super) fn blame(&mut self, id: SourceId, fault: Fault, now: Instant) {
        let Some(source) = self.sources.get_mut(&id) else {
            return;
        };
        let resting = source.rest_until.is_some_and(|until| until > now);
        let streak = match fault {
            Fault::Timeout => &mut source.silent,
            Fault::Unreachable => &mut source.unreachable,
            Fault::Refused => return self.drop_source(id, DropReason::Refused, now),
            Fault::Protocol => return self.drop_source(id, DropReason::Protocol, now),
        };
        if !resting {
            *streak = streak.saturating_add(1);
        }
        if source.silent >= STRIKES {
            self.drop_source(id, DropReason::Silent, now);
        } else if source.unreachable >= STRIKES {
            self.drop_source(id, DropReason::Unreachable, now);
        } else {
            self.rest(id, Duration::ZERO, now);
        }
    }

    pub(super) fn rest(&mut self, id: SourceId, least: Duration, now: Instant) {
        let jitter = self.rng.unit();
        if let Some(source) = self.sources.get_mut(&id) {
            source.rest(least, jitter, now);
        }
    }

    pub(super) fn drop_source(&mut self, id: SourceId, reason: DropReason, now: Instant) {
        if self.forget_source(id, now) {
            self.outbox.push_back(Action::Drop { source: id, reason });
        }
    }

    pub(super) fn forget_source(&mut self, id: SourceId, now: Instant) -> bool {
        let Some(mut source) = self.sources.remove(&id) else {
            return false;
        };
        self.outbox
            .retain(|action| !matches!(action, Action::Cancel { source, .. } if *source == id));
        source.forget_holdings(&mut self.pool);
        for request in source.open {
            self.requests.close(request, &mut self.pool);
        }
        self.find_pause = FIND_FIRST;
        let soon = now.checked_add(FIND_FIRST).unwrap_or(now);
        self.find_at = self.find_at.min(soon);
        true
    }

    /// The source of a request that the session says has ended, and whether it still owes pieces; `None` if it was over
    /// already, then a cancel not yet given out is withdrawn.
    pub(super) fn open_request(&mut self, id: RequestId) -> Option<(SourceId, bool)> {
        let open = self.requests.get(id).filter(|request| request.open);
        if let Some(request) = open {
            return Some((request.source, !request.waiting.is_empty()));
        }
        let is_cancel =
            |action: &Action| matches!(action, Action::Cancel { request, .. } if *request == id);
        self.outbox.retain(|action| !is_cancel(action));
        None
    }

    /// Ends a request; its source's next one has its turn.
    pub(super) fn close(&mut self, id: RequestId, now: Instant) {
        let Some(source) = self.requests.get(id).map(|request| request.source) else {
            return;
        };
        self.requests.close(id, &mut self.pool);
        let Some(source) = self.sources.get_mut(&source) else {
            return;
        };
        source.on_closed(id, now);
        if let Some(next) = source.open.first()
            && let Some(next) = self.requests.table.get_mut(next)
        {
            next.heard = next.heard.max(source.turn);
        }
    }

    pub(super) fn cancel(&mut self, id: RequestId, now: Instant) {
        if let Some(request) = self.requests.get(id).filter(|request| request.open) {
            let source = request.source;
            self.outbox.push_back(Action::Cancel {
                source,
                request: id,
            });
            self.close(id, now);
        }
    }

    /// Somebody else stored a piece of these requests: those that wait for nothing else are cancelled.
    pub(super) fn cancel_losers(&mut self, losers: Vec<RequestId>, now: Instant) {
        for loser in losers {
            let known = self.requests.get(loser);
            if known.is_some_and(|request| request.waiting.is_empty()) {
                self.cancel(loser, now);
            } else {
                self.cancel_if_superseded(loser, now);
            }
        }
    }

    pub(super) fn cancel_if_superseded(&mut self, id: RequestId, now: Instant) {
        let request = self.requests.get(id);
        if request.is_some_and(|request| request.open && request.is_superseded()) {
            self.cancel(id, now);
        }
    }
}
