//! Callers of several tenants, and of one: what is another's does not exist, and nothing tells that it does; on the real CLI.

use std::{fmt, fs, path::PathBuf};

use copilot_grpc::{
    app::Facade,
    grpc::pb::{
        AbortTurnRequest, AskAnswer, CloseSessionRequest, CompactSessionRequest, ConverseOpen,
        ConverseRequest, CreateSessionRequest, DeleteSessionRequest, ErrorReason, ForkSessionRequest,
        GetServerInfoRequest, GetSessionRequest, GetTurnRequest, GetUsageRequest, ListEventsRequest,
        ListRewindPointsRequest, ListSessionsRequest, ListTurnsRequest, PermissionAnswer, RespondRequest,
        ResumeSessionRequest, RewindSessionRequest, Role, SendAndWaitRequest, Session, SubmitTurnRequest,
        UpdateSessionRequest, WatchSessionRequest, WhoAmIRequest, ask_answer::Answer,
        converse_request::Payload, copilot_service_client::CopilotServiceClient,
    },
};
use prost_types::FieldMask;
use scripted_model::{Reply, Request};
use sha2::{Digest as _, Sha256};
use tonic::{
    Code, Response, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::support::{
    check,
    facade::{TestFacade, prompt, wait_with},
    fields_of,
    real_cli::RealCli,
    soon,
};

/// Adds a token to each call.
#[derive(Clone)]
struct Bearer(String);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        let value = MetadataValue::try_from(format!("Bearer {}", self.0)).unwrap();
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

type Client = CopilotServiceClient<InterceptedService<Channel, Bearer>>;

/// A CLI, and a server in front of it that knows some callers by their tokens, which are their names.
struct World {
    facade: TestFacade,
    cli: RealCli,
    tokens: PathBuf,
}

fn script(request: &Request) -> Reply {
    Reply::text(format!("You said: {}", request.prompt()))
}

/// The table of a caller: its name is its token, and its subject.
fn table(name: &str, tenant: &str, roles: &[&str]) -> String {
    let hash: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "[[token]]\nsha256 = \"{hash}\"\ntenant = \"{tenant}\"\nsubject = \"{name}\"\nroles = {roles:?}\n"
    )
}

impl World {
    async fn start() -> Self {
        let cli = RealCli::start(script).await;
        let folder = tempfile::tempdir().unwrap().keep();
        let tokens = folder.join("tokens.toml");
        let tables = [
            table("ann", "acme", &[]),
            table("bob", "acme", &[]),
            table("boss", "acme", &["tenant_admin"]),
            table("eve", "evil", &["tenant_admin"]),
            table("ops", "ops", &["operator"]),
        ];
        fs::write(&tokens, tables.concat()).unwrap();
        let flag = format!("--token-file={}", tokens.display());
        let facade = cli.setup().flag(flag).start().await;
        Self { facade, cli, tokens }
    }

    async fn caller(&self, name: &str) -> Client {
        let url = format!("http://{}", Facade::address(&self.facade.facade));
        let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
        CopilotServiceClient::with_interceptor(channel, Bearer(name.into()))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.tokens.parent().unwrap());
    }
}

async fn create(client: &mut Client, id: &str) -> Session {
    let request = CreateSessionRequest { session_id: id.into(), ..Default::default() };
    soon("a session", client.create_session(request)).await.unwrap().into_inner().session.unwrap()
}

async fn say(client: &mut Client, id: &str, text: &str) -> String {
    let answer = soon("a turn", client.send_and_wait(wait_with(id, prompt(text)))).await.unwrap();
    answer.into_inner().result.unwrap().content
}

async fn ids(client: &mut Client) -> Vec<String> {
    let listed = client.list_sessions(ListSessionsRequest::default()).await.unwrap().into_inner();
    let mut ids: Vec<_> = listed.sessions.into_iter().map(|session| session.session_id).collect();
    ids.sort();
    ids
}

/// What a caller hears of an answer, or of an error with all its details.
fn heard<T: fmt::Debug>(answer: Result<Response<T>, Status>) -> String {
    match answer {
        Ok(answer) => format!("{:?}", answer.into_inner()),
        Err(status) => format!("{:?} {} {:?}", status.code(), status.message(), status.details()),
    }
}

