//! A lease that is renewed by a task of its own.
//!
//! A run may keep its thread for longer than its lease lasts: it indexes a large state that it goes on from, or puts one on a disk that
//! others use too. That is work, not silence, and nobody is to take the job for it; least of all one that would have to do the same. As
//! it may keep all threads so, that task is on one of its own ([`LeaseThread`]). (A process that stands still as a whole renews nothing.)

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::term::{Lost, Term};
use super::thread::LeaseThread;

/// Keeps a term until it is lost, or the keeper is dropped.
#[derive(Debug)]
pub struct Keeper {
    /// One task, which ends when this is dropped.
    task: JoinSet<(Term, Option<Lost>)>,
    end: oneshot::Sender<()>,
}

impl Keeper {
    /// Begins to renew, on `thread`; without one, on the runtime of whoever calls.
    pub fn of(mut term: Term, thread: Option<&LeaseThread>) -> Self {
        let (end, ends) = oneshot::channel();
        let keep = async move {
            let lost = tokio::select! {
                biased;
                lost = term.keep() => Some(lost),
                _ = ends => None,
            };
            (term, lost)
        };
        let mut task = JoinSet::new();
        let keep = keep.in_current_span();
        match thread {
            Some(thread) => task.spawn_on(keep, thread.handle()),
            None => task.spawn(keep),
        };
        Self { task, end }
    }

    /// Waits until the term is lost. May be dropped, and called again until it has answered.
    pub async fn lost(&mut self) -> Lost {
        match self.task.join_next().await {
            Some(Ok((_, Some(lost)))) => lost,
            // The task has died: nothing is renewed any more.
            _ => Lost::Unreachable(None),
        }
    }

    /// Ends renewing. `None` when the term was lost.
    pub async fn end(mut self) -> Option<Term> {
        // One that has ended does not listen.
        let _ = self.end.send(());
        match self.task.join_next().await {
            Some(Ok((term, None))) => Some(term),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};
    use std::time::Duration;

    use async_trait::async_trait;
    use tokio::sync::mpsc;

    use super::*;
    use crate::contracts::{Lease, LeaseStore, Result, SystemClock};
    use crate::ha::{Candidate, FolderLease, Times};

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    #[expect(clippy::disallowed_methods, reason = "a thread that is kept from everything else")]
    async fn a_thread_that_is_busy_for_longer_than_the_lease_does_not_lose_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Arc::new(FolderLease::new(folder.path().join("lease")));
        let times = Times { ttl: Duration::from_millis(1_000), beat: Duration::from_millis(50) };
        let candidate = |name: &str| {
            Candidate::new(Arc::clone(&store) as Arc<dyn LeaseStore>, Arc::new(SystemClock::new()), name, times)
        };
        let stored = async || store.read().await.expect("it is read").expect("it is there");
        let renewed =
            |one: &Lease, other: &Lease| one.holder == other.holder && one.beat < other.beat && !other.released;

        let mut keeper = Keeper::of(candidate("one").acquire(|_| {}).await.expect("it is free"), None);
        let before = stored().await;
        std::thread::sleep(2 * times.ttl);
        let after = stored().await;
        assert!(renewed(&before, &after), "{before:?}, {after:?}");
        tokio::select! {
            biased;
            lost = keeper.lost() => panic!("{lost}"),
            () = std::future::ready(()) => {}
        }
        // The term goes on elsewhere.
        let term = keeper.end().await.expect("it was not lost");
        let ended = stored().await;
        std::thread::sleep(4 * times.beat);
        assert_eq!(stored().await, ended, "nobody renews it");
        let mut keeper = Keeper::of(term, None);
        while !renewed(&ended, &stored().await) {
            tokio::task::yield_now().await;
        }
        // Another one takes it: that is told.
        let taken = Lease { holder: "two".to_owned(), ..stored().await };
        while !store.replace(Some(&stored().await), &taken).await.expect("it is written") {}
        assert!(matches!(keeper.lost().await, Lost::Taken(by) if by.holder == "two"));
        assert!(keeper.end().await.is_none());
        // Who is dropped renews nothing any more.
        store.replace(Some(&taken), &Lease { released: true, ..taken.clone() }).await.expect("it is written");
        let keeper = Keeper::of(candidate("three").acquire(|_| {}).await.expect("it is free"), None);
        drop(keeper);
        std::thread::sleep(2 * times.beat);
        let dropped = stored().await;
        std::thread::sleep(4 * times.beat);
        assert_eq!(stored().await, dropped);
    }

    /// As a client of a service has it: a task does its connection's work, on the runtime that has made the first request.
    #[derive(Debug)]
    struct Connected {
        lease: FolderLease,
        connection: OnceLock<mpsc::Sender<oneshot::Sender<()>>>,
    }

    impl Connected {
        async fn answered(&self) {
            let connection = self.connection.get_or_init(|| {
                let (sender, mut requests) = mpsc::channel::<oneshot::Sender<()>>(8);
                tokio::spawn(async move {
                    while let Some(request) = requests.recv().await {
                        let _ = request.send(());
                    }
                });
                sender
            });
            let (answer, answered) = oneshot::channel();
            connection.send(answer).await.expect("the connection is open");
            answered.await.expect("an answer");
        }
    }

    #[async_trait]
    impl LeaseStore for Connected {
        fn place(&self) -> String {
            self.lease.place()
        }

        async fn read(&self) -> Result<Option<Lease>> {
            self.answered().await;
            self.lease.read().await
        }

        async fn replace(&self, expected: Option<&Lease>, next: &Lease) -> Result<bool> {
            self.answered().await;
            self.lease.replace(expected, next).await
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    #[expect(clippy::disallowed_methods, reason = "all threads of a runtime are kept from everything else")]
    async fn tasks_that_keep_all_threads_for_longer_than_the_lease_do_not_lose_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let lease = || FolderLease::new(folder.path().join("lease"));
        let stored = async || lease().read().await.expect("it is read").expect("it is there");
        let thread = LeaseThread::start().expect("a thread");
        let store = thread.store(Arc::new(Connected { lease: lease(), connection: OnceLock::new() }));
        let times = Times { ttl: Duration::from_millis(1_000), beat: Duration::from_millis(50) };
        let candidate = Candidate::new(store, Arc::new(SystemClock::new()), "one", times);

        let mut keeper = Keeper::of(candidate.acquire(|_| {}).await.expect("it is free"), Some(&thread));
        let before = stored().await;
        tokio::spawn(async move { std::thread::sleep(2 * times.ttl) }).await.expect("it has been busy");
        let after = stored().await;
        assert!(before.beat < after.beat && !after.released, "{before:?}, {after:?}");
        tokio::select! {
            biased;
            lost = keeper.lost() => panic!("{lost}"),
            () = std::future::ready(()) => {}
        }
        keeper.end().await.expect("it was not lost").release().await.expect("given back");
        assert!(stored().await.released);
    }
}
