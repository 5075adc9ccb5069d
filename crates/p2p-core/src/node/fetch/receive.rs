//! One response to a request for blocks, from the wire to the disk: a thread that verifies what arrives, writes
//! neighbours together and reports. It ends when the frames end.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::mpsc};

use super::plan::{Asked, Plan};
use crate::{
    content::{BLOCK_LEN, VerifiedBlock},
    download::RequestId,
    net::wire::{Frame, ItemStatus},
    node::driver::SessionId,
    rate::RateLimit,
    store::{Content, Store, StoreError},
};

/// Bytes written together: enough that a disk writes at full speed, little enough that a kill loses nothing to speak of.
const BATCH_BYTES: usize = 4 * BLOCK_LEN;
/// Blocks of small files written together, so that each is not a report of its own.
const BATCH: usize = 64;

/// How long a block waits for others to be written with.
const GATHER: Duration = Duration::from_millis(20);

/// What a receiving thread tells the session.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) session: SessionId,
    pub(crate) request: RequestId,
    pub(crate) what: What,
}

/// One thing that happened to a response.
#[derive(Debug)]
pub(crate) enum What {
    /// A page of the outline of an item is known now, and with it perhaps blocks of an earlier run.
    Outline { item: usize, page: u32 },
    /// These pieces came and were verified; now they are written.
    Writing { pieces: Vec<u32> },
    /// These pieces were written.
    Stored { pieces: Vec<u32>, bytes: u64 },
    /// A block or a value that is not of the content.
    Bad { piece: Option<u32> },
    /// Something nobody asked for.
    Unasked,
    /// The peer does not have an item (any more).
    Lacks { item: usize, status: ItemStatus },
    /// The disk did not take these pieces.
    NotStored { pieces: Vec<u32>, error: StoreError },
    /// All frames have been dealt with.
    Drained,
}

/// The receiving side of one request.
pub(crate) struct Receiver {
    pub(crate) session: SessionId,
    pub(crate) request: RequestId,
    pub(crate) plan: Arc<Plan>,
    pub(crate) asked: Vec<Asked>,
    pub(crate) store: Store,
    pub(crate) limit: RateLimit,
    pub(crate) frames: mpsc::Receiver<Frame>,
    pub(crate) reports: mpsc::Sender<Report>,
}

/// Why a response is read no further.
enum Stop {
    /// The peer is to blame.
    Blame(What),
    /// The disk is.
    Disk(StoreError),
    /// Nobody listens.
    Gone,
}

impl Receiver {
    /// Runs to the end of the response. Blocks the thread.
    pub(crate) fn run(mut self) {
        let mut writer = Writer {
            contents: HashMap::new(),
            batch: Vec::new(),
            bytes: 0,
        };
        let items = self.asked.iter().map(|asked| asked.item);
        let opened = self.plan.open_small(&self.store, items).map_err(stop_of);
        let outcome = opened.and_then(|()| self.receive(&mut writer));
        // What came before a bad block is good.
        let flushed = self.flush(&mut writer);
        match outcome.and(flushed) {
            Err(Stop::Blame(what)) => self.report(what),
            Err(Stop::Disk(error)) => self.report(What::NotStored {
                pieces: Vec::new(),
                error,
            }),
            Ok(()) | Err(Stop::Gone) => {}
        }
        self.frames.close();
        self.report(What::Drained);
    }

    fn receive(&mut self, writer: &mut Writer) -> Result<(), Stop> {
        while let Some(frame) = self.next_frame(writer)? {
            match frame {
                Frame::Block { item, index, bytes } => {
                    let reports = &self.reports;
                    if !self.limit.pay(bytes.len() as u64, || reports.is_closed()) {
                        return Err(Stop::Gone);
                    }
                    self.on_block(writer, item, index, bytes)?;
                }
                Frame::Top { item, values } => {
                    let (_, content) = self.content(writer, item)?;
                    content.add_outline_top(values).map_err(stop_of)?;
                }
                Frame::Page { item, page, values } => {
                    let (item, content) = self.content(writer, item)?;
                    content.add_outline_page(page, values).map_err(stop_of)?;
                    self.report(What::Outline { item, page });
                }
                Frame::ItemFailed { item, status } => {
                    let item = self.asked(item)?.item;
                    self.report(What::Lacks { item, status });
                }
                Frame::End { .. } => return Ok(()),
            }
            if writer.batch.len() >= BATCH || writer.bytes >= BATCH_BYTES {
                self.flush(writer)?;
            }
        }
        Ok(())
    }

