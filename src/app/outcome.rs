//! The result of a command.

/// The result of a command; its error is for a person to read.
pub type Result = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;
