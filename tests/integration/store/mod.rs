//! Sessions live in a store: they outlive the server, their CLI and, with PostgreSQL, the disk; on the real CLI.
//!
//! Everything is shown on the program itself, which is killed, and on both engines where both promise it.

mod away;
pub(crate) mod chaos;
mod clock;
pub(crate) mod installation;
mod lasting;
mod moving;
mod repeating;
mod sealing;
mod wiped;
