//! Progress for a person at a terminal, and plain lines for a log.

use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::log::{tell, write_error};
use super::summary::bytes;
use crate::contracts::{Clock, Watermark};
use crate::runtime::Progress;

/// Whose figures are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Display {
    /// Those of the process's one job.
    One,
    /// Those of one of several: there is one last line on a terminal, and it would be everybody's.
    OneOfSeveral,
}

/// Shows figures until it is aborted: twice a second in a terminal's last line, each ten seconds in lines of a log.
pub(super) fn show(progress: Arc<Progress>, clock: Arc<dyn Clock>, job: &str, display: Display) -> JoinHandle<()> {
    let job = job.to_owned();
    let terminal = display == Display::One && std::io::stderr().is_terminal();
    let pause = if terminal { Duration::from_millis(500) } else { Duration::from_secs(10) };
    tokio::spawn(async move {
        let mut before = (0, clock.elapsed());
        loop {
            clock.sleep(pause).await;
            let now = clock.elapsed();
            let records = progress.records.load(Ordering::Relaxed);
            let seconds = now.saturating_sub(before.1).as_secs_f64().max(0.001);
            let rate = (records - before.0) as f64 / seconds;
            before = (records, now);
            let watermark = progress.watermark_ms.load(Ordering::Relaxed);
            let time = if watermark == 0 { Watermark::MIN } else { Watermark(watermark) };
            // Sources that know no newest record, such as files, say nothing.
            let behind = match progress.behind_ms.load(Ordering::Relaxed) {
                ms @ 0.. => format!(", {:.1} s behind", ms as f64 / 1_000.0),
                _ => String::new(),
            };
            let last = *progress.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
            let checkpoint = last.map_or_else(String::new, |last| {
                let (age, took) = (now.saturating_sub(last.at).as_secs(), last.took.as_millis());
                format!(", checkpoint {age} s ago ({} in {took} ms)", bytes(last.written_bytes))
            });
            let line = format!(
                "{job}: {records} records ({rate:.0}/s), {} rejected, {} rows out{behind}, event time {time}{checkpoint}",
                progress.rejected.load(Ordering::Relaxed),
                progress.rows_out.load(Ordering::Relaxed)
            );
            if terminal {
                write_error(&format!("\r\x1b[2K{line}"));
            } else {
                tell!("{line}");
            }
        }
    })
}

/// Removes the progress line.
pub(super) fn clear() {
    if std::io::stderr().is_terminal() {
        write_error("\r\x1b[2K");
    }
}
