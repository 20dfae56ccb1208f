//! The outcome of each request: the list of calls that a server keeps, and the guard that settles one of them.

use std::sync::Arc;

use tokio::sync::watch;

use crate::Request;

/// One request that the server received, and its outcome.
#[derive(Debug, Clone)]
pub struct Call {
    /// The request.
    pub request: Arc<Request>,
    /// The state of the reply.
    pub state: CallState,
}

/// The state of the reply to a [`Call`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallState {
    /// The reply is being given. A [hanging](crate::Reply::hang) one stays here until the client leaves.
    Running,
    /// The script's reply was handed to the connection to its end. An [error status](crate::Reply::status)
    /// and a [closed connection](crate::Reply::close) count: they are what the script asked for.
    Completed,
    /// The client closed the connection before that.
    Dropped,
}

/// Settles one call: as completed when told so, and as dropped when it is itself dropped before. It travels with the reply, in
/// the handler's future and then in the body's stream, because hyper drops these when the client closes the connection and
/// tells nobody else.
#[derive(Debug)]
pub(crate) struct CallGuard {
    calls: watch::Sender<Vec<Call>>,
    index: usize,
}

impl CallGuard {
    /// Appends a running call to the list.
    pub(crate) fn open(calls: &watch::Sender<Vec<Call>>, request: Arc<Request>) -> Self {
        let mut index = 0;
        calls.send_modify(|calls| {
            index = calls.len();
            calls.push(Call { request, state: CallState::Running });
        });
        Self { calls: calls.clone(), index }
    }

    pub(crate) fn complete(self) {
        self.settle(CallState::Completed);
    }

    /// The first state to be set stays.
    fn settle(&self, state: CallState) {
        self.calls.send_if_modified(|calls| {
            let call = &mut calls[self.index];
            let running = call.state == CallState::Running;
            if running {
                call.state = state;
            }
            running
        });
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.settle(CallState::Dropped);
    }
}
