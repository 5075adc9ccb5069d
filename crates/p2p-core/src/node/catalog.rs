//! What this node shows to those who know no id: its public shares, by pages and by name. Pure.

use std::collections::BTreeMap;

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

use crate::{
    content::{ContentId, SignedManifest},
    net::wire::MAX_MANIFESTS,
};

/// Public shares, by id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalog {
    shares: BTreeMap<ContentId, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    manifest: SignedManifest,
    folded: String,
}

impl Catalog {
    /// Shows a share.
    pub(crate) fn insert(&mut self, manifest: SignedManifest) {
        let claims = manifest.claims();
        let folded = fold(&claims.name);
        self.shares
            .insert(claims.content, Entry { manifest, folded });
    }

    /// Shows it no longer.
    pub(crate) fn remove(&mut self, id: ContentId) {
        self.shares.remove(&id);
    }

    /// The shares after this id, as many as one reply holds, and whether more follow.
    pub(crate) fn page(&self, after: Option<ContentId>) -> (Vec<SignedManifest>, bool) {
        let start = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut rest = self.shares.range((start, std::ops::Bound::Unbounded));
        let page: Vec<SignedManifest> = rest
            .by_ref()
            .take(MAX_MANIFESTS)
            .map(|(_, entry)| entry.manifest.clone())
            .collect();
        (page, rest.next().is_some())
    }

    /// Shares whose name contains the text, whatever the case and the accents.
    pub(crate) fn search(&self, text: &str) -> Vec<SignedManifest> {
        let wanted = fold(text);
        if wanted.is_empty() {
            return Vec::new();
        }
        self.shares
            .values()
            .filter(|entry| entry.folded.contains(&wanted))
            .take(MAX_MANIFESTS)
            .map(|entry| entry.manifest.clone())
            .collect()
    }
}

/// A text as it is compared: compatibility decomposition, no combining marks, lower case.
pub(crate) fn fold(text: &str) -> String {
    text.trim()
        .nfkd()
        .filter(|c| !is_combining_mark(*c))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Kind, PublisherSecret};

    fn manifest(name: &str) -> SignedManifest {
        let secret = PublisherSecret::from_bytes([7; 32]);
        let id = ContentId::of(name.as_bytes());
        SignedManifest::sign(Kind::File, id, 5, name, 0, &secret).unwrap()
    }

    #[test]
    fn names_are_found_without_case_and_accents() {
        let mut catalog = Catalog::default();
        for name in ["Canção do Mar.ogg", "ΑΘΗΝΑ.txt", "Straße.pdf", "notes"] {
            catalog.insert(manifest(name));
        }
        let found = |text: &str| -> Vec<String> {
            let manifests = catalog.search(text);
            manifests.iter().map(|m| m.claims().name.clone()).collect()
        };
        assert_eq!(found("cancao"), ["Canção do Mar.ogg"]);
        assert_eq!(found("CANÇÃO"), ["Canção do Mar.ogg"]);
        assert_eq!(found("αθηνα"), ["ΑΘΗΝΑ.txt"]);
        assert_eq!(found("stras"), Vec::<String>::new());
        assert_eq!(found("straße"), ["Straße.pdf"]);
        assert_eq!(found(" "), Vec::<String>::new());
    }

    #[test]
    fn pages_follow_each_other_without_a_gap() {
        let mut catalog = Catalog::default();
        for n in 0..MAX_MANIFESTS + 10 {
            catalog.insert(manifest(&format!("file {n}")));
        }
        let (first, more) = catalog.page(None);
        assert_eq!((first.len(), more), (MAX_MANIFESTS, true));
        let last = first.last().map(|m| m.claims().content);
        let (second, more) = catalog.page(last);
        assert_eq!((second.len(), more), (10, false));
        catalog.remove(second[0].claims().content);
        assert_eq!(catalog.page(last).0.len(), 9);
    }
}
