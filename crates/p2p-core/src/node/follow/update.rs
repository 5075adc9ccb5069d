//! One look at a watched share: what is new is hashed and signed, and the share gets its new form. Blocks.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use crate::{
    audience::Audience,
    content::{Collection, ContentId, Entry, Kind, SignedManifest},
    node::{
        driver::clock,
        error::ShareError,
        gate::Gate,
        importing::{entries_of, name_of, now_unix, sign},
        inventory::{entries_here, forget_strays},
        keys::Keys,
    },
    store::{Imported, Look, Progress, ShareRecord, Store, Tree},
    watch::{Looked, QUIET, Work},
};

/// A share that is watched, as it was asked for.
#[derive(Debug, Clone)]
pub(in crate::node) struct Followed {
    /// Without symbolic links.
    pub(in crate::node) path: PathBuf,
    /// `None`: that of the file.
    pub(in crate::node) name: Option<String>,
    pub(in crate::node) unlisted: bool,
    pub(in crate::node) keep: bool,
    pub(in crate::node) audience: Audience,
    /// It was there before, or is when it first appears: false ends the following when the record is gone.
    pub(in crate::node) expected: bool,
}

impl Followed {
    /// One of an earlier run.
    pub(in crate::node) fn again(path: PathBuf, share: ShareRecord) -> Self {
        Self {
            // What goes by the name of its file goes by that of whatever takes its place.
            name: Some(share.name).filter(|name| *name != name_of(&path)),
            path,
            unlisted: share.unlisted,
            keep: share.keep,
            audience: share.audience,
            expected: false,
        }
    }
}

/// What became of a share.
pub(super) enum Outcome {
    /// It is as it was.
    Same,
    /// It is gone: these are to be withdrawn.
    Missing(Vec<ContentId>),
    /// It has a new form.
    Renewed(Box<Renewed>),
    /// It is shared no longer.
    Ended,
}

pub(super) struct Renewed {
    pub(super) before: Option<ContentId>,
    pub(super) manifest: SignedManifest,
    pub(super) added: Vec<ContentId>,
    pub(super) removed: Vec<ContentId>,
}

/// All that a look needs.
pub(super) struct Update<'a> {
    pub(super) store: &'a Store,
    pub(super) keys: &'a Keys,
    pub(super) gate: &'a Gate,
    pub(super) followed: &'a Followed,
    pub(super) work: &'a Work,
    /// Where something was lately.
    pub(super) gone: &'a [PathBuf],
    /// Everything was withdrawn and is to be announced again.
    pub(super) withdrawn: bool,
    pub(super) cancel: &'a AtomicBool,
    /// It is followed no longer.
    pub(super) ended: &'a AtomicBool,
}

/// What a share is now.
struct Form {
    kind: Kind,
    content: Imported,
    added: Vec<ContentId>,
    removed: Vec<ContentId>,
}

