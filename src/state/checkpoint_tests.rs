//! A checkpoint whose manifest is there, though its run does not know that all is well.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::tests::{STAMP, assert_same, job, piece, read, storages, store};
use crate::contracts::{Created, Error, ErrorKind, Result, Storage};

/// A storage that does not answer the next requests to list.
#[derive(Debug)]
struct Unlisted {
    inner: Arc<dyn Storage>,
    silent: AtomicUsize,
}

#[async_trait]
impl Storage for Unlisted {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn create(&self, name: &str, content: Bytes) -> Result<Created> {
        self.inner.create(name, content).await
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        self.inner.read(name).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let less = |silent: usize| silent.checked_sub(1);
        if self.silent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            return Err(Error::unavailable("no answer"));
        }
        self.inner.list(folder).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.inner.remove(name).await
    }
}

/// The last one of a run is tried twice: the second time must not meet the first.
#[tokio::test]
async fn a_look_that_fails_behind_the_manifest_takes_its_number_only() {
    for inner in storages().1 {
        let unlisted = Arc::new(Unlisted { inner, silent: AtomicUsize::new(0) });
        let storage: Arc<dyn Storage> = Arc::clone(&unlisted) as _;
        let place = storage.place();
        let mut own = store(&storage, "own");
        own.commit(&job(7, vec![piece(1, 0..20, &[])]), 7, STAMP).await.expect("committed");
        let wanted = job(8, vec![piece(1, 0..20, &[3]), piece(2, 20..30, &[])]);
        unlisted.silent.store(1, Ordering::Relaxed);
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
        unlisted.silent.store(1, Ordering::Relaxed);
        one.commit(&job(9, vec![]), 9, STAMP).await.expect_err("no answer");
        let error = two.commit(&job(9, vec![]), 9, STAMP).await.expect_err("the number is taken");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{place}: {error}");
        one.commit(&job(9, vec![]), 9, STAMP).await.expect("it goes on");
    }
}
