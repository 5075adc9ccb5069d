//! Feeds: a name of a publisher's that stands for one content after another. The link stays, what it leads to changes.
//!
//! States: a [`SignedFeed`] is what strangers send. A [`TrustedFeed`] has passed [`SignedFeed::verify`], the only place that
//! makes one: it is the publisher's word about the feed that was asked for.
//!
//! The signature covers `b"p2p-core feed v1\0"` and the canonical bytes of the [`Feed`]. The providers of a feed are those of
//! its [`FeedId::key`], which is no content.

use std::{fmt, str::FromStr};

use bincode::{Decode, Encode, de::Decoder, error::DecodeError as Malformed};

use super::{
    ContentId, DecodeError, PathError, PublisherKey, PublisherSecret, check_component,
    encoding::{self, read_string, refuse},
    publisher::BadSignature,
};

/// What every signed feed begins with, so that no signature made for another purpose is one over a feed.
const DOMAIN: &[u8] = b"p2p-core feed v1\0";
/// The only version of feeds there is.
const VERSION: u8 = 1;
/// Longest encoding of a signed feed in bytes. The longest possible one has about 420.
const MAX_ENCODED: usize = 1024;
/// Longest name in bytes.
const MAX_NAME: usize = 255;

/// Which feed: a publisher, and a name of its choice. Written `ed25519:…/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode)]
pub struct FeedId {
    publisher: PublisherKey,
    name: String,
}

impl FeedId {
    /// The feed of this publisher with this name.
    ///
    /// # Errors
    /// If the name is no path component that is safe everywhere (see [`check_component`]).
    pub fn new(publisher: PublisherKey, name: impl Into<String>) -> Result<Self, PathError> {
        let name = name.into();
        check_component(&name)?;
        Ok(Self { publisher, name })
    }

    /// The key that signs it.
    #[must_use]
    pub fn publisher(&self) -> PublisherKey {
        self.publisher
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its providers are found under: the BLAKE3 hash of `b"p2p-core feed v1\0"`, the key and the name.
    #[must_use]
    pub fn key(&self) -> ContentId {
        ContentId::of(&[DOMAIN, self.publisher.as_bytes(), self.name.as_bytes()].concat())
    }
}

impl<Context> Decode<Context> for FeedId {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, Malformed> {
        let publisher = PublisherKey::decode(decoder)?;
        Self::new(publisher, read_string(decoder, MAX_NAME)?).map_err(refuse)
    }
}
bincode::impl_borrow_decode!(FeedId);

impl fmt::Display for FeedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.publisher, self.name)
    }
}

/// A text that names no feed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a feed, which is written PUBLISHER/NAME: {0}")]
pub struct ParseFeedError(String);

impl FromStr for FeedId {
    type Err = ParseFeedError;

    fn from_str(text: &str) -> Result<Self, ParseFeedError> {
        let (publisher, name) = text
            .split_once('/')
            .ok_or_else(|| ParseFeedError("there is no /".into()))?;
        let publisher = publisher
            .parse()
            .map_err(|error| ParseFeedError(format!("{error}")))?;
        Self::new(publisher, name).map_err(|error| ParseFeedError(error.to_string()))
    }
}

/// What a publisher says that a feed stands for. Holding one proves nothing; see [`TrustedFeed`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode)]
#[non_exhaustive]
pub struct Feed {
    version: u8,
    /// Which feed.
    pub id: FeedId,
    /// Grows by one or more with each value; the highest counts.
    pub sequence: u64,
    /// What it stands for: the id of a file, or of a folder's listing.
    pub content: ContentId,
    /// When it was signed, in seconds since 1970, by the publisher's clock.
    pub created: u64,
}

impl Feed {
    /// Whether they are two values of one feed with one sequence, which an honest publisher does not sign.
    pub(crate) fn contradicts(&self, other: &Self) -> bool {
        self.id == other.id && self.sequence == other.sequence && self.content != other.content
    }

    fn message(&self) -> Vec<u8> {
        [DOMAIN, &encoding::encode(self)].concat()
    }
}

