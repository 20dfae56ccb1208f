//! The agent's requests to its callers, and the forms of their answers.
//!
//! The CLI announces a request by an event with a request id, and waits for the answer for ever. The first answer counts; later
//! ones get `success: false`. Only answers of these forms are sent: others the CLI accepts, and then breaks the tool call or
//! ends the turn (observed).

use serde::{Deserialize, Serialize};

use super::{
    Json,
    event::{ElicitationRequested, Payload},
    method::methods,
    schema::{Schema, Unfit},
};

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// The agent needs a permission for a tool.
    Permission,
    /// The agent calls a tool of the caller's.
    ToolCall,
    /// The agent asks a question.
    UserInput,
    /// An MCP server asks a question.
    Elicitation,
    /// The agent wants to carry out a plan.
    ExitPlan,
}

/// The kind and id of the request that an event announces, if callers can answer it.
pub fn requested(payload: &Payload) -> Option<(RequestKind, &str)> {
    Some(match payload {
        Payload::PermissionRequested(request) => (RequestKind::Permission, &request.request_id),
        Payload::ExternalToolRequested(request) => (RequestKind::ToolCall, &request.request_id),
        Payload::UserInputRequested(request) => (RequestKind::UserInput, &request.request_id),
        Payload::ElicitationRequested(request) => (RequestKind::Elicitation, &request.request_id),
        Payload::ExitPlanModeRequested(request) => (RequestKind::ExitPlan, &request.request_id),
        _ => return None,
    })
}

/// Whether a request says what it asks for. If not, nobody can answer it.
pub fn is_intelligible(payload: &Payload) -> bool {
    match payload {
        Payload::PermissionRequested(request) => !request.kind().is_empty(),
        Payload::ExternalToolRequested(call) => !call.tool_name.is_empty(),
        Payload::UserInputRequested(request) => !request.question.is_empty() || !request.choices.is_empty(),
        Payload::ElicitationRequested(request) => {
            !request.message.is_empty() || request.requested_schema.is_some() || request.url.is_some()
        }
        // A plan is in messages, too.
        payload => matches!(payload, Payload::ExitPlanModeRequested(_)),
    }
}

/// The id of the request that an event declares over.
pub fn completed(payload: &Payload) -> Option<&str> {
    match payload {
        Payload::PermissionCompleted(completed) => Some(&completed.request_id),
        Payload::ExternalToolCompleted(completed)
        | Payload::UserInputCompleted(completed)
        | Payload::ElicitationCompleted(completed)
        | Payload::ExitPlanModeCompleted(completed) => Some(&completed.request_id),
        _ => None,
    }
}

/// The answer, in the form that the request needs, because the CLI does not check it (observed). The error says what is wrong
/// with it.
pub fn fitting(request: &Payload, answer: Answer) -> Result<Answer, String> {
    match (request, answer) {
        (Payload::ElicitationRequested(request), Answer::Elicitation(elicited)) => {
            match (&request.requested_schema, &elicited) {
                (Some(_), Elicited::Accept { content: None }) => {
                    Err("the form has to be filled in to be accepted".into())
                }
                _ => Ok(Answer::Elicitation(elicited)),
            }
        }
        (Payload::UserInputRequested(request), Answer::UserInput(input)) if !input.dismissed => {
            let was_freeform = !request.choices.contains(&input.answer);
            if was_freeform && request.allow_freeform == Some(false) && !request.choices.is_empty() {
                return Err(format!("it must be one of {}", request.choices.join(", ")));
            }
            Ok(Answer::UserInput(UserInput { was_freeform, ..input }))
        }
        (Payload::ExitPlanModeRequested(request), Answer::ExitPlan(plan)) => {
            match plan.selected_action.as_ref().filter(|action| !request.actions.contains(action)) {
                Some(_) => Err(format!("its action must be one of {}", request.actions.join(", "))),
                None => Ok(Answer::ExitPlan(plan)),
            }
        }
        (_, answer) => Ok(answer),
    }
}

/// The form's schema and its content, if the answer fills in a form.
pub fn form<'a>(request: &'a Payload, answer: &'a Answer) -> Option<(&'a Json, &'a Json)> {
    match (request, answer) {
        (
            Payload::ElicitationRequested(ElicitationRequested { requested_schema: Some(schema), .. }),
            Answer::Elicitation(Elicited::Accept { content: Some(content) }),
        ) => Some((schema, content)),
        _ => None,
    }
}

