//! What the driver does for peers: queries answered, requests for blocks admitted and served.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};

use super::{
    answer::{self, Known},
    driver::{Driver, Job},
    event::Event,
    fetch::session::Session,
    upload,
};
use crate::{
    content::{ContentId, NodeId, Provider},
    net::{
        AnswerSlot, FRAME_QUEUE, ReplySlot, UploadId,
        wire::{BlocksRequest, EndStatus, Frame, Query, Reply},
    },
    serve::Admitted,
};

/// Queries of one peer being answered at once; beyond it it is told to come back. `Have` waits on purpose, so that one peer
/// must not take what all share.
const ANSWERS_PER_PEER: usize = 16;
/// Peers with queries being answered at once.
const MAX_ANSWERED: usize = 256;
/// A peer that asked for blocks, or what we have of something we do have, counts as a provider for this long.
pub(super) const ASKER_TTL: Duration = Duration::from_secs(120);
/// Contents whose askers are remembered, and askers of each.
const MAX_ASKED_FOR: usize = 256;
const MAX_ASKERS: usize = 64;
/// Peers are told of in an answer: enough to go on with.
const PROVIDERS_TOLD: usize = 20;
/// A peer told to come back is told when.
const BUSY_RETRY_MS: u32 = 500;

/// A request of a peer that is served or waits.
pub(super) struct Upload {
    peer: NodeId,
    /// The asker's number for it.
    number: u64,
    /// Dropped to cancel.
    cancel: Option<oneshot::Sender<()>>,
    cancelled: Option<oneshot::Receiver<()>>,
    request: Option<(BlocksRequest, AnswerSlot)>,
    /// The response is written, or given up.
    ended: bool,
    /// The thread that reads the disk for it is done.
    served: bool,
}

impl Driver {
    pub(super) fn on_asked(&mut self, peer: NodeId, query: Query, slot: ReplySlot) {
        match &query {
            Query::Cancel { number } => {
                self.cancel_upload(peer, *number);
                return self.hands.net.reply(slot, Reply::Cancelled);
            }
            Query::Have { content, .. } => {
                for session in self.sessions.values_mut().filter(|s| s.id == *content) {
                    session.on_interest(peer, self.hands.now);
                }
            }
            _ => {}
        }
        let answering = self.answers.get(&peer).copied().unwrap_or_default();
        let full = !self.answers.contains_key(&peer) && self.answers.len() >= MAX_ANSWERED;
        if answering >= ANSWERS_PER_PEER || full {
            return self.hands.net.reply(slot, Reply::Busy);
        }
        let providers = match &query {
            Query::Providers { content } => self.providers_of(*content, peer),
            _ => Vec::new(),
        };
        let catalog = match &query {
            Query::Catalog { .. } | Query::Search { .. } => Arc::clone(&self.catalog),
            // Some wait for news, and what they hold is copied when a share is shown.
            _ => Arc::default(),
        };
        let known = Known {
            store: self.hands.store.clone(),
            gate: Arc::clone(&self.hands.gate),
            asker: self.hands.asker(peer),
            feed_news: self.hands.feed_news.subscribe(),
            catalog,
            providers,
        };
        self.answers.insert(peer, answering + 1);
        let wanted = match &query {
            Query::Have { content, .. } => Some(*content),
            _ => None,
        };
        self.hands.jobs.spawn(async move {
            let reply = answer::answer(known, query).await;
            // Whoever asks what is here of something is about to fetch it.
            let wanted = wanted.filter(|_| matches!(reply, Reply::Have { .. }));
            Job::Replied {
                peer,
                slot,
                reply,
                wanted,
            }
        });
    }

    /// Other providers of a content: the sources of our own fetch of it, and those who fetch it from us.
    pub(super) fn providers_of(&self, id: ContentId, asker: NodeId) -> Vec<Provider> {
        self.sessions
            .values()
            .filter(|session| session.id == id)
            .flat_map(Session::providers)
            .chain(
                self.askers
                    .get(&id)
                    .into_iter()
                    .flatten()
                    .map(|(peer, _)| *peer),
            )
            .filter(|peer| *peer != asker)
            .take(PROVIDERS_TOLD)
            .map(|peer| Provider::new(peer, self.hands.peers.addresses(peer).to_vec()))
            .collect()
    }

