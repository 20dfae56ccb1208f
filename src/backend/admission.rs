//! How many turns a CLI runs at once, how many more wait in line, and which are refused.
//!
//! The CLI does not get faster by doing more at a time: at about five turns for each core it is saturated, and from there on
//! all of them become slow together (cli-protocol.md, section 12). [`Line`] is the pure state: who runs and who waits.
//! [`Admission`] is the line of one CLI, and [`Entry`] the place of one turn.
//!
//! Tests: in this file, and `tests/integration/admission.rs`.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex},
};

use tokio::sync::oneshot;

use crate::lock::lock;

/// How many turns may run and wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Turns that run at once.
    pub running: usize,
    /// Turns that may wait beside those that run, for their session or for the CLI.
    pub waiting: usize,
}

/// The refusal of a turn: as many run and wait as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// Turns that run.
    pub running: usize,
    /// Turns that wait.
    pub waiting: usize,
}

/// Who runs and who waits. `K` is on whose behalf a turn runs: keys are served in rotation, however many turns wait for each.
/// `W` wakes a turn that waits.
#[derive(Debug)]
struct Line<K, W> {
    limits: Limits,
    next: u64,
    /// Number of turns taken on: those that run, those in line, and those that wait for something else first.
    taken: usize,
    running: HashSet<Ticket>,
    /// Turns that were let in and have stepped aside: they do nothing for now.
    aside: HashSet<Ticket>,
    /// Number of turns let in since the beginning.
    admitted: u64,
    /// Turns in line, by key. The key at the front is let in next, and then goes behind all other keys.
    waiting: VecDeque<(K, VecDeque<(Ticket, W)>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Ticket(u64);

impl<K: Eq, W> Line<K, W> {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            next: 0,
            taken: 0,
            running: HashSet::new(),
            aside: HashSet::new(),
            admitted: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Takes a turn on, to be let in later.
    fn take(&mut self) -> Result<Ticket, Full> {
        if self.taken >= self.limits.running.saturating_add(self.limits.waiting) {
            return Err(Full { running: self.running.len(), waiting: self.waiting() });
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        self.taken += 1;
        Ok(ticket)
    }

    /// Joins the line. Returns the waker if the turn may run now.
    fn join(&mut self, ticket: Ticket, key: K, waker: W) -> Option<W> {
        // No place is free while somebody is in line: who leaves passes it on.
        if self.has_room() {
            self.admit(ticket);
            return Some(waker);
        }
        match self.waiting.iter_mut().find(|(other, _)| *other == key) {
            Some((_, waiting)) => waiting.push_back((ticket, waker)),
            None => self.waiting.push_back((key, [(ticket, waker)].into())),
        }
        None
    }

    /// Gives the place of a running turn to the next one, because it does nothing for now. Returns that one's waker.
    fn step_aside(&mut self, ticket: Ticket) -> Option<W> {
        if !self.running.remove(&ticket) {
            return None;
        }
        self.aside.insert(ticket);
        self.let_in()
    }

    /// Takes a turn that stepped aside back at once, even if all places are taken: it holds what others may wait for.
    fn step_back(&mut self, ticket: Ticket) {
        self.aside.remove(&ticket);
        self.running.insert(ticket);
    }

    /// Removes a turn, from whatever place. Returns the waker of the turn that may run now.
    fn leave(&mut self, ticket: Ticket) -> Option<W> {
        self.taken -= 1;
        self.aside.remove(&ticket);
        if self.running.remove(&ticket) {
            return self.let_in();
        }
        for (_, waiting) in &mut self.waiting {
            waiting.retain(|(other, _)| *other != ticket);
        }
        self.waiting.retain(|(_, waiting)| !waiting.is_empty());
        None
    }

    /// Lets the next one in, if there is room.
    fn let_in(&mut self) -> Option<W> {
        if !self.has_room() {
            return None;
        }
        let (key, mut waiting) = self.waiting.pop_front()?;
        let (ticket, waker) = waiting.pop_front()?;
        if !waiting.is_empty() {
            self.waiting.push_back((key, waiting));
        }
        self.admit(ticket);
        Some(waker)
    }

    fn has_room(&self) -> bool {
        self.running.len() < self.limits.running
    }

    fn admit(&mut self, ticket: Ticket) {
        self.admitted += 1;
        self.running.insert(ticket);
    }

    fn waiting(&self) -> usize {
        self.taken - self.running.len()
    }
}

/// On whose behalf a turn runs. For now all turns share one key. Sessions need none: each has at most one turn in line.
type Key = ();

/// What wakes a turn that waits in line.
type Waker = oneshot::Sender<()>;

/// The turns of one CLI: those that run and those that wait. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admission {
    line: Arc<Mutex<Line<Key, Waker>>>,
}

impl Admission {
    pub(super) fn new(limits: Limits) -> Self {
        Self { line: Arc::new(Mutex::new(Line::new(limits))) }
    }

    /// Takes a turn on, or refuses it.
    pub fn take(&self) -> Result<Entry, Full> {
        let ticket = lock(&self.line).take()?;
        Ok(Entry { admission: self.clone(), ticket })
    }

    /// Whether a turn would be let in at once.
    pub fn has_room(&self) -> bool {
        let line = lock(&self.line);
        line.has_room() && line.waiting.is_empty()
    }

    /// How many more turns would be let in at once.
    pub fn room(&self) -> usize {
        let line = lock(&self.line);
        line.limits.running.saturating_sub(line.running.len().max(line.taken))
    }

    /// How many turns run.
    pub fn running(&self) -> usize {
        lock(&self.line).running.len()
    }

    /// How many turns wait, for their session, for the CLI, or for their callers.
    pub fn waiting(&self) -> usize {
        lock(&self.line).waiting()
    }

    /// How many turns have been let in so far.
    pub fn admitted(&self) -> u64 {
        lock(&self.line).admitted
    }

    /// Whether no turn runs or waits.
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.line).taken == 0
    }

