//! Work that blocks, off the runtime's threads, and how it waits there for what is done on them.
//!
//! ```text
//! several threads   the pool for such work; a wait blocks the pool's thread
//! one thread        the pool, too, but work and runtime take turns: nothing else runs until the work ends, or waits
//!
//!  runtime  ─ spawn ─┐         ┌─ polls the future ─┐         ┌─►
//!  pool              └─ works ─┘                    └─ works ─┘
//! ```
//!
//! A runtime of one thread has a reason to have no other: a simulation, in which what comes first must not depend on how quick
//! a thread is.

use std::cell::RefCell;
use std::sync::mpsc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::error::{Error, Result};

/// What work waits for, polled where it was spawned.
type Wait = BoxFuture<'static, ()>;

thread_local! {
    /// Where this thread's work hands in what it waits for, if it takes turns with its runtime.
    static TURN: RefCell<Option<mpsc::SyncSender<Wait>>> = const { RefCell::new(None) };
}

/// Ends the turn of the work, also if it panics.
struct Turn;

impl Turn {
    fn begin(waits: mpsc::SyncSender<Wait>) -> Self {
        TURN.set(Some(waits));
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURN.take();
    }
}

/// Runs work that blocks; it may use [`wait_for`].
///
/// # Errors
/// The work has panicked.
pub async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    if Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread {
        let done = tokio::task::spawn_blocking(work).await;
        return done.map_err(|e| Error::internal("a task that blocks died").caused_by(e));
    }
    // Of one wait at a time.
    let (sender, waits) = mpsc::sync_channel(1);
    let (result_sender, result) = mpsc::sync_channel(1);
    tokio::task::spawn_blocking(move || {
        // Until the result is sent.
        let _turn = Turn::begin(sender);
        result_sender.send(work())
    });
    // Blocks the runtime on purpose. It ends with the turn.
    while let Ok(wait) = waits.recv() {
        wait.await;
    }
    result.recv().map_err(|e| Error::internal("a task that blocks died").caused_by(e))
}

/// Waits for a future in work that [`off_the_runtime`] runs. Blocks.
///
/// # Errors
/// Nobody polls it any more: whoever has begun the work has given it up.
///
/// # Panics
/// Outside of such work.
pub fn wait_for<F>(future: F) -> Result<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let Some(waits) = TURN.with_borrow(Clone::clone) else { return Ok(Handle::current().block_on(future)) };
    let (sender, output) = mpsc::sync_channel(1);
    let wait = async move {
        // There is room for it, and nobody else sends.
        let _ = sender.send(future.await);
    };
    let given_up = || Error::internal("work that blocks was given up");
    waits.send(wait.boxed()).map_err(|_| given_up())?;
    output.recv().map_err(|e| given_up().caused_by(e))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;
    use crate::contracts::{Clock, SystemClock};

    fn runtimes() -> [tokio::runtime::Runtime; 2] {
        let mut one = tokio::runtime::Builder::new_current_thread();
        let mut several = tokio::runtime::Builder::new_multi_thread();
        [
            one.enable_time().build().expect("a runtime"),
            several.worker_threads(2).enable_time().build().expect("a runtime"),
        ]
    }

    #[test]
    fn work_waits_for_the_runtime_and_answers() {
        for runtime in runtimes() {
            let answer = runtime.block_on(off_the_runtime(|| {
                let slept = wait_for(async {
                    SystemClock::default().sleep(Duration::from_millis(1)).await;
                    20
                })?;
                let spawned = wait_for(tokio::spawn(async { 1 }))?;
                Ok::<_, Error>(slept + spawned.expect("no panic") + wait_for(async { 21 })?)
            }));
            assert_eq!(answer.expect("no panic").expect("polled"), 42);
        }
    }

    #[test]
    fn work_that_panics_is_an_error() {
        for runtime in runtimes() {
            let died = runtime.block_on(off_the_runtime::<()>(|| panic!("as it does")));
            let died = died.expect_err("it has panicked");
            assert!(died.to_string().contains("died"), "{died}");
        }
    }

    #[test]
    fn on_one_thread_nothing_runs_beside_the_work() {
        let [runtime, _] = runtimes();
        let order = Arc::new(Mutex::new(Vec::new()));
        let write = |what: &'static str| {
            let order = Arc::clone(&order);
            move || order.lock().expect("no panic").push(what)
        };
        let (begins, waits, ends, other) = (write("begins"), write("waits"), write("ends"), write("another task"));
        runtime.block_on(async move {
            let work = tokio::spawn(off_the_runtime(move || {
                begins();
                std::thread::yield_now();
                waits();
                let waited = wait_for(tokio::task::yield_now());
                ends();
                waited
            }));
            let other = tokio::spawn(async move { other() });
            work.await.expect("no panic").expect("no panic").expect("polled");
            other.await.expect("no panic");
        });
        assert_eq!(*order.lock().expect("no panic"), ["begins", "waits", "another task", "ends"]);
    }

    /// A process that crashes in a simulation: its work must not stay, and wait for ever.
    #[test]
    fn work_that_is_given_up_while_it_waits_gets_an_error() {
        let [runtime, _] = runtimes();
        let ended = Arc::new(AtomicU64::new(0));
        let end = Arc::clone(&ended);
        runtime.block_on(async move {
            let work = tokio::spawn(off_the_runtime(move || {
                let waited = wait_for(std::future::pending::<()>());
                end.fetch_add(1 + u64::from(waited.is_err()), Ordering::Relaxed);
            }));
            tokio::task::yield_now().await;
            work.abort();
            let _ = work.await;
        });
        // Waits for the pool.
        drop(runtime);
        assert_eq!(ended.load(Ordering::Relaxed), 2);
    }
}
