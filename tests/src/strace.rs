//! Faults at the system calls of a process that runs: `strace` attached to it kills it there, or has the call fail.
//!
//! Calls are counted for each thread on its own. The fault comes before the call does anything.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Calls that change what is on the disk or wait for it. Not `write`: threads wake each other by it.
pub const CALLS: &str = "pwrite64,pwritev,pwritev2,copy_file_range,sendfile,ftruncate,fsync,fdatasync,\
                         syncfs,rename,renameat,renameat2,unlink,unlinkat";
/// What ends a process's life in the log of strace.
const KILLED: &str = "killed by SIGKILL";
/// What marks a call that was made to fail.
const FAILED: &str = "(INJECTED)";

/// How long strace has to detach from a process whose threads may be in the middle of a call.
const PATIENCE: Duration = Duration::from_secs(5);

/// What happens at a call.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Nothing: the calls are only counted.
    None,
    /// The process is killed before it.
    Kill,
    /// It fails with this error (such as `EIO`), that one only.
    Fail(&'static str),
    /// It and all that come after fail with this error.
    FailFrom(&'static str),
}

/// strace, attached to a process until dropped.
#[derive(Debug)]
pub struct Strace {
    child: Child,
    log: PathBuf,
}

impl Strace {
    /// Why it cannot be used here, if so.
    pub fn missing(dir: &Path) -> Option<String> {
        let mut sleeper = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let attached = Self::attach(sleeper.id(), CALLS, 1, Fault::None, dir);
        let _ = sleeper.kill();
        let _ = sleeper.wait();
        attached.err()
    }

    /// Attaches to a process: `fault` comes when one of its threads makes one of `calls` for the `nth` time.
    ///
    /// # Errors
    /// Why this machine does not allow it.
    pub fn attach(
        pid: u32,
        calls: &str,
        nth: usize,
        fault: Fault,
        dir: &Path,
    ) -> Result<Self, String> {
        let log = dir.join(format!("strace-{pid}.log"));
        let mut command = Command::new("strace");
        command.args(["-f", "-s", "0", "-e", &format!("trace={calls}")]);
        let inject = match fault {
            Fault::None => None,
            Fault::Kill => Some(format!("inject={calls}:signal=KILL:when={nth}")),
            Fault::Fail(error) => Some(format!("inject={calls}:error={error}:when={nth}")),
            Fault::FailFrom(error) => Some(format!("inject={calls}:error={error}:when={nth}+")),
        };
        if let Some(inject) = &inject {
            command.args(["-e", inject]);
        }
        let mut child = command
            .arg("-o")
            .arg(&log)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("strace: {error}"))?;
        let mut said = String::new();
        if let Some(stderr) = child.stderr.take() {
            let mut stderr = BufReader::new(stderr);
            // Without its end, or a word of success, there is nothing more to wait for.
            while stderr.read_line(&mut said).is_ok_and(|len| len > 0) {
                if said.contains(" attached") {
                    // It goes on talking of threads; somebody must listen.
                    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
                    return Ok(Self { child, log });
                }
            }
        }
        let _ = child.wait();
        Err(format!("strace: {}", said.trim()))
    }

    /// Lets go of the process; whether the fault came.
    pub fn end(mut self) -> bool {
        self.detach();
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.contains(KILLED) || log.contains(FAILED)
    }

    /// Lets go of the process; of each call, how often the thread that made it most made it.
    pub fn counts(mut self) -> BTreeMap<String, usize> {
        self.detach();
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for line in log.lines() {
            let Some((thread, call)) = line.split_once(' ') else {
                continue;
            };
            let name = call.trim_start().split('(').next().unwrap_or_default();
            if CALLS.split(',').any(|known| known == name) {
                *counts.entry((name, thread)).or_default() += 1;
            }
        }
        let mut most = BTreeMap::new();
        for ((name, _), count) in counts {
            let known: &mut usize = most.entry(name.to_owned()).or_default();
            *known = count.max(*known);
        }
        most
    }

    fn detach(&mut self) {
        // It has ended already if the process has.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let begun = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if begun.elapsed() > PATIENCE {
                // The kernel lets go of the process when its tracer dies.
                let _ = self.child.kill();
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.wait();
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.detach();
    }
}
