//! `check ID` and `doctor` through the command line.

use std::time::{Duration, Instant};

use p2p_tests::{PLENTY, Sandbox, files, wait_until};

#[test]
fn whether_others_can_get_it_is_told_and_why() {
    let sandbox = Sandbox::new();
    let server = "\"server\"";
    let first = sandbox.home("first").set("network.dht", server).start();
    let node = sandbox.home("node").set("network.dht", server);
    let node = node.bootstrap([&first]).start();
    node.wait_connected([&first]);
    let path = sandbox.noise("ficheiro.bin", 100_000, 1);
    let id = files::b3sum(&path);

    let nothing = node.run(["check", &id, "--timeout", "5s"]);
    nothing.expect_failure(1, "unavailable");
    let check = nothing.only("check");
    assert_eq!(
        (&check["available"], &check["here"]),
        (&false.into(), &().into())
    );

    node.run(["share", path.to_str().unwrap()]).expect_code(0);
    let deadline = Instant::now() + Duration::from_secs(60);
    wait_until("a server to name this node", deadline, || {
        let ran = node.run(["check", &id, "--timeout", "5s"]);
        let check = ran.only("check");
        let servers = check["servers"].as_array().unwrap();
        !check["expires_in"].is_null()
            && servers.iter().any(|server| {
                server["server"] == first.peer()
                    && server["named"].to_string().contains(node.peer())
            })
    });
    let ran = node.run(["check", &id, "--timeout", PLENTY]);
    let check = ran.expect_code(0).only("check");
    assert_eq!(
        (&check["available"], &check["here"]),
        (&true.into(), &"complete".into())
    );
    assert!(check["expires_in"].as_u64().unwrap() > 47 * 3600);
    let seen = first.run(["check", &id, "--timeout", PLENTY]);
    let seen = seen.expect_code(0).only("check");
    assert_eq!(seen["providers"], serde_json::json!([node.peer()]));
    assert_eq!(seen["holders"], serde_json::json!([node.peer()]));
    node.stop();
    first.stop();
}

#[test]
fn the_doctor_says_what_there_is() {
    let sandbox = Sandbox::new();
    let node = sandbox.home("node").start();
    let findings = node.run(["doctor"]).expect_code(0).all("finding");
    let of = |area: &str| {
        let mut found = findings.iter().filter(|finding| finding["area"] == area);
        found
            .next()
            .unwrap_or_else(|| panic!("{area} in {findings:?}"))
    };
    assert_eq!(of("listening")["level"], "ok");
    assert_eq!(of("reachable")["level"], "info");
    let dht = of("dht");
    assert_eq!(dht["level"], "bad", "it knows nobody");
    assert!(dht["advice"].to_string().contains("bootstrap"));
    assert!(of("lan")["message"].to_string().contains("mdns is off"));
    node.stop();
    let alone = sandbox.home("alone").run(["doctor"]);
    alone.expect_codes(&[1]);
}
