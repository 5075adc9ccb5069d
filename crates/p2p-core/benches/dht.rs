//! Networks of many nodes in one process: how often, how fast and at what cost providers are found.
//!
//!     cargo bench -p p2p-core --bench dht -- [--nodes N] [--case calm|churn|silent|names] [--lookups N] [--contents N]
//!         [--minute SECONDS] [--seed N]
//!
//! Prints a line of JSON, which `tests/bench/dht.py` gathers in `docs/benchmarks/dht.json` and draws.

use std::{fmt, time::Duration};

use p2p_core::bench::dht::{Found, Scenario, name_simulation, note_named, notes_named, run};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context, prelude::*, registry::LookupSpan};

/// Listens to what kad says of its walks: who named whom.
struct Paths;

#[derive(Default)]
struct Named {
    source: String,
    peer: String,
}

impl Visit for Named {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "source" => self.source = format!("{value:?}"),
            "peer" => self.peer = format!("{value:?}"),
            _ => {}
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Paths {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut named = Named::default();
        event.record(&mut named);
        // `KadPeer { node_id: PeerId("…"), …`
        let mut parts = named.peer.split('"');
        if let (Some(before), Some(peer)) = (parts.next(), parts.next())
            && before.starts_with("KadPeer")
        {
            note_named(&named.source, peer);
        }
    }
}

fn argument(name: &str) -> Option<String> {
    let mut arguments = std::env::args();
    arguments.find(|argument| argument == name)?;
    arguments.next()
}

fn number(name: &str, or: usize) -> usize {
    argument(name).map_or(or, |text| text.parse().expect("a number"))
}

/// Resident memory of this process, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn quantile(sorted: &[f64], of_hundred: usize) -> f64 {
    let at = (sorted.len().saturating_sub(1)) * of_hundred / 100;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn sorted(found: &[Found], of: impl Fn(&Found) -> Option<f64>) -> Vec<f64> {
    let mut values: Vec<f64> = found.iter().filter_map(of).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Searches by name instead of look-ups of ids.
fn names(runtime: &tokio::runtime::Runtime, scenario: Scenario) {
    let outcome = runtime.block_on(name_simulation::run(scenario));
    let searched = &outcome.searched;
    let found = searched.iter().filter_map(|one| one.time);
    let mut times: Vec<f64> = found.map(|time| time.as_secs_f64()).collect();
    times.sort_by(f64::total_cmp);
    let asked: Vec<f64> = searched.iter().map(|one| one.asked as f64).collect();
    println!(
        "{{\"case\":\"names\",\"nodes\":{},\"lookups\":{},\"found\":{},\"announced\":{},\"words\":{},\
         \"contents\":{},\"asked\":{:.2},\"time_median\":{:.4},\"time_p95\":{:.4},\"time_p99\":{:.4},\
         \"joining\":{:.1}}}",
        scenario.nodes,
        searched.len(),
        times.len(),
        outcome.announced,
        outcome.words,
        scenario.contents,
        mean(&asked),
        quantile(&times, 50),
        quantile(&times, 95),
        quantile(&times, 99),
        outcome.joining.as_secs_f64(),
    );
}

fn main() {
    // What kad says is put into words only while a look-up is followed: else it is a tenth of the work of a network.
    let only_kad = tracing_subscriber::filter::dynamic_filter_fn(|metadata, _| {
        metadata.is_event() && metadata.target() == "libp2p_kad::behaviour" && notes_named()
    });
    tracing_subscriber::registry()
        .with(Paths.with_filter(only_kad))
        .init();
    let case = argument("--case").unwrap_or_else(|| "calm".to_owned());
    let nodes = number("--nodes", 50);
    let scenario = Scenario {
        nodes,
        silent_percent: if case == "silent" { 20 } else { 0 },
        churn_percent: if case == "churn" { 10 } else { 0 },
        minute: Duration::from_secs(number("--minute", 60) as u64),
        minutes_before: 3,
        contents: number("--contents", 200),
        lookups: number("--lookups", 1000),
        at_once: number("--at-once", 20),
        seed: number("--seed", 1) as u64,
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if case == "names" {
        return names(&runtime, scenario);
    }
    let before = memory();
    let outcome = runtime.block_on(run(scenario));
    let found = &outcome.found;
    let times = sorted(found, |found| found.time.map(|time| time.as_secs_f64()));
    let requests = sorted(found, |found| found.time.map(|_| f64::from(found.requests)));
    let hops = sorted(found, |found| {
        (found.hops > 0).then_some(f64::from(found.hops))
    });
    let per_node = memory().saturating_sub(before) as f64 / nodes as f64;
    println!(
        "{{\"case\":\"{case}\",\"nodes\":{nodes},\"lookups\":{},\"found\":{},\"announced\":{},\
         \"contents\":{},\"hops\":{:.2},\"requests\":{:.1},\"requests_p95\":{:.0},\
         \"time_median\":{:.4},\"time_p95\":{:.4},\"time_p99\":{:.4},\"routes\":{:.1},\
         \"connections\":{:.1},\"records\":{:.1},\"kib_per_node\":{:.0},\"joining\":{:.1}}}",
        found.len(),
        times.len(),
        outcome.announced,
        scenario.contents,
        mean(&hops),
        mean(&requests),
        quantile(&requests, 95),
        quantile(&times, 50),
        quantile(&times, 95),
        quantile(&times, 99),
        outcome.routes,
        outcome.connections,
        outcome.records,
        per_node / 1024.0,
        outcome.joining.as_secs_f64(),
    );
}
