//! `cat ID`: verified bytes to standard output, while they are fetched.

use std::io::{SeekFrom, Write};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, Stream, StreamExt, stream};
use p2p_core::{FetchError, Kind, Reader};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::millis;
use crate::cli::CatArgs;
use crate::config::Settings;
use crate::context::Context;
use crate::control::protocol::{CatRequest, Target};
use crate::exit::Failure;
use crate::session::{Purpose, Session};
use crate::signals::Signals;
use crate::units::human_duration;

/// Bytes handed on at once: one block.
const CHUNK: usize = p2p_core::BLOCK_LEN;

pub fn request(args: CatArgs) -> CatRequest {
    CatRequest {
        what: args.what,
        range: args.range,
        timeout_ms: millis(args.timeout),
    }
}

/// Writes the contents to standard output; the exit code.
pub async fn run(settings: &Settings, request: CatRequest) -> Result<u8, Failure> {
    let mut signals = Signals::listen()?;
    let session = Session::open(settings, Purpose::Alone).await?;
    let outcome = tokio::select! {
        signal = signals.received() => Ok(signal),
        written = write_out(&session, request) => written.map(|()| 0),
    };
    session.close().await;
    outcome
}

async fn write_out(session: &Session, request: CatRequest) -> Result<(), Failure> {
    let mut contents = session.cat(request).await?;
    while let Some(bytes) = contents.next().await {
        let bytes = bytes?;
        // On a thread of its own, as a reader that has stopped must not keep Ctrl-C from being heard.
        let written = tokio::task::spawn_blocking(move || {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&bytes).and_then(|()| stdout.flush())
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                return Err(Failure::closed());
            }
            Ok(Err(error)) => return Err(Failure::io("cannot write to standard output", &error)),
            Err(_) => return Err(Failure::new("stopped", "the command is ending")),
        }
    }
    Ok(())
}

/// The contents asked for, in order. Nothing in them is unverified.
pub async fn open(
    context: &Context,
    request: CatRequest,
) -> Result<impl Stream<Item = Result<Bytes, Failure>> + Send + use<>, Failure> {
    let patience = Duration::from_millis(request.timeout_ms);
    let id = request.what.id();
    let opening = match request.what {
        Target::Id(id) => context.node.read_within(id, patience).left_future(),
        Target::Ticket(ticket) if ticket.manifest().claims().kind == Kind::Collection => {
            return Err(Failure::usage(
                "this is a folder; list its files with `ls`, fetch it with `get`",
            ));
        }
        Target::Ticket(ticket) => context.node.read_within(*ticket, patience).right_future(),
    };
    let mut reader = tokio::time::timeout(patience, opening)
        .await
        .map_err(|_| {
            Failure::new(
                "not_found",
                format!(
                    "nobody who has {id} was found in {}",
                    human_duration(patience)
                ),
            )
        })??;
    let size = reader.size();
    let range = match request.range {
        Some(range) => {
            let range = range.within(size)?;
            // No block more is fetched.
            reader.set_end(range.end);
            range
        }
        None => 0..size,
    };
    reader
        .seek(SeekFrom::Start(range.start))
        .await
        .map_err(unreadable)?;
    let reading = Reading {
        reader,
        left: range.end.saturating_sub(range.start),
        patience,
    };
    Ok(stream::try_unfold(reading, Reading::next))
}

struct Reading {
    reader: Reader,
    left: u64,
    patience: Duration,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Failure> {
        if self.left == 0 {
            return Ok(None);
        }
        let want = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
        let mut chunk = BytesMut::zeroed(want);
        let read = tokio::time::timeout(self.patience, self.reader.read(&mut chunk))
            .await
            .map_err(|_| {
                Failure::new(
                    "timeout",
                    "providers were found, but nothing more came from them in time",
                )
            })?
            .map_err(unreadable)?;
        if read == 0 {
            return Err(Failure::new("io", "the content ended before its size"));
        }
        chunk.truncate(read);
        self.left = self.left.saturating_sub(read as u64);
        Ok(Some((chunk.freeze(), self)))
    }
}

/// What went wrong in a reader, told by the library's own error if it is inside.
fn unreadable(error: std::io::Error) -> Failure {
    match error.downcast::<FetchError>() {
        Ok(fetch) => fetch.into(),
        Err(error) => Failure::io("cannot read the content", &error),
    }
}
