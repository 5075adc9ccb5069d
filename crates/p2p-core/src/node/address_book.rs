//! Peers remembered from run to run, in `peers.toml`: a node that found good ones needs no bootstrap next time.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    content::{Address, NodeId},
    peers::{FoundBy, MAX_ADDRESSES, PeerInfo, Peers},
};

/// Peers remembered, the last seen first.
const MAX_REMEMBERED: usize = 64;
/// A longer file is not ours.
const MAX_FILE: u64 = 256 * 1024;

const FILE: &str = "peers.toml";

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Book {
    #[serde(default)]
    peer: Vec<Remembered>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remembered {
    id: String,
    addresses: Vec<String>,
    /// Unix seconds.
    last_seen: u64,
}

/// The peers worth remembering: those that were connected and speak our protocols, then those of earlier runs that were not
/// met in this one. A run that meets a single neighbour would else leave no way back to the others.
pub(crate) fn of(peers: &[PeerInfo]) -> Book {
    let mut good: Vec<&PeerInfo> = peers
        .iter()
        .filter(|info| is_good(info) && !info.addresses.is_empty())
        .collect();
    good.sort_by_key(|info| {
        let unmet = info.speaks_ours.is_none();
        (unmet, std::cmp::Reverse(info.last_seen))
    });
    good.truncate(MAX_REMEMBERED);
    Book {
        peer: good
            .into_iter()
            .map(|info| Remembered {
                id: info.peer.to_string(),
                addresses: info.addresses.iter().map(ToString::to_string).collect(),
                last_seen: info
                    .last_seen
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs()),
            })
            .collect(),
    }
}

fn is_good(info: &PeerInfo) -> bool {
    info.speaks_ours
        .unwrap_or_else(|| info.found.contains(&FoundBy::Cache))
}

/// Writes the book, if there is anything in it and a place for it. Losing it costs a search, so a failure is only told.
pub(crate) fn write(data_dir: Option<&Path>, book: &Book) {
    let Some(data_dir) = data_dir.filter(|_| !book.peer.is_empty()) else {
        return;
    };
    if let Err(error) = try_write(data_dir, book) {
        tracing::warn!(%error, "cannot remember peers");
    }
}

fn try_write(data_dir: &Path, book: &Book) -> io::Result<()> {
    let text = toml::to_string(book).map_err(io::Error::other)?;
    let path = data_dir.join(FILE);
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let temporary = data_dir.join("peers.toml.tmp");
    fs::write(&temporary, text)?;
    fs::rename(&temporary, &path)
}

/// Reads the remembered peers into the table. A damaged book is told and forgotten.
pub(crate) fn read(data_dir: &Path, peers: &mut Peers, now: SystemTime) {
    let book = match try_read(data_dir) {
        Ok(book) => book,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!(%error, "cannot read the remembered peers");
            return;
        }
    };
    for remembered in book.peer.into_iter().take(MAX_REMEMBERED) {
        let Ok(peer) = remembered.id.parse::<NodeId>() else {
            continue;
        };
        let seen = UNIX_EPOCH
            .checked_add(Duration::from_secs(remembered.last_seen))
            .unwrap_or(now)
            .min(now);
        for address in remembered.addresses.iter().take(MAX_ADDRESSES) {
            if let Ok(address) = address.parse::<Address>() {
                peers.on_found(peer, Some(address), FoundBy::Cache, seen);
            }
        }
    }
}

fn try_read(data_dir: &Path) -> io::Result<Book> {
    let path = data_dir.join(FILE);
    if fs::metadata(&path)?.len() > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too long"));
    }
    toml::from_str(&fs::read_to_string(&path)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_good_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let peer: NodeId = "12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf"
            .parse()
            .unwrap();
        let address: Address = "/ip4/192.168.1.7/tcp/4711".parse().unwrap();
        let mut peers = Peers::default();
        peers.on_connected(peer, address.clone(), false, false, now);
        assert_eq!(
            of(&peers.list()),
            Book::default(),
            "it has not said what it speaks"
        );
        peers.on_identified(peer, "p2p-core".into(), vec![], true, now);
        write(Some(dir.path()), &of(&peers.list()));
        let mut again = Peers::default();
        read(dir.path(), &mut again, now);
        assert_eq!(again.addresses(peer), [address]);
        assert_eq!(again.info(peer).unwrap().found, [FoundBy::Cache]);
    }

    /// One neighbour answers, one peer turns out to be something else, and of one there is but hearsay.
    #[test]
    fn those_of_earlier_runs_are_remembered_after_those_met_in_this_one() {
        let now = SystemTime::now();
        let node = |n: u8| NodeId::from_bytes(&[&[0x12_u8, 0x20][..], &[n; 32]].concat()).unwrap();
        let address: Address = "/ip4/192.168.1.7/tcp/4711".parse().unwrap();
        let mut peers = Peers::default();
        for n in 0..100_u8 {
            let seen = now - Duration::from_secs(n.into());
            peers.on_found(node(n), Some(address.clone()), FoundBy::Cache, seen);
        }
        peers.on_found(node(200), Some(address.clone()), FoundBy::Dht, now);
        for (n, speaks_ours) in [(99, true), (1, false)] {
            peers.on_connected(node(n), address.clone(), false, false, now);
            peers.on_identified(node(n), "agent".into(), vec![], speaks_ours, now);
        }
        let book = of(&peers.list());
        let ids: Vec<&str> = book.peer.iter().map(|peer| peer.id.as_str()).collect();
        let first = [99, 0, 2, 3].map(|n| node(n).to_string());
        assert_eq!(ids[..4], first);
        assert_eq!(ids.len(), MAX_REMEMBERED);
    }

    #[test]
    fn a_damaged_book_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "[[peer]]\nid = 7").unwrap();
        let mut peers = Peers::default();
        read(dir.path(), &mut peers, SystemTime::now());
        assert!(peers.list().is_empty());
    }
}
