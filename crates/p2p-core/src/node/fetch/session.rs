//! One fetch from the first question to the file: which peers are asked what, when the plan is made, and what the
//! scheduler is told. What it decides is carried out through [`Hands`]; it waits for nothing.
//!
//! ```text
//! Searching ──▶ Preparing ──▶ Transfer ──▶ Finishing ──▶ outcome
//!                   ▲    (listing)  │
//!                   └───────────────┘  a folder: first the list of its entries, then the entries
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use super::{
    FetchState, Fetched, Goal, Order, Outcome, Progress, SourceBytes,
    patience::Met,
    prepare::{self, Prepared},
    readers::Seat,
    receive::{Report, What},
    sources::{Manifests, Source},
    transfer::Transfer,
};
use crate::{
    content::{
        Collection, ContentId, Geometry, Kind, ManifestError, NodeId, SignedManifest, TrustPolicy,
        TrustedManifest,
    },
    download::RequestId,
    net::{NetFault, wire::EndStatus},
    node::{
        driver::{Hands, Job, SessionId},
        error::FetchError,
        query::Listed,
    },
    store::StoreError,
};

/// How often progress is told, and stalls and timeouts are looked for.
const TICK: Duration = Duration::from_millis(200);

pub(super) enum Stage {
    Searching,
    Preparing,
    Transfer(Box<Transfer>),
    Finishing,
}

/// One fetch.
pub(crate) struct Session {
    pub(crate) number: SessionId,
    pub(crate) id: ContentId,
    pub(super) order: Order,
    pub(super) stage: Stage,
    pub(super) goal: Goal,
    pub(crate) seats: Vec<Seat>,
    /// All of it is wanted, not only what readers wait for.
    pub(super) whole: bool,
    pub(super) sources: BTreeMap<NodeId, Source>,
    pub(super) slots: Vec<NodeId>,
    /// Those whom the user named.
    pub(super) named: BTreeSet<NodeId>,
    pub(super) trusted: Vec<TrustedManifest>,
    pub(super) refused: Option<(ManifestError, Instant)>,
    collection: Option<Arc<Collection>>,
    /// Its bytes list no entries, whatever a manifest says.
    is_file: bool,
    /// Its size, if it is complete here.
    pub(super) local_size: Option<u64>,
    started: Instant,
    /// When a provider was last there, or something last arrived.
    pub(super) alive_at: Instant,
    pub(super) searched_at: Option<Instant>,
    /// How the last holders that were there were met.
    pub(super) met: Option<Met>,
    tick_at: Instant,
    pub(super) progress: watch::Sender<Progress>,
    reply: Option<oneshot::Sender<Result<Outcome, FetchError>>>,
    pub(super) outcome: Option<Result<Outcome, FetchError>>,
}

impl Session {
    pub(crate) fn new(
        number: SessionId,
        order: Order,
        progress: watch::Sender<Progress>,
        reply: Option<oneshot::Sender<Result<Outcome, FetchError>>>,
        now: Instant,
    ) -> Self {
        Self {
            number,
            id: order.id,
            whole: !order.on_demand,
            order,
            stage: Stage::Searching,
            goal: Goal::File,
            seats: Vec::new(),
            sources: BTreeMap::new(),
            slots: Vec::new(),
            named: BTreeSet::new(),
            trusted: Vec::new(),
            refused: None,
            collection: None,
            is_file: false,
            local_size: None,
            started: now,
            alive_at: now,
            searched_at: None,
            met: None,
            tick_at: now,
            progress,
            reply,
            outcome: None,
        }
    }

    /// Asks whoever is there, dials whoever is named, and looks at what is here already.
    pub(crate) fn start(&mut self, hands: &mut Hands) {
        let mut order = self.order.clone();
        if let Err(error) = self.learn(&mut order, hands) {
            return self.end(Err(error));
        }
        self.order = order;
        self.ask_local(hands);
        let peers: Vec<NodeId> = hands.peers.ours().collect();
        for peer in peers {
            self.on_peer(peer, hands);
        }
        self.search(hands);
        self.advance(hands);
    }

