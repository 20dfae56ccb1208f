//! Streams an answer, runs a tool for the agent, and answers a permission. docs/guide/clients/rust.md says how to run it.
//!
//!     chat [ADDRESS [PROMPT [SECONDS]]]

use std::{env, io::Write as _, process::ExitCode, time::Duration};

use tokio::time::{Instant, timeout_at};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use call::{by, late, retrying};
use error::Details;
use pb::{
    ask_answer::Answer, copilot_service_client::CopilotServiceClient, send_and_stream_response::Payload,
    session_event::Payload as Event, tool_result::Content, *,
};

mod call;
mod error;
mod pb {
    tonic::include_proto!("copilot_grpc.v1");
}

const SERVICE: &str = "copilot_grpc.v1.CopilotService";
const PARAMETERS: &str = r#"{"type":"object","properties":{"zone":{"type":"string"}},"required":["zone"]}"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:50051".into());
    let prompt = arguments.next().unwrap_or("hello".into());
    let seconds = arguments.next().map_or(Some(60.0), |text| text.parse().ok());
    let (Ok(endpoint), Some(limit)) = (
        Endpoint::from_shared(format!("http://{address}")),
        seconds.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok()),
    ) else {
        eprintln!("usage: chat [ADDRESS [PROMPT [SECONDS]]]");
        return ExitCode::from(2);
    };
    // Pings tell a connection that is gone from a long turn. The channel connects when it is first used, and again by itself.
    let channel = endpoint
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(60))
        .keep_alive_timeout(Duration::from_secs(20))
        .connect_lazy();
    chat(channel, prompt, limit).await.unwrap_or_else(|status| report(&status))
}

async fn chat(channel: Channel, prompt: String, limit: Duration) -> Result<ExitCode, Status> {
    let of_service = HealthCheckRequest { service: SERVICE.into() };
    let mut health = HealthClient::new(channel.clone());
    let health = by(after(5), of_service, async |request| health.check(request).await).await?;
    if health.status() != ServingStatus::Serving {
        eprintln!("NOT_SERVING: the service is not ready");
        return Ok(ExitCode::FAILURE);
    }
    println!("health: SERVING");

    // From here on Ctrl-C is noticed where the session can still be deleted.
    let interrupted = tokio::spawn(tokio::signal::ctrl_c());
    let mut service = CopilotServiceClient::new(channel);
    let (session_id, is_own) = match env::var("COPILOT_SESSION") {
        Ok(id) if !id.is_empty() => (id, false),
        _ => (create(&mut service).await?, true),
    };
    println!("session: {session_id}");

    let mut code = tokio::select! {
        outcome = turn(&mut service, &session_id, prompt, Instant::now() + limit) => match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(status) => report(&status),
        },
        // The stream is dropped, which cancels the call, and so stops the agent.
        _ = interrupted => {
            eprintln!("cancelled");
            ExitCode::from(130)
        }
    };
    println!();
    if is_own {
        let request = DeleteSessionRequest { session_id, ..Default::default() };
        match by(after(10), request, async |request| service.delete_session(request).await).await {
            Ok(_) => println!("deleted"),
            Err(status) => {
                let failed = report(&status);
                // What failed first is what counts.
                if code == ExitCode::SUCCESS {
                    code = failed;
                }
            }
        }
    }
    Ok(code)
}

async fn create(service: &mut CopilotServiceClient<Channel>) -> Result<String, Status> {
    let clock = Tool {
        name: "clock".into(),
        description: "Tells the time in a time zone.".into(),
        parameters_json: PARAMETERS.into(),
        ..Default::default()
    };
    let ask =
        PermissionRule { kind: "shell".into(), effect: PermissionEffect::Ask.into(), ..Default::default() };
    let request = CreateSessionRequest {
        tools: vec![clock],
        available_tools: vec!["bash".into()],
        permission_policy: Some(PermissionPolicy { rules: vec![ask] }),
        labels: [("from".into(), "rust".into())].into(),
        ..Default::default()
    };
    let created = by(after(30), request, async |request| service.create_session(request).await).await?;
    Ok(created.session.unwrap_or_default().session_id)
}

/// Prints the answer as it comes. The deadline is the turn's: when it passes, the agent is stopped.
async fn turn(
    service: &mut CopilotServiceClient<Channel>,
    session_id: &str,
    prompt: String,
    deadline: Instant,
) -> Result<(), Status> {
    let prompt = Prompt { text: prompt, ..Default::default() };
    let request =
        SendAndStreamRequest { session_id: session_id.into(), prompt: Some(prompt), ..Default::default() };
    let mut stream = retrying(deadline, async || {
        by(deadline, request.clone(), async |request| service.send_and_stream(request).await).await
    })
    .await?;
    // tonic does not end a stream at its deadline by itself.
    while let Some(message) = timeout_at(deadline, stream.message()).await.map_err(|_| late())?? {
        match message.payload {
            Some(Payload::Event(SessionEvent { payload: Some(event), .. })) => {
                on_event(service, session_id, event).await?;
            }
            Some(Payload::Result(TurnResult { usage, .. })) => {
                let usage = usage.unwrap_or_default();
                print!("\n({} tokens in, {} out)", usage.input_tokens, usage.output_tokens);
            }
            _ => {}
        }
    }
    Ok(())
}

async fn on_event(
    service: &mut CopilotServiceClient<Channel>,
    session_id: &str,
    event: Event,
) -> Result<(), Status> {
    let (ask_id, answer) = match event {
        Event::AssistantMessageDelta(delta) => {
            print!("{}", delta.text);
            return std::io::stdout().flush().map_err(|error| Status::internal(error.to_string()));
        }
        Event::PermissionAsked(ask) if ask.awaits_answer && ask.subject == "echo hello" => {
            println!("[permission {}: {}] allowed", ask.kind, ask.subject);
            let allow = PermissionAnswer { decision: PermissionDecision::Allow.into(), ..Default::default() };
            (ask.ask_id, Answer::Permission(allow))
        }
        // Whoever else watches the session may answer. If nobody does, it is refused after a while.
        Event::PermissionAsked(ask) if ask.awaits_answer => {
            println!("[permission {}: {}] left to others", ask.kind, ask.subject);
            return Ok(());
        }
        Event::ToolCallAsked(call) if call.name == "clock" => {
            println!("[tool clock {}]", call.arguments_json);
            let time = Content::Text("12:34 in UTC".into());
            (call.ask_id, Answer::ToolResult(ToolResult { content: Some(time), ..Default::default() }))
        }
        _ => return Ok(()),
    };
    let answer = Some(AskAnswer { answer: Some(answer) });
    let request = RespondRequest { session_id: session_id.into(), ask_id, answer };
    match by(after(10), request, async |request| service.respond(request).await).await {
        // Somebody was faster, or the turn is over: the stream says how it goes on.
        Err(status) if Details::of(&status).is(ErrorReason::AskSettled) => Ok(()),
        answered => answered.map(|_| ()),
    }
}

fn report(status: &Status) -> ExitCode {
    let details = Details::of(status);
    eprintln!("{}: {}", error::name(status.code()), status.message());
    eprint!("{details}");
    if details.is(ErrorReason::TurnTimeout) {
        eprintln!("hint: give it more seconds, or ask for less");
    }
    ExitCode::FAILURE
}

fn after(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}
