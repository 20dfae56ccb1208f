//! What may happen next in a world.

use std::fmt;

use super::{
    state::{Call, Held, Node, Place, Process, Renewal, Request, Stage, State, Turn},
    world::{Clocks, World},
};

/// What a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Work,
    Tick,
    /// What a good end must not need.
    Fault,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) kind: Kind,
    /// Whose it is, a bit each.
    nodes: u8,
    session: usize,
    what: &'static str,
    /// Which call, or what its answer is.
    call: &'static str,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["A", "B", "C"].into_iter().enumerate();
        let names = names.filter(|(node, _)| self.nodes >> node & 1 == 1).map(|(_, name)| name);
        let names = names.collect::<Vec<_>>().join(" and ");
        let session = if self.session > 0 { " (of the other session)" } else { "" };
        let text = format!("{names} {}{}{session}", self.what, self.call);
        f.write_str(text.trim_start())
    }
}

/// Finds the steps that may follow.
pub(super) struct Next<'a, const N: usize, const S: usize> {
    world: &'a World,
    from: State<N, S>,
    /// What the steps have in common that are looked for.
    node: usize,
    session: usize,
    call: &'static str,
    found: Vec<(Step, State<N, S>)>,
}

impl<'a, const N: usize, const S: usize> Next<'a, N, S> {
    pub(super) fn new(world: &'a World) -> Self {
        Self { world, from: State::first(), node: 0, session: 0, call: "", found: Vec::new() }
    }