/// Checks a filled-in form against its schema. A schema that is none, or costs too much to check, is the MCP server's fault and
/// not the caller's, so the form passes. It may take long: see [`Schema::read`].
pub fn check_form(schema: &Json, content: &Json) -> Result<(), Unfit> {
    let Ok(form) = Schema::new(schema) else { return Ok(()) };
    match form.read(content.as_str()) {
        Ok(_) | Err(Unfit::TooMuchWork) => Ok(()),
        Err(unfit) => Err(unfit),
    }
}

/// A request that the service refuses, because callers are not asked or cannot answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A request of a kind that callers are asked, which does not say what it asks for.
    Unintelligible(RequestKind),
    /// An MCP server wants to use the model.
    Sampling,
    /// The session has used up its credits.
    MoreCredits,
    /// The model's limit is reached, and another one may answer.
    AutoModeSwitch,
    /// An MCP server wants somebody to log in.
    McpLogin,
    /// An MCP server wants fresh headers.
    McpHeaders,
    /// A client's command is to be carried out.
    Command,
}

/// How to refuse an event of this kind, if it is a request (cli-protocol.md, 7.3).
pub fn refusal(kind: &str) -> Option<Refusal> {
    Some(match kind {
        "permission.requested" => Refusal::Unintelligible(RequestKind::Permission),
        "external_tool.requested" => Refusal::Unintelligible(RequestKind::ToolCall),
        "user_input.requested" => Refusal::Unintelligible(RequestKind::UserInput),
        "elicitation.requested" => Refusal::Unintelligible(RequestKind::Elicitation),
        "exit_plan_mode.requested" => Refusal::Unintelligible(RequestKind::ExitPlan),
        "sampling.requested" => Refusal::Sampling,
        "session_limits_exhausted.requested" => Refusal::MoreCredits,
        "auto_mode_switch.requested" => Refusal::AutoModeSwitch,
        "mcp.oauth_required" => Refusal::McpLogin,
        "mcp.headers_refresh_required" => Refusal::McpHeaders,
        "command.execute" => Refusal::Command,
        _ => return None,
    })
}

/// An answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// An answer to [`RequestKind::Permission`].
    Permission(Decision),
    /// An answer to [`RequestKind::ToolCall`].
    ToolResult(ToolResult),
    /// An answer to [`RequestKind::UserInput`].
    UserInput(UserInput),
    /// An answer to [`RequestKind::Elicitation`].
    Elicitation(Elicited),
    /// An answer to [`RequestKind::ExitPlan`].
    ExitPlan(PlanDecision),
}

impl Answer {
    /// The answer to a request of this kind that nobody answers.
    pub fn refusal(kind: RequestKind, reason: String) -> Self {
        match kind {
            RequestKind::Permission => Self::Permission(Decision::Reject { feedback: reason }),
            RequestKind::ToolCall => Self::ToolResult(ToolResult::failure(reason)),
            RequestKind::UserInput => Self::UserInput(UserInput::none()),
            RequestKind::Elicitation => Self::Elicitation(Elicited::Cancel),
            RequestKind::ExitPlan => Self::ExitPlan(PlanDecision {
                approved: false,
                selected_action: None,
                feedback: Some(reason),
            }),
        }
    }

    /// The kind of request that this answers.
    pub fn kind(&self) -> RequestKind {
        match self {
            Self::Permission(_) => RequestKind::Permission,
            Self::ToolResult(_) => RequestKind::ToolCall,
            Self::UserInput(_) => RequestKind::UserInput,
            Self::Elicitation(_) => RequestKind::Elicitation,
            Self::ExitPlan(_) => RequestKind::ExitPlan,
        }
    }
}

/// The decision on a permission request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Decision {
    /// Yes, this time.
    ApproveOnce,
    /// No; the model is told why. Without a reason the CLI would end the turn (observed).
    Reject {
        /// The reason.
        feedback: String,
    },
}

/// The result of a caller's tool.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolResult {
    /// The text for the model, also if the tool failed: the CLI drops the text of an `error` (observed).
    pub text_result_for_llm: String,
    /// Whether the tool succeeded.
    pub result_type: ToolResultType,
    /// The images for the model.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub binary_results_for_llm: Vec<Image>,
}

/// Whether a tool succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ToolResultType {
    /// It succeeded.
    Success,
    /// It failed.
    Failure,
}

impl ToolResult {
    /// The result of a tool that failed.
    pub fn failure(reason: impl Into<String>) -> Self {
        Self {
            text_result_for_llm: reason.into(),
            result_type: ToolResultType::Failure,
            binary_results_for_llm: Vec::new(),
        }
    }
}

