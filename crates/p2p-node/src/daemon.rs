//! `run`: the daemon in the foreground. Starts the node, then the API, then the configured shares; stops in the reverse
//! order of who needs whom, within five seconds.

use std::path::Path;
use std::sync::Arc;

use p2p_core::Node;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::commands::share;
use crate::config::{ConfiguredShare, Settings};
use crate::context::Context;
use crate::control::auth;
use crate::control::endpoint::Endpoint;
use crate::control::listener::Listener;
use crate::control::protocol::{Ready, Reply};
use crate::control::server::Server;
use crate::exit::Failure;
use crate::output::Printer;
use crate::reload;
use crate::session;
use crate::signals::{Hangups, Signals};

/// Shares done that may wait to be printed.
const SHARE_QUEUE: usize = 16;

/// Runs until a signal or `shutdown`; the exit code.
pub async fn run(settings: Settings, printer: &mut Printer) -> Result<u8, Failure> {
    let mut signals = Signals::listen()?;
    for warning in &settings.warnings {
        printer.warn(warning);
    }
    let node = tokio::select! {
        node = Node::start(settings.core.clone()) => node?,
        signal = signals.received() => return Ok(signal),
    };
    let context = Arc::new(Context::with_settings(node, settings.clone()));
    let outcome = serve(&settings, &context, &mut signals, printer).await;
    printer.end_progress();
    let server = match outcome {
        Ok(server) => server,
        Err(failure) => {
            session::stop(&context.node).await;
            return Err(failure);
        }
    };
    signals.exit_on_next();
    tracing::info!("stopping");
    // The API goes last, so that requests under way can say why they end, and `shutdown` can see that all is done.
    session::stop(&context.node).await;
    if let Some(server) = server {
        server.stop().await;
        forget_address(&settings);
    }
    Ok(0)
}

/// Everything up to the wish to stop; the API that is then still to be stopped.
async fn serve(
    settings: &Settings,
    context: &Arc<Context>,
    signals: &mut Signals,
    printer: &mut Printer,
) -> Result<Option<Server>, Failure> {
    let server = start_api(settings, context).await?;
    let api = match server.as_ref().map(Server::endpoint) {
        Some(endpoint @ Endpoint::Tcp(_)) => format!("http://{endpoint}"),
        Some(endpoint) => endpoint.to_string(),
        None => Endpoint::Off.to_string(),
    };
    printer.reply(&Reply::Ready(Ready {
        peer: context.node.id().to_string(),
        publisher: context.node.publisher().to_string(),
        addresses: context
            .node
            .addresses()
            .iter()
            .map(ToString::to_string)
            .collect(),
        api,
        data_dir: settings.core.data_dir.display().to_string(),
    }))?;

    let mut hangups = Hangups::listen()?;
    let (sharing, mut shared) = share_all(Arc::clone(context), settings.shares.clone());
    let sharing = AbortOnDrop(sharing);
    loop {
        tokio::select! {
            biased;
            _ = signals.received() => break,
            () = context.stop_requested() => break,
            () = hangups.received() => match reload::reload(context).await {
                Ok(reloaded) => printer.reply(&Reply::Reloaded(reloaded))?,
                Err(failure) => printer.warn(&failure.message),
            },
            Some(result) = shared.recv() => match result {
                Ok(reply) => printer.reply(&reply)?,
                Err(failure) => printer.warn(&failure.message),
            },
        }
    }
    drop(sharing);
    Ok(server)
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn start_api(settings: &Settings, context: &Arc<Context>) -> Result<Option<Server>, Failure> {
    let token = auth::load_or_create_token(&settings.token_file())?;
    let Some(listener) = Listener::bind(&settings.api).await? else {
        return Ok(None);
    };
    note_address(&settings.api_address_file(), &listener.endpoint())?;
    Ok(Some(Server::start(Arc::clone(context), listener, token)))
}

/// For clients whose settings leave the port open.
fn note_address(file: &Path, endpoint: &Endpoint) -> Result<(), Failure> {
    std::fs::write(file, format!("{endpoint}\n"))
        .map_err(|error| Failure::io(format!("cannot write {}", file.display()), &error))
}

fn forget_address(settings: &Settings) {
    // A stale note leads to a closed port, which says the same as none.
    let _ = std::fs::remove_file(settings.api_address_file());
}

/// Shares what the settings name, one after the other; what is missing now is told and left out.
fn share_all(
    context: Arc<Context>,
    shares: Vec<ConfiguredShare>,
) -> (JoinHandle<()>, mpsc::Receiver<Result<Reply, Failure>>) {
    let (sender, receiver) = mpsc::channel(SHARE_QUEUE);
    let task = tokio::spawn(async move {
        for share in shares {
            let result = share_one(&context, share).await;
            if sender.send(result).await.is_err() {
                return;
            }
        }
    });
    (task, receiver)
}

async fn share_one(context: &Context, configured: ConfiguredShare) -> Result<Reply, Failure> {
    let ConfiguredShare {
        path,
        name,
        unlisted,
        watch,
        keep,
        audience,
    } = configured;
    let mut sharing = context.node.share(&path);
    sharing = sharing
        .unlisted(unlisted)
        .watch(watch)
        .keep(keep)
        .audience(audience);
    if let Some(name) = &name {
        sharing = sharing.name(name.clone());
    }
    let shared = sharing.await;
    let shared = shared.map_err(|error| {
        let failure = Failure::from(error);
        Failure {
            message: format!("not shared: {}: {}", path.display(), failure.message),
            ..failure
        }
    })?;
    Ok(Reply::Shared(share::describe(&shared)))
}
