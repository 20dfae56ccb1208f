//! What a subcommand comes to.

/// Why a subcommand failed, for a person to read.
pub type Result = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;
