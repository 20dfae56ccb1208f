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
    /// The type of the result.
    type Output: DeserializeOwned;
}

/// Implements [`Method`] for types of parameters, with the method's name and result.
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

/// Opens the connection. The token must be absent where the CLI has none: a token that it does not expect is an error (-32003),
/// as is a wrong one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connect<'a> {
    /// The connection token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<&'a super::Secret>,
    /// The program that connects.
    pub client_info: ClientInfo,
}

/// The program that connects.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientInfo {
    /// The program's name.
    pub extension_name: &'static str,
    /// The program's version.
    pub extension_version: &'static str,
}

/// Asks for the versions, of CLIs that do not know [`Connect`].
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

/// Asks for an answer, as proof that the CLI is well.
#[derive(Debug, Serialize)]
pub struct Ping {}

/// Creates a session. If the id exists, the CLI attaches or forks silently: look it up first.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Create<'a>(pub Parameters<'a>);

/// Loads a stored session, or attaches to a loaded one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resume<'a> {
    /// The session's id and settings.
    #[serde(flatten)]
    pub parameters: Parameters<'a>,
    /// Whether to wait again for permissions and tool calls that waited for an answer when the last connection left.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub continue_pending_work: bool,
}

/// Attaches one more connection to a loaded session, and changes nothing in it. It brings no tools: two connections cannot both
/// have the caller's tools (observed).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attach<'a> {
    /// The session.
    pub session_id: &'a str,
    /// Always true: up to CLI 1.0.86 deltas end for all connections if one does not ask for them (observed).
    pub streaming: bool,
    /// Always true, for the deltas of sub-agents.
    pub include_sub_agent_streaming_events: bool,
    /// Whether it takes questions of MCP servers. Those that are open end with the last connection that does.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub request_elicitation: bool,
    /// The session's additional directories. Without them it loses them, and the agent is told so (observed on the native
    /// runtime, 1.0.89).
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
    /// The reasoning effort.
    pub reasoning_effort: Option<String>,
}

/// Sets up a session's tools, and fails if they cannot be set up, which else the first turn would.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ValidateTools<'a> {
    /// The session.
    pub session_id: &'a str,
}

/// Sets the rest of mode "empty".
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
    /// The prompt and what goes with it.
    #[serde(flatten)]
    pub message: &'a Message,
}

/// A prompt and what goes with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// The prompt.
    pub prompt: String,
    /// Its attachments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// HTTP headers for the model calls that the prompt causes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub request_headers: BTreeMap<String, super::Secret>,
    /// The agent's mode, such as `plan`; `None`: its usual one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_mode: Option<String>,
    /// The format of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat>,
    /// Whether it joins the running turn instead of waiting for its end.
    #[serde(rename = "mode", serialize_with = "immediate", skip_serializing_if = "std::ops::Not::not")]
    pub steering: bool,
}

fn immediate<S: serde::Serializer>(_: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("immediate")
}

/// The format of an answer. The CLI passes it on to the provider, and does not check the answer (observed).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "type", content = "jsonSchema")]
pub enum ResponseFormat {
    /// JSON that follows a schema.
    JsonSchema {
        /// The schema's name, which is required.
        name: &'static str,
        /// The schema.
        schema: Json,
    },
}

/// An attachment of a prompt. The CLI would silently ignore a kind that it does not know (observed).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Attachment {
    /// A file on the CLI's machine, whose path the agent is told.
    File {
        /// Its absolute path.
        path: String,
        /// Its name for people.
        display_name: String,
    },
    /// A folder on the CLI's machine, whose path the agent is told.
    Directory {
        /// Its absolute path.
        path: String,
        /// Its name for people.
        display_name: String,
    },
    /// A part of a text that the caller selected.
    Selection {
        /// The file that it comes from.
        file_path: String,
        /// Its name for people.
        display_name: String,
        /// The text.
        text: String,
        /// Its place in the file.
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
    /// Its beginning.
    pub start: Position,
    /// Its end.
    pub end: Position,
}

/// A position in a text; both numbers count from 0.
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

/// Stops what the session is doing. The answer comes after the `session.idle` that it causes.
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
    /// Whether the session is busy.
    pub processing: bool,
}

/// Deletes a session, loaded or stored, whoever owns it, also during a turn; then no event is sent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Delete<'a> {
    /// The session.
    pub session_id: &'a str,
}

/// A result that may hold a failure.
#[derive(Debug, Deserialize)]
pub struct Done {
    /// Whether it worked.
    pub success: bool,
    /// Why it did not.
    pub error: Option<String>,
}

/// Lists the sessions that have at least one message.
#[derive(Debug, Serialize)]
pub struct List {}

/// Lists the sessions in less than a third of the time of [`List`] (0.65 s for 10,000 where that takes 2.1 s, observed on
/// 1.0.102), but with their ids and times only, if `metadata_limit` is 0.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// The number of sessions to describe in full.
    pub metadata_limit: u32,
}

/// The answer to [`List`] and [`Index`].
#[derive(Debug, Deserialize)]
pub struct Listed {
    /// The sessions, newest first.
    pub sessions: Vec<Entry>,
}

/// Looks a session up. Sessions without a message are not found.
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
    /// The context in which it works.
    pub context: Option<Context>,
    /// Whether it is loaded but not stored, as a session without a message is.
    #[serde(skip)]
    pub unstored: bool,
}

/// Looks a loaded session up, also one without a message, whoever has loaded it (observed).
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
    /// Its working directory.
    pub working_directory: Option<String>,
}

/// The context in which a session works.
#[derive(Debug, Clone, Deserialize)]
pub struct Context {
    /// The working directory.
    pub cwd: Option<String>,
}

