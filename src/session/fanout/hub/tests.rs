use super::*;
use crate::{
    copilot::event::{AssistantMessageDelta, Idle, Payload},
    session::{
        cursor::Cursor,
        fanout::{
            filter::Kinds,
            reader::{JOIN_FROM, MAX_BYTES, MAX_EVENTS},
        },
        id::SessionId,
        turn::Queue as Turns,
    },
};

impl End for &'static str {
    fn weight(&self) -> usize {
        self.len()
    }
}

fn usual() -> Filter {
    Filter { kinds: Kinds::Exactly(&["assistant.message_delta", "session.idle"]), sub_agents: true }
}

fn event(kind: &str, payload: Payload, weight: usize) -> Update {
    let event = Event {
        id: "1".into(),
        timestamp: String::new(),
        agent_id: None,
        ephemeral: true,
        kind: kind.to_owned().into(),
        payload,
        weight,
    };
    Update::new(Arc::new(event), None)
}

fn delta(message: &str, text: &str) -> Update {
    let delta = AssistantMessageDelta { message_id: message.into(), delta_content: text.into() };
    event("assistant.message_delta", Payload::AssistantMessageDelta(delta), 100)
}

fn idle() -> Update {
    event("session.idle", Payload::SessionIdle(Idle::default()), 50)
}

/// Tickets of one session's turns.
fn tickets<const N: usize>() -> [Ticket; N] {
    let mut turns = Turns::new(N);
    std::array::from_fn(|_| turns.join(()).unwrap().0)
}

/// A hub with one reader of one turn.
fn one_turn() -> (Hub<&'static str>, Ticket, Subscriber<&'static str>) {
    let [ticket] = tickets();
    let mut hub = Hub::new(Budget::default());
    let reader = hub.subscribe(Scope::Turn(ticket), usual());
    (hub, ticket, reader)
}

async fn drain(subscriber: &mut Subscriber<&'static str>) -> (usize, String, Item<&'static str>) {
    let (mut events, mut text) = (0, String::new());
    loop {
        match subscriber.next().await {
            Item::Update(update) => {
                events += 1;
                if let Payload::AssistantMessageDelta(delta) = &update.event.payload {
                    text.push_str(&delta.delta_content);
                }
            }
            end => return (events, text, end),
        }
    }
}

#[tokio::test]
async fn a_slow_reader_gets_fewer_deltas_and_all_of_the_text() {
    let (mut hub, turn, mut reader) = one_turn();
    let words: Vec<_> = (0..100_000).map(|n| format!("{n} ")).collect();
    for word in &words {
        hub.publish(&delta("m", word), Audience::Turn(Some(turn)));
    }
    hub.publish(&idle(), Audience::Turn(Some(turn)));
    hub.turn_ended(turn, &"done");
    let (events, text, end) = drain(&mut reader).await;
    assert!(events < 100, "{events} events");
    assert_eq!(text, words.concat());
    assert_eq!(end, Item::TurnEnded(turn, "done"));
}

#[tokio::test]
async fn a_reader_that_keeps_up_gets_every_delta_as_it_is() {
    let (hub, turn, mut reader) = one_turn();
    for n in 0..1_000 {
        let sent = delta("m", &n.to_string());
        hub.publish(&sent, Audience::Turn(Some(turn)));
        assert_eq!(reader.next().await, Item::Update(sent));
    }
}

#[tokio::test]
async fn deltas_of_different_messages_are_not_joined() {
    let (mut hub, turn, mut reader) = one_turn();
    for n in 0..1_000 {
        hub.publish(&delta(if n % 2 == 0 { "a" } else { "b" }, "x"), Audience::Turn(Some(turn)));
    }
    hub.turn_ended(turn, &"done");
    assert_eq!(drain(&mut reader).await.0, 1_000);
}

