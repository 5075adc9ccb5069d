//! What is believed of the answers to a search, and what they come to. An answer is believed if all of it is what an honest
//! node may say: manifests that verify, names that were searched for, each content once. What is found is named once for
//! each content, with the claim that most peers make of it.
//!
//! No limit on spam: a peer may sign any names it likes. What one peer says crowds out nothing of what others say, though:
//! if there is too much in all, each of them loses what came last in its answer.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::words::{Wanted, fold};
use crate::content::{ContentId, Kind, NodeId, PublisherKey, SignedManifest, TrustPolicy};

/// Contents that one search finds at most: more than anybody looks through.
const MAX_FOUND: usize = 10_000;

/// What a manifest says, whose signature was verified and whose name is one that was searched for. Only [`check`] makes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    pub(crate) content: ContentId,
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) kind: Kind,
    pub(crate) publisher: PublisherKey,
}

/// Why an answer is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lie {
    #[error("a manifest that its publisher has not signed")]
    Signature,
    #[error("a name that was not searched for")]
    Name,
    #[error("the same content twice")]
    Twice,
    #[error("more, or something else, than was asked for")]
    Form,
}

/// Checks an answer. It verifies signatures, which takes 50 µs each.
pub(crate) fn check(wanted: &Wanted, manifests: &[SignedManifest]) -> Result<Vec<Claim>, Lie> {
    let mut seen = BTreeSet::new();
    let mut claims = Vec::with_capacity(manifests.len());
    for manifest in manifests {
        let claimed = manifest.claims();
        if !seen.insert(claimed.content) {
            return Err(Lie::Twice);
        }
        if !wanted.matches(&fold(&claimed.name)) {
            return Err(Lie::Name);
        }
        let signed = manifest.verify(&TrustPolicy::Signed);
        let signed = signed.map_err(|_| Lie::Signature)?;
        claims.push(Claim {
            content: signed.content,
            name: signed.name.clone(),
            size: signed.size,
            kind: signed.kind,
            publisher: signed.publisher,
        });
    }
    Ok(claims)
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) claim: Claim,
    /// The first that made this claim.
    pub(crate) peer: NodeId,
    /// Peers that have the content, whatever they call it.
    pub(crate) providers: usize,
}

/// What was said of one content.
#[derive(Debug)]
struct Said {
    /// Its place in the answer in which it came earliest.
    place: usize,
    /// Each claim, and who made it, in the order in which they answered.
    claims: BTreeMap<Claim, Vec<NodeId>>,
}

/// Everything found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    answered: BTreeSet<NodeId>,
    contents: BTreeMap<ContentId, Said>,
}

impl Findings {
    /// A peer answered. Whoever has answered already is not heard again.
    pub(crate) fn add(&mut self, peer: NodeId, claims: Vec<Claim>) {
        if !self.answered.insert(peer) {
            return;
        }
        for (place, claim) in claims.into_iter().enumerate() {
            let said = self.contents.entry(claim.content).or_insert(Said {
                place,
                claims: BTreeMap::new(),
            });
            said.place = said.place.min(place);
            said.claims.entry(claim).or_default().push(peer);
        }
    }

    /// What was found: first what most peers have.
    pub(crate) fn into_found(self) -> Vec<Finding> {
        let mut contents: Vec<Said> = self.contents.into_values().collect();
        if contents.len() > MAX_FOUND {
            contents.sort_by_key(|said| said.place);
            contents.truncate(MAX_FOUND);
        }
        let mut found: Vec<Finding> = contents.into_iter().filter_map(Said::conclude).collect();
        found.sort_by(|a, b| {
            let order = |one: &Finding| (Reverse(one.providers), one.claim.content);
            order(a).cmp(&order(b))
        });
        found
    }
}

impl Said {
    fn conclude(self) -> Option<Finding> {
        let providers = self.claims.values().map(Vec::len).sum();
        // Of those that as many make, the first in their order.
        let most = |(_, peers): &(Claim, Vec<NodeId>)| Reverse(peers.len());
        let (claim, peers) = self.claims.into_iter().min_by_key(most)?;
        Some(Finding {
            claim,
            peer: *peers.first()?,
            providers,
        })
    }
}

#[cfg(test)]
#[path = "findings_tests.rs"]
mod findings_tests;
