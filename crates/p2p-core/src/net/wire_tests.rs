//! The bytes of every message, as `docs/wire.md` prints them; what strangers may send instead; and the limits.

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;
use crate::content::{Address, Kind, NodeId, PublisherSecret};
use crate::net::codec::{read_message, write_message};

/// BLAKE3 of `abc`.
const ABC: &str = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
/// The manifest of `abc.txt` with these bytes, signed by the secret key of 32 sevens.
const MANIFEST: &str = "01006437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85\
    03076162632e747874fc00f15365ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c\
    ebde2994dbbcf01ced20e802f94f2b91e00e7d6d126e51c8ecd6a364036832aa\
    214998b7c0345334dcfab88fc998e3529c7cc9c4367308b46a083a5eee83fd0c";
const ELEVENS: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const NINES: &str = "0909090909090909090909090909090909090909090909090909090909090909";

const WIRE_MD: &str = include_str!("../../../../docs/wire.md");

fn abc() -> ContentId {
    ContentId::of(b"abc")
}

fn manifest() -> SignedManifest {
    let secret = PublisherSecret::from_bytes([7; 32]);
    SignedManifest::sign(Kind::File, abc(), 3, "abc.txt", 1_700_000_000, &secret).unwrap()
}

/// The public key of the secret key of 32 sevens.
const KEY: &str = "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c";

/// That key's signature of the feed below.
const FEED_SIGNATURE: &str = "13e1c0e9e22a94cd92ec42ccac5f16afa57ec5e5f548c1359505ae9d70d37fa7\
    96790c89011e88a0ac26547470a540c0b7e2ec378259375395b5b14bad16340a";

fn feed() -> SignedFeed {
    let secret = PublisherSecret::from_bytes([7; 32]);
    SignedFeed::sign("news", 301, abc(), 1_700_000_000, &secret).unwrap()
}

fn feed_question(known: Option<u64>) -> Query {
    let feed = feed().claims().id.clone();
    Query::Feed { feed, known }
}

fn provider() -> Provider {
    let node = [&[0, 36, 8, 1, 18, 32][..], &[9; 32]].concat();
    let address: Address = "/ip4/192.0.2.1/tcp/4711".parse().unwrap();
    Provider::new(NodeId::from_bytes(&node).unwrap(), [address])
}

fn some_of_three() -> BlockSet {
    let mut blocks = BlockSet::new(3);
    blocks.insert(0);
    blocks.insert(2);
    blocks
}

fn item(runs: Vec<Run>) -> BlocksItem {
    BlocksItem {
        content: abc(),
        size: 600_000,
        outline: true,
        runs,
    }
}

fn queries() -> Vec<(Query, String)> {
    let content = abc();
    let have = |entries, known| Query::Have {
        content,
        entries,
        known,
    };
    let outline = |page| Query::Outline { content, page };
    let search = Query::Search {
        text: "talk".into(),
    };
    vec![
        (have(false, None), format!("00{ABC}0000")),
        (have(true, Some(300)), format!("00{ABC}0101fb2c01")),
        (Query::Manifests { content }, format!("01{ABC}")),
        (outline(None), format!("02{ABC}00")),
        (outline(Some(3)), format!("02{ABC}0103")),
        (Query::Providers { content }, format!("03{ABC}")),
        (Query::Catalog { after: None }, "0400".into()),
        (
            Query::Catalog {
                after: Some(content),
            },
            format!("0401{ABC}"),
        ),
        (search, "050474616c6b".into()),
        (Query::Cancel { number: 7 }, "0607".into()),
        (feed_question(None), format!("07{KEY}046e65777300")),
        (
            feed_question(Some(300)),
            format!("07{KEY}046e65777301fb2c01"),
        ),
    ]
}

