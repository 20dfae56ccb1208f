//! The methods that the facade calls: parameters, results, and the names on the wire.

use std::collections::BTreeMap;

use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::value::RawValue;

use super::{
    Json,
    settings::{EmptyOptions, Parameters},
    version::Identity,
};

/// A method of the CLI. The implementing type is its parameters.
pub trait Method: Serialize {
    /// The name on the wire.
    const NAME: &'static str;
    /// What comes back.
    type Output: DeserializeOwned;
}

/// Gives types the names and results of the methods that they are the parameters of.
macro_rules! methods {
    ($($params:ty => $name:literal -> $output:ty;)*) => {
        $(impl $crate::copilot::Method for $params {
            const NAME: &'static str = $name;
            type Output = $output;
        })*
    };
}

pub(super) use methods;

methods! {
    Connect<'_> => "connect" -> Connected;
    Ping => "ping" -> IgnoredAny;
    GetStatus => "status.get" -> Connected;
    Create<'_> => "session.create" -> Created;
    Resume<'_> => "session.resume" -> Created;
    Attach<'_> => "session.resume" -> IgnoredAny;
    ValidateTools<'_> => "session.tools.initializeAndValidate" -> IgnoredAny;
    UpdateOptions<'_> => "session.options.update" -> IgnoredAny;
    Send<'_> => "session.send" -> Sent;
    Abort<'_> => "session.abort" -> Done;
    SetMode<'_> => "session.mode.set" -> IgnoredAny;
    IsProcessing<'_> => "session.metadata.isProcessing" -> Processing;
    Delete<'_> => "session.delete" -> Done;
    List => "session.list" -> Listed;
    Index => "sessions.list" -> Listed;
    GetMetadata<'_> => "session.getMetadata" -> Metadata;
    GetSnapshot<'_> => "session.metadata.snapshot" -> Snapshot;
    Compact<'_> => "session.history.compact" -> Compacted;
    Fork<'_> => "sessions.fork" -> Forked;
    ListRewindPoints<'_> => "session.history.listRewindPoints" -> RewindPoints;
    PreviewRewind<'_> => "session.history.previewRewind" -> RewindPreview;
    Rewind<'_> => "session.history.rewind" -> Rewound;
    ListModels<'_> => "models.list" -> ListedModels;
    ReadPersistedEvents<'_> => "sessions.readPersistedEvents" -> PersistedEvents;
    SwitchModel<'_> => "session.model.switchTo" -> IgnoredAny;
    GetModel<'_> => "session.model.getCurrent" -> ModelState;
    SetName<'_> => "session.name.set" -> IgnoredAny;
    Detach<'_> => "session.detach" -> Done;
    UpdateClientMetadata<'_> => "session.metadata.updateClientMetadata" -> IgnoredAny;
    GetClientMetadata<'_> => "sessions.getClientMetadata" -> Vec<ClientMetadata>;
    ReadEventLog<'_> => "session.eventLog.read" -> PersistedEvents;
    RegisterInterest<'_> => "session.eventLog.registerInterest" -> IgnoredAny;
}

/// Opens the conversation. Its token must be absent where the CLI has none: a token that it does not expect is an
/// error (-32003), just as a wrong one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connect<'a> {
    /// The connection token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<&'a super::Secret>,
    /// Who connects.
    pub client_info: ClientInfo,
}

/// Who connects.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientInfo {
    /// The program's name.
    pub extension_name: &'static str,
    /// The program's version.
    pub extension_version: &'static str,
}

/// Asks what it is: for CLIs that do not know [`Connect`].
#[derive(Debug, Serialize)]
pub struct GetStatus {}

/// The answer to [`Connect`] and [`GetStatus`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connected {
    /// The protocol's version.
    pub protocol_version: Option<u32>,
    /// The CLI's version.
    #[serde(default)]
    pub version: String,
}

impl From<Connected> for Identity {
    fn from(Connected { protocol_version, version }: Connected) -> Self {
        Self { version, protocol: protocol_version }
    }
}

/// Asks for a sign of life.
#[derive(Debug, Serialize)]
pub struct Ping {}

/// Creates a session. On an id that exists it attaches or forks silently: look first.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Create<'a>(pub Parameters<'a>);

/// Loads a stored session, or attaches to a loaded one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resume<'a> {
    /// What the session is made of.
    #[serde(flatten)]
    pub parameters: Parameters<'a>,
    /// Whether permissions and calls of tools that waited for an answer when the last connection left are waited for again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub continue_pending_work: bool,
}

