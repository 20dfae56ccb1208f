//! What callers are told: sessions, results, failures and events as messages of the contract.

use std::{borrow::Cow, str::FromStr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message as _;
use prost_types::Timestamp;
use tonic::Status;

use super::json::object;
use crate::{
    copilot::{
        Event,
        event::{self, FinishReason, Payload},
        method::Model,
    },
    grpc::{pb, status::cut},
    session::{
        Cleanup, Delivery, HistoryPlace, Remains, SessionId, SessionState, Summary, ToolCall, TurnError,
        TurnResult, Usage,
        hub::{Cursor, Update},
    },
};

/// How much of a failed turn's text fits beside the other details into the 8 KiB of headers that many clients take:
/// details are base64, so 3 KiB become 4. Open requests and a cursor are told at its expense.
pub(in crate::grpc) const MAX_PARTIAL: usize = 3 * 1024;

/// How much of a name or id that comes from elsewhere goes into an error.
pub(in crate::grpc) const MAX_NAME: usize = 64;

/// How many running tools a failed turn shows.
pub(in crate::grpc) const MAX_RUNNING_TOOLS: usize = 8;

/// How many open requests a failed turn shows.
pub(in crate::grpc) const MAX_OPEN_REQUESTS: usize = 8;

/// Where the next page of a history begins; `Checks::history_token` reads it.
pub(in crate::grpc) fn history_token(id: &SessionId, place: Option<HistoryPlace>) -> String {
    let token = |HistoryPlace { cursor, event_id }| {
        // The CLI's words come last: what they look like is its own business.
        URL_SAFE_NO_PAD.encode(format!("2 {id} {} {cursor}", event_id.replace(' ', "")))
    };
    place.map(token).unwrap_or_default()
}

/// A session.
pub(in crate::grpc) fn session(summary: Summary) -> pb::Session {
    let state = match summary.state {
        SessionState::Idle => pb::SessionState::Idle,
        SessionState::Running => pb::SessionState::Running,
        SessionState::Waiting => pb::SessionState::Waiting,
        SessionState::Unloaded => pb::SessionState::Unloaded,
    };
    pb::Session {
        session_id: summary.id.to_string(),
        model: summary.model,
        reasoning_effort: summary.reasoning_effort,
        labels: summary.labels.into_iter().collect(),
        state: state.into(),
        title: summary.title,
        create_time: timestamp(&summary.create_time),
        update_time: timestamp(&summary.update_time),
        working_directory: summary.working_directory,
        owner: summary.owner,
        profile: summary.profile,
    }
}

/// What was cleared up.
pub(in crate::grpc) fn cleanup(cleanup: Cleanup) -> pb::CleanupStatus {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    pb::CleanupStatus {
        closed: count(cleanup.closed),
        deleted: count(cleanup.deleted),
        failed: count(cleanup.failed),
        last_run_time: cleanup.last_run.map(Timestamp::from),
        dry_run: cleanup.dry_run,
    }
}

/// A model.
pub(in crate::grpc) fn model(model: Model) -> pb::Model {
    let limits = model.capabilities.limits;
    pb::Model {
        id: model.id,
        name: model.name,
        vision: model.capabilities.supports.vision,
        reasoning_efforts: model.supported_reasoning_efforts,
        default_reasoning_effort: model.default_reasoning_effort.unwrap_or_default(),
        max_prompt_tokens: limits.max_prompt_tokens.unwrap_or_default(),
        max_output_tokens: limits.max_output_tokens.unwrap_or_default(),
        max_context_window_tokens: limits.max_context_window_tokens.unwrap_or_default(),
        billing_multiplier: model.billing.and_then(|billing| billing.multiplier),
        policy_state: model.policy.map(|policy| policy.state).unwrap_or_default(),
    }
}

/// What came of a turn that succeeded.
pub(in crate::grpc) fn turn_result(result: &TurnResult) -> pb::TurnResult {
    pb::TurnResult {
        message_id: result.message_id.clone(),
        content: result.content.clone(),
        usage: Some(usage(&result.usage)),
        tool_calls: result.tool_calls.iter().map(tool_call).collect(),
        cursor: cursor(result.cursor.as_ref()),
        model: result.model.clone().unwrap_or_default(),
        structured_content: result.structured.as_ref().map(object),
        finish_reason: finish_reason(result.finish_reason).into(),
    }
}

fn finish_reason(reason: Option<FinishReason>) -> pb::FinishReason {
    match reason {
        None => pb::FinishReason::Unspecified,
        Some(FinishReason::Stop) => pb::FinishReason::Stop,
        Some(FinishReason::Length) => pb::FinishReason::Length,
        Some(FinishReason::ContentFilter) => pb::FinishReason::ContentFilter,
        Some(FinishReason::Refusal) => pb::FinishReason::Refusal,
        Some(FinishReason::ToolOnly) => pb::FinishReason::ToolOnly,
        Some(FinishReason::Other) => pb::FinishReason::Other,
    }
}

fn cursor(cursor: Option<&Cursor>) -> String {
    cursor.map(|cursor| cursor.as_str().to_owned()).unwrap_or_default()
}

/// What there is of a turn that failed.
pub(in crate::grpc) fn turn_failure(error: &TurnError) -> pb::TurnFailure {
    let delivery = match error.delivery {
        Delivery::NotDelivered => pb::DeliveryState::NotDelivered,
        Delivery::Delivered => pb::DeliveryState::Delivered,
        Delivery::Unknown => pb::DeliveryState::Unknown,
    };
    let remains = &error.remains;
    let Remains { message_id, partial, last_event, usage: spent, running_tools, .. } = remains;
    let shown = running_tools.iter().take(MAX_RUNNING_TOOLS).map(|call| pb::ToolCall {
        tool_call_id: cut(&call.id, MAX_NAME).into(),
        name: cut(&call.name, MAX_NAME).into(),
        arguments: None,
        success: None,
    });
    let requests = remains.open_requests.iter().take(MAX_OPEN_REQUESTS);
    let open_requests: Vec<_> = requests.map(|id| cut(id, MAX_NAME).to_owned()).collect();
    let cursor = cursor(remains.cursor.as_ref());
    let beside = cursor.len() + open_requests.iter().map(String::len).sum::<usize>();
    let partial_content = cut(partial, MAX_PARTIAL.saturating_sub(beside));
    pb::TurnFailure {
        message_id: cut(message_id.as_deref().unwrap_or_default(), MAX_NAME).into(),
        delivery: delivery.into(),
        partial_content: partial_content.into(),
        last_event_type: cut(last_event.as_deref().unwrap_or_default(), MAX_NAME).into(),
        usage: Some(usage(spent)),
        running_tools: shown.collect(),
        partial_content_truncated: partial_content.len() < partial.len(),
        open_requests,
        cursor,
    }
}

pub(in crate::grpc) fn usage(usage: &Usage) -> pb::Usage {
    pb::Usage {
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        cache_read_tokens: usage.cache_read_tokens,
        cache_write_tokens: usage.cache_write_tokens,
        reasoning_tokens: usage.reasoning_tokens,
        cost: usage.cost,
        model_calls: usage.model_calls,
        model_time: Some(milliseconds(usage.model_milliseconds)),
    }
}

pub(in crate::grpc) fn tool_call(call: &ToolCall) -> pb::ToolCall {
    pb::ToolCall {
        tool_call_id: call.id.clone(),
        name: call.name.clone(),
        arguments: Some(object(&call.arguments)),
        success: call.success,
    }
}

/// An event of a stored history.
pub(in crate::grpc) fn stored_event(session: &SessionId, event: Event) -> pb::SessionEvent {
    let cursor = Some(Cursor::after(session, &event.id));
    Update::new(Arc::new(event), cursor).into()
}

/// What came of a turn that failed, or of another message, in a stream that goes on.
pub(in crate::grpc) fn failure(
    prompt_id: String,
    request_id: String,
    status: &Status,
) -> pb::ConverseFailure {
    let details = tonic_types::pb::Status::decode(status.details()).unwrap_or_default().details;
    pb::ConverseFailure {
        prompt_id,
        request_id,
        code: status.code().into(),
        message: status.message().into(),
        details,
    }
}

/// An event, and where to go on from. Its texts are moved, unless others hold it too.
impl From<Update> for pb::SessionEvent {
    fn from(update: Update) -> Self {
        let Update { event, cursor: after, asks, shared: _ } = update;
        let Event { id, timestamp: time, agent_id, ephemeral, kind, payload: what, .. } =
            Arc::unwrap_or_clone(event);
        Self {
            event_id: id,
            event_time: timestamp(&time),
            agent_id: agent_id.unwrap_or_default(),
            ephemeral,
            cursor: cursor(after.as_ref()),
            payload: Some(payload(kind, what, asks)),
        }
    }
}

fn payload(kind: Cow<'static, str>, payload: Payload, asks: bool) -> pb::session_event::Payload {
    use pb::session_event::Payload as Pb;
    match payload {
        Payload::AssistantMessageDelta(event) => Pb::AssistantMessageDelta(pb::AssistantMessageDelta {
            message_id: event.message_id,
            text: event.delta_content,
        }),
        Payload::AssistantReasoningDelta(event) => Pb::AssistantReasoningDelta(pb::AssistantReasoningDelta {
            reasoning_id: event.reasoning_id,
            text: event.delta_content,
        }),
        Payload::ToolExecutionPartialResult(event) => Pb::ToolExecutionProgress(pb::ToolExecutionProgress {
            tool_call_id: event.tool_call_id,
            partial_output: event.partial_output,
            message: String::new(),
        }),
        Payload::ToolExecutionProgress(event) => Pb::ToolExecutionProgress(pb::ToolExecutionProgress {
            tool_call_id: event.tool_call_id,
            partial_output: String::new(),
            message: event.progress_message,
        }),
        Payload::UserMessage(event) => Pb::UserMessage(pb::UserMessage {
            message_id: event.message_id.unwrap_or_default(),
            content: event.content,
        }),
        Payload::AssistantMessage(event) => Pb::AssistantMessage(pb::AssistantMessage {
            message_id: event.message_id,
            content: event.content,
            originating_message_id: event.originating_message_id.unwrap_or_default(),
            model: event.model.unwrap_or_default(),
            tool_requests: event.tool_requests.into_iter().map(tool_request).collect(),
        }),
        Payload::AssistantReasoning(event) => Pb::AssistantReasoning(pb::AssistantReasoning {
            reasoning_id: event.reasoning_id,
            content: event.content,
        }),
        Payload::AssistantTurnStart(event) => {
            Pb::AssistantTurnStart(pb::AssistantTurnStart { turn_id: event.turn_id })
        }
        Payload::AssistantTurnEnd(event) => {
            Pb::AssistantTurnEnd(pb::AssistantTurnEnd { turn_id: event.turn_id })
        }
        Payload::AssistantTurnRetry(event) => Pb::AssistantTurnRetry(pb::AssistantTurnRetry {
            turn_id: event.turn_id,
            reason: event.reason.unwrap_or_default(),
            model: event.model.unwrap_or_default(),
        }),
        Payload::AssistantUsage(event) => Pb::AssistantUsage(assistant_usage(event)),
        Payload::ToolExecutionStart(event) => Pb::ToolExecutionStart(pb::ToolExecutionStart {
            tool_call_id: event.tool_call_id,
            name: event.tool_name,
            arguments: Some(object(&event.arguments)),
        }),
        Payload::ToolExecutionComplete(event) => Pb::ToolExecutionComplete(pb::ToolExecutionComplete {
            tool_call_id: event.tool_call_id,
            success: event.success,
            content: event.result.and_then(|result| result.content).unwrap_or_default(),
            error_message: event.error.and_then(|error| error.message).unwrap_or_default(),
        }),
        Payload::PermissionRequested(event) => Pb::PermissionRequested(pb::PermissionRequested {
            kind: event.kind().to_owned(),
            tool_call_id: event.tool_call_id().unwrap_or_default().to_owned(),
            details: Some(object(&event.permission_request)),
            awaits_answer: asks,
            subject: event.subject().to_owned(),
            request_id: event.request_id,
        }),
        Payload::PermissionCompleted(event) => Pb::PermissionCompleted(pb::PermissionCompleted {
            request_id: event.request_id,
            tool_call_id: event.tool_call_id.unwrap_or_default(),
            outcome: event.result.kind.clone(),
        }),
        Payload::ExternalToolRequested(event) => Pb::ToolCallRequested(pb::ToolCallRequested {
            request_id: event.request_id,
            tool_call_id: event.tool_call_id,
            name: event.tool_name,
            arguments: Some(object(&event.arguments)),
        }),
        Payload::UserInputRequested(event) => Pb::UserInputRequested(pb::UserInputRequested {
            request_id: event.request_id,
            question: event.question,
            choices: event.choices,
            allow_freeform: event.allow_freeform.unwrap_or(true),
            tool_call_id: event.tool_call_id.unwrap_or_default(),
        }),
        Payload::ElicitationRequested(event) => Pb::ElicitationRequested(pb::ElicitationRequested {
            request_id: event.request_id,
            message: event.message,
            schema: event.requested_schema.as_ref().map(object),
            url: event.url.unwrap_or_default(),
            source: event.elicitation_source.unwrap_or_default(),
        }),
        Payload::ExitPlanModeRequested(event) => Pb::ExitPlanRequested(pb::ExitPlanRequested {
            request_id: event.request_id,
            summary: event.summary,
            plan: event.plan_content,
            actions: event.actions,
            recommended_action: event.recommended_action.unwrap_or_default(),
        }),
        Payload::ExternalToolCompleted(event)
        | Payload::UserInputCompleted(event)
        | Payload::ElicitationCompleted(event)
        | Payload::ExitPlanModeCompleted(event) => {
            Pb::RequestCompleted(pb::RequestCompleted { request_id: event.request_id })
        }
        Payload::SessionTitleChanged(event) => {
            Pb::SessionTitleChanged(pb::SessionTitleChanged { title: event.title })
        }
        Payload::SessionCompactionStart(event) => Pb::SessionCompactionStart(pb::SessionCompactionStart {
            trigger: event.trigger.unwrap_or_default(),
        }),
        Payload::SessionCompactionComplete(event) => {
            Pb::SessionCompactionComplete(pb::SessionCompactionComplete {
                success: event.success,
                error_message: event.error.unwrap_or_default(),
                tokens_before: event.pre_compaction_tokens.unwrap_or_default(),
                tokens_after: event.post_compaction_tokens.unwrap_or_default(),
            })
        }
        Payload::SessionWarning(event) => Pb::SessionWarning(pb::SessionWarning {
            r#type: event.warning_type.unwrap_or_default(),
            message: event.message,
        }),
        Payload::SessionError(event) => Pb::SessionError(pb::SessionError {
            r#type: event.error_type,
            message: event.message,
            status_code: event.status_code.unwrap_or_default(),
            error_code: event.error_code.unwrap_or_default(),
        }),
        Payload::Abort(event) => Pb::Abort(pb::Abort { reason: event.reason.unwrap_or_default() }),
        Payload::SessionIdle(event) => Pb::SessionIdle(pb::SessionIdle { aborted: event.aborted }),
        Payload::SamplingRequested(data)
        | Payload::SessionLimitsExhaustedRequested(data)
        | Payload::AutoModeSwitchRequested(data)
        | Payload::McpOauthRequired(data)
        | Payload::McpHeadersRefreshRequired(data)
        | Payload::CommandExecute(data)
        | Payload::SessionMcpServerStatusChanged(data)
        | Payload::SessionModeChanged(data)
        | Payload::SessionModelChange(data)
        | Payload::SessionTaskComplete(data)
        | Payload::SessionStart(data)
        | Payload::SessionResume(data)
        | Payload::SessionAutopilotStopped(data)
        | Payload::SessionShutdown(data)
        | Payload::Other(data) => {
            Pb::Other(pb::Other { r#type: kind.into_owned(), data: Some(object(&data)) })
        }
    }
}

pub(in crate::grpc) fn tool_request(request: event::ToolRequest) -> pb::ToolRequest {
    pb::ToolRequest {
        tool_call_id: request.tool_call_id,
        name: request.name,
        arguments: Some(object(&request.arguments)),
    }
}

pub(in crate::grpc) fn assistant_usage(usage: event::Usage) -> pb::AssistantUsage {
    pb::AssistantUsage {
        finish_reason: finish_reason(usage.finish()).into(),
        model: usage.model.unwrap_or_default(),
        input_tokens: usage.input_tokens.unwrap_or_default(),
        output_tokens: usage.output_tokens.unwrap_or_default(),
        cache_read_tokens: usage.cache_read_tokens.unwrap_or_default(),
        cache_write_tokens: usage.cache_write_tokens.unwrap_or_default(),
        reasoning_tokens: usage.reasoning_tokens.unwrap_or_default(),
        cost: usage.cost.unwrap_or_default(),
        duration: usage.duration.map(milliseconds),
    }
}

pub(in crate::grpc) fn milliseconds(milliseconds: f64) -> prost_types::Duration {
    let duration = Duration::try_from_secs_f64(milliseconds / 1000.0).unwrap_or_default();
    prost_types::Duration::try_from(duration).unwrap_or_default()
}

pub(in crate::grpc) fn timestamp(text: &str) -> Option<Timestamp> {
    Timestamp::from_str(text).ok()
}
