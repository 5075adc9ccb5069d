//! Reading content that may not be here yet: an `AsyncRead` and `AsyncSeek` whose position tells the fetch behind it what to
//! bring. Nothing else is fetched, unless somebody fetches the whole of it besides.

use std::{
    fmt, io,
    ops::Range,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{self, BoxFuture},
};
use tokio::{
    io::{AsyncRead, AsyncSeek, ReadBuf, SeekFrom},
    sync::watch,
};

use super::{
    Node, blocking,
    command::Command,
    error::{FetchError, NodeStopped},
    fetch::{DEFAULT_TIMEOUT, FetchTarget, Seat, Standing},
    read_ahead::ReadAhead,
};
use crate::{
    content::{BlockIndex, ContentId, Geometry, VerifiedBlock},
    store::{Content, ReadError},
};

/// Fetches a reader joins that end before it has been seen to: each time somebody else's was cancelled just then.
const ATTEMPTS: u32 = 8;

/// The bytes of a content, verified, fetched as they are read. What has arrived stays in the node's store.
///
/// What is ahead of the reader is fetched too: 1 MiB at first and as much as has been read in order later, up to 32 MiB. A
/// seek begins anew, and what the old place was to bring is cancelled. The rest of the content is not fetched. Several readers
/// of one content share its fetch, and have their turns.
pub struct Reader {
    source: Arc<Source>,
    ahead: ReadAhead,
    position: u64,
    block: Option<VerifiedBlock>,
    pending: Option<BoxFuture<'static, io::Result<VerifiedBlock>>>,
}

/// Where the blocks of a reader come from.
struct Source {
    node: Node,
    geometry: Geometry,
    timeout: Duration,
    from: Mutex<Arc<Opened>>,
}

/// The file that is read, and its fetch if it is not complete.
struct Opened {
    content: Arc<Content>,
    fetch: Option<Fetching>,
}

