//! The words spoken between command line and daemon, which are also what `--json` prints.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use p2p_core::{Address, ContentId, FeedId, NodeId, PublisherKey, Ticket};
use serde::{Deserialize, Serialize};

use super::care::{
    CollectedReply, DamagedReply, PinReply, ReloadedReply, StatReply, VerifiedReply,
};
use super::text;
use crate::config::policy::SharePolicy;
use crate::exit::Failure;

/// What a user wants done. Paths are absolute: the daemon runs in another folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    Share(ShareRequest),
    Unshare {
        what: String,
    },
    Shares,
    Get(GetRequest),
    Contents,
    List(Lookup),
    Catalog {
        #[serde(with = "text::one")]
        peer: NodeId,
    },
    Find {
        text: String,
        timeout_ms: u64,
    },
    Feed(FeedRequest),
    Remove {
        #[serde(with = "text::one")]
        id: ContentId,
        #[serde(default)]
        delete_files: bool,
    },
    Providers(Lookup),
    Peers {
        #[serde(default)]
        watch: bool,
    },
    Connect {
        #[serde(with = "text::one")]
        address: Address,
    },
    Id,
    Ticket {
        #[serde(with = "text::one")]
        id: ContentId,
    },
    Status,
    Doctor,
    Check {
        #[serde(with = "text::one")]
        id: ContentId,
        timeout_ms: u64,
    },
    Pin {
        #[serde(with = "text::list")]
        ids: Vec<ContentId>,
    },
    Unpin {
        #[serde(with = "text::list")]
        ids: Vec<ContentId>,
    },
    Pins,
    Collect {
        #[serde(default)]
        all: bool,
        grace_ms: u64,
    },
    Stat,
    Verify,
    Reload,
    Shutdown,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareRequest {
    pub paths: Vec<PathBuf>,
    #[serde(default)]
    pub copy: bool,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub unlisted: bool,
    #[serde(default)]
    pub watch: bool,
    #[serde(default)]
    pub keep: bool,
    #[serde(default)]
    pub policy: SharePolicy,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetRequest {
    #[serde(with = "text::one")]
    pub what: Target,
    /// The target path; when it is a folder, the target goes inside.
    #[serde(default)]
    pub out: Option<PathBuf>,
    /// Where the target goes when `out` is not given.
    pub directory: PathBuf,
    #[serde(default)]
    pub existing: OnExisting,
    #[serde(default)]
    pub keep: bool,
    #[serde(default)]
    pub include: Vec<String>,
    #[serde(default, with = "text::option")]
    pub publisher: Option<PublisherKey>,
    #[serde(default, with = "text::list")]
    pub peers: Vec<Address>,
    pub timeout_ms: u64,
}

/// What is wanted of a feed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum FeedRequest {
    Publish {
        name: String,
        #[serde(with = "text::one")]
        id: ContentId,
    },
    Resolve {
        #[serde(with = "text::one")]
        feed: FeedId,
        #[serde(default)]
        fresh: bool,
        timeout_ms: u64,
    },
    Follow {
        #[serde(with = "text::one")]
        feed: FeedId,
        /// The folder that each value is fetched into.
        #[serde(default)]
        to: Option<PathBuf>,
    },
    Unfollow {
        #[serde(with = "text::one")]
        feed: FeedId,
    },
    List,
}

/// Something to look up, and for how long.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lookup {
    #[serde(with = "text::one")]
    pub what: Target,
    pub timeout_ms: u64,
}

/// What `POST /v1/cat` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatRequest {
    #[serde(with = "text::one")]
    pub what: Target,
    /// `A-B`, as in HTTP: both ends included, `A-` to the end, `-N` the last N bytes.
    #[serde(default, with = "text::option")]
    pub range: Option<ByteRange>,
    pub timeout_ms: u64,
}

/// What to do when the target of a `get` exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExisting {
    #[default]
    Refuse,
    Overwrite,
    Rename,
}

