//! Answers of honest peers and of others.

use super::*;
use crate::content::PublisherSecret;

fn manifest_of(seed: u8, name: &str, id: ContentId) -> SignedManifest {
    let secret = PublisherSecret::from_bytes([seed; 32]);
    SignedManifest::sign(Kind::File, id, 5, name, 0, &secret).unwrap()
}

fn manifest(seed: u8, name: &str) -> SignedManifest {
    manifest_of(seed, name, ContentId::of(name.as_bytes()))
}

/// The last byte of a signature, or of the publisher before it, turned.
fn spoiled(manifest: &SignedManifest) -> SignedManifest {
    let mut bytes = manifest.encode();
    *bytes.last_mut().unwrap() ^= 1;
    SignedManifest::decode(&bytes).unwrap()
}

fn peer(number: u8) -> NodeId {
    NodeId::from_bytes(&[&[0, 36, 8, 1, 18, 32][..], &[number; 32]].concat()).unwrap()
}

#[test]
fn one_lie_spoils_an_answer() {
    let wanted = Wanted::new("talk");
    let (first, second) = (manifest(1, "Talk one.mp4"), manifest(2, "talk two"));
    let good = check(&wanted, &[first.clone(), second.clone()]).unwrap();
    assert_eq!(good.len(), 2);
    assert_eq!(good[0].name, "Talk one.mp4");
    let cases = [
        (vec![first.clone(), spoiled(&second)], Lie::Signature),
        (vec![first.clone(), manifest(1, "song.ogg")], Lie::Name),
        (vec![first.clone(), second, first], Lie::Twice),
    ];
    for (manifests, lie) in cases {
        assert_eq!(check(&wanted, &manifests), Err(lie));
    }
    assert_eq!(check(&wanted, &[]), Ok(Vec::new()));
}

#[test]
fn contents_are_named_once_with_the_claim_of_most_peers() {
    let wanted = Wanted::new("talk");
    let id = ContentId::of(b"the same");
    let honest = check(&wanted, &[manifest_of(1, "talk.mp4", id)]).unwrap();
    let other = check(
        &wanted,
        &[manifest_of(2, "a talk to avoid", id), manifest(2, "talk 2")],
    )
    .unwrap();
    let mut findings = Findings::default();
    findings.add(peer(1), other.clone());
    findings.add(peer(2), honest.clone());
    findings.add(peer(3), honest.clone());
    // Whoever answers twice counts once.
    findings.add(peer(1), other);
    let found = findings.into_found();
    assert_eq!(found.len(), 2);
    assert_eq!(
        (found[0].claim.name.as_str(), found[0].peer),
        ("talk.mp4", peer(2))
    );
    assert_eq!((found[0].providers, found[1].providers), (3, 1));
}

#[test]
fn a_crowd_does_not_drown_the_others() {
    let claim = |peer: u8, number: u32| Claim {
        content: ContentId::of(&[&[peer], &number.to_be_bytes()[..]].concat()),
        name: format!("talk {number}"),
        size: 1,
        kind: Kind::File,
        publisher: PublisherSecret::from_bytes([peer; 32]).public(),
    };
    let mut findings = Findings::default();
    for flooder in 1..=100 {
        let many = (0..256).map(|number| claim(flooder, number));
        findings.add(peer(flooder), many.collect());
    }
    findings.add(peer(200), vec![claim(200, 0)]);
    let found = findings.into_found();
    assert_eq!(found.len(), MAX_FOUND);
    assert!(found.iter().any(|found| found.peer == peer(200)));
}
