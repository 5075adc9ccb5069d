//! [`Ticket`]: a signed manifest and where to get its content, in one line of text. It works without any discovery.
//!
//! Text: `p2p1`, then base32 of: version 1, the signed manifest, the providers, and four bytes of BLAKE3 over all of
//! that, which catch a mistyped or cut ticket. They protect nothing: the manifest is signed, the providers are hints.

use std::{fmt, str::FromStr};

use bincode::{Decode, Encode, de::Decoder, error::DecodeError as Malformed};
use data_encoding::BASE32_NOPAD_NOCASE;

use super::{
    Address, ContentId, DecodeError, NodeId, SignedManifest,
    encoding::{self, read_list, refuse},
};

/// What the text of a ticket begins with.
const PREFIX: &str = "p2p1";
/// The only version of tickets there is.
const VERSION: u8 = 1;
/// Most providers in a ticket.
const MAX_PROVIDERS: usize = 8;
/// Most addresses of a provider.
const MAX_ADDRESSES: usize = 8;
/// Longest ticket in characters.
const MAX_TEXT: usize = 8192;
/// Bytes of the checksum.
const CHECKSUM: usize = 4;
/// Longest body in bytes, without the checksum: five bits a character.
const MAX_BODY: usize = (MAX_TEXT - PREFIX.len()) * 5 / 8 - CHECKSUM;

/// A node that has some content, and where it may be reached. A hint: nothing in it is proven.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode)]
pub struct Provider {
    node: NodeId,
    addresses: Vec<Address>,
}

impl Provider {
    /// A provider with the first eight different addresses of a list.
    ///
    /// Addresses are kept without a trailing `/p2p/…`; one that names another node, or nothing but a node, is left out.
    #[must_use]
    pub fn new(node: NodeId, addresses: impl IntoIterator<Item = Address>) -> Self {
        let mut own = Vec::new();
        for address in addresses {
            let bare = address.without_node();
            let fits = address.node().is_none_or(|named| named == node) && bare.node().is_none();
            if fits && own.len() < MAX_ADDRESSES && !own.contains(&bare) {
                own.push(bare);
            }
        }
        Self {
            node,
            addresses: own,
        }
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Its addresses, at most eight, none of which ends in `/p2p/…`. May be empty.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }
}

impl<Context> Decode<Context> for Provider {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, Malformed> {
        let node = NodeId::decode(decoder)?;
        let addresses: Vec<Address> = read_list(decoder, MAX_ADDRESSES)?;
        let provider = Self::new(node, addresses.iter().cloned());
        if provider.addresses != addresses {
            return Err(refuse("an address twice, or one that names a node"));
        }
        Ok(provider)
    }
}
bincode::impl_borrow_decode!(Provider);

/// Content with its manifest and some of its providers, as one line of text that can be sent in a chat.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ticket {
    manifest: SignedManifest,
    providers: Vec<Provider>,
}

/// Why a text is not a [`Ticket`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// It does not begin with `p2p1`.
    #[error("a ticket begins with p2p1")]
    Prefix,
    /// More than 8,192 characters.
    #[error("a ticket has at most 8192 characters")]
    TooLong,
    /// A character that is no digit of base32, or a ticket cut in the middle of one.
    #[error("a ticket consists of letters a-z and digits 2-7")]
    Digit,
    /// The checksum does not fit: the ticket was mistyped or cut.
    #[error("the ticket was mistyped or cut")]
    Checksum,
    /// A ticket of a version that this program does not know.
    #[error("ticket version {0} is not known to this program")]
    UnsupportedVersion(u8),
    /// The bytes are not those of a ticket.
    #[error("not a ticket: {0}")]
    Encoding(#[from] DecodeError),
}

/// What a ticket encodes, before its checksum.
#[derive(Encode)]
struct Body<'a> {
    version: u8,
    manifest: &'a SignedManifest,
    providers: &'a [Provider],
}

/// The same, as it is read.
#[derive(Encode)]
struct ReadBody {
    version: u8,
    manifest: SignedManifest,
    providers: Vec<Provider>,
}

impl<Context> Decode<Context> for ReadBody {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, Malformed> {
        Ok(Self {
            version: u8::decode(decoder)?,
            manifest: Decode::decode(decoder)?,
            providers: read_list(decoder, MAX_PROVIDERS)?,
        })
    }
}

impl Ticket {
    /// A ticket with the first eight providers of a list, fewer if it would get longer than 8,192 characters.
    #[must_use]
    pub fn new(manifest: SignedManifest, providers: impl IntoIterator<Item = Provider>) -> Self {
        let mut own: Vec<Provider> = Vec::new();
        for provider in providers {
            if own.len() < MAX_PROVIDERS && own.iter().all(|other| other.node != provider.node) {
                own.push(provider);
            }
        }
        let mut ticket = Self {
            manifest,
            providers: own,
        };
        while ticket.body().len() > MAX_BODY && ticket.providers.pop().is_some() {}
        ticket
    }

    /// The id of the content, as the manifest claims it.
    #[must_use]
    pub fn id(&self) -> ContentId {
        self.manifest.claims().content
    }

    /// The manifest, not verified yet.
    #[must_use]
    pub fn manifest(&self) -> &SignedManifest {
        &self.manifest
    }

    /// Who may have the content, at most eight nodes.
    #[must_use]
    pub fn providers(&self) -> &[Provider] {
        &self.providers
    }

    fn body(&self) -> Vec<u8> {
        encoding::encode(&Body {
            version: VERSION,
            manifest: &self.manifest,
            providers: &self.providers,
        })
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    let mut sum = [0; CHECKSUM];
    blake3::Hasher::new()
        .update(body)
        .finalize_xof()
        .fill(&mut sum);
    sum
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.body();
        bytes.extend_from_slice(&checksum(&bytes));
        let mut text = BASE32_NOPAD_NOCASE.encode(&bytes);
        text.make_ascii_lowercase();
        write!(f, "{PREFIX}{text}")
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Reads the text of a ticket, in any case. The manifest in it is not verified.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_TEXT {
            return Err(TicketError::TooLong);
        }
        let digits = text
            .split_at_checked(PREFIX.len())
            .filter(|(prefix, _)| prefix.eq_ignore_ascii_case(PREFIX))
            .map(|(_, digits)| digits)
            .ok_or(TicketError::Prefix)?;
        let bytes = BASE32_NOPAD_NOCASE
            .decode(digits.as_bytes())
            .map_err(|_| TicketError::Digit)?;
        let (body, sum) = bytes
            .split_last_chunk::<CHECKSUM>()
            .ok_or(TicketError::Checksum)?;
        if checksum(body) != *sum {
            return Err(TicketError::Checksum);
        }
        if let Some(&version) = body.first()
            && version != VERSION
        {
            return Err(TicketError::UnsupportedVersion(version));
        }
        let ReadBody {
            manifest,
            providers,
            ..
        } = encoding::decode::<ReadBody, MAX_BODY>(body)?;
        let ticket = Self::new(manifest, providers.iter().cloned());
        if ticket.providers != providers {
            return Err(DecodeError::NotCanonical.into());
        }
        Ok(ticket)
    }
}

#[cfg(test)]
#[path = "ticket_tests.rs"]
mod tests;
