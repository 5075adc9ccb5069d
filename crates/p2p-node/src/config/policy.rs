//! Who gets a share, as it is written: `public`, `unlisted`, `lan`, or peer ids.

use std::fmt;
use std::str::FromStr;

use p2p_core::{Audience, NodeId};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Who gets a share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SharePolicy {
    /// Everyone: it is in the catalog and found by its name.
    #[default]
    Public,
    /// Everyone who has the id or a ticket; the same as `unlisted = true`.
    Unlisted,
    /// Peers on this machine and the local network.
    Lan,
    /// These peers.
    Peers(Vec<NodeId>),
}

impl SharePolicy {
    /// Whom the share is for.
    pub fn audience(&self) -> Audience {
        match self {
            Self::Public | Self::Unlisted => Audience::Everyone,
            Self::Lan => Audience::Lan,
            Self::Peers(peers) => Audience::Peers(peers.iter().copied().collect()),
        }
    }

    pub fn is_unlisted(&self) -> bool {
        *self == Self::Unlisted
    }
}

/// In a list of shares: how those are called that a share is for.
pub fn describe(audience: &Audience) -> String {
    match audience {
        Audience::Everyone => "public".to_owned(),
        Audience::Lan => "lan".to_owned(),
        Audience::Peers(peers) => {
            let peers: Vec<String> = peers.iter().map(NodeId::to_string).collect();
            peers.join(",")
        }
        _ => "other".to_owned(),
    }
}

impl FromStr for SharePolicy {
    type Err = String;

    /// One of the names, or peer ids with commas in between.
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "public" => Self::Public,
            "unlisted" => Self::Unlisted,
            "lan" => Self::Lan,
            list => {
                let peers = list.split(',').map(|peer| peer.trim().parse::<NodeId>());
                let peers = peers.collect::<Result<_, _>>();
                Self::Peers(peers.map_err(|_| {
                    format!("{text:?} is neither public, unlisted, lan, nor a list of peer ids")
                })?)
            }
        })
    }
}

impl Serialize for SharePolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Public => serializer.serialize_str("public"),
            Self::Unlisted => serializer.serialize_str("unlisted"),
            Self::Lan => serializer.serialize_str("lan"),
            Self::Peers(peers) => serializer.collect_seq(peers.iter().map(NodeId::to_string)),
        }
    }
}

impl<'de> Deserialize<'de> for SharePolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

struct Written;

impl<'de> Visitor<'de> for Written {
    type Value = SharePolicy;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"public\", \"unlisted\", \"lan\", or a list of peer ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<SharePolicy, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<SharePolicy, A::Error> {
        let mut peers = Vec::new();
        while let Some(text) = list.next_element::<String>()? {
            let peer = text
                .parse()
                .map_err(|_| A::Error::custom(format!("{text:?} is no peer id")))?;
            peers.push(peer);
        }
        Ok(SharePolicy::Peers(peers))
    }
}
