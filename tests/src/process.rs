//! A process of the program under test: its objects as they come, and its end.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::Value;

/// Lines of output that may wait to be looked at: then the process waits too.
const LINES_AHEAD: usize = 4096;
/// How much of a log is shown when a test fails.
const LOG_SHOWN: usize = 4096;
/// From the end of its output to the end of a process.
const EXIT_DEADLINE: Duration = Duration::from_secs(15);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A process; killed when dropped.
#[derive(Debug)]
pub struct Running {
    what: String,
    child: Child,
    lines: Receiver<Vec<u8>>,
    reader: Option<JoinHandle<()>>,
    seen: Vec<Vec<u8>>,
    log: PathBuf,
    started: Instant,
    finished: bool,
}

impl Running {
    pub(crate) fn spawn(mut command: Command, what: &str, dir: &Path) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let log = dir.join(format!("{what}-{number}.log"));
        let stderr = fs::File::create(&log).expect("a log file");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let (sender, lines) = mpsc::sync_channel(LINES_AHEAD);
        let reader = std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = Vec::new();
            while stdout.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
        Self {
            what: what.to_owned(),
            child,
            lines,
            reader: Some(reader),
            seen: Vec::new(),
            log,
            started: Instant::now(),
            finished: false,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next object it prints; `None` when it has ended.
    ///
    /// # Panics
    /// At the deadline, and when it prints anything else than objects.
    pub fn next(&mut self, deadline: Instant) -> Option<Value> {
        match self.line(deadline) {
            Ok(line) => Some(parse(&self.what, &line)),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("{} prints nothing more in time", self.what),
        }
    }

    fn line(&mut self, deadline: Instant) -> Result<Vec<u8>, RecvTimeoutError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = self.lines.recv_timeout(left)?;
        self.seen.push(line.clone());
        Ok(line)
    }

    /// The objects it has printed by now, as far as they have not been looked at.
    pub fn drain(&mut self) -> Vec<Value> {
        let lines: Vec<Vec<u8>> = self.lines.try_iter().collect();
        let objects = lines.iter().map(|line| parse(&self.what, line)).collect();
        self.seen.extend(lines);
        objects
    }

    /// Reads objects up to one that is as wanted.
    ///
    /// # Panics
    /// When it does not come before the deadline, or the process ends without it.
    pub fn wait_for(
        &mut self,
        what: &str,
        deadline: Instant,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        loop {
            match self.next(deadline) {
                Some(object) if wanted(&object) => return object,
                Some(_) => {}
                None => panic!("{} ended instead of {what}", self.what),
            }
        }
    }

    /// Waits for its end, and takes all that it printed.
    pub fn finish(mut self, within: Duration) -> Ran {
        self.end(within)
    }

    pub(crate) fn end(&mut self, within: Duration) -> Ran {
        let deadline = Instant::now() + within;
        loop {
            match self.line(deadline) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{} did not end within {within:?}", self.what)
                }
            }
        }
        let status = self.wait();
        Ran {
            what: self.what.clone(),
            status,
            stdout: std::mem::take(&mut self.seen),
            stderr: String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned(),
            took: self.started.elapsed(),
        }
    }

    /// Its output has ended, so it is about to.
    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + EXIT_DEADLINE;
        let mut status = None;
        crate::wait_until(&format!("the end of {}", self.what), deadline, || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        self.finished = true;
        status.expect("it has ended")
    }

    /// Ends it without giving it a chance to do anything about it.
    pub fn kill(&mut self) {
        if !self.finished {
            // It may have ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
            self.finished = true;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        self.kill();
        // Its end of the pipe is closed now, unless the process left children, which this one has not.
        drop(std::mem::replace(&mut self.lines, mpsc::sync_channel(1).1));
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if failing {
            let log = fs::read(&self.log).unwrap_or_default();
            let shown = &log[log.len().saturating_sub(LOG_SHOWN)..];
            eprintln!(
                "--- {}:\n{}",
                self.log.display(),
                String::from_utf8_lossy(shown)
            );
        }
    }
}

/// A process that has ended.
#[derive(Debug)]
pub struct Ran {
    what: String,
    status: ExitStatus,
    stdout: Vec<Vec<u8>>,
    pub stderr: String,
    pub took: Duration,
}

impl Ran {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// What it printed, byte for byte.
    pub fn bytes(&self) -> Vec<u8> {
        self.stdout.concat()
    }

    fn text(&self) -> String {
        let tail = self.stdout.len().saturating_sub(20);
        let shown = self.stdout[tail..].concat();
        format!("{}{}", String::from_utf8_lossy(&shown), self.stderr)
    }

    /// # Panics
    /// When the exit code is another one.
    #[track_caller]
    pub fn expect_code(&self, code: i32) -> &Self {
        self.expect_codes(&[code])
    }

    /// # Panics
    /// When the exit code is none of these.
    #[track_caller]
    pub fn expect_codes(&self, codes: &[i32]) -> &Self {
        assert!(
            self.code().is_some_and(|code| codes.contains(&code)),
            "{} exited with {} after {:?}, not {codes:?}:\n{}",
            self.what,
            self.status,
            self.took,
            self.text()
        );
        self
    }

    /// # Panics
    /// Unless it failed with this code word, told as an object.
    #[track_caller]
    pub fn expect_failure(&self, code: i32, word: &str) -> &Self {
        self.expect_code(code);
        let error = self.only("error");
        assert_eq!(error["code"], word, "{error}");
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{error}"
        );
        self
    }

    /// The objects it printed.
    ///
    /// # Panics
    /// When it printed anything else.
    #[track_caller]
    pub fn objects(&self) -> Vec<Value> {
        let lines = self.stdout.iter();
        lines.map(|line| parse(&self.what, line)).collect()
    }

    /// The objects of a type.
    #[track_caller]
    pub fn all(&self, kind: &str) -> Vec<Value> {
        objects_of_type(self.objects(), kind)
    }

    /// The only object of a type.
    ///
    /// # Panics
    /// When there is not exactly one.
    #[track_caller]
    pub fn only(&self, kind: &str) -> Value {
        let mut all = self.all(kind);
        assert_eq!(
            all.len(),
            1,
            "{} objects of type {kind}:\n{}",
            all.len(),
            self.text()
        );
        all.remove(0)
    }
}

#[track_caller]
fn parse(what: &str, line: &[u8]) -> Value {
    let text = String::from_utf8_lossy(line);
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{what} printed no object: {text}"))
}

/// Those of the objects that are of a type.
fn objects_of_type(objects: Vec<Value>, kind: &str) -> Vec<Value> {
    objects
        .into_iter()
        .filter(|object| object["type"] == kind)
        .collect()
}
