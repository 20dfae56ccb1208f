//! The log.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt};

use super::config::{Config, LogFormat};

/// Starts logging to standard error. Does nothing if logging was started already.
pub(super) fn install(config: &Config) {
    // The level was checked when the configuration was read.
    let filter = EnvFilter::try_new(&config.log_level).unwrap_or_default();
    let subscriber =
        fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let _installed = match config.log_format {
        LogFormat::Human => subscriber.try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
}