    /// Changes the line and wakes the turns that may run now.
    fn change<I: IntoIterator<Item = Waker>>(&self, act: impl FnOnce(&mut Line<Key, Waker>) -> I) {
        let mut line = lock(&self.line);
        // All of it under the lock: what the line reports is in the order in which it changes.
        let woken: Vec<_> = act(&mut line).into_iter().collect();
        drop(line);
        // Whoever has gone meanwhile leaves by dropping its entry.
        for waiter in woken {
            let _ = waiter.send(());
        }
    }
}

/// A turn that was taken on. Dropping it gives its place to the next one.
#[derive(Debug)]
pub struct Entry {
    admission: Admission,
    ticket: Ticket,
}

impl Entry {
    /// Waits in line until the turn may run, which it may until this entry is dropped. To be called once.
    ///
    /// # Cancel safety
    /// Dropping the future keeps the place in line, or among the running: it goes with the entry.
    pub async fn admitted(&self) {
        let (wake, woken) = oneshot::channel();
        self.admission.change(|line| line.join(self.ticket, (), wake));
        // The sender is dropped only with the place in line, and that with this entry.
        let _ = woken.await;
    }

    /// Lets another turn run while this one waits for its callers and not for the CLI. Otherwise callers who send turns of
    /// their own before they answer would wait for themselves.
    pub fn step_aside(&self) {
        self.admission.change(|line| line.step_aside(self.ticket));
    }

