//! Whoever uses a session that is deleted meanwhile hears that there is no such session, and nothing else; on the real CLI.
//!
//! Deletions that a FakeCli fails at, or tells of, are in `faults::deletion`.

use std::{collections::BTreeMap, time::Duration};

use copilot_grpc::grpc::pb::{
    AbortTurnRequest, CloseSessionRequest, CompactSessionRequest, DeleteSessionRequest, ErrorReason,
    ForkSessionRequest, GetSessionRequest, GetUsageRequest, ListEventsRequest, ListRewindPointsRequest,
    ResumeSessionRequest, RewindSessionRequest, Session, UpdateSessionRequest, WatchSessionRequest,
    copilot_service_client::CopilotServiceClient, send_and_stream_response::Payload,
};
use prost_types::FieldMask;
use scripted_model::Reply;
use tokio::time::sleep;
use tonic::{Code, Status, transport::Channel};

use crate::support::{
    dice::Dice,
    facade::{stream, wait},
    real_cli::RealCli,
    reason_of, soon,
};

/// What is done beside a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Beside {
    Abort,
    Close,
    Compact,
    Delete,
    Events,
    Fork,
    Get,
    Resume,
    Rewind,
    RewindPoints,
    Send,
    Stream,
    Update,
    Usage,
    Watch,
}

const ALL: [Beside; 15] = [
    Beside::Abort,
    Beside::Close,
    Beside::Compact,
    Beside::Delete,
    Beside::Events,
    Beside::Fork,
    Beside::Get,
    Beside::Resume,
    Beside::Rewind,
    Beside::RewindPoints,
    Beside::Send,
    Beside::Stream,
    Beside::Update,
    Beside::Usage,
    Beside::Watch,
];

impl Beside {
    async fn run(self, mut client: CopilotServiceClient<Channel>, id: String) -> Result<(), Status> {
        let session_id = id.clone();
        match self {
            Self::Abort => {
                client.abort_turn(AbortTurnRequest { session_id, ..Default::default() }).await.map(drop)
            }
            Self::Close => client.close_session(CloseSessionRequest { session_id }).await.map(drop),
            Self::Compact => client.compact_session(CompactSessionRequest { session_id }).await.map(drop),
            Self::Delete => {
                let request = DeleteSessionRequest { session_id, ..Default::default() };
                client.delete_session(request).await.map(drop)
            }
            Self::Events => {
                let request = ListEventsRequest { session_id, ..Default::default() };
                client.list_events(request).await.map(drop)
            }
            Self::Fork => {
                client.fork_session(ForkSessionRequest { session_id, ..Default::default() }).await.map(drop)
            }
            Self::Get => client.get_session(GetSessionRequest { session_id }).await.map(drop),
            Self::Resume => {
                let request = ResumeSessionRequest { session_id, ..Default::default() };
                client.resume_session(request).await.map(drop)
            }
            Self::Rewind => {
                let request = ListRewindPointsRequest { session_id };
                let points = client.list_rewind_points(request).await?.into_inner().points;
                let event_id = points.into_iter().next().expect("there was a prompt").event_id;
                let request = RewindSessionRequest { session_id: id, event_id, ..Default::default() };
                client.rewind_session(request).await.map(drop)
            }
            Self::RewindPoints => {
                client.list_rewind_points(ListRewindPointsRequest { session_id }).await.map(drop)
            }
            Self::Send => client.send_and_wait(wait(&id, "more")).await.map(drop),
            Self::Stream => {
                let mut stream = client.send_and_stream(stream(&id, "more")).await?.into_inner();
                while let Some(message) = stream.message().await? {
                    if let Some(Payload::Result(_)) = message.payload {
                        return Ok(());
                    }
                }
                panic!("a stream ended without a result")
            }
            Self::Update => {
                let session = Session { session_id, title: "A title".into(), ..Default::default() };
                let update_mask = Some(FieldMask { paths: vec!["title".into()] });
                let request = UpdateSessionRequest { session: Some(session), update_mask };
                client.update_session(request).await.map(drop)
            }
            Self::Usage => client.get_usage(GetUsageRequest { session_id }).await.map(drop),
            Self::Watch => {
                let request = WatchSessionRequest { session_id, from_beginning: true, ..Default::default() };
                let mut stream = client.watch_session(request).await?.into_inner();
                while stream.message().await?.is_some() {}
                Ok(())
            }
        }
    }

    /// Whether this may be what comes of it.
    fn may_end(self, status: &Status) -> bool {
        let reason = reason_of(status);
        let turns = matches!(self, Self::Send | Self::Stream);
        match status.code() {
            Code::NotFound => reason == "SESSION_NOT_FOUND",
            Code::Aborted => reason == "TURN_ABORTED" && turns,
            _ => false,
        }
    }
}

#[tokio::test]
async fn whatever_meets_a_deletion_hears_that_there_is_no_such_session() {
    let cli = RealCli::start(|request| Reply::text(format!("You said: {}", request.prompt()))).await;
    let facade = cli.setup().flag("--max-running-turns=20").start().await;
    let mut dice = Dice::new(20_261_128);
    let mut wrong = BTreeMap::new();
    for round in 0..12 {
        let mut tasks = Vec::new();
        for beside in ALL {
            let id = format!("{beside:?}-{round}").to_lowercase();
            let (client, pause) = (facade.client(), dice.between(Duration::ZERO, Duration::from_millis(60)));
            facade.create(&id).await;
            soon("a turn", facade.send(&id, "hello")).await.unwrap();
            tasks.push((
                beside,
                tokio::spawn(async move {
                    let other = beside.run(client.clone(), id.clone());
                    let delete = async {
                        sleep(pause).await;
                        Beside::Delete.run(client.clone(), id.clone()).await
                    };
                    tokio::join!(other, delete)
                }),
            ));
        }
        for (beside, task) in tasks {
            let (other, deleted) = soon(&format!("{beside:?} beside a deletion"), task).await.unwrap();
            for (what, result) in [(beside, other), (Beside::Delete, deleted)] {
                if let Err(status) = result
                    && !what.may_end(&status)
                {
                    let told =
                        format!("{what:?}: {:?} {} {}", status.code(), reason_of(&status), status.message());
                    *wrong.entry(told).or_insert(0) += 1;
                }
            }
        }
    }
    assert_eq!(wrong, BTreeMap::new(), "{:?} is expected", ErrorReason::SessionNotFound);
}