fn replies() -> Vec<(Reply, String)> {
    let have = |size, blocks| Reply::Have { size, blocks };
    let manifests = Reply::Manifests {
        manifests: vec![manifest()],
        more: true,
    };
    let outline = Reply::Outline {
        values: vec![[0x11; 32]],
    };
    let providers = Reply::Providers {
        providers: vec![provider()],
    };
    vec![
        (have(600_000, some_of_three()), "00fcc0270900030105".into()),
        (
            have(26_214_400, BlockSet::full(100)),
            "00fc000090016400010064".into(),
        ),
        (manifests, format!("0101{MANIFEST}01")),
        (outline, format!("0201{ELEVENS}")),
        (
            providers,
            format!("030126002408011220{NINES}010804c0000201061267"),
        ),
        (Reply::NotFound, "04".into()),
        (Reply::Busy, "05".into()),
        (Reply::Cancelled, "06".into()),
        (
            Reply::Feed { feed: feed() },
            format!("0701{KEY}046e657773fb2d01{ABC}fc00f15365{FEED_SIGNATURE}"),
        ),
    ]
}

fn requests() -> Vec<(BlocksRequest, String)> {
    let items = vec![item(vec![Run { start: 0, count: 2 }])];
    vec![(
        BlocksRequest { number: 7, items },
        format!("0701{ABC}fcc027090001010002"),
    )]
}

fn frames() -> Vec<(Frame, String)> {
    let block = Frame::Block {
        item: 0,
        index: 2,
        bytes: Bytes::from_static(b"abc"),
    };
    let values = vec![[0x11; 32]];
    let top = Frame::Top {
        item: 1,
        values: values.clone(),
    };
    let page = Frame::Page {
        item: 0,
        page: 3,
        values,
    };
    let failed = |status| Frame::ItemFailed { item: 2, status };
    let end = |status, retry_ms| Frame::End { status, retry_ms };
    vec![
        (block, "010000000200000003000000616263".into()),
        (top, format!("020001000000000020000000{ELEVENS}")),
        (page, format!("030000000300000020000000{ELEVENS}")),
        (
            failed(ItemStatus::NotFound),
            "040102000000000000000000".into(),
        ),
        (
            failed(ItemStatus::Changed),
            "040202000000000000000000".into(),
        ),
        (
            failed(ItemStatus::WrongSize),
            "040302000000000000000000".into(),
        ),
        (end(EndStatus::Done, 0), "000000000000000000000000".into()),
        (end(EndStatus::Busy, 500), "00010000f401000000000000".into()),
        (
            end(EndStatus::Relayed, 0),
            "000200000000000000000000".into(),
        ),
    ]
}

fn frame_bytes(frame: Frame) -> Vec<u8> {
    let (header, payload) = frame.into_parts();
    assert_eq!(header.payload_len(), payload.len());
    [&header.to_bytes()[..], &payload].concat()
}

/// Reads a frame as the codec does, from bytes that hold exactly one.
fn read_frame(bytes: &[u8]) -> Result<Frame, WireError> {
    let (raw, payload) = bytes.split_first_chunk().ok_or(WireError::Malformed)?;
    let header = FrameHeader::parse(*raw)?;
    if header.payload_len() != payload.len() {
        return Err(WireError::Malformed);
    }
    header.into_frame(Bytes::copy_from_slice(payload))
}

/// Whether the documentation prints these bytes; where it breaks lines and sets spaces does not matter.
fn documented(hex: &str) -> bool {
    let text: String = WIRE_MD.split_whitespace().collect();
    text.contains(hex)
}

#[test]
fn golden_queries() {
    for (query, hex) in queries() {
        assert_eq!(HEXLOWER.encode(&encode_query(&query)), hex, "{query:?}");
        assert!(documented(&hex), "not in docs/wire.md: {query:?} {hex}");
        let bytes = HEXLOWER.decode(hex.as_bytes()).unwrap();
        assert_eq!(decode_query(&bytes), Ok(query));
    }
}

#[test]
fn golden_replies() {
    for (reply, hex) in replies() {
        assert_eq!(HEXLOWER.encode(&encode_reply(&reply)), hex, "{reply:?}");
        assert!(documented(&hex), "not in docs/wire.md: {reply:?} {hex}");
        let bytes = HEXLOWER.decode(hex.as_bytes()).unwrap();
        assert_eq!(decode_reply(&bytes), Ok(reply));
    }
}

