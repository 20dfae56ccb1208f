//! Where a session is.

use std::sync::{Mutex, MutexGuard};

use crate::{backend::Backend, lock::lock};

/// Where a session is.
#[derive(Debug)]
pub(in crate::session) struct Home {
    place: Mutex<Place>,
}

/// The CLI that a session is used in, and the home that has its folder.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) backend: Backend,
    /// The CLI whose home has the folder; empty: there is none yet.
    pub(super) home: String,
    /// The node on whose disk that is; empty: it is the CLI's own.
    pub(super) home_disk: String,
}

impl Home {
    /// A session that is used in this CLI, and has its folder in this home of this node.
    pub(in crate::session) fn new(backend: Backend, home: String, home_disk: String) -> Self {
        Self { place: Mutex::new(Place { backend, home, home_disk }) }
    }

    /// A copy's, which is where the original is.
    pub(super) fn copy(&self) -> Self {
        let place = self.lock();
        Self::new(place.backend.clone(), place.home.clone(), place.home_disk.clone())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Place> {
        lock(&self.place)
    }
}
