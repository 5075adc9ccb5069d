//! One request for blocks, from the disk to the wire: a thread that reads, and so verifies, each block and hands it to
//! the connection. It ends with the request, or when the peer is gone.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::mpsc;

use super::gate::Gate;
use crate::{
    audience::Asker,
    content::{BlockIndex, ContentId},
    net::wire::{BlocksItem, BlocksRequest, EndStatus, Frame, ItemStatus},
    rate::RateLimit,
    store::{Content, ReadError, Store},
};

/// What a serving thread tells the node.
#[derive(Debug, Default)]
pub(crate) struct Served {
    /// Bytes of blocks handed to the connection.
    pub(crate) bytes: u64,
    /// Contents that turned out to be altered.
    pub(crate) changed: Vec<ContentId>,
}

/// The peer is gone.
struct Gone;

/// Serves a request. Blocks the thread.
pub(crate) fn serve(
    store: &Store,
    (gate, asker): (&Gate, Asker),
    request: &BlocksRequest,
    frames: &mpsc::Sender<Frame>,
    limit: &RateLimit,
) -> Served {
    let mut upload = Upload {
        store,
        gate,
        asker,
        frames,
        limit,
        served: Served::default(),
    };
    for (number, item) in (0_u16..).zip(&request.items) {
        if upload.item(number, item).is_err() {
            return upload.served;
        }
    }
    let end = Frame::End {
        status: EndStatus::Done,
        retry_ms: 0,
    };
    // If this fails the peer is gone, which is no news to anyone.
    let _ = upload.send(end);
    upload.served
}

struct Upload<'a> {
    store: &'a Store,
    gate: &'a Gate,
    asker: Asker,
    frames: &'a mpsc::Sender<Frame>,
    limit: &'a RateLimit,
    served: Served,
}

impl Upload<'_> {
    fn send(&self, frame: Frame) -> Result<(), Gone> {
        self.frames.blocking_send(frame).map_err(|_| Gone)
    }

    fn fail(&self, number: u16, status: ItemStatus) -> Result<(), Gone> {
        self.send(Frame::ItemFailed {
            item: number,
            status,
        })
    }

    fn item(&mut self, number: u16, item: &BlocksItem) -> Result<(), Gone> {
        let allowed = self.gate.allows(self.store, item.content, &self.asker);
        let found = allowed.and_then(|allowed| match allowed {
            true => self.store.content(item.content),
            false => Ok(None),
        });
        let content = match found {
            Ok(Some(content)) => content,
            Ok(None) => return self.fail(number, ItemStatus::NotFound),
            Err(error) => {
                tracing::warn!(id = %item.content, %error, "cannot serve");
                return self.fail(number, ItemStatus::NotFound);
            }
        };
        let geometry = content.geometry();
        if geometry.size() != item.size {
            return self.fail(number, ItemStatus::WrongSize);
        }
        let blocks: Vec<BlockIndex> = item
            .runs
            .iter()
            .flat_map(|run| run.start..run.start.saturating_add(run.count))
            .map_while(|index| geometry.block(index))
            .collect();
        if item.outline && geometry.blocks() > 1 && !self.outline(number, &content, &blocks)? {
            return self.fail(number, ItemStatus::NotFound);
        }
        for block in blocks {
            match content.block(block) {
                Ok(verified) => {
                    let bytes = verified.into_bytes();
                    let len = bytes.len() as u64;
                    if !self.limit.pay(len, || self.frames.is_closed()) {
                        return Err(Gone);
                    }
                    self.send(Frame::Block {
                        item: number,
                        index: block.get(),
                        bytes,
                    })?;
                    self.served.bytes = self.served.bytes.saturating_add(len);
                }
                // A partial holder sends what it has; the asker sees what did not come.
                Err(ReadError::NotHeld) => {}
                Err(error) => return self.unreadable(number, item.content, &error),
            }
        }
        Ok(())
    }

    fn unreadable(&mut self, number: u16, id: ContentId, error: &ReadError) -> Result<(), Gone> {
        let status = match error {
            ReadError::Changed | ReadError::Missing => {
                self.served.changed.push(id);
                ItemStatus::Changed
            }
            _ => {
                tracing::warn!(%id, %error, "cannot read");
                ItemStatus::NotFound
            }
        };
        self.fail(number, status)
    }

    /// Sends the pages that prove these blocks. False if they are not known here.
    fn outline(
        &self,
        number: u16,
        content: &Arc<Content>,
        blocks: &[BlockIndex],
    ) -> Result<bool, Gone> {
        let geometry = content.geometry();
        if geometry.pages() > 1 {
            let Ok(Some(top)) = content.outline_top() else {
                return Ok(false);
            };
            self.send(Frame::Top {
                item: number,
                values: top.to_vec(),
            })?;
        }
        let pages: BTreeSet<u32> = blocks
            .iter()
            .map(|block| geometry.page_of(*block))
            .collect();
        for page in pages {
            let Ok(Some(values)) = content.outline_page(page) else {
                return Ok(false);
            };
            self.send(Frame::Page {
                item: number,
                page,
                values: values.to_vec(),
            })?;
        }
        Ok(true)
    }
}
