//! The one place that knows the serialization: bincode 2, little endian, variable-length integers.
//!
//! Invariant: a byte string that [`decode`] accepts is the only encoding of its value. Without that, two nodes
//! could hold "the same" signed record as different bytes, and a relay could alter a message unnoticed.

use std::fmt::Display;

use bincode::{
    Decode, Encode, config,
    de::{Decoder, read::Reader},
    enc::write::Writer,
    error::{DecodeError as Malformed, EncodeError},
};

/// Why a byte string was not accepted as a message or a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input is longer than this kind of value may be.
    #[error("{len} bytes where at most {limit} are allowed")]
    TooLong {
        /// Length of the input in bytes.
        len: usize,
        /// Longest input accepted for this kind of value, in bytes.
        limit: usize,
    },
    /// The input ends early, holds an unknown variant, or claims more than the limit.
    #[error("malformed encoding")]
    Malformed,
    /// The input is well formed, but a value in it breaks a rule of its type.
    #[error("refused: {0}")]
    Refused(String),
    /// A valid value is followed by further bytes.
    #[error("trailing bytes after the value")]
    TrailingBytes,
    /// The value has another, canonical encoding (for example a shorter integer).
    #[error("not the canonical encoding")]
    NotCanonical,
}

/// Encodes a value of this crate into its canonical bytes.
#[allow(
    clippy::expect_used,
    reason = "writing to a Vec cannot fail, and no type of this crate has a fallible encoding"
)]
pub(crate) fn encode<T: Encode + ?Sized>(value: &T) -> Vec<u8> {
    bincode::encode_to_vec(value, config::standard()).expect("encoding into memory cannot fail")
}

/// Decodes a value from a stranger's bytes.
///
/// `LIMIT` bounds the length of the input. Containers may claim memory up front in proportion to the bytes that
/// really arrived, so an input that claims four billion elements is refused before anything is allocated for them.
/// Lists in values of more than 2 MiB should grow as they are read, by [`read_list`].
///
/// # Errors
/// See [`DecodeError`].
pub(crate) fn decode<T, const LIMIT: usize>(bytes: &[u8]) -> Result<T, DecodeError>
where
    T: Encode + Decode<()>,
{
    if bytes.len() > LIMIT {
        return Err(DecodeError::TooLong {
            len: bytes.len(),
            limit: LIMIT,
        });
    }
    // bincode counts what values take in memory, not their bytes: an integer of one byte counts as eight, an empty
    // string in a list as 24. At least 32 times the input lets every honest value pass.
    let (value, used) = match bytes.len() {
        0..=0x1000 => decode_within::<T, 0x2_0000>(bytes),
        0x1001..=0x1_0000 => decode_within::<T, 0x20_0000>(bytes),
        0x1_0001..=0x20_0000 => decode_within::<T, 0x400_0000>(bytes),
        _ => decode_within::<T, 0x7fff_ffff>(bytes),
    }?;
    if used != bytes.len() {
        return Err(DecodeError::TrailingBytes);
    }
    bincode::encode_into_writer(&value, Expect { rest: bytes }, config::standard())
        .map_err(|_| DecodeError::NotCanonical)?;
    Ok(value)
}

/// Decodes a value whose parts claim at most `MEMORY` bytes, and tells how many bytes it took.
fn decode_within<T, const MEMORY: usize>(bytes: &[u8]) -> Result<(T, usize), DecodeError>
where
    T: Decode<()>,
{
    let limited = config::standard().with_limit::<MEMORY>();
    bincode::decode_from_slice(bytes, limited).map_err(|error| match error {
        Malformed::OtherString(reason) => DecodeError::Refused(reason),
        _ => DecodeError::Malformed,
    })
}

/// A writer that accepts only the bytes it expects: re-encoding is compared without a second copy in memory.
struct Expect<'a> {
    rest: &'a [u8],
}

impl Writer for Expect<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.rest = self
            .rest
            .strip_prefix(bytes)
            .ok_or(EncodeError::Other("differs from the input"))?;
        Ok(())
    }
}

/// Refuses a value inside a `Decode` implementation, keeping the reason.
pub(crate) fn refuse(reason: impl Display) -> Malformed {
    Malformed::OtherString(reason.to_string())
}

/// Reads a length-prefixed byte string of at most `cap` bytes; the cap is checked before anything is allocated.
pub(crate) fn read_bytes<D: Decoder>(decoder: &mut D, cap: usize) -> Result<Vec<u8>, Malformed> {
    let len = u64::decode(decoder)?;
    let len = usize::try_from(len)
        .ok()
        .filter(|len| *len <= cap)
        .ok_or_else(|| refuse(format_args!("{len} bytes where at most {cap} are allowed")))?;
    decoder.claim_bytes_read(len)?;
    let mut bytes = vec![0; len];
    decoder.reader().read(&mut bytes)?;
    Ok(bytes)
}

/// Reads a length-prefixed UTF-8 string of at most `cap` bytes.
pub(crate) fn read_string<D: Decoder>(decoder: &mut D, cap: usize) -> Result<String, Malformed> {
    String::from_utf8(read_bytes(decoder, cap)?).map_err(refuse)
}

/// Reads a length-prefixed list of at most `cap` elements, growing with what was really read.
pub(crate) fn read_list<T, D>(decoder: &mut D, cap: usize) -> Result<Vec<T>, Malformed>
where
    T: Decode<D::Context>,
    D: Decoder,
{
    let len = u64::decode(decoder)?;
    if usize::try_from(len).map_or(true, |len| len > cap) {
        return Err(refuse(format_args!(
            "{len} elements where at most {cap} are allowed"
        )));
    }
    (0..len).map(|_| T::decode(decoder)).collect()
}

#[cfg(test)]
#[path = "encoding_tests.rs"]
mod tests;
