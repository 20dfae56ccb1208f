//! Parses prompts, and which events their callers want.

use std::{ops::RangeInclusive, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

use super::{Checks, mime, non_empty};
use crate::{
    copilot::{
        Attachment, Message,
        method::{Position, Range, ResponseFormat},
    },
    grpc::pb,
    session::{
        Deadline, Prompt, RequestId,
        fanout::{Filter, Kinds},
    },
};

/// The longest duration. Longer ones make no difference, and cannot be added to a moment.
pub(in crate::grpc) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// How many attachments a prompt may have.
pub(in crate::grpc) const MAX_ATTACHMENTS: usize = 32;

/// How much data the attachments may hold, in bytes. In base64 it stays below the 5 MB over which GitHub's side refuses a
/// request, this one and all that follow in the session (cli-protocol.md, section 5).
pub(in crate::grpc) const MAX_ATTACHED: usize = 3 * 1024 * 1024;

/// The longest id of a request.
pub(in crate::grpc) const MAX_REQUEST_ID: usize = 128;

/// The smallest `max_event_size` in bytes, at which the ids of an event are always whole.
pub(in crate::grpc) const MIN_EVENT_SIZE: usize = 4096;

/// The largest `max_event_size` of a stream in bytes: one message of the largest size that tonic sends.
pub(in crate::grpc) const MAX_EVENT_SIZE: usize = 1024 * 1024 * 1024;

/// The `max_event_size` of a request that has none, in bytes. A client reads messages of 4 MiB unless it was told otherwise.
pub(in crate::grpc) const DEFAULT_EVENT_SIZE: usize = 1024 * 1024;

/// The `heartbeat_interval` of a request that has none. Proxies end streams after a minute or more of silence, some after 40 s.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(30);

/// The values that `heartbeat_interval` may have.
const HEARTBEATS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// The name of a caller's schema, which the model's provider requires.
const SCHEMA_NAME: &str = "response";

/// What tells a request from another, in every process: it is stored.
fn fingerprint(request: &[u8]) -> u64 {
    let digest: [u8; 32] = Sha256::digest(request).into();
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Checks {
    /// Parses a prompt and its caller's wishes.
    pub(in crate::grpc) fn prompt(
        &mut self,
        prompt: Option<pb::Prompt>,
        filter: Filter,
        deadline: impl FnOnce(Option<Duration>) -> Deadline,
    ) -> Option<Prompt> {
        let Some(prompt) = prompt else {
            self.wrong("prompt", "is required, with a `text` at least");
            return None;
        };
        let request_id = self.repeatable(&prompt);
        let (agent_mode, autopilot) = self.agent_mode(prompt.agent_mode);
        let asks_for_json = !prompt.response_schema_json.is_empty();
        let format = non_empty(prompt.response_schema_json)
            .and_then(|schema| self.json_schema("prompt.response_schema_json", schema));
        let (format, schema) = format.unzip();
        let message = Message {
            prompt: self.say(prompt.text),
            attachments: self.attachments(prompt.attachments),
            request_headers: self.headers("prompt.request_headers", prompt.request_headers),
            agent_mode,
            steering: self.is_immediate(prompt.mode),
            response_format: format.map(|schema| ResponseFormat::JsonSchema { name: SCHEMA_NAME, schema }),
        };
        if message.steering && asks_for_json {
            self.wrong(
                "prompt.response_schema_json",
                "cannot be set with SEND_MODE_IMMEDIATE: the answer is the running turn's",
            );
        }
        if message.steering && autopilot {
            self.wrong("prompt.agent_mode", "cannot be AGENT_MODE_AUTOPILOT with SEND_MODE_IMMEDIATE");
        }
        if message.steering && request_id.is_some() {
            self.wrong(
                "prompt.request_id",
                "cannot be set with SEND_MODE_IMMEDIATE: it has no turn of its own",
            );
        }
        if autopilot && asks_for_json {
            // The agent ends with a summary, and is not told the schema for it (observed).
            self.wrong("prompt.response_schema_json", "cannot be set with AGENT_MODE_AUTOPILOT");
        }
        let timeout = self.duration("prompt.timeout", prompt.timeout);
        Some(Prompt {
            message,
            autopilot,
            schema,
            deadline: deadline(timeout),
            inactivity: self.duration("prompt.inactivity_timeout", prompt.inactivity_timeout),
            detached: self.on_disconnect(prompt.on_disconnect),
            filter,
            request: request_id,
            source: None,
            caller: None,
        })
    }

    fn say(&mut self, text: String) -> String {
        if text.trim().is_empty() {
            self.wrong("prompt.text", "is required: it is empty or only white space");
        }
        text
    }

    /// The request id of a prompt, with a fingerprint of what a repetition has in common with it: it may have less time left.
    fn repeatable(&mut self, prompt: &pb::Prompt) -> Option<RequestId> {
        if prompt.request_id.is_empty() {
            return None;
        }
        let lasting = pb::Prompt { timeout: None, inactivity_timeout: None, ..prompt.clone() };
        self.request_id("prompt.request_id", &prompt.request_id, &lasting)
    }

    /// The request id of a request, with a fingerprint of its content, which includes the id.
    pub(in crate::grpc) fn request_id(
        &mut self,
        field: &str,
        id: &str,
        request: &impl prost::Message,
    ) -> Option<RequestId> {
        if id.len() > MAX_REQUEST_ID || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.wrong(field, format!("has at most {MAX_REQUEST_ID} visible ASCII characters"));
        }
        let fingerprint = || fingerprint(&request.encode_to_vec());
        (!id.is_empty()).then(|| RequestId { id: id.to_owned(), fingerprint: fingerprint() })
    }

    fn is_immediate(&mut self, mode: i32) -> bool {
        match pb::SendMode::try_from(mode) {
            Ok(pb::SendMode::Immediate) => true,
            Ok(pb::SendMode::Unspecified | pb::SendMode::Enqueue) => false,
            Err(_) => {
                self.wrong("prompt.mode", format!("{mode} is not a value of SendMode"));
                false
            }
        }
    }

    /// The mode as the CLI names it, and whether the agent goes on by itself.
    fn agent_mode(&mut self, mode: i32) -> (Option<String>, bool) {
        match pb::AgentMode::try_from(mode) {
            Ok(pb::AgentMode::Unspecified | pb::AgentMode::Interactive) => (None, false),
            Ok(pb::AgentMode::Plan) => (Some("plan".into()), false),
            Ok(pb::AgentMode::Autopilot) => (Some("autopilot".into()), true),
            Err(_) => {
                self.wrong("prompt.agent_mode", format!("{mode} is not a value of AgentMode"));
                (None, false)
            }
        }
    }

    fn attachments(&mut self, attachments: Vec<pb::Attachment>) -> Vec<Attachment> {
        use pb::attachment::Kind;
        if attachments.len() > MAX_ATTACHMENTS {
            self.wrong("prompt.attachments", format!("there may be {MAX_ATTACHMENTS} at most"));
        }
        let bytes: usize = attachments.iter().map(weight).sum();
        if bytes > MAX_ATTACHED {
            self.wrong(
                "prompt.attachments",
                format!("{bytes} bytes of data are more than the {MAX_ATTACHED} that are taken"),
            );
        }
        let attachments = attachments.into_iter().enumerate().filter_map(|(n, attachment)| {
            let field = |part: &str| format!("prompt.attachments[{n}].{part}");
            let Some(kind) = attachment.kind else {
                self.wrong(field("kind"), "is required: blob, file, directory or selection");
                return None;
            };
            Some(match kind {
                Kind::Blob(blob) => {
                    if blob.data.is_empty() {
                        self.wrong(field("blob.data"), "is required");
                    }
                    let mime_type = mime::parse(&blob.mime_type);
                    if mime_type.is_none() {
                        self.wrong(
                            field("blob.mime_type"),
                            "is required, such as `image/png` or `text/plain`",
                        );
                    }
                    let (data, display_name) = (STANDARD.encode(&blob.data), non_empty(blob.display_name));
                    Attachment::Blob { data, mime_type: mime_type.unwrap_or_default(), display_name }
                }
                Kind::File(file) => {
                    let display_name = self.place(&field("file.path"), &file.path, file.display_name);
                    Attachment::File { path: file.path, display_name }
                }
                Kind::Directory(directory) => {
                    let display_name =
                        self.place(&field("directory.path"), &directory.path, directory.display_name);
                    Attachment::Directory { path: directory.path, display_name }
                }
                Kind::Selection(selection) => self.selected(n, selection),
            })
        });
        attachments.collect()
    }

    fn selected(&mut self, n: usize, selection: pb::attachment::Selection) -> Attachment {
        let field = |part: &str| format!("prompt.attachments[{n}].selection.{part}");
        let position = |place: Option<pb::attachment::Position>| {
            let place = place.unwrap_or_default();
            Position { line: place.line, character: place.character }
        };
        let (start, end) = (position(selection.start), position(selection.end));
        if (end.line, end.character) < (start.line, start.character) {
            self.wrong(field("end"), "is before `start`");
        }
        let file_path = self.text(&field("file_path"), selection.file_path);
        let display_name = named(selection.display_name, &file_path);
        let text = self.text(&field("text"), selection.text);
        Attachment::Selection { file_path, display_name, text, selection: Range { start, end } }
    }

    /// Checks a path on the CLI's machine, and returns its name for people.
    fn place(&mut self, field: &str, path: &str, display_name: String) -> String {
        if !path.starts_with('/') {
            self.wrong(field, "must be an absolute path on the Copilot CLI's machine");
        }
        named(display_name, path)
    }

    /// Parses a duration of more than zero; more than a year is taken as a year.
    pub(in crate::grpc) fn duration(
        &mut self,
        field: &str,
        duration: Option<prost_types::Duration>,
    ) -> Option<Duration> {
        let checked = duration.and_then(positive);
        if duration.is_some() && checked.is_none() {
            self.wrong(field, "must be more than 0; leave it unset for the default");
        }
        checked
    }

    /// Parses how long to wait for something that may not come; `None`: not at all.
    pub(in crate::grpc) fn wait(
        &mut self,
        field: &str,
        duration: Option<prost_types::Duration>,
    ) -> Option<Duration> {
        let duration = duration.filter(|duration| (duration.seconds, duration.nanos) != (0, 0))?;
        let checked = positive(duration);
        if checked.is_none() {
            self.wrong(field, "must not be negative; 0 is not to wait");
        }
        checked
    }

    /// Whether the turn goes on without its caller.
    pub(in crate::grpc) fn on_disconnect(&mut self, choice: i32) -> bool {
        match pb::OnDisconnect::try_from(choice) {
            Ok(pb::OnDisconnect::Continue) => true,
            Ok(pb::OnDisconnect::Unspecified | pb::OnDisconnect::Abort) => false,
            Err(_) => {
                self.wrong("prompt.on_disconnect", format!("{choice} is not a value of OnDisconnect"));
                false
            }
        }
    }

    /// Parses the largest size of an event in bytes, which may be `most` at most.
    pub(in crate::grpc) fn max_event_size(&mut self, field: &str, size: i32, most: usize) -> usize {
        match usize::try_from(size) {
            Ok(0) => DEFAULT_EVENT_SIZE,
            Ok(size) if (MIN_EVENT_SIZE..=most).contains(&size) => size,
            _ => {
                let advice =
                    format!("must be from {MIN_EVENT_SIZE} to {most} bytes; 0 is {DEFAULT_EVENT_SIZE}");
                self.wrong(field, advice);
                DEFAULT_EVENT_SIZE
            }
        }
    }

    /// Parses the interval of heartbeats. `None`: there are none.
    pub(in crate::grpc) fn heartbeat(
        &mut self,
        field: &str,
        interval: Option<prost_types::Duration>,
    ) -> Option<Duration> {
        let Some(interval) = interval else { return Some(DEFAULT_HEARTBEAT) };
        if (interval.seconds, interval.nanos) == (0, 0) {
            return None;
        }
        match positive(interval) {
            Some(interval) if HEARTBEATS.contains(&interval) => Some(interval),
            _ => {
                self.wrong(field, "must be from 1 second to 1 day; 0 is never, and unset 30 seconds");
                None
            }
        }
    }

    pub(in crate::grpc) fn filter(
        &mut self,
        field: &str,
        patterns: Vec<String>,
        exclude_sub_agents: bool,
    ) -> Filter {
        for (n, pattern) in patterns.iter().enumerate() {
            let name = pattern.strip_suffix('*').unwrap_or(pattern);
            if pattern.is_empty() || name.contains(['*', ' ']) {
                let advice =
                    "write the name of an event such as `tool.execution_start`, or its beginning and a `*`";
                self.wrong(format!("{field}[{n}]"), advice);
            }
        }
        let kinds =
            if patterns.is_empty() { Kinds::Exactly(DEFAULT_EVENTS) } else { Kinds::Patterns(patterns) };
        Filter { kinds, sub_agents: !exclude_sub_agents }
    }
}

/// How many bytes of the caller's data an attachment holds.
pub(in crate::grpc) fn weight(attachment: &pb::Attachment) -> usize {
    match &attachment.kind {
        Some(pb::attachment::Kind::Blob(blob)) => blob.data.len(),
        Some(pb::attachment::Kind::Selection(selection)) => selection.text.len(),
        _ => 0,
    }
}

/// A name for people: the given one, or else the last part of the path.
pub(in crate::grpc) fn named(display_name: String, path: &str) -> String {
    let last = || path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
    non_empty(display_name).unwrap_or_else(|| last().to_owned())
}

pub(in crate::grpc) fn positive(duration: prost_types::Duration) -> Option<Duration> {
    // The most negative duration cannot even be converted.
    let duration = Some(duration).filter(|duration| duration.seconds >= 0)?;
    let duration = Duration::try_from(duration).ok().filter(|duration| !duration.is_zero())?;
    Some(duration.min(LONGEST))
}

/// The events of a stream whose request names none: those for which [`pb::SessionEvent`] has a field, without those that its
/// comments say have to be asked for by name.
pub(in crate::grpc) const DEFAULT_EVENTS: &[&str] = &[
    "user.message",
    "assistant.message",
    "assistant.message_delta",
    "assistant.reasoning",
    "assistant.reasoning_delta",
    "assistant.turn_start",
    "assistant.turn_end",
    "assistant.turn_retry",
    "assistant.usage",
    "tool.execution_start",
    "tool.execution_partial_result",
    "tool.execution_progress",
    "tool.execution_complete",
    "permission.requested",
    "permission.completed",
    "external_tool.requested",
    "external_tool.completed",
    "user_input.requested",
    "user_input.completed",
    "elicitation.requested",
    "elicitation.completed",
    "exit_plan_mode.requested",
    "exit_plan_mode.completed",
    "assistant.intent",
    "subagent.started",
    "subagent.completed",
    "subagent.failed",
    "session.title_changed",
    "session.model_change",
    "session.truncation",
    "session.todos_changed",
    "session.plan_changed",
    "session.snapshot_rewind",
    "session.compaction_start",
    "session.compaction_complete",
    "session.warning",
    "session.error",
    "session.idle",
    "abort",
];