    /// All that may happen next, and how the world stands then.
    pub(super) fn of(&mut self, from: &State<N, S>) -> std::vec::Drain<'_, (Step, State<N, S>)> {
        self.from = *from;
        if self.world.clocks != Clocks::Untrusted {
            self.ticks();
        }
        for node in 0..N {
            (self.node, self.session) = (node, 0);
            self.of_node();
            for session in 0..S {
                self.session = session;
                self.of_place();
                self.of_call();
                self.of_late_call();
                self.call = "";
            }
        }
        self.found.drain(..)
    }

    fn step(&mut self, what: &'static str, act: impl FnOnce(&mut State<N, S>)) {
        self.push(Kind::Work, what, act);
    }

    fn fault(&mut self, what: &'static str, act: impl FnOnce(&mut State<N, S>)) {
        self.push(Kind::Fault, what, act);
    }

    fn push(&mut self, kind: Kind, what: &'static str, act: impl FnOnce(&mut State<N, S>)) {
        let mut state = self.from;
        act(&mut state);
        state.tidy(self.world);
        let step = Step { kind, nodes: 1 << self.node, session: self.session, what, call: self.call };
        self.found.push((step, state));
    }

    /// A tick, which any clocks may miss that can.
    fn ticks(&mut self) {
        let world = self.world;
        if world.is_prompt && self.from.nodes.iter().any(Node::is_overdue) {
            return;
        }
        let may_miss = self.from.nodes.map(|node| match world.clocks {
            Clocks::Exact | Clocks::Untrusted => false,
            Clocks::Slow => node.is_up && !node.has_missed(),
            Clocks::Pausing => node.is_up,
        });
        for nodes in 0..1_u8 << N {
            let misses: [bool; N] = std::array::from_fn(|node| nodes >> node & 1 == 1);
            if misses.iter().zip(may_miss).any(|(misses, may)| *misses && !may) {
                continue;
            }
            let mut state = self.from;
            for (node, misses) in state.nodes.iter_mut().zip(misses) {
                node.alive = node.alive.saturating_sub(world.tick);
                if misses { node.miss_tick(world) } else { node.tick(world) }
            }
            state.tidy(world);
            let (kind, what) = match nodes.count_ones() {
                0 => (Kind::Tick, "a tick"),
                1 => (Kind::Fault, "misses a tick"),
                _ => (Kind::Fault, "miss a tick"),
            };
            self.found.push((Step { kind, nodes, session: 0, what, call: "" }, state));
        }
    }

    /// What a process does for all its sessions.
    fn of_node(&mut self) {
        let (world, n) = (self.world, self.node);
        let node = self.from.nodes[n];
        let is_timed = world.clocks != Clocks::Untrusted;
        if node.is_up {
            self.fault("crashes", |next| next.nodes[n].crash(world));
            let has_any = node.places.iter().any(|place| place.held.is_some() || place.call.is_some());
            if has_any && (node.lease == 0 || !is_timed) {
                self.step("sees that its lease is over", |next| next.nodes[n].forget(world));
            }
            if node.renewal.is_none() && is_timed {
                let sent = Some(Renewal { age: 0, is_slow: false, stage: Stage::Sent });
                self.step("asks for its lease", |next| next.nodes[n].renewal = sent);
            }
        } else {
            self.fault("starts", |next| next.start(world, n));
        }
        if let Some(renewal) = node.renewal {
            self.fault("hears nothing of its lease", |next| next.nodes[n].renewal = None);
            match renewal.stage {
                Stage::Sent => self.step("has its lease renewed in the store", |next| next.renew(world, n)),
                Stage::Granted => {
                    self.step("hears that it has its lease", |next| next.nodes[n].hear(world, renewal))
                }
                Stage::Refused => {
                    self.step("hears that it has no lease", |next| next.nodes[n].hear(world, renewal))
                }
            }
        }
    }

    /// What a process does for a session.
    fn of_place(&mut self) {
        let (world, n, s) = (self.world, self.node, self.session);
        let Node { is_up, lease, places, .. } = self.from.nodes[n];
        let Place { held, turn, call, untold, .. } = places[s];
        match (held, turn, call) {
            (None, _, None) if is_up && lease > 0 => {
                self.step("asks for the session", |next| {
                    next.place(n, s).call = Some(Call::Sent(Request::Take))
                });
            }
            (Some(held), Turn::None, None) => {
                let sent = Some(Call::Sent(Request::LetGo(held.tenure)));
                self.step("lets the session go", |next| {
                    let place = next.place(n, s);
                    (place.held, place.call) = (None, sent);
                });
                if lease > 0 {
                    self.step("begins a turn", |next| next.place(n, s).turn = Turn::Runs);
                }
            }
            (Some(held), Turn::Runs, None) => {
                self.step("ends its turn without an answer", |next| next.place(n, s).turn = Turn::None);
                if let Some(answer) = self.from.fresh(world, s) {
                    let held = Held { copy: held.copy | answer, ..held };
                    self.step("ends its turn, and writes the answer", |next| {
                        let place = next.place(n, s);
                        (place.held, place.turn) = (Some(held), Turn::Writes(answer));
                        place.call = Some(Call::Sent(Request::Write(held, answer)));
                    });
                }
            }
            _ => {}
        }
        if untold != 0 {
            self.step("tells the caller the answer", |next| {
                next.rows[s].told |= untold;
                next.place(n, s).untold = 0;
            });
        }
    }

    /// What becomes of a call for a session that its process waits for.
    fn of_call(&mut self) {
        let (world, n, s) = (self.world, self.node, self.session);
        let Node { lease, number, places, .. } = self.from.nodes[n];
        let Some(call) = places[s].call else { return };
        self.call = call.name();
        self.fault("hears nothing of its ", |next| next.place(n, s).doubt(world));
        let Call::Sent(request) = call else {
            return self.step("hears that it has ", |next| next.place(n, s).hear(call, lease > 0));
        };
        let by = Process { node: world.names[n], number };
        self.step("is served its ", |next| {
            let answer = next.serve(world, by, s, request);
            next.place(n, s).call = answer;
        });
        if world.has_late_calls && places[s].late.is_none() {
            self.fault("waits no longer for its ", |next| {
                next.place(n, s).late = Some((number, request));
                next.place(n, s).doubt(world);
            });
        }
    }

    /// What becomes of one that nobody waits for.
    fn of_late_call(&mut self) {
        let (world, n, s) = (self.world, self.node, self.session);
        let Some((number, request)) = self.from.nodes[n].places[s].late else { return };
        let by = Process { node: world.names[n], number };
        self.call = request.name();
        self.fault("has lost its late ", |next| next.place(n, s).late = None);
        self.step("is served its late ", |next| {
            next.place(n, s).late = None;
            next.serve(world, by, s, request);
        });
    }
}
