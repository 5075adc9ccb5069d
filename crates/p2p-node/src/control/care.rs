//! The objects that the commands answer with that look after the store.

use serde::{Deserialize, Serialize};

use super::protocol::StorageReply;

/// How many, and their bytes.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct AmountReply {
    pub count: u64,
    pub bytes: u64,
}

impl From<p2p_core::Amount> for AmountReply {
    fn from(amount: p2p_core::Amount) -> Self {
        Self {
            count: amount.count,
            bytes: amount.bytes,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PinReply {
    pub id: String,
    pub name: Option<String>,
    pub size: u64,
    /// `complete`, `partial`, `changed` or `missing`.
    pub state: String,
    pub kind: String,
    /// Unix seconds.
    pub added: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CollectedReply {
    /// Bytes of the disk that are free now.
    pub freed: u64,
    /// Half written files, and files that the index does not know.
    pub leftovers: AmountReply,
    /// Objects that nothing refers to.
    pub objects: AmountReply,
    /// Forgotten, as their file is gone.
    pub gone: AmountReply,
    pub evicted: AmountReply,
    /// Records without content.
    pub records: u64,
    /// Bytes by which the index became smaller.
    pub index: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatReply {
    pub downloads: AmountReply,
    pub partial: AmountReply,
    pub objects: AmountReply,
    /// Shared where they lie; they do not count.
    pub in_place: AmountReply,
    /// Counted once more beside their kind.
    pub pinned: AmountReply,
    /// Changed or missing.
    pub unusable: AmountReply,
    /// Damaged objects that were set aside.
    pub damaged: AmountReply,
    pub storage: StorageReply,
    /// Bytes free on the disk.
    pub free: u64,
}

/// A file that is not as it should be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DamagedReply {
    pub id: String,
    pub path: String,
    /// `damaged`, `unreadable`, `changed` or `missing`.
    pub what: String,
    /// Where it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aside: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifiedReply {
    pub contents: u64,
    pub files: u64,
    pub bytes: u64,
    /// Damaged by the disk, or unreadable.
    pub damaged: u64,
    pub changed: u64,
    pub missing: u64,
    pub seconds: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReloadedReply {
    pub file: String,
    /// Keys whose new value holds now.
    pub applied: Vec<String>,
    /// Keys whose new value holds after the next start.
    pub restart: Vec<String>,
    pub evicted: AmountReply,
    pub over_quota: bool,
}
