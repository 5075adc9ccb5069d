//! A disk that fills up in the middle of a fetch, and has room again later.
#![cfg(target_os = "linux")]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use p2p_core::BLOCK_LEN;
use p2p_tests::{COMMAND_DEADLINE, Sandbox, files, tell};

const SIZE: u64 = 32 << 20;
/// Room for the file and an index, and not much more.
const SMALL: &str = "size=64m";
const LARGE: &str = "size=160m";
/// Slow enough for the disk to fill up in the middle, also where all stands still for a while.
const RATE: &str = "4MB";
/// Bytes that may have been on their way when the disk was full.
const IN_FLIGHT: u64 = 8 << 20;

/// A file system in memory; unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    /// # Errors
    /// Why this machine does not allow it.
    fn new(path: PathBuf, size: &str) -> Result<Self, String> {
        fs::create_dir_all(&path).map_err(|error| error.to_string())?;
        mount(&["-t", "tmpfs", "-o", size, "tmpfs"], &path)?;
        Ok(Self(path))
    }

    fn resize(&self, size: &str) {
        mount(&["-o", &format!("remount,{size}")], &self.0).expect("it may be made larger");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, as a daemon of a test that fails may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(arguments: &[&str], path: &Path) -> Result<(), String> {
    let output = Command::new("mount")
        .args(arguments)
        .arg(path)
        .output()
        .map_err(|error| format!("mount: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Takes all the room that is left.
fn fill(path: &Path) {
    let mut filler = fs::File::create(path).expect("a file");
    let some = vec![1; 1 << 16];
    while filler.write_all(&some).is_ok() {}
}

#[test]
fn a_fetch_goes_on_when_the_full_disk_has_room_again() {
    let sandbox = Sandbox::new();
    let disk = match Mount::new(sandbox.path("disk"), SMALL) {
        Ok(disk) => disk,
        Err(why) => return tell(&format!("skipped, because nothing can be mounted: {why}")),
    };
    let original = sandbox.noise("original.bin", SIZE, 11);
    let id = files::b3sum(&original);
    let home = sandbox.home("source").upload_limit(RATE).share(&original);
    let mut source = home.start();
    source.shared();
    let home = sandbox.home("disk/node").set("storage.min_free", "\"0\"");
    let fetcher = home.bootstrap([&source]).start();
    let (target, part) = (disk.0.join("copy.bin"), disk.0.join("copy.bin.part"));
    let arguments = ["get", &id, "-o", target.to_str().expect("text")];

    let mut get = fetcher.begin(arguments);
    get.wait_for("the middle", Instant::now() + COMMAND_DEADLINE, |object| {
        assert_ne!(object["type"], "complete", "too fast to fill the disk");
        object["type"] == "progress" && object["done"].as_u64() >= Some(SIZE / 4)
    });
    fill(&disk.0.join("filler"));
    let ran = get.finish(COMMAND_DEADLINE);
    ran.expect_failure(9, "no_space");
    tell(&ran.only("error").to_string());
    assert!(!target.exists());
    let on_disk = (files::blocks_alike(&part, &original).len() * BLOCK_LEN) as u64;
    assert!(on_disk >= SIZE / 4, "{on_disk} bytes are left");

    // As full as it is, it still answers, and says the same again.
    fetcher.run(["status"]).expect_code(0);
    fetcher.run(arguments).expect_failure(9, "no_space");

    disk.resize(LARGE);
    let complete = fetcher.run(arguments).expect_code(0).only("complete");
    assert_eq!(files::b3sum(&target), id);
    let fetched: u64 = files::sources(&complete).values().sum();
    let missing = SIZE - on_disk;
    tell(&format!(
        "{missing} bytes were missing, {fetched} were fetched"
    ));
    assert!(
        fetched <= missing + IN_FLIGHT,
        "{fetched} bytes fetched for {missing} missing"
    );
    fetcher.stop();
}
