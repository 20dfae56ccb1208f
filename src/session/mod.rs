//! What the facade itself decides: which sessions there are, whose turn it is, how a turn ends, who hears of it.
//! Knows neither protobuf nor sockets.
//!
//! [`Sessions`] is what callers use, and [`calls`] is what it does for them. A [`live`] session is one that is known here, and the
//! [`registry`] knows them all. What stands below these is pure, but for [`roots`]: [`blueprint`] is what a
//! session is made of, [`turn`] what becomes of a prompt, [`fanout`] who reads, [`asks`] what the agent asks its callers.

mod asks;
mod blueprint;
mod callers;
mod calls;
mod cleanup;
mod cursor;
mod error;
pub mod fanout;
mod id;
mod idempotency;
mod listing;
mod live;
mod models;
mod others;
mod prompt;
mod registry;
mod roots;
mod sessions;
mod summary;
pub mod turn;
mod turnstile;

pub use blueprint::{
    Blueprint, Credentials, Effect, Excess, KINDS as PERMISSION_KINDS, Missing, Policy, Profile, Profiles,
    Rule, Unfit,
};
pub use callers::Caller;
pub use calls::{
    Change, From, HistoryPlace, SetBack, Submitted, SubmittedState, Told, Turn, TurnName, TurnPlace, Watch,
    Watched, Whereabouts,
};
pub use cleanup::{Cleanup, Rules};
pub use cursor::Cursor;
pub use error::{Error, Settlement};
pub use id::{BadId, MAX_ID, SessionId, SessionKey, Tenant};
pub use idempotency::RequestId;
pub use listing::{Listing, ORDERS, Page, PageToken, Selection};
pub use live::{Archive, Response};
pub use others::{Others, Peer};
pub use prompt::{Prompt, PromptReader};
pub use registry::Load;
pub use roots::Roots;
pub use sessions::{Limits, Sessions, Storage};
pub use summary::{SessionState, Summary};
pub use turn::{
    Deadline, Delivery, Outcome, Remains, Spent, Ticket, ToolCall, TurnCause, TurnError, TurnResult, Usage,
};
