//! Sessions, results, failures and events as messages of the contract.

mod event;
mod fit;
mod turn;

use std::{str::FromStr, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message as _;
use prost_types::Timestamp;
use tonic::Status;

use crate::{
    copilot::{
        event::FinishReason,
        method::{FileChange, Model, RewindPoint},
    },
    grpc::{
        pb,
        violation::{MAX_NAME, cut},
    },
    session::{
        Cleanup, Cursor, Delivery, HistoryPlace, Remains, SessionId, SessionState, Spent, Summary, ToolCall,
        TurnError, TurnResult, Usage,
    },
    store::Time,
};

pub(in crate::grpc) use event::{session_event, stored_event};
pub(in crate::grpc) use turn::{listed_turn, turn, turn_token};

/// How many bytes of a failed turn's text fit beside the other details into the 8 KiB of headers that many clients take:
/// details are base64, so 3 KiB become 4. Open asks and a cursor shorten it.
pub(in crate::grpc) const MAX_PARTIAL: usize = 3 * 1024;

/// How many bytes of a prompt a rewind point shows.
const MAX_PROMPT: usize = 1000;

/// How many running tools a failed turn shows.
pub(in crate::grpc) const MAX_RUNNING_TOOLS: usize = 8;

/// How many open asks a failed turn shows.
pub(in crate::grpc) const MAX_OPEN_ASKS: usize = 8;

/// The token for the place where the next page of a history begins; `Checks::history_token` reads it.
pub(in crate::grpc) fn history_token(id: &SessionId, place: Option<HistoryPlace>) -> String {
    let token = |HistoryPlace { cursor, event_id }| {
        // The CLI's cursor comes last: it may look like anything.
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
        create_time: Some(time(summary.create_time)),
        update_time: Some(time(summary.update_time)),
        working_directory: summary.working_directory,
        owner: summary.owner,
        profile: summary.profile,
    }
}

/// The counts of the cleanup.
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
        policy_state: model.policy.map(|policy| policy.state).unwrap_or_default(),
    }
}

/// The result of a turn that succeeded.
pub(in crate::grpc) fn turn_result(result: &TurnResult) -> pb::TurnResult {
    pb::TurnResult {
        message_id: result.message_id.clone(),
        content: result.content.clone(),
        usage: Some(usage(&result.usage)),
        tool_calls: result.tool_calls.iter().map(tool_call).collect(),
        truncated: result.tool_calls.iter().any(|call| call.arguments.is_none()),
        files_changed: result.files_changed.iter().map(file_change).collect(),
        cursor: cursor(result.cursor.as_ref()),
        model: result.model.clone().unwrap_or_default(),
        structured_content_json: result.structured.clone().map(String::from).unwrap_or_default(),
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

/// How far a turn came that failed.
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
        arguments_json: String::new(),
        success: None,
    });
    let asks = remains.open_asks.iter().take(MAX_OPEN_ASKS);
    let open_asks: Vec<_> = asks.map(|id| cut(id, MAX_NAME).to_owned()).collect();
    let cursor = cursor(remains.cursor.as_ref());
    let beside = cursor.len() + open_asks.iter().map(String::len).sum::<usize>();
    let partial_content = cut(partial, MAX_PARTIAL.saturating_sub(beside));
    pb::TurnFailure {
        message_id: cut(message_id.as_deref().unwrap_or_default(), MAX_NAME).into(),
        delivery: delivery.into(),
        partial_content: partial_content.into(),
        last_event_type: cut(last_event.as_deref().unwrap_or_default(), MAX_NAME).into(),
        usage: Some(usage(spent)),
        running_tools: shown.collect(),
        partial_content_truncated: partial_content.len() < partial.len(),
        open_asks,
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
        nano_ai_credits: usage.nano_ai_credits,
        model_calls: usage.model_calls,
        model_time: Some(milliseconds(usage.model_milliseconds)),
    }
}

pub(in crate::grpc) fn tool_call(call: &ToolCall) -> pb::ToolCall {
    pb::ToolCall {
        tool_call_id: call.id.clone(),
        name: call.name.clone(),
        arguments_json: call.arguments.clone().map(String::from).unwrap_or_default(),
        success: call.success,
    }
}

/// The failure of a turn, or of another message, in a stream that goes on.
pub(in crate::grpc) fn failure(
    prompt_id: String,
    ask_id: String,
    reason: pb::ErrorReason,
    status: &Status,
) -> pb::ConverseFailure {
    let details = tonic_types::pb::Status::decode(status.details()).unwrap_or_default().details;
    pb::ConverseFailure {
        prompt_id,
        ask_id,
        reason: reason.into(),
        code: status.code().into(),
        message: status.message().into(),
        details,
    }
}

/// A prompt before which a session can be set back.
pub(in crate::grpc) fn rewind_point(point: RewindPoint) -> pb::RewindPoint {
    pb::RewindPoint {
        prompt: cut(&point.user_message, MAX_PROMPT).into(),
        event_id: point.event_id,
        event_time: timestamp(&point.timestamp),
        can_restore_files: point.can_restore_files,
        files_changed: i32::try_from(point.file_count).unwrap_or(i32::MAX),
        lines_added: point.lines_added,
        lines_removed: point.lines_removed,
    }
}

/// The usage of a session.
pub(in crate::grpc) fn session_usage(spent: Option<Spent>) -> pb::GetUsageResponse {
    let Some(spent) = spent else { return pb::GetUsageResponse::default() };
    pb::GetUsageResponse {
        usage: Some(usage(&spent.total())),
        usage_by_model: spent.by_model.iter().map(|(model, one)| (model.clone(), usage(one))).collect(),
        prompts: spent.prompts,
        start_time: Some(spent.since.into()),
    }
}

/// A change of a file.
pub(in crate::grpc) fn file_change(change: &FileChange) -> pb::FileChange {
    let FileChange { path, change_type, lines_added, lines_removed } = change;
    let kind = match change_type.as_str() {
        "created" => pb::FileChangeType::Created,
        "modified" => pb::FileChangeType::Modified,
        "deleted" => pb::FileChangeType::Deleted,
        _ => pb::FileChangeType::Unspecified,
    };
    pb::FileChange {
        path: path.clone(),
        r#type: kind.into(),
        lines_added: *lines_added,
        lines_removed: *lines_removed,
    }
}

pub(in crate::grpc) fn milliseconds(milliseconds: f64) -> prost_types::Duration {
    let duration = Duration::try_from_secs_f64(milliseconds / 1000.0).unwrap_or_default();
    prost_types::Duration::try_from(duration).unwrap_or_default()
}

fn time(time: Time) -> Timestamp {
    Timestamp { seconds: time.0.div_euclid(1_000_000), nanos: (time.0.rem_euclid(1_000_000) * 1_000) as i32 }
}

pub(in crate::grpc) fn timestamp(text: &str) -> Option<Timestamp> {
    Timestamp::from_str(text).ok()
}