    pub(super) fn on_blocks_asked(
        &mut self,
        peer: NodeId,
        upload: UploadId,
        request: BlocksRequest,
        slot: AnswerSlot,
    ) {
        // The small files of a folder are asked for by hundreds and done in a moment: no swarm forms around one.
        if let [item] = request.items.as_slice() {
            self.note_asker(peer, item.content);
        }
        if self.hands.is_far(peer) {
            return self.decline(slot, EndStatus::Relayed, 0);
        }
        let admitted = self.admission.on_request(peer, upload);
        if admitted == Admitted::Busy {
            return self.decline(slot, EndStatus::Busy, BUSY_RETRY_MS);
        }
        let (cancel, cancelled) = oneshot::channel();
        let waiting = Upload {
            peer,
            number: request.number,
            cancel: Some(cancel),
            cancelled: Some(cancelled),
            request: Some((request, slot)),
            ended: false,
            served: false,
        };
        self.uploads.insert(upload, waiting);
        if admitted == Admitted::Serve {
            self.serve(upload);
        }
    }

    /// Answers a request for blocks with none.
    fn decline(&mut self, slot: AnswerSlot, status: EndStatus, retry_ms: u32) {
        let (frames, receiver) = mpsc::channel(1);
        // A fresh channel has room for one.
        let _ = frames.try_send(Frame::End { status, retry_ms });
        let (_never, cancelled) = oneshot::channel();
        self.hands.net.answer_blocks(slot, receiver, cancelled);
    }

    /// A peer is fetching this content, and will soon have some of it.
    pub(super) fn note_asker(&mut self, peer: NodeId, content: ContentId) {
        if !self.askers.contains_key(&content) && self.askers.len() >= MAX_ASKED_FOR {
            return;
        }
        let askers = self.askers.entry(content).or_default();
        if askers.len() < MAX_ASKERS || askers.contains_key(&peer) {
            askers.insert(peer, self.hands.now);
        }
    }

    pub(super) fn serve(&mut self, upload: UploadId) {
        let Some(entry) = self.uploads.get_mut(&upload) else {
            return self.admission.on_ended(upload);
        };
        let (Some((request, slot)), Some(cancelled)) =
            (entry.request.take(), entry.cancelled.take())
        else {
            return;
        };
        let limit = self.hands.upload_limit(entry.peer);
        let (frames, receiver) = mpsc::channel(FRAME_QUEUE);
        if !self.hands.net.answer_blocks(slot, receiver, cancelled) {
            self.uploads.remove(&upload);
            return self.admission.on_ended(upload);
        }
        let store = self.hands.store.clone();
        let gate = Arc::clone(&self.hands.gate);
        let asker = self.hands.asker(entry.peer);
        self.hands.jobs.spawn_blocking(move || Job::Uploaded {
            upload,
            served: upload::serve(&store, (&gate, asker), &request, &frames, &limit),
        });
    }

    /// A peer wants no more of a response. Dropping the slot of one that waits answers it, by ending its stream.
    pub(super) fn cancel_upload(&mut self, peer: NodeId, number: u64) {
        let found = self
            .uploads
            .iter()
            .find(|(_, entry)| entry.peer == peer && entry.number == number)
            .map(|(upload, _)| *upload);
        if let Some(upload) = found
            && let Some(entry) = self.uploads.get_mut(&upload)
        {
            let waits = entry.request.is_some();
            entry.cancel = None;
            if waits {
                self.uploads.remove(&upload);
                self.admission.on_ended(upload);
            }
        }
    }

    pub(super) fn on_uploaded(&mut self, upload: UploadId, served: upload::Served) {
        for id in served.changed {
            self.hands.tell(Event::ContentChanged { id });
        }
        if let Some(entry) = self.uploads.get_mut(&upload) {
            entry.served = true;
            let peer = entry.peer;
            self.hands.sent(peer, served.bytes);
        }
        self.settle_upload(upload);
    }

    pub(super) fn on_upload_ended(&mut self, upload: UploadId) {
        if let Some(entry) = self.uploads.get_mut(&upload) {
            entry.ended = true;
            // One that still waited will not be served.
            entry.served |= entry.request.is_some();
        }
        self.settle_upload(upload);
    }

    /// Frees the slot once both the wire and the disk are done with it.
    pub(super) fn settle_upload(&mut self, upload: UploadId) {
        if self
            .uploads
            .get(&upload)
            .is_some_and(|entry| entry.ended && entry.served)
        {
            self.uploads.remove(&upload);
            self.admission.on_ended(upload);
        }
    }
}
