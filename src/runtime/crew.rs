//! The tasks of a run. They end with it, also when it fails or is dropped: nothing of it may write on while the next run,
//! in this process or another, goes on from its last checkpoint.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tracing::Instrument;

use crate::contracts::{Presence, with_presence};

/// Starts tasks for a run.
#[derive(Debug, Clone)]
pub(super) struct Crew {
    /// Each task holds one of these.
    present: Presence,
    tasks: Arc<Mutex<Vec<AbortHandle>>>,
}

/// Ends the tasks when the run ends.
#[derive(Debug)]
pub(super) struct Foreman {
    crew: Option<Crew>,
    all_gone: mpsc::Receiver<()>,
}

impl Foreman {
    /// A crew without tasks.
    pub(super) fn new() -> (Self, Crew) {
        let (present, all_gone) = mpsc::channel(1);
        let crew = Crew { present, tasks: Arc::default() };
        (Self { crew: Some(crew.clone()), all_gone }, crew)
    }

    /// Ends all tasks, and waits until they have gone. Other clones of the crew must be gone, too.
    pub(super) async fn dismiss(mut self) {
        self.abort();
        // Nothing is ever sent: this waits until nobody could any more.
        while self.all_gone.recv().await.is_some() {}
    }

    fn abort(&mut self) {
        if let Some(crew) = self.crew.take() {
            crew.tasks().iter().for_each(AbortHandle::abort);
        }
    }
}

impl Drop for Foreman {
    fn drop(&mut self) {
        self.abort();
    }
}

impl Crew {
    /// Starts a task.
    pub(super) fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        let present = self.present.clone();
        // What a task leaves to be done when it goes is waited for, too.
        let work = with_presence(present, work);
        // What it logs is told of the same job as what its run logs.
        let task = tokio::spawn(work.in_current_span());
        let mut tasks = self.tasks();
        tasks.retain(|task| !task.is_finished());
        tasks.push(task.abort_handle());
        task
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, Vec<AbortHandle>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tells(mpsc::Sender<&'static str>);

    impl Drop for Tells {
        fn drop(&mut self) {
            let _ = self.0.try_send("gone");
        }
    }

    /// Leaves something to be done, which takes a while.
    struct Leaves(mpsc::Sender<&'static str>);

    impl Drop for Leaves {
        fn drop(&mut self) {
            let told = self.0.clone();
            crate::contracts::spawn_last(async move {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                let _ = told.send("done").await;
            });
        }
    }

    #[tokio::test]
    async fn what_a_task_leaves_to_be_done_is_waited_for() {
        let (foreman, crew) = Foreman::new();
        let (sender, mut told) = mpsc::channel(4);
        let leaves = Leaves(sender);
        crew.spawn(async move {
            let _leaves = leaves;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        drop(crew);
        foreman.dismiss().await;
        assert_eq!(told.try_recv(), Ok("done"));
    }

    #[tokio::test]
    async fn tasks_have_gone_when_they_are_dismissed_and_go_when_the_run_is_dropped() {
        for waits in [true, false] {
            let (foreman, crew) = Foreman::new();
            let (sender, mut told) = mpsc::channel(4);
            let tells = Tells(sender);
            crew.spawn(async move {
                let _tells = tells;
                std::future::pending::<()>().await;
            });
            let done = crew.spawn(async { 7 });
            assert_eq!(done.await.expect("it ends"), 7);
            drop(crew);
            if waits {
                foreman.dismiss().await;
                assert_eq!(told.try_recv(), Ok("gone"));
            } else {
                drop(foreman);
                assert_eq!(told.recv().await, Some("gone"));
            }
        }
    }
}
