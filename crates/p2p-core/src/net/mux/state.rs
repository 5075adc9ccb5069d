//! The streams of one connection: what has come for them, what they send, and how much either may. No I/O.

use std::{
    collections::{HashMap, VecDeque},
    io,
    task::Waker,
};

use super::{
    frame::{ACK, FIN, HEADER, Header, Kind, RST, SYN},
    violation,
};

/// Streams that one side has open. What the other opens beyond them is refused, and not a reason to close the connection:
/// it may have given up some of which nobody here knows yet.
pub(super) const MAX_STREAMS: usize = 64;

/// What a side may send on a new stream, by the specification.
pub(super) const WINDOW: u32 = 256 * 1024;

/// What it may send once a stream proves to carry much: two such streams fill 640 Mbit/s over 100 ms.
pub(super) const WIDE_WINDOW: u32 = 4 * 1024 * 1024;

/// Buffers kept for use: what is read before the streams have their turn with it.
const SPARE: usize = 16;

/// Streams of one connection with a wide window.
pub(super) const MAX_WIDE: usize = 4;

/// A stream on which this much has been read gets a wide window, if we opened it: the other side cannot ask for one.
const MUCH: u32 = 64 * 1024;

/// Bytes that a stream holds to be sent; its writer waits then.
pub(super) const SEND_QUEUE: usize = 128 * 1024;

/// Bytes of a data frame, with its header: one record of TLS.
const MAX_FRAME: usize = 16 * 1024;

/// Frames beyond data that wait to be sent. No more are read then, or pings and openings would pile up.
const MAX_CONTROL: usize = 256;

/// Small frames that wait are sent together, up to this length.
const GATHER: usize = 1024;

/// A piece of received data that is shorter is joined to the one before, so that many short ones do not cost more memory
/// than their window.
const SHORT: usize = 4 * 1024;

/// The streams of one connection.
#[derive(Debug)]
pub(super) struct State {
    streams: HashMap<u32, Flow>,
    /// How many of them are ours.
    ours: usize,
    next_id: u32,
    /// Opened by the other side, and not told yet.
    incoming: VecDeque<u32>,
    /// Streams that have something to send, in turn.
    turns: VecDeque<u32>,
    control: VecDeque<Header>,
    /// Streams are given nothing more to send.
    closing: bool,
    /// Memory for what comes, used again: only while a stream is wide, and at most [`SPARE`].
    spare: Vec<Vec<u8>>,
    /// The connection has ended.
    ended: bool,
    connection: Option<Waker>,
}

/// One stream.
#[derive(Debug)]
struct Flow {
    ours: bool,
    received: VecDeque<Vec<u8>>,
    /// Bytes of the first of them that have been read.
    offset: usize,
    /// What the other side may still send.
    window: u32,
    /// What it may send when nothing is on its way.
    full_window: u32,
    /// Bytes read for which it has not been given new credit.
    read: u32,
    /// Data frames, each with room for its header.
    outgoing: VecDeque<Vec<u8>>,
    outgoing_len: usize,
    /// What we may still send.
    credit: u32,
    /// It is among the `turns`.
    in_turn: bool,
    /// We send nothing more.
    finishing: bool,
    finished: bool,
    /// The other side sends nothing more.
    heard_out: bool,
    /// The other side has thrown it away.
    reset: bool,
    /// We have.
    dropped: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Flow {
    fn new(ours: bool, credit: u32) -> Self {
        Self {
            ours,
            received: VecDeque::new(),
            offset: 0,
            window: WINDOW,
            full_window: WINDOW,
            read: 0,
            outgoing: VecDeque::new(),
            outgoing_len: 0,
            credit,
            in_turn: false,
            finishing: false,
            finished: false,
            heard_out: false,
            reset: false,
            dropped: false,
            reader: None,
            writer: None,
        }
    }

    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()] {
            waker.into_iter().for_each(Waker::wake);
        }
    }

    /// Copies what has come; how much. Memory that is done with goes to `spare`, if the stream carries much.
    fn take(&mut self, buffer: &mut [u8], spare: &mut Vec<Vec<u8>>) -> usize {
        let mut taken = 0;
        while let Some(front) = self.received.front() {
            let rest = front.get(self.offset..).unwrap_or_default();
            let room = buffer.get_mut(taken..).unwrap_or_default();
            let len = rest.len().min(room.len());
            if let (Some(to), Some(from)) = (room.get_mut(..len), rest.get(..len)) {
                to.copy_from_slice(from);
            }
            taken = taken.saturating_add(len);
            if len < rest.len() {
                self.offset = self.offset.saturating_add(len);
                break;
            }
            let done = self.received.pop_front();
            if self.full_window > WINDOW && spare.len() < SPARE {
                spare.extend(done);
            }
            self.offset = 0;
        }
        taken
    }

    /// The next of its data frames, with its header.
    fn next_data(&mut self, id: u32) -> Option<Vec<u8>> {
        let mut frame = self.outgoing.pop_front()?;
        let len = frame.len().saturating_sub(HEADER);
        let header = Header::data(id, 0, u32::try_from(len).unwrap_or(u32::MAX));
        if let Some(head) = frame.first_chunk_mut::<HEADER>() {
            *head = header.to_bytes();
        }
        self.outgoing_len = self.outgoing_len.saturating_sub(len);
        self.writer.take().into_iter().for_each(Waker::wake);
        Some(frame)
    }
}