/// An image for the model. The CLI passes on no other binary results (observed).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "type", rename = "image")]
pub struct Image {
    /// The data, in base64.
    pub data: String,
    /// Its MIME type.
    pub mime_type: String,
    /// A description of what it shows.
    pub description: String,
}

/// The answer to a question of the agent's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserInput {
    /// The text.
    pub answer: String,
    /// Whether the text is none of the choices.
    pub was_freeform: bool,
    /// Whether nobody answered.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dismissed: bool,
}

impl UserInput {
    /// The answer for a question that nobody answered; the model is told so.
    pub fn none() -> Self {
        Self { answer: String::new(), was_freeform: true, dismissed: true }
    }
}

/// The answer to a question of an MCP server's.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "action")]
pub enum Elicited {
    /// Yes.
    Accept {
        /// The form, filled in; `None` where the server gave a URL.
        #[serde(skip_serializing_if = "Option::is_none")]
        content: Option<Json>,
    },
    /// No.
    Decline,
    /// Nobody answered.
    Cancel,
}

/// The decision on a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanDecision {
    /// Whether the agent may leave plan mode.
    pub approved: bool,
    /// What the agent is to do then: one of the request's actions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selected_action: Option<String>,
    /// What is to be changed. Without it a plan that is not approved ends the turn (observed).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feedback: Option<String>,
}

