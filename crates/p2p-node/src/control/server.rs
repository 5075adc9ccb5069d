//! The daemon's side of the API. Every request passes `guard` first; what it wants is done by `commands::execute`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request as HttpRequest, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};

use super::auth::{self, Refusal};
use super::endpoint::Endpoint;
use super::frames;
use super::listener::{Listener, Stream as Connection};
use super::metrics;
use super::protocol::{CatRequest, Reply, Request};
use crate::commands::{self, Answer, cat};
use crate::context::Context;
use crate::exit::Failure;

/// Longest request body: far above a ticket with a thousand globs.
const MAX_BODY: usize = 1 << 20;
/// Requests answered at once; more are told to come back.
const MAX_REQUESTS: usize = 32;
/// Connections at once: room to turn some away while all requests run.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take over the head, and again over the body, of a request.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// How long answers may take to drain when the daemon stops.
const DRAIN: Duration = Duration::from_millis(300);
/// Pause after a failed accept, so that running out of file handles does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running API server. Dropping it ends it at once.
#[derive(Debug)]
pub struct Server {
    endpoint: Endpoint,
    stop: Arc<tokio::sync::Notify>,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves `context` on `listener`; `token` is what TCP clients must show.
    pub fn start(context: Arc<Context>, listener: Listener, token: String) -> Self {
        let endpoint = listener.endpoint();
        let state = ApiState {
            context,
            token: listener.needs_token().then(|| token.into()),
            slots: Arc::new(Semaphore::new(MAX_REQUESTS)),
        };
        let stop = Arc::new(tokio::sync::Notify::new());
        let task = tokio::spawn(accept_loop(listener, router(state), Arc::clone(&stop)));
        Self {
            endpoint,
            stop,
            task,
        }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Stops accepting, gives answers under way a moment, closes the rest.
    pub async fn stop(mut self) {
        self.stop.notify_one();
        // An error means that the task is over, which is what is wanted.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct ApiState {
    context: Arc<Context>,
    token: Option<Arc<str>>,
    slots: Arc<Semaphore>,
}

async fn accept_loop(listener: Listener, router: Router, stop: Arc<tokio::sync::Notify>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    // The semaphore is never closed, so a place is always found in the end.
    let accept = || async {
        (
            Arc::clone(&places).acquire_owned().await.ok(),
            listener.accept().await,
        )
    };
    let mut accepting = Box::pin(accept());
    loop {
        tokio::select! {
            biased;
            () = stop.notified() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            (place, accepted) = &mut accepting => {
                match accepted {
                    Ok(stream) => {
                        connections.spawn(serve(stream, router.clone(), place));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "refused a connection to the API");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
                accepting.set(accept());
            }
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    // Whatever has not drained in time is cut by dropping its task.
    let _ = tokio::time::timeout(DRAIN, drained).await;
}

async fn serve(stream: Box<dyn Connection>, router: Router, _place: Option<OwnedSemaphorePermit>) {
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_DEADLINE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the API ended early");
    }
}

fn router(state: ApiState) -> Router {
    Router::new()
        .route("/v1/health", get(health))
        .route("/v1/status", get(status))
        .route("/v1/peers", get(peers))
        .route("/v1/shares", get(shares))
        .route("/metrics", get(metrics))
        .route("/v1/command", post(command))
        .route("/v1/cat", post(cat_content))
        .fallback(|| async {
            refuse(
                StatusCode::NOT_FOUND,
                "not_found",
                "there is nothing at this path",
            )
        })
        .method_not_allowed_fallback(|| async {
            refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "usage",
                "this path does not take this method",
            )
        })
        .layer(middleware::from_fn_with_state(state.clone(), guard))
        .with_state(state)
}

/// Turns strangers away before anything else looks at a request.
async fn guard(State(state): State<ApiState>, request: HttpRequest, next: Next) -> Response {
    let verdict = auth::check(request.headers(), state.token.as_deref());
    let open = request.uri().path() == "/v1/health" && request.method() == Method::GET;
    match verdict {
        Err(Refusal::Foreign) => refuse(
            StatusCode::FORBIDDEN,
            "policy",
            "requests must come from this machine, not from a web page",
        ),
        Err(Refusal::NoToken) if !open => {
            let mut response = refuse(
                StatusCode::UNAUTHORIZED,
                "policy",
                "the bearer token in api.token in the data directory is needed",
            );
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                header::HeaderValue::from_static("Bearer"),
            );
            response
        }
        Err(Refusal::NoToken) | Ok(()) => next.run(request).await,
    }
}

/// Open to all on this machine; tells those who show a token whether it is the right one.
async fn health(State(state): State<ApiState>, request: HttpRequest) -> Response {
    let authorized = auth::check(request.headers(), state.token.as_deref()).is_ok();
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({ "type": "health", "status": "ok", "version": version, "authorized": authorized }))
        .into_response()
}

async fn status(State(state): State<ApiState>) -> Response {
    collected(&state, Request::Status)
        .await
        .map_or_else(refused, |mut objects| {
            let status = objects.pop().unwrap_or(Value::Null);
            Json(status).into_response()
        })
}

async fn peers(State(state): State<ApiState>) -> Response {
    let request = Request::Peers { watch: false };
    collected(&state, request)
        .await
        .map_or_else(refused, |objects| Json(objects).into_response())
}

async fn shares(State(state): State<ApiState>) -> Response {
    collected(&state, Request::Shares)
        .await
        .map_or_else(refused, |objects| Json(objects).into_response())
}

async fn metrics(State(state): State<ApiState>) -> Response {
    match metrics::text(&state.context.node.status()) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => refused(Failure::new("error", error.to_string())),
    }
}