/// What a stream's `read` or `write` comes to, `None` being: later.
pub(super) type Now<T> = Option<io::Result<T>>;

impl State {
    pub(super) fn new(client: bool) -> Self {
        Self {
            streams: HashMap::new(),
            ours: 0,
            next_id: if client { 1 } else { 2 },
            incoming: VecDeque::new(),
            turns: VecDeque::new(),
            control: VecDeque::new(),
            closing: false,
            spare: Vec::new(),
            ended: false,
            connection: None,
        }
    }

    /// Who is woken when there is something to send, or room for another stream.
    pub(super) fn set_connection(&mut self, waker: &Waker) {
        let same = self.connection.as_ref();
        if !same.is_some_and(|known| known.will_wake(waker)) {
            self.connection = Some(waker.clone());
        }
    }

    fn wake_connection(&self) {
        self.connection.iter().for_each(Waker::wake_by_ref);
    }

    /// Nothing comes or goes any more. What has come can still be read.
    pub(super) fn end(&mut self) {
        self.ended = true;
        self.control.clear();
        for flow in self.streams.values_mut() {
            flow.outgoing.clear();
            flow.wake();
        }
    }

    /// A stream of ours; `None` when there are too many for now.
    pub(super) fn open(&mut self) -> Now<u32> {
        if self.ours >= MAX_STREAMS {
            return None;
        }
        let id = self.next_id;
        let Some(next) = id.checked_add(2) else {
            return Some(Err(io::Error::other("the numbers of streams are used up")));
        };
        self.next_id = next;
        self.streams.insert(id, Flow::new(true, WINDOW));
        self.ours = self.ours.saturating_add(1);
        self.control.push_back(Header::window(id, SYN, 0));
        self.wake_connection();
        Some(Ok(id))
    }

    /// The next stream that the other side has opened.
    pub(super) fn accept(&mut self) -> Option<u32> {
        self.incoming.pop_front()
    }

    fn forget(&mut self, id: u32) {
        if self.streams.remove(&id).is_some_and(|flow| flow.ours) {
            self.ours = self.ours.saturating_sub(1);
        }
        if self.wide() == 0 {
            self.spare = Vec::new();
        }
        self.wake_connection();
    }

    // ---- what comes

    /// A header came. Data is checked against the window before any of it is read.
    pub(super) fn on_header(&mut self, header: Header) -> io::Result<()> {
        match header.kind {
            Kind::Ping => {
                if header.has(SYN) {
                    self.control.push_back(Header {
                        flags: ACK,
                        ..header
                    });
                }
                return Ok(());
            }
            Kind::GoAway => return Err(io::ErrorKind::ConnectionAborted.into()),
            Kind::Data | Kind::Window => {}
        }
        if header.has(SYN) && !self.on_opened(header.stream)? {
            return Ok(());
        }
        // What comes for a stream that is gone was sent before the other side knew.
        let Some(flow) = self.streams.get_mut(&header.stream) else {
            return Ok(());
        };
        if header.kind == Kind::Data {
            if flow.heard_out && header.len > 0 {
                return Err(violation("data after the end of a stream"));
            }
            let left = flow.window.checked_sub(header.len);
            flow.window = left.ok_or_else(|| violation("more data than the window allows"))?;
        } else if header.len > 0 {
            let was_empty = flow.credit == 0;
            let credit = flow.credit.checked_add(header.len);
            flow.credit = credit.ok_or_else(|| violation("more credit than there can be"))?;
            if was_empty {
                flow.writer.take().into_iter().for_each(Waker::wake);
            }
        }
        if header.has(RST) {
            flow.reset = true;
            flow.outgoing.clear();
            flow.wake();
            if flow.dropped {
                self.forget(header.stream);
            }
        } else if header.kind == Kind::Window && header.has(FIN) {
            self.on_finished(header.stream);
        }
        Ok(())
    }

