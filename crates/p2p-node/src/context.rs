//! What every command works on: the node, the shares that are watched, and the way to end the process.

use p2p_core::Node;
use tokio::sync::Notify;

use crate::rescan::Rescan;

/// Shared by all commands that run in this process.
#[derive(Debug)]
pub struct Context {
    pub node: Node,
    pub rescan: Rescan,
    stop: Notify,
}

impl Context {
    pub fn new(node: Node) -> Self {
        let rescan = Rescan::start(node.clone());
        Self {
            node,
            rescan,
            stop: Notify::new(),
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
