//! Which words a node announces: those of the names that it shares publicly, as long as one of these has the word.
//!
//! Invariants: no key is announced that no public name has; at most [`MAX_KEYS`] are; what waits takes the place of what goes.

use std::collections::{BTreeMap, BTreeSet};

use super::words::name_keys;
use crate::content::ContentId;

/// Keys that a node announces. Names are for people to look through: who shares more than some thousand names is found by
/// the rest of its words, and the catalog tells everything else. At the announcer's pace these take three and a half minutes.
pub(crate) const MAX_KEYS: usize = 4096;

/// What is to be announced from now on, and what no longer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) added: Vec<ContentId>,
    pub(crate) removed: Vec<ContentId>,
}

/// The keys of all public names, and how many names have each.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    uses: BTreeMap<ContentId, usize>,
    announced: BTreeSet<ContentId>,
    waiting: BTreeSet<ContentId>,
}

impl Shown {
    /// A public name is another one now, or new, or gone.
    pub(crate) fn replace(&mut self, before: Option<&str>, after: Option<&str>) -> Change {
        let mut change = Change::default();
        // First what comes: a word that both names have stays.
        for key in after.map(name_keys).unwrap_or_default() {
            let uses = self.uses.entry(key).or_default();
            *uses = uses.saturating_add(1);
            if *uses == 1 {
                self.waiting.insert(key);
            }
        }
        for key in before.map(name_keys).unwrap_or_default() {
            let Some(uses) = self.uses.get_mut(&key) else {
                continue;
            };
            *uses = uses.saturating_sub(1);
            if *uses == 0 {
                self.uses.remove(&key);
                self.waiting.remove(&key);
                if self.announced.remove(&key) {
                    change.removed.push(key);
                }
            }
        }
        while self.announced.len() < MAX_KEYS
            && let Some(key) = self.waiting.pop_first()
        {
            self.announced.insert(key);
            change.added.push(key);
        }
        change
    }

    /// The keys that are announced.
    pub(crate) fn announced(&self) -> impl Iterator<Item = ContentId> + '_ {
        self.announced.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::words::word_key;

    fn sorted(mut change: Change) -> Change {
        change.added.sort_unstable();
        change.removed.sort_unstable();
        change
    }

    fn keys(words: &[&str]) -> Vec<ContentId> {
        let mut keys: Vec<ContentId> = words.iter().map(|word| word_key(word)).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn a_word_is_announced_as_long_as_a_name_has_it() {
        let mut shown = Shown::default();
        let first = sorted(shown.replace(None, Some("summer holiday.mp4")));
        assert_eq!(first.added, keys(&["summer", "holiday"]));
        let second = shown.replace(None, Some("Winter Holiday.mp4"));
        assert_eq!(second.added, keys(&["winter"]));
        assert_eq!(
            shown.replace(Some("summer holiday.mp4"), None).removed,
            keys(&["summer"])
        );
        let renamed = shown.replace(Some("Winter Holiday.mp4"), Some("holiday in spring"));
        assert_eq!(renamed.added, keys(&["spring"]));
        assert_eq!(renamed.removed, keys(&["winter"]));
        let last = sorted(shown.replace(Some("holiday in spring"), None));
        assert_eq!(last.removed, keys(&["holiday", "spring"]));
        assert_eq!(shown.announced().count(), 0);
        assert!(shown.uses.is_empty());
        // What was never there takes nothing away.
        assert_eq!(shown.replace(Some("holiday"), None), Change::default());
    }

    #[test]
    fn what_waits_takes_the_place_of_what_goes() {
        let mut shown = Shown::default();
        let name = |n: usize| format!("number{n}");
        for n in 0..MAX_KEYS + 2 {
            shown.replace(None, Some(&name(n)));
        }
        assert_eq!(shown.announced().count(), MAX_KEYS);
        // One that waited and goes is not withdrawn: nobody was told of it.
        let change = shown.replace(Some(&name(MAX_KEYS)), None);
        assert_eq!(change, Change::default());
        let change = shown.replace(Some(&name(7)), None);
        assert_eq!(change.removed, keys(&["number7"]));
        assert_eq!(change.added, [word_key(&name(MAX_KEYS + 1))]);
        assert_eq!(shown.announced().count(), MAX_KEYS);
        assert!(shown.waiting.is_empty());
    }
}