    /// Whether it is taken.
    fn on_opened(&mut self, id: u32) -> io::Result<bool> {
        let theirs = id != 0 && id % 2 != self.next_id % 2;
        if !theirs || self.streams.contains_key(&id) {
            return Err(violation("a stream with a number it cannot have"));
        }
        if self.streams.len().saturating_sub(self.ours) >= MAX_STREAMS {
            self.control.push_back(Header::data(id, RST, 0));
            return Ok(false);
        }
        self.streams.insert(id, Flow::new(false, WINDOW));
        self.incoming.push_back(id);
        self.control.push_back(Header::window(id, ACK, 0));
        Ok(true)
    }

    /// Memory to read into, if there is some that was used before.
    pub(super) fn spare(&mut self) -> Option<Vec<u8>> {
        self.spare.pop()
    }

    /// A part of the data of a frame came.
    pub(super) fn on_data(&mut self, id: u32, bytes: Vec<u8>) {
        let Some(flow) = self.streams.get_mut(&id) else {
            return;
        };
        if flow.dropped || flow.reset {
            return;
        }
        match flow.received.back_mut() {
            Some(last) if bytes.len() < SHORT && last.len() < MAX_FRAME => {
                last.extend_from_slice(&bytes);
            }
            _ => flow.received.push_back(bytes),
        }
        flow.reader.take().into_iter().for_each(Waker::wake);
    }

    /// The other side sends nothing more. The end of what was thrown away is not the end of what it was to be.
    pub(super) fn on_finished(&mut self, id: u32) {
        if let Some(flow) = self.streams.get_mut(&id)
            && !flow.reset
        {
            flow.heard_out = true;
            flow.reader.take().into_iter().for_each(Waker::wake);
        }
    }

    // ---- what goes

    /// So much waits to be sent that nothing more should be read.
    pub(super) fn is_backlogged(&self) -> bool {
        self.control.len() >= MAX_CONTROL
    }

    /// The next bytes to send.
    pub(super) fn next_output(&mut self) -> Option<Vec<u8>> {
        let mut output = self.next_frame()?;
        while output.len() < GATHER {
            match self.next_frame() {
                Some(frame) => output.extend_from_slice(&frame),
                None => break,
            }
        }
        Some(output)
    }

    fn next_frame(&mut self) -> Option<Vec<u8>> {
        if let Some(header) = self.control.pop_front() {
            return Some(header.to_bytes().to_vec());
        }
        while let Some(id) = self.turns.pop_front() {
            let Some(flow) = self.streams.get_mut(&id) else {
                continue;
            };
            flow.in_turn = false;
            let frame = flow.next_data(id);
            let last = flow.outgoing.is_empty();
            if frame.is_none() {
                if let Some(header) = self.end_of(id) {
                    return Some(header.to_bytes().to_vec());
                }
            } else {
                if !last || flow.finishing || flow.dropped {
                    self.give_turn(id);
                }
                return frame;
            }
        }
        None
    }

    /// All data of a stream has been sent: how it ends, if it does. A stream that nobody holds is forgotten then.
    fn end_of(&mut self, id: u32) -> Option<Header> {
        let flow = self.streams.get_mut(&id)?;
        // Given up in the middle of much, it would go on until its window is full.
        let given_up = flow.dropped && !flow.heard_out && flow.full_window > WINDOW;
        let flag = if flow.reset || (flow.finished && !given_up) {
            None
        } else if given_up || (flow.dropped && !flow.heard_out && !flow.finishing) {
            Some(RST)
        } else {
            (flow.finishing || flow.dropped).then_some(FIN)
        };
        flow.finished |= flag == Some(FIN);
        if flow.dropped {
            self.forget(id);
        }
        flag.map(|flag| Header::data(id, flag, 0))
    }

    fn give_turn(&mut self, id: u32) {
        if let Some(flow) = self.streams.get_mut(&id)
            && !flow.in_turn
        {
            flow.in_turn = true;
            self.turns.push_back(id);
        }
    }

