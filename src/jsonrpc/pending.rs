//! The pending table: from the id of each request that was sent to whatever its owner keeps until the answer comes.
//!
//! Pure. No id is given twice, so that a late answer cannot be taken for the answer to another request.

use std::collections::HashMap;

#[derive(Debug)]
pub(super) struct Pending<T> {
    next: u64,
    waiting: HashMap<u64, T>,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        // From 1, as other JSON-RPC clients count.
        Self { next: 1, waiting: HashMap::new() }
    }
}

impl<T> Pending<T> {
    /// Adds a waiter, and returns its new id.
    pub(super) fn insert(&mut self, waiter: T) -> u64 {
        let id = self.next;
        self.next += 1;
        self.waiting.insert(id, waiter);
        id
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        self.waiting.get_mut(&id)
    }

    /// Removes the waiter with this id and returns it, at most once.
    pub(super) fn take(&mut self, id: u64) -> Option<T> {
        self.waiting.remove(&id)
    }

    /// Removes all waiters and returns them.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.waiting.drain().map(|(_, waiter)| waiter).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether this id was ever given, so that a late answer may have it.
    pub(super) fn has_issued(&self, id: u64) -> bool {
        (1..self.next).contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_is_taken_once() {
        let mut pending = Pending::default();
        let (a, b) = (pending.insert("a"), pending.insert("b"));
        assert_eq!((pending.take(a), pending.take(a)), (Some("a"), None));
        assert_eq!(pending.get_mut(a), None);
        assert_eq!(pending.get_mut(b), Some(&mut "b"));
        assert_eq!(pending.len(), 1);
    }

    #[test]
    fn an_id_is_never_given_twice() {
        let mut pending = Pending::default();
        let a = pending.insert("a");
        assert!(pending.has_issued(a) && !pending.has_issued(0) && !pending.has_issued(a + 1));
        pending.take(a);
        assert_ne!(pending.insert("b"), a);
        assert!(pending.has_issued(a));
    }

    #[test]
    fn draining_empties_it() {
        let mut pending = Pending::default();
        let a = pending.insert("a");
        pending.insert("b");
        let mut waiters = pending.drain();
        waiters.sort_unstable();
        assert_eq!(waiters, ["a", "b"]);
        assert_eq!((pending.len(), pending.take(a)), (0, None));
    }
}
