//! Parses answers to asks.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{Checks, mime, non_empty};
use crate::{
    copilot::{
        Answer, Json,
        answer::{Decision, Elicited, Image, PlanDecision, ToolResult, ToolResultType, UserInput},
    },
    grpc::pb,
    session::Response,
};

/// How many images a tool's result may have.
pub(in crate::grpc) const MAX_IMAGES: usize = 16;

/// How large these images may be together, in bytes.
pub(in crate::grpc) const MAX_IMAGE_BYTES: usize = 3 * 1024 * 1024;

impl Checks {
    /// Parses an answer to an ask.
    pub(in crate::grpc) fn answer(&mut self, answer: Option<pb::AskAnswer>) -> Option<Response> {
        use pb::ask_answer::Answer as Pb;
        let Some(answer) = answer.and_then(|answer| answer.answer) else {
            self.wrong(
                "answer",
                "is required: permission, tool_result, user_input, elicitation or exit_plan",
            );
            return None;
        };
        let mut for_session = false;
        let answer = match answer {
            Pb::Permission(answer) => {
                for_session = answer.decision() == pb::PermissionDecision::AllowForSession;
                Answer::Permission(self.decision(answer)?)
            }
            Pb::ToolResult(result) => Answer::ToolResult(self.tool_result(result)?),
            Pb::UserInput(input) => Answer::UserInput(self.user_input(input)),
            Pb::Elicitation(elicitation) => Answer::Elicitation(self.elicited(elicitation)?),
            Pb::ExitPlan(plan) => Answer::ExitPlan(self.plan(plan)),
        };
        Some(Response { answer, for_session })
    }

    fn decision(&mut self, answer: pb::PermissionAnswer) -> Option<Decision> {
        match answer.decision() {
            pb::PermissionDecision::Allow | pb::PermissionDecision::AllowForSession => {
                Some(Decision::ApproveOnce)
            }
            pb::PermissionDecision::Deny => {
                let feedback = non_empty(answer.feedback).unwrap_or_else(|| "it was refused".into());
                Some(Decision::Reject { feedback })
            }
            pb::PermissionDecision::Unspecified => {
                let advice = "must be PERMISSION_DECISION_ALLOW, _ALLOW_FOR_SESSION or _DENY";
                self.wrong("answer.permission.decision", advice);
                None
            }
        }
    }

    fn tool_result(&mut self, result: pb::ToolResult) -> Option<ToolResult> {
        use pb::tool_result::Content;
        let binary_results_for_llm = self.images(result.images);
        let (text_result_for_llm, result_type) = match result.content {
            Some(Content::Text(text)) => (text, ToolResultType::Success),
            // As text, because the CLI drops a result that is not text (observed).
            Some(Content::ResultJson(json)) => {
                let json = self.json("answer.tool_result.result_json", json)?;
                (json.into(), ToolResultType::Success)
            }
            Some(Content::Error(reason)) => {
                let reason = non_empty(reason).unwrap_or_else(|| "the tool has failed".into());
                (reason, ToolResultType::Failure)
            }
            None => {
                self.wrong("answer.tool_result.content", "is required: text, result_json or error");
                return None;
            }
        };
        Some(ToolResult { text_result_for_llm, result_type, binary_results_for_llm })
    }

    fn images(&mut self, images: Vec<pb::ToolImage>) -> Vec<Image> {
        let field = "answer.tool_result.images";
        let bytes: usize = images.iter().map(|image| image.data.len()).sum();
        if images.len() > MAX_IMAGES || bytes > MAX_IMAGE_BYTES {
            let most = format!("there may be {MAX_IMAGES} at most, with {MAX_IMAGE_BYTES} bytes in all");
            self.wrong(field, most);
        }
        let images = images.into_iter().enumerate().map(|(n, image)| {
            if image.data.is_empty() {
                self.wrong(format!("{field}[{n}].data"), "is required");
            }
            let mime_type = mime::parse(&image.mime_type).filter(|mime_type| mime::is_image(mime_type));
            if mime_type.is_none() {
                self.wrong(format!("{field}[{n}].mime_type"), "must be of an image, such as `image/png`");
            }
            let data = STANDARD.encode(&image.data);
            Image { data, mime_type: mime_type.unwrap_or_default(), description: image.description }
        });
        images.collect()
    }

    fn user_input(&mut self, input: pb::UserInput) -> UserInput {
        match (input.skipped, input.answer.trim().is_empty()) {
            (true, true) => return UserInput::none(),
            (true, false) => self.wrong("answer.user_input.answer", "cannot be set together with `skipped`"),
            (false, true) => {
                self.wrong("answer.user_input.answer", "is required, unless the question is `skipped`");
            }
            (false, false) => {}
        }
        UserInput { answer: input.answer, was_freeform: true, dismissed: false }
    }

    fn elicited(&mut self, elicitation: pb::Elicitation) -> Option<Elicited> {
        match elicitation.action() {
            pb::ElicitationAction::Accept => {
                let content = match non_empty(elicitation.content_json) {
                    Some(json) => Some(self.form(json)?),
                    None => None,
                };
                Some(Elicited::Accept { content })
            }
            pb::ElicitationAction::Decline => Some(Elicited::Decline),
            pb::ElicitationAction::Cancel => Some(Elicited::Cancel),
            pb::ElicitationAction::Unspecified => {
                let advice = "must be ELICITATION_ACTION_ACCEPT, _DECLINE or _CANCEL";
                self.wrong("answer.elicitation.action", advice);
                None
            }
        }
    }

    /// Parses a form that is filled in.
    fn form(&mut self, json: String) -> Option<Json> {
        let field = "answer.elicitation.content_json";
        let json = self.json(field, json)?;
        if !json.as_str().starts_with('{') {
            self.wrong(field, "must be a JSON object");
            return None;
        }
        Some(json)
    }

    fn plan(&mut self, plan: pb::ExitPlan) -> PlanDecision {
        let selected_action = non_empty(plan.action);
        if selected_action.is_some() && !plan.approved {
            self.wrong("answer.exit_plan.action", "needs `approved`");
        }
        let feedback = non_empty(plan.feedback);
        let feedback = if plan.approved {
            feedback
        } else {
            Some(feedback.unwrap_or_else(|| "the plan was not approved".into()))
        };
        PlanDecision { approved: plan.approved, selected_action, feedback }
    }
}
