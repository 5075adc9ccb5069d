//! Who carries out a command: the daemon that runs, or a node of our own for the duration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use p2p_core::{Address, Config, Node, StartError};

use crate::commands::{self, cat};
use crate::config::Settings;
use crate::context::Context;
use crate::control::client::{Client, Probe};
use crate::control::protocol::{CatRequest, Reply, Request};
use crate::exit::Failure;
use crate::output::Printer;
use crate::signals::Signals;

/// Nodes beside the one that owns the data directory: commands run at once by hand, not a service.
const MAX_SIDE_NODES: u32 = 8;
/// How long our own node may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// How long to wait for a daemon to be gone that was told to stop.
const GONE_DEADLINE: Duration = Duration::from_secs(8);

/// What a session is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Makes sense with a node of our own too.
    Alone,
    /// Is about the daemon.
    Daemon,
}

/// The one who carries out requests.
#[derive(Debug)]
pub enum Session {
    Daemon(Client),
    Own(Arc<Context>),
}

/// Opens a session, carries out `request`, prints the answer; the exit code.
pub async fn perform(
    settings: &Settings,
    request: Request,
    printer: &mut Printer,
) -> Result<u8, Failure> {
    let mut signals = Signals::listen()?;
    let purpose = match &request {
        Request::Share(_) | Request::Get(_) | Request::List(_) => Purpose::Alone,
        _ => Purpose::Daemon,
    };
    let session = tokio::select! {
        session = Session::open(settings, purpose) => session?,
        signal = signals.received() => return Ok(signal),
    };
    let outcome = converse(&session, request, &mut signals, printer).await;
    printer.end_progress();
    session.close().await;
    outcome
}

async fn converse(
    session: &Session,
    request: Request,
    signals: &mut Signals,
    printer: &mut Printer,
) -> Result<u8, Failure> {
    let resumable = matches!(request, Request::Get(_));
    let sharing = matches!(request, Request::Share(_));
    let stopping = matches!(request, Request::Shutdown);
    let asked = tokio::select! {
        asked = session.ask(request) => asked?,
        signal = signals.received() => return Ok(signal),
    };
    let mut answer = asked;
    let mut code = 0;
    loop {
        let reply = tokio::select! {
            biased;
            signal = signals.received() => {
                printer.interrupted(resumable);
                return Ok(signal);
            }
            reply = answer.next() => reply.unwrap_or_else(|| Err(cut(resumable)))?,
        };
        match reply {
            Reply::Done => break,
            Reply::Error(failure) => {
                printer.failure(&failure);
                code = if code == 0 { failure.exit_code() } else { code };
            }
            reply => printer.reply(&reply)?,
        }
    }
    match session {
        Session::Own(_) if sharing && code == 0 => {
            printer.note("sharing until Ctrl-C");
            signals.received().await;
        }
        Session::Daemon(client) if stopping => client.wait_until_gone(GONE_DEADLINE).await?,
        Session::Own(_) | Session::Daemon(_) => {}
    }
    Ok(code)
}

fn cut(resumable: bool) -> Failure {
    if resumable {
        Failure::new(
            "interrupted",
            "the daemon stopped; run the same command again to resume",
        )
    } else {
        Failure::new("stopped", "the daemon stopped before it had answered")
    }
}

impl Session {
    /// The daemon if one runs; else, for what makes sense alone, a node of our own.
    pub async fn open(settings: &Settings, purpose: Purpose) -> Result<Self, Failure> {
        match (Client::probe(settings).await?, purpose) {
            (Probe::Ours(client), _) => Ok(Self::Daemon(client)),
            (_, Purpose::Alone) => Ok(Self::Own(Arc::new(Context::new(
                start_own(&settings.core).await?,
            )))),
            (Probe::Nobody(place), Purpose::Daemon) => Err(Failure::new(
                "no_daemon",
                format!("no daemon is running (looked at {place}); start one with: p2p-node run"),
            )),
            (Probe::Stranger(place), Purpose::Daemon) => Err(Failure::new(
                "no_daemon",
                format!(
                    "the daemon at {place} does not accept the token in {}: it runs with other settings; \
                     use --config with its node.toml",
                    settings.token_file().display()
                ),
            )),
        }
    }

    /// Starts a request. Dropping the answer cancels it.
    pub async fn ask(
        &self,
        request: Request,
    ) -> Result<BoxStream<'static, Result<Reply, Failure>>, Failure> {
        match self {
            Self::Daemon(client) => client.command(&request).await,
            Self::Own(context) => Ok(commands::start(Arc::clone(context), request)
                .map(Ok)
                .boxed()),
        }
    }

    /// Verified bytes of a content, in order.
    pub async fn cat(
        &self,
        request: CatRequest,
    ) -> Result<BoxStream<'static, Result<Bytes, Failure>>, Failure> {
        match self {
            Self::Daemon(client) => client.cat(&request).await,
            Self::Own(context) => {
                let context = Arc::clone(context);
                let opened = stream::once(async move { cat::open(&context, request).await });
                Ok(opened
                    .flat_map(|opened| match opened {
                        Ok(contents) => contents.boxed(),
                        Err(failure) => stream::once(async { Err(failure) }).boxed(),
                    })
                    .boxed())
            }
        }
    }

    /// Ends a node of our own; a daemon stays.
    pub async fn close(self) {
        if let Self::Own(context) = self {
            stop(&context.node).await;
        }
    }
}

/// Stops a node in order, within the time a user is ready to wait.
pub async fn stop(node: &Node) {
    if tokio::time::timeout(STOP_DEADLINE, node.clone().shutdown())
        .await
        .is_err()
    {
        tracing::warn!("the node did not stop in time");
    }
}

/// A node on free ports; beside the data directory's own node if one is using it.
async fn start_own(settings: &Config) -> Result<Node, Failure> {
    let mut config = settings.clone();
    config.network.listen = settings
        .network
        .listen
        .iter()
        .map(any_port)
        .collect::<Result<_, _>>()?;
    let mut locked = match Node::start(config.clone()).await {
        Err(error @ StartError::Locked { .. }) => error,
        started => return Ok(started?),
    };
    for number in 1..=MAX_SIDE_NODES {
        config.data_dir = side_dir(&settings.data_dir, number);
        match Node::start(config.clone()).await {
            Err(error @ StartError::Locked { .. }) => locked = error,
            started => {
                tracing::info!(data_dir = %config.data_dir.display(), "the data directory is in use; using one beside it");
                return Ok(started?);
            }
        }
    }
    Err(locked.into())
}

fn side_dir(data_dir: &Path, number: u32) -> PathBuf {
    data_dir.join(format!("side-{number}"))
}

/// The same address with the port left to the system, as the fixed one is the daemon's.
fn any_port(address: &Address) -> Result<Address, Failure> {
    let text = address.to_string();
    let mut after_protocol = false;
    let parts: Vec<&str> = text
        .split('/')
        .map(|part| {
            let part = if after_protocol { "0" } else { part };
            after_protocol = !after_protocol && matches!(part, "tcp" | "udp");
            part
        })
        .collect();
    let any = parts.join("/");
    any.parse()
        .map_err(|error| Failure::new("config", format!("network.listen: {any}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_port_is_freed() {
        let free = |text: &str| {
            let address: Address = text.parse().expect("a valid address");
            any_port(&address)
                .map(|address| address.to_string())
                .expect("still valid")
        };
        assert_eq!(free("/ip4/0.0.0.0/tcp/4711"), "/ip4/0.0.0.0/tcp/0");
        assert_eq!(free("/ip6/::/udp/4711/quic-v1"), "/ip6/::/udp/0/quic-v1");
    }
}
