//! What the program tells beside its results: warnings on standard error, and more where asked for.
//!
//! Only its own words: libraries below would log requests with their headers, and those may hold credentials.

use std::io::{IsTerminal, Stderr, stderr};

use tracing_subscriber::filter::LevelFilter;

use crate::contracts::{Error, Result};

/// Variable of the environment with the level: `off`, `error`, `warn` (the default), `info`, `debug` or `trace`.
const VARIABLE: &str = "TIDEMILL_LOG";

/// Standard error, whose last line may be one of progress.
fn after_progress() -> Stderr {
    super::display::clear();
    stderr()
}

/// Begins to log.
///
/// # Errors
/// The variable names no level.
pub(super) fn start() -> Result<()> {
    let level = match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => text.parse::<LevelFilter>().map_err(|_| {
            Error::config(format!("{VARIABLE}: '{text}' is no level")).hint("off, error, warn, info, debug or trace")
        })?,
        _ => LevelFilter::WARN,
    };
    let own = tracing_subscriber::EnvFilter::new(format!("{}={level}", env!("CARGO_PKG_NAME")));
    let log = tracing_subscriber::fmt().with_env_filter(own).with_target(false).with_ansi(stderr().is_terminal());
    // There is one already where a test runs the command line in its own process.
    let _ = log.with_writer(after_progress).try_init();
    Ok(())
}
