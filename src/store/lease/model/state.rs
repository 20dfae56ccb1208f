//! How a world stands: its processes, its network and its store.

use super::{
    super::Title,
    world::{Clocks, LONG_AGO, Mistake, Property, World},
};

/// The number of a node's latest process. All earlier ones are 0.
pub(super) const LATEST: u8 = 1;

/// The fence of a session's row. All earlier ones are 0.
pub(super) const FENCE: u8 = 1;

/// A set of answers, a bit each.
pub(super) type Answers = u8;

/// A process of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) node: u8,
    pub(super) number: u8,
}

/// What a process that has taken a session writes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Tenure {
    pub(super) fence: u8,
    /// Whether the session has not changed hands since. The fence should tell that, and no rule looks at this.
    pub(super) is_current: bool,
}

/// A session, as a process that has taken it has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Held {
    pub(super) tenure: Tenure,
    pub(super) copy: Answers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Request {
    Take,
    /// A copy, and the answer in it that is new.
    Write(Held, Answers),
    LetGo(Tenure),
}

/// A call that its process waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Call {
    Sent(Request),
    Taken(Held),
    Written,
    Fenced,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Turn {
    None,
    Runs,
    /// It has ended, and its answer is on its way to the archive.
    Writes(Answers),
}

/// What a process knows of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    /// The session, if the process believes that it owns it.
    pub(super) held: Option<Held>,
    pub(super) turn: Turn,
    pub(super) call: Option<Call>,
    /// A call that nobody waits for, with the number of the process that sent it.
    pub(super) late: Option<(u8, Request)>,
    /// Answers that the store has acknowledged, and that no caller was told.
    pub(super) untold: Answers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Stage {
    Sent,
    Granted,
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Renewal {
    /// For how many seconds it has been asked for, by the process's clock.
    pub(super) age: u8,
    /// Whether that clock has missed a tick since.
    pub(super) is_slow: bool,
    pub(super) stage: Stage,
}

/// A process that runs, or may be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Node<const S: usize> {
    /// Of the node that has this one's index as its name: for how many seconds the store takes its latest process for alive.
    pub(super) alive: u8,
    pub(super) is_up: bool,
    pub(super) number: u8,
    /// For how many seconds the process has its lease, by its own clock.
    pub(super) lease: u8,
    /// Whether that clock has missed a tick since the lease was asked for.
    pub(super) is_slow: bool,
    pub(super) renewal: Option<Renewal>,
    pub(super) places: [Place; S],
}

/// A session in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Row {
    pub(super) title: Title<Process>,
    pub(super) archive: Answers,
    /// What callers were told, and remember.
    pub(super) told: Answers,
}

/// How a world stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State<const N: usize, const S: usize> {
    pub(super) nodes: [Node<S>; N],
    pub(super) rows: [Row; S],
    /// What the last step broke.
    pub(super) broken: Option<Property>,
}

impl Request {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Take => "take",
            Self::Write(..) => "write",
            Self::LetGo(_) => "let go",
        }
    }

    /// The store's answer if it refuses, where that matters.
    pub(super) fn refusal(&self) -> Option<Call> {
        matches!(self, Self::Write(..)).then_some(Call::Fenced)
    }

    fn held(&mut self) -> Option<&mut Held> {
        match self {
            Self::Write(held, _) => Some(held),
            Self::Take | Self::LetGo(_) => None,
        }
    }

    fn tenure(&mut self) -> Option<&mut Tenure> {
        match self {
            Self::Take => None,
            Self::Write(held, _) => Some(&mut held.tenure),
            Self::LetGo(tenure) => Some(tenure),
        }
    }
}

