//! What the store does: leases, titles and the archive.

use super::{
    super::Title,
    state::{Answers, Call, FENCE, Held, LATEST, Node, Process, Renewal, Request, Stage, State, Tenure},
    world::{Clocks, Mistake, Property, TERM, World},
};

impl<const N: usize, const S: usize> State<N, S> {
    fn is_alive(&self, world: &World, process: Process) -> bool {
        let is_alive = process.number == LATEST && self.nodes[usize::from(process.node)].alive > 0;
        is_alive && world.clocks != Clocks::Untrusted
    }

    /// A node's next process begins. Its earlier ones are dead.
    pub(super) fn start(&mut self, world: &World, index: usize) {
        let name = world.names[index];
        for owner in self.rows.iter_mut().filter_map(|row| row.title.owner.as_mut()) {
            if owner.node == name {
                owner.number = 0;
            }
        }
        for (node, _) in self.nodes.iter_mut().zip(world.names).filter(|(_, other)| **other == name) {
            node.number = 0;
            for (number, _) in node.places.iter_mut().filter_map(|place| place.late.as_mut()) {
                *number = 0;
            }
        }
        self.nodes[usize::from(name)].alive = TERM;
        let node = &mut self.nodes[index];
        (node.is_up, node.number, node.renewal) = (true, LATEST, None);
        if world.clocks == Clocks::Untrusted {
            node.lease = TERM;
        }
    }

    /// A process asks for its lease.
    pub(super) fn renew(&mut self, world: &World, index: usize) {
        let Node { is_up, number, renewal, .. } = &mut self.nodes[index];
        let is_granted = *number == LATEST;
        let stage = if is_granted { Stage::Granted } else { Stage::Refused };
        // Nobody hears it if the process is gone.
        *renewal = renewal.filter(|_| *is_up).map(|renewal| Renewal { stage, ..renewal });
        if is_granted {
            self.nodes[usize::from(world.names[index])].alive = TERM;
        }
    }

    /// Does what a process asks for, and answers if that matters.
    pub(super) fn serve(
        &mut self,
        world: &World,
        by: Process,
        session: usize,
        request: Request,
    ) -> Option<Call> {
        match request {
            Request::Take => self.take(world, by, session),
            Request::Write(held, answer) => Some(self.write(world, by, session, held, answer)),
            Request::LetGo(tenure) => {
                let mut title = self.rows[session].title;
                let is_let_go = title.let_go(tenure.fence.into()) && title.owner.is_none();
                self.check(world, Property::OwnerWrites, is_let_go == tenure.is_current);
                if is_let_go {
                    self.change_hands(session, title);
                }
                None
            }
        }
    }

    fn take(&mut self, world: &World, by: Process, session: usize) -> Option<Call> {
        let mut row = self.rows[session];
        let is_taken = row.title.take(by, |owner| self.is_alive(world, *owner));
        is_taken.then(|| {
            self.change_hands(session, row.title);
            let tenure = Tenure { fence: FENCE, is_current: true };
            Call::Taken(Held { tenure, copy: row.archive })
        })
    }

    fn write(&mut self, world: &World, by: Process, session: usize, held: Held, answer: Answers) -> Call {
        let row = self.rows[session];
        let admits = row.title.admits(held.tenure.fence.into()) || world.mistake == Mistake::NoFencing;
        let is_owner = row.title.owner == Some(by) && held.tenure.is_current;
        self.check(world, Property::OwnerWrites, admits == is_owner);
        let follows = held.copy & !answer == row.archive || world.mistake != Mistake::WritesAgainInOrder;
        if !admits || !follows {
            return Call::Fenced;
        }
        self.rows[session].archive = held.copy;
        self.check(world, Property::ArchiveGrows, row.archive & !held.copy == 0);
        Call::Written
    }

    fn check(&mut self, world: &World, property: Property, holds: bool) {
        if !holds && world.checked.contains(&property) {
            self.broken = Some(property);
        }
    }

    /// The session's row has another title, by whose fence all others are older.
    fn change_hands(&mut self, session: usize, title: Title<Process>) {
        // What was once refused is refused for ever: `tidy` relies on it.
        let newer = u8::try_from(title.fence).unwrap().checked_sub(FENCE).unwrap();
        self.rows[session].title = Title { fence: FENCE.into(), ..title };
        for tenure in self.nodes.iter_mut().flat_map(|node| node.places[session].tenures()) {
            *tenure = Tenure { fence: tenure.fence.saturating_sub(newer), is_current: false };
        }
    }
}
