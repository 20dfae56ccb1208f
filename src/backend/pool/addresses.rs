//! The addresses of a DNS name as they change; each address is a CLI.
//!
//! A headless service of Kubernetes publishes its pods this way. A lookup that fails or finds nothing is ignored: a failing
//! name server is more likely than all CLIs gone at once, and a CLI that has gone is noticed anyway.

use std::{collections::BTreeSet, io, net::SocketAddr, time::Duration};

use futures_util::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::{
    net::lookup_host,
    time::{MissedTickBehavior, interval},
};
use tracing::warn;

/// How often a name is looked up: answers of the cluster's name server hold for as long (CoreDNS, plugin "kubernetes", `ttl`).
const INTERVAL: Duration = Duration::from_secs(5);

/// A stream of complete sets of addresses. It must repeat a set that has not changed.
pub type Addresses = BoxStream<'static, BTreeSet<SocketAddr>>;

/// The addresses of a name, looked up at once and then every 5 s.
pub fn look_up(host: String, port: u16) -> Addresses {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let answers = stream::unfold((host, ticks), move |(host, mut ticks)| async move {
        ticks.tick().await;
        let answer = lookup_host((host.as_str(), port)).await.map(|found| one_family(found.collect()));
        Some(((host.clone(), answer), (host, ticks)))
    });
    told(answers).boxed()
}

/// The answers that are usable. The first failure after a success is logged.
fn told(
    answers: impl Stream<Item = (String, io::Result<BTreeSet<SocketAddr>>)> + Send + 'static,
) -> impl Stream<Item = BTreeSet<SocketAddr>> + Send {
    let mut was_well = true;
    answers.filter_map(move |(host, answer)| {
        let problem = match &answer {
            Ok(found) if found.is_empty() => Some("it has no address".to_owned()),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem.as_ref().filter(|_| was_well) {
            warn!(host, problem, "a name of CLIs cannot be looked up: those that are known stay");
        }
        was_well = problem.is_none();
        std::future::ready(answer.ok().filter(|_| was_well))
    })
}

/// The IPv4 addresses, or the IPv6 ones if there are no others. In a dual-stack cluster each pod has one of each, and is one
/// CLI.
fn one_family(addresses: BTreeSet<SocketAddr>) -> BTreeSet<SocketAddr> {
    let has_v4 = addresses.iter().any(SocketAddr::is_ipv4);
    addresses.into_iter().filter(|address| address.is_ipv4() == has_v4).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(addresses: &[&str]) -> BTreeSet<SocketAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn a_pod_with_two_addresses_is_one_cli() {
        let check = |found, expected| assert_eq!(one_family(set(found)), set(expected));
        check(&["10.0.0.1:1", "[fd00::1]:1", "10.0.0.2:1"], &["10.0.0.1:1", "10.0.0.2:1"]);
        check(&["[fd00::1]:1", "[fd00::2]:1"], &["[fd00::1]:1", "[fd00::2]:1"]);
        check(&[], &[]);
    }

    #[tokio::test]
    async fn an_answer_that_fails_or_is_empty_tells_nothing() {
        let (one, two) = (set(&["10.0.0.1:1"]), set(&["10.0.0.2:1"]));
        let failed = Err(io::Error::other("no such host"));
        let answers = [Ok(one.clone()), failed, Ok(set(&[])), Ok(two.clone())];
        let answers = stream::iter(answers).map(|answer| ("cli".to_owned(), answer));
        assert_eq!(told(answers).collect::<Vec<_>>().await, [one, two]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_looked_up_at_once_and_every_5_seconds() {
        let began = tokio::time::Instant::now();
        let mut addresses = look_up("127.0.0.1".into(), 7);
        for seconds in [0, 5, 10] {
            assert_eq!(addresses.next().await, Some(set(&["127.0.0.1:7"])));
            assert_eq!(began.elapsed().as_secs(), seconds);
        }
    }
}
