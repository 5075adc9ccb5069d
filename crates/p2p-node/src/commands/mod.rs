//! One file per subcommand: how its arguments become a [`Request`], and how a node carries that out.
//!
//! [`execute`] is the only executor. It runs in the daemon for the API, and in the command line itself where no daemon
//! runs; either way the answer is the same stream of [`Reply`] objects.

pub mod cat;
pub mod check;
pub mod completions;
pub mod config;
pub mod connect;
pub mod doctor;
pub mod feed;
pub mod find;
pub mod get;
pub mod id;
pub mod init;
pub mod ls;
pub mod peers;
pub mod pin;
pub mod providers;
pub mod repo;
pub mod rm;
pub mod share;
pub mod shares;
pub mod status;
pub mod ticket;
pub mod unshare;

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures::Stream;
use p2p_core::{Address, Kind, NodeId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::cli::{Cli, Command, ConfigAction};
use crate::config::Settings;
use crate::context::Context;
use crate::control::protocol::{Reply, Request};
use crate::daemon;
use crate::exit::Failure;
use crate::output::Printer;
use crate::reload;
use crate::session;

/// Objects of an answer that may wait for a slow reader; then the command waits too.
const ANSWER_QUEUE: usize = 64;

/// Does what was typed; the exit code.
pub async fn run(cli: Cli, printer: &mut Printer) -> Result<u8, Failure> {
    let load = || Settings::load(cli.config.as_deref(), cli.api.as_ref());
    let request = match cli.command.unwrap_or(Command::Run) {
        Command::Run => return daemon::run(load()?, printer).await,
        Command::Init(args) => return init::run(&args, printer),
        Command::Config(args) if args.action == ConfigAction::Reload => Request::Reload,
        Command::Config(args) => {
            return config::run(&args, cli.config.as_deref(), cli.api.as_ref(), printer);
        }
        Command::Completions { shell } => return completions::run(shell),
        Command::Cat(args) => return cat::run(&load()?, cat::request(args)).await,
        Command::Share(args) => Request::Share(share::request(args)?),
        Command::Unshare { what } => unshare::request(&what)?,
        Command::Shares => Request::Shares,
        Command::Get(args) => Request::Get(get::request(args)?),
        Command::Ls(args) => ls::request(args),
        Command::Find { text, timeout } => Request::Find {
            text,
            timeout_ms: millis(timeout),
        },
        Command::Feed(args) => Request::Feed(feed::request(args)?),
        Command::Rm { id, delete_files } => Request::Remove { id, delete_files },
        Command::Providers { what, timeout } => providers::request(what, timeout),
        Command::Peers { watch } => Request::Peers { watch },
        Command::Connect { address } => Request::Connect { address },
        Command::Id => Request::Id,
        Command::Ticket { id } => Request::Ticket { id },
        Command::Status => Request::Status,
        Command::Doctor => Request::Doctor,
        Command::Check { id, timeout } => Request::Check {
            id,
            timeout_ms: millis(timeout),
        },
        Command::Pin(args) => pin::request(args),
        Command::Repo(args) => repo::request(&args),
        Command::Shutdown => Request::Shutdown,
    };
    session::perform(&load()?, request, printer).await
}

/// Carries out `request`, answering into `out`.
async fn execute(context: &Context, request: Request, out: &Outbox) -> Result<(), Failure> {
    match request {
        Request::Share(request) => share::execute(context, request, out).await,
        Request::Unshare { what } => unshare::execute(context, &what, out).await,
        Request::Shares => shares::execute(context, out).await,
        Request::Get(request) => get::execute(context, request, out).await,
        Request::Contents => ls::contents(context, out).await,
        Request::List(lookup) => ls::entries(context, lookup, out).await,
        Request::Catalog { peer } => ls::catalog(context, peer, out).await,
        Request::Find { text, timeout_ms } => find::execute(context, &text, timeout_ms, out).await,
        Request::Feed(request) => feed::execute(context, request, out).await,
        Request::Remove { id, delete_files } => rm::execute(context, id, delete_files, out).await,
        Request::Providers(lookup) => providers::execute(context, lookup, out).await,
        Request::Peers { watch } => peers::execute(context, watch, out).await,
        Request::Connect { address } => connect::execute(context, address, out).await,
        Request::Id => id::execute(context, out).await,
        Request::Ticket { id } => ticket::execute(context, id, out).await,
        Request::Status => status::execute(context, out).await,
        Request::Doctor => doctor::execute(context, out).await,
        Request::Check { id, timeout_ms } => check::execute(context, id, timeout_ms, out).await,
        Request::Pin { ids } => pin::add(context, &ids, out).await,
        Request::Unpin { ids } => pin::remove(context, &ids, out).await,
        Request::Pins => pin::list(context, out).await,
        Request::Collect { all, grace_ms } => repo::collect(context, all, grace_ms, out).await,
        Request::Stat => repo::stat(context, out).await,
        Request::Verify => repo::verify(context, out).await,
        Request::Reload => {
            out.send(Reply::Reloaded(reload::reload(context).await?))
                .await
        }
        Request::Shutdown => {
            out.send(Reply::Stopping).await?;
            context.request_stop();
            Ok(())
        }
    }
}

/// Starts carrying out `request`. Dropping the answer cancels it.
pub fn start(context: Arc<Context>, request: Request) -> Answer {
    let (sender, replies) = mpsc::channel(ANSWER_QUEUE);
    let task = tokio::spawn(async move {
        let out = Outbox(sender);
        if let Err(failure) = execute(&context, request, &out).await {
            // An error here means that nobody listens any more.
            let _ = out.send(Reply::Error(failure)).await;
        }
        let _ = out.send(Reply::Done).await;
    });
    Answer { replies, task }
}

/// Where a command puts its answer.
#[derive(Debug, Clone)]
pub struct Outbox(mpsc::Sender<Reply>);

impl Outbox {
    pub async fn send(&self, reply: Reply) -> Result<(), Failure> {
        self.0.send(reply).await.map_err(|_| Failure::gone())
    }
}

/// The answer of a running command: ends with [`Reply::Done`].
#[derive(Debug)]
pub struct Answer {
    replies: mpsc::Receiver<Reply>,
    task: JoinHandle<()>,
}

impl Stream for Answer {
    type Item = Reply;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Reply>> {
        self.replies.poll_recv(cx)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn kind_name(kind: Kind) -> String {
    match kind {
        Kind::Collection => "collection",
        _ => "file",
    }
    .to_owned()
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

/// Addresses of a peer in the form that `connect` takes.
fn dialable(peer: NodeId, addresses: &[Address]) -> Vec<String> {
    addresses
        .iter()
        .map(|address| address.with_node(peer).to_string())
        .collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Refuses a path that would depend on the folder the daemon was started in.
fn require_absolute(path: &Path) -> Result<(), Failure> {
    if path.is_absolute() {
        Ok(())
    } else {
        Err(Failure::usage(format!(
            "{} is not an absolute path",
            path.display()
        )))
    }
}