macro_rules! answers {
    ($($(#[$meta:meta])* $name:ident { $field:ident: $type:ty } => $method:literal;)*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Serialize)]
            #[serde(rename_all = "camelCase")]
            #[expect(missing_docs, reason = "the session, the request, and the answer to it")]
            pub struct $name<'a> {
                pub session_id: &'a str,
                pub request_id: &'a str,
                pub $field: $type,
            }
        )*
        methods! { $($name<'_> => $method -> Handled;)* }
    };
}

answers! {
    /// Answers a permission request.
    AnswerPermission { result: &'a Decision } => "session.permissions.handlePendingPermissionRequest";
    /// Answers a call of a tool.
    AnswerToolCall { result: &'a ToolResult } => "session.tools.handlePendingToolCall";
    /// Answers a question of the agent's.
    AnswerUserInput { response: &'a UserInput } => "session.ui.handlePendingUserInput";
    /// Answers a question of an MCP server's.
    AnswerElicitation { result: &'a Elicited } => "session.ui.handlePendingElicitation";
    /// Answers a plan.
    AnswerExitPlan { response: &'a PlanDecision } => "session.ui.handlePendingExitPlanMode";
    /// Ends a session's work at its limit.
    AnswerLimitsExhausted { response: &'a LimitsExhausted } => "session.ui.handlePendingSessionLimitsExhausted";
    /// Answers whether the model may be changed for a while: "yes", "yes_always" or "no".
    AnswerAutoModeSwitch { response: &'a str } => "session.ui.handlePendingAutoModeSwitch";
    /// Answers an MCP server that wants somebody to log in.
    AnswerMcpLogin { result: &'a McpRefusal } => "session.mcp.oauth.handlePendingRequest";
    /// Answers an MCP server that wants fresh headers.
    AnswerMcpHeaders { result: &'a McpRefusal } => "session.mcp.headers.handlePendingHeadersRefreshRequest";
    /// Answers a command that a client is to carry out, with an error.
    AnswerCommand { error: &'a str } => "session.commands.handlePendingCommand";
}

/// Refuses an MCP server the use of the model: an answer without a response. The CLI asks whether anybody listens or not, and
/// waits for ever (observed).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefuseSampling<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The request.
    pub request_id: &'a str,
}

methods! { RefuseSampling<'_> => "session.ui.handlePendingSampling" -> Handled; }

/// The response to an answer.
#[derive(Debug, Deserialize)]
pub struct Handled {
    /// Whether the CLI still waited for the answer.
    pub success: bool,
}

/// What to do at a session's limit.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "action")]
pub enum LimitsExhausted {
    /// Do nothing more.
    Cancel,
}

/// The refusal of an MCP server's request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum McpRefusal {
    /// To [`AnswerMcpLogin`]: nobody logs in.
    Cancelled,
    /// To [`AnswerMcpHeaders`]: there are no other headers.
    None,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::copilot::event;

    fn value(answer: &impl Serialize) -> Value {
        serde_json::to_value(answer).unwrap()
    }

    #[test]
    fn a_request_that_does_not_say_what_it_asks_for_is_unintelligible() {
        let check = |kind: &str, data: Value, expected: bool| {
            let event = json!({"type": kind, "id": "e", "data": data}).to_string();
            let event = event::parse_stored(&event).unwrap();
            assert_eq!(is_intelligible(&event.payload), expected, "{event:?}");
            assert!(refusal(kind).is_some());
        };
        for missing in [json!(null), json!({}), json!("shell"), json!({"kind": 7})] {
            check("permission.requested", json!({"requestId": "r", "permissionRequest": missing}), false);
        }
        check("permission.requested", json!({"requestId": "r", "permissionRequest": {"kind": "new"}}), true);
        check("external_tool.requested", json!({"requestId": "r", "toolName": null}), false);
        check(
            "external_tool.requested",
            json!({"requestId": "r", "toolName": "t", "toolCallId": null}),
            true,
        );
        check("user_input.requested", json!({"requestId": "r", "question": {"text": "?"}}), false);
        check("user_input.requested", json!({"requestId": "r", "question": "?", "choices": null}), true);
        check("user_input.requested", json!({"requestId": "r", "question": null, "choices": ["a"]}), true);
        check("elicitation.requested", json!({"requestId": "r", "message": 7}), false);
        check("elicitation.requested", json!({"requestId": "r", "requestedSchema": {}}), true);
        check("exit_plan_mode.requested", json!({"requestId": "r"}), true);
        check("user_input.requested", json!({"question": "?"}), false);
    }

    #[test]
    fn a_question_without_choices_may_be_answered_freely() {
        let question = json!({"requestId": "r", "question": "?", "choices": null, "allowFreeform": false});
        let event = json!({"type": "user_input.requested", "id": "e", "data": question}).to_string();
        let request = event::parse_stored(&event).unwrap().payload;
        let answer = UserInput { answer: "blue".into(), was_freeform: false, dismissed: false };
        let expected = UserInput { was_freeform: true, ..answer.clone() };
        assert_eq!(fitting(&request, Answer::UserInput(answer)), Ok(Answer::UserInput(expected)));
    }

    #[test]
    fn refusals_have_the_forms_that_the_cli_understands() {
        let (session_id, request_id) = ("s", "r");
        let check = |answer: Value, field: &str, expected: Value| {
            assert_eq!(answer, json!({"sessionId": "s", "requestId": "r", field: expected}));
        };
        let result = &McpRefusal::Cancelled;
        check(
            value(&AnswerMcpLogin { session_id, request_id, result }),
            "result",
            json!({"kind": "cancelled"}),
        );
        let result = &McpRefusal::None;
        check(value(&AnswerMcpHeaders { session_id, request_id, result }), "result", json!({"kind": "none"}));
        let response = "no";
        check(value(&AnswerAutoModeSwitch { session_id, request_id, response }), "response", json!("no"));
        check(value(&AnswerCommand { session_id, request_id, error: "no" }), "error", json!("no"));
    }

    #[test]
    fn answers_have_the_forms_that_the_cli_understands() {
        let check = |answer: Value, expected: Value| assert_eq!(answer, expected);
        check(value(&Decision::ApproveOnce), json!({"kind": "approve-once"}));
        check(
            value(&Decision::Reject { feedback: "no".into() }),
            json!({"kind": "reject", "feedback": "no"}),
        );
        check(
            value(&ToolResult::failure("broken")),
            json!({"textResultForLlm": "broken", "resultType": "failure"}),
        );
        let image = Image { data: "AA==".into(), mime_type: "image/png".into(), description: "dot".into() };
        check(
            value(&ToolResult {
                text_result_for_llm: "see".into(),
                result_type: ToolResultType::Success,
                binary_results_for_llm: vec![image],
            }),
            json!({
                "textResultForLlm": "see", "resultType": "success",
                "binaryResultsForLlm": [
                    {"type": "image", "data": "AA==", "mimeType": "image/png", "description": "dot"},
                ],
            }),
        );
        check(value(&UserInput::none()), json!({"answer": "", "wasFreeform": true, "dismissed": true}));
        check(
            value(&Elicited::Accept { content: Some(json!({"a": 1}).into()) }),
            json!({"action": "accept", "content": {"a": 1}}),
        );
        check(value(&Elicited::Cancel), json!({"action": "cancel"}));
        let plan =
            PlanDecision { approved: true, selected_action: Some("interactive".into()), feedback: None };
        check(value(&plan), json!({"approved": true, "selectedAction": "interactive"}));
    }
}
