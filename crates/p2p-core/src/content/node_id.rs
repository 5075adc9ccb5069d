//! [`NodeId`]: the name of a node, which is its libp2p peer id.

use std::{fmt, str::FromStr};

use bincode::{
    Decode, Encode,
    de::Decoder,
    enc::Encoder,
    error::{DecodeError, EncodeError},
};

use super::encoding::{read_bytes, refuse};

/// Multihash code and length of a key that is its own hash.
const IDENTITY: u8 = 0x00;
/// Multihash code of SHA-256.
const SHA2_256: u8 = 0x12;
/// Longest public key that libp2p puts into a peer id as it is, in bytes.
const MAX_INLINE_KEY: usize = 42;
/// Longest peer id in bytes: code, length and an inlined key.
const MAX_LEN: usize = MAX_INLINE_KEY + 2;

/// The id of a node: its libp2p peer id, the (hash of the) public key that it proves in every handshake.
///
/// Not the key that signs manifests; that is a [`PublisherKey`](crate::content::PublisherKey).
/// Source: the libp2p peer id specification, <https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md>.
// The padding behind `len` is always zero, so the derived comparisons are those of the byte strings.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    bytes: [u8; MAX_LEN],
    len: u8,
}

/// Why bytes or a text are not a [`NodeId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseNodeIdError {
    /// Not base58 (or far too long to be a peer id).
    #[error("a node id is written in base58")]
    Base58,
    /// Not a multihash of the two kinds that peer ids use.
    #[error("not a libp2p peer id (an inlined public key, or its SHA-256)")]
    Multihash,
}

impl NodeId {
    /// Takes the bytes of a libp2p peer id: a multihash that inlines a key of 1 to 42 bytes, or a SHA-256.
    ///
    /// # Errors
    /// [`ParseNodeIdError::Multihash`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseNodeIdError> {
        let [code, len, digest @ ..] = bytes else {
            return Err(ParseNodeIdError::Multihash);
        };
        let fits = match *code {
            IDENTITY => (1..=MAX_INLINE_KEY).contains(&digest.len()),
            SHA2_256 => digest.len() == 32,
            _ => false,
        };
        if !fits || usize::from(*len) != digest.len() {
            return Err(ParseNodeIdError::Multihash);
        }
        let mut own = [0; MAX_LEN];
        own.get_mut(..bytes.len())
            .ok_or(ParseNodeIdError::Multihash)?
            .copy_from_slice(bytes);
        Ok(Self {
            bytes: own,
            len: len.saturating_add(2),
        })
    }

    /// The bytes of the peer id: a multihash of 3 to 44 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.len))
            .unwrap_or(&self.bytes)
    }
}

impl FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A base58 digit holds 5.86 bits. Decoding takes quadratic time, so length is looked at first.
        if text.len() > MAX_LEN.saturating_mul(3) / 2 {
            return Err(ParseNodeIdError::Base58);
        }
        let bytes = bs58::decode(text)
            .into_vec()
            .map_err(|_| ParseNodeIdError::Base58)?;
        Self::from_bytes(&bytes)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&bs58::encode(self.as_bytes()).into_string())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Encode for NodeId {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.as_bytes().encode(encoder)
    }
}

impl<Context> Decode<Context> for NodeId {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Self::from_bytes(&read_bytes(decoder, MAX_LEN)?).map_err(refuse)
    }
}
bincode::impl_borrow_decode!(NodeId);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::encoding;
    use multiaddr::PeerId;
    use proptest::prelude::*;

    #[test]
    fn reads_the_ids_that_libp2p_prints() {
        // The two examples of the peer id specification: an Ed25519 key inlined, an RSA key hashed.
        for text in [
            "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA",
            "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        ] {
            let id: NodeId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
            let peer: PeerId = text.parse().unwrap();
            assert_eq!(id.as_bytes(), peer.to_bytes());
        }
    }

    #[test]
    fn refuses_other_multihashes() {
        let sha = |len: usize| [&[SHA2_256, len as u8][..], &vec![7; len]].concat();
        let identity = |len: usize| [&[IDENTITY, len as u8][..], &vec![7; len]].concat();
        let refused = [
            vec![],
            vec![IDENTITY],
            identity(0),
            identity(43),
            sha(31),
            sha(33),
            [&[SHA2_256, 31][..], &[7; 32]].concat(),
            [&[IDENTITY, 31][..], &[7; 32]].concat(),
            [&[0x1e, 32][..], &[7; 32]].concat(),
            [&[0x92, 0x00, 32][..], &[7; 32]].concat(),
            vec![0; 300],
        ];
        for bytes in refused {
            assert_eq!(
                NodeId::from_bytes(&bytes),
                Err(ParseNodeIdError::Multihash),
                "{bytes:?}"
            );
        }
        assert!(NodeId::from_bytes(&identity(42)).is_ok());
        assert!(NodeId::from_bytes(&identity(1)).is_ok());
        assert_eq!("0OIl".parse::<NodeId>(), Err(ParseNodeIdError::Base58));
        assert_eq!(
            "1".repeat(67).parse::<NodeId>(),
            Err(ParseNodeIdError::Base58)
        );
        assert_eq!("".parse::<NodeId>(), Err(ParseNodeIdError::Multihash));
    }

    proptest! {
        #[test]
        fn agrees_with_libp2p_and_round_trips(digest in prop::collection::vec(any::<u8>(), 1..=42)) {
            let bytes = [&[IDENTITY, digest.len() as u8][..], &digest].concat();
            let id = NodeId::from_bytes(&bytes).unwrap();
            prop_assert_eq!(id.to_string(), PeerId::from_bytes(&bytes).unwrap().to_string());
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(encoding::decode::<NodeId, 64>(&encoding::encode(&id)), Ok(id));
        }

        #[test]
        fn is_ordered_as_its_bytes(a in prop::collection::vec(0u8..3, 1..=42), b in prop::collection::vec(0u8..3, 1..=42)) {
            let id = |digest: &[u8]| NodeId::from_bytes(&[&[IDENTITY, digest.len() as u8][..], digest].concat()).unwrap();
            prop_assert_eq!(id(&a).cmp(&id(&b)), id(&a).as_bytes().cmp(id(&b).as_bytes()));
        }

        #[test]
        fn any_bytes_decode_strictly(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            if let Ok(id) = encoding::decode::<NodeId, 64>(&bytes) {
                prop_assert_eq!(encoding::encode(&id), bytes);
            }
        }
    }
}