/// The objects of a short answer.
async fn collected(state: &ApiState, request: Request) -> Result<Vec<Value>, Failure> {
    let _slot = slot(state)?;
    let mut answer = commands::start(Arc::clone(&state.context), request);
    let mut objects = Vec::new();
    while let Some(reply) = answer.next().await {
        match reply {
            Reply::Done => return Ok(objects),
            Reply::Error(failure) => return Err(failure),
            reply => objects.push(serde_json::to_value(reply).map_err(unwritable)?),
        }
    }
    Err(Failure::new("stopped", "the daemon is stopping"))
}

async fn command(State(state): State<ApiState>, request: HttpRequest) -> Response {
    let (slot, request) = match (slot(&state), json_body::<Request>(request).await) {
        (Ok(slot), Ok(request)) => (slot, request),
        (Err(failure), _) | (_, Err(failure)) => return refused(failure),
    };
    let answer = commands::start(Arc::clone(&state.context), request);
    streamed("application/x-ndjson", lines(answer, slot))
}

/// The answer as NDJSON. Dropping the stream, as when the client hangs up, cancels what runs.
fn lines(answer: Answer, slot: OwnedSemaphorePermit) -> impl Stream<Item = Bytes> + Send + 'static {
    answer.map(move |reply| {
        let _held = &slot;
        let mut line = serde_json::to_vec(&reply).unwrap_or_else(|error| {
            let failure =
                json!({ "type": "error", "code": "error", "message": unwritable(error).message });
            failure.to_string().into_bytes()
        });
        line.push(b'\n');
        Bytes::from(line)
    })
}

async fn cat_content(State(state): State<ApiState>, request: HttpRequest) -> Response {
    let (slot, request) = match (slot(&state), json_body::<CatRequest>(request).await) {
        (Ok(slot), Ok(request)) => (slot, request),
        (Err(failure), _) | (_, Err(failure)) => return refused(failure),
    };
    let context = Arc::clone(&state.context);
    let contents = stream::once(async move { cat::open(&context, request).await });
    let framed = contents.flat_map(|opened| match opened {
        Ok(contents) => contents.boxed(),
        Err(failure) => stream::once(async { Err(failure) }).boxed(),
    });
    // Ends after the first failure, with its frame; otherwise with the frame that says all is well.
    let framed = stream::unfold(Some((framed.boxed(), slot)), |state| async {
        let (mut contents, slot) = state?;
        match contents.next().await {
            Some(Ok(bytes)) => Some((frames::data(&bytes), Some((contents, slot)))),
            Some(Err(failure)) => Some((frames::end(Err(failure)), None)),
            None => Some((frames::end(Ok(())), None)),
        }
    });
    streamed("application/vnd.p2p-node.frames", framed)
}

fn streamed(kind: &'static str, body: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let body = Body::from_stream(body.map(Ok::<_, Infallible>));
    (
        [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "no-store"),
        ],
        body,
    )
        .into_response()
}

fn slot(state: &ApiState) -> Result<OwnedSemaphorePermit, Failure> {
    Arc::clone(&state.slots).try_acquire_owned().map_err(|_| {
        Failure::new(
            "busy",
            format!("{MAX_REQUESTS} requests are running already; try again later"),
        )
    })
}

async fn json_body<T: DeserializeOwned>(request: HttpRequest) -> Result<T, Failure> {
    let kind = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Failure::usage("the body must be application/json"));
    }
    let body = tokio::time::timeout(READ_DEADLINE, to_bytes(request.into_body(), MAX_BODY))
        .await
        .map_err(|_| Failure::new("timeout", "the body of the request did not arrive in time"))?
        .map_err(|error| {
            Failure::usage(format!(
                "the body cannot be read (at most {MAX_BODY} bytes): {error}"
            ))
        })?;
    serde_json::from_slice(&body)
        .map_err(|error| Failure::usage(format!("the body is no valid request: {error}")))
}

fn refused(failure: Failure) -> Response {
    let status = match failure.code.as_ref() {
        "usage" | "config" => StatusCode::BAD_REQUEST,
        "not_found" => StatusCode::NOT_FOUND,
        "policy" => StatusCode::FORBIDDEN,
        "timeout" => StatusCode::REQUEST_TIMEOUT,
        "busy" | "stopped" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, Json(Reply::Error(failure))).into_response()
}

fn refuse(status: StatusCode, code: &'static str, message: &str) -> Response {
    (status, Json(Reply::Error(Failure::new(code, message)))).into_response()
}

fn unwritable(error: serde_json::Error) -> Failure {
    Failure::new(
        "error",
        format!("the answer cannot be written as JSON: {error}"),
    )
}