#[tokio::test]
async fn a_joined_delta_does_not_change_what_other_readers_see() {
    let (mut hub, turn, _slow) = one_turn();
    let mut fast = hub.subscribe(Scope::Session, usual());
    for _ in 0..=JOIN_FROM {
        hub.publish(&delta("m", "x"), Audience::Turn(Some(turn)));
        let Item::Update(told) = fast.next().await else { panic!("nothing was told") };
        assert_eq!(told.event, delta("m", "x").event);
    }
}

#[tokio::test]
async fn what_was_encoded_for_all_readers_is_not_told_of_a_joined_delta() {
    let (mut hub, turn, mut slow) = one_turn();
    let _other = hub.subscribe(Scope::Session, usual());
    for _ in 0..=JOIN_FROM {
        hub.publish(&delta("m", "x"), Audience::Turn(Some(turn)));
    }
    let mut told = Vec::new();
    while let Some(Item::Update(update)) = slow.ready() {
        told.push(update.shared.is_some());
    }
    assert_eq!(told, [vec![true; JOIN_FROM - 1], vec![false]].concat());
}

#[tokio::test]
async fn a_reader_that_is_too_slow_for_events_that_cannot_be_joined_is_told_so_after_what_fitted() {
    let (mut hub, turn, mut reader) = one_turn();
    for _ in 0..MAX_EVENTS + 10 {
        hub.publish(&idle(), Audience::Turn(Some(turn)));
    }
    hub.turn_ended(turn, &"done");
    let (events, _, end) = drain(&mut reader).await;
    assert_eq!((events, end), (MAX_EVENTS, Item::Lagged(Lagged)));
}

#[tokio::test]
async fn the_bytes_that_wait_are_bounded_but_a_single_large_event_passes() {
    let (mut hub, turn, mut reader) = one_turn();
    let huge = event("session.idle", Payload::SessionIdle(Idle::default()), MAX_BYTES + 1);
    hub.publish(&huge, Audience::Turn(Some(turn)));
    hub.publish(&idle(), Audience::Turn(Some(turn)));
    hub.turn_ended(turn, &"done");
    let (events, _, end) = drain(&mut reader).await;
    assert_eq!((events, end), (1, Item::Lagged(Lagged)));
}

#[tokio::test]
async fn a_reader_that_waits_is_woken() {
    let (mut hub, turn, mut reader) = one_turn();
    let waiting = tokio::spawn(async move { reader.next().await });
    tokio::task::yield_now().await;
    hub.turn_ended(turn, &"done");
    assert_eq!(waiting.await.unwrap(), Item::TurnEnded(turn, "done"));
}

#[tokio::test]
async fn a_turns_readers_hear_of_it_alone_and_the_sessions_readers_of_all() {
    let [first, second] = tickets();
    let mut hub = Hub::new(Budget::default());
    let mut of_first = hub.subscribe(Scope::Turn(first), usual());
    let mut of_second = hub.subscribe(Scope::Turn(second), usual());
    let mut of_all = hub.subscribe(Scope::Session, usual());
    hub.publish(&delta("m", "1"), Audience::Turn(Some(first)));
    hub.turn_ended(first, &"one");
    hub.publish(&delta("m", "2"), Audience::Turn(Some(second)));
    hub.publish(&delta("m", "?"), Audience::Everybody);
    hub.turn_ended(second, &"two");
    assert_eq!(drain(&mut of_first).await, (1, "1".into(), Item::TurnEnded(first, "one")));
    assert_eq!(drain(&mut of_second).await, (2, "2?".into(), Item::TurnEnded(second, "two")));
    assert_eq!(drain(&mut of_all).await, (1, "1".into(), Item::TurnEnded(first, "one")));
    assert_eq!(drain(&mut of_all).await, (2, "2?".into(), Item::TurnEnded(second, "two")));
    hub.gone();
    assert_eq!(drain(&mut of_all).await.2, Item::Gone);
}

