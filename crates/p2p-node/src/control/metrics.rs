//! The numbers of `status`, for Prometheus: <https://github.com/prometheus/OpenMetrics>.

use std::fmt;
use std::sync::atomic::AtomicU64;

use p2p_core::Status;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// How the text says that it is OpenMetrics.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every name begins with.
const PREFIX: &str = "p2p_node";

/// A number that goes up and down, for each value of one label.
type Labelled = Family<[(&'static str, &'static str); 1], Gauge<u64, AtomicU64>>;

/// All of them, as text.
pub fn text(status: &Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    cache(&mut registry, status);
    storage(&mut registry, status);
    network(&mut registry, status);
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

fn cache(registry: &mut Registry, status: &Status) {
    let cache = &status.cache;
    let counts = [
        ("cache_hits", "Blocks answered from memory", cache.hits),
        (
            "cache_joined",
            "Blocks answered by a read that was under way for somebody else",
            cache.joined,
        ),
        ("cache_misses", "Blocks read from the disk", cache.misses),
        (
            "cache_evictions",
            "Blocks that the cache dropped for want of room",
            cache.evictions,
        ),
    ];
    for (name, help, count) in counts {
        registry.register(name, help, ConstCounter::new(count));
    }
    bytes(registry, "cache", "In the cache of blocks", cache.bytes);
    let help = "What the cache of blocks may hold";
    bytes(registry, "cache_capacity", help, cache.capacity);
}

fn storage(registry: &mut Registry, status: &Status) {
    let storage = &status.storage;
    let kinds = [
        ("downloads", storage.downloads),
        ("partial", storage.partial),
        ("objects", storage.objects),
        ("index", storage.index),
    ];
    let family = labelled("kind", &kinds);
    let help = "On the disk, as counted against the quota";
    registry.register_with_unit("storage", help, Unit::Bytes, family);
}

fn network(registry: &mut Registry, status: &Status) {
    let peers = [
        ("connected", status.peers_connected),
        ("known", status.peers_known),
    ];
    registry.register("peers", "Peers", labelled("state", &peers));
    let announced = [
        ("done", status.announced),
        ("due", status.announce_due),
        ("failed", status.announce_failed),
    ];
    let help = "Ids to announce in the DHT, by how that stands";
    registry.register("announcements", help, labelled("state", &announced));
    let gauges = [
        ("fetches", "Fetches under way", status.fetches),
        ("uploads", "Requests of peers being served", status.uploads),
        (
            "dht_peers",
            "Servers in the routing table",
            status.dht_peers,
        ),
    ];
    for (name, help, value) in gauges {
        registry.register(name, help, gauge(value));
    }
    let sums = [
        ("sent", "Content sent to peers", status.up_bytes),
        ("received", "Content received from peers", status.down_bytes),
    ];
    for (name, help, sum) in sums {
        registry.register_with_unit(name, help, Unit::Bytes, ConstCounter::new(sum));
    }
    let uptime = gauge(status.uptime.as_secs());
    registry.register_with_unit("uptime", "Since the start", Unit::Seconds, uptime);
}

fn bytes(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register_with_unit(name, help, Unit::Bytes, gauge(value));
}

fn gauge(value: u64) -> Gauge<u64, AtomicU64> {
    let gauge = Gauge::default();
    gauge.set(value);
    gauge
}

fn labelled(label: &'static str, values: &[(&'static str, u64)]) -> Labelled {
    let family = Labelled::default();
    for (name, value) in values {
        family.get_or_create(&[(label, *name)]).set(*value);
    }
    family
}
