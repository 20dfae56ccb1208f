//! The servers that share a store, as they see each other. Pure.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::record::{Incarnation, Time};

/// What a process is among those that share a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, which no other living process has.
    pub name: String,
    /// Where others reach it; empty: nowhere.
    pub address: String,
    /// The version of its program.
    pub version: String,
    /// For how long it counts as alive after a renewal of its lease.
    pub lease: Duration,
    /// Whether it is a command beside the servers: it owns no session that it makes.
    pub is_command: bool,
}

/// What a node is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It serves.
    Serving,
    /// It takes no new sessions, and lets go of those that it has.
    Draining,
    /// It is a command beside the servers.
    Command,
}

/// What a node has to do, as it tells with each renewal of its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// See [`Role`].
    pub role: Role,
    /// The sessions that it owns.
    pub sessions: u32,
    /// The turns that run or wait in them.
    pub turns: u32,
    /// How many more turns could begin at once.
    pub room: u32,
}

/// A process of a node, as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Which one.
    pub incarnation: Incarnation,
    /// Where other nodes reach it; empty: nowhere.
    pub address: String,
    /// The version of its program.
    pub version: String,
    /// What it has to do.
    pub load: Load,
    /// How long its lease still lasts by the store's clock; zero: it is dead, or has ended.
    pub lease: Duration,
    /// When it started.
    pub start_time: Time,
}

/// The nodes that share a store, as they were at a moment.
#[derive(Debug, Clone)]
pub struct Neighbours {
    /// When that was.
    pub seen: Instant,
    /// The nodes that lived then, or had lately.
    pub nodes: Arc<[NodeRecord]>,
}

impl Neighbours {
    pub(super) fn none() -> Self {
        Self { seen: Instant::now(), nodes: Arc::default() }
    }

    /// Until when a process has a lease that it had then, if it is not renewed; `None`: it had none.
    pub fn lease_of(&self, process: &Incarnation) -> Option<Instant> {
        let node = self.nodes.iter().find(|node| node.incarnation == *process)?;
        (!node.lease.is_zero()).then(|| self.seen + node.lease)
    }
}
