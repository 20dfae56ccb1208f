//! Locks that outlast a panic of whoever held them.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also after a panic of who held it: what is behind the crate's locks is valid after every statement.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
