//! Shares that are not for everyone, between real nodes over loopback.

use std::{fs, time::Duration};

use tokio::sync::oneshot;

use super::*;
use crate::{
    Address, Config, FetchError, Node, NodeId, PeerState, ShareRef,
    net::wire::{Query, Reply},
    node::{command::Command, share::Announcement},
};

const DEADLINE: Duration = Duration::from_secs(30);
/// How long a stranger looks, which it does in vain.
const PATIENCE: Duration = Duration::from_secs(2);

fn config(dir: &Path, bootstrap: Vec<Address>) -> Config {
    let mut config = Config::default().with_data_dir(dir);
    config.network.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.network.mdns = false;
    config.network.upnp = false;
    config.network.bootstrap = bootstrap;
    config.storage.min_free = 0;
    config
}

/// What is in the folder, over and over.
const FILES: [(&str, &str); 3] = [("a.txt", "one"), ("b/c.txt", "two"), ("b/d.txt", "three")];

/// The id of one of these files.
fn file(number: usize) -> ContentId {
    ContentId::of(FILES[number].1.repeat(100_000).as_bytes())
}

/// A node that shares, one that it shares with, and one that it does not.
struct House {
    dir: tempfile::TempDir,
    source: Node,
    friend: Node,
    stranger: Node,
}

impl House {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in FILES {
            let path = dir.path().join("folder").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text.repeat(100_000)).unwrap();
        }
        let data = |name: &str| dir.path().join(name);
        let source = Node::start(config(&data("source"), Vec::new())).await;
        let source = source.unwrap();
        let other = async |name: &str| {
            let node = Node::start(config(&data(name), source.addresses())).await;
            let node = node.unwrap();
            node.connect(source.addresses()[0].clone()).await.unwrap();
            node
        };
        let (friend, stranger) = (other("friend").await, other("stranger").await);
        Self {
            dir,
            source,
            friend,
            stranger,
        }
    }

    fn friends(&self) -> Audience {
        Audience::Peers([self.friend.id()].into())
    }

    async fn get(&self, node: &Node, id: ContentId, name: &str) -> Result<(), FetchError> {
        self.get_within(node, id, name, DEADLINE).await
    }

    /// Tries to get what this node may not have.
    async fn is_refused(&self, node: &Node, id: ContentId) -> bool {
        let stolen = self.get_within(node, id, "stolen", PATIENCE).await;
        matches!(stolen, Err(FetchError::NotFound { .. }))
    }

    async fn get_within(
        &self,
        node: &Node,
        id: ContentId,
        name: &str,
        timeout: Duration,
    ) -> Result<(), FetchError> {
        let target = self.dir.path().join(name);
        let fetch = node.fetch(id).to(target).timeout(timeout);
        fetch.start().await?.await.map(drop)
    }

    /// Whether what is shared as this is announced.
    async fn is_announced(&self, id: ContentId) -> bool {
        let shares = self.source.shares().await.unwrap();
        let mut shares = shares.iter().filter(|share| share.id == id);
        shares.any(|share| share.announced != Announcement::Off)
    }

    /// Starts the source again.
    async fn restart(mut self) -> Self {
        let data = self.dir.path().join("source");
        let id = self.source.id();
        self.source.shutdown().await;
        for node in [&self.friend, &self.stranger] {
            // Who takes the old connection for one that lives would not make another.
            let is_there = || {
                let mut peers = node.peers().into_iter();
                peers.any(|peer| peer.peer == id && peer.state == PeerState::Connected)
            };
            while is_there() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.source = Node::start(config(&data, Vec::new())).await.unwrap();
        let address = self.source.addresses()[0].clone();
        for node in [&self.friend, &self.stranger] {
            node.connect(address.clone()).await.unwrap();
        }
        self
    }

    async fn stop(self) {
        for node in [self.stranger, self.friend, self.source] {
            node.shutdown().await;
        }
    }
}