/// Attaches one more connection to a loaded session, and changes nothing of it. Without the caller's tools: two connections
/// cannot both have them (observed).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attach<'a> {
    /// The session.
    pub session_id: &'a str,
    /// That it has deltas. Up to CLI 1.0.86 they end for all who are attached if one does not say so (observed).
    pub streaming: bool,
    /// That sub-agents have them, too.
    pub include_sub_agent_streaming_events: bool,
    /// Whether it takes questions of MCP servers: those that are open end with the last connection that does.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub request_elicitation: bool,
    /// The directories that it has: without them it loses them, and the agent is told so (observed on the native runtime, 1.0.89).
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub additional_directories: &'a [String],
}

/// The answer to [`Create`] and [`Resume`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    /// When the session was first created; RFC 3339.
    #[serde(default)]
    pub start_time: String,
    /// Its mode.
    #[serde(default)]
    pub mode: String,
    /// Its model.
    pub model_state: Option<ModelState>,
}

/// The model of a session, also the answer to [`GetModel`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelState {
    /// Its id.
    pub model_id: Option<String>,
    /// How long it thinks.
    pub reasoning_effort: Option<String>,
}

/// Puts a session's tools together, and says whether they can be, which else the first turn would.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ValidateTools<'a> {
    /// The session.
    pub session_id: &'a str,
}

/// Completes mode "empty".
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateOptions<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The options.
    #[serde(flatten)]
    pub options: EmptyOptions,
}

/// Sends a prompt.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Send<'a> {
    /// The session.
    pub session_id: &'a str,
    /// What is sent.
    #[serde(flatten)]
    pub message: &'a Message,
}

/// A prompt and what goes with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// The prompt.
    pub prompt: String,
    /// What goes with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// HTTP headers for the calls of the model that the prompt causes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub request_headers: BTreeMap<String, super::Secret>,
    /// How the agent goes about it, such as `plan`; `None` is its usual way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_mode: Option<String>,
    /// What the answer must look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat>,
    /// Whether it joins what runs, rather than to wait for its end.
    #[serde(rename = "mode", serialize_with = "immediate", skip_serializing_if = "std::ops::Not::not")]
    pub steering: bool,
}

fn immediate<S: serde::Serializer>(_: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("immediate")
}

/// What an answer must look like. The CLI passes it on to the provider, and does not look at the answer (observed).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "type", content = "jsonSchema")]
pub enum ResponseFormat {
    /// JSON of a schema.
    JsonSchema {
        /// The schema's name; one is needed.
        name: &'static str,
        /// The schema.
        schema: Json,
    },
}

/// Something that goes with a prompt. A kind that the CLI does not know it would ignore silently (observed).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Attachment {
    /// A file on the CLI's machine, of which the agent is told.
    File {
        /// Its absolute path.
        path: String,
        /// Its name for people.
        display_name: String,
    },
    /// A folder on the CLI's machine, of which the agent is told.
    Directory {
        /// Its absolute path.
        path: String,
        /// Its name for people.
        display_name: String,
    },
    /// A part of a text that the caller has before it.
    Selection {
        /// Where it comes from.
        file_path: String,
        /// Its name for people.
        display_name: String,
        /// The text.
        text: String,
        /// Where it stands.
        selection: Range,
    },
    /// Data: an image for the model to see, or a text for it to read.
    Blob {
        /// The data, in base64.
        data: String,
        /// Its MIME type.
        mime_type: String,
        /// Its name for people.
        #[serde(skip_serializing_if = "Option::is_none")]
        display_name: Option<String>,
    },
}

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Range {
    /// Where it begins.
    pub start: Position,
    /// Where it ends.
    pub end: Position,
}

/// A place in a text, both counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The character in the line.
    pub character: u32,
}

/// The answer to [`Send`]. It may come after the first events of the turn.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// The id of the user's message, which is the turn's.
    pub message_id: String,
}

/// Stops what the session is doing. Answered after the `session.idle` that it causes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Abort<'a> {
    /// The session.
    pub session_id: &'a str,
}

/// Sets a loaded session's mode: `interactive`, `plan` or `autopilot`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetMode<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The mode.
    pub mode: &'a str,
}

/// Asks whether a session is busy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IsProcessing<'a> {
    /// The session.
    pub session_id: &'a str,
}

/// The answer to [`IsProcessing`].
#[derive(Debug, Deserialize)]
pub struct Processing {
    /// Whether it is.
    pub processing: bool,
}

/// Deletes a session, loaded or stored, whoever owns it, also in mid-turn, in which case no event is sent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Delete<'a> {
    /// The session.
    pub session_id: &'a str,
}

