//! Names, for those who know no id. Pure.
//!
//! - [`words`]: a name is split into words, and each word is a key of the DHT under which those who share such a name
//!   announce themselves.
//! - [`shown`]: which of these keys a node announces: those of what it shares publicly, counted.
//! - [`room`]: whom to ask of those that the DHT names under a word.
//! - [`findings`]: what is believed of the answers to a search, and what comes of all of them together.
//! - [`blame`]: who answered with lies, and is not asked for a while.
//!
//! Everything in an answer comes from a stranger: a manifest counts only if its signature verifies and its name is one that
//! was searched for, and one false manifest spoils the whole answer.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod blame;
mod findings;
mod room;
mod shown;
mod words;

#[cfg(test)]
#[path = "words_tests.rs"]
mod words_tests;

pub(crate) use self::{
    blame::Blamed,
    findings::{Claim, Findings, Lie, check},
    room::Room,
    shown::{Change, Shown},
    words::{Wanted, fold, search_keys},
};
