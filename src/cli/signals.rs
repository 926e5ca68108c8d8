//! SIGINT and SIGTERM.

use std::io::{Write, stderr};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::log::tell;
use crate::contracts::{Error, Result};

/// Exit code of a process that a signal has ended at once.
const ENDED: i32 = 130;

/// Listens for both, from when it is made.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|e| Error::unavailable("signal handler").caused_by(e));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The first signal from now on asks for an orderly end, the second ends at once.
///
/// To be called before anything that takes time: the kernel gives the first process of a container no signal that it does not listen for, so one that
/// came too early would be lost, and the process killed when its grace is over.
pub(super) fn stop_on_signal() -> watch::Receiver<bool> {
    let (stop, stopped) = watch::channel(false);
    match Signals::new() {
        Ok(mut signals) => {
            tokio::spawn(async move {
                signals.next().await;
                let _ = stop.send(true);
                // Whoever reads it may be gone by the same signal (`… 2>&1 | tee`), which is no reason to end in disorder.
                let _ =
                    stderr().write_all(b"stopping: finishing the epoch and flushing; a second signal ends at once\n");
                signals.next().await;
                std::process::exit(ENDED);
            });
        }
        Err(error) => tell!("note: cannot wait for signals: {error}"),
    }
    stopped
}

/// Does what comes before a run; `None` when that was to stop before.
pub(super) async fn unless_stopped<T>(stop: &watch::Receiver<bool>, begins: impl Future<Output = T>) -> Option<T> {
    let mut stop = stop.clone();
    tokio::select! {
        biased;
        begun = begins => Some(begun),
        Ok(_) = stop.wait_for(|stop| *stop) => {
            tell!("stopped before it had begun");
            None
        }
    }
}

/// The first signal from now on ends the process at once, for work that has no order to end in. Without it the first process of a container would
/// not hear one at all.
pub(super) fn end_on_signal() {
    match Signals::new() {
        Ok(mut signals) => {
            tokio::spawn(async move {
                signals.next().await;
                std::process::exit(ENDED);
            });
        }
        Err(error) => tell!("note: cannot wait for signals: {error}"),
    }
}

/// Waits for SIGINT or SIGTERM.
pub(super) async fn signalled() -> Result<()> {
    Signals::new()?.next().await;
    Ok(())
}
