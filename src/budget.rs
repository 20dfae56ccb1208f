//! What all readers together hold: bounded for the whole server.
//!
//! Each reader has a bound of its own, but a thousand readers that never read hold a thousand times as much. So there is one
//! budget for all, and when it is exceeded, those that are furthest behind are ended, the furthest first.
//!
//! It is counted by who holds, where it is held: readers tell of their queues in steps, so that one that keeps up never comes
//! here; what several readers share is counted once, for as long as one of them has it. Nothing here waits or locks for an event;
//! the lock is for those that begin to lag, and for the moment in which the budget is exceeded.

use std::{
    cmp::Reverse,
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use foldhash::fast::RandomState;

use crate::{lock::lock, seldom::Seldom};

/// Whoever holds less than this is not ended: it would not help.
pub const LEAST: usize = 16 * 1024;

/// Who holds some of what readers hold.
pub trait Holder: Send + Sync + fmt::Debug {
    /// How many bytes, about, are held for it.
    fn held(&self) -> usize;

    /// Lets go of all of it, for good. It does not count any more from then on, even if its task has yet to come to it.
    fn end(&self);
}

/// The budget of a server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Budget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limit: usize,
    used: AtomicUsize,
    holders: Mutex<Holders>,
    /// Held while some are ended: nobody waits to do it once more.
    relieving: Mutex<Seldom>,
}

#[derive(Debug, Default)]
struct Holders {
    next: u64,
    all: HashMap<u64, Weak<dyn Holder>, RandomState>,
}

impl Inner {
    fn holders(&self) -> MutexGuard<'_, Holders> {
        // Whole after every statement.
        lock(&self.holders)
    }
}

impl Default for Budget {
    /// One without a limit.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Budget {
    /// `limit`: in bytes, of memory: what is counted may come to five eighths of it. The rest is what the allocator has in
    /// pieces that do not fit, when much was held and let go of: two fifths of what is counted, in the tests of stalled readers.
    pub fn new(limit: usize) -> Self {
        let limit = limit - limit / 8 * 3;
        let (used, holders, relieving) = (AtomicUsize::new(0), Mutex::default(), Mutex::default());
        Self { inner: Arc::new(Inner { limit, used, holders, relieving }) }
    }

    /// How many bytes are held.
    pub fn used(&self) -> usize {
        self.inner.used.load(Relaxed)
    }

    /// How many may be held.
    pub fn limit(&self) -> usize {
        self.inner.limit
    }

    /// More is held.
    pub fn take(&self, bytes: usize) {
        self.inner.used.fetch_add(bytes, Relaxed);
    }

    /// As much of it is not held any more.
    pub fn give_back(&self, bytes: usize) {
        self.inner.used.fetch_sub(bytes, Relaxed);
    }

    /// Counts bytes that are held, until this is dropped.
    pub fn charge(&self, bytes: usize) -> Charge {
        self.take(bytes);
        Charge { budget: self.clone(), bytes }
    }

    /// The same, unless it would exceed the budget, whoever else is ended for it.
    pub fn charge_within(&self, bytes: usize) -> Option<Charge> {
        let charge = self.charge(bytes);
        if self.is_exceeded() {
            // Where others are being ended just now, it is worth the moment to wait for that.
            let log = lock(&self.inner.relieving);
            self.end_some(log);
        }
        (!self.is_exceeded()).then_some(charge)
    }

    /// Whether more is held than may be.
    pub fn is_exceeded(&self) -> bool {
        self.used() > self.inner.limit
    }

    /// Makes a holder one of those that can be ended, until this is dropped.
    pub fn enter(&self, holder: Weak<dyn Holder>) -> Entry {
        let mut holders = self.inner.holders();
        holders.next += 1;
        let id = holders.next;
        holders.all.insert(id, holder);
        drop(holders);
        Entry { budget: self.clone(), id }
    }

    /// If more is held than may be, ends holders, those with the most first, until a sixteenth is free: otherwise the next event
    /// would have to do it again. To be called without a holder's lock.
    pub fn relieve(&self) {
        if self.is_exceeded()
            && let Ok(log) = self.inner.relieving.try_lock()
        {
            self.end_some(log);
        }
    }

    fn end_some(&self, mut log: MutexGuard<'_, Seldom>) {
        if !self.is_exceeded() {
            return;
        }
        let all: Vec<_> = self.inner.holders().all.values().filter_map(Weak::upgrade).collect();
        let mut holding: Vec<_> = all.into_iter().map(|holder| (holder.held(), holder)).collect();
        holding.retain(|(held, _)| *held >= LEAST);
        holding.sort_unstable_by_key(|(held, _)| Reverse(*held));
        let enough = self.inner.limit - self.inner.limit / 16;
        let mut ended = 0;
        for (_, holder) in holding {
            if self.used() <= enough {
                break;
            }
            holder.end();
            ended += 1;
        }
        if let Some(ended) = log.now(ended) {
            tracing::warn!(
                ended,
                "callers do not read: those that were furthest behind were ended (max_reader_memory)"
            );
        }
    }
}

/// Bytes that are held.
#[derive(Debug)]
pub struct Charge {
    budget: Budget,
    bytes: usize,
}

impl Charge {
    /// So many are held from now on.
    pub fn set(&mut self, bytes: usize) {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.budget.take(more),
            None => self.budget.give_back(self.bytes - bytes),
        }
        self.bytes = bytes;
    }

    /// Where they count.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// How many are counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A holder's place among those that can be ended.
#[derive(Debug)]
pub struct Entry {
    budget: Budget,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.budget.inner.holders().all.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct One(Mutex<Option<Charge>>);

    impl Holder for One {
        fn held(&self) -> usize {
            self.0.lock().unwrap().as_ref().map_or(0, Charge::bytes)
        }

        fn end(&self) {
            self.0.lock().unwrap().take();
        }
    }

    fn holders(budget: &Budget, sizes: &[usize]) -> Vec<(Arc<One>, Entry)> {
        let enter = |bytes: &usize| {
            let one = Arc::new(One(Mutex::new(Some(budget.charge(*bytes)))));
            let weak: Weak<One> = Arc::downgrade(&one);
            (one, budget.enter(weak))
        };
        sizes.iter().map(enter).collect()
    }

    fn alive(holders: &[(Arc<One>, Entry)]) -> Vec<bool> {
        holders.iter().map(|(one, _)| one.held() > 0).collect()
    }

    /// One of which so much may be counted.
    fn budget_of(bytes: usize) -> Budget {
        Budget::new(bytes / 5 * 8 + bytes % 5)
    }

    #[test]
    fn those_that_hold_the_most_are_ended_first_and_no_more_of_them_than_must_be() {
        let budget = budget_of(10 * LEAST);
        let some = holders(&budget, &[2 * LEAST, 4 * LEAST, LEAST, 3 * LEAST]);
        budget.relieve();
        assert_eq!(alive(&some), [true; 4]);
        let one_more = budget.charge(LEAST);
        budget.relieve();
        assert_eq!(alive(&some), [true, false, true, true]);
        drop((some, one_more));
        assert_eq!(budget.used(), 0);
        assert!(budget.inner.holders().all.is_empty());
    }

    #[test]
    fn those_that_hold_next_to_nothing_are_left_alone() {
        let budget = budget_of(LEAST);
        let some = holders(&budget, &[LEAST - 1; 5]);
        budget.relieve();
        assert_eq!(alive(&some), [true; 5]);
        assert!(budget.charge_within(1).is_none());
    }
}
