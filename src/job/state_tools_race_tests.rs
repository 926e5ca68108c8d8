//! The tools against a job that goes on appending to its log.

use std::sync::atomic::{AtomicU64, Ordering};

use super::tests::{failed, saved};
use super::*;
use crate::contracts::{Storage, SystemClock, splitmix64};
use crate::state::test_storage::Interrupted;
use crate::state::{LocalStorage, ObjectEpochLog};

/// Its log has many entries by then, and it appends another one with one in four requests of the tools, by chance.
#[tokio::test]
async fn a_job_with_small_epochs_is_gone_back_from() {
    let folder = tempfile::tempdir().expect("a folder");
    let of: Arc<dyn Storage> = Arc::new(LocalStorage::new(folder.path().join("job")));
    let (log, _) = ObjectEpochLog::open(Arc::clone(&of), "job").await.expect("a log");
    let mut job = CheckpointStore::new(Arc::clone(&of), "job", 1);
    job.commit(&saved(1, &[("job:counts", 1)]), 1, Stamp { generation: 1, time_ms: 0 }).await.expect("committed");
    log.append(&LogEntry::started(1, false)).await.expect("an entry");
    for epoch in 2..60 {
        log.append(&failed(epoch)).await.expect("an entry");
    }
    let (log, requests, ended) = (Arc::new(log), AtomicU64::default(), Arc::new(AtomicU64::default()));
    let (appends, ends) = (Arc::clone(&log), Arc::clone(&ended));
    let busy = Interrupted::storage(&of, move |_| {
        let request = requests.fetch_add(1, Ordering::SeqCst);
        let (log, ended) = (Arc::clone(&appends), Arc::clone(&ends));
        splitmix64(request).is_multiple_of(4).then_some(async move {
            let appended = log.append(&failed(60 + request)).await;
            ended.fetch_max(if appended.is_ok() { 60 + request } else { 0 }, Ordering::SeqCst);
            Ok(())
        })
    });
    let store = CheckpointStore::new(busy, "tools", KEPT);
    let mut tools = StateTools { store, locked: None, clock: Arc::new(SystemClock::new()), outside: None };
    tools.rewind("latest").await.expect("it is gone back to");
    let error = log.append(&failed(1_000)).await.expect_err("it was taken over");
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    let newest = tools.store.latest().await.expect("found").expect("there is one");
    let last = ended.load(Ordering::SeqCst);
    assert!(last > 60 && newest.epoch > last, "epoch {} after {last}", newest.epoch);
}
