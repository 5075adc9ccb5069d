use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, PartialEq, Encode, Decode)]
enum Message {
    Nothing,
    Number(u64),
    Words(Vec<String>),
    Hashes(Vec<[u8; 32]>),
}

fn messages() -> impl Strategy<Value = Message> {
    prop_oneof![
        Just(Message::Nothing),
        any::<u64>().prop_map(Message::Number),
        prop::collection::vec("[a-zé]{0,9}", 0..5).prop_map(Message::Words),
        prop::collection::vec(any::<[u8; 32]>(), 0..4).prop_map(Message::Hashes),
    ]
}

proptest! {
    #[test]
    fn round_trips(message in messages()) {
        prop_assert_eq!(decode::<Message, 4096>(&encode(&message)), Ok(message));
    }

    #[test]
    fn what_is_accepted_has_one_encoding(
        message in messages(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        tail in prop::collection::vec(any::<u8>(), 0..3),
    ) {
        let mut bytes = encode(&message);
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend(tail);
        if let Ok(other) = decode::<Message, 4096>(&bytes) {
            prop_assert_eq!(encode(&other), bytes);
        }
    }
}

#[test]
fn errors_are_told_apart() {
    assert_eq!(
        decode::<u64, 4>(&[0; 5]),
        Err(DecodeError::TooLong { len: 5, limit: 4 })
    );
    assert_eq!(decode::<u64, 4>(&[]), Err(DecodeError::Malformed));
    assert_eq!(decode::<Message, 64>(&[9]), Err(DecodeError::Malformed));
    assert_eq!(decode::<u64, 4>(&[7, 7]), Err(DecodeError::TrailingBytes));
    assert_eq!(
        decode::<u64, 4>(&[251, 7, 0]),
        Err(DecodeError::NotCanonical)
    );
    assert_eq!(decode::<u64, 4>(&[7]), Ok(7));
    assert_eq!(decode::<u64, 0>(&[]), Err(DecodeError::Malformed));
}

/// A few bytes that claim four billion elements: refused by the limit, before a buffer for them is made.
#[test]
fn a_claim_is_refused_before_it_is_allocated() {
    for variant in [2, 3] {
        let claim = [&[variant, 253][..], &(1u64 << 32).to_le_bytes(), &[0; 54]].concat();
        assert_eq!(decode::<Message, 64>(&claim), Err(DecodeError::Malformed));
        let claim = [&[variant, 253][..], &u64::MAX.to_le_bytes()].concat();
        assert_eq!(decode::<Message, 64>(&claim), Err(DecodeError::Malformed));
    }
}

/// Small numbers take one byte each, and count as many more against the memory that a decoder grants.
#[test]
fn a_full_message_of_small_values_passes() {
    let numbers = vec![1u64; 4096 - 3];
    let bytes = encode(&numbers);
    assert_eq!(bytes.len(), 4096);
    assert_eq!(decode::<Vec<u64>, 4096>(&bytes), Ok(numbers));
    for len in [60_000, 2_000_000] {
        let strings = vec![String::new(); len];
        let bytes = encode(&strings);
        assert_eq!(decode::<Vec<String>, 0x20_0000>(&bytes), Ok(strings));
    }
}

struct Capped(Vec<u8>);

impl<C> Decode<C> for Capped {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, Malformed> {
        read_bytes(decoder, 3).map(Self)
    }
}

impl Encode for Capped {
    fn encode<E: bincode::enc::Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.encode(encoder)
    }
}

#[test]
fn capped_bytes_are_refused_with_a_reason() {
    assert!(decode::<Capped, 64>(&[3, 1, 2, 3]).is_ok());
    let Err(DecodeError::Refused(reason)) = decode::<Capped, 64>(&[4, 1, 2, 3, 4]) else {
        panic!("four bytes passed");
    };
    assert_eq!(reason, "4 bytes where at most 3 are allowed");
    let huge = [&[253][..], &u64::MAX.to_le_bytes()].concat();
    assert!(matches!(
        decode::<Capped, 64>(&huge),
        Err(DecodeError::Refused(_))
    ));
}
