//! Callers whose calls another server forwards. If that server dies, its calls break off, and their callers have not left: a turn that
//! they can ask for again goes on. So it is said when one leaves.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::lock::lock;

/// The callers of the forwarded calls that go on here, by the ids of the calls.
#[derive(Debug, Default)]
pub(super) struct Callers(Mutex<HashMap<String, CancellationToken>>);

/// The caller of a forwarded call. Known as long as this is held.
#[derive(Debug)]
pub struct Caller {
    callers: Arc<Callers>,
    call_id: String,
    left: CancellationToken,
}

impl Caller {
    /// Resolves when the server that forwards the call says that its caller has left.
    pub(super) fn left(&self) -> WaitForCancellationFuture<'_> {
        self.left.cancelled()
    }
}

impl Callers {
    /// A call comes in.
    pub(super) fn enter(self: &Arc<Self>, call_id: String) -> Arc<Caller> {
        let left = CancellationToken::new();
        lock(&self.0).insert(call_id.clone(), left.clone());
        Arc::new(Caller { callers: self.clone(), call_id, left })
    }

    /// The caller of a call has left.
    pub(super) fn leave(&self, call_id: &str) {
        if let Some(left) = lock(&self.0).get(call_id) {
            left.cancel();
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        lock(&self.callers.0).remove(&self.call_id);
    }
}