/// A result that may hide a failure.
#[derive(Debug, Deserialize)]
pub struct Done {
    /// Whether it worked.
    pub success: bool,
    /// Why it did not.
    pub error: Option<String>,
}

/// Lists the sessions that hold at least one message.
#[derive(Debug, Serialize)]
pub struct List {}

/// Lists the same sessions in less than a third of the time (0.65 s for 10,000 where [`List`] takes 2.1 s, observed on
/// 1.0.102), but only their ids and times, if `metadata_limit` is 0.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Of how many sessions all is told.
    pub metadata_limit: u32,
}

/// The answer to [`List`] and [`Index`].
#[derive(Debug, Deserialize)]
pub struct Listed {
    /// The sessions, newest first.
    pub sessions: Vec<Entry>,
}

/// Looks one session up; those without a message are not found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GetMetadata<'a> {
    /// The session.
    pub session_id: &'a str,
}

/// The answer to [`GetMetadata`].
#[derive(Debug, Deserialize)]
pub struct Metadata {
    /// The session, if there is one.
    pub session: Option<Entry>,
}

/// A stored session.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its id.
    pub session_id: String,
    /// When it was created; RFC 3339.
    #[serde(default)]
    pub start_time: String,
    /// When it last changed; RFC 3339.
    #[serde(default)]
    pub modified_time: String,
    /// Its title.
    pub summary: Option<String>,
    /// The program that created it.
    pub client_name: Option<String>,
    /// Where it works.
    pub context: Option<Context>,
    /// Whether it is loaded only: one without a message is on no disk.
    #[serde(skip)]
    pub unstored: bool,
}

/// Looks a loaded session up, also one without a message, whoever has it loaded (observed).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GetSnapshot<'a> {
    /// The session.
    pub session_id: &'a str,
}

/// The answer to [`GetSnapshot`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// When it was created; RFC 3339.
    #[serde(default)]
    pub start_time: String,
    /// When it last changed; RFC 3339.
    #[serde(default)]
    pub modified_time: String,
    /// Where it works.
    pub working_directory: Option<String>,
}

/// Where a session works.
#[derive(Debug, Clone, Deserialize)]
pub struct Context {
    /// The working directory.
    pub cwd: Option<String>,
}

/// Has the model summarize a loaded session's history. Refused where it is too short.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Compact<'a> {
    /// The session.
    pub session_id: &'a str,
}

/// The answer to [`Compact`].
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Compacted {
    /// How many messages the summary stands for.
    pub messages_removed: i64,
    /// How many tokens it saves.
    pub tokens_removed: i64,
}

/// Copies a stored session, the client's notes included (observed), to a new id of the CLI's choice.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fork<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The event before which the copy ends (observed).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_event_id: Option<&'a str>,
}

/// The answer to [`Fork`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forked {
    /// The copy.
    pub session_id: String,
}

/// Asks for the prompts before which a session can be set back. A CLI that is at work answers with none (schema).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListRewindPoints<'a> {
    /// The session.
    pub session_id: &'a str,
}

/// The answer to [`ListRewindPoints`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RewindPoints {
    /// Why there are none.
    pub unavailable_reason: Option<String>,
    /// The prompts, oldest first.
    pub points: Vec<RewindPoint>,
}

/// A prompt before which a session can be set back.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RewindPoint {
    /// Its event.
    pub event_id: String,
    /// Its text.
    pub user_message: String,
    /// When it was sent; RFC 3339.
    pub timestamp: String,
    /// Whether files can be restored.
    pub can_restore_files: bool,
    /// How many files have changed from there on to now (observed).
    pub file_count: i64,
    /// How many lines its turn has added.
    pub lines_added: i64,
    /// How many it has removed.
    pub lines_removed: i64,
}

/// Asks which files would be restored if a session were set back to before a prompt: those that have changed since.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PreviewRewind<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The prompt's event.
    pub event_id: &'a str,
}

/// The answer to [`PreviewRewind`].
#[derive(Debug, Deserialize)]
pub struct RewindPreview {
    /// Whether files are followed, and the session is at rest.
    pub available: bool,
    /// Why not.
    pub reason: Option<String>,
    /// The files.
    #[serde(default)]
    pub files: Vec<FileChange>,
}

/// What has become of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FileChange {
    /// Its absolute path.
    pub path: String,
    /// `created`, `modified` or `deleted`.
    pub change_type: String,
    /// How many lines were added.
    pub lines_added: i64,
    /// How many were removed.
    pub lines_removed: i64,
}

/// Sets a session back to before a prompt.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rewind<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The prompt's event.
    pub event_id: &'a str,
    /// `conversation` or `conversation-and-files`.
    pub mode: &'static str,
}

