//! Answers to the queries of peers. They read the index, so they run on threads; `Have` may wait for news.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{catalog::Catalog, fetch::prepare::read_all, gate::Gate};
use crate::{
    audience::Asker,
    content::{BLOCK_LEN, BlockSet, Collection, ContentId, Entry, FeedId, Provider, TrustPolicy},
    net::wire::{MAX_MANIFESTS, MAX_REPLY_LEN, Query, Reply},
    store::{State, Store, StoreError},
};

/// How long `Have` waits for the number of blocks to differ from what the asker knows. Below the query's time limit.
const HAVE_PATIENCE: Duration = Duration::from_secs(10);
/// News is gathered for this long, so that a fast download does not answer once per block. Who waits for it asks again at
/// once, so this is also how old news gets.
const HAVE_GATHER: Duration = Duration::from_millis(150);
/// Runs of blocks in one answer: with five bytes at most for each number they fit the longest reply.
const MAX_RUNS: usize = MAX_REPLY_LEN / 11;

/// A longer listing of a folder is not read for an answer: many peers asking at once must not fill the memory. Who asks
/// then finds out file by file what is here.
const MAX_LISTING_TOLD: u64 = 16 * 1024 * 1024;

/// What queries are answered from, beside the store.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) store: Store,
    pub(crate) gate: Arc<Gate>,
    pub(crate) asker: Asker,
    /// Changes when a feed has a new value.
    pub(crate) feed_news: watch::Receiver<u64>,
    pub(crate) catalog: Arc<Catalog>,
    /// Other providers of the content asked for.
    pub(crate) providers: Vec<Provider>,
}

/// Answers a query. What is not for the asker is answered as if it were not here, and as soon.
pub(crate) async fn answer(mut known: Known, query: Query) -> Reply {
    if let Query::Feed {
        feed,
        known: Some(sequence),
    } = &query
    {
        wait_for_value(&mut known, feed, *sequence).await;
    }
    let (known, query) = match admit(known, query).await {
        Ok(admitted) => admitted,
        Err(reply) => return reply,
    };
    if let Query::Have {
        content,
        entries,
        known: Some(count),
    } = query
    {
        wait_for_news(&known.store, content, entries, count).await;
    }
    let answered = tokio::task::spawn_blocking(move || {
        answer_now(&known, &query).unwrap_or_else(|error| {
            tracing::warn!(?query, %error, "cannot answer");
            Reply::Busy
        })
    });
    answered.await.unwrap_or(Reply::Busy)
}

