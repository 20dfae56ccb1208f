//! Parses agents, skills, limits and other options of a session.

use std::collections::HashSet;

use super::{Checks, non_empty};
use crate::{
    copilot::{
        CustomAgent, InfiniteSession, LargeOutput, Limits, ModelCapabilities, Options, ProviderModel, Skills,
        Supports,
    },
    grpc::pb,
};

/// How many agents, directories and the like a session may be given.
pub(in crate::grpc) const MAX_FEW: usize = 32;

/// How many models and names of skills a session may be given.
pub(in crate::grpc) const MAX_MANY: usize = 128;

/// The longest name of an agent, in bytes.
const MAX_AGENT: usize = 64;

/// The lowest limit of a session's credits: the CLI refuses a lower one (observed).
const LEAST_CREDITS: i64 = 30;

impl Checks {
    /// Parses the options, and takes their fields out of the request.
    pub(super) fn options(&mut self, request: &mut pb::CreateSessionRequest) -> Options {
        let custom_agents = self.custom_agents(std::mem::take(&mut request.custom_agents));
        let agent = non_empty(std::mem::take(&mut request.agent));
        if agent.as_ref().is_some_and(|agent| custom_agents.iter().all(|custom| custom.name != *agent)) {
            self.wrong("agent", "is not the name of one of `custom_agents`");
        }
        let excluded_builtin_agents = std::mem::take(&mut request.excluded_builtin_agents);
        self.at_most(MAX_FEW, "excluded_builtin_agents", excluded_builtin_agents.len());
        let models = std::mem::take(&mut request.models);
        let reasoning_summary = std::mem::take(&mut request.reasoning_summary);
        Options {
            models: self.models(models, &request.providers),
            custom_agents,
            agent,
            excluded_builtin_agents: self.names("excluded_builtin_agents", excluded_builtin_agents),
            session_limits: request.limits.take().map(|limits| self.limits(limits)),
            infinite_sessions: request
                .infinite_session
                .take()
                .map(|infinite| self.infinite_session(infinite)),
            reasoning_summary: self.one_of(
                "reasoning_summary",
                reasoning_summary,
                &["none", "concise", "detailed"],
            ),
            additional_directories: self
                .directories("additional_directories", std::mem::take(&mut request.additional_directories)),
            large_output: request.large_output.take().map(|output| self.large_output(output)),
            model_capabilities: request
                .vision
                .map(|vision| ModelCapabilities { supports: Supports { vision } }),
        }
    }

    fn models(
        &mut self,
        models: Vec<pb::ProviderModel>,
        providers: &[pb::NamedProvider],
    ) -> Vec<ProviderModel> {
        self.at_most(MAX_MANY, "models", models.len());
        if models.is_empty() && !providers.is_empty() {
            self.wrong("models", "is required with `providers`: each is of one of them");
        }
        let tokens = |tokens: u32| (tokens > 0).then_some(tokens.into());
        let mut names = HashSet::new();
        let models = models.into_iter().enumerate().map(|(n, model)| {
            let field = |part: &str| format!("models[{n}].{part}");
            if providers.iter().all(|provider| provider.name != model.provider) {
                self.wrong(field("provider"), "is not the name of one of `providers`");
            }
            let model = ProviderModel {
                id: self.text(&field("id"), model.id),
                provider: model.provider,
                wire_model: non_empty(model.wire_model),
                model_id: non_empty(model.model_id),
                name: non_empty(model.display_name),
                max_prompt_tokens: tokens(model.max_prompt_tokens),
                max_output_tokens: tokens(model.max_output_tokens),
                max_context_window_tokens: tokens(model.max_context_window_tokens),
            };
            if !names.insert(model.selection()) {
                self.wrong(field("id"), format!("{:?} is given twice", model.selection()));
            }
            model
        });
        models.collect()
    }

