//! What is shared, and how it is proven: ids, blocks, the hash tree, signed manifests, folders and tickets.
//!
//! This module owns every decision about bytes that does not need a clock, a disk or a network. It imports
//! nothing of the crate but itself.
//!
//! Three types are gates, and each is constructed in exactly one file, by the code that checked:
//!
//! - a number becomes a [`BlockIndex`] only through the [`Geometry`] of its content;
//! - bytes become a [`VerifiedBlock`] only through an [`Outline`] that leads up to the content id;
//! - a [`SignedManifest`] becomes a [`TrustedManifest`] only through its signature and a [`TrustPolicy`].
//!
//! Everything that comes from strangers is capped before it is allocated, decoded strictly (the same value has
//! exactly one encoding), and refused rather than repaired.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod address;
mod attributes;
mod block_set;
mod collection;
pub(crate) mod encoding;
mod feed;
mod geometry;
mod id;
mod manifest;
mod node_id;
mod paths;
mod publisher;
mod ticket;
mod tree;

pub use address::{Address, ParseAddressError};
pub use attributes::Attributes;
pub use block_set::BlockSet;
pub use collection::{Collection, CollectionError, Entry};
pub use encoding::DecodeError;
pub use feed::{BadFeed, Feed, FeedId, ParseFeedError, SignedFeed, TrustedFeed};
pub use geometry::{BLOCK_LEN, BlockIndex, Geometry, MAX_SIZE, PAGE_BLOCKS, SizeError};
pub use id::{ContentId, ParseIdError};
pub use manifest::{Kind, Manifest, ManifestError, SignedManifest, TrustPolicy, TrustedManifest};
pub use node_id::{NodeId, ParseNodeIdError};
pub use paths::{PathError, check_component, check_path};
pub use publisher::{ParsePublisherError, PublisherKey, PublisherSecret};
pub use ticket::{Provider, Ticket, TicketError};
pub use tree::{
    ChainingValue, Need, Outline, OutlineBuilder, TreeError, VerifiedBlock, block_value,
};
