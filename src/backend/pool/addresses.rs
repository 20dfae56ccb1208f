//! The CLIs that a DNS name leads to, as they change.
//!
//! Each address of the name is a CLI, as a headless service of Kubernetes publishes its pods; or each target of its SRV records,
//! as the same service publishes those of a StatefulSet: these have names that stay when a pod comes back with another address.
//! A lookup that fails or finds nothing is ignored: a failing name server is more likely than all CLIs gone at once, and a CLI
//! that has gone is noticed anyway.

use std::{collections::BTreeSet, io, net::SocketAddr, time::Duration};

use futures_util::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::time::sleep;
use tracing::warn;

use crate::backend::names::{Answer, Names, Target};

/// The longest time for which an answer is believed, whatever it says: a CLI that joins is not kept waiting for an hour.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A stream of complete sets of CLIs. It must repeat a set that has not changed.
pub type Addresses = BoxStream<'static, BTreeSet<Target>>;

/// The addresses of a name, looked up at once and then whenever the answer holds no longer.
pub fn look_up(names: Names, host: String, port: u16) -> Addresses {
    let pause = names.shortest_pause;
    follow(host, pause, move |host| {
        let names = names.clone();
        async move {
            let Answer { found, holds_for } = names.addresses(&host).await?;
            let found = found.into_iter().map(|ip| SocketAddr::from((ip, port)).into()).collect();
            Ok(Answer { found, holds_for })
        }
    })
}

/// The targets of a name's SRV records, in the same way.
pub fn look_up_targets(names: Names, name: String) -> Addresses {
    let pause = names.shortest_pause;
    follow(name, pause, move |name| {
        let names = names.clone();
        async move { names.targets(&name).await }
    })
}

/// What is found by asking again and again, and usable.
fn follow<F>(name: String, shortest: Duration, ask: impl Fn(String) -> F + Send + 'static) -> Addresses
where
    F: Future<Output = io::Result<Answer<Target>>> + Send + 'static,
{
    let begin = (name, ask, Duration::ZERO);
    let answers = stream::unfold(begin, move |(name, ask, pause)| async move {
        sleep(pause).await;
        let answer = ask(name.clone()).await;
        let holds_for = answer.as_ref().map_or(Duration::ZERO, |answer| answer.holds_for);
        let pause = holds_for.clamp(shortest, shortest.max(LONGEST_PAUSE));
        Some(((name.clone(), answer.map(|answer| answer.found)), (name, ask, pause)))
    });
    told(answers).boxed()
}

/// The answers that are usable. The first failure after a success is logged.
fn told(
    answers: impl Stream<Item = (String, io::Result<BTreeSet<Target>>)> + Send + 'static,
) -> impl Stream<Item = BTreeSet<Target>> + Send {
    let mut was_well = true;
    answers.filter_map(move |(name, answer)| {
        let problem = match &answer {
            Ok(found) if found.is_empty() => Some("it leads nowhere".to_owned()),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem.as_ref().filter(|_| was_well) {
            warn!(name, problem, "a name of CLIs cannot be looked up: those that are known stay");
        }
        was_well = problem.is_none();
        std::future::ready(answer.ok().filter(|_| was_well))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(addresses: &[&str]) -> BTreeSet<Target> {
        addresses.iter().map(|address| address.parse::<SocketAddr>().unwrap().into()).collect()
    }

    #[tokio::test]
    async fn an_answer_that_fails_or_is_empty_tells_nothing() {
        let (one, two) = (set(&["10.0.0.1:1"]), set(&["10.0.0.2:1"]));
        let failed = Err(io::Error::other("no such host"));
        let answers = [Ok(one.clone()), failed, Ok(set(&[])), Ok(two.clone())];
        let answers = stream::iter(answers).map(|answer| ("cli".to_owned(), answer));
        assert_eq!(told(answers).collect::<Vec<_>>().await, [one, two]);
    }

    /// Checks how long a name is left alone after an answer that holds for so many seconds.
    async fn check(holds_for: Option<u64>, pause: u64) {
        let began = tokio::time::Instant::now();
        let mut found = follow("cli".into(), Duration::from_secs(5), move |_| {
            let failed = || io::Error::other("no such host");
            // One that fails is not told: so it is every second one.
            let fails = holds_for.is_none() && !began.elapsed().as_secs().is_multiple_of(2 * pause);
            let holds_for = Duration::from_secs(holds_for.unwrap_or(pause));
            let answer = Answer { found: set(&["10.0.0.1:1"]), holds_for };
            std::future::ready(if fails { Err(failed()) } else { Ok(answer) })
        });
        let each = if holds_for.is_none() { 2 * pause } else { pause };
        for seconds in [0, each, 2 * each] {
            assert_eq!(found.next().await, Some(set(&["10.0.0.1:1"])));
            assert_eq!(began.elapsed().as_secs(), seconds, "{holds_for:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_looked_up_at_once_and_again_when_the_answer_holds_no_longer() {
        check(Some(0), 5).await;
        check(Some(30), 30).await;
        check(Some(86_400), 60).await;
        check(None, 5).await;
    }
}
