//! copilot-grpc: the GitHub Copilot agent as a gRPC service.
//!
//! The Copilot CLI runs headless as a server and speaks JSON-RPC 2.0, over its standard streams or TCP. This crate stands in
//! front of it: it serves `copilot_grpc.v1.CopilotService`, translates each call, and solves what each caller of the CLI would
//! have to solve alone: which answer belongs to which prompt, deadlines that stop the agent, one turn at a time, slow readers,
//! a CLI that dies.
//!
//! # Map
//! Listed from the ground up: a room uses only the rooms listed before it, which a test checks.
//!
//! | room | what it is |
//! |---|---|
//! | `lock`, `fnv`, `seldom`, [`budget`] | what rooms share: locks, a hash, rare lines in the log, the memory that readers hold |
//! | [`jsonrpc`] | JSON-RPC 2.0 over `Content-Length` frames; knows nothing of Copilot or gRPC |
//! | [`copilot`] | the CLI's vocabulary: methods, events, errors. Pure |
//! | [`identity`] | who calls: tokens, JWTs, certificates, users of the machine |
//! | [`backend`] | the CLIs: found or started, connected to, watched; and which of them a session belongs to |
//! | [`store`] | where sessions live: records, folders, request ids, sealed credentials. Knows SQL and nothing of turns |
//! | [`session`] | what the facade decides: registry, queue, turns, fan-out, policy |
//! | [`grpc`] | the contract; the only room that knows tonic and prost |
//! | [`app`] | configuration, telemetry, signals, the subcommands |
//!
//! # Invariants
//! Each has tests. Code that breaks one is wrong.
//!
//! 1. Decoding never panics, never allocates past its limits, and gives equal messages however the bytes are cut.
//! 2. A request to the CLI completes exactly once: with its response, a refusal, or the loss of the link. All who wait on a
//!    link that is lost see one cause.
//! 3. The reader never waits on a consumer. A slow one's text deltas are joined; if that is not enough, its stream ends
//!    with `STREAM_LAGGED`. Nothing is skipped silently, and no other event is ever dropped.
//! 4. The events of a session are delivered in wire order; a session is registered before `session.create` is written.
//! 5. Every request of the CLI is answered, also one that is not understood or whose data cannot be read.
//! 6. A dropped RPC leaves no pending call, no subscriber, no place in a queue, no running turn (unless the caller asked for
//!    that), and never half a frame on the wire. What is reported as not delivered never runs later; a prompt that waits in the CLI is
//!    withdrawn.
//! 7. Only [`grpc`] knows protobuf, only [`jsonrpc`] framing, only [`store`] SQL.
//! 8. Another tenant's session does not exist. Where nobody is asked who he is, there is one tenant.
//! 9. Prompts, answers, tokens and keys are in no log and no error, but a session's own answer in its own errors. Tokens and
//!    keys are never on disk, unless sealed with the operator's key.
//! 10. At most one server owns a session at any time, and one that has lost it, or its lease, writes nothing more for it: every write
//!     carries the session's fence. With `before_answer`, an answer that a caller has seen is in the archive. A repeated request is run once, also over the end
//!     of a process: it gets the stored result, or the truth about its turn.
//! 11. No single request costs more than its bound: the work to check a schema and its answers is counted, paths lead into the
//!     operator's roots, callers get no credentials of the machine's, and a call that fails leaves a session as it was.

pub mod app;
pub mod backend;
pub mod budget;
pub mod copilot;
mod fnv;
pub mod grpc;
pub mod identity;
pub mod jsonrpc;
mod lock;
mod seldom;
pub mod session;
pub mod store;
