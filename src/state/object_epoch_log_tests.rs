//! The epoch log in objects: who is fenced, what is kept, and what a request brings that comes late.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::contracts::EpochCut;
use crate::state::sweep::REMOVALS_AT_ONCE;
use crate::state::test_storage::{Interrupted, Request, counting_removals};
use crate::state::tests::storages;

fn started(generation: u64) -> LogEntry {
    LogEntry::started(generation, false)
}

fn cut(epoch: u64) -> LogEntry {
    let (generation, now_ms, splits, tables) = (1, 5, vec![], vec![]);
    let (oldest_ms, closes, references) = (None, false, BTreeMap::new());
    LogEntry::Cut(EpochCut {
        epoch,
        generation,
        now_ms,
        oldest_ms,
        closes,
        catches_up: false,
        splits,
        tables,
        references,
    })
}

/// Does what it is asked once more, or does not, and never answers.
#[derive(Debug)]
struct Silent {
    of: Arc<dyn Storage>,
    does: bool,
    silent: AtomicBool,
}

#[async_trait]
impl Storage for Silent {
    fn place(&self) -> String {
        self.of.place()
    }

    async fn create(&self, name: &str, content: Bytes) -> Result<Created> {
        let silent = self.silent.load(Ordering::Relaxed);
        let created = if !silent || self.does { Some(self.of.create(name, content).await) } else { None };
        match created.filter(|_| !silent) {
            Some(created) => created,
            None => std::future::pending().await,
        }
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        self.of.read(name).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.of.list(folder).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.of.remove(name).await
    }
}

/// A writer of a sink that is ended with its run, before the failure of the run is noted.
#[tokio::test]
async fn an_entry_that_is_given_up_half_way_fences_nobody() {
    for does in [true, false] {
        for of in storages().1 {
            let silent = Arc::new(Silent { of, does, silent: AtomicBool::new(false) });
            let storage: Arc<dyn Storage> = Arc::clone(&silent) as _;
            let (log, _) = ObjectEpochLog::open(Arc::clone(&storage), "a").await.expect("a log");
            log.append(&started(1)).await.expect("an entry");
            silent.silent.store(true, Ordering::Relaxed);
            let (first, second) = (cut(1), cut(2));
            // Two at a time: the second one waits for the first to write.
            tokio::select! {
                biased;
                _ = log.append(&first) => panic!("it has no answer"),
                _ = log.append(&second) => panic!("it has no answer"),
                () = async { for _ in 0..100 { tokio::task::yield_now().await } } => {}
            }
            // In a folder, what blocks has its own thread.
            while does && storage.read(&name(2)).await.expect("read").is_none() {
                tokio::task::yield_now().await;
            }
            silent.silent.store(false, Ordering::Relaxed);
            let failed = LogEntry::Failed { query: "a".to_owned(), epoch: 2, error: "bad".to_owned() };
            log.append(&failed).await.expect("nobody has taken over");
            log.forget(0).await.expect("shortened");
            let entries = ObjectEpochLog::open(storage, "b").await.expect("a log").1;
            assert_eq!(entries, [started(1), cut(1), cut(2), failed], "stored: {does}");
            log.append(&cut(3)).await.expect("it goes on");
        }
    }
}

/// Whoever takes the job over waits for it: at 40 ms for each, a hundred would take four seconds one after the other.
#[tokio::test]
async fn what_a_checkpoint_covers_is_removed_side_by_side() {
    for of in storages().1 {
        let (storage, most) = counting_removals(&of);
        let (log, _) = ObjectEpochLog::open(storage, "a").await.expect("a log");
        log.append(&started(1)).await.expect("an entry");
        for epoch in 1..=100 {
            log.append(&cut(epoch)).await.expect("an entry");
        }
        log.forget(98).await.expect("shortened");
        assert_eq!(most.load(Ordering::Relaxed), REMOVALS_AT_ONCE, "{}", of.place());
        let (_, entries) = ObjectEpochLog::open(of, "b").await.expect("a log");
        assert_eq!(entries, [started(1), cut(99), cut(100)]);
    }
}

