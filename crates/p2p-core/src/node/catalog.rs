//! What this node shows to those who know no id: its public shares, by pages and by name. Pure.

use std::collections::BTreeMap;

use crate::{
    audience::{Asker, Audience},
    content::{ContentId, SignedManifest},
    names::{Wanted, fold},
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
    audience: Audience,
}

impl Entry {
    fn for_everyone(self) -> Option<SignedManifest> {
        (self.audience == Audience::Everyone).then_some(self.manifest)
    }
}

impl Catalog {
    /// Shows a share to those it is for. Returns what was shown to everyone under its id.
    pub(crate) fn insert(
        &mut self,
        manifest: SignedManifest,
        audience: Audience,
    ) -> Option<SignedManifest> {
        let claims = manifest.claims();
        let id = claims.content;
        let entry = Entry {
            folded: fold(&claims.name),
            manifest,
            audience,
        };
        self.shares.insert(id, entry).and_then(Entry::for_everyone)
    }

    /// Shows it no longer. Returns what was shown to everyone.
    pub(crate) fn remove(&mut self, id: ContentId) -> Option<SignedManifest> {
        self.shares.remove(&id).and_then(Entry::for_everyone)
    }

    /// The names of all that is shown to everyone.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let entries = self.shares.values();
        let entries = entries.filter(|entry| entry.audience == Audience::Everyone);
        entries.map(|entry| entry.manifest.claims().name.as_str())
    }

    /// The shares after this id, as many as one reply holds, and whether more follow.
    pub(crate) fn page(
        &self,
        after: Option<ContentId>,
        asker: &Asker,
    ) -> (Vec<SignedManifest>, bool) {
        let start = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let rest = self.shares.range((start, std::ops::Bound::Unbounded));
        let mut rest = rest.filter(|(_, entry)| entry.audience.includes(asker));
        let page: Vec<SignedManifest> = rest
            .by_ref()
            .take(MAX_MANIFESTS)
            .map(|(_, entry)| entry.manifest.clone())
            .collect();
        (page, rest.next().is_some())
    }

    /// Shares whose name contains each part of the text, whatever the case and the accents.
    pub(crate) fn search(&self, text: &str, asker: &Asker) -> Vec<SignedManifest> {
        let wanted = Wanted::new(text);
        self.shares
            .values()
            .filter(|entry| wanted.matches(&entry.folded) && entry.audience.includes(asker))
            .take(MAX_MANIFESTS)
            .map(|entry| entry.manifest.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Kind, PublisherSecret};

    fn anyone() -> Asker {
        let key = crate::net::NodeKey::from_secret([1; 32]).unwrap();
        let (peer, near) = (key.node_id().unwrap(), false);
        Asker { peer, near }
    }

    fn manifest(name: &str) -> SignedManifest {
        let secret = PublisherSecret::from_bytes([7; 32]);
        let id = ContentId::of(name.as_bytes());
        SignedManifest::sign(Kind::File, id, 5, name, 0, &secret).unwrap()
    }

    #[test]
    fn names_are_found_without_case_and_accents() {
        let mut catalog = Catalog::default();
        for name in ["Canção do Mar.ogg", "ΑΘΗΝΑ.txt", "Straße.pdf", "notes"] {
            catalog.insert(manifest(name), Audience::Everyone);
        }
        let found = |text: &str| -> Vec<String> {
            let manifests = catalog.search(text, &anyone());
            manifests.iter().map(|m| m.claims().name.clone()).collect()
        };
        assert_eq!(found("cancao"), ["Canção do Mar.ogg"]);
        assert_eq!(found("CANÇÃO"), ["Canção do Mar.ogg"]);
        assert_eq!(found("mar canção"), ["Canção do Mar.ogg"]);
        assert_eq!(found("αθηνα"), ["ΑΘΗΝΑ.txt"]);
        assert_eq!(found("stras"), Vec::<String>::new());
        assert_eq!(found("straße"), ["Straße.pdf"]);
        assert_eq!(found(" "), Vec::<String>::new());
    }

    #[test]
    fn pages_follow_each_other_without_a_gap() {
        let mut catalog = Catalog::default();
        for n in 0..MAX_MANIFESTS + 10 {
            catalog.insert(manifest(&format!("file {n}")), Audience::Everyone);
        }
        let (first, more) = catalog.page(None, &anyone());
        assert_eq!((first.len(), more), (MAX_MANIFESTS, true));
        let last = first.last().map(|m| m.claims().content);
        let (second, more) = catalog.page(last, &anyone());
        assert_eq!((second.len(), more), (10, false));
        catalog.remove(second[0].claims().content);
        assert_eq!(catalog.page(last, &anyone()).0.len(), 9);
    }

    #[test]
    fn a_share_is_shown_to_those_it_is_for() {
        let mut catalog = Catalog::default();
        catalog.insert(manifest("for the house"), Audience::Lan);
        catalog.insert(manifest("for nobody"), Audience::Peers([].into()));
        let (stranger, neighbour) = (
            anyone(),
            Asker {
                near: true,
                ..anyone()
            },
        );
        assert!(catalog.search("for", &stranger).is_empty());
        assert_eq!(catalog.page(None, &stranger), (Vec::new(), false));
        assert_eq!(
            catalog.search("for", &neighbour),
            [manifest("for the house")]
        );
        assert_eq!(
            catalog.page(None, &neighbour).0,
            [manifest("for the house")]
        );
    }
}
