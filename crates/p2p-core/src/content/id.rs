//! [`ContentId`]: the name of content, which is the BLAKE3 hash of its bytes.

use std::{fmt, str::FromStr};

use bincode::{Decode, Encode};
use data_encoding::{BASE32_NOPAD_NOCASE, HEXLOWER, HEXLOWER_PERMISSIVE};

/// CIDv1, codec `raw`, then the multihash prefix: `blake3`, 32 bytes.
const CID_PREFIX: [u8; 4] = [0x01, 0x55, 0x1e, 0x20];

/// Characters of a CIDv1 with a 32-byte hash in base32, without the multibase prefix `b`.
const CID_DIGITS: usize = 58;

/// The id of content: the BLAKE3 hash of its bytes, exactly what `b3sum FILE` prints.
///
/// The same bytes have the same id wherever they are stored and whoever shares them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ContentId([u8; 32]);

impl ContentId {
    /// The id of content without bytes.
    pub const EMPTY: Self = Self([
        0xaf, 0x13, 0x49, 0xb9, 0xf5, 0xf9, 0xa1, 0xa6, 0xa0, 0x40, 0x4d, 0xea, 0x36, 0xdc, 0xc9,
        0x49, 0x9b, 0xcb, 0x25, 0xc9, 0xad, 0xc1, 0x12, 0xb7, 0xcc, 0x9a, 0x93, 0xca, 0xe4, 0x1f,
        0x32, 0x62,
    ]);

    /// Takes the 32 bytes of a BLAKE3 hash as an id.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Hashes bytes in memory.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The id as a CID (version 1, codec raw, multihash blake3, base32), as IPFS tools print it.
    #[must_use]
    pub fn cid(&self) -> String {
        let mut bytes = CID_PREFIX.to_vec();
        bytes.extend_from_slice(&self.0);
        let mut text = BASE32_NOPAD_NOCASE.encode(&bytes);
        text.insert(0, 'b');
        text.make_ascii_lowercase();
        text
    }

    /// The id as a multihash (`0x1e`, `0x20`, then the hash): its key in the DHT.
    #[must_use]
    pub fn multihash(&self) -> [u8; 34] {
        let mut bytes = [0; 34];
        let (prefix, hash) = bytes.split_at_mut(2);
        prefix.copy_from_slice(&[0x1e, 0x20]);
        hash.copy_from_slice(&self.0);
        bytes
    }
}

/// Why a text is not a [`ContentId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseIdError {
    /// Neither the 64 characters of a hash nor the 59 of a CID.
    #[error(
        "a content id has 64 hex digits (what b3sum prints), or 59 characters as a CID; this has {0}"
    )]
    Length(usize),
    /// 64 characters, but not all hex digits.
    #[error("a content id consists of hex digits 0-9 and a-f")]
    Digit,
    /// A CID, but not version 1 in base32 with codec raw and hash blake3.
    #[error("only CIDs of version 1 in base32, with codec raw and hash blake3, name content here")]
    Cid,
}

impl FromStr for ContentId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(digits) = text.strip_prefix(['b', 'B'])
            && digits.len() == CID_DIGITS
        {
            let bytes = BASE32_NOPAD_NOCASE
                .decode(digits.as_bytes())
                .map_err(|_| ParseIdError::Cid)?;
            let hash = bytes.strip_prefix(&CID_PREFIX).ok_or(ParseIdError::Cid)?;
            return hash.try_into().map(Self).map_err(|_| ParseIdError::Cid);
        }
        if text.len() != 64 {
            return Err(ParseIdError::Length(text.chars().count()));
        }
        let bytes = HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .map_err(|_| ParseIdError::Digit)?;
        bytes.try_into().map(Self).map_err(|_| ParseIdError::Digit)
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// BLAKE3 of "abc", from the reference test programs (`printf abc | b3sum`).
    const ABC: &str = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";

    #[test]
    fn is_what_b3sum_prints() {
        assert_eq!(ContentId::of(b"abc").to_string(), ABC);
        assert_eq!(format!("{:?}", ContentId::of(b"abc")), ABC);
        assert_eq!(ContentId::of(b""), ContentId::EMPTY);
    }

    #[test]
    fn parses_any_case() {
        let id: ContentId = ABC.parse().unwrap();
        assert_eq!(ABC.to_uppercase().parse(), Ok(id));
        assert_eq!(id.cid().to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn the_cid_is_version_1_raw_blake3() {
        let cid = ContentId::of(b"abc").cid();
        // "bafkr4i" is how every raw blake3 CIDv1 in base32 begins: 01 55 1e 20 in five-bit groups.
        assert!(cid.starts_with("bafkr4i"), "{cid}");
        assert_eq!(cid.len(), 59);
        assert_eq!(cid.parse(), Ok(ContentId::of(b"abc")));
    }

    #[test]
    fn refuses_what_is_not_an_id() {
        use ParseIdError::*;
        let sha256_cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
        let cases = [
            ("", Length(0)),
            ("abc", Length(3)),
            (&ABC[1..], Length(63)),
            (sha256_cid, Cid),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<ContentId>(), Err(error), "{text:?}");
        }
        assert_eq!(format!("g{}", &ABC[1..]).parse::<ContentId>(), Err(Digit));
        assert_eq!(format!(" {}", &ABC[1..]).parse::<ContentId>(), Err(Digit));
        assert_eq!(format!("{ABC}\n").parse::<ContentId>(), Err(Length(65)));
        // 62 ASCII characters and one of two bytes: 64 bytes, no digits.
        assert_eq!(format!("{}é", &ABC[2..]).parse::<ContentId>(), Err(Digit));
    }

    proptest! {
        #[test]
        fn texts_round_trip(bytes: [u8; 32]) {
            let id = ContentId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(id.cid().parse(), Ok(id));
            prop_assert_eq!(&id.multihash()[2..], &bytes[..]);
        }
    }
}
