//! Records in the DHT say where this node is. When that changes they are sent again, or those who find them would knock at
//! the wrong door until the next round of the announcer.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::content::Address;

/// Several addresses come and go together.
const SETTLE: Duration = Duration::from_secs(2);
/// A node that moves all the time tells it at most this often.
const PAUSE: Duration = Duration::from_secs(60);
/// The file in the data directory with the addresses of the records that are out, one to a line.
const FILE: &str = "announced-at.txt";
/// The file is read so far at most.
const MAX_FILE: usize = 64 * 1024;

/// Where the records say that this node is, and whether that is still so.
#[derive(Debug)]
pub(super) struct Moves {
    told: BTreeSet<String>,
    due: Option<Instant>,
    not_before: Instant,
    file: Option<PathBuf>,
}

impl Moves {
    /// With what the records of the last run say, if there was one.
    pub(super) fn new(data_dir: Option<&Path>, now: Instant) -> Self {
        let file = data_dir.map(|dir| dir.join(FILE));
        let text = file.as_deref().and_then(|file| std::fs::read(file).ok());
        let text = text.filter(|text| text.len() <= MAX_FILE);
        let text = String::from_utf8(text.unwrap_or_default()).unwrap_or_default();
        Self {
            told: text.lines().map(ToOwned::to_owned).collect(),
            due: None,
            not_before: now,
            file,
        }
    }

    /// An address has come or gone.
    pub(super) fn on_change(&mut self, now: Instant) {
        self.due = Some((now + SETTLE).max(self.not_before));
    }

    /// When [`Self::take`] may say yes.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it is time to send the records again, with these addresses. While they are but some of those told, nobody is
    /// led to a wrong door by all of them: after a start, the rest are confirmed within seconds.
    pub(super) fn take(&mut self, addresses: &[Address], now: Instant) -> Option<Written> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.due = None;
        let told: BTreeSet<String> = addresses.iter().map(ToString::to_string).collect();
        if told.is_subset(&self.told) {
            return None;
        }
        self.told = told;
        self.not_before = now + PAUSE;
        let lines = self.told.iter().map(|address| format!("{address}\n"));
        Some(Written {
            file: self.file.clone(),
            text: lines.collect(),
        })
    }
}

/// What is to be written down of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    file: Option<PathBuf>,
    text: String,
}

impl Written {
    /// Blocks. A file that is lost or torn costs one more round of announcements.
    pub(super) fn write(&self) {
        let Some(file) = &self.file else { return };
        if let Err(error) = std::fs::write(file, &self.text) {
            tracing::warn!(path = %file.display(), %error, "the addresses announced could not be written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_told_once_when_it_has_settled_and_not_too_often() {
        let dir = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut moves = Moves::new(Some(dir.path()), now);
        let at = |text: &str| text.parse::<Address>().unwrap();
        let (one, two) = (at("/ip4/45.0.0.1/tcp/1"), at("/ip4/45.0.0.2/tcp/1"));
        assert_eq!(moves.take(std::slice::from_ref(&one), now + PAUSE), None);
        moves.on_change(now);
        let settled = moves.next_deadline().unwrap();
        assert_eq!(moves.take(std::slice::from_ref(&one), now), None);
        let told = moves.take(std::slice::from_ref(&one), settled);
        told.unwrap().write();
        // The same again, and none at all, are no news.
        for addresses in [vec![one.clone()], vec![]] {
            moves.on_change(settled);
            assert_eq!(moves.take(&addresses, settled + PAUSE), None);
        }
        moves.on_change(settled);
        assert_eq!(moves.next_deadline(), Some(settled + PAUSE));
        let both = [one.clone(), two.clone()];
        assert!(moves.take(&both, settled + PAUSE).is_some());
        // After a restart: the same place, and another.
        let mut again = Moves::new(Some(dir.path()), now);
        again.on_change(now);
        assert_eq!(again.take(std::slice::from_ref(&one), settled), None);
        again.on_change(now);
        assert!(again.take(&[two], settled).is_some());
    }

    #[test]
    fn addresses_that_are_confirmed_one_by_one_after_a_restart_are_no_move() {
        let dir = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut moves = Moves::new(Some(dir.path()), now);
        let at = |text: &str| text.parse::<Address>().unwrap();
        let (one, two) = (at("/ip4/45.0.0.1/tcp/1"), at("/ip4/45.0.0.2/tcp/1"));
        moves.on_change(now);
        let both = [one.clone(), two];
        moves.take(&both, now + SETTLE).unwrap().write();
        let mut again = Moves::new(Some(dir.path()), now);
        for addresses in [vec![], both[1..].to_vec(), both.to_vec()] {
            again.on_change(now);
            assert_eq!(again.take(&addresses, now + SETTLE), None);
        }
        again.on_change(now);
        let elsewhere = [one, at("/ip4/45.0.0.3/tcp/1")];
        assert!(again.take(&elsewhere, now + SETTLE).is_some());
    }
}
