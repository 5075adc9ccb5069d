use proptest::prelude::*;

use super::*;
use crate::content::{Kind, PublisherSecret, TrustPolicy};

fn manifest() -> SignedManifest {
    let secret = PublisherSecret::from_bytes([7; 32]);
    SignedManifest::sign(
        Kind::File,
        ContentId::of(b"abc"),
        3,
        "abc.txt",
        1_700_000_000,
        &secret,
    )
    .unwrap()
}

fn node(seed: u8) -> NodeId {
    NodeId::from_bytes(&[&[0x12, 32][..], &[seed; 32]].concat()).unwrap()
}

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn sample() -> Ticket {
    let first = Provider::new(
        node(1),
        [
            address("/ip4/192.0.2.1/udp/4001/quic-v1"),
            address("/ip6/2001:db8::1/tcp/4001"),
        ],
    );
    Ticket::new(manifest(), [first, Provider::new(node(2), [])])
}

#[test]
fn round_trips_in_any_case() {
    let ticket = sample();
    let text = ticket.to_string();
    assert!(text.starts_with("p2p1"));
    assert!(
        text.bytes()
            .all(|b| b.is_ascii_lowercase() || (b'1'..=b'7').contains(&b)),
        "{text}"
    );
    assert_eq!(text.parse(), Ok(ticket.clone()));
    assert_eq!(text.to_uppercase().parse(), Ok(ticket.clone()));
    assert_eq!(ticket.id(), ContentId::of(b"abc"));
    assert!(ticket.manifest().verify(&TrustPolicy::Any).is_ok());
    assert_eq!(ticket.providers().len(), 2);
    let nobody = Ticket::new(manifest(), []);
    assert_eq!(nobody.to_string().parse(), Ok(nobody));
}

#[test]
fn golden_text() {
    assert_eq!(Ticket::new(manifest(), []).to_string(), GOLDEN);
}

const GOLDEN: &str = "p2p1aeaqazbxwowdqrsrgp73mo3ve45i3nkiyvmemxlz3mb72nm4ntk33hmfamdwcytdfz2hq5h4adyvgzpkjjwghyu4kifl55kq\
    pmjs5rpzsvdxnlv6xz5zeqq65jurirwsftv54kmu3o6pahhneduaf6kpfoi6adt5nujg4uoi5tlkgzadnazkuikjtc34anctgtop\
    voepzgmoguu4pte4inttbc2gucb2l3xih7imab2tfzwm";

#[test]
fn every_changed_character_is_noticed() {
    let text = sample().to_string();
    for at in 0..text.len() {
        let own = text.as_bytes()[at];
        for other in (0..128u8).filter(|b| !b.eq_ignore_ascii_case(&own)) {
            let mut bad = text.clone().into_bytes();
            bad[at] = other;
            let bad = String::from_utf8(bad).unwrap();
            assert!(bad.parse::<Ticket>().is_err(), "{other:#x} at {at}");
        }
        assert!(text[..at].parse::<Ticket>().is_err(), "cut at {at}");
        let (head, tail) = text.split_at(at);
        assert!(format!("{head}é{tail}").parse::<Ticket>().is_err());
    }
    assert_eq!(
        format!("{text} ").parse::<Ticket>(),
        Err(TicketError::Digit)
    );
}

/// Encodes any body with a right checksum, as an attacker would.
fn forged(body: &[u8]) -> Result<Ticket, TicketError> {
    let bytes = [body, &checksum(body)].concat();
    format!("{PREFIX}{}", BASE32_NOPAD_NOCASE.encode(&bytes)).parse()
}

#[test]
fn a_flipped_bit_with_a_right_checksum_is_an_error_or_another_ticket() {
    let body = sample().body();
    let signed = 1..=manifest().encode().len();
    assert_eq!(forged(&body), Ok(sample()));
    for bit in 0..body.len() * 8 {
        let mut bad = body.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        if let Ok(ticket) = forged(&bad) {
            assert_eq!(ticket.body(), bad);
            let verified = ticket.manifest().verify(&TrustPolicy::Any);
            assert_eq!(verified.is_err(), signed.contains(&(bit / 8)), "bit {bit}");
        }
    }
    let mut later = body.clone();
    later[0] = 2;
    assert_eq!(forged(&later), Err(TicketError::UnsupportedVersion(2)));
    assert_eq!(
        forged(&[]),
        Err(TicketError::Encoding(DecodeError::Malformed))
    );
    let longer = [&body[..], &[0]].concat();
    assert_eq!(
        forged(&longer),
        Err(TicketError::Encoding(DecodeError::TrailingBytes))
    );
}