    /// The next frame. Blocks that wait for company to be written with are written when none comes.
    fn next_frame(&mut self, writer: &mut Writer) -> Result<Option<Frame>, Stop> {
        if !writer.batch.is_empty() && self.frames.is_empty() {
            let soon = tokio::time::timeout(GATHER, self.frames.recv());
            match Handle::current().block_on(soon) {
                Ok(frame) => return Ok(frame),
                Err(_) => self.flush(writer)?,
            }
        }
        Ok(self.frames.blocking_recv())
    }

    fn on_block(
        &self,
        writer: &mut Writer,
        item: u16,
        index: u32,
        bytes: bytes::Bytes,
    ) -> Result<(), Stop> {
        let asked = self.asked(item)?;
        if !asked.contains(index) {
            return Err(Stop::Blame(What::Unasked));
        }
        let (item, content) = self.content(writer, item)?;
        let Some(block) = content.geometry().block(index) else {
            return Err(Stop::Blame(What::Unasked));
        };
        let piece = self.plan.piece(item, block);
        let verified = content
            .verify(block, bytes)
            .map_err(|_| Stop::Blame(What::Bad { piece }))?;
        writer.bytes = writer.bytes.saturating_add(verified.bytes().len());
        writer.batch.push((item, piece, verified));
        Ok(())
    }

    fn asked(&self, item: u16) -> Result<&Asked, Stop> {
        self.asked
            .get(usize::from(item))
            .ok_or(Stop::Blame(What::Unasked))
    }

    fn content(&self, writer: &mut Writer, item: u16) -> Result<(usize, Arc<Content>), Stop> {
        let index = self.asked(item)?.item;
        if let Some(content) = writer.contents.get(&index) {
            return Ok((index, Arc::clone(content)));
        }
        let content = self.plan.open(&self.store, index).map_err(stop_of)?;
        writer.contents.insert(index, Arc::clone(&content));
        Ok((index, content))
    }

    /// Writes what has come. It is reported together, however many files it goes to.
    fn flush(&self, writer: &mut Writer) -> Result<(), Stop> {
        let mut batch = std::mem::take(&mut writer.batch);
        let bytes = std::mem::take(&mut writer.bytes) as u64;
        if batch.is_empty() {
            return Ok(());
        }
        batch.sort_by_key(|(item, ..)| *item);
        let pieces: Vec<u32> = batch.iter().filter_map(|(_, piece, _)| *piece).collect();
        self.report(What::Writing {
            pieces: pieces.clone(),
        });
        let mut rest = batch.into_iter().peekable();
        while let Some((item, _, block)) = rest.next() {
            let mut blocks = vec![block];
            while let Some((_, _, block)) = rest.next_if(|(next, ..)| *next == item) {
                blocks.push(block);
            }
            let Some(content) = writer.contents.get(&item) else {
                continue;
            };
            if let Err(error) = content.write(blocks) {
                self.report(What::NotStored { pieces, error });
                return Err(Stop::Gone);
            }
            if content.geometry().blocks() <= 1 {
                // A small file is whole: nothing more will come for it.
                writer.contents.remove(&item);
            }
        }
        self.report(What::Stored { pieces, bytes });
        Ok(())
    }

    fn report(&self, what: What) {
        // The session is gone if this fails, and with it the interest in the report.
        let _ = self.reports.blocking_send(Report {
            session: self.session,
            request: self.request,
            what,
        });
    }
}

/// Verified blocks on their way to the disk, and the files they go to.
struct Writer {
    contents: HashMap<usize, Arc<Content>>,
    batch: Vec<(usize, Option<u32>, VerifiedBlock)>,
    /// Bytes of the batch.
    bytes: usize,
}

fn stop_of(error: StoreError) -> Stop {
    match error {
        StoreError::Outline(_) => Stop::Blame(What::Bad { piece: None }),
        error => Stop::Disk(error),
    }
}
