//! The search through all states of a world, nearest first, so that what it finds is found by the shortest way.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    iter,
    time::SystemTime,
};

use super::{
    state::{LATEST, State},
    steps::{Kind, Next, Step},
    world::{Property, World},
};

/// What does not hold, and the shortest way there.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) property: Property,
    steps: Vec<Step>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} does not hold:", self.property)?;
        self.steps.iter().enumerate().try_for_each(|(at, step)| write!(f, "\n{:4}. {step}", at + 1))
    }
}

/// Looks at all states of a world, or until a property does not hold.
pub(super) fn search<const N: usize, const S: usize>(world: &World) -> Option<Fault> {
    let began = SystemTime::now();
    let mut search = Search::<N, S>::new(world);
    let fault = search.run();
    let (states, depth) = (search.states.len(), search.path(search.states.len() - 1).len() - 1);
    let seconds = began.elapsed().unwrap_or_default().as_secs_f32();
    let plural = if S == 1 { "" } else { "s" };
    eprintln!("{N} nodes, {S} session{plural}: {states} states, {depth} steps deep, {seconds:.1} s");
    fault.map(|(property, at)| Fault { property, steps: search.steps(at) })
}

/// The states of a world that have been found.
struct Search<'a, const N: usize, const S: usize> {
    world: &'a World,
    states: Vec<State<N, S>>,
    /// From which each was found.
    before: Vec<u32>,
    /// Which leads to which by work, and by a tick.
    work: Vec<(u32, u32)>,
    ticks: Vec<(u32, u32)>,
}

impl<'a, const N: usize, const S: usize> Search<'a, N, S> {
    fn new(world: &'a World) -> Self {
        Self { world, states: vec![State::first()], before: vec![0], work: Vec::new(), ticks: Vec::new() }
    }

    /// Finds the states, and one where a property does not hold.
    fn run(&mut self) -> Option<(Property, usize)> {
        let mut known: HashMap<_, _, BuildHasherDefault<Mixer>> = HashMap::from_iter([(self.states[0], 0)]);
        let (mut next, mut at) = (Next::new(self.world), 0);
        while at < self.states.len() {
            let from = number(at);
            for (step, state) in next.of(&self.states[at]) {
                let new = number(self.states.len());
                let to = *known.entry(state).or_insert(new);
                if to == new {
                    self.states.push(state);
                    self.before.push(from);
                    if let Some(property) = state.broken(self.world) {
                        return Some((property, self.states.len() - 1));
                    }
                }
                match step.kind {
                    Kind::Work => self.work.push((from, to)),
                    Kind::Tick => self.ticks.push((from, to)),
                    Kind::Fault => {}
                }
            }
            at += 1;
        }
        let stuck = (0..S).find_map(|session| self.stuck(session));
        stuck.filter(|_| self.world.checked.contains(&Property::IsServed)).map(|at| (Property::IsServed, at))
    }

    /// A state in which a process runs, and from which none comes to own the session though all goes well from then on. Time
    /// needs to pass only if the owner has crashed.
    fn stuck(&self, session: usize) -> Option<usize> {
        let mut at_once: Vec<bool> = self.states.iter().map(|state| state.is_owned(session)).collect();
        spread(&mut at_once, &[&self.work]);
        let mut in_time = at_once.clone();
        spread(&mut in_time, &[&self.work, &self.ticks]);
        self.states.iter().zip(at_once.into_iter().zip(in_time)).position(|(state, (at_once, in_time))| {
            let ends = if state.is_left(self.world, session) { in_time } else { at_once };
            !ends && state.nodes.iter().any(|node| node.is_up && node.number == LATEST)
        })
    }

    /// The states that lead from the first to this one.
    fn path(&self, to: usize) -> Vec<usize> {
        let before = |at: &usize| (*at > 0).then(|| self.before[*at] as usize);
        let mut path: Vec<_> = iter::successors(Some(to), before).collect();
        path.reverse();
        path
    }

    fn steps(&self, to: usize) -> Vec<Step> {
        let mut next = Next::new(self.world);
        let mut step = |from: usize, to: usize| {
            next.of(&self.states[from]).find(|(_, state)| *state == self.states[to]).unwrap().0
        };
        self.path(to).windows(2).map(|pair| step(pair[0], pair[1])).collect()
    }
}

/// Marks what leads to what is marked.
fn spread(marked: &mut [bool], ways: &[&[(u32, u32)]]) {
    loop {
        let mut is_done = true;
        for (from, to) in ways.iter().flat_map(|ways| ways.iter().rev()) {
            if marked[*to as usize] && !marked[*from as usize] {
                (marked[*from as usize], is_done) = (true, false);
            }
        }
        if is_done {
            return;
        }
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap()
}

/// A hash of small numbers: the usual one takes most of the time.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u8(*byte));
    }

    fn write_u8(&mut self, number: u8) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// Which variant of an enum, and how long a list is.
    fn write_usize(&mut self, number: usize) {
        self.write_u8(number as u8);
    }

    fn write_i64(&mut self, number: i64) {
        self.write_u8(number as u8);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}
