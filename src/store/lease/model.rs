//! An exhaustive check of the rules: every state that small worlds of nodes and a store can come to.
//!
//! A world is one store, a few nodes, and their sessions. Nothing but their number is bounded: there may be any number of ticks,
//! crashes, restarts, turns and takeovers. What no rule can tell apart is one state, so that there are finitely many: it is
//! always the same moment, and a tick brings the ends of leases nearer; a fence is the row's or an older one, by which nothing
//! is admitted any more; a process is its node's latest or an earlier one; an answer that everybody has is forgotten; and the
//! nodes have no order.
//!
//! - **Calls** are served at any later time, also after their process has stopped waiting, lost its lease or crashed, and are lost
//!   on their way or on their way back. A process waits for one call a session, and may have given up one more; of its renewals
//!   one is on its way. The store serves each at one moment. If it is away, it loses all calls.
//! - **Processes** need do nothing: one that is frozen is one that does nothing for a while, and sees late that its lease is over.
//!   They ask for a session and begin turns only with a lease, but write also without. Three things they must do that no rule
//!   does for them: when a lease comes after it was over, give up all sessions first; hold no session that was asked for before
//!   that; and take a session anew after a write of which nothing was heard, unless the store compares what a write follows.
//! - **The archive** is a set of answers. A write replaces it by the writer's copy with one answer more: so a write that is not
//!   refused when it should be does as much harm as it can.
//!
//! Not in the model: clocks that are fast, which only end leases early; statements of PostgreSQL that see different moments; and
//! nodes whose row is deleted.

mod search;
mod state;
mod steps;
mod store;
mod tidy;
mod world;

use search::search;
use world::{
    Clocks, Mistake,
    Property::{self, ArchiveGrows, IsServed, OneRuns, OwnerWrites, ToldIsKept},
    World,
};

const ALL: &[Property] = &[OneRuns, OwnerWrites, ArchiveGrows, ToldIsKept, IsServed];

/// What holds whatever clocks and operators do.
const FENCED: &[Property] = &[OwnerWrites, ArchiveGrows, ToldIsKept, IsServed];

/// After one tick a lease is over by the process's clock, and after two by the store's.
const TIMED: World = World {
    names: &[0, 1, 2],
    is_alike: true,
    tick: 9,
    clocks: Clocks::Exact,
    is_prompt: true,
    has_late_calls: false,
    answers: 0,
    mistake: Mistake::None,
    checked: ALL,
};

const SLOW: World = World { clocks: Clocks::Slow, is_prompt: false, ..TIMED };

const UNTIMED: World = World {
    clocks: Clocks::Untrusted,
    is_prompt: false,
    has_late_calls: true,
    answers: 2,
    checked: FENCED,
    ..TIMED
};

/// Two processes of one node.
const TWINS: World = World { names: &[0, 0], is_alike: false, ..TIMED };

#[track_caller]
fn holds<const N: usize, const S: usize>(world: World) {
    if search::<N, S>(&world).is_some() {
        // Once more with the nodes in their order, so that each has one name.
        let fault = search::<N, S>(&World { is_alike: false, ..world });
        panic!("{}", fault.unwrap());
    }
}

/// The world with this mistake has a fault, which is printed.
#[track_caller]
fn fails<const N: usize>(world: World, property: &'static [Property]) {
    let fault = search::<N, 1>(&World { is_alike: false, checked: property, ..world }).unwrap();
    eprintln!("{fault}");
    assert_eq!(fault.property, property[0]);
}

#[test]
fn at_most_one_node_runs_a_session() {
    holds::<2, 1>(World { has_late_calls: true, ..TIMED });
}

#[test]
fn at_most_one_of_three_nodes_runs_a_session() {
    holds::<3, 1>(TIMED);
}

#[test]
fn at_most_one_node_runs_a_session_if_their_clocks_are_slow() {
    holds::<2, 1>(SLOW);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes half a minute without optimization")]
fn at_most_one_node_runs_a_session_in_larger_worlds() {
    // A lease is over after three ticks, and in the store after four.
    holds::<2, 1>(World { tick: 3, ..TIMED });
    holds::<2, 1>(World { has_late_calls: true, ..SLOW });
    holds::<2, 2>(TIMED);
    holds::<2, 1>(World { has_late_calls: true, answers: 1, ..TIMED });
}

#[test]
fn only_the_owner_writes_and_no_answer_is_lost_whatever_the_clocks_say() {
    holds::<2, 1>(UNTIMED);
    holds::<3, 1>(World { answers: 1, ..UNTIMED });
    holds::<2, 2>(World { has_late_calls: false, answers: 1, ..UNTIMED });
}

#[test]
fn a_clock_that_stood_still_lets_two_nodes_run_a_session_and_one_write() {
    let pausing = World { clocks: Clocks::Pausing, is_prompt: false, answers: 1, ..TIMED };
    fails::<2>(pausing, &[OneRuns]);
    holds::<2, 1>(World { checked: FENCED, ..pausing });
}

#[test]
fn two_processes_of_one_node_may_both_run_a_session_and_one_writes() {
    fails::<2>(TWINS, &[OneRuns]);
    holds::<2, 1>(World { answers: 1, checked: FENCED, ..TWINS });
}

#[test]
fn without_fencing_the_search_finds_the_fault() {
    let unfenced = World { mistake: Mistake::NoFencing, ..UNTIMED };
    fails::<2>(unfenced, &[OwnerWrites]);
    fails::<2>(unfenced, &[ArchiveGrows]);
    fails::<2>(unfenced, &[ToldIsKept]);
    fails::<2>(World { clocks: Clocks::Exact, has_late_calls: false, ..unfenced }, &[ToldIsKept]);
}

#[test]
fn a_lease_must_count_from_when_it_was_asked_for() {
    fails::<2>(World { mistake: Mistake::CountsFromGrant, ..TIMED }, &[OneRuns]);
}

#[test]
fn a_lease_needs_a_margin() {
    let greedy = Mistake::NoMargin;
    fails::<2>(World { mistake: greedy, ..TIMED }, &[OneRuns]);
    fails::<2>(World { mistake: greedy, ..SLOW }, &[OneRuns]);
}

#[test]
fn a_lease_that_was_over_must_not_bring_its_sessions_back_when_it_is_granted_again() {
    fails::<2>(World { mistake: Mistake::GapIsIgnored, ..TIMED }, &[OneRuns]);
}

#[test]
fn a_session_asked_for_under_a_lease_must_not_be_held_under_the_next() {
    fails::<2>(World { mistake: Mistake::TakeOutlivesLease, ..TIMED }, &[OneRuns]);
}

#[test]
fn a_write_may_be_sent_again_with_its_fence_only_if_the_store_compares_what_it_follows() {
    fails::<2>(World { mistake: Mistake::WritesAgain, ..UNTIMED }, &[ToldIsKept]);
    holds::<2, 1>(World { mistake: Mistake::WritesAgainInOrder, ..UNTIMED });
}
