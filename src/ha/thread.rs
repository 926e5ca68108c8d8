//! A thread for leases, which nothing else uses.
//!
//! A run may keep every thread of its runtime for longer than a lease lasts: it indexes a large state, or puts one on a disk that others
//! use too; in a fleet, as many jobs as there are threads do so at a time. That must not cost the leases, least of all those of other
//! jobs. So they are kept by a runtime of their own, with its own timers and I/O. What a client of a service runs for a connection is a
//! task on the runtime that has made the first request there, so all requests for leases are made here, from the opening of their table on.
//!
//! Not for a simulation, which has one thread and its own time: there a term is kept on the runtime that everything is on.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::contracts::{Error, Lease, LeaseStore, Result};

/// See the module's description. There is one for each process that has leases; it ends when this is dropped.
#[derive(Debug)]
pub struct LeaseThread {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl LeaseThread {
    /// Starts it.
    pub fn start() -> Result<Arc<Self>> {
        let built = Builder::new_multi_thread().worker_threads(1).thread_name("leases").enable_all().build();
        let runtime = built.map_err(|e| Error::unavailable("cannot start a thread for leases").caused_by(e))?;
        Ok(Arc::new(Self { handle: runtime.handle().clone(), runtime: Some(runtime) }))
    }

    /// Does some work there, and waits for it. When this is dropped, so is the work.
    ///
    /// # Errors
    /// `internal` if it panics.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let mut task = JoinSet::new();
        task.spawn_on(work.in_current_span(), &self.handle);
        match task.join_next().await {
            Some(Ok(done)) => Ok(done),
            Some(Err(died)) => Err(Error::internal("a task for leases died").caused_by(died)),
            None => Err(Error::internal("a task for leases was lost")),
        }
    }

    /// The same lease, of which every request is made there.
    pub fn store(self: &Arc<Self>, store: Arc<dyn LeaseStore>) -> Arc<dyn LeaseStore> {
        Arc::new(OnThread { store, thread: Arc::clone(self) })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for LeaseThread {
    fn drop(&mut self) {
        // What is dropped here may be dropped by a task, which must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A lease whose requests are made on a thread of their own.
#[derive(Debug)]
struct OnThread {
    store: Arc<dyn LeaseStore>,
    thread: Arc<LeaseThread>,
}

#[async_trait]
impl LeaseStore for OnThread {
    fn place(&self) -> String {
        self.store.place()
    }

    async fn read(&self) -> Result<Option<Lease>> {
        let store = Arc::clone(&self.store);
        self.thread.run(async move { store.read().await }).await?
    }

    async fn replace(&self, expected: Option<&Lease>, next: &Lease) -> Result<bool> {
        let (store, expected, next) = (Arc::clone(&self.store), expected.cloned(), next.clone());
        self.thread.run(async move { store.replace(expected.as_ref(), &next).await }).await?
    }
}
