//! A checkpoint whose manifest is there, though its run does not know that all is well.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::test_storage::{Interrupted, Request};
use super::tests::{STAMP, assert_same, job, piece, read, storages, store};
use crate::contracts::{Error, ErrorKind};

/// The last one of a run is tried twice: the second time must not meet the first.
#[tokio::test]
async fn a_look_that_fails_behind_the_manifest_takes_its_number_only() {
    for inner in storages().1 {
        // So many requests to list have no answer.
        let silent = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&silent);
        let storage = Interrupted::storage(&inner, move |request| {
            let less = |left: usize| left.checked_sub(1);
            let is_silent = matches!(request, Request::List)
                && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
            is_silent.then_some(async { Err(Error::unavailable("no answer")) })
        });
        let place = storage.place();
        let mut own = store(&storage, "own");
        own.commit(&job(7, vec![piece(1, 0..20, &[])]), 7, STAMP).await.expect("committed");
        let wanted = job(8, vec![piece(1, 0..20, &[3]), piece(2, 20..30, &[])]);
        silent.store(1, Ordering::Relaxed);
        let error = own.commit(&wanted, 8, STAMP).await.expect_err("it is not known whether it is the newest");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{place}: {error}");
        let committed = own.commit(&wanted, 8, STAMP).await.unwrap_or_else(|e| panic!("{place}: {e}"));
        assert_eq!(committed.number, 3, "{place}");
        own.sweep().await.expect("tidied");
        assert_same(&read(&storage).await.expect("whole").expect("there"), &wanted, &place);
        // Of two that go on from there, one is fenced as ever.
        let (mut one, mut two) = (store(&storage, "one"), store(&storage, "two"));
        for next in [&mut one, &mut two] {
            let manifest = next.latest().await.expect("readable").expect("there");
            next.load(&manifest).await.expect("loaded");
        }
        silent.store(1, Ordering::Relaxed);
        one.commit(&job(9, vec![]), 9, STAMP).await.expect_err("no answer");
        let error = two.commit(&job(9, vec![]), 9, STAMP).await.expect_err("the number is taken");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{place}: {error}");
        one.commit(&job(9, vec![]), 9, STAMP).await.expect("it goes on");
    }
}
