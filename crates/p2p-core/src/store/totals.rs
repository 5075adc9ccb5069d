//! The totals: bytes that count against the quota. The batches keep them up to date, in memory and in the index.

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};

use super::{
    index::{ALL, CONTENTS, PATHS, TOTALS},
    record::{ContentRecord, PathRecord, Place, Record, State, Totals},
    space::index_growth,
};

impl Totals {
    pub(super) fn add(&mut self, other: Self) {
        self.downloads = self.downloads.saturating_add(other.downloads);
        self.partial = self.partial.saturating_add(other.partial);
        self.objects = self.objects.saturating_add(other.objects);
        self.growth = self.growth.saturating_add(other.growth);
    }

    pub(super) fn subtract(&mut self, other: Self) {
        self.downloads = self.downloads.saturating_sub(other.downloads);
        self.partial = self.partial.saturating_sub(other.partial);
        self.objects = self.objects.saturating_sub(other.objects);
        self.growth = self.growth.saturating_sub(other.growth);
    }

    pub(super) fn of_content(record: &ContentRecord) -> Self {
        let bytes = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        let size = bytes(record.size);
        match (&record.place, record.state) {
            (Place::Object, _) => Self {
                objects: size,
                ..Self::default()
            },
            (Place::Part(_), State::Partial) => Self {
                partial: size,
                growth: bytes(index_growth(record.size)),
                ..Self::default()
            },
            _ => Self::default(),
        }
    }

    pub(super) fn of_path(record: &PathRecord) -> Self {
        let size = i64::try_from(record.stamp.size).unwrap_or(i64::MAX);
        Self {
            downloads: if record.download { size } else { 0 },
            ..Self::default()
        }
    }
}

/// The totals, and whether the index keeps them; otherwise they are summed up.
pub(super) fn totals(database: &Database) -> Result<(Totals, bool), redb::Error> {
    let txn = database.begin_read()?;
    let known = txn.open_table(TOTALS)?.get(ALL)?;
    match known.and_then(|known| Totals::from_value(known.value())) {
        Some(totals) => Ok((totals, true)),
        None => Ok((sum(&txn)?, false)),
    }
}

pub(super) fn sum(txn: &ReadTransaction) -> Result<Totals, redb::Error> {
    let mut totals = Totals::default();
    for entry in txn.open_table(CONTENTS)?.range::<&[u8]>(..)? {
        if let Some(record) = ContentRecord::from_value(entry?.1.value()) {
            totals.add(Totals::of_content(&record));
        }
    }
    for entry in txn.open_table(PATHS)?.range::<&[u8]>(..)? {
        if let Some(record) = PathRecord::from_value(entry?.1.value()) {
            totals.add(Totals::of_path(&record));
        }
    }
    Ok(totals)
}

/// Adds a change to the totals that the file keeps. Without a sound record they are summed up when it is opened next.
pub(super) fn keep_totals(txn: &WriteTransaction, change: Totals) -> Result<(), redb::Error> {
    let mut table = txn.open_table(TOTALS)?;
    let known = table
        .get(ALL)?
        .and_then(|known| Totals::from_value(known.value()));
    match known {
        Some(mut totals) => {
            totals.add(change);
            table.insert(ALL, totals.to_value().as_slice())?;
        }
        None => _ = table.remove(ALL)?,
    }
    Ok(())
}
