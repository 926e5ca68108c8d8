//! Work that is left to do when what it was for is dropped: a run that ends waits for it.
//!
//! ```text
//!  a task of a run        dropped ─► a guard in it: spawn_last ─► the work
//!  the end of the run     ├── waits for its tasks, and for that ──┤
//! ```
//!
//! The work has a bound of its own. A process that is killed does none of it.

use std::future::Future;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::Instrument;

/// Held by whoever works for a run; its end is when nobody does any more.
pub type Presence = mpsc::Sender<()>;

tokio::task_local! {
    static PRESENCE: Presence;
}

/// Does some work, and has its last work be present too.
pub async fn with_presence<T>(presence: Presence, work: impl Future<Output = T>) -> T {
    PRESENCE.scope(presence, work).await
}

/// Starts work that nobody may wait for here, from a destructor for instance. Without a runtime nothing is done: it is over.
pub fn spawn_last(work: impl Future<Output = ()> + Send + 'static) {
    let Ok(runtime) = Handle::try_current() else { return };
    let presence = PRESENCE.try_with(Presence::clone).ok();
    let work = async move {
        let _presence = presence;
        work.await;
    };
    runtime.spawn(work.in_current_span());
}