impl Call {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Sent(request) => request.name(),
            Self::Taken(_) => "the session",
            Self::Written => "written",
            Self::Fenced => "not written",
        }
    }

    fn sent(self) -> Option<Request> {
        if let Self::Sent(request) = self { Some(request) } else { None }
    }

    fn held(&mut self) -> Option<&mut Held> {
        match self {
            Self::Sent(request) => request.held(),
            Self::Taken(held) => Some(held),
            Self::Written | Self::Fenced => None,
        }
    }

    fn tenure(&mut self) -> Option<&mut Tenure> {
        match self {
            Self::Sent(request) => request.tenure(),
            Self::Taken(held) => Some(&mut held.tenure),
            Self::Written | Self::Fenced => None,
        }
    }
}

impl Place {
    const EMPTY: Self = Self { held: None, turn: Turn::None, call: None, late: None, untold: 0 };

    /// Gives the session up, and waits for nothing.
    fn forget(&mut self, world: &World, number: u8) {
        (self.held, self.turn) = (None, Turn::None);
        let call = self.call.take();
        if world.has_late_calls && self.late.is_none() {
            self.late = call.and_then(Call::sent).map(|request| (number, request));
        }
    }

    /// Waits no longer for its call, which may have been served.
    pub(super) fn doubt(&mut self, world: &World) {
        self.call = None;
        if let (Turn::Writes(answer), Some(held)) = (self.turn, self.held) {
            match world.mistake {
                Mistake::WritesAgain | Mistake::WritesAgainInOrder => {
                    self.call = Some(Call::Sent(Request::Write(held, answer)));
                }
                _ => (self.held, self.turn) = (None, Turn::None),
            }
        }
    }

    fn is_taking(&self) -> bool {
        matches!(self.call, Some(Call::Sent(Request::Take) | Call::Taken(_)))
    }

    /// What the store has answered.
    pub(super) fn hear(&mut self, answer: Call, has_lease: bool) {
        self.call = None;
        match (answer, self.turn) {
            (Call::Taken(held), _) => self.held = Some(held).filter(|_| has_lease),
            (Call::Written, Turn::Writes(answer)) => {
                (self.untold, self.turn) = (self.untold | answer, Turn::None)
            }
            _ => (self.held, self.turn) = (None, Turn::None),
        }
    }

    /// The session as it is held here, was taken, or is being written.
    pub(super) fn helds(&mut self) -> impl Iterator<Item = &mut Held> {
        let called = self.call.as_mut().and_then(Call::held);
        let late = self.late.as_mut().and_then(|(_, request)| request.held());
        self.held.iter_mut().chain(called).chain(late)
    }

    pub(super) fn tenures(&mut self) -> impl Iterator<Item = &mut Tenure> {
        let called = self.call.as_mut().and_then(Call::tenure);
        let late = self.late.as_mut().and_then(|(_, request)| request.tenure());
        self.held.iter_mut().map(|held| &mut held.tenure).chain(called).chain(late)
    }

    /// The answers that are on their way to the archive, or to the caller.
    pub(super) fn unsettled(&self) -> Answers {
        let written = if let Turn::Writes(answer) = self.turn { answer } else { 0 };
        let late = if let Some((_, Request::Write(_, answer))) = self.late { answer } else { 0 };
        written | late | self.untold
    }
}

impl<const S: usize> Node<S> {
    const DOWN: Self = Self {
        alive: 0,
        is_up: false,
        number: 0,
        lease: 0,
        is_slow: false,
        renewal: None,
        places: [Place::EMPTY; S],
    };

    /// Whether its clock has missed a tick that it may miss.
    pub(super) fn has_missed(&self) -> bool {
        self.is_slow || self.renewal.is_some_and(|renewal| renewal.is_slow)
    }

    /// Whether its lease is over, and its turns run.
    pub(super) fn is_overdue(&self) -> bool {
        self.lease == 0 && self.places.iter().any(|place| place.turn != Turn::None)
    }

    pub(super) fn miss_tick(&mut self, world: &World) {
        let counts = world.clocks == Clocks::Slow;
        self.is_slow = counts && self.lease > 0;
        if let Some(renewal) = &mut self.renewal {
            renewal.is_slow = counts && renewal.age < LONG_AGO;
        }
    }

