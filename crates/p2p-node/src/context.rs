//! What every command works on: the node, and the way to end the process.

use p2p_core::Node;
use tokio::sync::{Mutex, Notify};

use crate::config::Settings;

/// Shared by all commands that run in this process.
#[derive(Debug)]
pub struct Context {
    pub node: Node,
    /// The settings in effect, of a daemon that can read them again.
    pub settings: Mutex<Option<Settings>>,
    stop: Notify,
}

impl Context {
    pub fn new(node: Node) -> Self {
        Self {
            node,
            settings: Mutex::default(),
            stop: Notify::new(),
        }
    }

    /// The same, able to [read its settings again](crate::reload).
    pub fn with_settings(node: Node, settings: Settings) -> Self {
        Self {
            settings: Mutex::new(Some(settings)),
            ..Self::new(node)
        }
    }

    /// Asks the process to stop.
    pub fn request_stop(&self) {
        self.stop.notify_one();
    }

    /// Resolves once a stop was asked for.
    pub async fn stop_requested(&self) {
        self.stop.notified().await;
    }
}
