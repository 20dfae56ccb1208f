//! copilot-grpc: the GitHub Copilot agent as a gRPC service.
//!
//! The Copilot CLI runs headless as a server and speaks JSON-RPC 2.0, over its standard streams or TCP. This crate stands in
//! front of it: it serves `copilot_grpc.v1.CopilotService` and translates each call, and takes upon itself what a caller of the
//! CLI would have to solve alone: which answer belongs to which prompt, deadlines that stop the agent, one turn at a time, slow
//! readers, a CLI that dies.
//!
//! # Map
//! From the ground up; a room uses only what stands below it, which a test checks.
//!
//! | room | what it is |
//! |---|---|
//! | [`jsonrpc`] | JSON-RPC 2.0 over `Content-Length` frames; knows nothing of Copilot or gRPC |
//! | [`copilot`] | the CLI's vocabulary: methods, events, errors. Pure |
//! | [`backend`] | the CLIs: found or started, connected to, watched; which of them a session belongs to |
//! | [`session`] | what the facade decides: registry, queue, turns, fan-out, policy |
//! | [`grpc`] | the contract; the only room that knows tonic and prost |
//! | [`app`] | configuration, telemetry, signals, the subcommands |
//!
//! # Invariants
//! Each has tests. Where one is broken, the bug is there.
//!
//! 1. Decoding never panics, never allocates past its limits, and gives the same messages however the bytes are cut.
//! 2. A request to the CLI completes exactly once: response, refusal, or loss of the link; all who wait on one dead
//!    link see one cause.
//! 3. The reader never waits on a consumer. A slow one's text deltas are joined; if that is not enough, its stream ends
//!    with `STREAM_LAGGED`. Nothing is skipped silently, and no other event is ever dropped.
//! 4. The events of a session are delivered in wire order; a session is registered before `session.create` is written.
//! 5. Every request that comes from the CLI is answered, also one that we do not understand, or whose data we cannot read.
//! 6. A dropped RPC leaves no pending call, no subscriber, no place in a queue, no running turn (unless it asked for
//!    that), and never half a frame on the wire. What is reported as not delivered never runs later; what waits in the CLI is
//!    taken back.
//! 7. Only [`grpc`] knows protobuf, only [`jsonrpc`] knows framing.
//! 8. A session is found by its tenant and its id together. Without authentication there is one tenant.
//! 9. Prompts, answers, tokens and keys are in no log and no error; a session's own answer is in its own errors.
//! 10. No single request costs more than its bound: what a schema and its answers take to check is counted, paths lead into
//!     the operator's roots, credentials of the machine's are not a caller's, and what fails leaves a session as it was.

pub mod app;
pub mod backend;
pub mod copilot;
pub mod grpc;
pub mod jsonrpc;
mod lock;
pub mod session;
