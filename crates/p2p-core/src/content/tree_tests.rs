use proptest::prelude::*;

use super::*;

const BLOCK: usize = BLOCK_LEN;
const PAGE: usize = BLOCK * PAGE_BLOCKS as usize;

/// Bytes that differ from chunk to chunk and block to block; fast to make.
fn data(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn reference(bytes: &[u8]) -> ContentId {
    ContentId::from_bytes(*blake3::hash(bytes).as_bytes())
}

/// Builds the outline, compares the id with BLAKE3's, and verifies every block with an outline that grew from parts.
fn assert_proves(bytes: &[u8]) {
    let (id, whole) = Outline::of(bytes).unwrap();
    assert_eq!(id, reference(bytes), "{} bytes", bytes.len());
    assert!(whole.is_complete());
    let grown = regrow(&whole);
    assert_eq!(grown, whole);
    let bytes = Bytes::copy_from_slice(bytes);
    let mut at = 0;
    for block in grown.geometry().indices() {
        let part = bytes.slice(at..at + grown.geometry().len_of(block));
        at += part.len();
        let address = part.as_ptr();
        let verified = grown.verify(block, part).unwrap();
        assert_eq!((verified.content(), verified.index()), (id, block));
        assert_eq!(verified.bytes().as_ptr(), address, "nothing is copied");
    }
    assert_eq!(at, bytes.len());
}

/// The same outline, added part by part as it would arrive.
fn regrow(whole: &Outline) -> Outline {
    let geometry = whole.geometry();
    let mut grown = Outline::new(whole.id(), geometry);
    while let Some(need) = geometry
        .indices()
        .rev()
        .find_map(|block| grown.needs(block))
    {
        assert!(!grown.is_complete());
        match need {
            Need::Top => grown.add_top(whole.top().unwrap().to_vec()).unwrap(),
            Need::Page(page) => grown
                .add_page(page, whole.page(page).unwrap().to_vec())
                .unwrap(),
        }
    }
    grown
}

#[test]
fn equals_blake3_around_chunks() {
    let bytes = data(4 * 1024 + 1, 1);
    for len in 0..=bytes.len() {
        assert_proves(&bytes[..len]);
    }
}

#[test]
fn equals_blake3_around_chunks_near_a_block() {
    let bytes = data(BLOCK + 3 * 1024, 2);
    for chunks in 253..=258 {
        for len in chunks * 1024 - 2..=chunks * 1024 + 2 {
            assert_proves(&bytes[..len]);
        }
    }
    for len in BLOCK - 40..=BLOCK + 40 {
        assert_proves(&bytes[..len]);
    }
}

#[test]
fn equals_blake3_around_blocks() {
    let bytes = data(17 * BLOCK + 1, 3);
    for blocks in (1..=9).chain([15, 16, 17]) {
        for len in blocks * BLOCK - 1..=blocks * BLOCK + 1 {
            assert_proves(&bytes[..len]);
        }
    }
}

#[test]
fn equals_blake3_around_a_page() {
    let bytes = data(PAGE + BLOCK + 1, 4);
    for len in [PAGE - 1, PAGE, PAGE + 1, PAGE + BLOCK, PAGE + BLOCK + 1] {
        let (id, outline) = Outline::of(&bytes[..len]).unwrap();
        assert_eq!(id, reference(&bytes[..len]), "{len} bytes");
        assert_eq!(outline.top().is_some(), len > PAGE);
        assert_eq!(regrow(&outline), outline);
        let last = outline.geometry().last().unwrap();
        let tail = outline.geometry().offset_of(last) as usize;
        assert!(
            outline
                .verify(last, Bytes::copy_from_slice(&bytes[tail..len]))
                .is_ok()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn equals_blake3_anywhere(len in 0usize..9 * BLOCK, seed: u64) {
        assert_proves(&data(len, seed));
    }

    #[test]
    fn merging_is_left_balanced(count in 2usize..700, seed: u64) {
        // Chunks as leaves: the same recursion must give BLAKE3's own tree for any number of them.
        let bytes = data(count * 1024 - (seed % 1024) as usize, seed);
        let leaves: Vec<ChainingValue> = bytes
            .chunks(1024)
            .enumerate()
            .map(|(at, chunk)| {
                let mut hasher = Hasher::new();
                hasher.set_input_offset(at as u64 * 1024).update(chunk);
                hasher.finalize_non_root()
            })
            .collect();
        prop_assert_eq!(merge_root(&leaves), Some(reference(&bytes)));
    }
}

/// An outline over invented chaining values: three pages, the last of which has `tail` blocks.
fn invented(tail: u32) -> Outline {
    let blocks = 2 * PAGE_BLOCKS + tail;
    let geometry = Geometry::new(u64::from(blocks) * BLOCK as u64 - 5).unwrap();
    let mut builder = OutlineBuilder::new(geometry);
    for block in 0..blocks {
        builder.push(*blake3::hash(&block.to_le_bytes()).as_bytes());
    }
    builder.finish().unwrap().1
}

/// Every way to spoil a list that keeps or changes its length; `step` thins out the single-bit flips.
fn spoiled(values: &[ChainingValue], step: usize) -> Vec<Vec<ChainingValue>> {
    let mut all = Vec::new();
    for bit in (0..values.len() * 256).step_by(step) {
        let mut bad = values.to_vec();
        bad[bit / 256][bit % 256 / 8] ^= 1 << (bit % 8);
        all.push(bad);
    }
    for at in (0..values.len()).step_by(step.div_ceil(64)) {
        let next = (at + 1) % values.len();
        if next != at {
            let mut swapped = values.to_vec();
            swapped.swap(at, next);
            let mut doubled = values.to_vec();
            doubled[next] = doubled[at];
            all.extend([swapped, doubled]);
        }
        let mut dropped = values.to_vec();
        dropped.remove(at);
        let mut inserted = values.to_vec();
        inserted.insert(at, values[at]);
        all.extend([dropped, inserted]);
    }
    let mut rotated = values.to_vec();
    rotated.rotate_left(1);
    let mut reversed = values.to_vec();
    reversed.reverse();
    let appended = [values, &[[0; 32]]].concat();
    all.extend([
        rotated,
        reversed,
        appended,
        vec![],
        vec![[0; 32]; values.len()],
    ]);
    all.retain(|bad| bad != values);
    all
}

#[test]
fn every_spoiled_outline_of_one_page_is_refused() {
    for blocks in [2usize, 3, 4, 5, 8] {
        let bytes = data(blocks * BLOCK - 7, 5);
        let (id, whole) = Outline::of(&bytes).unwrap();
        let mut outline = Outline::new(id, whole.geometry());
        let good = whole.page(0).unwrap();
        for bad in spoiled(good, 1) {
            let expected = if bad.len() == good.len() {
                TreeError::BadPage(0)
            } else {
                TreeError::WrongCount {
                    count: bad.len(),
                    expected: good.len(),
                }
            };
            assert_eq!(outline.add_page(0, bad), Err(expected));
        }
        assert_eq!(
            outline,
            Outline::new(id, whole.geometry()),
            "nothing was kept"
        );
        assert_eq!(
            outline.add_top(vec![[0; 32]]),
            Err(TreeError::NoSuchPage(0))
        );
        assert_eq!(
            outline.add_page(1, good.to_vec()),
            Err(TreeError::NoSuchPage(1))
        );
    }
}

#[test]
fn every_spoiled_outline_of_many_pages_is_refused() {
    for tail in [1, 2, 3, PAGE_BLOCKS] {
        let whole = invented(tail);
        let mut outline = Outline::new(whole.id(), whole.geometry());
        let page = whole.page(1).unwrap().to_vec();
        assert_eq!(
            outline.add_page(1, page.clone()),
            Err(TreeError::OutlineMissing(Need::Top))
        );
        for bad in spoiled(whole.top().unwrap(), 1) {
            assert!(outline.add_top(bad).is_err());
        }
        assert_eq!(outline.top(), None);
        outline.add_top(whole.top().unwrap().to_vec()).unwrap();
        for at in 0..3 {
            let good = whole.page(at).unwrap();
            let step = if good.len() > 8 { 4099 } else { 1 };
            for bad in spoiled(good, step) {
                assert!(outline.add_page(at, bad).is_err());
            }
        }
        assert_eq!(
            outline.add_page(0, page.clone()),
            Err(TreeError::BadPage(0)),
            "another page"
        );
        assert_eq!(outline.add_page(3, page), Err(TreeError::NoSuchPage(3)));
        assert_eq!(regrow(&whole), whole);
    }
}

#[test]
fn needs_go_from_the_top_down() {
    let whole = invented(1);
    let geometry = whole.geometry();
    let mut outline = Outline::new(whole.id(), geometry);
    let (first, last) = (geometry.block(0).unwrap(), geometry.last().unwrap());
    assert_eq!(outline.needs(first), Some(Need::Top));
    assert_eq!(outline.needs(last), Some(Need::Top));
    outline.add_top(whole.top().unwrap().to_vec()).unwrap();
    assert_eq!(outline.needs(first), Some(Need::Page(0)));
    assert_eq!(
        outline.needs(last),
        None,
        "a page of one block is in the top"
    );
    assert_eq!(outline.page(2).unwrap(), &whole.top().unwrap()[2..]);
    assert_eq!(
        outline.verify(first, Bytes::from(vec![0; BLOCK])),
        Err(TreeError::OutlineMissing(Need::Page(0)))
    );
    assert!(!outline.is_complete());
    for page in [1, 0] {
        outline
            .add_page(page, whole.page(page).unwrap().to_vec())
            .unwrap();
        outline
            .add_page(page, whole.page(page).unwrap().to_vec())
            .unwrap();
    }
    outline
        .add_page(2, whole.page(2).unwrap().to_vec())
        .unwrap();
    assert!(outline.is_complete());
    assert_eq!(outline, whole);
}

#[test]
fn every_spoiled_block_is_refused() {
    for len in [
        1,
        1023,
        1024,
        1025,
        BLOCK - 1,
        BLOCK,
        BLOCK + 1,
        2 * BLOCK,
        3 * BLOCK - 9,
    ] {
        let bytes = data(len, 6);
        let (_, outline) = Outline::of(&bytes).unwrap();
        let geometry = outline.geometry();
        for block in geometry.indices() {
            let start = geometry.offset_of(block) as usize;
            let good = &bytes[start..start + geometry.len_of(block)];
            assert!(outline.verify(block, Bytes::copy_from_slice(good)).is_ok());
            let bad_block = Err(TreeError::BadBlock(block.get()));
            for bit in (0..good.len() * 8)
                .step_by(1 + good.len() / 32)
                .chain([good.len() * 8 - 1])
            {
                let mut bad = good.to_vec();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(outline.verify(block, bad.into()), bad_block);
            }
            for wrong in [0, good.len() - 1, good.len() + 1] {
                let mut bad = good.to_vec();
                bad.resize(wrong, 0);
                let error = TreeError::WrongLength {
                    len: wrong,
                    expected: good.len(),
                };
                assert_eq!(outline.verify(block, bad.into()), Err(error));
            }
            for other in geometry.indices().filter(|other| *other != block) {
                if geometry.len_of(other) == good.len() {
                    let swapped = outline.verify(other, Bytes::copy_from_slice(good));
                    assert_eq!(swapped, Err(TreeError::BadBlock(other.get())));
                }
            }
        }
        let beyond = Geometry::new(1 << 30).unwrap().last().unwrap();
        assert_eq!(
            outline.verify(beyond, Bytes::from_static(b"x")),
            Err(TreeError::NoSuchBlock(beyond.get()))
        );
    }
}

/// A wrong size: either the outline or, if the number of blocks is right, the last block gives it away.
#[test]
fn a_lie_about_the_size_never_verifies_the_last_block() {
    let bytes = data(3 * BLOCK - 100, 7);
    let (id, whole) = Outline::of(&bytes).unwrap();
    let page = whole.page(0).unwrap();
    let lies = [
        1,
        1024,
        BLOCK - 1,
        BLOCK,
        2 * BLOCK,
        2 * BLOCK + 1,
        3 * BLOCK - 101,
        3 * BLOCK - 99,
        3 * BLOCK,
        3 * BLOCK + 1,
        9 * BLOCK,
        PAGE + 1,
    ];
    for lie in lies {
        let geometry = Geometry::new(lie as u64).unwrap();
        let mut outline = Outline::new(id, geometry);
        let _ = outline.add_top(page.to_vec());
        let _ = outline.add_page(0, page.to_vec());
        assert_eq!(outline.page(0).is_some(), geometry.blocks() == 3, "{lie}");
        let last = geometry.last().unwrap();
        let start = geometry.offset_of(last) as usize;
        let mut tail = bytes.get(start..).unwrap_or(&[]).to_vec();
        tail.resize(geometry.len_of(last), 0);
        assert!(outline.verify(last, tail.into()).is_err(), "{lie}");
    }
    assert!(!Outline::new(id, Geometry::new(0).unwrap()).is_complete());
    assert!(Outline::new(ContentId::EMPTY, Geometry::new(0).unwrap()).is_complete());
}

/// Nodes of the tree offered as content: BLAKE3 marks chunks, parents and the root apart.
#[test]
fn inner_nodes_are_not_content() {
    let bytes = data(2 * BLOCK, 8);
    let (id, whole) = Outline::of(&bytes).unwrap();
    let node = whole.page(0).unwrap().concat();
    let outline = Outline::new(id, Geometry::new(node.len() as u64).unwrap());
    let only = outline.geometry().last().unwrap();
    assert_eq!(
        outline.verify(only, node.into()),
        Err(TreeError::BadBlock(0))
    );
}

#[test]
fn a_huge_claim_costs_nothing() {
    let outline = Outline::new(
        ContentId::EMPTY,
        Geometry::new(crate::content::MAX_SIZE).unwrap(),
    );
    assert_eq!(
        outline.needs(outline.geometry().last().unwrap()),
        Some(Need::Top)
    );
    assert!(size_of_val(&outline) < 128 && outline.pages.is_empty());
}

#[test]
fn the_builder_counts() {
    let geometry = Geometry::new(2 * BLOCK as u64).unwrap();
    for count in [0usize, 1, 3, 5000] {
        let mut builder = OutlineBuilder::new(geometry);
        (0..count).for_each(|_| builder.push([1; 32]));
        assert!(builder.pages.iter().map(Vec::len).sum::<usize>() <= 2);
        assert_eq!(
            builder.finish().err(),
            Some(TreeError::WrongCount { count, expected: 2 })
        );
    }
    for size in [0, 1, BLOCK as u64] {
        let mut builder = OutlineBuilder::new(Geometry::new(size).unwrap());
        (0..size.min(1)).for_each(|_| builder.push([1; 32]));
        assert_eq!(builder.finish().err(), Some(TreeError::NoSuchPage(0)));
    }
    assert_eq!(OutlineBuilder::single(b"abc").0, ContentId::of(b"abc"));
    assert_eq!(OutlineBuilder::single(b"").0, ContentId::EMPTY);
    let mut single = OutlineBuilder::single(b"abc").1;
    assert!(single.is_complete());
    assert_eq!(
        single.add_page(0, vec![[0; 32]]),
        Err(TreeError::NoSuchPage(0))
    );
}

#[test]
fn block_value_names_its_misuse() {
    let panics = |offset, len: usize| {
        std::panic::catch_unwind(|| block_value(offset, &vec![0; len])).is_err()
    };
    assert!(panics(1024, 1));
    assert!(panics(0, 0));
    assert!(panics(0, BLOCK + 1));
    assert!(!panics(BLOCK as u64, 1));
}
