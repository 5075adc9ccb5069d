//! How the command line talks to a running daemon: HTTP on loopback or a Unix socket.
//!
//! A [`protocol::Request`] goes to `POST /v1/command`; the answer is a stream of [`protocol::Reply`] objects, one a line,
//! the last of which is `{"type":"done"}`: a stream without it was cut. Contents go over `POST /v1/cat` in [`frames`].

pub mod auth;
pub mod care;
pub mod client;
pub mod endpoint;
pub mod frames;
pub mod listener;
mod metrics;
pub mod protocol;
pub mod server;
pub mod text;