#[test]
fn what_is_not_a_ticket_is_refused() {
    use TicketError::*;
    let cases = [
        ("", Prefix),
        ("p2p", Prefix),
        ("p2p2abc", Prefix),
        ("magnet:?xt=urn", Prefix),
        ("éé", Prefix),
        ("p2p1", Checksum),
        ("p2p1aaaa", Checksum),
        ("p2p1a", Digit),
        ("p2p1!!", Digit),
    ];
    for (text, error) in cases {
        assert_eq!(text.parse::<Ticket>(), Err(error), "{text:?}");
    }
    assert_eq!(
        format!("p2p1{}", "a".repeat(MAX_TEXT)).parse::<Ticket>(),
        Err(TooLong)
    );
}

#[test]
fn providers_are_bounded_and_clean() {
    let relay = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
    let plain = address("/ip4/192.0.2.1/tcp/1");
    let circuit = address(&format!("/ip4/192.0.2.9/tcp/1/p2p/{relay}/p2p-circuit"));
    let provider = Provider::new(
        node(1),
        [
            plain.with_node(node(1)),
            plain.clone(),
            plain.with_node(node(2)),
            circuit.with_node(node(1)),
            address(&format!("/p2p/{relay}")),
            address("/ip4/192.0.2.1/tcp/2"),
        ],
    );
    assert_eq!(provider.node(), node(1));
    assert_eq!(
        provider.addresses(),
        [plain, circuit, address("/ip4/192.0.2.1/tcp/2")]
    );
    let many = Provider::new(
        node(1),
        (1..100).map(|port| address(&format!("/ip4/192.0.2.1/tcp/{port}"))),
    );
    assert_eq!(many.addresses().len(), 8);
    let ticket = Ticket::new(manifest(), (0..20).map(|i| Provider::new(node(i % 10), [])));
    assert_eq!(ticket.providers().len(), 8);
    assert_eq!(ticket.to_string().parse(), Ok(ticket));
}

#[test]
fn foreign_and_repeated_addresses_are_refused() {
    let plain = address("/ip4/192.0.2.1/tcp/1");
    for addresses in [
        vec![plain.with_node(node(1))],
        vec![plain.with_node(node(2))],
        vec![plain.clone(), plain.clone()],
        (1..=9)
            .map(|port| address(&format!("/ip4/192.0.2.1/tcp/{port}")))
            .collect(),
    ] {
        let provider = Provider {
            node: node(1),
            addresses,
        };
        let bytes = encoding::encode(&provider);
        let refused = encoding::decode::<Provider, 4096>(&bytes);
        assert!(
            matches!(refused, Err(DecodeError::Refused(_))),
            "{provider:?}"
        );
    }
    let provider = || Provider {
        node: node(1),
        addresses: vec![],
    };
    let twice = Ticket {
        manifest: manifest(),
        providers: vec![provider(), provider()],
    };
    assert_eq!(
        forged(&twice.body()),
        Err(TicketError::Encoding(DecodeError::NotCanonical))
    );
}

#[test]
fn the_longest_ticket_fits() {
    let long = |n: u8, i: u8| {
        let name = format!("{n}{i}{}", "a".repeat(190));
        address(&format!("/dns/{name}/tcp/1"))
    };
    let providers = (0..8).map(|n| Provider::new(node(n), (0..8).map(|i| long(n, i))));
    let ticket = Ticket::new(manifest(), providers);
    assert!((1..8).contains(&ticket.providers().len()));
    let text = ticket.to_string();
    assert!(
        text.len() <= MAX_TEXT && text.len() > MAX_TEXT / 2,
        "{}",
        text.len()
    );
    assert_eq!(text.parse(), Ok(ticket));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn mutated_bodies_are_refused_or_canonical(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..4),
    ) {
        let mut body = sample().body();
        for (at, byte, how) in edits {
            let at = at.index(body.len());
            match how {
                0 => body[at] = byte,
                1 => body.insert(at, byte),
                _ => { body.remove(at); }
            }
        }
        if let Ok(ticket) = forged(&body) {
            prop_assert_eq!(ticket.body(), body);
            prop_assert_eq!(ticket.to_string().parse(), Ok(ticket));
        }
    }

    #[test]
    fn any_text_is_judged_without_a_panic(text in "(p2p1)?\\PC{0,40}") {
        prop_assert!(text.parse::<Ticket>().is_err());
    }
}
