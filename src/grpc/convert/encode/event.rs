//! Events as messages of the contract.

use std::{borrow::Cow, sync::Arc};

use super::{cursor, finish_reason, fit, milliseconds, timestamp};
use crate::{
    copilot::{
        Event,
        event::{self, Payload},
    },
    grpc::pb,
    session::{Cursor, SessionId, fanout::Update},
};

/// An event and its cursor, of at most `max_size` bytes. Its texts are moved, unless somebody else holds the event, too.
pub(in crate::grpc) fn session_event(update: Update, max_size: usize) -> pb::SessionEvent {
    let Update { event, cursor: after, asks, shared: _ } = update;
    let Event { id, timestamp: time, agent_id, ephemeral, kind, payload: what, weight } =
        Arc::unwrap_or_clone(event);
    let mut event = pb::SessionEvent {
        event_id: id,
        event_time: timestamp(&time),
        agent_id: agent_id.unwrap_or_default(),
        ephemeral,
        cursor: cursor(after.as_ref()),
        payload: Some(payload(kind, what, asks)),
        truncated: false,
    };
    fit::fit(&mut event, weight, max_size);
    event
}

/// An event of any size.
impl From<Update> for pb::SessionEvent {
    fn from(update: Update) -> Self {
        session_event(update, usize::MAX)
    }
}