    /// Lets the turn go on, at once, even if one more than the limit runs then.
    pub fn step_back(&self) {
        self.admission.change(|line| {
            line.step_back(self.ticket);
            None::<Waker>
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.admission.change(|line| line.leave(self.ticket));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(running: usize, waiting: usize) -> Line<&'static str, u32> {
        Line::new(Limits { running, waiting })
    }

    /// Takes one on and puts it in line. The second value says whether it runs at once.
    fn enter(line: &mut Line<&'static str, u32>, key: &'static str, number: u32) -> (Ticket, bool) {
        let ticket = line.take().unwrap();
        let woken = line.join(ticket, key, number);
        assert!(woken.is_none_or(|woken| woken == number));
        (ticket, woken.is_some())
    }

    #[test]
    fn so_many_run_and_the_others_follow_in_the_order_in_which_they_came() {
        let mut line = line(2, 8);
        let (a, runs_a) = enter(&mut line, "", 1);
        let (b, runs_b) = enter(&mut line, "", 2);
        let (c, runs_c) = enter(&mut line, "", 3);
        let (d, runs_d) = enter(&mut line, "", 4);
        assert_eq!((runs_a, runs_b, runs_c, runs_d), (true, true, false, false));
        assert_eq!((line.running.len(), line.waiting()), (2, 2));
        assert_eq!(line.leave(b), Some(3));
        assert_eq!(line.leave(c), Some(4));
        assert_eq!(line.leave(a), None);
        assert_eq!(line.leave(d), None);
        assert_eq!((line.running.len(), line.waiting(), line.taken), (0, 0, 0));
    }

    #[test]
    fn who_has_many_waiting_does_not_hold_up_who_has_one() {
        let mut line = line(1, 8);
        let (mut running, _) = enter(&mut line, "many", 0);
        let tickets = [("many", 1), ("many", 2), ("many", 3), ("one", 4), ("two", 5), ("two", 6)]
            .map(|(key, number)| enter(&mut line, key, number).0);
        let mut order = Vec::new();
        while let Some(next) = line.leave(running) {
            order.push(next);
            running = tickets[next as usize - 1];
        }
        assert_eq!(order, [1, 4, 5, 2, 6, 3]);
    }

    #[test]
    fn one_that_gives_up_waiting_is_passed_over_and_frees_its_place() {
        let mut line = line(1, 2);
        let (a, _) = enter(&mut line, "x", 1);
        let (b, _) = enter(&mut line, "x", 2);
        let (_c, _) = enter(&mut line, "y", 3);
        assert_eq!(line.take(), Err(Full { running: 1, waiting: 2 }));
        assert_eq!(line.leave(b), None);
        let (_d, _) = enter(&mut line, "z", 4);
        assert_eq!(line.leave(a), Some(3));
    }

    #[test]
    fn who_steps_aside_lets_the_next_one_in_and_comes_back_without_waiting() {
        let mut line = line(1, 8);
        let (a, _) = enter(&mut line, "", 1);
        let (b, _) = enter(&mut line, "", 2);
        let (c, _) = enter(&mut line, "", 3);
        assert_eq!(line.step_aside(a), Some(2));
        assert_eq!(line.step_aside(a), None);
        assert_eq!((line.running.len(), line.aside.len()), (1, 1));
        line.step_back(a);
        line.step_back(a);
        assert_eq!((line.running.len(), line.waiting()), (2, 1));
        // There is one more than may run: its place is not passed on.
        assert_eq!(line.leave(b), None);
        assert_eq!(line.leave(a), Some(3));
        assert_eq!(line.step_aside(c), None);
        assert_eq!(line.leave(c), None);
        assert_eq!((line.running.len(), line.aside.len(), line.waiting(), line.taken), (0, 0, 0, 0));
    }

    #[test]
    fn who_waits_for_something_else_first_counts_as_waiting_and_holds_up_nobody() {
        let mut line = line(1, 1);
        let elsewhere = line.take().unwrap();
        let (_, runs) = enter(&mut line, "", 1);
        assert!(runs);
        assert_eq!(line.take(), Err(Full { running: 1, waiting: 1 }));
        assert_eq!(line.leave(elsewhere), None);
        assert_eq!((line.running.len(), line.waiting()), (1, 0));
    }

    #[tokio::test]
    async fn an_entry_that_is_dropped_in_whatever_place_lets_the_next_one_in() {
        let admission = Admission::new(Limits { running: 1, waiting: 3 });
        let entries: Vec<_> = (0..4).map(|_| admission.take().unwrap()).collect();
        assert_eq!(admission.take().unwrap_err(), Full { running: 0, waiting: 4 });
        let [first, second, third, fourth] = entries.try_into().unwrap();
        first.admitted().await;
        let in_line = |entry: Entry| {
            let (in_line, said) = oneshot::channel();
            let task = tokio::spawn(async move {
                let mut admitted = std::pin::pin!(entry.admitted());
                assert!(futures_util::poll!(admitted.as_mut()).is_pending());
                in_line.send(()).unwrap();
                admitted.await;
            });
            (task, said)
        };
        let (second, said) = in_line(second);
        said.await.unwrap();
        let (third, said) = in_line(third);
        said.await.unwrap();
        second.abort();
        assert!(second.await.unwrap_err().is_cancelled());
        drop(first);
        third.await.unwrap();
        fourth.admitted().await;
        assert_eq!((admission.running(), admission.waiting()), (1, 0));
        drop(fourth);
        assert_eq!((admission.running(), admission.waiting()), (0, 0));
    }
}