/// The fetch behind a reader, as the reader sees it. Dropping it leaves the fetch, which ends with its last reader.
struct Fetching {
    wanted: watch::Sender<Range<u32>>,
    standing: watch::Receiver<Standing>,
    node: Node,
    id: ContentId,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("id", &self.source.from().content.id())
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Reads content, fetching what is missing as it is read. A folder's bytes are the list of its files.
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
        let from = self.open_reader(what.into(), timeout).await?;
        let geometry = from.content.geometry();
        Ok(Reader {
            ahead: ReadAhead::new(geometry.blocks()),
            source: Arc::new(Source {
                node: self.clone(),
                geometry,
                timeout,
                from: Mutex::new(Arc::new(from)),
            }),
            position: 0,
            block: None,
            pending: None,
        })
    }

    /// The content if it is complete here; else a place in a fetch of it, once it is known what that brings.
    async fn open_reader(
        &self,
        what: FetchTarget,
        timeout: Duration,
    ) -> Result<Opened, FetchError> {
        let id = what.id();
        for _ in 0..ATTEMPTS {
            if let Some(content) = self.complete(id).await? {
                return Ok(Opened {
                    content,
                    fetch: None,
                });
            }
            let order = self.fetch(what.clone()).timeout(timeout).on_demand();
            let (wanted, seat_wanted) = watch::channel(0..0);
            let (told, standing) = watch::channel(Standing::Searching);
            let seat = Seat {
                wanted: seat_wanted,
                told,
            };
            let order = Box::new(order);
            self.send(Command::Read { order, seat }).await?;
            let mut fetch = Fetching {
                wanted,
                standing,
                node: self.clone(),
                id,
            };
            match fetch.opened().await {
                Ok(content) => {
                    let fetch = Some(fetch);
                    return Ok(Opened { content, fetch });
                }
                Err(FetchError::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Err(FetchError::Interrupted)
    }

    async fn complete(&self, id: ContentId) -> Result<Option<Arc<Content>>, FetchError> {
        let store = self.store().clone();
        let content = blocking(move || store.content(id)).await??;
        Ok(content.filter(|content| content.is_complete()))
    }
}

impl Reader {
    /// Size of the content in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.source.geometry.size()
    }

    /// Says that the reader will read up to this byte, and not beyond it: all up to there may be fetched ahead, and nothing
    /// behind it is. It may read on nevertheless.
    pub fn set_end(&mut self, end: u64) {
        self.ahead
            .set_end(self.source.geometry.blocks_in(0..end).end);
    }
}

impl Fetching {
    /// Waits until it is known what is fetched.
    async fn opened(&mut self) -> Result<Arc<Content>, FetchError> {
        let known = self
            .standing
            .wait_for(|standing| !matches!(standing, Standing::Searching));
        match &*known.await.map_err(|_| NodeStopped)? {
            Standing::Open(content) => Ok(Arc::clone(content)),
            Standing::Over(error) => Err(error.clone()),
            Standing::Searching => Err(FetchError::Interrupted),
        }
    }

    /// Has these blocks fetched, the first ones first.
    async fn want(&self, blocks: &Range<u32>) -> Result<(), NodeStopped> {
        let is_new = self.wanted.send_if_modified(|wanted| {
            let is_new = wanted != blocks;
            wanted.clone_from(blocks);
            is_new
        });
        if is_new {
            self.node
                .send(Command::ReadersMoved { id: self.id })
                .await?;
        }
        Ok(())
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        // The fetch would notice by itself, but what is on its way costs somebody's line until then.
        let (_, closed) = watch::channel(Standing::Searching);
        self.standing = closed;
        self.node.try_send(Command::ReadersMoved { id: self.id });
    }
}

impl Source {
    fn from(&self) -> Arc<Opened> {
        Arc::clone(&self.from.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A block, fetched first if it is missing, and with it what is `wanted` beside it.
    async fn block(
        self: Arc<Self>,
        block: BlockIndex,
        wanted: Range<u32>,
    ) -> io::Result<VerifiedBlock> {
        loop {
            let from = self.from();
            let mut changes = from.content.changes();
            if let Some(fetch) = &from.fetch {
                fetch.want(&wanted).await.map_err(io::Error::other)?;
            }
            if from.content.holds(block) {
                let content = Arc::clone(&from.content);
                let read = blocking(move || content.block(block)).await;
                match read.map_err(io::Error::other)? {
                    Ok(block) => return Ok(block),
                    Err(ReadError::NotHeld) => continue,
                    Err(error) => return Err(io::Error::other(error)),
                }
            }
            let Some(fetch) = &from.fetch else {
                return Err(io::Error::other("the content is no longer complete"));
            };
            let mut standing = fetch.standing.clone();
            let over = match &*standing.borrow_and_update() {
                Standing::Over(error) => Some(error.clone()),
                _ => None,
            };
            match over {
                // Of somebody else, who dropped it; or it has just brought everything.
                Some(FetchError::Interrupted) => self.begin_again().await?,
                Some(error) => return Err(io::Error::other(error)),
                None => {
                    let news = pin!(changes.changed());
                    let end = pin!(standing.changed());
                    if let future::Either::Right((Err(_), _)) = future::select(news, end).await {
                        return Err(io::Error::other(FetchError::from(NodeStopped)));
                    }
                }
            }
        }
    }

    async fn begin_again(&self) -> io::Result<()> {
        let id = FetchTarget::Id(self.from().content.id());
        let opened = self.node.open_reader(id, self.timeout).await;
        let from = opened.map_err(io::Error::other)?;
        if from.content.geometry() != self.geometry {
            let why = "the content turned out to have another size".to_owned();
            return Err(io::Error::other(FetchError::Verification(why)));
        }
        *self.from.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(from);
        Ok(())
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
            let pending = match &mut this.pending {
                Some(pending) => pending,
                None => {
                    let geometry = this.source.geometry;
                    let end = this.position.saturating_add(1);
                    let number = geometry.blocks_in(this.position..end).start;
                    let block = geometry.block(number).ok_or(io::ErrorKind::UnexpectedEof)?;
                    let wanted = this.ahead.at(number);
                    let source = Arc::clone(&this.source);
                    this.pending.insert(source.block(block, wanted).boxed())
                }
            };
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
