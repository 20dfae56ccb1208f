//! Who waits for which answer: a table from our own ids to whatever the owner keeps for each.
//!
//! Pure. Ids are never given twice, so that an answer that comes late cannot be taken for another one's.

use std::collections::HashMap;

#[derive(Debug)]
pub(super) struct Pending<T> {
    next: u64,
    waiting: HashMap<u64, T>,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        // From 1, as every other client of such peers counts.
        Self { next: 1, waiting: HashMap::new() }
    }
}

impl<T> Pending<T> {
    /// Keeps `waiter` under a new id.
    pub(super) fn insert(&mut self, waiter: T) -> u64 {
        let id = self.next;
        self.next += 1;
        self.waiting.insert(id, waiter);
        id
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        self.waiting.get_mut(&id)
    }

    /// Takes the waiter out, at most once.
    pub(super) fn take(&mut self, id: u64) -> Option<T> {
        self.waiting.remove(&id)
    }

    /// Takes all waiters out.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.waiting.drain().map(|(_, waiter)| waiter).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether `id` was ever given, and so may be answered late.
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
