//! A node of a simulated network: what [`Net`] is, and a task that does as it is told.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    future::poll_fn,
    pin::pin,
    task::Poll,
    time::Instant,
};

use futures::future::Either;
use tokio::sync::{mpsc, oneshot};

use super::{
    CONNECTIONS, Found,
    name_simulation::{Names, Searched},
};
use crate::{
    content::{Address, ContentId, NodeId, SignedManifest},
    net::{GroupId, LookupId, Net, NetEvent},
};

thread_local! {
    /// Of the node that is running on this thread: how many answers led to whom, in the look-up under way.
    static PATHS: RefCell<Option<HashMap<String, u32>>> = const { RefCell::new(None) };
}

/// An answer of `source` named `peer`. For whoever listens to kad's trace.
pub fn note_named(source: &str, peer: &str) {
    PATHS.with_borrow_mut(|paths| {
        if let Some(paths) = paths {
            let depth = paths.get(source).copied().unwrap_or(0) + 1;
            let held = paths.entry(peer.to_owned()).or_insert(depth);
            *held = depth.min(*held);
        }
    });
}

/// Whether the node that is running on this thread follows a look-up.
#[must_use]
pub fn notes_named() -> bool {
    PATHS.with_borrow(Option::is_some)
}

pub(super) enum Order {
    Dial(NodeId, Address),
    Announce(ContentId, oneshot::Sender<bool>),
    Lookup(ContentId, NodeId, oneshot::Sender<Found>),
    Facts(oneshot::Sender<Facts>),
    /// Show a share.
    Show(Box<SignedManifest>),
    /// Search by name until this is found.
    Find(String, ContentId, oneshot::Sender<Searched>),
    /// From now on, answer nothing.
    Silence,
}

#[derive(Default)]
pub(super) struct Facts {
    pub(super) routes: usize,
    pub(super) connections: usize,
    pub(super) records: usize,
    pub(super) walking: bool,
}

struct Search {
    provider: NodeId,
    began: Instant,
    requests: u32,
    found: oneshot::Sender<Found>,
}

/// What a node does.
pub(super) struct Running {
    net: Net,
    orders: mpsc::Receiver<Order>,
    connected: VecDeque<NodeId>,
    walks: HashMap<LookupId, (ContentId, oneshot::Sender<bool>)>,
    groups: HashMap<GroupId, oneshot::Sender<bool>>,
    searches: HashMap<LookupId, Search>,
    paths: Option<HashMap<String, u32>>,
    names: Names,
}

impl Running {
    pub(super) fn new(net: Net, orders: mpsc::Receiver<Order>) -> Self {
        Self {
            net,
            orders,
            connected: VecDeque::new(),
            walks: HashMap::new(),
            groups: HashMap::new(),
            searches: HashMap::new(),
            paths: None,
            names: Names::default(),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let order = match self.next().await {
                Either::Left(Some(order)) => order,
                Either::Left(None) => return,
                Either::Right(event) => {
                    self.on_event(event);
                    continue;
                }
            };
            if matches!(order, Order::Silence) {
                // Its connections live on, and nobody is at home.
                while self.orders.recv().await.is_some() {}
                return;
            }
            self.on_order(order);
        }
    }

    async fn next(&mut self) -> Either<Option<Order>, NetEvent> {
        let Self {
            net, orders, paths, ..
        } = self;
        let mut event = pin!(net.next_event());
        poll_fn(|cx| {
            if let Poll::Ready(order) = orders.poll_recv(cx) {
                return Poll::Ready(Either::Left(order));
            }
            PATHS.set(paths.take());
            let polled = event.as_mut().poll(cx).map(Either::Right);
            *paths = PATHS.take();
            polled
        })
        .await
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Dial(peer, address) => {
                self.net.dial(peer, &[address]);
            }
            Order::Announce(id, done) => {
                self.net.provide(id);
                if let Some(lookup) = self.net.find_servers(id) {
                    self.walks.insert(lookup, (id, done));
                }
            }
            Order::Lookup(id, provider, found) => {
                if let Some(lookup) = self.net.find_providers(id) {
                    let search = Search {
                        provider,
                        began: Instant::now(),
                        requests: 0,
                        found,
                    };
                    self.searches.insert(lookup, search);
                    // One at a time of each node is followed on its way.
                    self.paths = (self.searches.len() == 1).then(HashMap::new);
                }
            }
            Order::Facts(tell) => {
                let _ = tell.send(Facts {
                    routes: self.net.dht_peers(),
                    connections: self.connected.len(),
                    records: self.net.foreign_records(),
                    walking: self.net.is_walking(),
                });
            }
            Order::Show(manifest) => self.names.show(*manifest),
            Order::Find(text, wanted, tell) => {
                self.names.find(&text, wanted, tell, &mut self.net);
            }
            Order::Silence => {}
        }
    }

    fn on_event(&mut self, event: NetEvent) {
        let Some(event) = self.names.on_event(event, &mut self.net) else {
            return;
        };
        match event {
            NetEvent::Connected { peer, .. } => {
                self.connected.push_back(peer);
                if self.connected.len() > CONNECTIONS
                    && let Some(oldest) = self.connected.pop_front()
                {
                    self.net.disconnect(oldest);
                }
            }
            NetEvent::Disconnected { peer } => self.connected.retain(|held| *held != peer),
            NetEvent::ServersFound {
                lookup, servers, ..
            } => {
                if let Some((id, done)) = self.walks.remove(&lookup)
                    && let Some(group) = self.net.announce(&[id], servers)
                {
                    self.groups.insert(group, done);
                }
            }
            NetEvent::Announced { group, stored } => {
                if let Some(done) = self.groups.remove(&group) {
                    let _ = done.send(stored);
                }
            }
            NetEvent::ProvidersFound { lookup, peers } => {
                let requests = self.net.lookup_requests(lookup);
                let Some(search) = self.searches.get_mut(&lookup) else {
                    return;
                };
                search.requests = search.requests.max(requests);
                if peers.contains(&search.provider)
                    && let Some(search) = self.searches.remove(&lookup)
                {
                    let paths = self.paths.take().unwrap_or_default();
                    let named = paths.get(&search.provider.to_string());
                    let _ = search.found.send(Found {
                        time: Some(search.began.elapsed()),
                        requests: search.requests,
                        hops: named.map_or(0, |depth| depth.saturating_sub(1)),
                    });
                }
            }
            NetEvent::LookupEnded { lookup } => {
                if let Some(search) = self.searches.remove(&lookup) {
                    let _ = search.found.send(Found {
                        time: None,
                        requests: search.requests,
                        hops: 0,
                    });
                }
            }
            _ => {}
        }
    }
}
