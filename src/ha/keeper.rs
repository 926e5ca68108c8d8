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
    use futures::FutureExt;
    use tokio::sync::mpsc;

    use super::*;
    use crate::contracts::{Clock, Lease, LeaseStore, ManualClock, Result};
    use crate::ha::{Candidate, MemoryLease, Times};

    const TIMES: Times = Times { ttl: Duration::from_millis(1_000), beat: Duration::from_millis(50) };

    fn stored(store: &MemoryLease) -> Lease {
        store.stored().expect("it is there")
    }

    /// A time in which much would be renewed, if somebody did.
    #[expect(clippy::disallowed_methods, reason = "what is not to happen has its time")]
    fn beats_pass(clock: &ManualClock) {
        clock.advance(4 * TIMES.beat);
        std::thread::sleep(4 * TIMES.beat);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    #[expect(clippy::disallowed_methods, reason = "another thread has its time to notice")]
    async fn a_thread_that_is_busy_for_longer_than_the_lease_does_not_lose_it() {
        let (store, clock) = (Arc::new(MemoryLease::default()), Arc::new(ManualClock::new(0)));
        let candidate =
            |name: &str| Candidate::new(Arc::clone(&store) as _, Arc::clone(&clock) as Arc<dyn Clock>, name, TIMES);
        let renewed =
            |one: &Lease, other: &Lease| one.holder == other.holder && one.beat < other.beat && !other.released;

        let mut keeper = Keeper::of(candidate("one").acquire(|_| {}).await.expect("it is free"), None);
        let before = stored(&store);
        store.keep_busy(&clock, TIMES, 2);
        let after = stored(&store);
        assert!(renewed(&before, &after), "{before:?}, {after:?}");
        tokio::select! {
            biased;
            lost = keeper.lost() => panic!("{lost}"),
            () = std::future::ready(()) => {}
        }
        // The term goes on elsewhere.
        let term = keeper.end().await.expect("it was not lost");
        let ended = stored(&store);
        beats_pass(&clock);
        assert_eq!(stored(&store), ended, "nobody renews it");
        let mut keeper = Keeper::of(term, None);
        while !renewed(&ended, &stored(&store)) {
            tokio::task::yield_now().await;
        }
        // Another one takes it: that is told.
        let taken = Lease { holder: "two".to_owned(), ..stored(&store) };
        while !store.replace(Some(&stored(&store)), &taken).await.expect("it is written") {}
        // It may only now begin to wait for the next beat, and then for that of a clock that has moved on.
        let lost = |_| {
            clock.advance(TIMES.beat);
            (0..100).find_map(|_| {
                std::thread::sleep(Duration::from_millis(10));
                keeper.lost().now_or_never()
            })
        };
        let lost = (0..10).find_map(lost);
        assert!(matches!(&lost, Some(Lost::Taken(by)) if by.holder == "two"), "{lost:?}");
        assert!(keeper.end().await.is_none());
        // Who is dropped renews nothing any more.
        store.replace(Some(&taken), &Lease { released: true, ..taken.clone() }).await.expect("it is written");
        let keeper = Keeper::of(candidate("three").acquire(|_| {}).await.expect("it is free"), None);
        drop(keeper);
        beats_pass(&clock);
        let dropped = stored(&store);
        beats_pass(&clock);
        assert_eq!(stored(&store), dropped);
    }

    /// As a client of a service has it: a task does its connection's work, on the runtime that has made the first request.
    #[derive(Debug)]
    struct Connected {
        lease: Arc<MemoryLease>,
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
    async fn tasks_that_keep_all_threads_for_longer_than_the_lease_do_not_lose_it() {
        let (lease, clock) = (Arc::new(MemoryLease::default()), Arc::new(ManualClock::new(0)));
        let thread = LeaseThread::start().expect("a thread");
        let store = thread.store(Arc::new(Connected { lease: Arc::clone(&lease), connection: OnceLock::new() }));
        let candidate = Candidate::new(store, Arc::clone(&clock) as Arc<dyn Clock>, "one", TIMES);

        let mut keeper = Keeper::of(candidate.acquire(|_| {}).await.expect("it is free"), Some(&thread));
        let before = stored(&lease);
        let (of_task, kept) = (Arc::clone(&clock), Arc::clone(&lease));
        tokio::spawn(async move { kept.keep_busy(&of_task, TIMES, 2) }).await.expect("it has been busy");
        let after = stored(&lease);
        assert!(before.beat < after.beat && !after.released, "{before:?}, {after:?}");
        tokio::select! {
            biased;
            lost = keeper.lost() => panic!("{lost}"),
            () = std::future::ready(()) => {}
        }
        keeper.end().await.expect("it was not lost").release().await.expect("given back");
        assert!(stored(&lease).released);
    }
}