/// Has the model summarize a loaded session's history. Refused if the history is too short.
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
    /// The number of messages that the summary replaces.
    pub messages_removed: i64,
    /// The number of tokens that it saves.
    pub tokens_removed: i64,
}

/// Copies a stored session, with the client's metadata (observed), to a new id of the CLI's choice.
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

/// Asks for the prompts before which a session can be set back. A busy CLI answers with none (schema).
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
    /// The id of its event.
    pub event_id: String,
    /// Its text.
    pub user_message: String,
    /// When it was sent; RFC 3339.
    pub timestamp: String,
    /// Whether files can be restored.
    pub can_restore_files: bool,
    /// The number of files that have changed from there on until now (observed).
    pub file_count: i64,
    /// The number of lines that its turn has added.
    pub lines_added: i64,
    /// The number of lines that its turn has removed.
    pub lines_removed: i64,
}

/// Asks which files a rewind to before a prompt would restore: those that have changed since.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PreviewRewind<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The id of the prompt's event.
    pub event_id: &'a str,
}

/// The answer to [`PreviewRewind`].
#[derive(Debug, Deserialize)]
pub struct RewindPreview {
    /// Whether changes of files are tracked, and the session is idle.
    pub available: bool,
    /// Why there is no preview.
    pub reason: Option<String>,
    /// The files.
    #[serde(default)]
    pub files: Vec<FileChange>,
}

/// A change of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FileChange {
    /// Its absolute path.
    pub path: String,
    /// `created`, `modified` or `deleted`.
    pub change_type: String,
    /// The number of lines added.
    pub lines_added: i64,
    /// The number of lines removed.
    pub lines_removed: i64,
}

/// Sets a session back to before a prompt.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rewind<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The id of the prompt's event.
    pub event_id: &'a str,
    /// `conversation` or `conversation-and-files`.
    pub mode: &'static str,
}

/// The answer to [`Rewind`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rewound {
    /// `success`, or the kind of failure.
    pub outcome: String,
    /// The number of events taken out of the history.
    pub events_removed: Option<i64>,
    /// The files that were restored.
    #[serde(default)]
    pub restored_files: Vec<String>,
    /// The files that were not restored.
    #[serde(default)]
    pub skipped_files: Vec<SkippedFile>,
    /// The failure, in words.
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
    /// The account's token; without it, the account that the CLI was started with.
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
    /// Its capabilities.
    pub capabilities: Capabilities,
    /// The account's policy for it.
    pub policy: Option<ModelPolicy>,
    /// The reasoning efforts that it supports.
    pub supported_reasoning_efforts: Vec<String>,
    /// Its default reasoning effort.
    pub default_reasoning_effort: Option<String>,
}

/// The capabilities of a model.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// The inputs that it supports.
    pub supports: Supports,
    /// Its limits.
    pub limits: ModelLimits,
}

/// The inputs that a model supports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Supports {
    /// Whether it can see images.
    pub vision: bool,
}

/// The limits of a model, in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ModelLimits {
    /// The longest prompt.
    pub max_prompt_tokens: Option<i64>,
    /// The longest answer.
    pub max_output_tokens: Option<i64>,
    /// The longest conversation.
    pub max_context_window_tokens: Option<i64>,
}

/// An account's policy for a model.
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
    /// The place where the page before this one ended; `None`: the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<&'a str>,
    /// The largest number of events.
    pub max: usize,
}

/// A page of a history.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PersistedEvents {
    /// The events, oldest first.
    pub events: Vec<Box<RawValue>>,
    /// The place where the next page begins. The CLI forgets it when it restarts (observed).
    #[serde(default)]
    pub cursor: String,
    /// Whether there is another page.
    #[serde(default)]
    pub has_more: bool,
    /// `ok` or `expired`.
    #[serde(default)]
    pub cursor_status: String,
}

impl PersistedEvents {
    /// Whether the CLI does not know the cursor that it was asked with, so that this is no page.
    pub fn is_expired(&self) -> bool {
        self.cursor_status == "expired"
    }
}

/// Sets a loaded session's model, reasoning effort or both. The model has to be named in any case (observed).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SwitchModel<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The model.
    pub model_id: &'a str,
    /// The reasoning effort; `None`: as before.
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

/// Sets a loaded session's title for good: the CLI does not make one up after that. It takes more than the 100 characters that
/// its schema allows (observed).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetName<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The title; not empty.
    pub name: &'a str,
}

/// Detaches the connection from a session. The CLI closes the session when its last connection has left; the history stays.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Detach<'a> {
    /// The session.
    pub session_id: &'a str,
}

/// Stores metadata with a session: at most 128 values, of 16 KiB each.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateClientMetadata<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The values, by name.
    pub set: BTreeMap<&'static str, String>,
}

/// Reads the metadata of several sessions, at most 1000 at once.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GetClientMetadata<'a> {
    /// The sessions.
    pub session_ids: &'a [&'a str],
    /// The names of the values.
    pub keys: &'a [&'static str],
}

/// The metadata of one session.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientMetadata {
    /// The session.
    pub session_id: String,
    /// The values, by name; none if there is no such session.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// Reads the events that a loaded session remembers. A cursor is a stored event and the number of ephemeral events seen after
/// it: `<event id>|<count>` (observed).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadEventLog<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The place after which to read; `None`: the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<&'a str>,
    /// The largest number of events, up to 1000.
    pub max: usize,
    /// Whether those are wanted too that are not stored.
    pub include_ephemeral: bool,
}

impl ReadEventLog<'_> {
    /// The cursor right after a stored event.
    pub fn cursor_after(event_id: &str) -> String {
        format!("{event_id}|0")
    }
}

/// Makes a loaded session send events of a kind that somebody has to answer, and offer the tools that cause them, until it is
/// unloaded (observed).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RegisterInterest<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The kind.
    pub event_type: &'a str,
}