/// Else those that are kept, as first objects of runs, would make room for them: what fences a run that sleeps since.
#[tokio::test]
async fn objects_that_are_removed_while_they_are_read_are_no_first_ones() {
    for storage in storages().1 {
        let (sleeping, _) = ObjectEpochLog::open(Arc::clone(&storage), "a").await.expect("a log");
        let (before, _) = ObjectEpochLog::open(Arc::clone(&storage), "b").await.expect("a log");
        before.append(&started(1)).await.expect("an entry");
        let epochs = STARTS_KEPT as u64 + 8;
        for epoch in 1..=epochs {
            before.append(&cut(epoch)).await.expect("an entry");
        }
        // The run before tidies up while this one opens the log; the newest object stays.
        let tidied = Arc::clone(&storage);
        let shrinking = Interrupted::storage(&storage, move |request| {
            let tidied = Arc::clone(&tidied);
            matches!(request, Request::Read).then_some(async move {
                for number in 2..=epochs {
                    tidied.remove(&name(number)).await?;
                }
                Ok(())
            })
        });
        let (own, entries) = ObjectEpochLog::open(shrinking, "c").await.expect("a log");
        assert_eq!(entries, [started(1), cut(epochs)], "{}", storage.place());
        own.append(&started(2)).await.expect("an entry");
        own.append(&cut(epochs + 1)).await.expect("an entry");
        own.forget(epochs).await.expect("shortened");
        let error = sleeping.append(&started(1)).await.expect_err("it has slept through two runs");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{}: {error}", storage.place());
    }
}

/// A run that sleeps may try the number of one that is damaged next.
#[tokio::test]
async fn an_object_that_is_damaged_is_replaced_when_nothing_of_the_log_is_needed() {
    for storage in storages().1 {
        let place = storage.place();
        let (sleeping, _) = ObjectEpochLog::open(Arc::clone(&storage), "a").await.expect("a log");
        let (before, _) = ObjectEpochLog::open(Arc::clone(&storage), "b").await.expect("a log");
        for entry in [started(1), cut(1), cut(2)] {
            before.append(&entry).await.expect("an entry");
        }
        for (damaged, anew) in [(1, false), (3, true)] {
            storage.remove(&name(damaged)).await.expect("removed");
            let content = Bytes::from_static(b"b\nno entry\n");
            storage.create(&name(damaged), content.clone()).await.expect("written");
            let error = ObjectEpochLog::open(Arc::clone(&storage), "c").await.expect_err("damaged");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{place}: {error}");
            let (own, entries, damage) =
                ObjectEpochLog::open_damaged(Arc::clone(&storage), "c", &mut ReadObjects::default())
                    .await
                    .expect("a log");
            assert!(damage.is_some() && !entries.is_empty(), "{place}: {entries:?}");
            assert_eq!(storage.read(&name(damaged)).await.expect("read"), Some(content), "{place}: as it was");
            own.append(&LogEntry::started(2, anew)).await.expect("an entry");
            if !anew {
                own.forget(0).await.expect("shortened");
            }
            ObjectEpochLog::open(Arc::clone(&storage), "d").await.expect("whole again");
        }
        let error = sleeping.append(&started(1)).await.expect_err("others have come since");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{place}: {error}");
    }
}

