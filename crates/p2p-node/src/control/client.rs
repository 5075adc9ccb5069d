//! The command line's side of the API.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request as HttpRequest, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use super::auth;
use super::endpoint::Endpoint;
use super::frames::Decoder;
use super::listener::Stream as Connection;
use super::protocol::{CatRequest, Reply, Request};
use crate::config::Settings;
use crate::exit::Failure;

/// A local daemon accepts within this, or is not well.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// A living daemon answers the health question within this.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// The longest line of an answer: far above a status with all its addresses.
const MAX_LINE: usize = 4 << 20;
/// Pause between looks whether a daemon is gone.
const GONE_PAUSE: Duration = Duration::from_millis(50);

/// Who was found where the daemon should be.
#[derive(Debug)]
pub enum Probe {
    Ours(Client),
    /// Nobody; the place in words.
    Nobody(String),
    /// A daemon that does not accept our token.
    Stranger(String),
}

/// A daemon that answers and accepts our token.
#[derive(Debug)]
pub struct Client {
    endpoint: Endpoint,
    token: Option<String>,
}

#[derive(Deserialize)]
struct Health {
    authorized: bool,
}

impl Client {
    /// Looks for the daemon of these settings.
    pub async fn probe(settings: &Settings) -> Result<Probe, Failure> {
        let endpoint = match resolve(settings) {
            Ok(endpoint) => endpoint,
            Err(place) => return Ok(Probe::Nobody(place)),
        };
        let place = endpoint.to_string();
        let client = Self {
            token: token(settings, &endpoint),
            endpoint,
        };
        let Ok(stream) = client.connect().await else {
            return Ok(Probe::Nobody(place));
        };
        let health = client.exchange(stream, Method::GET, "/v1/health", Bytes::new());
        let health = match tokio::time::timeout(PROBE_DEADLINE, health).await {
            Ok(Ok(response)) if response.status() == StatusCode::OK => {
                read_small(response.into_body()).await?
            }
            Ok(Ok(_) | Err(_)) => {
                return Ok(Probe::Nobody(format!(
                    "{place}, where something else answers"
                )));
            }
            Err(_) => {
                return Err(Failure::new(
                    "timeout",
                    format!("the daemon at {place} does not answer"),
                ));
            }
        };
        match serde_json::from_slice(&health) {
            Ok(Health { authorized: true }) => Ok(Probe::Ours(client)),
            Ok(Health { authorized: false }) => Ok(Probe::Stranger(place)),
            Err(_) => Ok(Probe::Nobody(format!(
                "{place}, where something else answers"
            ))),
        }
    }

    /// Sends a request; its answer, without the final [`Reply::Done`] only if the connection was cut.
    pub async fn command(
        &self,
        request: &Request,
    ) -> Result<BoxStream<'static, Result<Reply, Failure>>, Failure> {
        let body = self.post("/v1/command", request).await?;
        Ok(replies(body).boxed())
    }

    /// Verified bytes of a content, in order.
    pub async fn cat(
        &self,
        request: &CatRequest,
    ) -> Result<BoxStream<'static, Result<Bytes, Failure>>, Failure> {
        let body = self.post("/v1/cat", request).await?;
        Ok(stream::try_unfold(Some((body, Decoder::default())), next_data).boxed())
    }

    /// Waits until nobody listens any more.
    pub async fn wait_until_gone(&self, deadline: Duration) -> Result<(), Failure> {
        let gone = async {
            while self.connect().await.is_ok() {
                tokio::time::sleep(GONE_PAUSE).await;
            }
        };
        let late = |_| Failure::new("timeout", "the daemon was told to stop, but is still there");
        tokio::time::timeout(deadline, gone).await.map_err(late)
    }

    async fn post(&self, path: &str, request: &impl Serialize) -> Result<Incoming, Failure> {
        let unwritable = |error| {
            Failure::usage(format!(
                "the request cannot be sent, is a path not UTF-8? {error}"
            ))
        };
        let body = serde_json::to_vec(request).map_err(unwritable)?;
        let stream = self.connect().await?;
        let response = self
            .exchange(stream, Method::POST, path, body.into())
            .await?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response.into_body());
        }
        let body = read_small(response.into_body()).await?;
        match serde_json::from_slice(&body) {
            Ok(Reply::Error(failure)) => Err(failure),
            Ok(_) | Err(_) => Err(Failure::new(
                "error",
                format!("the daemon answered {status}"),
            )),
        }
    }

    async fn connect(&self) -> Result<Box<dyn Connection>, Failure> {
        let failed = |why: &dyn std::fmt::Display| {
            Failure::new(
                "no_daemon",
                format!("cannot reach the daemon at {}: {why}", self.endpoint),
            )
        };
        match tokio::time::timeout(CONNECT_DEADLINE, open(&self.endpoint)).await {
            Ok(connected) => connected.map_err(|error| failed(&error)),
            Err(_) => Err(failed(&"no answer")),
        }
    }

    async fn exchange(
        &self,
        stream: Box<dyn Connection>,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        let failed = |error: hyper::Error| {
            Failure::new("stopped", format!("the daemon did not answer: {error}"))
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        // Ends by itself: when the answer was read, or when whoever reads it is dropped.
        tokio::spawn(connection);
        let mut request = HttpRequest::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(|error| {
            Failure::new("config", format!("the API token cannot be sent: {error}"))
        })?;
        sender.send_request(request).await.map_err(failed)
    }
}