#[tokio::test]
async fn a_reader_that_has_gone_is_forgotten() {
    let (mut hub, turn, reader) = one_turn();
    assert!(hub.is_heard(Some(turn)) && !hub.is_heard(None));
    drop(reader);
    assert!(!hub.is_heard(Some(turn)));
    drop(hub.subscribe(Scope::Session, usual()));
    hub.turn_ended(turn, &"done");
    assert!(hub.readers.is_empty());
}

#[tokio::test]
async fn turns_that_end_while_a_watcher_does_not_read_do_not_pile_up() {
    let (mut hub, turn, _) = one_turn();
    let mut reader = hub.subscribe(Scope::Session, usual());
    (0..MAX_EVENTS + 10).for_each(|_| hub.turn_ended(turn, &"done"));
    let ended = std::iter::from_fn(|| reader.ready()).take_while(|item| *item != Item::Lagged(Lagged));
    assert_eq!(ended.count(), MAX_EVENTS);
}

const MIB: usize = 1 << 20;

fn large(weight: usize) -> Update {
    let update = event("session.idle", Payload::SessionIdle(Idle::default()), weight);
    Update { cursor: Some(cursor("read")), ..update }
}

fn cursor(event_id: &str) -> Cursor {
    Cursor::after(&SessionId::parse("s").unwrap(), event_id)
}