    pub(super) fn policy(&self) -> &TrustPolicy {
        &self.order.trust
    }

    /// Goes on to making the plan once it is known what is fetched.
    pub(super) fn advance(&mut self, hands: &mut Hands) {
        if !matches!(self.stage, Stage::Searching) || self.outcome.is_some() {
            return;
        }
        let Some((kind, size)) = self.known() else {
            return;
        };
        let Ok(geometry) = Geometry::new(size) else {
            let why = format!("{size} bytes are more than any content may have");
            return self.end(Err(FetchError::Verification(why)));
        };
        self.goal = match kind {
            Kind::Collection if !self.is_file && !self.order.on_demand => Goal::Listing,
            _ => Goal::File,
        };
        if self.order.listing_only && self.goal == Goal::File {
            let name = self.trusted.first().map(|manifest| manifest.name.clone());
            let listed = Listed::File { size };
            return self.end(Ok(Outcome::Listed { name, listed }));
        }
        self.prepare(geometry, hands);
    }

    /// Kind and size, once there is reason to believe them.
    fn known(&self) -> Option<(Kind, u64)> {
        let sizes = || {
            self.sources
                .values()
                .filter_map(|source| source.have.as_ref().map(|(size, _)| *size))
        };
        // A manifest whose size some holder confirms is preferred to one that merely came first.
        let confirmed = self
            .trusted
            .iter()
            .find(|manifest| sizes().any(|size| size == manifest.size));
        if let Some(manifest) = confirmed.or_else(|| self.trusted.first()) {
            return Some((manifest.kind, manifest.size));
        }
        if *self.policy() != TrustPolicy::Any {
            return None;
        }
        if let Some(size) = self.local_size {
            return Some((Kind::File, size));
        }
        // The hash alone is enough, but a manifest may still say that this is a folder: hear its holders first.
        let mut claims: BTreeMap<u64, usize> = BTreeMap::new();
        for source in self.sources.values() {
            if let (Some((size, _)), Manifests::Known) = (&source.have, source.manifests) {
                let count = claims.entry(*size).or_default();
                *count = count.saturating_add(1);
            }
        }
        let (size, _) = claims.into_iter().max_by_key(|(_, count)| *count)?;
        Some((Kind::File, size))
    }

    fn prepare(&mut self, geometry: Geometry, hands: &mut Hands) {
        self.stage = Stage::Preparing;
        let (store, order, goal) = (hands.store.clone(), self.order.clone(), self.goal);
        let name = self.name();
        let collection = self.collection.clone();
        let session = self.number;
        hands.jobs.spawn_blocking(move || Job::Prepared {
            session,
            result: prepare::prepare(&store, &order, goal, geometry, &name, collection.as_deref())
                .map(Box::new),
        });
    }

    /// The name it goes by: the manifest's, or the id.
    fn name(&self) -> String {
        self.trusted
            .first()
            .map_or_else(|| self.id.to_string(), |manifest| manifest.name.clone())
    }

    /// The plan is made.
    pub(crate) fn on_prepared(
        &mut self,
        result: Result<Box<Prepared>, FetchError>,
        hands: &mut Hands,
    ) {
        let prepared = match result {
            Ok(prepared) => *prepared,
            Err(error) => return self.end(Err(error)),
        };
        let (plan, held, resumed, destination) = match prepared {
            Prepared::Listed(collection) => return self.on_listed(collection, hands),
            Prepared::InPlace { path, size } => return self.on_finished(Ok((path, size)), hands),
            Prepared::NotAFolder => {
                self.is_file = true;
                self.stage = Stage::Searching;
                return self.advance(hands);
            }
            Prepared::Planned {
                plan,
                held,
                resumed,
                destination,
            } => (plan, held, resumed, destination),
        };
        match Transfer::new(self.goal, plan, (held, resumed), destination, hands.now) {
            Ok(transfer) => self.stage = Stage::Transfer(Box::new(transfer)),
            Err(why) => return self.end(Err(FetchError::Verification(why))),
        }
        // However long it took to prepare, nobody is late yet.
        self.alive_at = hands.now;
        let peers: Vec<NodeId> = self.sources.keys().copied().collect();
        for peer in peers {
            self.offer(peer, hands.now);
            if self.goal == Goal::Folder {
                self.ask_have(peer, hands);
            }
        }
        self.seat_readers(hands);
        self.pump(hands);
    }