    fn custom_agents(&mut self, agents: Vec<pb::CustomAgent>) -> Vec<CustomAgent> {
        self.at_most(MAX_FEW, "custom_agents", agents.len());
        let mut names = HashSet::new();
        let agents = agents.into_iter().enumerate().map(|(n, agent)| {
            let field = |part: &str| format!("custom_agents[{n}].{part}");
            if agent.name.len() > MAX_AGENT {
                self.wrong(field("name"), format!("must have {MAX_AGENT} bytes at most"));
            }
            if !names.insert(agent.name.clone()) {
                self.wrong(field("name"), format!("{:?} is the name of two agents", agent.name));
            }
            CustomAgent {
                name: self.text(&field("name"), agent.name),
                display_name: non_empty(agent.display_name),
                description: non_empty(agent.description),
                prompt: self.text(&field("prompt"), agent.prompt),
                tools: self.names(&field("tools"), agent.tools),
                model: non_empty(agent.model),
                reasoning_effort: non_empty(agent.reasoning_effort),
                skills: self.names(&field("skills"), agent.skills),
            }
        });
        agents.collect()
    }

    pub(super) fn skills(&mut self, skills: pb::Skills) -> Skills {
        self.at_most(MAX_MANY, "skills.disabled", skills.disabled.len());
        if skills.directories.is_empty() {
            self.wrong("skills.directories", "is required: where the skills are");
        }
        Skills {
            directories: self.directories("skills.directories", skills.directories),
            disabled: self.names("skills.disabled", skills.disabled),
        }
    }

    fn limits(&mut self, limits: pb::Limits) -> Limits {
        if limits.max_ai_credits < LEAST_CREDITS {
            self.wrong("limits.max_ai_credits", format!("must be at least {LEAST_CREDITS}"));
        }
        Limits { max_ai_credits: limits.max_ai_credits }
    }

    fn infinite_session(&mut self, infinite: pb::InfiniteSession) -> InfiniteSession {
        let field = |part: &str| format!("infinite_session.{part}");
        let (begins, waits) =
            (infinite.background_compaction_threshold, infinite.buffer_exhaustion_threshold);
        let background_compaction_threshold = self.share(&field("background_compaction_threshold"), begins);
        let buffer_exhaustion_threshold = self.share(&field("buffer_exhaustion_threshold"), waits);
        if background_compaction_threshold > buffer_exhaustion_threshold.or(Some(DEFAULT_EXHAUSTION)) {
            self.wrong(field("buffer_exhaustion_threshold"), "is below `background_compaction_threshold`");
        }
        InfiniteSession {
            enabled: infinite.enabled,
            background_compaction_threshold,
            buffer_exhaustion_threshold,
        }
    }

    fn share(&mut self, field: &str, share: f64) -> Option<f64> {
        if !(0.0..=1.0).contains(&share) {
            self.wrong(field, "must be more than 0, and 1 at most; 0 is the default");
        }
        (share != 0.0).then_some(share)
    }

    fn large_output(&mut self, output: pb::LargeOutput) -> LargeOutput {
        let max_size_bytes = u64::try_from(output.max_size_bytes).ok();
        if max_size_bytes.is_none() {
            self.wrong("large_output.max_size_bytes", "must not be negative; 0 is the default");
        }
        LargeOutput {
            enabled: output.enabled,
            max_size_bytes: max_size_bytes.filter(|size| *size > 0),
            output_dir: self.directory("large_output.output_directory", output.output_directory),
        }
    }

    fn directories(&mut self, field: &str, paths: Vec<String>) -> Vec<String> {
        self.at_most(MAX_FEW, field, paths.len());
        let paths = paths.into_iter().enumerate().map(|(n, path)| {
            let field = format!("{field}[{n}]");
            self.text(&field, path.clone());
            self.directory(&field, path).unwrap_or_default()
        });
        paths.collect()
    }

    fn names(&mut self, field: &str, names: Vec<String>) -> Vec<String> {
        for (n, name) in names.iter().enumerate() {
            if name.trim().is_empty() {
                self.wrong(format!("{field}[{n}]"), "is empty or only white space");
            }
        }
        names
    }
}

/// The CLI's `bufferExhaustionThreshold` where none is given.
const DEFAULT_EXHAUSTION: f64 = 0.95;