async fn open(endpoint: &Endpoint) -> std::io::Result<Box<dyn Connection>> {
    match endpoint {
        Endpoint::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
        #[cfg(unix)]
        Endpoint::Unix(path) => Ok(Box::new(tokio::net::UnixStream::connect(path).await?)),
        #[cfg(not(unix))]
        Endpoint::Unix(_) => Err(std::io::ErrorKind::Unsupported.into()),
        Endpoint::Off => Err(std::io::ErrorKind::NotFound.into()),
    }
}

/// Where the daemon should be; the error says in words why there can be none.
fn resolve(settings: &Settings) -> Result<Endpoint, String> {
    match &settings.api {
        Endpoint::Off => Err("[api] listen, which is \"off\"".into()),
        Endpoint::Tcp(address) if address.port() == 0 => {
            let file = settings.api_address_file();
            let noted = std::fs::read_to_string(&file)
                .ok()
                .and_then(|text| text.trim().parse().ok());
            noted
                .filter(|endpoint: &Endpoint| endpoint.check().is_ok())
                .ok_or_else(|| file.display().to_string())
        }
        endpoint => Ok(endpoint.clone()),
    }
}

/// From the environment, else from the data directory; without one the daemon counts as a stranger's.
fn token(settings: &Settings, endpoint: &Endpoint) -> Option<String> {
    if matches!(endpoint, Endpoint::Unix(_)) {
        return None;
    }
    let given = std::env::var("P2P_NODE_API_TOKEN")
        .ok()
        .filter(|token| !token.is_empty());
    given.or_else(|| auth::read_token(&settings.token_file()).ok())
}

async fn read_small(mut body: Incoming) -> Result<Bytes, Failure> {
    let mut out = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(cut)?;
        if let Some(data) = frame.data_ref() {
            out.extend_from_slice(data);
        }
        if out.len() > MAX_LINE {
            return Err(Failure::new("error", "the daemon's answer is too long"));
        }
    }
    Ok(out.freeze())
}

fn cut(_: hyper::Error) -> Failure {
    Failure::new(
        "interrupted",
        "the connection to the daemon was cut; it may have stopped",
    )
}

/// The answer's lines as they arrive.
fn replies(body: Incoming) -> impl Stream<Item = Result<Reply, Failure>> + Send {
    let state = (body, BytesMut::new(), VecDeque::new());
    stream::try_unfold(state, |(mut body, mut buffer, mut ready)| async move {
        loop {
            if let Some(reply) = ready.pop_front() {
                return Ok(Some((reply, (body, buffer, ready))));
            }
            let Some(frame) = body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(cut)?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            buffer.extend_from_slice(data);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                ready.push_back(parse(&buffer.split_to(end + 1))?);
            }
            if buffer.len() > MAX_LINE {
                return Err(Failure::new(
                    "error",
                    "the daemon sent a line that is too long",
                ));
            }
        }
    })
}

fn parse(line: &[u8]) -> Result<Reply, Failure> {
    let newer = |error| {
        Failure::new(
            "error",
            format!("the daemon's answer is not understood; is it of another version? {error}"),
        )
    };
    serde_json::from_slice(line).map_err(newer)
}

type Contents = Option<(Incoming, Decoder)>;

async fn next_data(state: Contents) -> Result<Option<(Bytes, Contents)>, Failure> {
    let Some((mut body, mut decoder)) = state else {
        return Ok(None);
    };
    loop {
        if let Some(bytes) = decoder.next_data()? {
            return Ok(Some((bytes, Some((body, decoder)))));
        }
        match body.frame().await {
            Some(frame) => {
                if let Some(data) = frame.map_err(cut)?.data_ref() {
                    decoder.push(data);
                }
            }
            None => return decoder.finish().map(|()| None),
        }
    }
}