    /// Streams are given nothing more to send. What they were given before still goes.
    pub(super) fn close(&mut self) {
        if !std::mem::replace(&mut self.closing, true) {
            self.streams.values_mut().for_each(Flow::wake);
        }
    }

    /// The last frame: the other side reads none that comes after it.
    pub(super) fn say_goodbye(&mut self) {
        self.control.push_back(Header {
            kind: Kind::GoAway,
            flags: 0,
            stream: 0,
            len: 0,
        });
    }

    // ---- what streams do

    pub(super) fn read(&mut self, id: u32, buffer: &mut [u8], waker: &Waker) -> Now<usize> {
        let flow = self.streams.get_mut(&id)?;
        let len = flow.take(buffer, &mut self.spare);
        if len == 0 && !buffer.is_empty() {
            if flow.heard_out {
                return Some(Ok(0));
            }
            if flow.reset || self.ended {
                return Some(Err(io::ErrorKind::ConnectionReset.into()));
            }
            flow.reader = Some(waker.clone());
            return None;
        }
        flow.read = flow
            .read
            .saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
        let mut more = flow.read;
        let is_much = flow.ours && flow.full_window == WINDOW && more >= MUCH;
        let widen = is_much && self.wide() < MAX_WIDE;
        let flow = self.streams.get_mut(&id)?;
        if widen {
            flow.full_window = WIDE_WINDOW;
            more = more.saturating_add(WIDE_WINDOW.saturating_sub(WINDOW));
        }
        if more >= flow.full_window / 2 && !flow.heard_out && !flow.reset {
            flow.read = 0;
            flow.window = flow.window.saturating_add(more);
            self.control.push_back(Header::window(id, 0, more));
            self.wake_connection();
        }
        Some(Ok(len))
    }

    /// How many streams have a wide window.
    pub(super) fn wide(&self) -> usize {
        let streams = self.streams.values();
        streams.filter(|flow| flow.full_window > WINDOW).count()
    }

    pub(super) fn write(&mut self, id: u32, bytes: &[u8], waker: &Waker) -> Now<usize> {
        let flow = self.streams.get_mut(&id)?;
        if self.closing || self.ended || flow.reset || flow.finishing {
            return Some(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if flow.credit == 0 || flow.outgoing_len >= SEND_QUEUE {
            flow.writer = Some(waker.clone());
            return None;
        }
        if flow
            .outgoing
            .back()
            .is_none_or(|last| last.len() >= MAX_FRAME)
        {
            let mut frame = Vec::with_capacity(MAX_FRAME.min(bytes.len().saturating_add(HEADER)));
            frame.extend_from_slice(&[0; HEADER]);
            flow.outgoing.push_back(frame);
        }
        let frame = flow.outgoing.back_mut()?;
        let room = MAX_FRAME.saturating_sub(frame.len());
        let credit = usize::try_from(flow.credit).unwrap_or(usize::MAX);
        let part = bytes.get(..room.min(credit)).unwrap_or(bytes);
        frame.extend_from_slice(part);
        flow.outgoing_len = flow.outgoing_len.saturating_add(part.len());
        let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
        flow.credit = flow.credit.saturating_sub(len);
        self.give_turn(id);
        self.wake_connection();
        Some(Ok(part.len()))
    }

    /// We send nothing more on it.
    pub(super) fn finish(&mut self, id: u32) {
        if let Some(flow) = self.streams.get_mut(&id)
            && !flow.finishing
        {
            flow.finishing = true;
            self.give_turn(id);
            self.wake_connection();
        }
    }

    /// Nobody holds it any more. What it was given to send is still sent.
    pub(super) fn drop_stream(&mut self, id: u32) {
        if let Some(flow) = self.streams.get_mut(&id) {
            flow.dropped = true;
            flow.received.clear();
            self.give_turn(id);
            self.wake_connection();
        }
    }
}

#[cfg(test)]
impl State {
    /// Bytes of memory that streams hold of what came and of what is to be sent.
    pub(super) fn pinned(&self) -> usize {
        let streams = self.streams.values();
        let parts = streams.flat_map(|flow| flow.received.iter().chain(&flow.outgoing));
        parts.map(Vec::capacity).sum()
    }

    /// Entries of all that is not bytes: streams, those to be told and to have their turn, frames without data.
    pub(super) fn entries(&self) -> [usize; 4] {
        [
            self.streams.len(),
            self.incoming.len(),
            self.turns.len(),
            self.control.len(),
        ]
    }
}
