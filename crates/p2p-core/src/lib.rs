//! Trackerless peer-to-peer file sharing.
//!
//! A [`Node`] shares files and folders where they lie, finds who has a file by the hash that `b3sum` prints, and streams
//! it from all of them at once. Every block is verified against the hash before it is written or served, and every share
//! is signed by its publisher. There is no server: peers find each other by multicast on the local network, through a
//! Kademlia table beyond it, and by tickets.
//!
//! ```text
//! share(path)  file ─▶ hash tree (one read, all cores) ─▶ id ─▶ signed manifest ─▶ announced
//! fetch(id)    neighbours ∥ DHT ∥ ticket ∥ other providers ─▶ scheduler ⇄ block streams from N peers
//!                                                             ─▶ verified ─▶ NAME.part ─▶ NAME
//! serve        request ─▶ admission ─▶ cache | disk, verified ─▶ streamed reply
//! ```
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use p2p_core::{Config, Node};
//!
//! let node = Node::start(Config::default().with_data_dir("data")).await?;
//! let shared = node.share("talk.mp4").await?;
//! println!("{} {}", shared.id, shared.ticket);
//!
//! let fetch = node.fetch(shared.id).to("copy.mp4").start().await?;
//! let fetched = fetch.await?;
//! println!("{} bytes from {} peers", fetched.size, fetched.sources.len());
//! node.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! The modules depend on each other in one direction only: `node` knows `net`, `store` and the pure ones; `net` and
//! `store` know `content` and not each other; `content` knows nothing. Only `net` imports libp2p, and none of its types
//! is part of this interface.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod announce;
mod audience;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod config;
pub mod content;
mod download;
mod names;
mod net;
mod node;
mod peers;
mod rate;
mod reach;
mod relays;
mod serve;
mod store;
mod watch;

pub use audience::Audience;
pub use config::{Config, DhtMode, Limits, NetworkConfig, RelayLimits, RelayMode, StorageConfig};
pub use content::{
    Address, Attributes, BLOCK_LEN, ContentId, Entry, Feed, FeedId, Kind, NodeId,
    ParseAddressError, ParseFeedError, ParseIdError, ParseNodeIdError, Provider, PublisherKey,
    Ticket, TrustPolicy,
};
pub use node::{
    AGENT, Announcement, CatalogEntry, Check, ConnectError, ContentInfo, ContentPage, ContentState,
    Event, Events, Existing, FeedError, FeedInfo, Fetch, FetchBuilder, FetchError, FetchState,
    FetchTarget, Fetched, Finding, Found, KeyError, Keys, Level, Listing, NetworkKey, Node,
    NodeError, NodeStopped, Pin, Progress, Reachability, Reader, ServerAnswer, Share, ShareError,
    ShareInfo, ShareRef, ShareState, Shared, SourceBytes, StartError, Status, Verify,
};
pub use peers::{FoundBy, PeerInfo, PeerState};
pub use reach::{Nat, Tested, Upnp};
pub use store::{
    Amount, CacheStats, Collected, Damage, Evict, Evicted, HashStats, ImportError, ReadError,
    StoreError, StoreStat, Usage, Verified, What,
};
