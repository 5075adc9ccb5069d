use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;
use crate::content::publisher::tests::{SMALL_ORDER, key_of};

fn secret(seed: u8) -> PublisherSecret {
    PublisherSecret::from_bytes([seed; 32])
}

fn sample() -> SignedManifest {
    let content = ContentId::of(b"abc");
    SignedManifest::sign(Kind::File, content, 3, "abc.txt", 1_700_000_000, &secret(7)).unwrap()
}

/// The bytes are part of the protocol: changing them needs a new version.
#[test]
fn golden_bytes() {
    let manifest = "01\
        00\
        6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85\
        03\
        076162632e747874\
        fc00f15365\
        ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c";
    let bytes = sample().encode();
    let (body, signature) = bytes.split_last_chunk::<64>().unwrap();
    assert_eq!(HEXLOWER.encode(body), manifest);
    assert_eq!(signature, sample().signature());
    assert_eq!(
        sample().manifest.message(),
        [b"p2p-core manifest v1\0", body].concat()
    );
    assert_eq!(HEXLOWER.encode(signature), GOLDEN_SIGNATURE);
}

const GOLDEN_SIGNATURE: &str = "ebde2994dbbcf01ced20e802f94f2b91e00e7d6d126e51c8ecd6a364036832aa\
    214998b7c0345334dcfab88fc998e3529c7cc9c4367308b46a083a5eee83fd0c";

fn kept() -> SignedManifest {
    let attributes = Attributes {
        modified: 1_600_000_000,
        executable: true,
    };
    let (content, secret) = (ContentId::of(b"abc"), secret(7));
    let name = "abc.txt";
    let created = 1_700_000_000;
    SignedManifest::sign_with(
        Kind::File,
        content,
        3,
        name,
        created,
        Some(attributes),
        &secret,
    )
    .unwrap()
}

#[test]
fn golden_bytes_with_attributes() {
    let plain = sample().encode();
    let bytes = kept().encode();
    let (body, _) = bytes.split_last_chunk::<64>().unwrap();
    let (version, fields) = body.split_first().unwrap();
    let (fields, attributes) = fields.split_at(plain.len() - 65);
    assert_eq!((*version, fields), (2, &plain[1..plain.len() - 64]));
    assert_eq!(HEXLOWER.encode(attributes), "fc00105e5f01");
    let decoded = SignedManifest::decode(&bytes).unwrap();
    assert_eq!(decoded, kept());
    assert!(decoded.verify(&TrustPolicy::Any).is_ok());
    // They are signed, and belong to a file.
    let mut altered = kept();
    altered.manifest.attributes.as_mut().unwrap().executable = false;
    assert_eq!(
        altered.verify(&TrustPolicy::Any),
        Err(ManifestError::BadSignature)
    );
    let mut folder = kept();
    folder.manifest.kind = Kind::Collection;
    assert_eq!(
        folder.verify(&TrustPolicy::Any),
        Err(ManifestError::AttributesOfFolder)
    );
    assert!(SignedManifest::decode(&folder.encode()).is_err());
}

#[test]
fn verifies_under_each_policy() {
    let signed = SignedManifest::decode(&sample().encode()).unwrap();
    assert_eq!(signed, sample());
    let publisher = secret(7).public();
    let others = TrustPolicy::Trusted([secret(8).public(), secret(9).public()].into());
    let listed = TrustPolicy::Trusted([secret(8).public(), publisher].into());
    for policy in [TrustPolicy::Any, TrustPolicy::Signed, listed] {
        let trusted = signed.verify(&policy).unwrap();
        assert_eq!(trusted.content, ContentId::of(b"abc"));
        assert_eq!((trusted.name.as_str(), trusted.size), ("abc.txt", 3));
        assert_eq!(
            (trusted.created, trusted.publisher),
            (1_700_000_000, publisher)
        );
        assert_eq!(trusted.signed(), &signed);
    }
    let untrusted = Err(ManifestError::UntrustedPublisher(publisher));
    assert_eq!(signed.verify(&others), untrusted);
    assert_eq!(
        signed.verify(&TrustPolicy::Trusted(BTreeSet::new())),
        untrusted
    );
}

#[test]
fn every_flipped_bit_is_refused() {
    let bytes = sample().encode();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let Ok(signed) = SignedManifest::decode(&bad) else {
            continue;
        };
        assert_eq!(signed.encode(), bad, "bit {bit}");
        let error = signed.verify(&TrustPolicy::Any).unwrap_err();
        assert!(
            matches!(
                error,
                ManifestError::BadSignature | ManifestError::BadKey(_)
            ),
            "bit {bit}: {error}"
        );
    }
    for len in 0..bytes.len() {
        assert!(SignedManifest::decode(&bytes[..len]).is_err());
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(
        SignedManifest::decode(&longer),
        Err(ManifestError::Encoding(DecodeError::TrailingBytes))
    );
    assert_eq!(
        SignedManifest::decode(&[1; 1025]),
        Err(ManifestError::Encoding(DecodeError::TooLong {
            len: 1025,
            limit: 1024
        }))
    );
}

#[test]
fn a_changed_field_needs_a_new_signature() {
    let changes: [fn(&mut Manifest); 6] = [
        |m| m.kind = Kind::Collection,
        |m| m.content = ContentId::of(b"abd"),
        |m| m.size = 4,
        |m| m.name = "abd.txt".into(),
        |m| m.created += 1,
        |m| m.publisher = secret(8).public(),
    ];
    for change in changes {
        let mut signed = sample();
        change(&mut signed.manifest);
        assert_eq!(
            signed.verify(&TrustPolicy::Any),
            Err(ManifestError::BadSignature)
        );
    }
}

