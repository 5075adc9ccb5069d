use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::content::encoding;

const LIMIT: usize = 8 << 20;

fn decode(bytes: &[u8]) -> Result<BlockSet, crate::content::DecodeError> {
    encoding::decode::<BlockSet, LIMIT>(bytes)
}

/// Compares every query with the obvious answer.
fn assert_same(set: &BlockSet, model: &BTreeSet<u32>, len: u32) {
    assert_eq!(set.len(), len);
    assert_eq!(set.count() as usize, model.len());
    assert_eq!(set.is_empty(), model.is_empty());
    assert_eq!(set.is_full(), model.len() == len as usize);
    assert!(set.iter().eq(model.iter().copied()));
    assert!(set.missing().eq((0..len).filter(|i| !model.contains(i))));
    for i in 0..len + 70 {
        assert_eq!(set.contains(i), model.contains(&i), "contains {i}");
        assert_eq!(set.first_from(i), model.range(i..).next().copied());
        let missing = (i..len).find(|i| !model.contains(i));
        assert_eq!(set.first_missing_from(i), missing, "first missing from {i}");
    }
    let mut before = None;
    for run in set.runs().chain(set.missing_runs()) {
        assert!(run.start < run.end && run.end <= len);
    }
    for run in set.runs() {
        assert!(before.is_none_or(|end| end < run.start), "runs are maximal");
        assert!(run.clone().all(|i| model.contains(&i)));
        before = Some(run.end);
    }
    let bytes = encoding::encode(set);
    assert_eq!(decode(&bytes).as_ref(), Ok(set));
    assert!(
        bytes.len() <= 6 + len.div_ceil(8).max(1) as usize,
        "{} bytes for {len} bits",
        bytes.len()
    );
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u32),
    Remove(u32),
    Range(u32, u32),
    Union(u32, Vec<u32>),
}