#[test]
fn golden_requests_for_blocks() {
    for (request, hex) in requests() {
        assert_eq!(HEXLOWER.encode(&encode_blocks_request(&request)), hex);
        assert!(documented(&hex), "not in docs/wire.md: {request:?} {hex}");
        let bytes = HEXLOWER.decode(hex.as_bytes()).unwrap();
        assert_eq!(decode_blocks_request(&bytes), Ok(request));
    }
}

#[test]
fn golden_frames() {
    for (frame, hex) in frames() {
        assert_eq!(
            HEXLOWER.encode(&frame_bytes(frame.clone())),
            hex,
            "{frame:?}"
        );
        assert!(documented(&hex), "not in docs/wire.md: {frame:?} {hex}");
        let bytes = HEXLOWER.decode(hex.as_bytes()).unwrap();
        assert_eq!(read_frame(&bytes), Ok(frame));
    }
}

#[tokio::test]
async fn messages_travel_behind_their_length() {
    let (request, hex) = requests().remove(0);
    let mut sent = Vec::new();
    let message = encode_blocks_request(&request);
    write_message(&mut sent, &message).await.unwrap();
    let whole = format!("2b000000{hex}");
    assert_eq!(HEXLOWER.encode(&sent), whole);
    assert!(documented(&whole), "not in docs/wire.md: {whole}");

    let read = |bytes: Vec<u8>, limit| async move {
        let mut io = futures::io::Cursor::new(bytes);
        let read = read_message(&mut io, limit).await;
        (read.map_err(|error| error.kind()), io.position())
    };
    let (got, _) = read(sent.clone(), 43).await;
    assert_eq!(got, Ok(message));
    // One byte too long: refused by its length alone, nothing of it is read.
    let (got, position) = read(sent.clone(), 42).await;
    assert_eq!(got, Err(std::io::ErrorKind::InvalidData));
    assert_eq!(position, 4);
    sent.pop();
    let (got, _) = read(sent, 43).await;
    assert_eq!(got, Err(std::io::ErrorKind::UnexpectedEof));
}

#[test]
fn unknown_kinds_are_refused() {
    for first in 7..=255 {
        assert!(decode_query(&[first]).is_err(), "query {first}");
        assert!(decode_reply(&[first]).is_err(), "reply {first}");
    }
    for tag in 5..=255 {
        let mut raw = [0; FRAME_HEADER_LEN];
        raw[0] = tag;
        assert_eq!(FrameHeader::parse(raw), Err(WireError::UnknownFrame));
    }
    for (tag, known) in [(0, 0..=2), (1, 0..=0), (2, 0..=0), (3, 0..=0), (4, 1..=3)] {
        for code in 0..=255 {
            let mut raw = [0; FRAME_HEADER_LEN];
            (raw[0], raw[1]) = (tag, code);
            assert_eq!(
                read_frame(&raw).is_ok(),
                known.contains(&code),
                "{tag} {code}"
            );
        }
    }
}

#[test]
fn fields_without_a_use_must_be_zero() {
    // (frame, byte that has no meaning in it)
    for (tag, code, at) in [(0, 0, 2), (2, 0, 4), (4, 1, 7)] {
        let mut raw = [0; FRAME_HEADER_LEN];
        (raw[0], raw[1], raw[at]) = (tag, code, 1);
        assert_eq!(read_frame(&raw), Err(WireError::UnknownFrame), "{tag} {at}");
    }
}

