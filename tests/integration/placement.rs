//! Sessions are placed evenly, and few of them move when CLIs come and go.
//!
//! It is a simulation with 1,000 CLIs and 1,000,000 sessions. `cargo test --release --test integration placement:: -- --nocapture` prints
//! the table of docs/operate/scaling.md within seconds; without optimization there are fewer sessions.

use std::thread;

use copilot_grpc::backend::pool::placement::Placement;

#[cfg(debug_assertions)]
const SIZES: &[(usize, usize)] = &[(3, 100_000), (10, 100_000), (100, 100_000), (1000, 20_000)];
#[cfg(not(debug_assertions))]
const SIZES: &[(usize, usize)] = &[(3, 1_000_000), (10, 1_000_000), (100, 1_000_000), (1000, 1_000_000)];

/// What is counted.
struct Count {
    /// The sessions of each CLI, and of one that comes.
    before: Vec<usize>,
    after: Vec<usize>,
    /// Those that are on another CLI after one has come; from the other end, after it has gone.
    moved: usize,
    /// Those of them that did not move to the one that came.
    moved_between_others: usize,
}

fn simulate(clis: usize, sessions: usize) -> Count {
    let names: Vec<_> = (0..=clis).map(|n| format!("cli-{n}.cli.default.svc.cluster.local:4321")).collect();
    let of = |count: usize| Placement::new(names[..count].iter().map(String::as_str));
    let (before, after) = (of(clis), of(clis + 1));
    let part = |sessions: std::ops::Range<usize>| {
        let mut count =
            Count { before: vec![0; clis], after: vec![0; clis + 1], moved: 0, moved_between_others: 0 };
        for session in sessions {
            // As random as ours, and the same in each run.
            let id = format!(
                "{:032x}",
                (session as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
            );
            let place = |placement: &Placement| placement.first(&id, |_| true).unwrap();
            let (from, to) = (place(&before), place(&after));
            count.before[from] += 1;
            count.after[to] += 1;
            count.moved += usize::from(from != to);
            count.moved_between_others += usize::from(from != to && to != clis);
        }
        count
    };
    let half = sessions / 2;
    thread::scope(|scope| {
        let other = scope.spawn(|| part(half..sessions));
        let (mut one, other) = (part(0..half), other.join().unwrap());
        one.before.iter_mut().zip(other.before).for_each(|(one, other)| *one += other);
        one.after.iter_mut().zip(other.after).for_each(|(one, other)| *one += other);
        one.moved += other.moved;
        one.moved_between_others += other.moved_between_others;
        one
    })
}

#[test]
fn sessions_are_spread_evenly_and_few_of_them_move() {
    let mut table = vec![
        "| CLIs | sessions | fullest / mean | emptiest / mean | belong elsewhere when one comes or goes | 1/(N+1) |\n|---|---|---|---|---|---|"
            .to_owned(),
    ];
    for &(clis, sessions) in SIZES {
        let count = simulate(clis, sessions);
        let mean = sessions as f64 / clis as f64;
        let most = *count.before.iter().max().unwrap() as f64;
        let least = *count.before.iter().min().unwrap() as f64;
        let moved = count.moved as f64 / sessions as f64;
        let expected = 1.0 / (clis + 1) as f64;
        table.push(format!(
            "| {clis} | {sessions} | {:.3} | {:.3} | {:.3}% | {:.3}% |",
            most / mean,
            least / mean,
            moved * 100.0,
            expected * 100.0
        ));
        // By chance each CLI has its mean of sessions, give or take its root: five of those are never exceeded by 1,000 CLIs.
        let chance = 5.0 * mean.sqrt();
        assert!(most - mean < chance && mean - least < chance, "{clis}: {least} to {most}");
        assert!((moved - expected).abs() < 5.0 * (expected / sessions as f64).sqrt(), "{clis}: {moved}");
        assert_eq!(count.moved_between_others, 0);
        assert_eq!(count.after[clis], count.moved);
    }
    println!("{}", table.join("\n"));
}