    /// The entries of the folder are known.
    fn on_listed(&mut self, collection: Arc<Collection>, hands: &mut Hands) {
        if self.order.listing_only {
            let name = self.trusted.first().map(|manifest| manifest.name.clone());
            let listed = Listed::Folder(collection);
            return self.end(Ok(Outcome::Listed { name, listed }));
        }
        self.collection = Some(collection);
        self.goal = Goal::Folder;
        let empty = Geometry::new(0).unwrap_or_default();
        self.prepare(empty, hands);
    }

    /// Something happened to a response.
    pub(crate) fn on_report(&mut self, report: Report, hands: &mut Hands) {
        let Stage::Transfer(transfer) = &mut self.stage else {
            return;
        };
        if let What::NotStored { error, .. } = report.what {
            let error = match error {
                StoreError::Sync { .. } | StoreError::AlreadyComplete(_) => {
                    FetchError::Store(Arc::new(error))
                }
                error => error.into(),
            };
            return self.end(Err(error));
        }
        if let Some((peer, bytes)) = transfer.on_report(report, hands)
            && let Some(source) = self.sources.get_mut(&peer)
        {
            source.bytes = source.bytes.saturating_add(bytes);
            self.alive_at = hands.now;
        }
        self.pump(hands);
    }

    /// A response ended.
    pub(crate) fn on_response(
        &mut self,
        request: RequestId,
        result: Result<(EndStatus, u32), NetFault>,
        hands: &mut Hands,
    ) {
        let Stage::Transfer(transfer) = &mut self.stage else {
            return;
        };
        let asked = transfer.peer_of(request);
        transfer.on_response(request, result, hands.now);
        if let (Some(peer), Ok((EndStatus::Relayed, _))) = (asked, result) {
            self.on_relay_declined(peer, hands);
        }
        self.pump(hands);
    }

    /// Carries out what the scheduler wants.
    pub(crate) fn pump(&mut self, hands: &mut Hands) {
        let Stage::Transfer(transfer) = &mut self.stage else {
            return;
        };
        let slots = &self.slots;
        let pumped = transfer.pump(
            self.number,
            |slot| slots.get(slot.0 as usize).copied(),
            hands,
        );
        for peer in pumped.blamed {
            if let Some(source) = self.sources.get_mut(&peer) {
                source.blamed = true;
            }
        }
        if pumped.search {
            self.search(hands);
        }
        if pumped.done {
            self.finish(hands);
        }
    }

    fn finish(&mut self, hands: &mut Hands) {
        let stage = std::mem::replace(&mut self.stage, Stage::Finishing);
        let Stage::Transfer(mut transfer) = stage else {
            return;
        };
        transfer.cancel_all(hands);
        let session = self.number;
        let store = hands.store.clone();
        let order = self.order.clone();
        let manifests: Vec<SignedManifest> =
            self.trusted.iter().map(|m| m.signed().clone()).collect();
        let ending = transfer.into_ending();
        let goal = self.goal;
        hands.jobs.spawn_blocking(move || {
            if goal == Goal::Listing {
                let result = prepare::finish_listing(&store, &ending, &manifests);
                return Job::Prepared {
                    session,
                    result: result.map(Box::new),
                };
            }
            let result = prepare::finish(&store, &order, &ending, &manifests);
            Job::Finished { session, result }
        });
    }

    /// The files are where they belong.
    pub(crate) fn on_finished(
        &mut self,
        result: Result<(std::path::PathBuf, u64), FetchError>,
        hands: &Hands,
    ) {
        let outcome = result.map(|(path, size)| {
            Outcome::Fetched(Fetched {
                id: self.id,
                path,
                size,
                elapsed: hands.now.saturating_duration_since(self.started),
                sources: self.source_bytes(),
            })
        });
        self.end(outcome);
    }