fn steps(len: u32) -> impl Strategy<Value = Vec<Step>> {
    let index = 0..len + 5;
    prop::collection::vec(
        prop_oneof![
            index.clone().prop_map(Step::Insert),
            index.clone().prop_map(Step::Remove),
            (index.clone(), index.clone()).prop_map(|(a, b)| Step::Range(a, b)),
            (0..len + 70, prop::collection::vec(index, 0..9))
                .prop_map(|(len, members)| Step::Union(len, members)),
        ],
        0..24,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn behaves_like_a_btree_set((len, steps) in (0u32..300).prop_flat_map(|len| (Just(len), steps(len)))) {
        let mut set = BlockSet::new(len);
        let mut model = BTreeSet::new();
        for step in steps {
            match step {
                Step::Insert(i) => assert_eq!(set.insert(i), i < len && model.insert(i)),
                Step::Remove(i) => assert_eq!(set.remove(i), model.remove(&i)),
                Step::Range(a, b) => {
                    let added = (a..b.min(len)).filter(|i| model.insert(*i)).count();
                    assert_eq!(set.insert_range(a..b) as usize, added);
                }
                Step::Union(other_len, members) => {
                    let mut other = BlockSet::new(other_len);
                    members.iter().for_each(|i| { other.insert(*i); });
                    let added = other.iter().filter(|i| *i < len && model.insert(*i)).count();
                    assert_eq!(set.union_with(&other) as usize, added);
                }
            }
        }
        assert_same(&set, &model, len);
    }

    #[test]
    fn mutated_encodings_are_refused_or_canonical(
        len in 0u32..600,
        members in prop::collection::vec(0u32..600, 0..40),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut set = BlockSet::new(len);
        members.iter().for_each(|i| { set.insert(*i); });
        let mut bytes = encoding::encode(&set);
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(other) = decode(&bytes) {
            prop_assert_eq!(encoding::encode(&other), bytes);
            prop_assert_eq!(other.iter().count(), other.count() as usize);
            prop_assert!(other.iter().all(|i| i < other.len()));
        }
    }

    #[test]
    fn any_bytes_decode_strictly(bytes in prop::collection::vec(0u8..12, 0..12)) {
        if let Ok(set) = decode(&bytes) {
            prop_assert_eq!(encoding::encode(&set), bytes);
        }
    }
}

#[test]
fn every_small_set_has_one_encoding() {
    let mut seen = BTreeSet::new();
    for len in 0..=9u32 {
        for bits in 0..1u32 << len {
            let mut set = BlockSet::new(len);
            let model: BTreeSet<u32> = (0..len).filter(|i| bits >> i & 1 == 1).collect();
            model.iter().for_each(|i| assert!(set.insert(*i)));
            assert_same(&set, &model, len);
            assert!(seen.insert(encoding::encode(&set)));
        }
    }
}

#[test]
fn golden_bytes() {
    assert_eq!(encoding::encode(&BlockSet::new(0)), [0, RUNS, 0]);
    assert_eq!(encoding::encode(&BlockSet::new(100)), [100, RUNS, 0]);
    assert_eq!(
        encoding::encode(&BlockSet::full(100)),
        [100, RUNS, 1, 0, 100]
    );
    let mut odd = BlockSet::new(20);
    [1, 3, 17].iter().for_each(|i| assert!(odd.insert(*i)));
    assert_eq!(encoding::encode(&odd), [20, BITS, 0b1010, 0, 0b10]);
    let mut two = BlockSet::new(1000);
    two.insert_range(3..10);
    two.insert_range(20..999);
    let (gap, run) = (10, 979u16.to_le_bytes());
    assert_eq!(
        encoding::encode(&two),
        [251, 0xe8, 3, RUNS, 2, 3, 7, gap, 251, run[0], run[1]]
    );
}

#[test]
fn the_largest_set_is_cheap_when_regular() {
    let full = BlockSet::full(MAX_LEN);
    assert!(full.is_full());
    assert!(full.runs().eq(std::iter::once(0..MAX_LEN)));
    let bytes = encoding::encode(&full);
    assert!(bytes.len() < 16);
    assert_eq!(encoding::decode::<BlockSet, 64>(&bytes), Ok(full));
    assert_eq!(BlockSet::new(u32::MAX).len(), MAX_LEN);
    // Alternating members of the largest set: the bit vector, 4 MiB.
    let mut worst = BlockSet::new(MAX_LEN);
    (0..MAX_LEN)
        .step_by(2)
        .for_each(|i| assert!(worst.insert(i)));
    let bytes = encoding::encode(&worst);
    assert_eq!(bytes.len(), 6 + (MAX_LEN / 8) as usize);
    assert_eq!(decode(&bytes), Ok(worst));
}

#[test]
fn hostile_encodings_are_refused() {
    let too_long = [&[252][..], &(MAX_LEN + 1).to_le_bytes(), &[RUNS, 0]].concat();
    let cases: [&[u8]; 14] = [
        &[],
        &[100],
        &[100, 2, 0],
        &too_long,
        &[252, 255, 255, 255, 255, RUNS, 0],
        &[100, RUNS, 1, 0, 101],                     // beyond the end
        &[100, RUNS, 1, 90, 11],                     // beyond the end by its gap
        &[100, RUNS, 1, 5, 0],                       // an empty run
        &[100, RUNS, 2, 0, 5, 0, 5],                 // runs that touch
        &[100, RUNS, 1, 252, 255, 255, 255, 255, 5], // an overflow
        &[100, RUNS, 252, 255, 255, 255, 255, 0, 5], // four billion runs
        &[20, RUNS, 3, 1, 1, 1, 1, 13, 1],           // the bit vector is shorter
        &[20, BITS, 0b1010, 0, 0b10010],             // a bit beyond the end
        &[16, BITS, 0, 0],                           // the runs are shorter
    ];
    for bytes in cases {
        assert!(decode(bytes).is_err(), "{bytes:?}");
    }
    // A length in a longer form than needed, and trailing bytes.
    assert_eq!(
        decode(&[251, 100, 0, RUNS, 0]),
        Err(crate::content::DecodeError::NotCanonical)
    );
    assert_eq!(
        decode(&[100, RUNS, 0, 0]),
        Err(crate::content::DecodeError::TrailingBytes)
    );
}

#[test]
fn debug_is_short() {
    let mut set = BlockSet::new(100);
    (0..100).step_by(2).for_each(|i| assert!(set.insert(i)));
    assert!(format!("{set:?}").len() < 200);
    assert!(format!("{set:?}").starts_with("50 of 100 [0..1, 2..3"));
}