impl<Context> Decode<Context> for Feed {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, Malformed> {
        let version = u8::decode(decoder)?;
        if version != VERSION {
            return Err(refuse(BadFeed::UnsupportedVersion(version)));
        }
        Ok(Self {
            version,
            id: FeedId::decode(decoder)?,
            sequence: u64::decode(decoder)?,
            content: ContentId::decode(decoder)?,
            created: u64::decode(decoder)?,
        })
    }
}
bincode::impl_borrow_decode!(Feed);

/// Why a feed was not decoded or trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadFeed {
    /// The bytes are not the canonical encoding of a signed feed.
    #[error("not a signed feed: {0}")]
    Encoding(#[from] DecodeError),
    /// A feed of a version that this program does not know.
    #[error("feed version {0} is not known to this program")]
    UnsupportedVersion(u8),
    /// It is another feed than the one that was asked for.
    #[error("this is the feed {0}")]
    Other(FeedId),
    /// The publisher's key is none that can sign anything.
    #[error("{0} is no sound publisher key")]
    BadKey(PublisherKey),
    /// The signature is not the publisher's over this feed.
    #[error("the feed is not signed by its publisher")]
    BadSignature,
}

/// A feed and its signature, as they travel. What it claims is not proven.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub struct SignedFeed {
    feed: Feed,
    signature: [u8; 64],
}

impl SignedFeed {
    /// Signs the next value of one's own feed. `created` is in seconds since 1970.
    ///
    /// # Errors
    /// If the name is not one that a feed can have.
    pub fn sign(
        name: &str,
        sequence: u64,
        content: ContentId,
        created: u64,
        secret: &PublisherSecret,
    ) -> Result<Self, PathError> {
        let feed = Feed {
            version: VERSION,
            id: FeedId::new(secret.public(), name)?,
            sequence,
            content,
            created,
        };
        let signature = secret.sign(&feed.message());
        Ok(Self { feed, signature })
    }

    /// The canonical bytes, at most 1 KiB.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encoding::encode(self)
    }

    /// Reads the canonical bytes. The signature is not looked at.
    ///
    /// # Errors
    /// [`BadFeed::UnsupportedVersion`], or [`BadFeed::Encoding`] for everything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadFeed> {
        match bytes.first() {
            Some(&version) if version != VERSION => Err(BadFeed::UnsupportedVersion(version)),
            _ => Ok(encoding::decode::<Self, MAX_ENCODED>(bytes)?),
        }
    }

    /// What it says. NOT VERIFIED: anybody can have written it.
    #[must_use]
    pub fn claims(&self) -> &Feed {
        &self.feed
    }

    /// Checks that it is a value of this feed, signed by its publisher.
    ///
    /// # Errors
    /// [`BadFeed::Other`], [`BadFeed::BadKey`], [`BadFeed::BadSignature`].
    pub fn verify(&self, wanted: &FeedId) -> Result<TrustedFeed, BadFeed> {
        if self.feed.id != *wanted {
            return Err(BadFeed::Other(self.feed.id.clone()));
        }
        let publisher = self.feed.id.publisher;
        publisher
            .verify(&self.feed.message(), &self.signature)
            .map_err(|bad| match bad {
                BadSignature::Key => BadFeed::BadKey(publisher),
                BadSignature::Signature => BadFeed::BadSignature,
            })?;
        Ok(TrustedFeed(self.clone()))
    }
}

/// A value of a feed whose signature was verified. Only [`SignedFeed::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TrustedFeed(SignedFeed);

impl TrustedFeed {
    /// With its signature, to be passed on.
    #[must_use]
    pub fn signed(&self) -> &SignedFeed {
        &self.0
    }

    /// What its publisher says.
    #[must_use]
    pub fn feed(&self) -> &Feed {
        &self.0.feed
    }

    /// Whether it takes the place of another value of the same feed: the higher sequence does. Of two with the same
    /// sequence, which an honest publisher does not sign, the one that was there stays.
    #[must_use]
    pub fn supersedes(&self, other: &Feed) -> bool {
        self.0.feed.id == other.id && self.0.feed.sequence > other.sequence
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
