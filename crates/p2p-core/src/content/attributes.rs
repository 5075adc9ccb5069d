//! [`Attributes`]: what is kept of a file besides its bytes, for those who ask for it.

use bincode::{Decode, Encode, de::Decoder, error::DecodeError as Malformed};

use super::encoding::refuse;

/// The last second of the year 9999: what comes after it, few programs can show.
const LATEST: u64 = 253_402_300_799;

/// When a file was last written to, and whether it is a program. Part of a listing or a manifest only if its sharer asked
/// for that, because the same bytes then go by another id or another manifest wherever these differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode)]
pub struct Attributes {
    /// When it was last written to, in whole seconds since 1970.
    pub modified: u64,
    /// Whether its owner may execute it.
    pub executable: bool,
}

impl Attributes {
    /// Of a file that was written to at this time. What is before 1970 counts as then, what is after 9999 as its end.
    #[must_use]
    pub fn new(modified: i64, executable: bool) -> Self {
        Self {
            modified: u64::try_from(modified).unwrap_or(0).min(LATEST),
            executable,
        }
    }
}

impl<Context> Decode<Context> for Attributes {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, Malformed> {
        let attributes = Self {
            modified: u64::decode(decoder)?,
            executable: bool::decode(decoder)?,
        };
        if attributes.modified > LATEST {
            return Err(refuse("a time after the year 9999"));
        }
        Ok(attributes)
    }
}
bincode::impl_borrow_decode!(Attributes);
