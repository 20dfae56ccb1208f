//! A scripted OpenAI-compatible model server on loopback.
//!
//! A [`ModelServer`] answers `POST {base}/chat/completions`, streamed or whole, and `GET {base}/models`; and texts also by
//! Anthropic's `POST {base}/messages`. A script decides what it answers: a function from the [`Request`] to a [`Reply`]. Every
//! request is kept as a [`Call`], so that a test can ask what the model was sent and whether the client waited for the end of
//! the answer.
//!
//! It knows the chat completions wire format and nothing of who is calling: no keys, no models, no state
//! between two requests. A script that needs state looks at the messages, as a model would.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use scripted_model::{ModelServer, Reply};
//!
//! let model = ModelServer::start(|request| match request.prompt() {
//!     "hang" => Reply::hang(),
//!     prompt => Reply::text(format!("You said: {prompt}")),
//! })
//! .await?;
//! println!("point the client at {}", model.base_url());
//! model.wait_for(|calls| calls.len() == 1).await;
//! # Ok(())
//! # }
//! ```

mod anthropic;
mod call;
mod demo;
mod reply;
mod request;
mod server;
#[cfg(test)]
mod tests;

pub use call::{Call, CallState};
pub use demo::demo;
pub use reply::Reply;
pub use request::{Message, Request};
pub use server::ModelServer;
