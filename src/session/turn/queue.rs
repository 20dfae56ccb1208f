//! The order of a session's turns: one runs, the others wait, first come first served. Pure.

use std::collections::VecDeque;

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// The queue is as long as it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Who runs and who waits. `W` is what wakes a waiter.
#[derive(Debug)]
pub struct Queue<W> {
    next: u64,
    running: Option<Ticket>,
    waiting: VecDeque<(Ticket, W)>,
    limit: usize,
}

impl Ticket {
    /// That of a turn which ended before this process.
    pub(in crate::session) const PAST: Self = Self(u64::MAX);
}

impl<W> Queue<W> {
    /// An empty queue in which at most `limit` may wait beside the one that runs.
    pub fn new(limit: usize) -> Self {
        Self { next: 0, running: None, waiting: VecDeque::new(), limit }
    }

    /// Joins the queue. The second value, if any, is the waker of whoever may run now: the newcomer's.
    pub fn join(&mut self, waker: W) -> Result<(Ticket, Option<W>), Full> {
        let ticket = Ticket(self.next);
        let waker = if self.running.is_none() {
            self.running = Some(ticket);
            Some(waker)
        } else if self.waiting.len() < self.limit {
            self.waiting.push_back((ticket, waker));
            None
        } else {
            return Err(Full);
        };
        self.next += 1;
        Ok((ticket, waker))
    }

    /// Leaves the queue, from whatever place. Returns the waker of the next one, if that one may run now.
    pub fn leave(&mut self, ticket: Ticket) -> Option<W> {
        if self.running != Some(ticket) {
            self.waiting.retain(|(waiting, _)| *waiting != ticket);
            return None;
        }
        let next = self.waiting.pop_front();
        self.running = next.as_ref().map(|(ticket, _)| *ticket);
        next.map(|(_, waker)| waker)
    }

    /// Whether anybody runs.
    pub fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// How many are in it, the one that runs included.
    pub fn count(&self) -> usize {
        self.waiting.len() + usize::from(self.running.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_run_one_at_a_time_in_the_order_in_which_they_came() {
        let mut queue = Queue::new(8);
        let (a, woken) = queue.join("a").unwrap();
        assert_eq!(woken, Some("a"));
        let (b, woken) = queue.join("b").unwrap();
        assert_eq!(woken, None);
        let (c, _) = queue.join("c").unwrap();
        assert_eq!(queue.count(), 3);
        assert_eq!(queue.leave(a), Some("b"));
        assert_eq!(queue.leave(b), Some("c"));
        assert_eq!(queue.leave(c), None);
        assert!(!queue.is_busy());
    }

    #[test]
    fn one_that_gives_up_waiting_is_passed_over() {
        let mut queue = Queue::new(8);
        let (a, _) = queue.join("a").unwrap();
        let (b, _) = queue.join("b").unwrap();
        let (_c, _) = queue.join("c").unwrap();
        assert_eq!(queue.leave(b), None);
        assert_eq!(queue.leave(b), None);
        assert_eq!(queue.leave(a), Some("c"));
        assert_eq!(queue.count(), 1);
    }

    #[test]
    fn a_full_queue_refuses() {
        let mut queue = Queue::new(1);
        queue.join("a").unwrap();
        queue.join("b").unwrap();
        assert_eq!(queue.join("c").unwrap_err(), Full);
        assert_eq!(queue.count(), 2);
    }
}