/// An id or a ticket, whichever the user has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Id(ContentId),
    Ticket(Box<Ticket>),
}

impl Target {
    pub fn id(&self) -> ContentId {
        match self {
            Self::Id(id) => *id,
            Self::Ticket(ticket) => ticket.id(),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text
            .get(..4)
            .is_some_and(|prefix| prefix.eq_ignore_ascii_case("p2p1"))
        {
            let ticket = text
                .parse()
                .map_err(|error| format!("not a valid ticket: {error}"))?;
            return Ok(Self::Ticket(Box::new(ticket)));
        }
        text.parse()
            .map(Self::Id)
            .map_err(|error| format!("neither an id (64 hex digits) nor a ticket (p2p1…): {error}"))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Ticket(ticket) => ticket.fmt(f),
        }
    }
}

/// A part of a content, as in an HTTP `Range` (RFC 9110, section 14.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// From the first byte to the second, both included; `None`: to the end.
    From(u64, Option<u64>),
    /// The last so many bytes.
    Last(u64),
}

impl ByteRange {
    /// The bytes `start..end` of a content of `size` bytes; an error when it begins beyond the end.
    pub fn within(self, size: u64) -> Result<std::ops::Range<u64>, Failure> {
        match self {
            Self::From(start, _) if start > size || (start == size && size > 0) => {
                Err(Failure::usage(format!(
                    "the range begins at byte {start}, but there are only {size}"
                )))
            }
            Self::From(start, last) => {
                Ok(start..last.map_or(size, |last| size.min(last.saturating_add(1))))
            }
            Self::Last(count) => Ok(size.saturating_sub(count)..size),
        }
    }
}

impl FromStr for ByteRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not a range; write FIRST-LAST, FIRST- or -COUNT in bytes");
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain
                .then(|| digits.parse().ok())
                .flatten()
                .ok_or_else(wrong)
        };
        match (first, last) {
            ("", count) => Ok(Self::Last(number(count)?)),
            (first, "") => Ok(Self::From(number(first)?, None)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first {
                    Err(wrong())
                } else {
                    Ok(Self::From(first, Some(last)))
                }
            }
        }
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(first, Some(last)) => write!(f, "{first}-{last}"),
            Self::From(first, None) => write!(f, "{first}-"),
            Self::Last(count) => write!(f, "-{count}"),
        }
    }
}

/// One object of an answer: a line of `--json` output.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    Ready(Ready),
    Shared(SharedReply),
    /// A file is being read for sharing; not part of `--json` output.
    Hashing {
        path: String,
        done: u64,
        total: u64,
    },
    Share(ShareReply),
    Unshared(ShareReply),
    Progress(ProgressReply),
    Complete(CompleteReply),
    Content(ContentReply),
    /// Sums up the lines of a listing.
    Listing {
        id: String,
        name: Option<String>,
        kind: String,
        size: u64,
        files: u64,
    },
    Found(FoundReply),
    Finding(FindingReply),
    Check(Box<CheckReply>),
    Feed(FeedReply),
    Removed {
        id: String,
        deleted: Vec<String>,
    },
    Provider {
        id: String,
        peer: String,
        addresses: Vec<String>,
    },
    Peer(PeerReply),
    Connected {
        peer: String,
        address: String,
    },
    Id {
        peer: String,
        publisher: String,
        addresses: Vec<String>,
    },
    Ticket {
        id: String,
        ticket: String,
    },
    Status(Box<StatusReply>),
    Pinned {
        id: String,
    },
    Unpinned {
        id: String,
    },
    Pin(PinReply),
    Collected(CollectedReply),
    Stat(Box<StatReply>),
    Damaged(DamagedReply),
    Verified(VerifiedReply),
    Reloaded(ReloadedReply),
    Stopping,
    Initialized {
        config: String,
        data_dir: String,
        peer: String,
        publisher: String,
    },
    Error(Failure),
    /// The answer is complete; not part of `--json` output.
    Done,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ready {
    pub peer: String,
    pub publisher: String,
    pub addresses: Vec<String>,
    /// Where the API listens, or `off`.
    pub api: String,
    pub data_dir: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SharedReply {
    pub id: String,
    pub path: String,
    pub name: String,
    pub size: u64,
    pub kind: String,
    pub files: u64,
    pub ticket: String,
    /// What was left out of a folder, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedReply>,
}

/// Whether others can get a content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckReply {
    pub id: String,
    pub available: bool,
    /// `complete`, `partial`, `changed` or `missing`; `null`: it is not here.
    pub here: Option<String>,
    /// The servers of the DHT closest to it.
    pub servers: Vec<ServerReply>,
    /// Seconds until their records expire, unless they are renewed.
    pub expires_in: Option<u64>,
    /// Others whom the servers name.
    pub providers: Vec<String>,
    /// Connected peers that have it.
    pub holders: Vec<String>,
    /// `direct`, `relayed`, `unreachable` or `unknown`.
    pub reachable: String,
    pub verdict: String,
}

