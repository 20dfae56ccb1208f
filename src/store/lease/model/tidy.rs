//! States that no rule can tell apart are made one.

use super::{
    super::Title,
    state::{Answers, Call, Place, Process, Request, Row, State, Tenure},
    world::{Mistake, World},
};

/// A copy that nobody can write: it says nothing of any answer.
const WORTHLESS: Answers = Answers::MAX;

impl<const N: usize, const S: usize> State<N, S> {
    pub(super) fn tidy(&mut self, world: &World) {
        for session in 0..S {
            if world.mistake != Mistake::NoFencing {
                let title = self.rows[session].title;
                self.nodes.iter_mut().for_each(|node| node.places[session].drop_refused(&title));
            }
            self.drop_settled(session);
        }
        if world.is_alike {
            self.sort();
        }
    }

    /// Drops the answers that are everywhere, and that nobody is about to archive or to tell.
    fn drop_settled(&mut self, session: usize) {
        let mut settled = self.rows[session].archive;
        if settled == 0 {
            return;
        }
        for place in self.nodes.iter_mut().map(|node| &mut node.places[session]) {
            settled &= !place.unsettled();
            place.copies().for_each(|copy| settled &= *copy);
        }
        self.rows[session].archive &= !settled;
        self.rows[session].told &= !settled;
        for place in self.nodes.iter_mut().map(|node| &mut node.places[session]) {
            place.copies().for_each(|copy| *copy &= !settled);
        }
    }

    /// Puts the nodes in an order, since they are all alike.
    fn sort(&mut self) {
        let owned = |node: &usize| {
            let owns = |row: &Row| row.title.owner.filter(|owner| usize::from(owner.node) == *node);
            self.rows.each_ref().map(|row| owns(row).map(|owner| owner.number))
        };
        let mut order: [usize; N] = std::array::from_fn(|node| node);
        order.sort_by(|one, other| {
            self.nodes[*one].cmp(&self.nodes[*other]).then_with(|| owned(one).cmp(&owned(other)))
        });
        self.nodes = order.map(|node| self.nodes[node]);
        for owner in self.rows.iter_mut().filter_map(|row| row.title.owner.as_mut()) {
            let place = order.iter().position(|node| *node == usize::from(owner.node));
            owner.node = u8::try_from(place.unwrap()).unwrap();
        }
    }

    /// An answer that there is not.
    pub(super) fn fresh(&self, world: &World, session: usize) -> Option<Answers> {
        let mut used = self.rows[session].archive;
        for mut place in self.nodes.map(|node| node.places[session]) {
            used |= place.unsettled();
            place.copies().for_each(|copy| used |= *copy);
        }
        (0..world.answers).map(|bit| 1 << bit).find(|answer| used & answer == 0)
    }
}

impl Place {
    /// Drops what the session's row refuses, now and so for ever, if it is right to.
    fn drop_refused(&mut self, title: &Title<Process>) {
        let is_worthless = |tenure: &Tenure| !tenure.is_current && !title.admits(tenure.fence.into());
        let is_refused = |request: &Request| match request {
            Request::Take => false,
            Request::Write(held, _) => is_worthless(&held.tenure),
            Request::LetGo(tenure) => {
                let mut title = *title;
                !tenure.is_current && !title.let_go(tenure.fence.into())
            }
        };
        self.late = self.late.filter(|(_, request)| !is_refused(request));
        self.call = self.call.and_then(|call| match call {
            Call::Sent(request) if is_refused(&request) => request.refusal(),
            call => Some(call),
        });
        for held in self.helds().filter(|held| is_worthless(&held.tenure)) {
            held.copy = WORTHLESS;
        }
    }

    /// All copies of the archive that may still be written.
    fn copies(&mut self) -> impl Iterator<Item = &mut Answers> {
        self.helds().map(|held| &mut held.copy).filter(|copy| **copy != WORTHLESS)
    }
}
