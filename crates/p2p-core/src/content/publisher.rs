//! Publishers: the Ed25519 keys that sign manifests. They are not the keys of nodes.
//!
//! Invariant: a signature counts only if `verify_strict` accepts it under a key that is a point of full order in its
//! only encoding. Anything looser lets one signature hold for several messages or keys.
//!
//! Source: RFC 8032, and the `verify_strict` notes of ed25519-dalek.

use std::{fmt, str::FromStr};

use bincode::{Decode, Encode};
use data_encoding::BASE32_NOPAD_NOCASE;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// What the text of a publisher key begins with.
const PREFIX: &str = "ed25519:";

/// Digits of 32 bytes in base32 without padding.
const DIGITS: usize = 52;

/// The public key of a publisher, written `ed25519:` and 52 characters of base32.
///
/// Any 32 bytes can be held, as strangers send them; only a sound key ever verifies a signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct PublisherKey([u8; 32]);

/// Why a text is not a [`PublisherKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParsePublisherError {
    /// Not `ed25519:` and 52 characters of base32.
    #[error("a publisher key is written ed25519: and 52 letters a-z and digits 2-7")]
    Format,
    /// Well written, but no key that can sign anything.
    #[error("no sound Ed25519 public key")]
    Unsound,
}

/// Why a signature does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadSignature {
    /// The key is not a point, has small order, or is not in its canonical encoding.
    Key,
    /// The signature is not one of this key over this message.
    Signature,
}

impl PublisherKey {
    /// Takes the 32 bytes of an Ed25519 public key. They are looked at when a signature is verified.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether the bytes are a key that can have signed something: a canonically encoded point of full order.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.verifying_key().is_some()
    }

    fn verifying_key(&self) -> Option<VerifyingKey> {
        let key = VerifyingKey::from_bytes(&self.0).ok()?;
        // Decompression accepts a coordinate that was not reduced, which would give one key two names.
        let canonical = key.to_edwards().compress().to_bytes() == self.0;
        Some(key).filter(|key| canonical && !key.is_weak())
    }

    /// Checks a signature of this key over a message, which begins with a domain string of its kind.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
        let key = self.verifying_key().ok_or(BadSignature::Key)?;
        key.verify_strict(message, &Signature::from_bytes(signature))
            .map_err(|_| BadSignature::Signature)
    }
}

impl FromStr for PublisherKey {
    type Err = ParsePublisherError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text
            .strip_prefix(PREFIX)
            .filter(|digits| digits.len() == DIGITS)
            .ok_or(ParsePublisherError::Format)?;
        let bytes = BASE32_NOPAD_NOCASE
            .decode(digits.as_bytes())
            .map_err(|_| ParsePublisherError::Format)?;
        let key = Self(bytes.try_into().map_err(|_| ParsePublisherError::Format)?);
        if !key.is_sound() {
            return Err(ParsePublisherError::Unsound);
        }
        Ok(key)
    }
}

impl fmt::Display for PublisherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = BASE32_NOPAD_NOCASE.encode(&self.0);
        text.make_ascii_lowercase();
        text.insert_str(0, PREFIX);
        f.pad(&text)
    }
}

impl fmt::Debug for PublisherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The secret key of a publisher. Wiped from memory when dropped, and never printed.
#[derive(Clone)]
pub struct PublisherSecret(SigningKey);