/// What a server of the DHT says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerReply {
    pub server: String,
    /// Whom it names; `null`: it did not answer.
    pub named: Option<Vec<String>>,
}

/// Something that `doctor` found out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindingReply {
    pub area: String,
    /// `ok`, `info`, `warn` or `bad`.
    pub level: String,
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// A feed, and its value if one is known.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FeedReply {
    pub publisher: String,
    pub name: String,
    pub sequence: Option<u64>,
    pub id: Option<String>,
    /// Unix seconds, by the publisher's clock.
    pub created: Option<u64>,
    /// Whether this node publishes it; in a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<bool>,
    /// Whether this node keeps up with it; in a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub followed: Option<bool>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SkippedReply {
    pub path: String,
    pub why: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShareReply {
    pub id: String,
    pub name: String,
    pub size: u64,
    /// `ok`, `changed` or `missing`.
    pub state: String,
    pub kind: String,
    pub path: String,
    pub unlisted: bool,
    /// `public`, `lan`, or peer ids with commas in between.
    pub policy: String,
    /// Whether the daemon keeps up with what becomes of it.
    pub watched: bool,
    /// `done`, `due`, `failed` or `off`.
    pub announced: String,
    /// Seconds since the last announcement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced_ago: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgressReply {
    pub id: String,
    pub name: Option<String>,
    pub done: u64,
    pub size: Option<u64>,
    /// Bytes a second.
    pub rate: u64,
    pub sources: u32,
    /// `searching`, `fetching`, `finishing` or `complete`.
    pub state: String,
    /// Why nothing moves, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CompleteReply {
    pub id: String,
    pub path: String,
    pub size: u64,
    pub seconds: f64,
    pub sources: Vec<SourceReply>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SourceReply {
    pub peer: String,
    pub bytes: u64,
}

/// A content: held here, offered by a peer, or an entry of a collection (its name is then the path inside).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContentReply {
    pub id: String,
    pub name: Option<String>,
    pub size: u64,
    /// `complete`, `partial`, `changed` or `missing` here; `entry` of a collection; `offered` by a peer.
    pub state: String,
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publisher: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FoundReply {
    pub id: String,
    pub name: String,
    pub size: u64,
    pub kind: String,
    pub publisher: String,
    pub peer: String,
    /// How many of those that were asked have it.
    pub providers: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerReply {
    pub peer: String,
    /// `connected` or `known`.
    pub state: String,
    pub addresses: Vec<String>,
    pub rtt_ms: Option<f64>,
    pub agent: Option<String>,
    pub found: Vec<String>,
    /// Unix seconds.
    pub since: Option<u64>,
    /// Unix seconds.
    pub last_seen: u64,
    pub up: u64,
    pub down: u64,
    pub relayed: bool,
    /// With `--watch`: `joined`, `left` or `changed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusReply {
    pub peer: String,
    pub publisher: String,
    pub agent: String,
    pub version: String,
    pub uptime_seconds: u64,
    pub peers_connected: u64,
    pub peers_known: u64,
    pub shares: u64,
    pub announced: u64,
    pub announce_due: u64,
    pub announce_failed: u64,
    /// Seconds that the longest of those due has been waiting.
    #[serde(default)]
    pub announce_lag_seconds: u64,
    pub fetches: u64,
    pub uploads: u64,
    pub up_bytes: u64,
    pub down_bytes: u64,
    pub cache: CacheReply,
    pub storage: StorageReply,
    pub hashed: HashedReply,
    pub dht_mode: String,
    pub dht_peers: u64,
    pub addresses: Vec<String>,
}

/// What was read since the start to learn its id: not what is known already, nor what was only moved.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HashedReply {
    pub files: u64,
    pub bytes: u64,
}

/// Verified hot blocks in memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CacheReply {
    pub hits: u64,
    #[serde(default)]
    pub joined: u64,
    pub misses: u64,
    /// From 0 to 1; not there before the first block was asked for.
    #[serde(default)]
    pub hit_rate: Option<f64>,
    pub evictions: u64,
    pub bytes: u64,
    pub capacity: u64,
}

