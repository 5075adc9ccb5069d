//! A node inside a web application. `GET /files/{id}` answers with the bytes of that content, verified, from whoever has
//! it; they are sent on while they arrive. The example starts the application on a free port, asks itself, and ends.
//!
//! ```text
//! cargo run -p p2p-examples --example axum_app
//! ```

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, ensure};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path as UrlPath, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::stream;
use p2p_core::{Config, ContentId, FetchError, Node, Reader};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let elsewhere = Node::start(local(&dir.path().join("elsewhere"))?).await?;
    let path = dir.path().join("report.pdf");
    let content: Vec<u8> = (0..3_000_000_u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    fs::write(&path, &content)?;
    let report = elsewhere.share(&path).await?;

    let mut config = local(&dir.path().join("app"))?;
    config.network.bootstrap = elsewhere.addresses();
    let node = Node::start(config).await?;
    let app = Router::new()
        .route("/files/{id}", get(file))
        .with_state(node.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    println!("GET http://{address}/files/{}", report.id);
    let (head, body) = ask(address, &format!("/files/{}", report.id)).await?;
    println!("{head}\n({} bytes)", body.len());
    ensure!(head.starts_with("HTTP/1.1 200"), "not answered");
    ensure!(body == content, "other bytes than were shared");

    let (head, _) = ask(address, "/files/nonsense").await?;
    println!(
        "\nGET /files/nonsense\n{}",
        head.lines().next().unwrap_or_default()
    );
    ensure!(head.starts_with("HTTP/1.1 400"), "nonsense was answered");

    server.abort();
    node.shutdown().await;
    elsewhere.shutdown().await;
    Ok(())
}

/// Streams a content. The handle of the node is cheap to clone, so it is the state of the application.
async fn file(State(node): State<Node>, UrlPath(id): UrlPath<String>) -> Response {
    let id: ContentId = match id.parse() {
        Ok(id) => id,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    match node.read(id).await {
        Ok(reader) => {
            let headers = [
                (header::CONTENT_LENGTH, reader.size().to_string()),
                // The id names the bytes, so it is the strongest tag there can be.
                (header::ETAG, format!("\"{id}\"")),
            ];
            (headers, Body::from_stream(chunks(reader))).into_response()
        }
        Err(error @ FetchError::NotFound { .. }) => {
            (StatusCode::NOT_FOUND, format!("{error}\n")).into_response()
        }
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error}\n")).into_response(),
    }
}

fn chunks(reader: Reader) -> impl futures::Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold(reader, |mut reader| async {
        let mut chunk = vec![0; 64 * 1024];
        let read = reader.read(&mut chunk).await?;
        chunk.truncate(read);
        Ok((read > 0).then(|| (Bytes::from(chunk), reader)))
    })
}

/// A request as plain as HTTP allows: the head of the answer, and its body.
async fn ask(address: std::net::SocketAddr, path: &str) -> anyhow::Result<(String, Vec<u8>)> {
    let mut socket = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut answer)).await??;
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .context("no end of the head")?;
    let body = answer.split_off(end + 4);
    Ok((String::from_utf8(answer)?.trim_end().to_owned(), body))
}

/// A node of this machine only.
fn local(dir: &Path) -> anyhow::Result<Config> {
    let mut config = Config::default().with_data_dir(dir);
    config.network.listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
    config.network.mdns = false;
    config.network.lan_only = true;
    Ok(config)
}