/// Signatures by the right key over something else: without the domain, or with that of another record.
#[test]
fn signatures_of_other_purposes_do_not_count() {
    let body = encoding::encode(&sample().manifest);
    for domain in [
        &b""[..],
        b"p2p-core feed v1\0",
        b"p2p-core manifest v2\0",
        b"p2p-core manifest v1",
    ] {
        let mut signed = sample();
        signed.signature = secret(7).sign(&[domain, &body].concat());
        assert_eq!(
            signed.verify(&TrustPolicy::Any),
            Err(ManifestError::BadSignature)
        );
    }
}

#[test]
fn weak_keys_sign_nothing() {
    for hex in SMALL_ORDER {
        let mut signed = sample();
        signed.manifest.publisher = key_of(hex);
        for r in SMALL_ORDER {
            signed.signature = [0; 64];
            signed.signature[..32].copy_from_slice(key_of(r).as_bytes());
            for policy in [TrustPolicy::Any, TrustPolicy::Trusted([key_of(hex)].into())] {
                assert_eq!(
                    signed.verify(&policy),
                    Err(ManifestError::BadKey(key_of(hex)))
                );
            }
        }
    }
}

#[test]
fn impossible_manifests_are_neither_signed_nor_decoded() {
    use ManifestError::*;
    let abc = ContentId::of(b"abc");
    let largest = collection::MAX_ENCODED as u64;
    let cases = [
        (Kind::File, abc, 0, "a", Err(ImpossibleSize(0))),
        (Kind::File, ContentId::EMPTY, 1, "a", Err(ImpossibleSize(1))),
        (Kind::File, ContentId::EMPTY, 0, "a", Ok(())),
        (
            Kind::Collection,
            ContentId::EMPTY,
            0,
            "a",
            Err(ImpossibleSize(0)),
        ),
        (Kind::File, abc, MAX_SIZE, "a", Ok(())),
        (
            Kind::File,
            abc,
            MAX_SIZE + 1,
            "a",
            Err(ImpossibleSize(MAX_SIZE + 1)),
        ),
        (
            Kind::File,
            abc,
            u64::MAX,
            "a",
            Err(ImpossibleSize(u64::MAX)),
        ),
        (Kind::Collection, abc, largest, "a", Ok(())),
        (
            Kind::Collection,
            abc,
            largest + 1,
            "a",
            Err(ImpossibleSize(largest + 1)),
        ),
        (Kind::File, abc, 3, "", Err(Name(PathError::Empty))),
        (Kind::File, abc, 3, "..", Err(Name(PathError::Relative))),
        (
            Kind::File,
            abc,
            3,
            "a/b",
            Err(Name(PathError::Character('/'))),
        ),
        (
            Kind::Collection,
            abc,
            3,
            "nul",
            Err(Name(PathError::Device)),
        ),
    ];
    for (kind, content, size, name, expected) in cases {
        let signed = SignedManifest::sign(kind, content, size, name, 0, &secret(7));
        assert_eq!(signed.map(|_| ()), expected, "{kind} {size} {name}");
        // The same, signed by somebody who does not check.
        let mut forged = sample();
        forged.manifest = Manifest {
            kind,
            content,
            size,
            name: name.into(),
            ..forged.manifest
        };
        forged.signature = secret(7).sign(&forged.manifest.message());
        assert_eq!(forged.verify(&TrustPolicy::Any).map(|_| ()), expected);
        let decoded = SignedManifest::decode(&forged.encode());
        assert_eq!(decoded.is_ok(), expected.is_ok());
        if let Err(error) = expected {
            assert_eq!(
                decoded,
                Err(Encoding(DecodeError::Refused(error.to_string())))
            );
        }
    }
}

#[test]
fn another_version_is_named() {
    let mut bytes = sample().encode();
    bytes[0] = 3;
    assert_eq!(
        SignedManifest::decode(&bytes),
        Err(ManifestError::UnsupportedVersion(3))
    );
    assert_eq!(
        SignedManifest::decode(&[9]),
        Err(ManifestError::UnsupportedVersion(9))
    );
    let mut forged = sample();
    forged.manifest.version = 2;
    forged.signature = secret(7).sign(&forged.manifest.message());
    assert_eq!(
        forged.verify(&TrustPolicy::Any),
        Err(ManifestError::UnsupportedVersion(2))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trips(
        size in 1..=MAX_SIZE, name in "[a-zA-Zé0-9 ]{0,60}[a-z]x", created: u64, seed: u8, content: [u8; 32],
    ) {
        let content = ContentId::from_bytes(content);
        let signed = SignedManifest::sign(Kind::File, content, size, name, created, &secret(seed)).unwrap();
        let bytes = signed.encode();
        prop_assert!(bytes.len() <= MAX_ENCODED);
        let decoded = SignedManifest::decode(&bytes).unwrap();
        prop_assert!(decoded.verify(&TrustPolicy::Signed).is_ok());
        prop_assert_eq!(decoded, signed);
    }

    #[test]
    fn mutations_are_refused_or_canonical(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..5),
    ) {
        let mut bytes = sample().encode();
        for (at, byte, how) in edits {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
        }
        if let Ok(signed) = SignedManifest::decode(&bytes) {
            prop_assert_eq!(signed.encode(), &bytes[..]);
            prop_assert!(signed.verify(&TrustPolicy::Any).is_err() || bytes == sample().encode());
        }
    }
}