#[tokio::test]
async fn readers_of_many_sessions_hold_no_more_than_the_budget_and_the_furthest_behind_is_ended_first() {
    let budget = Budget::new(16 * MIB);
    let mut hubs: Vec<_> = (0..4).map(|_| Hub::<&str>::new(budget.clone())).collect();
    let mut readers: Vec<_> = hubs.iter_mut().map(|hub| hub.subscribe(Scope::Session, usual())).collect();
    for (hub, mebibytes) in hubs.iter().zip([1, 5, 2, 1]) {
        (0..mebibytes).for_each(|_| hub.publish(&large(MIB), Audience::Everybody));
    }
    let Some(Item::Update(_)) = readers[1].ready() else { panic!("nothing was told") };
    assert_eq!(readers[1].last(), Some(cursor("read")));
    for _ in 0..3 {
        hubs[0].publish(&large(MIB - 4096), Audience::Everybody);
        assert!(budget.used() <= budget.limit());
    }
    // What it has not read is let go of at once, and it hears from where to go on.
    assert_eq!(readers[1].ready(), Some(Item::Lagged(Lagged)));
    assert_eq!(readers[1].last(), Some(cursor("read")));
    for (reader, events) in [(0, 4), (2, 2), (3, 1)] {
        assert_eq!(std::iter::from_fn(|| readers[reader].ready()).count(), events, "{reader}");
    }
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn an_event_that_many_readers_share_counts_once_until_the_last_of_them_has_read_it() {
    let budget = Budget::new(16 * MIB);
    let mut hub = Hub::<&str>::new(budget.clone());
    let mut readers: Vec<_> = (0..100).map(|_| hub.subscribe(Scope::Session, usual())).collect();
    hub.publish(&large(MIB), Audience::Everybody);
    assert!((2 * MIB..3 * MIB).contains(&budget.used()), "{}", budget.used());
    let told: Vec<_> = readers.iter_mut().map(|reader| reader.ready().unwrap()).collect();
    assert!(budget.used() > 2 * MIB);
    drop(told);
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn readers_that_are_behind_by_nothing_but_what_they_share_are_ended_as_well() {
    let budget = Budget::new(16 * MIB);
    let mut hub = Hub::<&str>::new(budget.clone());
    let mut readers: Vec<_> = (0..10).map(|_| hub.subscribe(Scope::Session, usual())).collect();
    (0..6).for_each(|_| hub.publish(&large(MIB), Audience::Everybody));
    assert!(budget.used() < budget.limit());
    assert!(readers.iter_mut().all(|reader| reader.ready() == Some(Item::Lagged(Lagged))));
}

#[tokio::test]
async fn what_a_slow_readers_deltas_were_joined_to_counts() {
    let budget = Budget::new(16 * MIB);
    let mut hub = Hub::<&str>::new(budget.clone());
    let mut readers: Vec<_> = (0..2).map(|_| hub.subscribe(Scope::Session, usual())).collect();
    let text = "x".repeat(1024);
    (0..JOIN_FROM + 1024).for_each(|_| hub.publish(&delta("m", &text), Audience::Everybody));
    assert!((2 * MIB..3 * MIB).contains(&budget.used()), "{}", budget.used());
    readers.clear();
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn what_was_read_of_the_history_counts_and_is_let_go_of_with_the_rest() {
    let budget = Budget::new(16 * MIB);
    let mut hub = Hub::<&str>::new(budget.clone());
    let mut reader = hub.subscribe(Scope::Session, usual());
    let page = |from: usize| -> Vec<_> {
        let update = |number| (format!("e{number}"), Some(large(MIB / 100)));
        (from..from + 500).map(update).collect()
    };
    reader.read(page(0));
    assert!((5 * MIB..6 * MIB).contains(&budget.used()), "{}", budget.used());
    assert!(reader.earlier().is_some() && reader.was_read("e1"));
    reader.read(page(500));
    reader.read(page(1000));
    budget.relieve();
    assert_eq!((reader.earlier(), reader.ready()), (None, Some(Item::Lagged(Lagged))));
    assert!(!reader.was_read("e1"));
    assert_eq!(budget.used(), 0);
    // What is read for it from now on is of no use.
    reader.read(page(1500));
    assert_eq!((reader.earlier(), budget.used()), (None, 0));
}

#[tokio::test]
async fn a_reader_that_keeps_up_is_not_among_those_that_can_be_ended() {
    let budget = Budget::new(1);
    let mut hub = Hub::<&str>::new(budget.clone());
    let mut reader = hub.subscribe(Scope::Session, usual());
    for n in 0..1000 {
        hub.publish(&delta("m", &n.to_string()), Audience::Everybody);
        assert_eq!(budget.used(), 0);
        assert!(matches!(reader.ready(), Some(Item::Update(_))));
    }
}

#[test]
fn filters_choose_by_kind_and_agent() {
    let patterns = |patterns: &[&str]| Filter {
        kinds: Kinds::Patterns(patterns.iter().map(|p| (*p).to_owned()).collect()),
        sub_agents: false,
    };
    let check =
        |filter: &Filter, kind: &str, expected: bool| assert_eq!(filter.wants_kind(kind), expected, "{kind}");
    check(&Filter::NOTHING, "session.idle", false);
    check(&usual(), "session.idle", true);
    check(&usual(), "system.message", false);
    check(&usual(), "model.call_start", false);
    check(&patterns(&["*"]), "model.call_start", true);
    check(&patterns(&["tool.*", "abort"]), "tool.execution_start", true);
    check(&patterns(&["tool.*", "abort"]), "abort", true);
    check(&patterns(&["tool.*", "abort"]), "aborted", false);
    let of_agent = |agent: Option<&str>| {
        let mut event = Event::clone(&idle().event);
        event.agent_id = agent.map(str::to_owned);
        (patterns(&["*"]).wants(&event), usual().wants(&event))
    };
    assert_eq!((of_agent(None), of_agent(Some("helper"))), ((true, true), (false, true)));
}

#[test]
fn a_cursor_is_good_for_its_session_only() {
    let [mine, other] = ["mine", "other"].map(|id| SessionId::parse(id).unwrap());
    let cursor = Cursor::after(&mine, "e-1");
    assert_eq!(Cursor::event_id(cursor.as_str(), &mine), Some("e-1".into()));
    for bad in [Cursor::after(&other, "e-1").as_str(), Cursor::after(&mine, "").as_str(), "", "x", "!!!"] {
        assert_eq!(Cursor::event_id(bad, &mine), None, "{bad:?}");
    }
}
