//! `/yamux/1.0.0`: many streams on one connection, with windows that fill a long line from the start.
//!
//! The library's own multiplexer starts each stream with 256 KiB and doubles that when the first half of it was read
//! within two round trips of an idle line. Each request for blocks has a stream of its own, and beside one that already
//! fills the line the next never meets that condition, so that the line ran dry at the end of each request; and its
//! windows grow up to a gibibyte for each connection. Here a stream that we opened, and that carries much, gets a wide
//! window at once; no other does.
//!
//! What one connection may pin, if the other side fills all windows and nobody here reads: [`MAX_WIDE`] windows of
//! [`WIDE_WINDOW`] (16 MiB), 256 KiB for each other of the at most 64 streams of either side (31 MiB), and 128 KiB to be
//! sent for each (16 MiB); and a quarter of a mebibyte to read into. A fetch has two wide streams for each source.
//!
//! Source: <https://github.com/hashicorp/yamux/blob/master/spec.md>.
//!
//! [`MAX_WIDE`]: state::MAX_WIDE
//! [`WIDE_WINDOW`]: state::WIDE_WINDOW

mod frame;
#[cfg(test)]
mod random_tests;
mod state;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    future::{Ready, ready},
    io::{self, IoSlice},
    iter,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::{
    UpgradeInfo,
    muxing::{StreamMuxer, StreamMuxerEvent},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade},
};

use self::{
    frame::{FIN, HEADER, Header, Kind},
    state::{Now, State},
};

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// Frames handed to the socket at once: what TLS takes at once, as four full records, and one system call.
const OUTPUT: usize = 4;

/// Reads in a row before the streams have their turn with what came.
const READS: usize = 16;

/// The upgrade of a connection to many streams.
#[derive(Debug, Clone, Copy)]
pub(super) struct Config;

impl UpgradeInfo for Config {
    type Info = &'static str;
    type InfoIter = iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for Config {
    type Output = Mux<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Mux<C>>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Mux::new(socket, false)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Config {
    type Output = Mux<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Mux<C>>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Mux::new(socket, true)))
    }
}