/// All that a caller hears when it tries every call with the id of a session that is not its own.
#[allow(clippy::needless_update, reason = "some requests have more fields than are named")]
async fn everything_about(client: &mut Client, id: &str) -> Vec<String> {
    let session_id = id.to_owned();
    let mut all = Vec::new();
    macro_rules! call {
        ($method:ident, $request:ident { $($field:ident : $value:expr),* $(,)? }) => {
            let request = $request { session_id: session_id.clone(), $($field: $value,)* ..Default::default() };
            let answer = soon(stringify!($method), Box::pin(client.$method(request))).await;
            all.push(format!("{}: {}", stringify!($method), heard(answer)));
        };
    }
    call!(get_session, GetSessionRequest {});
    call!(resume_session, ResumeSessionRequest {});
    call!(close_session, CloseSessionRequest {});
    call!(fork_session, ForkSessionRequest {});
    call!(compact_session, CompactSessionRequest {});
    call!(rewind_session, RewindSessionRequest { event_id: "e".into() });
    call!(list_rewind_points, ListRewindPointsRequest {});
    call!(get_usage, GetUsageRequest {});
    call!(list_events, ListEventsRequest {});
    call!(list_turns, ListTurnsRequest {});
    call!(get_turn, GetTurnRequest { request_id: "r".into() });
    call!(abort_turn, AbortTurnRequest {});
    call!(abort_turn, AbortTurnRequest { request_id: "r".into() });
    call!(delete_session, DeleteSessionRequest {});
    let mut named = prompt("hello");
    named.request_id = "r".into();
    call!(send_and_wait, SendAndWaitRequest { prompt: Some(named.clone()) });
    call!(submit_turn, SubmitTurnRequest { prompt: Some(named) });
    let answer = Some(AskAnswer { answer: Some(Answer::Permission(PermissionAnswer::default())) });
    call!(respond, RespondRequest { ask_id: "1".into(), answer: answer });
    let session =
        Some(Session { session_id: session_id.clone(), title: "mine".into(), ..Default::default() });
    let update_mask = Some(FieldMask { paths: vec!["title".into()] });
    let update = client.update_session(UpdateSessionRequest { session, update_mask }).await;
    all.push(format!("update_session: {}", heard(update)));
    let watch =
        WatchSessionRequest { session_id: session_id.clone(), from_beginning: true, ..Default::default() };
    all.push(format!("watch_session: {}", heard(client.watch_session(watch).await)));
    let open = ConverseOpen { session_id, ..Default::default() };
    let open = tokio_stream::once(ConverseRequest { payload: Some(Payload::Open(open)) });
    let mut conversation = client.converse(open).await.unwrap().into_inner();
    all.push(format!("converse: {}", heard(conversation.message().await.map(Response::new))));
    all.push(format!("list: {:?}", ids(client).await));
    all
}

#[tokio::test]
async fn a_session_of_another_tenant_does_not_exist_and_nothing_tells_that_it_does() {
    let world = World::start().await;
    let (mut ann, mut eve) = (world.caller("ann").await, world.caller("eve").await);
    let before = everything_about(&mut eve, "secret").await;
    create(&mut ann, "secret").await;
    assert_eq!(say(&mut ann, "secret", "the plan").await, "You said: the plan");
    assert_eq!(everything_about(&mut eve, "secret").await, before);
    // The id is free for her, and hers is another session.
    create(&mut eve, "secret").await;
    assert_eq!(say(&mut eve, "secret", "mine").await, "You said: mine");
    let asked = world.cli.model.calls();
    assert!(
        !asked.last().unwrap().request.messages.iter().any(|message| message.content.contains("the plan"))
    );
    assert_eq!(say(&mut ann, "secret", "more").await, "You said: more");
    eve.delete_session(DeleteSessionRequest { session_id: "secret".into(), ..Default::default() })
        .await
        .unwrap();
    assert_eq!(say(&mut ann, "secret", "still here").await, "You said: still here");
    assert_eq!((ids(&mut ann).await, ids(&mut eve).await), (vec!["secret".into()], Vec::new()));
}

#[tokio::test]
async fn request_ids_are_their_callers_own() {
    let world = World::start().await;
    let request = CreateSessionRequest { request_id: "r".into(), ..Default::default() };
    let mut made = Vec::new();
    for name in ["ann", "bob", "eve", "ann"] {
        let created = world.caller(name).await.create_session(request.clone()).await.unwrap();
        made.push(created.into_inner().session.unwrap().session_id);
    }
    assert_eq!(made[3], made[0]);
    made.pop();
    made.sort();
    made.dedup();
    assert_eq!(made.len(), 3);
}

