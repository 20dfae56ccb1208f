//! What is known of sessions outlives the server, however it ends.

use copilot_grpc::grpc::pb::{
    CloseSessionRequest, CreateSessionRequest, DeleteSessionRequest, ErrorReason, ForkSessionRequest,
    GetUsageRequest, GetUsageResponse, ListSessionsRequest, Session, SessionState, SystemMessage,
    SystemMessageMode, UpdateSessionRequest,
};
use prost_types::FieldMask;
use rustix::process::Signal;
use tonic::Code;

use super::installation::{
    Client, create, create_with, get, history, listed, loaded_in, on_both, script, send,
};
use crate::support::check;

/// A session with something in every field that is kept.
fn request(id: &str) -> CreateSessionRequest {
    CreateSessionRequest {
        session_id: id.into(),
        model: "mine".into(),
        owner: "somebody".into(),
        labels: [("team".into(), "blue".into())].into(),
        system_message: Some(SystemMessage {
            mode: SystemMessageMode::Replace.into(),
            content: "You are a parrot.".into(),
            ..Default::default()
        }),
        reasoning_effort: "low".into(),
        available_tools: vec!["builtin:view".into()],
        ..Default::default()
    }
}

async fn fork(client: &mut Client, id: &str) -> String {
    let request = ForkSessionRequest { session_id: id.into(), ..Default::default() };
    client.fork_session(request).await.unwrap().into_inner().session.unwrap().session_id
}

async fn set_title(client: &mut Client, id: &str, title: &str) {
    let session = Session { session_id: id.into(), title: title.into(), ..Default::default() };
    let update_mask = Some(FieldMask { paths: vec!["title".into()] });
    client.update_session(UpdateSessionRequest { session: Some(session), update_mask }).await.unwrap();
}

async fn usage(client: &mut Client, id: &str) -> GetUsageResponse {
    client.get_usage(GetUsageRequest { session_id: id.into() }).await.unwrap().into_inner()
}

/// All that is told of some sessions, without whether they are loaded.
async fn known(client: &mut Client, ids: &[&str]) -> Vec<(Session, GetUsageResponse)> {
    let mut known = Vec::new();
    for id in ids {
        let session = Session { state: SessionState::Unloaded.into(), ..get(client, id).await.unwrap() };
        known.push((session, usage(client, id).await));
    }
    known
}

#[tokio::test]
async fn sessions_without_a_message_and_forks_outlive_a_killed_server_with_all_that_is_known_of_them() {
    on_both(script, async |installation| {
        let server = installation.start().await;
        let mut client = server.client().await;
        for id in ["silent", "talking"] {
            create_with(&mut client, request(id)).await.unwrap();
        }
        set_title(&mut client, "silent", "Says nothing").await;
        send(&mut client, "talking", "one").await.unwrap();
        let copy = fork(&mut client, "talking").await;
        send(&mut client, &copy, "two").await.unwrap();
        let of_a_copy = fork(&mut client, &copy).await;
        let ids = ["silent", "talking", &copy, &of_a_copy];
        let before = known(&mut client, &ids).await;
        assert_eq!(before[0].0.title, "Says nothing");
        assert_eq!(before[1].1.prompts, 1);
        assert_eq!(listed(&mut client).await, ids);

        server.stop(Signal::KILL).await;
        let server = installation.start().await;
        let mut client = server.client().await;
        assert_eq!(listed(&mut client).await, ids);
        assert_eq!(known(&mut client, &ids).await, before);
        let blue = ListSessionsRequest {
            labels: [("team".into(), "blue".into())].into(),
            owner: "somebody".into(),
            states: vec![SessionState::Unloaded.into()],
            order_by: "create_time".into(),
            ..Default::default()
        };
        let blue = client.list_sessions(blue).await.unwrap().into_inner().sessions;
        assert_eq!(blue.iter().map(|session| session.session_id.as_str()).collect::<Vec<_>>(), ids);

        assert_eq!(send(&mut client, "silent", "first").await.unwrap().content, "prompts: first");
        let asked = installation.model.calls().pop().unwrap().request;
        assert_eq!((asked.model.as_str(), asked.messages[0].content.as_str()), ("mine", "You are a parrot."));
        assert_eq!(asked.body["reasoning_effort"], "low");
        assert_eq!(asked.tools, ["view"]);
        assert_eq!(send(&mut client, &of_a_copy, "three").await.unwrap().content, "prompts: one, two, three");
        assert_eq!(send(&mut client, "talking", "2").await.unwrap().content, "prompts: one, 2");
        assert_eq!(get(&mut client, "silent").await.unwrap().title, "Says nothing");
        assert_eq!(usage(&mut client, "talking").await.prompts, 2);
    })
    .await;
}

#[tokio::test]
async fn what_was_deleted_stays_deleted_and_its_id_can_be_used_again() {
    on_both(script, async |installation| {
        let server = installation.start().await;
        let mut client = server.client().await;
        create(&mut client, "s").await;
        send(&mut client, "s", "old").await.unwrap();
        let delete = DeleteSessionRequest { session_id: "s".into(), allow_missing: false };
        client.delete_session(delete.clone()).await.unwrap();
        server.stop(Signal::KILL).await;
        let server = installation.start().await;
        let mut client = server.client().await;
        let gone = get(&mut client, "s").await.unwrap_err();
        check(&gone, Code::NotFound, ErrorReason::SessionNotFound);
        assert_eq!(listed(&mut client).await, Vec::<String>::new());
        check(
            &client.delete_session(delete).await.unwrap_err(),
            Code::NotFound,
            ErrorReason::SessionNotFound,
        );
        create(&mut client, "s").await;
        server.stop(Signal::KILL).await;
        let server = installation.start().await;
        let mut client = server.client().await;
        assert_eq!(send(&mut client, "s", "new").await.unwrap().content, "prompts: new");
        assert_eq!(history(&mut client, "s").await.unwrap(), ["> new", "prompts: new"]);
    })
    .await;
}

#[tokio::test]
async fn the_history_of_a_session_is_read_without_loading_it() {
    on_both(script, async |installation| {
        let server = installation.start().await;
        let mut client = server.client().await;
        create(&mut client, "s").await;
        send(&mut client, "s", "one").await.unwrap();
        loaded_in(&mut client).await;
        client.close_session(CloseSessionRequest { session_id: "s".into() }).await.unwrap();
        server.stop(Signal::KILL).await;
        let server = installation.start().await;
        let mut client = server.client().await;
        assert_eq!(history(&mut client, "s").await.unwrap(), ["> one", "prompts: one"]);
        assert_eq!(get(&mut client, "s").await.unwrap().state(), SessionState::Unloaded);
    })
    .await;
}