impl PublisherSecret {
    /// Takes the 32 bytes of a secret, which must come from a cryptographic source of randomness.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&bytes))
    }

    /// The 32 bytes of the secret, to be stored where only its owner can read. Wiping this copy is up to the caller.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public key that verifies what this secret signs.
    #[must_use]
    pub fn public(&self) -> PublisherKey {
        PublisherKey(self.0.verifying_key().to_bytes())
    }

    /// Signs a message, which begins with a domain string of its kind.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for PublisherSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublisherSecret(of {})", self.public())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    /// The eight points of small order in their canonical encodings (Curve25519's torsion subgroup).
    pub(in crate::content) const SMALL_ORDER: [&str; 8] = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    ];

    pub(in crate::content) fn key_of(hex: &str) -> PublisherKey {
        PublisherKey(HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap())
    }

    /// RFC 8032, section 7.1, test 2: one byte 0x72.
    #[test]
    fn signs_as_rfc_8032() {
        let secret = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
        let secret = PublisherSecret::from_bytes(*key_of(secret).as_bytes());
        let public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
        assert_eq!(secret.public(), key_of(public));
        let signature = secret.sign(&[0x72]);
        assert_eq!(
            HEXLOWER.encode(&signature),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        );
        assert_eq!(secret.public().verify(&[0x72], &signature), Ok(()));
        assert_eq!(
            secret.public().verify(&[0x73], &signature),
            Err(BadSignature::Signature)
        );
    }

    #[test]
    fn weak_and_aliased_keys_verify_nothing() {
        let mut unsound: Vec<PublisherKey> = SMALL_ORDER.iter().map(|hex| key_of(hex)).collect();
        // y = p and y = p + 1 are 0 and 1, not reduced; the last two have their sign bit set.
        unsound.push(key_of(
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ));
        unsound.push(key_of(
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ));
        unsound.push(key_of(
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        ));
        unsound.push(key_of(
            "0100000000000000000000000000000000000000000000000000000000000080",
        ));
        // y = 2 is on no point of the curve.
        unsound.push(key_of(
            "0200000000000000000000000000000000000000000000000000000000000000",
        ));
        // The signature that a small-order key "makes" for any message: R = identity or the key itself, S = 0.
        for key in unsound {
            assert!(!key.is_sound(), "{key}");
            for r in SMALL_ORDER {
                let mut signature = [0; 64];
                signature[..32].copy_from_slice(key_of(r).as_bytes());
                assert_eq!(key.verify(b"any", &signature), Err(BadSignature::Key));
            }
            assert_eq!(
                key.to_string().parse::<PublisherKey>(),
                Err(ParsePublisherError::Unsound)
            );
        }
    }

    #[test]
    fn no_other_form_of_a_signature_verifies() {
        let secret = PublisherSecret::from_bytes([7; 32]);
        let good = secret.sign(b"message");
        // S + L is the same number modulo the group order: the classic malleability.
        let order = key_of("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
        let mut bad = good;
        let mut carry = 0;
        for (byte, add) in bad[32..].iter_mut().zip(order.as_bytes()) {
            let sum = u16::from(*byte) + u16::from(*add) + carry;
            *byte = sum as u8;
            carry = sum >> 8;
        }
        assert_ne!(bad, good);
        let public = secret.public();
        assert_eq!(
            public.verify(b"message", &bad),
            Err(BadSignature::Signature)
        );
        for bit in 0..512 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                public.verify(b"message", &bad),
                Err(BadSignature::Signature)
            );
        }
        assert_eq!(public.verify(b"message", &good), Ok(()));
    }

    /// y = p + k names the same point as y = k: a second name for one key.
    #[test]
    fn aliases_of_sound_points_are_refused() {
        let mut aliases = 0;
        for k in 0..19 {
            for sign in [0x7f, 0xff] {
                let mut bytes = [0xff; 32];
                (bytes[0], bytes[31]) = (0xed + k, sign);
                let strong = VerifyingKey::from_bytes(&bytes).is_ok_and(|key| !key.is_weak());
                aliases += u32::from(strong);
                assert!(!PublisherKey(bytes).is_sound(), "p + {k}");
            }
        }
        assert!(
            aliases > 0,
            "ed25519-dalek takes these; the check here is needed"
        );
    }

    /// R = identity, S = h·a: the verification equation holds, but a signature with an R of small order is refused.
    #[test]
    fn a_signature_with_a_weak_r_does_not_count() {
        let mut signature = [0; 64];
        signature[0] = 1;
        let s = key_of("d4c5323131ff9683cfb3d30197c786c9043f1052d6c2d5293f19d6f36b911104");
        signature[32..].copy_from_slice(s.as_bytes());
        let public = PublisherSecret::from_bytes([7; 32]).public();
        let lenient = VerifyingKey::from_bytes(public.as_bytes()).unwrap();
        let plain = Signature::from_bytes(&signature);
        assert!(ed25519_dalek::Verifier::verify(&lenient, b"message", &plain).is_ok());
        let strict = public.verify(b"message", &signature);
        assert_eq!(strict, Err(BadSignature::Signature));
    }

    #[test]
    fn texts() {
        let secret = PublisherSecret::from_bytes([7; 32]);
        let text = secret.public().to_string();
        assert_eq!(text.len(), PREFIX.len() + DIGITS);
        assert_eq!(text.parse(), Ok(secret.public()));
        let upper = format!("{PREFIX}{}", text[PREFIX.len()..].to_uppercase());
        assert_eq!(upper.parse(), Ok(secret.public()));
        for bad in [
            "",
            PREFIX,
            "ed25519",
            &text[1..],
            &text[..59],
            &format!("{text}a"),
            &text.replace(':', ";"),
        ] {
            assert_eq!(
                bad.parse::<PublisherKey>(),
                Err(ParsePublisherError::Format),
                "{bad}"
            );
        }
        // 52 digits have four bits more than 32 bytes: they must be zero.
        let last = format!("{}b", &text[..text.len() - 1]);
        assert_eq!(
            last.parse::<PublisherKey>(),
            Err(ParsePublisherError::Format)
        );
        assert!(!format!("{secret:?}").contains("0707"));
        assert_eq!(format!("{secret:?}"), format!("PublisherSecret(of {text})"));
        assert_eq!(secret.to_bytes(), [7; 32]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_secret_has_a_sound_key(bytes: [u8; 32], message: Vec<u8>) {
            let secret = PublisherSecret::from_bytes(bytes);
            prop_assert!(secret.public().is_sound());
            prop_assert_eq!(secret.public().verify(&message, &secret.sign(&message)), Ok(()));
        }
    }
}