/// An event of a stored history.
pub(in crate::grpc) fn stored_event(session: &SessionId, event: Event, max_size: usize) -> pb::SessionEvent {
    let cursor = Some(Cursor::after(session, &event.id));
    session_event(Update::new(Arc::new(event), cursor), max_size)
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
            arguments_json: event.arguments.into(),
        }),
        Payload::ToolExecutionComplete(event) => {
            let result = event.result.unwrap_or_default();
            Pb::ToolExecutionComplete(pb::ToolExecutionComplete {
                tool_call_id: event.tool_call_id,
                success: event.success,
                content: result.content.unwrap_or_default(),
                structured_content_json: result.structured_content.map(String::from).unwrap_or_default(),
                error_message: event.error.and_then(|error| error.message).unwrap_or_default(),
            })
        }
        Payload::PermissionRequested(event) => Pb::PermissionAsked(pb::PermissionAsked {
            kind: event.kind().into_owned(),
            tool_call_id: event.tool_call_id().into_owned(),
            subject: event.subject().into_owned(),
            details_json: event.permission_request.into(),
            awaits_answer: asks,
            ask_id: event.request_id,
        }),
        Payload::PermissionCompleted(event) => Pb::PermissionCompleted(pb::PermissionCompleted {
            ask_id: event.request_id,
            tool_call_id: event.tool_call_id.unwrap_or_default(),
            outcome: event.result.kind.clone(),
        }),
        Payload::ExternalToolRequested(event) => Pb::ToolCallAsked(pb::ToolCallAsked {
            ask_id: event.request_id,
            tool_call_id: event.tool_call_id,
            name: event.tool_name,
            arguments_json: event.arguments.into(),
        }),
        Payload::UserInputRequested(event) => Pb::UserInputAsked(pb::UserInputAsked {
            ask_id: event.request_id,
            question: event.question,
            choices: event.choices,
            allow_freeform: event.allow_freeform.unwrap_or(true),
            tool_call_id: event.tool_call_id.unwrap_or_default(),
        }),
        Payload::ElicitationRequested(event) => Pb::ElicitationAsked(pb::ElicitationAsked {
            ask_id: event.request_id,
            message: event.message,
            schema_json: event.requested_schema.map(String::from).unwrap_or_default(),
            url: event.url.unwrap_or_default(),
            source: event.elicitation_source.unwrap_or_default(),
        }),
        Payload::ExitPlanModeRequested(event) => Pb::ExitPlanAsked(pb::ExitPlanAsked {
            ask_id: event.request_id,
            summary: event.summary,
            plan: event.plan_content,
            actions: event.actions,
            recommended_action: event.recommended_action.unwrap_or_default(),
        }),
        Payload::ExternalToolCompleted(event)
        | Payload::UserInputCompleted(event)
        | Payload::ElicitationCompleted(event)
        | Payload::ExitPlanModeCompleted(event) => {
            Pb::AskCompleted(pb::AskCompleted { ask_id: event.request_id })
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
        Payload::AssistantToolCallDelta(event) => Pb::AssistantToolCallDelta(pb::AssistantToolCallDelta {
            tool_call_id: event.tool_call_id,
            name: event.tool_name.unwrap_or_default(),
            text: event.input_delta,
        }),
        Payload::AssistantIntent(event) => Pb::AssistantIntent(pb::AssistantIntent { intent: event.intent }),
        Payload::SessionModelChange(event) => Pb::SessionModelChanged(pb::SessionModelChanged {
            model: event.new_model.unwrap_or_default(),
            previous_model: event.previous_model.unwrap_or_default(),
            reasoning_effort: event.reasoning_effort.flatten().unwrap_or_default(),
            previous_reasoning_effort: event.previous_reasoning_effort.unwrap_or_default(),
        }),
        Payload::SubagentStarted(event) => Pb::SubAgentStarted(pb::SubAgentStarted {
            tool_call_id: event.tool_call_id,
            name: event.agent_name,
            display_name: event.agent_display_name,
            description: event.agent_description,
            model: event.model.unwrap_or_default(),
        }),
        Payload::SubagentCompleted(event) => Pb::SubAgentCompleted(pb::SubAgentCompleted {
            tool_call_id: event.tool_call_id,
            name: event.agent_name,
            display_name: event.agent_display_name,
            model: event.model.unwrap_or_default(),
            tool_calls: event.total_tool_calls.unwrap_or_default(),
            tokens: event.total_tokens.unwrap_or_default(),
            duration: event.duration_ms.map(milliseconds),
            cancelled: event.cancelled.unwrap_or_default(),
        }),
        Payload::SubagentFailed(event) => Pb::SubAgentFailed(pb::SubAgentFailed {
            tool_call_id: event.tool_call_id,
            name: event.agent_name,
            display_name: event.agent_display_name,
            model: event.model.unwrap_or_default(),
            error_message: event.error.unwrap_or_default(),
            duration: event.duration_ms.map(milliseconds),
        }),
        Payload::SessionMcpServerStatusChanged(event) => {
            Pb::McpServerStatusChanged(pb::McpServerStatusChanged {
                server: event.server_name,
                status: event.status,
                error_message: event.error.unwrap_or_default(),
            })
        }
        Payload::SessionUsageInfo(event) => Pb::SessionContextUsage(pb::SessionContextUsage {
            current_tokens: event.current_tokens,
            token_limit: event.token_limit,
            messages: event.messages_length,
            system_tokens: event.system_tokens.unwrap_or_default(),
            conversation_tokens: event.conversation_tokens.unwrap_or_default(),
            tool_definitions_tokens: event.tool_definitions_tokens.unwrap_or_default(),
        }),
        Payload::SessionTruncation(event) => Pb::SessionTruncated(pb::SessionTruncated {
            tokens_removed: event.tokens_removed_during_truncation,
            messages_removed: event.messages_removed_during_truncation,
            token_limit: event.token_limit,
        }),
        Payload::SessionTodosChanged(_) => Pb::SessionTodosChanged(pb::SessionTodosChanged {}),
        Payload::SessionPlanChanged(event) => {
            Pb::SessionPlanChanged(pb::SessionPlanChanged { operation: event.operation })
        }
        Payload::SessionBackgroundTasksChanged(_) => {
            Pb::SessionBackgroundTasksChanged(pb::SessionBackgroundTasksChanged {})
        }
        Payload::SessionSnapshotRewind(event) => Pb::SessionRewound(pb::SessionRewound {
            event_id: event.up_to_event_id,
            events_removed: event.events_removed,
        }),
        Payload::SamplingRequested(data)
        | Payload::SessionLimitsExhaustedRequested(data)
        | Payload::AutoModeSwitchRequested(data)
        | Payload::McpOauthRequired(data)
        | Payload::McpHeadersRefreshRequired(data)
        | Payload::CommandExecute(data)
        | Payload::SessionModeChanged(data)
        | Payload::SessionTaskComplete(data)
        | Payload::SessionStart(data)
        | Payload::SessionResume(data)
        | Payload::SessionAutopilotStopped(data)
        | Payload::SessionShutdown(data)
        | Payload::Other(data) => Pb::Other(pb::Other { r#type: kind.into_owned(), data_json: data.into() }),
    }
}

pub(in crate::grpc) fn tool_request(request: event::ToolRequest) -> pb::ToolRequest {
    pb::ToolRequest {
        tool_call_id: request.tool_call_id,
        name: request.name,
        arguments_json: request.arguments.into(),
    }
}

pub(in crate::grpc) fn assistant_usage(usage: event::Usage) -> pb::AssistantUsage {
    pb::AssistantUsage {
        finish_reason: finish_reason(usage.finish()).into(),
        nano_ai_credits: usage.nano_ai_credits(),
        model: usage.model.unwrap_or_default(),
        input_tokens: usage.input_tokens.unwrap_or_default(),
        output_tokens: usage.output_tokens.unwrap_or_default(),
        cache_read_tokens: usage.cache_read_tokens.unwrap_or_default(),
        cache_write_tokens: usage.cache_write_tokens.unwrap_or_default(),
        reasoning_tokens: usage.reasoning_tokens.unwrap_or_default(),
        duration: usage.duration.map(milliseconds),
    }
}
