//! The plain data that goes in and out of a [`Scheduler`](super::Scheduler).

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::content::BlockSet;

/// One source of a fetch: a peer that may hold some of its pieces. The session assigns the numbers and keeps one number
/// for one peer as long as the fetch lives, so that a peer dropped for lying stays recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SourceId(pub(crate) u32);

/// One request of this fetch, numbered by the scheduler and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RequestId(pub(crate) u64);

/// The settings of one fetch.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The last piece is fetched first, and until it is stored each source gets at most one run besides it. For a single
    /// file only: its last block is what proves the size (Bao's rule).
    pub(crate) prove_last: bool,
    /// How long the oldest request of a source may go without a block before it counts as [`Fault::Timeout`]. 20 s is what
    /// libtorrent's `piece_timeout` uses.
    pub(crate) progress_deadline: Duration,
    /// With fewer sources than this, [`Action::FindMore`] is given now and then.
    pub(crate) enough_sources: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            prove_last: false,
            progress_deadline: Duration::from_secs(20),
            enough_sources: 8,
        }
    }
}

/// Which pieces a source says it holds.
#[derive(Clone, Debug)]
pub(crate) enum Holdings {
    /// Every piece.
    All,
    /// These pieces; the set must span the whole piece space (a set of another length holds what lies inside).
    Some(BlockSet),
    /// It is known as a provider but did not say. It is asked as if it held everything; that it lacks something costs a
    /// strike only as long as it has delivered nothing since the last one.
    Unknown,
}

/// Why a request ended without its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No connection, or it broke. Backs off; three in a row drop the source.
    Unreachable,
    /// The session's own deadline on the request passed. Backs off; three in a row drop the source.
    Timeout,
    /// The source will not serve us. Drops it at once; no blame.
    Refused,
    /// What the source sent is not the protocol. Drops it at once.
    Protocol,
}

/// Why a source was dropped.
#[cfg_attr(test, derive(Hash))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropReason {
    /// It sent a block that failed verification. It can never be added to this fetch again.
    Lied,
    /// It broke the protocol.
    Protocol,
    /// It refused to serve us.
    Refused,
    /// It let three requests in a row run into the deadline.
    Silent,
    /// It could not be reached three times in a row.
    Unreachable,
    /// Three times it lacked what it had claimed, or ended short of what was asked.
    Useless,
}

/// What the session does next.
#[cfg_attr(test, derive(Hash))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ask `source` for these runs: ascending, not empty, not touching each other, at most 32 runs, 256 pieces, 64 MiB
    /// (one piece always fits). Ends with exactly one of `on_finished`, `on_busy`, `on_failed`, unless a
    /// [`Cancel`](Action::Cancel) or [`Drop`](Action::Drop) comes first.
    Request {
        /// Who is asked.
        source: SourceId,
        /// Names the request in the `on_*` calls.
        request: RequestId,
        /// What is asked for, in the order in which the source is to stream it.
        runs: Vec<Range<u32>>,
    },
    /// Stop reading this request: others have its pieces or are about to. Nothing more is reported about it, except the
    /// verdict on blocks that already arrived.
    Cancel {
        /// Who was asked.
        source: SourceId,
        /// The request to stop.
        request: RequestId,
    },
    /// The source left this fetch: stop reading all its requests, which need no `Cancel` each. The verdict on blocks that
    /// already arrived is still reported.
    Drop {
        /// Who is dropped.
        source: SourceId,
        /// Why.
        reason: DropReason,
    },
    /// Look for more sources. Repeated with growing pauses (5 s to a minute) while more are needed.
    FindMore,
    /// Every piece is stored. Given once; nothing follows.
    Done,
}

/// What to do with a block that came over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Arrival {
    /// Verify and store it, then report `on_stored`, `on_bad_block` or `on_discarded`.
    Wanted,
    /// It was asked for, but another copy is stored or on its way to the disk: throw it away, report nothing.
    Duplicate,
    /// It was not asked for under this request, or the request has ended: throw it away, report nothing. Some are normal
    /// after a `Cancel`.
    Unasked,
}

/// Where a fetch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// No source is known.
    Searching,
    /// Blocks are on their way.
    Fetching,
    /// Sources are known but nothing moves; [`Scheduler::stall`](super::Scheduler::stall) says why.
    Stalled,
    /// The session paused it.
    Paused,
    /// Every piece is stored.
    Done,
}

/// How far a fetch is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Progress {
    /// Pieces stored, those held at the start included.
    pub(crate) pieces_done: u32,
    /// Pieces of the whole fetch.
    pub(crate) pieces_total: u32,
    /// Bytes stored, those held at the start included.
    pub(crate) bytes_done: u64,
    /// Bytes of the whole fetch.
    pub(crate) bytes_total: u64,
    /// Bytes stored per second, smoothed over about three seconds.
    pub(crate) rate: u64,
    /// Sources known.
    pub(crate) sources: usize,
    /// Sources with a request open.
    pub(crate) active: usize,
    /// Where it stands.
    pub(crate) state: State,
}

/// Why nothing moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stall {
    /// No source is known.
    NoSources,
    /// Every source that holds something missing is backing off (busy or failing); the first may be asked at `until`.
    AllBusy {
        /// When the first back-off ends.
        until: Instant,
    },
    /// No known source holds what is missing.
    NobodyHas {
        /// How many missing pieces nobody holds.
        pieces: u32,
    },
    /// Sources were asked and have sent nothing for five seconds.
    SlowSources,
    /// The session paused reading, or all that is missing has arrived and waits to be verified and written.
    WaitingForDisk,
}

/// Why a scheduler could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NewError {
    /// The set of pieces already held is of another piece space.
    #[error("the set of held pieces spans {have} pieces, the fetch has {pieces}")]
    HaveMismatch {
        /// Length of the set.
        have: u32,
        /// Pieces of the fetch.
        pieces: u32,
    },
}