impl Update<'_> {
    /// What is hashed is for those whom the share is for, whatever becomes of it meanwhile; and is forgotten if it is shared
    /// no longer.
    pub(super) fn run(&self) -> Result<(Outcome, Looked), ShareError> {
        let Followed { path, audience, .. } = self.followed;
        let restricts = *audience != Audience::Everyone;
        let _hold = restricts.then(|| self.gate.hold(path, audience.clone()));
        let result = self.look_and_renew();
        if self.is_ended()? {
            forget_strays(self.store, path)?;
            return Ok((Outcome::Ended, Looked::default()));
        }
        result
    }

    fn is_ended(&self) -> Result<bool, ShareError> {
        let expected = self.followed.expected && !self.ended.load(Ordering::Relaxed);
        Ok(!expected && self.store.share(&self.followed.path)?.is_none())
    }

    fn look_and_renew(&self) -> Result<(Outcome, Looked), ShareError> {
        let path = &self.followed.path;
        let before = self.store.share(path)?;
        if before.is_none() && !self.followed.expected {
            return Ok((Outcome::Ended, Looked::default()));
        }
        let is_folder = match std::fs::symlink_metadata(path) {
            Ok(metadata) => metadata.is_dir(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((self.missing(before)?, Looked::default()));
            }
            // The look will say what is wrong.
            Err(_) => false,
        };
        let (tree, begun, form) = if is_folder {
            self.folder(before.as_ref())?
        } else {
            self.file(before.as_ref())?
        };
        let outcome = match form {
            Some(form) => self.renew(before, form)?,
            None => Outcome::Same,
        };
        for (path, why) in &tree.skipped {
            tracing::debug!(path = %path.display(), %why, "left out of a watched share");
        }
        let looked = Looked {
            failed: false,
            took: clock().0.saturating_duration_since(begun),
            unsettled: tree.unsettled,
            gone: tree.gone,
        };
        Ok((outcome, looked))
    }

    fn missing(&self, before: Option<ShareRecord>) -> Result<Outcome, ShareError> {
        self.store
            .doubt(std::slice::from_ref(&self.followed.path))?;
        let Some(before) = before.filter(|_| !self.withdrawn) else {
            return Ok(Outcome::Missing(Vec::new()));
        };
        let entries = entries_here(self.store, before.id)?;
        let mut ids = self.store.retire(&ids_of(&entries))?;
        ids.push(before.id);
        Ok(Outcome::Missing(ids))
    }

    fn look(&self, quiet: &[PathBuf]) -> Result<(Tree, Instant), ShareError> {
        let look = Look {
            quiet,
            busy: &self.work.busy,
            gone: self.gone,
            settle: QUIET,
        };
        let progress = Progress::new(&|_, _| {}, self.cancel);
        let tree = self.store.look(&self.followed.path, &look, &progress)?;
        Ok((tree, clock().0))
    }

    fn file(
        &self,
        before: Option<&ShareRecord>,
    ) -> Result<(Tree, Instant, Option<Form>), ShareError> {
        let (tree, begun) = self.look(&[PathBuf::new()])?;
        let form = tree.entries.first().map(|(_, file)| Form {
            kind: Kind::File,
            content: file.with_attributes_if(self.followed.keep),
            added: Vec::new(),
            removed: before.map(|before| before.id).into_iter().collect(),
        });
        Ok((tree, begun, form))
    }

    fn folder(
        &self,
        before: Option<&ShareRecord>,
    ) -> Result<(Tree, Instant, Option<Form>), ShareError> {
        let old = match before {
            Some(before) => entries_here(self.store, before.id)?,
            None => Vec::new(),
        };
        // Without the old listing, as if it had been an empty folder, nothing can be added to it.
        let everything = [PathBuf::new()];
        let places: &[PathBuf] = if old.is_empty() {
            &everything
        } else {
            &self.work.quiet
        };
        let (mut tree, begun) = self.look(places)?;
        let looked_at: BTreeSet<&Path> = places
            .iter()
            .chain(&self.work.busy)
            .map(PathBuf::as_path)
            .collect();
        let (replaced, mut entries): (Vec<Entry>, Vec<Entry>) =
            old.into_iter().partition(|entry| {
                let mut above = Path::new(&entry.path).ancestors();
                above.any(|place| looked_at.contains(place))
            });
        let mut new = entries_of(std::mem::take(&mut tree.entries), self.followed.keep);
        let waited_for = self.waited_for(&tree.unsettled);
        let as_before = replaced.iter();
        let as_before = as_before.filter(|entry| waited_for.contains(Path::new(&entry.path)));
        new.extend(as_before.cloned());
        new.sort_by(|a, b| a.path.cmp(&b.path));
        let is_same = before.is_some() && replaced == new;
        if is_same && !self.withdrawn {
            return Ok((tree, begun, None));
        }
        let mut added = ids_of(&new);
        entries.extend(new);
        let ids = ids_of(&entries);
        let collection = Collection::from_entries(entries)?;
        let bytes = collection.encode();
        self.gate.add(ContentId::of(&bytes), &self.followed.path);
        let content = Imported {
            id: self.store.put_object(&bytes)?,
            size: bytes.len() as u64,
            attributes: None,
        };
        let was: BTreeSet<ContentId> = replaced.iter().map(|entry| entry.content).collect();
        added.retain(|id| !was.contains(id));
        let removed = was
            .difference(&ids.iter().copied().collect())
            .copied()
            .collect();
        let form = Form {
            kind: Kind::Collection,
            content,
            added: if self.withdrawn { ids } else { added },
            removed,
        };
        Ok((tree, begun, Some(form)))
    }

    /// Of the files that are being written to, those that stay listed as they were for now.
    fn waited_for<'a>(&self, unsettled: &'a [PathBuf]) -> BTreeSet<&'a Path> {
        let places = unsettled
            .iter()
            .filter_map(|path| path.strip_prefix(&self.followed.path).ok());
        places
            .filter(|place| !self.work.lasting.contains(*place))
            .collect()
    }

    /// Signs the new form and has the share be that.
    fn renew(&self, before: Option<ShareRecord>, form: Form) -> Result<Outcome, ShareError> {
        let path = &self.followed.path;
        let name = self.followed.name.clone();
        let name = name.unwrap_or_else(|| name_of(path));
        let id = form.content.id;
        let was = before.as_ref().map(|before| before.id);
        if was == Some(id) && !self.withdrawn {
            return Ok(Outcome::Same);
        }
        let manifest = sign(self.store, self.keys, form.kind, form.content, &name)?;
        let kind = form.kind;
        let record = match before.clone() {
            Some(before) => ShareRecord {
                id,
                kind,
                name,
                ..before
            },
            None => self.first_record(id, kind, name),
        };
        let is_ended = before.is_none() && self.ended.load(Ordering::Relaxed);
        if is_ended || !self.store.replace_share(path, before.as_ref(), &record)? {
            // Shared anew, or no longer, while this was hashed.
            return Ok(Outcome::Same);
        }
        let mut removed = form.removed;
        removed.retain(|gone| *gone != id);
        let removed = self.store.retire(&removed)?;
        if let Some(before) = before.filter(|before| before.id != id)
            && before.kind == Kind::Collection
            && self.store.shares_of(before.id)?.is_empty()
        {
            self.store.forget(before.id, false)?;
            self.gate.remove(before.id, path);
        }
        Ok(Outcome::Renewed(Box::new(Renewed {
            before: was,
            manifest,
            added: form.added,
            removed,
        })))
    }

    /// Of what appears for the first time.
    fn first_record(&self, id: ContentId, kind: Kind, name: String) -> ShareRecord {
        ShareRecord {
            id,
            kind,
            name,
            unlisted: self.followed.unlisted,
            added: now_unix(),
            watched: true,
            keep: self.followed.keep,
            audience: self.followed.audience.clone(),
        }
    }
}

/// Each once.
fn ids_of(entries: &[Entry]) -> Vec<ContentId> {
    let ids: BTreeSet<ContentId> = entries.iter().map(|entry| entry.content).collect();
    ids.into_iter().collect()
}
