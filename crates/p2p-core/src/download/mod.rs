//! One fetch, of a file or of a folder, as a pure state machine over *pieces*.
//!
//! A fetch numbers its blocks `0..n`, the *piece space*: the blocks of a file, or the blocks of the entries of a folder
//! one after the other. This module decides which source is asked for which pieces, and when. It does no I/O, reads no
//! clock, and never sees the bytes: events come in through `on_*`, work goes out through [`Scheduler::next_action`].
//!
//! ```text
//!            next_action: Request            on_block                 on_stored
//!   free ───────────────────────▶ waiting ────────────▶ arrived ─────────────────▶ stored
//!    ▲                              │ on_failed, on_busy,   │ on_bad_block (the sender is dropped),
//!    │                              │ on_finished, steal    │ on_discarded
//!    └──────────────────────────────┴───────────────────────┘
//! ```
//!
//! What always holds (`invariants` checks it after each step of a debug build):
//!
//! - A piece is in exactly one of the four states. At most two requests wait for it, of two different sources, and at
//!   most one copy of it is between arrival and verdict.
//! - A source has at most two open requests; one that was dropped or is backing off gets none.
//! - A source that sent one block which failed verification is dropped and can never come back in this fetch.
//!
//! | file | owns |
//! |---|---|
//! | `scheduler` | the face: what comes in and what goes out |
//! | `choose` | which source is asked for what next |
//! | `faults` | deadlines, blame, back-off, drops |
//! | `types` | the plain data of that face |
//! | `pieces` | how long each piece is |
//! | `pool` | which pieces nobody was asked for, and how many sources hold each |
//! | `picker` | the order in which pieces are asked for |
//! | `requests` | who was asked for what, and what has arrived |
//! | `source` | one source: window, measured rate, back-off, strikes, what it holds |
//! | `steal` | what an idle source takes over from a slow one |
//! | `rng` | seeded randomness |
//! | `report` | progress, and why nothing moves |
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

#[cfg(feature = "bench")]
pub mod bench;
mod choose;
mod faults;
mod invariants;
mod picker;
mod pieces;
mod pool;
mod readers;
mod report;
mod requests;
mod rng;
mod scheduler;
#[cfg(test)]
mod simulation;
mod source;
mod steal;
#[cfg(test)]
mod swarm_simulation;
#[cfg(test)]
mod tests;
mod types;

pub(crate) use pieces::{Pieces, PiecesError};
pub(crate) use scheduler::Scheduler;
pub(crate) use types::{
    Action, Arrival, Config, DropReason, Fault, Holdings, RequestId, SourceId, Stall, State,
};