#[tokio::test]
async fn a_user_has_its_own_sessions_and_an_admin_those_of_its_tenant() {
    let world = World::start().await;
    let [mut ann, mut bob, mut boss] =
        [world.caller("ann").await, world.caller("bob").await, world.caller("boss").await];
    let before = everything_about(&mut bob, "a").await;
    assert_eq!(create(&mut ann, "a").await.owner, "ann");
    say(&mut ann, "a", "hello").await;
    assert_eq!(everything_about(&mut bob, "a").await, before);
    create(&mut bob, "b").await;
    assert_eq!(ids(&mut bob).await, ["b"]);
    assert_eq!(ids(&mut boss).await, ["a", "b"]);
    assert_eq!(say(&mut boss, "a", "from the boss").await, "You said: from the boss");
    // In a tenant an id is taken once.
    let taken = CreateSessionRequest { session_id: "a".into(), resume_if_exists: true, ..Default::default() };
    let status = bob.create_session(taken).await.unwrap_err();
    check(&status, Code::AlreadyExists, ErrorReason::SessionExists);
    // Whose it is, an admin may say.
    let of = |owner: &str| CreateSessionRequest { owner: owner.into(), ..Default::default() };
    let status = bob.create_session(of("ann")).await.unwrap_err();
    check(&status, Code::InvalidArgument, ErrorReason::InvalidField);
    assert_eq!(fields_of(&status), ["owner"]);
    let made = boss.create_session(of("ann")).await.unwrap().into_inner().session.unwrap().session_id;
    assert!(ids(&mut ann).await.contains(&made));
    let of_ann = ListSessionsRequest { owner: "ann".into(), ..Default::default() };
    assert!(bob.list_sessions(of_ann).await.unwrap().into_inner().sessions.is_empty());
}

#[tokio::test]
async fn a_copy_is_its_owners_too_and_goes_on_after_a_restart() {
    let world = World::start().await;
    let (mut ann, mut eve) = (world.caller("ann").await, world.caller("eve").await);
    create(&mut ann, "a").await;
    say(&mut ann, "a", "one").await;
    let fork = ForkSessionRequest { session_id: "a".into(), ..Default::default() };
    let copy = ann.fork_session(fork).await.unwrap().into_inner().session.unwrap();
    assert_eq!(copy.owner, "ann");
    let id = copy.session_id;
    let unseen = eve.get_session(GetSessionRequest { session_id: id.clone() }).await.unwrap_err();
    check(&unseen, Code::NotFound, ErrorReason::SessionNotFound);
    ann.close_session(CloseSessionRequest { session_id: id.clone() }).await.unwrap();
    say(&mut ann, &id, "two").await;
    let asked = world.cli.model.calls().pop().unwrap().request;
    assert!(asked.messages.iter().any(|message| message.content.contains("one")));
    assert_eq!(ids(&mut ann).await.len(), 2);
}

#[tokio::test]
async fn who_shows_nothing_or_something_wrong_is_refused_and_health_is_open() {
    let world = World::start().await;
    let mut nobody = world.facade.client();
    let status = nobody.get_server_info(GetServerInfoRequest {}).await.unwrap_err();
    check(&status, Code::Unauthenticated, ErrorReason::Unauthenticated);
    for wrong in ["nobody", "ann ", "a.b.c", ""] {
        let status = world.caller(wrong).await.who_am_i(WhoAmIRequest {}).await.unwrap_err();
        check(&status, Code::Unauthenticated, ErrorReason::Unauthenticated);
        assert!(wrong.is_empty() || !status.message().contains(wrong.trim()), "{status:?}");
    }
    let told = world.caller("boss").await.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!((told.tenant.as_str(), told.subject.as_str()), ("acme", "boss"));
    assert_eq!(told.roles, [Role::User, Role::TenantAdmin].map(i32::from));
    // What runs where is for operators.
    let info =
        world.caller("boss").await.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert!(!info.version.is_empty() && info.backends.is_empty() && info.store.is_none());
    let info = world.caller("ops").await.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert!(!info.backends.is_empty() && info.store.is_some());
}

#[tokio::test]
async fn a_token_that_is_taken_out_of_the_file_is_refused_and_a_new_one_is_known() {
    let world = World::start().await;
    let mut ann = world.caller("ann").await;
    create(&mut ann, "a").await;
    fs::write(&world.tokens, table("zoe", "acme", &["tenant_admin"])).unwrap();
    soon("the old token is refused", async { while ann.who_am_i(WhoAmIRequest {}).await.is_ok() {} }).await;
    let mut zoe = world.caller("zoe").await;
    assert_eq!(ids(&mut zoe).await, ["a"]);
}