#[test]
fn payloads_are_capped_by_their_kind() {
    let header = |tag: u8, len: usize| {
        let mut raw = [0; FRAME_HEADER_LEN];
        raw[0] = tag;
        raw[8..].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
        FrameHeader::parse(raw)
    };
    let caps = [(0, 0), (1, 262_144), (2, 1024 * 1024), (3, 32_768), (4, 0)];
    for (tag, cap) in caps {
        assert!(header(tag, cap).is_ok(), "{tag}");
        assert_eq!(header(tag, cap + 1), Err(WireError::OutOfBounds), "{tag}");
        assert_eq!(
            header(tag, u32::MAX as usize),
            Err(WireError::OutOfBounds),
            "{tag}"
        );
    }
    for tag in [2, 3] {
        let whole = header(tag, 33).unwrap();
        let cut = whole.into_frame(Bytes::from_static(&[0; 33]));
        assert_eq!(cut, Err(WireError::OutOfBounds), "a value and a byte");
    }
}

#[test]
fn queries_are_capped() {
    let search = |len| {
        decode_query(&encode_query(&Query::Search {
            text: "a".repeat(len),
        }))
    };
    assert!(search(MAX_SEARCH_LEN).is_ok());
    assert_eq!(search(MAX_SEARCH_LEN + 1), Err(WireError::OutOfBounds));
    assert_eq!(search(MAX_QUERY_LEN), Err(WireError::Malformed));
    // A text of 2^60 bytes.
    let claim = [5, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0x10];
    assert_eq!(decode_query(&claim), Err(WireError::Malformed));
}

#[test]
fn replies_are_capped() {
    let decode = |reply: &Reply| decode_reply(&encode_reply(reply)).map(|_| ());
    let manifests = |count| Reply::Manifests {
        manifests: vec![manifest(); count],
        more: false,
    };
    assert_eq!(decode(&manifests(MAX_MANIFESTS)), Ok(()));
    assert_eq!(
        decode(&manifests(MAX_MANIFESTS + 1)),
        Err(WireError::OutOfBounds)
    );
    let providers = |count| Reply::Providers {
        providers: vec![provider(); count],
    };
    assert_eq!(decode(&providers(MAX_PROVIDERS)), Ok(()));
    assert_eq!(
        decode(&providers(MAX_PROVIDERS + 1)),
        Err(WireError::OutOfBounds)
    );
    let have = |size| Reply::Have {
        size,
        blocks: some_of_three(),
    };
    assert_eq!(decode(&have(MAX_SIZE)), Ok(()));
    assert_eq!(decode(&have(MAX_SIZE + 1)), Err(WireError::OutOfBounds));
    let outline = |count| Reply::Outline {
        values: vec![[1; 32]; count],
    };
    assert_eq!(
        decode(&outline(32_768)),
        Ok(()),
        "the top of the largest content"
    );
    assert_eq!(decode(&outline(32_768 + 32)), Err(WireError::Malformed));
    // 2^32 values, 2^32 manifests, 2^32 providers, a set over 2^26 blocks.
    for kind in [2, 1, 3] {
        let claim = [kind, 0xfd, 0, 0, 0, 0, 1, 0, 0, 0];
        assert_eq!(decode_reply(&claim), Err(WireError::Malformed), "{kind}");
    }
    let wide = [0, 1, 0xfc, 0, 0, 0, 4, 0, 0];
    assert_eq!(decode_reply(&wide), Err(WireError::Malformed));
}

#[test]
fn requests_for_blocks_are_capped() {
    let decode = |items: Vec<BlocksItem>| {
        decode_blocks_request(&encode_blocks_request(&BlocksRequest { number: 7, items }))
            .map(|_| ())
    };
    let run = |start, count| Run { start, count };
    let refused = Err(WireError::OutOfBounds);

    assert_eq!(decode(Vec::new()), refused, "nothing asked for");
    assert_eq!(decode(vec![item(vec![run(0, 1)]); MAX_ITEMS]), Ok(()));
    assert_eq!(decode(vec![item(vec![run(0, 1)]); MAX_ITEMS + 1]), refused);
    assert_eq!(decode(vec![item(vec![run(7, 1); MAX_RUNS])]), Ok(()));
    assert_eq!(decode(vec![item(vec![run(7, 1); MAX_RUNS + 1])]), refused);
    assert_eq!(decode(vec![item(vec![run(0, 512)])]), Ok(()));
    assert_eq!(decode(vec![item(vec![run(0, 513)])]), refused);
    assert_eq!(
        decode(vec![item(vec![run(0, 511), run(600, 2)])]),
        refused,
        "in sum"
    );
    assert_eq!(decode(vec![item(vec![run(0, u32::MAX); 2])]), refused);
    assert_eq!(decode(vec![item(vec![run(0, 0)])]), refused, "an empty run");
    assert_eq!(
        decode(vec![item(vec![run(u32::MAX, 1)])]),
        refused,
        "overflow"
    );
    let mut large = item(vec![run(0, 1)]);
    large.size = MAX_SIZE + 1;
    assert_eq!(decode(vec![large]), refused);
    let bytes = vec![0; MAX_BLOCKS_REQUEST_LEN + 1];
    assert_eq!(decode_blocks_request(&bytes), Err(WireError::Malformed));
}