/// Waits until a feed that is here has a value with a higher sequence, but not long.
async fn wait_for_value(known: &mut Known, id: &FeedId, sequence: u64) {
    let (store, news) = (known.store.clone(), &mut known.feed_news);
    let waiting = async {
        loop {
            let (store, id) = (store.clone(), id.clone());
            let record = tokio::task::spawn_blocking(move || store.feed(&id)).await;
            let Ok(Ok(Some(record))) = record else { return };
            let now = record.value.map(|signed| signed.claims().sequence);
            if now.is_none_or(|now| now > sequence) || news.changed().await.is_err() {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(HAVE_PATIENCE, waiting).await;
}

/// The content that a query is about.
fn subject(query: &Query) -> Option<ContentId> {
    match query {
        Query::Have { content, .. }
        | Query::Manifests { content }
        | Query::Outline { content, .. }
        | Query::Providers { content } => Some(*content),
        _ => None,
    }
}

/// What is said of content that is not here.
fn nothing(query: &Query) -> Reply {
    match query {
        Query::Manifests { .. } => Reply::Manifests {
            manifests: Vec::new(),
            more: false,
        },
        Query::Providers { .. } => Reply::Providers {
            providers: Vec::new(),
        },
        _ => Reply::NotFound,
    }
}

/// Lets a query through if the asker may have what it is about.
async fn admit(known: Known, query: Query) -> Result<(Known, Query), Reply> {
    let Some(id) = subject(&query).filter(|_| !known.gate.is_idle()) else {
        return Ok((known, query));
    };
    let judged = tokio::task::spawn_blocking(move || {
        let allowed = known.gate.allows(&known.store, id, &known.asker);
        (allowed, known)
    });
    match judged.await {
        Ok((Ok(true), known)) => Ok((known, query)),
        Ok((Ok(false), _)) => Err(nothing(&query)),
        _ => Err(Reply::Busy),
    }
}

async fn wait_for_news(store: &Store, id: ContentId, entries: bool, count: u32) {
    if entries {
        // What is held of a folder is spread over its entries; it is looked at again a little later.
        tokio::time::sleep(Duration::from_secs(1)).await;
        return;
    }
    let store = store.clone();
    let opened = tokio::task::spawn_blocking(move || store.content(id)).await;
    let Ok(Ok(Some(content))) = opened else {
        return;
    };
    let mut changes = content.changes();
    let news = async {
        // An error says that the content is complete or gone: news as well.
        let _ = changes.wait_for(|held| *held != count).await;
        tokio::time::sleep(HAVE_GATHER).await;
    };
    let _ = tokio::time::timeout(HAVE_PATIENCE, news).await;
}

fn answer_now(known: &Known, query: &Query) -> Result<Reply, StoreError> {
    let store = &known.store;
    Ok(match query {
        Query::Have {
            content,
            entries: false,
            ..
        } => store.content(*content)?.map_or(Reply::NotFound, |content| {
            held(content.geometry().size(), content.held())
        }),
        Query::Have {
            content,
            entries: true,
            ..
        } => have_entries(known, *content)?,
        Query::Manifests { content } => {
            let manifests = store.manifests(*content)?;
            Reply::Manifests {
                manifests: manifests
                    .into_iter()
                    .filter(|manifest| manifest.verify(&TrustPolicy::Signed).is_ok())
                    .take(MAX_MANIFESTS)
                    .collect(),
                more: false,
            }
        }
        Query::Outline { content, page } => outline(store, *content, *page)?,
        Query::Providers { .. } => Reply::Providers {
            providers: known.providers.clone(),
        },
        Query::Catalog { after } => {
            let (manifests, more) = known.catalog.page(*after, &known.asker);
            Reply::Manifests { manifests, more }
        }
        Query::Cancel { .. } => Reply::Cancelled,
        Query::Feed { feed, .. } => {
            let value = store.feed(feed)?.and_then(|record| record.value);
            value.map_or(Reply::NotFound, |feed| Reply::Feed { feed })
        }
        Query::Search { text } => Reply::Manifests {
            manifests: known.catalog.search(text, &known.asker),
            more: false,
        },
    })
}

/// What is held, cut to what fits a reply: the rest is asked for again when it has been fetched.
fn held(size: u64, blocks: BlockSet) -> Reply {
    if blocks.is_empty() && size > 0 {
        return Reply::NotFound;
    }
    if blocks.runs().nth(MAX_RUNS).is_none() {
        return Reply::Have { size, blocks };
    }
    let mut some = BlockSet::new(blocks.len());
    for run in blocks.runs().take(MAX_RUNS) {
        some.insert_range(run);
    }
    Reply::Have { size, blocks: some }
}

fn outline(store: &Store, id: ContentId, page: Option<u32>) -> Result<Reply, StoreError> {
    let Some(content) = store.content(id)? else {
        return Ok(Reply::NotFound);
    };
    let values = match page {
        None => content.outline_top()?,
        Some(page) => content.outline_page(page)?,
    };
    Ok(values.map_or(Reply::NotFound, |values| Reply::Outline {
        values: values.to_vec(),
    }))
}

/// What is held of the entries of a folder, in its piece space.
fn have_entries(known: &Known, id: ContentId) -> Result<Reply, StoreError> {
    let store = &known.store;
    let Some(content) = store.content(id)?.filter(|content| content.is_complete()) else {
        return Ok(Reply::NotFound);
    };
    if content.geometry().size() > MAX_LISTING_TOLD {
        return Ok(Reply::NotFound);
    }
    let Ok(collection) = Collection::decode(&read_all(&content)?) else {
        return Ok(Reply::NotFound);
    };
    let mut seen = HashSet::new();
    let entries: Vec<&Entry> = collection
        .entries()
        .iter()
        .filter(|entry| seen.insert((entry.content, entry.size)))
        .collect();
    let ids: Vec<ContentId> = entries.iter().map(|entry| entry.content).collect();
    let states = store.states(&ids)?;
    let mut runs = Vec::new();
    let mut first = 0_u32;
    for (entry, state) in entries.into_iter().zip(states) {
        let blocks = u32::try_from(entry.size.div_ceil(BLOCK_LEN as u64)).unwrap_or(u32::MAX);
        let held = match state {
            Some(_) if !known.gate.allows(store, entry.content, &known.asker)? => BlockSet::new(0),
            Some((State::Complete, size)) if size == entry.size => BlockSet::full(blocks),
            Some((State::Partial, _)) => held_partly(store, entry.content)?,
            _ => BlockSet::new(0),
        };
        for run in held.runs() {
            runs.push(first.saturating_add(run.start)..first.saturating_add(run.end));
        }
        first = first.saturating_add(blocks);
    }
    let mut blocks = BlockSet::new(first);
    for run in runs {
        blocks.insert_range(run);
    }
    Ok(held(collection.total_size(), blocks))
}

fn held_partly(store: &Store, id: ContentId) -> Result<BlockSet, StoreError> {
    let held = store.info(id)?.is_some_and(|info| info.held > 0);
    let content = if held { store.content(id)? } else { None };
    Ok(content.map_or_else(|| BlockSet::new(0), |content| content.held()))
}
