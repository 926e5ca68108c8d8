//! SIGINT and SIGTERM.

use tokio::sync::watch;

use crate::contracts::{Error, Result};

/// The first signal asks for an orderly end, the second ends at once.
pub(super) async fn stop_on_signal(stop: watch::Sender<bool>) {
    if let Err(error) = signalled().await {
        eprintln!("note: cannot wait for signals: {error}");
        return;
    }
    eprintln!("stopping: finishing the epoch and flushing; a second signal ends at once");
    let _ = stop.send(true);
    if signalled().await.is_ok() {
        std::process::exit(130);
    }
}

/// Waits for SIGINT or SIGTERM.
pub(super) async fn signalled() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |e| Error::unavailable("signal handler").caused_by(e);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        done = tokio::signal::ctrl_c() => done.map_err(failed),
        _ = terminate.recv() => Ok(()),
    }
}