/// The answer to [`Rewind`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rewound {
    /// `success`, or what has gone wrong.
    pub outcome: String,
    /// How many events were taken out of the history.
    pub events_removed: Option<i64>,
    /// The files that were restored.
    #[serde(default)]
    pub restored_files: Vec<String>,
    /// Those that were not.
    #[serde(default)]
    pub skipped_files: Vec<SkippedFile>,
    /// What has gone wrong, in words.
    pub error: Option<String>,
}

/// A file that was not restored.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SkippedFile {
    /// Its absolute path.
    pub path: String,
    /// `user-modified` or `skipped-capture`.
    #[serde(default)]
    pub reason: String,
}

/// Asks GitHub which models an account has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListModels<'a> {
    /// The account; the one that the CLI was started with, if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_hub_token: Option<&'a super::Secret>,
}

/// The answer to [`ListModels`].
#[derive(Debug, Deserialize)]
pub struct ListedModels {
    /// The models.
    pub models: Vec<Model>,
}

/// A model.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Model {
    /// Its id.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// What it can do.
    pub capabilities: Capabilities,
    /// What the account's policy says of it.
    pub policy: Option<ModelPolicy>,
    /// How hard it can think.
    pub supported_reasoning_efforts: Vec<String>,
    /// How hard it thinks by itself.
    pub default_reasoning_effort: Option<String>,
}

/// What a model can do.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// What it understands.
    pub supports: Supports,
    /// How much it can take.
    pub limits: ModelLimits,
}

/// What a model understands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Supports {
    /// Whether it can see images.
    pub vision: bool,
}

/// How much a model can take, in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ModelLimits {
    /// Of a prompt.
    pub max_prompt_tokens: Option<i64>,
    /// Of an answer.
    pub max_output_tokens: Option<i64>,
    /// Of a whole conversation.
    pub max_context_window_tokens: Option<i64>,
}

/// What an account's policy says of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ModelPolicy {
    /// `enabled`, `disabled` or `unconfigured`.
    pub state: String,
}

/// Reads a page of a stored history, without loading the session.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadPersistedEvents<'a> {
    /// The session.
    pub session_id: &'a str,
    /// Where the page before this one ended; the beginning if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<&'a str>,
    /// How many events at most.
    pub max: usize,
}

/// A page of a history.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PersistedEvents {
    /// The events, oldest first.
    pub events: Vec<Box<RawValue>>,
    /// Where the next page begins. The CLI forgets it when it restarts (observed).
    #[serde(default)]
    pub cursor: String,
    /// Whether there is another page.
    #[serde(default)]
    pub has_more: bool,
    /// `ok` or `expired`.
    #[serde(default)]
    pub cursor_status: String,
}

/// Gives a loaded session another model, or has the one that it has think more or less: the model has to be named in any case
/// (observed).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SwitchModel<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The model.
    pub model_id: &'a str,
    /// How much it thinks; `None`: as before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<&'a str>,
}

/// Asks which model a loaded session has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GetModel<'a> {
    /// The session.
    pub session_id: &'a str,
}

/// Gives a loaded session a title for good: the CLI does not make one up after that. It takes more than the 100 characters
/// that its schema allows (observed).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetName<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The title; not empty.
    pub name: &'a str,
}

/// Leaves a session. The CLI closes it when the last connection has left it; its history stays.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Detach<'a> {
    /// The session.
    pub session_id: &'a str,
}

/// Stores notes with a session: at most 128, of 16 KiB each.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateClientMetadata<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The notes, by name.
    pub set: BTreeMap<&'static str, String>,
}

/// Reads the notes of many sessions, at most 1000 at once.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GetClientMetadata<'a> {
    /// The sessions.
    pub session_ids: &'a [&'a str],
    /// The names of the notes.
    pub keys: &'a [&'static str],
}

/// The notes of one session.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientMetadata {
    /// The session.
    pub session_id: String,
    /// The notes, by name; none if there is no such session.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// Reads what a loaded session remembers of its events. A cursor names a stored event, and how many of those that are
/// only sent were seen: `<event id>|<count>` (observed).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadEventLog<'a> {
    /// The session.
    pub session_id: &'a str,
    /// After which place; the beginning if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<&'a str>,
    /// How many events at most, up to 1000.
    pub max: usize,
    /// Whether those are wanted too that are not stored.
    pub include_ephemeral: bool,
}

/// Makes a loaded session tell of events of a kind that it needs somebody for, and offer the tools that cause them. Until it
/// is unloaded (observed).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RegisterInterest<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The kind.
    pub event_type: &'a str,
}
