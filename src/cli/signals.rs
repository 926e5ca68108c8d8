//! SIGINT and SIGTERM.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::contracts::{Error, Result};

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
                eprintln!("stopping: finishing the epoch and flushing; a second signal ends at once");
                let _ = stop.send(true);
                signals.next().await;
                std::process::exit(130);
            });
        }
        Err(error) => eprintln!("note: cannot wait for signals: {error}"),
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
            eprintln!("stopped before it had begun");
            None
        }
    }
}

/// Waits for SIGINT or SIGTERM.
pub(super) async fn signalled() -> Result<()> {
    Signals::new()?.next().await;
    Ok(())
}
