//! Open files, few enough for the system's limit however many contents are in use.

use std::collections::HashMap;
use std::sync::Arc;

use super::fs::OpenFile;
use super::shared::Guarded;

/// Files kept open at once. The usual limit of a process is 1,024, and sockets need most of them.
const MAX_OPEN: usize = 256;

/// Open files by the serial number of the [`Content`](super::Content) they belong to. Taking one out of here does not
/// close it for who still uses it.
#[derive(Default)]
pub(super) struct Handles(Guarded<Open>);

#[derive(Default)]
struct Open {
    files: HashMap<u64, (OpenFile, u64)>,
    tick: u64,
}

impl Handles {
    pub(super) fn file(&self, serial: u64) -> Option<OpenFile> {
        let mut open = self.0.lock();
        open.tick = open.tick.wrapping_add(1);
        let tick = open.tick;
        let (file, used) = open.files.get_mut(&serial)?;
        *used = tick;
        Some(Arc::clone(file))
    }

    pub(super) fn keep(&self, serial: u64, file: OpenFile) {
        let mut open = self.0.lock();
        open.tick = open.tick.wrapping_add(1);
        let tick = open.tick;
        if open.files.len() >= MAX_OPEN && !open.files.contains_key(&serial) {
            let oldest = open
                .files
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(serial, _)| *serial);
            oldest.and_then(|serial| open.files.remove(&serial));
        }
        open.files.insert(serial, (file, tick));
    }

    pub(super) fn close(&self, serial: u64) {
        self.0.lock().files.remove(&serial);
    }
}
