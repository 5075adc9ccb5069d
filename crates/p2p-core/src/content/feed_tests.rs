use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;
use crate::content::publisher::tests::{SMALL_ORDER, key_of};

fn secret(seed: u8) -> PublisherSecret {
    PublisherSecret::from_bytes([seed; 32])
}

fn sample() -> SignedFeed {
    let content = ContentId::of(b"abc");
    SignedFeed::sign("news", 300, content, 1_700_000_000, &secret(7)).unwrap()
}

/// The bytes are part of the protocol: changing them needs a new version.
#[test]
fn golden_bytes() {
    let feed = "01\
        ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c\
        046e657773\
        fb2c01\
        6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85\
        fc00f15365";
    let bytes = sample().encode();
    let (body, signature) = bytes.split_last_chunk::<64>().unwrap();
    assert_eq!(HEXLOWER.encode(body), feed);
    assert_eq!(
        sample().feed.message(),
        [b"p2p-core feed v1\0", body].concat()
    );
    assert_eq!(signature, &sample().signature);
    let id = &sample().feed.id;
    assert_eq!(
        id.key().to_string(),
        blake3::hash(&[b"p2p-core feed v1\0", &body[1..33], b"news".as_slice()].concat())
            .to_hex()
            .to_string()
    );
    assert!(sample().verify(id).is_ok());
}

#[test]
fn an_id_is_written_and_read() {
    let id = sample().feed.id;
    let text = id.to_string();
    assert!(
        text.starts_with("ed25519:") && text.ends_with("/news"),
        "{text}"
    );
    assert_eq!(text.parse(), Ok(id.clone()));
    for bad in ["news", "ed25519:abc/news", &format!("{}/", id.publisher())] {
        assert!(bad.parse::<FeedId>().is_err(), "{bad}");
    }
    for name in ["..", "a/b", "", "nul"] {
        assert!(FeedId::new(id.publisher(), name).is_err(), "{name:?}");
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let (bytes, id) = (sample().encode(), sample().feed.id);
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let Ok(signed) = SignedFeed::decode(&bad) else {
            continue;
        };
        assert_eq!(signed.encode(), bad, "bit {bit}");
        assert!(signed.verify(&id).is_err(), "bit {bit}");
        assert!(signed.verify(&signed.feed.id).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(SignedFeed::decode(&bytes[..len]).is_err());
    }
    assert!(SignedFeed::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
    assert_eq!(
        SignedFeed::decode(&[2]),
        Err(BadFeed::UnsupportedVersion(2))
    );
}

#[test]
fn nobody_else_signs_it_and_no_other_feed_passes_for_it() {
    let id = sample().feed.id;
    let other = FeedId::new(id.publisher(), "other").unwrap();
    assert_eq!(sample().verify(&other), Err(BadFeed::Other(id.clone())));
    let mut forged = sample();
    forged.signature = secret(8).sign(&forged.feed.message());
    assert_eq!(forged.verify(&id), Err(BadFeed::BadSignature));
    let body = encoding::encode(&sample().feed);
    for domain in [&b""[..], b"p2p-core manifest v1\0", b"p2p-core feed v1"] {
        forged.signature = secret(7).sign(&[domain, &body].concat());
        assert_eq!(forged.verify(&id), Err(BadFeed::BadSignature));
    }
    for hex in SMALL_ORDER {
        let weak = FeedId::new(key_of(hex), "news").unwrap();
        let mut forged = sample();
        forged.feed.id = weak.clone();
        forged.signature = [0; 64];
        assert_eq!(forged.verify(&weak), Err(BadFeed::BadKey(key_of(hex))));
    }
}

#[test]
fn the_higher_sequence_counts() {
    let value = |sequence, content: &[u8]| {
        let content = ContentId::of(content);
        let signed = SignedFeed::sign("news", sequence, content, 0, &secret(7)).unwrap();
        signed.verify(&signed.feed.id).unwrap()
    };
    let (old, new) = (value(1, b"old"), value(2, b"new"));
    assert!(new.supersedes(old.feed()) && !old.supersedes(new.feed()));
    let other = value(1, b"other");
    assert!(!other.supersedes(old.feed()));
    assert!(other.feed().contradicts(old.feed()));
    assert!(!old.feed().contradicts(old.feed()) && !new.feed().contradicts(old.feed()));
    let foreign = SignedFeed::sign("else", 9, ContentId::of(b"x"), 0, &secret(7)).unwrap();
    let foreign = foreign.verify(&foreign.feed.id).unwrap();
    assert!(!foreign.supersedes(new.feed()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trips(name in "[a-zA-Zé0-9 ]{0,60}[a-z]x", sequence: u64, created: u64, seed: u8, content: [u8; 32]) {
        let content = ContentId::from_bytes(content);
        let signed = SignedFeed::sign(&name, sequence, content, created, &secret(seed)).unwrap();
        let decoded = SignedFeed::decode(&signed.encode()).unwrap();
        prop_assert!(decoded.verify(&signed.feed.id).is_ok());
        prop_assert_eq!(decoded, signed);
    }
}
