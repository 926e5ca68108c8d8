//! What the program tells beside its results: warnings on standard error, and more where asked for.
//!
//! Only its own words: libraries below would log requests with their headers, and those may hold credentials.

use std::io::{ErrorKind, IsTerminal, Stderr, Write, stderr, stdout};

use tracing_subscriber::filter::LevelFilter;

use crate::contracts::{Error, Result};

/// Variable of the environment with the level: `off`, `error`, `warn` (the default), `info`, `debug` or `trace`.
const VARIABLE: &str = "TIDEMILL_LOG";
/// Exit code where nobody reads what is written: as a shell reports a program that SIGPIPE has ended.
pub(super) const WITHOUT_READER: u8 = 141;

/// Tells a person something, in a line of standard error.
///
/// Where it cannot be written (the disk of a log file is full, the terminal has gone) it is left out: what the program does is worth more than
/// what it says of it. `eprintln!` would panic.
macro_rules! tell {
    ($($text:tt)*) => {
        $crate::cli::log::write_error(&(format!($($text)*) + "\n"))
    };
}
pub(super) use tell;

/// Writes to standard error, as [`tell!`] does.
pub(super) fn write_error(text: &str) {
    let _ = end_without_reader(stderr().lock().write_all(text.as_bytes()));
}

/// Writes the last words of what has been done to standard output. That it has been done does not depend on them.
pub(super) fn write_summary(text: &str) {
    let mut out = stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = end_without_reader(written) {
        tell!("note: the summary could not be written to standard output: {error}");
    }
}

/// `tidemill … | head` ends when `head` does: nobody is left to read, and that is no failure to report.
fn end_without_reader(written: std::io::Result<()>) -> std::io::Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(WITHOUT_READER.into()),
        written => written,
    }
}

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
    // Of a line that cannot be written it would tell by `eprintln!`.
    let log = log.log_internal_errors(false);
    // There is one already where a test runs the command line in its own process.
    let _ = log.with_writer(after_progress).try_init();
    Ok(())
}
