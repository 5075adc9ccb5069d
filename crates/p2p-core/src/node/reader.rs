//! Reading content that may not be here yet: an `AsyncRead` and `AsyncSeek` whose position tells the fetch what to bring
//! first.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf, SeekFrom};

use super::{
    Node, blocking,
    command::Command,
    error::FetchError,
    fetch::{DEFAULT_TIMEOUT, Fetch, FetchTarget},
};
use crate::{
    content::{ContentId, Geometry, VerifiedBlock},
    store::{Content, ReadError},
};

/// How often a reader looks whether the fetch it waits for has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Blocks asked for ahead of the reader: 8 MiB.
const READ_AHEAD: u32 = 32;

/// The bytes of a content, verified, fetched as they are read. Dropping it ends the fetch behind it; what has arrived
/// stays in the node's store.
pub struct Reader {
    source: Arc<Source>,
    position: u64,
    block: Option<VerifiedBlock>,
    pending: Option<BoxFuture<'static, io::Result<VerifiedBlock>>>,
}

/// Where the blocks of a reader come from.
struct Source {
    node: Node,
    content: Arc<Content>,
    geometry: Geometry,
    /// The fetch of what is missing.
    fetch: Option<Fetch>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("id", &self.source.content.id())
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Reads content, fetching what is missing as it is read.
    ///
    /// # Errors
    /// If nobody has it, or it fails as a fetch does.
    pub async fn read(&self, what: impl Into<FetchTarget>) -> Result<Reader, FetchError> {
        self.read_within(what, DEFAULT_TIMEOUT).await
    }

    /// The same, with a limit of its own on how long to look for a provider, and to wait for one that sends nothing.
    ///
    /// # Errors
    /// If nobody has it, or it fails as a fetch does.
    pub async fn read_within(
        &self,
        what: impl Into<FetchTarget>,
        timeout: Duration,
    ) -> Result<Reader, FetchError> {
        let what = what.into();
        let id = what.id();
        if let Some(content) = self.complete(id).await? {
            return Ok(Reader::new(self.clone(), content, None));
        }
        let fetch = self.fetch(what).in_store().timeout(timeout).start().await?;
        let content = self.begun(id, &fetch).await?;
        Ok(match content {
            Some(content) => Reader::new(self.clone(), content, Some(fetch)),
            None => {
                // It ended before it could be watched: complete, or failed.
                fetch.await?;
                let content = self.complete(id).await?.ok_or(FetchError::Interrupted)?;
                Reader::new(self.clone(), content, None)
            }
        })
    }

    async fn complete(&self, id: ContentId) -> Result<Option<Arc<Content>>, FetchError> {
        let store = self.store().clone();
        let content = blocking(move || store.content(id)).await??;
        Ok(content.filter(|content| content.is_complete()))
    }

    /// The partial file of a fetch, once there is one; `None` if the fetch ended.
    async fn begun(
        &self,
        id: ContentId,
        fetch: &Fetch,
    ) -> Result<Option<Arc<Content>>, FetchError> {
        use futures::StreamExt;
        let mut progress = fetch.progress();
        while progress.next().await.is_some() {
            let store = self.store().clone();
            if let Some(content) = blocking(move || store.content(id)).await?? {
                return Ok(Some(content));
            }
        }
        Ok(None)
    }
}

impl Reader {
    fn new(node: Node, content: Arc<Content>, fetch: Option<Fetch>) -> Self {
        let geometry = content.geometry();
        Self {
            source: Arc::new(Source {
                node,
                content,
                geometry,
                fetch,
            }),
            position: 0,
            block: None,
            pending: None,
        }
    }

    /// Size of the content in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.source.geometry.size()
    }
}

impl Source {
    /// The block at this byte, fetched first if it is missing.
    async fn block_at(self: Arc<Self>, position: u64) -> io::Result<VerifiedBlock> {
        let range = self
            .geometry
            .blocks_in(position..position.saturating_add(1));
        let block = self
            .geometry
            .block(range.start)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut changes = self.content.changes();
        loop {
            if self.content.holds(block) {
                let content = Arc::clone(&self.content);
                let read = blocking(move || content.block(block)).await;
                match read.map_err(io::Error::other)? {
                    Ok(block) => return Ok(block),
                    Err(ReadError::NotHeld) => {}
                    Err(error) => return Err(io::Error::other(error)),
                }
            }
            let Some(fetch) = &self.fetch else {
                return Err(io::Error::other("the content is no longer complete"));
            };
            let ahead = range.start..range.start.saturating_add(READ_AHEAD);
            let wish = Command::Prioritise {
                session: fetch.session(),
                blocks: Some(ahead),
            };
            self.node.send(wish).await.map_err(io::Error::other)?;
            if fetch.is_over() && !self.content.holds(block) {
                return Err(io::Error::other(fetch.failure()));
            }
            // Woken by each block that comes; by the clock if the fetch ends without one.
            let _ = tokio::time::timeout(LOOK_AGAIN, changes.changed()).await;
        }
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.position >= this.size() || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if let Some(block) = &this.block {
                let start = this.source.geometry.offset_of(block.index());
                let within = this.position.checked_sub(start);
                let rest = within
                    .and_then(|at| usize::try_from(at).ok())
                    .and_then(|at| block.bytes().get(at..))
                    .filter(|rest| !rest.is_empty());
                if let Some(rest) = rest {
                    let count = rest.len().min(buffer.remaining());
                    buffer.put_slice(rest.get(..count).unwrap_or_default());
                    this.position = this.position.saturating_add(count as u64);
                    return Poll::Ready(Ok(()));
                }
                this.block = None;
            }
            let position = this.position;
            let source = Arc::clone(&this.source);
            let pending = this
                .pending
                .get_or_insert_with(|| source.block_at(position).boxed());
            let fetched = ready!(pending.as_mut().poll(cx));
            this.pending = None;
            this.block = Some(fetched?);
        }
    }
}

impl AsyncSeek for Reader {
    fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        let (base, offset) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::End(offset) => (self.size(), offset),
            SeekFrom::Current(offset) => (self.position, offset),
        };
        let position = base.checked_add_signed(offset).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "seek to before the first byte")
        })?;
        self.position = position;
        // What was wanted at the old place is wanted no longer.
        self.pending = None;
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.position))
    }
}
