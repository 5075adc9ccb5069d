//! What a fetch waits for, what is told of it meanwhile, and when it is given up. Another part of a [`Session`].

use std::time::{Duration, Instant};

use super::{
    FetchState, Progress,
    session::{Session, Stage},
    sources::Manifests,
};
use crate::{content::TrustPolicy, node::error::FetchError};

/// When every manifest seen so far was refused, how long to wait for a better one.
const REFUSAL_GRACE: Duration = Duration::from_secs(2);

/// How holders were met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Met {
    /// So that content may come from them.
    ForContent,
    /// Through a relay, which is not for content.
    ThroughRelay,
}

impl Session {
    /// Remembers how holders are met, for when they are gone.
    pub(super) fn note_met(&mut self) {
        if self.sources.values().any(|source| source.have.is_some()) {
            self.met = Some(match self.all_are_far() {
                true => Met::ThroughRelay,
                false => Met::ForContent,
            });
        }
    }

    pub(super) fn check_refusal(&mut self, now: Instant) {
        if !matches!(self.stage, Stage::Searching) || !self.trusted.is_empty() {
            return;
        }
        if *self.policy() == TrustPolicy::Any {
            return;
        }
        let answered = self
            .sources
            .values()
            .all(|source| source.manifests != Manifests::Asked);
        let unsigned = self
            .sources
            .values()
            .any(|source| source.have.is_some() && source.manifests == Manifests::Known);
        if let Some((error, since)) = &self.refused {
            if answered && now.saturating_duration_since(*since) >= REFUSAL_GRACE {
                let error = error.clone();
                self.end(Err(error.into()));
            }
        } else if answered
            && unsigned
            && now.saturating_duration_since(self.alive_at) >= REFUSAL_GRACE
        {
            self.end(Err(FetchError::Untrusted { publisher: None }));
        }
    }

    pub(super) fn check_timeout(&mut self, now: Instant) {
        if matches!(&self.stage, Stage::Transfer(transfer) if transfer.is_resting()) {
            self.alive_at = now;
        }
        let idle = now.saturating_duration_since(self.alive_at);
        if idle < self.order.timeout || self.outcome.is_some() {
            return;
        }
        match &self.stage {
            Stage::Preparing | Stage::Finishing => {}
            Stage::Transfer(transfer) if transfer.is_waiting_for_disk(now) => {}
            Stage::Transfer(_) | Stage::Searching => {
                let found = self.sources.values().any(|source| source.have.is_some());
                let met = self.met.filter(|_| !found);
                let error = if self.all_are_far() || met == Some(Met::ThroughRelay) {
                    FetchError::RelayOnly
                } else if found {
                    FetchError::Timeout {
                        why: self.stall(now).unwrap_or_else(|| "nothing arrived".into()),
                    }
                } else if met.is_some() {
                    FetchError::Timeout {
                        why: "those who had it are gone, and cannot be reached any more".into(),
                    }
                } else {
                    FetchError::NotFound {
                        waited: self.order.timeout,
                    }
                };
                self.end(Err(error));
            }
        }
    }

    /// Whether there are holders, and each of them is met through a relay only.
    fn all_are_far(&self) -> bool {
        let holders = self.sources.values().filter(|source| source.have.is_some());
        let mut holders = holders.filter(|source| source.connected).peekable();
        holders.peek().is_some() && holders.all(|source| source.far)
    }

    fn stall(&self, now: Instant) -> Option<String> {
        match &self.stage {
            Stage::Searching | Stage::Transfer(_) if self.all_are_far() => {
                Some("trying to reach the provider directly: it is met through a relay".into())
            }
            Stage::Searching if self.refused.is_some() => {
                Some("no manifest that the policy accepts".into())
            }
            Stage::Searching => Some("no provider found".into()),
            Stage::Transfer(transfer) => transfer.stall(now),
            Stage::Preparing | Stage::Finishing => None,
        }
    }

    pub(super) fn tell(&self, now: Instant) {
        let mut told = Progress {
            id: self.id,
            name: self.trusted.first().map(|m| m.name.clone()),
            done: 0,
            size: self.trusted.first().map(|m| m.size),
            rate: 0,
            sources: 0,
            state: FetchState::Searching,
            stall: self.stall(now),
        };
        match &self.stage {
            Stage::Transfer(transfer) => transfer.tell(&mut told, now),
            Stage::Finishing => told.state = FetchState::Finishing,
            Stage::Searching | Stage::Preparing => {}
        }
        self.progress.send_replace(told);
    }
}
