//! Reading the settings again while the daemon runs: by SIGHUP, or `config reload`.
//!
//! What can change is applied at once; of the rest it is said that it needs a new start. Settings with a mistake in them
//! change nothing.

use std::collections::BTreeMap;

use toml::Value;

use crate::config::Settings;
use crate::config::file::ConfigFile;
use crate::context::Context;
use crate::control::care::{AmountReply, ReloadedReply};
use crate::exit::Failure;

/// Keys that a running node can change.
const LIVE: [&str; 7] = [
    "limits.upload",
    "limits.download",
    "limits.lan_exempt",
    "limits.cache",
    "storage.quota",
    "storage.min_free",
    "storage.evict",
];

/// Reads the file of the daemon's settings again.
pub async fn reload(context: &Context) -> Result<ReloadedReply, Failure> {
    // Held to the end, so that two at once apply one after the other.
    let mut current = context.settings.lock().await;
    let Some(file) = current
        .as_ref()
        .and_then(|settings| settings.source.clone())
    else {
        return Err(Failure::new(
            "config",
            "the node was started without a settings file, so there is nothing to read again",
        ));
    };
    let new = Settings::load(Some(&file), None)?;
    let before = current.as_ref().map(|settings| &settings.written);
    let changed = before.map_or_else(|| Ok(Vec::new()), |before| changes(before, &new.written))?;
    let (applied, restart): (Vec<String>, Vec<String>) = changed
        .into_iter()
        .partition(|key| LIVE.contains(&key.as_str()));
    context
        .node
        .set_rates(&new.core.limits)
        .await
        .map_err(|_| Failure::new("stopped", "the node is stopping"))?;
    let cache = new.core.limits.cache;
    let node = context.node.clone();
    // It moves blocks from one cache to another.
    tokio::task::spawn_blocking(move || node.set_cache_size(cache))
        .await
        .map_err(|error| Failure::new("error", format!("the cache keeps its size: {error}")))?;
    let gone = context.node.set_storage(new.core.storage.clone()).await?;
    let evicted = AmountReply {
        count: gone.len() as u64,
        bytes: gone
            .iter()
            .map(|gone| gone.bytes)
            .fold(0, u64::saturating_add),
    };
    // Only what holds now: what needs a new start is to be told again next time.
    if let Some(current) = current.as_mut() {
        current.written.limits.upload = new.written.limits.upload;
        current.written.limits.download = new.written.limits.download;
        current.written.limits.lan_exempt = new.written.limits.lan_exempt;
        current.written.limits.cache = new.written.limits.cache;
        current.written.storage = new.written.storage;
    }
    let status = context.node.status();
    Ok(ReloadedReply {
        file: file.display().to_string(),
        applied,
        restart,
        evicted,
        over_quota: status.storage.total() > status.quota,
    })
}

/// The keys whose values differ, such as `network.mdns`.
fn changes(before: &ConfigFile, after: &ConfigFile) -> Result<Vec<String>, Failure> {
    let (before, after) = (flat(before)?, flat(after)?);
    let keys = before.keys().chain(after.keys());
    let mut changed: Vec<String> = keys
        .filter(|key| before.get(*key) != after.get(*key))
        .cloned()
        .collect();
    changed.sort();
    changed.dedup();
    Ok(changed)
}

fn flat(file: &ConfigFile) -> Result<BTreeMap<String, Value>, Failure> {
    let value = Value::try_from(file).map_err(|error| {
        Failure::new("error", format!("the settings cannot be compared: {error}"))
    })?;
    let mut keys = BTreeMap::new();
    for (name, value) in value.as_table().into_iter().flatten() {
        match value.as_table() {
            Some(table) => keys.extend(
                table
                    .iter()
                    .map(|(key, value)| (format!("{name}.{key}"), value.clone())),
            ),
            None => _ = keys.insert(name.clone(), value.clone()),
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn changed(before: &str, after: &str) -> Vec<String> {
        let parse = |text| {
            let settings = Settings::parse(text, Path::new("/etc/p2p/node.toml"));
            settings.expect("right settings").written
        };
        changes(&parse(before), &parse(after)).expect("comparable")
    }

    #[test]
    fn what_differs_is_named() {
        assert_eq!(changed("", ""), Vec::<String>::new());
        let before = "shares = [\"a\"]\n[storage]\nquota = \"1GB\"\n";
        let after =
            "[network]\nmdns = false\n[storage]\nquota = \"2GB\"\n[[share]]\npath = \"a\"\n";
        assert_eq!(
            changed(before, after),
            ["network.mdns", "share", "shares", "storage.quota"]
        );
    }

    #[test]
    fn every_live_key_is_a_key() {
        let keys = flat(&ConfigFile::default()).expect("comparable");
        assert!(LIVE.iter().all(|key| keys.contains_key(*key)), "{keys:?}");
    }
}
