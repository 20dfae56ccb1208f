//! Callers of several tenants, and of one: what is another's does not exist, and nothing tells that it does; on the real CLI.

use std::{fmt, fs, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use copilot_grpc::{
    copilot::Secret,
    grpc::{
        client,
        pb::{
            AbortTurnRequest, AskAnswer, CloseSessionRequest, CompactSessionRequest, ConverseOpen,
            ConverseRequest, CreateSessionRequest, DeleteSessionRequest, ErrorReason, ForkSessionRequest,
            GetServerInfoRequest, GetSessionRequest, GetTurnRequest, GetUsageRequest, ListEventsRequest,
            ListRewindPointsRequest, ListSessionsRequest, ListTurnsRequest, PermissionAnswer, RespondRequest,
            ResumeSessionRequest, RewindSessionRequest, Role, SendAndWaitRequest, Session, SubmitTurnRequest,
            UpdateSessionRequest, WatchSessionRequest, WhoAmIRequest, ask_answer::Answer,
            converse_request::Payload, copilot_service_client::CopilotServiceClient,
        },
    },
};
use futures_util::future::join;
use prost_types::FieldMask;
use scripted_model::{ModelServer, Reply, Request};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::task::spawn_blocking;
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
    real_cli::{self, RealCli},
    server::Server,
    soon,
    state::State,
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
        caller(&format!("http://{}", self.facade.facade.address()), Bearer(name.into())).await
    }
}

async fn caller<I: Interceptor>(
    url: &str,
    bearer: I,
) -> CopilotServiceClient<InterceptedService<Channel, I>> {
    let channel = Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
    CopilotServiceClient::with_interceptor(channel, bearer)
}

/// Two servers of one store that ask who calls, and the folder of their files.
async fn pair(model: &ModelServer) -> ([Server; 2], TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let callers = [table("ann", "acme", &[]), table("eve", "evil", &["tenant_admin"])];
    let (tokens, cluster) =
        (file("tokens.toml", &callers.concat()), file("cluster", "the-token-of-the-cluster"));
    let url = spawn_blocking(test_postgres::shared).await.unwrap().database().await;
    let started = [0, 1].map(|n| {
        let flags = [
            format!("--store-url={url}"),
            format!("--node-name=node-{n}"),
            format!("--token-file={tokens}"),
            format!("--cluster-token-file={cluster}"),
        ];
        async move {
            let (state, flags) = (Arc::new(State::without_database()), flags.each_ref().map(String::as_str));
            let server = Server::start_on_unready(state, model, &real_cli::path(), &flags).await;
            soon("a server", async { while !server.is_serving().await {} }).await;
            server
        }
    });
    let [one, two] = started;
    (join(one, two).await.into(), folder)
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
    call!(delete_session, DeleteSessionRequest { allow_missing: true });
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
async fn through_another_server_a_caller_is_who_it_is_too_and_nobody_speaks_for_another() {
    let model = ModelServer::start(script).await.unwrap();
    let (servers, _folder) = pair(&model).await;
    let at = |server: usize, name: &str| {
        let (url, bearer) = (servers[server].url.clone(), Bearer(name.into()));
        async move { caller(&url, bearer).await }
    };
    let (mut ann, mut eve) = (at(0, "ann").await, at(1, "eve").await);
    let before = everything_about(&mut eve, "secret").await;
    create(&mut ann, "secret").await;
    say(&mut ann, "secret", "the plan").await;
    let mut elsewhere = at(1, "ann").await;
    assert_eq!(say(&mut elsewhere, "secret", "more").await, "You said: more");
    assert_eq!(ids(&mut elsewhere).await, ["secret"]);
    assert_eq!(everything_about(&mut eve, "secret").await, before);
    create(&mut eve, "secret").await;
    assert_eq!(say(&mut at(0, "eve").await, "secret", "mine").await, "You said: mine");
    // What servers say to each other holds with the cluster's token alone.
    let ann = r#"{"tenant":"acme","subject":"ann","roles":{"tenant_admin":true,"operator":true}}"#;
    let ann = URL_SAFE_NO_PAD.encode(ann);
    for forged in [
        vec![("copilot-grpc-caller", ann.as_str())],
        vec![("copilot-grpc-caller", ann.as_str()), ("copilot-grpc-to", "node-0/1")],
        vec![("copilot-grpc-caller", &ann), ("copilot-grpc-to", "node-0/1"), ("copilot-grpc-token", "guess")],
    ] {
        let headers = forged.clone();
        let forge = move |mut request: tonic::Request<()>| {
            for (name, value) in &headers {
                request.metadata_mut().insert(*name, value.parse().unwrap());
            }
            Ok(request)
        };
        let mut forger = caller(&servers[0].url, forge).await;
        let refused = forger.list_sessions(ListSessionsRequest::default()).await.unwrap_err();
        assert!(
            [Code::Unauthenticated, Code::Unavailable].contains(&refused.code()),
            "{forged:?}: {refused:?}"
        );
    }
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
    check(&status, Code::PermissionDenied, ErrorReason::PolicyDenied);
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
async fn the_command_line_brings_a_token_too() {
    let world = World::start().await;
    let target = |token: Option<&str>| client::Target {
        server: format!("http://{}", world.facade.facade.address()),
        ca_file: None,
        certificate: None,
        token: token.map(Secret::new),
    };
    let session =
        client::Client::connect(&target(Some("ann"))).await.unwrap().create_session(None).await.unwrap();
    assert_eq!(ids(&mut world.caller("ann").await).await, [session]);
    // Health is open.
    let nobody = client::Client::connect(&target(None)).await.unwrap();
    assert!(nobody.is_serving("").await.unwrap());
    let refused = nobody.create_session(None).await.unwrap_err().to_string();
    assert!(refused.contains("Unauthenticated"), "{refused}");
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