async fn ask(node: &Node, peer: NodeId, query: Query) -> Reply {
    let (reply, answer) = oneshot::channel();
    node.send(Command::Ask { peer, query, reply })
        .await
        .unwrap();
    // An answer that waits for news would tell that there is something to have news of.
    let answer = tokio::time::timeout(Duration::from_secs(5), answer).await;
    answer.expect("an answer at once").unwrap().unwrap()
}

/// All that can be asked about a content.
fn questions(content: ContentId) -> Vec<Query> {
    let have = |entries, known| Query::Have {
        content,
        entries,
        known,
    };
    vec![
        have(false, None),
        have(false, Some(0)),
        have(true, None),
        Query::Manifests { content },
        Query::Outline {
            content,
            page: None,
        },
        Query::Outline {
            content,
            page: Some(0),
        },
        Query::Providers { content },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn to_a_stranger_it_is_as_if_it_were_not_there() {
    let house = House::new().await;
    let folder = house.dir.path().join("folder");
    let share = house.source.share(&folder).audience(house.friends());
    let id = share.await.unwrap().id;

    let source = house.source.id();
    let unknown = ContentId::of(b"nobody has this");
    for known in [id, file(0), file(1), file(2)] {
        for (asked, other) in questions(known).into_iter().zip(questions(unknown)) {
            let text = format!("{asked:?}");
            let told = ask(&house.stranger, source, asked).await;
            assert_eq!(told, ask(&house.stranger, source, other).await, "{text}");
        }
        // Who is asked for blocks says that there are none.
        assert!(house.is_refused(&house.stranger, known).await, "{known}");
    }
    assert!(house.stranger.catalog(source).await.unwrap().is_empty());
    assert_eq!(house.friend.catalog(source).await.unwrap().len(), 1);
    let found = house.stranger.find("folder", PATIENCE).await.unwrap();
    assert!(found.is_empty(), "{found:?}");
    let shares = house.source.shares().await.unwrap();
    assert_eq!(shares[0].audience, house.friends());
    assert_eq!(shares[0].announced, Announcement::Off);
    // Last, because who has it may pass it on.
    house.get(&house.friend, id, "copy").await.unwrap();
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_share_is_for_can_be_changed_and_outlives_a_restart() {
    let mut house = House::new().await;
    let folder = house.dir.path().join("folder");
    let open = house.source.share(&folder).await.unwrap();
    house.get(&house.stranger, file(0), "first").await.unwrap();

    // Closed: also what was served a moment ago.
    let nobody = Audience::Peers([].into());
    house.source.share(&folder).audience(nobody).await.unwrap();
    for node in [&house.friend, &house.stranger] {
        assert!(house.is_refused(node, file(1)).await);
    }
    house = house.restart().await;
    for node in [&house.friend, &house.stranger] {
        assert!(house.is_refused(node, file(1)).await);
    }

    // A folder within it is for those whom both are for.
    let inner = folder.join("b");
    let share = house.source.share(&inner).audience(house.friends());
    let inner = share.await.unwrap();
    assert!(house.is_refused(&house.friend, file(1)).await);
    house.source.share(&folder).await.unwrap();
    assert!(house.is_refused(&house.stranger, file(1)).await);
    house.get(&house.friend, file(1), "second").await.unwrap();
    let path = ShareRef::Path(inner.path.clone());
    house.source.unshare(path).await.unwrap();
    house.source.share(&folder).await.unwrap();
    house.get(&house.stranger, open.id, "all").await.unwrap();
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_bytes_and_watched_folders_are_restricted_as_well() {
    let house = House::new().await;
    let folder = house.dir.path().join("folder");
    let file = house.dir.path().join("single");
    fs::write(&file, "a single file").unwrap();
    let source = &house.source;
    let copied = source.share(&file).copy(true).audience(house.friends());
    let copied = copied.await.unwrap();
    fs::remove_file(&file).unwrap();
    let bytes = source
        .share_bytes("bytes", "some bytes")
        .audience(house.friends());
    let bytes = bytes.await.unwrap();
    let watched = source.share(&folder).watch(true).audience(house.friends());
    let watched = watched.await.unwrap();
    fs::write(folder.join("new"), "a new file").unwrap();
    let new = ContentId::of(b"a new file");
    let renewed = async {
        loop {
            let shares = source.shares().await.unwrap();
            let share = shares.iter().find(|share| share.path == folder).unwrap();
            if share.id != watched.id {
                return share.id;
            }
        }
    };
    let renewed = tokio::time::timeout(DEADLINE, renewed).await.unwrap();
    let ids = [copied.id, bytes.id, new, renewed];
    for (number, id) in ids.into_iter().enumerate() {
        assert!(house.is_refused(&house.stranger, id).await, "{number}");
        let name = format!("copy {number}");
        house.get(&house.friend, id, &name).await.unwrap();
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_appears_later_is_for_those_it_was_to_be_for() {
    let house = House::new().await;
    let later = house.dir.path().join("later");
    // As somebody may write it who stands somewhere else.
    let above = std::env::current_dir().unwrap().components().count() - 1;
    let mut written: std::path::PathBuf = std::iter::repeat_n("..", above).collect();
    written.push(later.strip_prefix("/").unwrap());
    let share = house.source.share(&written).watch(true);
    let missing = share.audience(house.friends()).await;
    assert!(
        matches!(missing, Err(crate::ShareError::Import(_))),
        "{missing:?}"
    );
    fs::write(&later, "not there yet").unwrap();
    let appears = async {
        while house.source.shares().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, appears).await.unwrap();
    let id = ContentId::of(b"not there yet");
    assert!(house.is_refused(&house.stranger, id).await);
    house.get(&house.friend, id, "copy").await.unwrap();
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_fails_leaves_nothing_behind() {
    let house = House::new().await;
    let folder = house.dir.path().join("folder");
    let share = house.source.share(&folder).audience(house.friends());
    let failed = share.name("a/b").await;
    assert!(
        matches!(failed, Err(crate::ShareError::Name(_))),
        "{failed:?}"
    );
    assert!(house.source.contents().await.unwrap().is_empty());
    assert!(house.is_refused(&house.stranger, file(0)).await);
    // What another share lists stays, and is for everyone again.
    house.source.share(&folder).await.unwrap();
    let share = house.source.share(&folder).audience(house.friends());
    assert!(share.name("a/b").await.is_err());
    house.get(&house.stranger, file(0), "first").await.unwrap();
    house.stop().await;
}

/// As if the node had been killed while it hashed.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_being_shared_stays_restricted_after_a_restart() {
    let mut house = House::new().await;
    let folder = fs::canonicalize(house.dir.path().join("folder")).unwrap();
    let (at, audience) = (folder.clone(), house.friends());
    let hashing = house.source.with_store(move |store| {
        store.begin_share(&at, audience).unwrap();
        let cancel = std::sync::atomic::AtomicBool::new(false);
        let progress = crate::store::Progress::new(&|_, _| {}, &cancel);
        store.import_tree(&at, &progress).unwrap();
    });
    hashing.await.unwrap();
    house = house.restart().await;
    assert!(house.is_refused(&house.stranger, file(0)).await);
    house.get(&house.friend, file(0), "first").await.unwrap();
    // Not to share it after all is to forget it.
    let unshared = house.source.unshare(ShareRef::Path(folder.clone())).await;
    assert!(
        matches!(unshared, Err(crate::ShareError::NotShared(_))),
        "{unshared:?}"
    );
    assert!(house.is_refused(&house.friend, file(1)).await);
    house.source.share(&folder).await.unwrap();
    house.get(&house.stranger, file(1), "third").await.unwrap();
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_shares_of_the_same_the_one_that_is_left_counts() {
    let house = House::new().await;
    let folder = house.dir.path().join("folder");
    let twin = house.dir.path().join("twin");
    fs::create_dir(&twin).unwrap();
    for (path, text) in FILES {
        let path = twin.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text.repeat(100_000)).unwrap();
    }
    let share = house.source.share(&folder).audience(house.friends());
    let first = share.await.unwrap();
    let share = house.source.share(&twin).audience(house.friends());
    let second = share.await.unwrap();
    assert_eq!(first.id, second.id);
    let unshared = house.source.unshare(ShareRef::Path(second.path)).await;
    assert_eq!(unshared.unwrap().len(), 1);
    assert!(house.is_refused(&house.stranger, first.id).await);

    // What is for everyone, too, is shown to those whom both are for, and stays so when the one for everyone ends.
    let source = house.source.id();
    house.source.share(&twin).await.unwrap();
    assert!(house.stranger.catalog(source).await.unwrap().is_empty());
    assert!(!house.is_announced(first.id).await);
    let unshared = house.source.unshare(ShareRef::Path(twin.clone())).await;
    assert_eq!(unshared.unwrap().len(), 1);
    assert!(house.stranger.catalog(source).await.unwrap().is_empty());
    let shown = house.friend.catalog(source).await.unwrap();
    assert_eq!(shown.len(), 1);
    house.get(&house.friend, first.id, "copy").await.unwrap();

    // One that was restricted ends: what is left is for everyone, and shown to everyone.
    house.source.share(&twin).await.unwrap();
    let share = house.source.share(&folder).audience(house.friends());
    share.await.unwrap();
    assert!(house.stranger.catalog(source).await.unwrap().is_empty());
    let unshared = house.source.unshare(ShareRef::Path(folder)).await;
    assert_eq!(unshared.unwrap().len(), 1);
    assert_eq!(house.stranger.catalog(source).await.unwrap().len(), 1);
    assert!(house.is_announced(first.id).await);
    house.get(&house.stranger, first.id, "open").await.unwrap();
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_two_shares_is_for_whom_the_one_is_that_is_left() {
    let house = House::new().await;
    let [open, closed] = ["open.txt", "closed.txt"].map(|name| house.dir.path().join(name));
    for path in [&open, &closed] {
        fs::write(path, FILES[0].1.repeat(100_000)).unwrap();
    }
    house.source.share(&open).await.unwrap();
    let share = house.source.share(&closed).audience(house.friends());
    share.await.unwrap();
    house.get(&house.stranger, file(0), "first").await.unwrap();
    let forget = async |node: &Node| node.remove(file(0), true).await.unwrap();
    forget(&house.stranger).await;
    let unshared = house.source.unshare(ShareRef::Path(open.clone())).await;
    assert_eq!(unshared.unwrap().len(), 1);
    assert!(house.is_refused(&house.stranger, file(0)).await);
    assert!(!house.is_announced(file(0)).await);
    // It is served from where it is shared.
    fs::remove_file(&open).unwrap();
    house.get(&house.friend, file(0), "second").await.unwrap();
    forget(&house.friend).await;

    let house = house.restart().await;
    assert!(house.is_refused(&house.stranger, file(0)).await);
    // A folder that has it, too, is for everyone, and is left in its turn.
    let folder = house.dir.path().join("folder");
    house.source.share(&folder).await.unwrap();
    house.source.unshare(ShareRef::Path(closed)).await.unwrap();
    house.get(&house.stranger, file(0), "third").await.unwrap();
    forget(&house.stranger).await;
    house.source.share(folder.join("a.txt")).await.unwrap();
    let unshared = house.source.unshare(ShareRef::Path(folder.join("a.txt")));
    assert_eq!(unshared.await.unwrap().len(), 1);
    house.get(&house.stranger, file(0), "fourth").await.unwrap();
    forget(&house.stranger).await;
    house.source.unshare(ShareRef::Path(folder)).await.unwrap();
    assert!(house.is_refused(&house.stranger, file(0)).await);
    house.stop().await;
}