/// Bytes on the disk that count against the quota.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StorageReply {
    pub downloads: u64,
    pub partial: u64,
    pub objects: u64,
    pub index: u64,
    /// Set aside for what is under way, and for the index.
    pub reserved: u64,
    /// All of these.
    pub used: u64,
    pub quota: u64,
    pub min_free: u64,
    /// More counts than the quota allows: nothing new is fetched.
    pub over_quota: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        let parse = |text: &str| text.parse::<ByteRange>().ok();
        assert_eq!(parse("0-9"), Some(ByteRange::From(0, Some(9))));
        assert_eq!(parse("5-"), Some(ByteRange::From(5, None)));
        assert_eq!(parse("-7"), Some(ByteRange::Last(7)));
        for bad in ["", "-", "9-5", "a-b", "1", "1-2-3", "+1-2", "--1"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        let within = |text: &str, size| parse(text).and_then(|range| range.within(size).ok());
        assert_eq!(within("0-9", 100), Some(0..10));
        assert_eq!(within("90-1000", 100), Some(90..100));
        assert_eq!(within("-1000", 100), Some(0..100));
        assert_eq!(within("0-", 0), Some(0..0));
        assert_eq!(within("100-", 100), None);
        assert_eq!(within(&format!("0-{}", u64::MAX), 5), Some(0..5));
    }

    #[test]
    fn objects_have_the_documented_shape() {
        let progress = Reply::Progress(ProgressReply {
            id: "ab".into(),
            name: None,
            done: 1,
            size: Some(2),
            rate: 3,
            sources: 4,
            state: "fetching".into(),
            stall: None,
        });
        let expected = r#"{"type":"progress","id":"ab","name":null,"done":1,"size":2,"rate":3,"sources":4,"state":"fetching"}"#;
        assert_eq!(
            serde_json::to_string(&progress).ok().as_deref(),
            Some(expected)
        );
        let error = Reply::Error(Failure::new("not_found", "no"));
        let expected = r#"{"type":"error","code":"not_found","message":"no"}"#;
        assert_eq!(
            serde_json::to_string(&error).ok().as_deref(),
            Some(expected)
        );
    }

    #[test]
    fn a_request_survives_the_wire() {
        let id = "ab".repeat(32);
        let text = format!(r#"{{"command":"get","what":"{id}","directory":"/x","timeout_ms":5}}"#);
        let request: Request = serde_json::from_str(&text).expect("a minimal get is complete");
        assert!(
            matches!(&request, Request::Get(get) if get.what.to_string() == id && get.existing == OnExisting::Refuse)
        );
        assert!(
            serde_json::from_str::<Request>(
                r#"{"command":"get","what":"zz","directory":"/x","timeout_ms":5}"#
            )
            .is_err()
        );
    }
}