    fn source_bytes(&self) -> Vec<SourceBytes> {
        self.sources
            .iter()
            .filter(|(_, source)| source.bytes > 0)
            .map(|(peer, source)| SourceBytes {
                peer: *peer,
                bytes: source.bytes,
            })
            .collect()
    }

    /// A saving of what has arrived ended.
    pub(crate) fn on_checkpoint(&mut self, result: Result<(), StoreError>) {
        if let Stage::Transfer(transfer) = &mut self.stage {
            transfer.on_checkpoint();
        }
        if let Err(error) = result {
            self.end(Err(error.into()));
        }
    }

    /// Time has passed.
    pub(crate) fn on_tick(&mut self, hands: &mut Hands) {
        let is_dropped = self.reply.as_ref().is_some_and(oneshot::Sender::is_closed);
        if is_dropped || self.is_deserted() {
            return self.end(Err(FetchError::Interrupted));
        }
        if hands.now < self.tick_at {
            return self.pump(hands);
        }
        self.tick_at = hands.now + TICK;
        self.refresh(hands);
        self.seat_readers(hands);
        self.check_refusal(hands.now);
        self.note_met();
        self.check_timeout(hands.now);
        if let Stage::Transfer(transfer) = &mut self.stage {
            transfer.watch_disk(hands.now);
            transfer.checkpoint(self.number, hands);
        }
        self.pump(hands);
        self.tell(hands.now);
    }

    /// When this session next needs a turn.
    pub(crate) fn next_deadline(&self, now: Instant) -> Instant {
        match &self.stage {
            Stage::Transfer(transfer) => transfer
                .next_deadline(now)
                .map_or(self.tick_at, |deadline| deadline.min(self.tick_at)),
            _ => self.tick_at,
        }
    }

    pub(super) fn end(&mut self, outcome: Result<Outcome, FetchError>) {
        if self.outcome.is_none() {
            self.outcome = Some(outcome);
        }
    }

    /// Stops it; what has been verified is kept.
    pub(crate) fn interrupt(&mut self) {
        self.end(Err(FetchError::Interrupted));
    }

    /// Tells the peers that are sending that no more is wanted.
    pub(crate) fn cancel_requests(&mut self, hands: &mut Hands) {
        if let Stage::Transfer(transfer) = &mut self.stage {
            transfer.cancel_all(hands);
        }
    }

    /// Whether it is over.
    pub(crate) fn is_over(&self) -> bool {
        self.outcome.is_some()
    }

    /// Tells whoever waits how it ended, and gives back the files whose blocks are yet to be saved.
    pub(crate) fn conclude(mut self) -> Concluded {
        self.dismiss_readers();
        let summary = match &self.outcome {
            Some(Ok(Outcome::Fetched(fetched))) => Summary::Fetched(fetched.clone()),
            Some(Ok(Outcome::Listed { .. })) => Summary::Listed,
            Some(Err(error)) => Summary::Failed(error.to_string()),
            None => Summary::Failed(FetchError::Interrupted.to_string()),
        };
        let unsaved = match self.stage {
            Stage::Transfer(transfer) => transfer.into_ending().plan.all_opened(),
            _ => Vec::new(),
        };
        if let Some(Ok(Outcome::Fetched(fetched))) = &self.outcome {
            self.progress.send_modify(|progress| {
                progress.state = FetchState::Complete;
                progress.done = fetched.size;
                progress.size = Some(fetched.size);
                progress.stall = None;
            });
        }
        if let (Some(reply), Some(outcome)) = (self.reply, self.outcome) {
            // Nobody waits: the fetch was dropped.
            let _ = reply.send(outcome);
        }
        Concluded {
            id: self.id,
            summary,
            unsaved,
        }
    }
}

/// What is left of a session that is over.
pub(crate) struct Concluded {
    pub(crate) id: ContentId,
    pub(crate) summary: Summary,
    pub(crate) unsaved: Vec<Arc<crate::store::Content>>,
}

/// How a session ended, for the events.
pub(crate) enum Summary {
    Fetched(Fetched),
    Listed,
    Failed(String),
}
