//! What the service costs, beside its peers and beside the CLI. `make bench` runs it and prints the tables; docs/operate/benchmarks.md
//! says how to read them.
//!
//! Each part of a run is a process of its own, so that the CPU time and the memory of the one that is measured are its own:
//!
//! ```text
//!  load ──gRPC──▶ copilot-grpc, or a peer ──JSON-RPC──▶ stand-in, or the real CLI
//!    └───────────────────────┬──────────────────────────────┘
//!                          bench   starts them, reads /proc, prints the tables
//! ```
//!
//! The `stand-in` plays a turn of the real CLI as it was recorded, as fast as the socket takes it or paced, so that what is
//! measured is not the CLI.

pub mod clock;
pub mod disk;
pub mod frames;
pub mod job;
pub mod proc;
pub mod recording;
pub mod steps;