fn violation(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The state is whole whenever the lock is free: nothing in between can fail.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection of many streams.
#[derive(Debug)]
pub(super) struct Mux<C> {
    socket: C,
    state: Arc<Mutex<State>>,
    reading: Reading,
    /// What data is read into.
    chunk: Vec<u8>,
    /// Frames being sent, and how many bytes of the first of them have been.
    output: VecDeque<Vec<u8>>,
    sent: usize,
    unflushed: bool,
    said_goodbye: bool,
}

/// What is being read.
#[derive(Debug)]
enum Reading {
    Header {
        bytes: [u8; HEADER],
        filled: usize,
    },
    /// Data, of which so much is missing, and whether the stream ends after it.
    Data {
        stream: u32,
        left: u32,
        last: bool,
    },
}

impl Reading {
    const START: Self = Self::Header {
        bytes: [0; HEADER],
        filled: 0,
    };
}

impl<C> Mux<C> {
    fn new(socket: C, client: bool) -> Self {
        Self {
            socket,
            state: Arc::new(Mutex::new(State::new(client))),
            reading: Reading::START,
            chunk: Vec::new(),
            output: VecDeque::new(),
            sent: 0,
            unflushed: false,
            said_goodbye: false,
        }
    }

    fn stream(&self, id: u32) -> Stream {
        Stream {
            id,
            state: Arc::clone(&self.state),
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Mux<C> {
    /// Sends what there is. Ready when all of it is on its way.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.gather();
            if self.output.is_empty() {
                if self.unflushed {
                    futures::ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
                    self.unflushed = false;
                }
                return Poll::Ready(Ok(()));
            }
            let mut slices = [IoSlice::new(&[]); OUTPUT];
            for (number, (slice, frame)) in slices.iter_mut().zip(&self.output).enumerate() {
                let from = if number == 0 { self.sent } else { 0 };
                *slice = IoSlice::new(frame.get(from..).unwrap_or_default());
            }
            let filled = slices.get(..self.output.len()).unwrap_or(&slices);
            let written = Pin::new(&mut self.socket).poll_write_vectored(cx, filled);
            match futures::ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.on_written(written),
            }
        }
    }

    /// Takes what there is to send, as much as is sent at once.
    fn gather(&mut self) {
        if self.output.len() >= OUTPUT {
            return;
        }
        let mut state = lock(&self.state);
        while self.output.len() < OUTPUT {
            let Some(frame) = state.next_output() else {
                break;
            };
            self.output.push_back(frame);
        }
    }

    fn on_written(&mut self, written: usize) {
        self.unflushed = true;
        self.sent = self.sent.saturating_add(written);
        while let Some(first) = self.output.front() {
            let Some(left) = self.sent.checked_sub(first.len()) else {
                break;
            };
            self.sent = left;
            self.output.pop_front();
        }
    }

    /// Reads once.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = Pin::new(&mut self.socket);
        match &mut self.reading {
            Reading::Header { bytes, filled } => {
                let missing = bytes.get_mut(*filled..).unwrap_or_default();
                let len = futures::ready!(socket.poll_read(cx, missing))?;
                if len == 0 {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                *filled = filled.saturating_add(len);
                if *filled == HEADER {
                    let header = Header::parse(*bytes)?;
                    lock(&self.state).on_header(header)?;
                    self.reading = match header.kind {
                        Kind::Data => Reading::Data {
                            stream: header.stream,
                            left: header.len,
                            last: header.has(FIN),
                        },
                        _ => Reading::START,
                    };
                }
            }
            Reading::Data { stream, left, .. } if *left > 0 => {
                let wanted = CHUNK.min(usize::try_from(*left).unwrap_or(CHUNK));
                // Not zeroed anew each time, and not lost when nothing comes.
                if self.chunk.len() < wanted {
                    self.chunk.resize(wanted, 0);
                }
                let room = self.chunk.get_mut(..wanted).unwrap_or_default();
                let len = futures::ready!(socket.poll_read(cx, room))?;
                if len == 0 {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                let bytes = if len < CHUNK / 8 * 7 {
                    self.chunk.get(..len).unwrap_or_default().to_vec()
                } else {
                    self.chunk.truncate(len);
                    let next = lock(&self.state).spare().unwrap_or_default();
                    std::mem::replace(&mut self.chunk, next)
                };
                *left = left.saturating_sub(u32::try_from(len).unwrap_or(u32::MAX));
                lock(&self.state).on_data(*stream, bytes);
            }
            Reading::Data { .. } => {}
        }
        if let Reading::Data {
            stream,
            left: 0,
            last,
        } = self.reading
        {
            let mut state = lock(&self.state);
            if last {
                state.on_finished(stream);
            }
            // Most connections are idle most of the time.
            if state.wide() == 0 {
                self.chunk = Vec::new();
            }
            self.reading = Reading::START;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends and reads as long as either goes on.
    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.state).set_connection(cx.waker());
        for _ in 0..READS {
            if let Poll::Ready(sent) = self.poll_send(cx) {
                sent?;
            } else if lock(&self.state).is_backlogged() {
                return Poll::Pending;
            }
            futures::ready!(self.poll_receive(cx))?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// What a method of the muxer comes to: an end for all streams, if it failed.
    fn outcome<T>(&self, now: Now<T>) -> Poll<io::Result<T>> {
        match now {
            Some(Err(error)) => {
                lock(&self.state).end();
                Poll::Ready(Err(error))
            }
            Some(Ok(value)) => Poll::Ready(Ok(value)),
            None => Poll::Pending,
        }
    }
}

impl<C> Drop for Mux<C> {
    fn drop(&mut self) {
        lock(&self.state).end();
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Mux<C> {
    type Substream = Stream;
    type Error = io::Error;

    fn poll_inbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let accepted = {
            let mut state = lock(&self.state);
            state.set_connection(cx.waker());
            state.accept()
        };
        accepted.map_or(Poll::Pending, |id| Poll::Ready(Ok(self.stream(id))))
    }

    fn poll_outbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let opened = {
            let mut state = lock(&self.state);
            state.set_connection(cx.waker());
            state.open()
        };
        let stream = opened.map(|id| id.map(|id| self.stream(id)));
        self.outcome(stream)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.state).close();
        futures::ready!(self.poll_send(cx))?;
        if !std::mem::replace(&mut self.said_goodbye, true) {
            lock(&self.state).say_goodbye();
            futures::ready!(self.poll_send(cx))?;
        }
        lock(&self.state).end();
        Pin::new(&mut self.socket).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        match self.poll_work(cx) {
            Poll::Ready(Err(error)) => self.outcome(Some(Err(error))),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }
}

/// A stream; given up when dropped.
#[derive(Debug)]
pub(super) struct Stream {
    id: u32,
    state: Arc<Mutex<State>>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        lock(&self.state).drop_stream(self.id);
    }
}

fn poll_of<T>(now: Now<T>) -> Poll<io::Result<T>> {
    now.map_or(Poll::Pending, Poll::Ready)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        poll_of(lock(&self.state).read(self.id, buffer, cx.waker()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        poll_of(lock(&self.state).write(self.id, bytes, cx.waker()))
    }

    /// What was written goes out as soon as the line takes it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.state).finish(self.id);
        Poll::Ready(Ok(()))
    }
}