    pub(super) fn tick(&mut self, world: &World) {
        self.lease = world.later(self.lease);
        self.is_slow &= self.lease > 0;
        if let Some(renewal) = &mut self.renewal {
            renewal.age = LONG_AGO.min(renewal.age + world.tick);
            if world.granted(0, renewal.age) == 0 {
                (renewal.age, renewal.is_slow) = (LONG_AGO, false);
            }
        }
    }

    /// Its lease is over: gives all sessions up.
    pub(super) fn forget(&mut self, world: &World) {
        self.forget_unless(world, |place| place.is_taking() && world.mistake == Mistake::TakeOutlivesLease);
    }

    fn forget_unless(&mut self, world: &World, is_kept: impl Fn(&Place) -> bool) {
        for place in self.places.iter_mut().filter(|place| !is_kept(place)) {
            place.forget(world, self.number);
        }
    }

    pub(super) fn crash(&mut self, world: &World) {
        for place in &mut self.places {
            place.forget(world, self.number);
            place.untold = 0;
        }
        // What it has asked for may still be granted.
        let renewal = self.renewal.filter(|renewal| renewal.stage == Stage::Sent);
        let renewal = renewal.map(|renewal| Renewal { age: LONG_AGO, is_slow: false, ..renewal });
        *self = Self { alive: self.alive, number: self.number, renewal, places: self.places, ..Self::DOWN };
    }

    /// What the store has said of its lease.
    pub(super) fn hear(&mut self, world: &World, renewal: Renewal) {
        self.renewal = None;
        if renewal.stage == Stage::Refused {
            self.lease = world.refused(self.lease);
        } else {
            match world.mistake {
                _ if self.lease > 0 => {}
                Mistake::GapIsIgnored => self.forget_unless(world, |place| place.held.is_some()),
                _ => self.forget(world),
            }
            self.lease = world.granted(self.lease, renewal.age);
            if self.lease == world.granted(0, renewal.age) {
                self.is_slow = renewal.is_slow;
            }
        }
        self.is_slow &= self.lease > 0;
    }
}

impl<const N: usize, const S: usize> State<N, S> {
    /// Nothing runs, and nobody owns anything.
    pub(super) fn first() -> Self {
        let row = Row { title: Title { owner: None, fence: FENCE.into() }, archive: 0, told: 0 };
        Self { nodes: [Node::DOWN; N], rows: [row; S], broken: None }
    }

    /// What a step has broken, or what does not hold here.
    pub(super) fn broken(&self, world: &World) -> Option<Property> {
        let acts = |node: &Node<S>| node.lease > 0 || world.is_prompt;
        let runs = |node: &Node<S>, session: usize| acts(node) && node.places[session].turn != Turn::None;
        let two_run = (0..S).any(|session| self.nodes.iter().filter(|node| runs(node, session)).count() > 1);
        let is_lost = self.rows.iter().any(|row| row.told & !row.archive != 0);
        let here = [two_run.then_some(Property::OneRuns), is_lost.then_some(Property::ToldIsKept)];
        let here = here.into_iter().flatten().find(|property| world.checked.contains(property));
        self.broken.or(here)
    }

    /// Whether a process owns the session, knows it, and has its lease.
    pub(super) fn is_owned(&self, session: usize) -> bool {
        let held = |node: &Node<S>| node.places[session].held.filter(|_| node.lease > 0);
        self.nodes.iter().filter_map(held).any(|held| held.tenure.is_current)
    }

    /// Whether the session's owner has crashed, and the store may not know it yet.
    pub(super) fn is_left(&self, world: &World, session: usize) -> bool {
        let mut nodes = self.nodes.iter().zip(world.names);
        let owner = self.rows[session].title.owner.filter(|owner| owner.number == LATEST);
        owner.is_some_and(|owner| {
            !nodes.any(|(node, name)| *name == owner.node && node.number == owner.number && node.is_up)
        })
    }

    pub(super) fn place(&mut self, node: usize, session: usize) -> &mut Place {
        &mut self.nodes[node].places[session]
    }
}