/// A request of who takes over comes so late that the run has gone on, and has removed what it had under the same number.
#[tokio::test]
async fn a_number_that_the_run_before_has_passed_is_no_beginning() {
    for storage in storages().1 {
        let (first, _) = ObjectEpochLog::open(Arc::clone(&storage), "a").await.expect("opened");
        for entry in [started(1), cut(1)] {
            first.append(&entry).await.expect("written");
        }
        let (late, _) = ObjectEpochLog::open(Arc::clone(&storage), "b").await.expect("opened");
        for entry in [cut(2), cut(3)] {
            first.append(&entry).await.expect("written");
        }
        first.forget(2).await.expect("removed");
        assert_eq!(storage.list(FOLDER).await.expect("listed").len(), 2, "the third number is free");
        let error = late.append(&started(2)).await.expect_err("the run goes on");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        first.append(&cut(4)).await.expect("nobody has taken over");
        let (next, entries) = ObjectEpochLog::open(Arc::clone(&storage), "c").await.expect("opened");
        assert_eq!(entries, [started(1), cut(3), cut(4)]);
        next.append(&started(2)).await.expect("written");
        assert_eq!(first.append(&cut(5)).await.expect_err("taken over").kind(), ErrorKind::Fenced);
    }
}

/// Another run takes over before who has just done so looks behind that object, which is all that keeps out the run before both.
#[tokio::test]
async fn a_first_object_that_another_run_has_followed_stays() {
    for of in storages().1 {
        let (paused, _) = ObjectEpochLog::open(Arc::clone(&of), "a").await.expect("opened");
        paused.append(&started(1)).await.expect("written");
        let (log, is_followed) = (Arc::clone(&of), Arc::new(AtomicBool::default()));
        let followed = Interrupted::storage(&of, move |request| {
            let (log, is_followed) = (Arc::clone(&log), Arc::clone(&is_followed));
            matches!(request, Request::List).then_some(async move {
                if log.read(&name(2)).await?.is_some() && !is_followed.swap(true, Ordering::Relaxed) {
                    let (next, _) = ObjectEpochLog::open(log, "c").await?;
                    for entry in [started(3), cut(1)] {
                        next.append(&entry).await?;
                    }
                }
                Ok(())
            })
        });
        let (late, _) = ObjectEpochLog::open(followed, "b").await.expect("opened");
        let error = late.append(&started(2)).await.expect_err("another one has taken over since");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        let error = paused.append(&cut(1)).await.expect_err("two have taken over since");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{}: {error}", of.place());
        let (_, entries) = ObjectEpochLog::open(of, "d").await.expect("opened");
        assert_eq!(entries, [started(1), started(2), started(3), cut(1)]);
    }
}

/// It has lost a race against a run that goes on, and must be quicker than its next entry.
#[tokio::test]
async fn who_opens_the_log_again_reads_what_has_come_since() {
    for of in storages().1 {
        let (before, _) = ObjectEpochLog::open(Arc::clone(&of), "a").await.expect("a log");
        for entry in [started(1), cut(1), cut(2)] {
            before.append(&entry).await.expect("an entry");
        }
        let reads = Arc::new(AtomicUsize::default());
        let counted = Arc::clone(&reads);
        let storage = Interrupted::storage(&of, move |request| {
            counted.fetch_add(usize::from(matches!(request, Request::Read)), Ordering::Relaxed);
            None::<std::future::Ready<Result<()>>>
        });
        let mut known = ReadObjects::default();
        let open = async |known: &mut ReadObjects| {
            let opened = ObjectEpochLog::open_damaged(Arc::clone(&storage), "b", known).await.expect("a log");
            (opened.0, opened.1, reads.swap(0, Ordering::Relaxed))
        };
        let (late, entries, read) = open(&mut known).await;
        assert_eq!((entries, read), (vec![started(1), cut(1), cut(2)], 3));
        before.append(&cut(3)).await.expect("an entry");
        late.append(&started(2)).await.expect_err("the run goes on");
        before.forget(1).await.expect("removed");
        let (next, entries, read) = open(&mut known).await;
        assert_eq!((entries, read), (vec![started(1), cut(2), cut(3)], 1), "{}", of.place());
        next.append(&started(2)).await.expect("an entry");
        before.append(&cut(4)).await.expect_err("it was taken over");
    }
}
