//! The first of many sessions in a list's order, found without putting all of them in order. Pure.

use super::query::{Order, Outline, PageToken, Place, Summary};
use crate::backend::BackendId;

/// A session on a list.
#[derive(Debug)]
pub(in crate::session) struct Listed {
    pub(in crate::session) session: Summary,
    /// The CLI that has stored it; `None`: this process knows it.
    pub(in crate::session) stored_in: Option<BackendId>,
}

/// The first of many sessions after a place, in a list's order. It takes them in any order, and never holds more than twice as
/// many as are asked for: whoever has many asks for each whether there is room, before anything is made of it.
#[derive(Debug)]
pub(in crate::session) struct Foremost<'a> {
    order: Order,
    after: Option<&'a PageToken>,
    limit: usize,
    /// If it is full, the first `limit` of them are in order, and no other counts that is not before the last of these.
    found: Vec<Listed>,
    is_full: bool,
}

impl<'a> Foremost<'a> {
    pub(in crate::session) fn new(order: Order, after: Option<&'a PageToken>, limit: usize) -> Self {
        Self { order, after, limit, found: Vec::new(), is_full: false }
    }

    /// Whether a session is one of the first, as far as is known yet.
    pub(in crate::session) fn has_room_for(&self, session: Outline<'_>) -> bool {
        self.has_room_at(self.order.place(session))
    }

    /// The same of its place.
    pub(in crate::session) fn has_room_at(&self, place: Place<'_>) -> bool {
        self.after.is_none_or(|after| self.order.compare(place, after.place()).is_gt())
            && self.last().is_none_or(|last| self.order.compare(place, last).is_lt())
    }

    fn last(&self) -> Option<Place<'_>> {
        let last = self.found.get(self.limit.checked_sub(1)?).filter(|_| self.is_full)?;
        Some(self.order.place(last.session.outline()))
    }

    /// Adds one that there is room for.
    pub(in crate::session) fn add(&mut self, listed: Listed) {
        self.found.push(listed);
        // So seldom that to sort them costs each of them little.
        if self.found.len() >= 2 * self.limit {
            self.settle();
        }
    }

    /// Lets those go that are not among the first, so that it is known for which others there is room.
    pub(in crate::session) fn settle(&mut self) {
        let order = self.order;
        self.found.sort_by(|a, b| {
            order.compare(order.place(a.session.outline()), order.place(b.session.outline()))
        });
        self.found.truncate(self.limit);
        self.is_full = self.found.len() == self.limit;
    }

    /// All of them, in order.
    pub(in crate::session) fn into_sorted(mut self) -> Vec<Listed> {
        self.settle();
        self.found
    }
}