/// What a stranger may do to good bytes.
#[derive(Debug, Clone)]
enum Harm {
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Cut(prop::sample::Index),
}

fn harm() -> impl Strategy<Value = Harm> {
    let at = any::<prop::sample::Index>;
    // Bytes at which lengths, kinds and the forms of integers change.
    let byte = || {
        prop_oneof![
            any::<u8>(),
            prop::sample::select(vec![0, 1, 2, 250, 251, 252, 253])
        ]
    };
    prop_oneof![
        3 => (at(), byte()).prop_map(|(at, byte)| Harm::Set(at, byte)),
        1 => (at(), byte()).prop_map(|(at, byte)| Harm::Insert(at, byte)),
        1 => at().prop_map(Harm::Remove),
        1 => at().prop_map(Harm::Cut),
    ]
}

fn apply(harm: &Harm, bytes: &mut Vec<u8>) {
    match harm {
        Harm::Set(at, byte) if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Harm::Insert(at, byte) => bytes.insert(at.index(bytes.len() + 1), *byte),
        Harm::Remove(at) if !bytes.is_empty() => {
            bytes.remove(at.index(bytes.len()));
        }
        Harm::Cut(at) => bytes.truncate(at.index(bytes.len() + 1)),
        Harm::Set(..) | Harm::Remove(_) => {}
    }
}

/// Bytes of one of these messages, harmed up to four times.
fn harmed(messages: Vec<String>) -> impl Strategy<Value = Vec<u8>> {
    let bytes: Vec<Vec<u8>> = messages
        .iter()
        .map(|hex| HEXLOWER.decode(hex.as_bytes()).unwrap())
        .collect();
    let harms = prop::collection::vec(harm(), 0..4);
    (prop::sample::select(bytes), harms).prop_map(|(mut bytes, harms)| {
        for harm in &harms {
            apply(harm, &mut bytes);
        }
        bytes
    })
}

fn hexes<T>(samples: Vec<(T, String)>) -> Vec<String> {
    samples.into_iter().map(|(_, hex)| hex).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn accepted_queries_have_one_encoding(bytes in harmed(hexes(queries()))) {
        if let Ok(query) = decode_query(&bytes) {
            prop_assert_eq!(encode_query(&query), bytes);
        }
    }

    #[test]
    fn accepted_replies_have_one_encoding(bytes in harmed(hexes(replies()))) {
        if let Ok(reply) = decode_reply(&bytes) {
            prop_assert_eq!(encode_reply(&reply), bytes);
        }
    }

    #[test]
    fn accepted_requests_for_blocks_have_one_encoding(bytes in harmed(hexes(requests()))) {
        if let Ok(request) = decode_blocks_request(&bytes) {
            prop_assert_eq!(encode_blocks_request(&request), bytes);
        }
    }

    #[test]
    fn accepted_frames_have_one_encoding(bytes in harmed(hexes(frames()))) {
        if let Ok(frame) = read_frame(&bytes) {
            prop_assert_eq!(frame_bytes(frame), bytes);
        }
    }

    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes: Vec<u8>) {
        let _ = (decode_query(&bytes), decode_reply(&bytes), decode_blocks_request(&bytes), read_frame(&bytes));
    }
}
