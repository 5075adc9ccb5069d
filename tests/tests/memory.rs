//! Memory during a large transfer. Alone in its file, as it wants the machine for itself.
#![cfg(target_os = "linux")]

use p2p_tests::{LARGE_DEADLINE, Sandbox, files, tell};

const SIZE: u64 = 2 << 30;
/// The most either side may have had at once, with the default cache of 64 MB.
const LIMIT: u64 = 150 << 20;

#[test]
fn two_gibibytes_pass_through_little_memory() {
    let sandbox = Sandbox::new();
    let path = sandbox.noise("large.bin", SIZE, 9);
    let mut source = sandbox.home("source").share(&path).start();
    let shared = source.shared_within(LARGE_DEADLINE);
    let id = shared["id"].as_str().unwrap();
    let hashing = source.peak_memory();
    let fetcher = sandbox.home("fetcher").bootstrap([&source]).start();
    fetcher.wait_connected([&source]);
    let target = sandbox.path("copy.bin");
    let get = fetcher.begin(["get", id, "-o", target.to_str().unwrap()]);
    let complete = get.finish(LARGE_DEADLINE).expect_code(0).only("complete");
    let (source, fetcher) = (source.peak_memory(), fetcher.peak_memory());
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    tell(&format!(
        "2 GiB in {} s; peak memory: source {:.0} MiB ({:.0} MiB after hashing), fetcher {:.0} MiB",
        complete["seconds"],
        mib(source),
        mib(hashing),
        mib(fetcher)
    ));
    assert_eq!(files::b3sum(&target), id);
    assert!(source < LIMIT, "the source had {:.0} MiB", mib(source));
    assert!(fetcher < LIMIT, "the fetcher had {:.0} MiB", mib(fetcher));
}
