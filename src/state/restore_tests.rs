//! Files of a checkpoint are read side by side, within bounds, and looked at when somebody asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::saved::SavedJob;
use super::spill_folder::SpillFolder;
use super::tests::{STAMP, assert_same, job, piece, read, storages, store};
use crate::contracts::{Created, ErrorKind, Result, Storage};

/// A storage that counts how many state files are read at a time.
#[derive(Debug)]
struct Counting {
    inner: Arc<dyn Storage>,
    reading: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl Storage for Counting {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn create(&self, name: &str, content: Bytes) -> Result<Created> {
        self.inner.create(name, content).await
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        self.most.fetch_max(self.reading.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // Time for others to begin.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        let content = self.inner.read(name).await;
        self.reading.fetch_sub(1, Ordering::SeqCst);
        content
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.inner.list(folder).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.inner.remove(name).await
    }
}

/// Queries of one small file each (and one for what their sinks have not written), or of several.
fn saved(queries: usize) -> SavedJob {
    let one = job(9, vec![piece(1, 0..100, &[3])]);
    let (_, query) = one.queries.first_key_value().expect("one");
    let queries: BTreeMap<_, _> = (0..queries).map(|n| (format!("q{n}"), query.clone())).collect();
    SavedJob { queries, ..one }
}

#[tokio::test]
async fn files_of_all_operators_are_read_side_by_side() {
    for inner in storages().1 {
        let mut writer = store(&inner, "writer");
        writer.commit(&saved(6), 0, STAMP).await.expect("committed");
        let newest = writer.latest().await.expect("listed").expect("one");
        let counting = Arc::new(Counting { inner, reading: AtomicUsize::new(0), most: AtomicUsize::new(0) });
        let storage: Arc<dyn Storage> = counting.clone();
        let loaded = store(&storage, "reader").load(&newest).await.expect("loaded");
        assert_eq!(loaded.queries.len(), 6);
        let most = counting.most.swap(0, Ordering::SeqCst);
        assert!((4..=8).contains(&most), "{most} files at once from {}", counting.place());
        // With room for little, one after the other.
        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 1).expect("created");
        let tight = store(&storage, "reader").spilling(folder, 0).load(&newest).await.expect("loaded");
        assert_eq!(tight.queries.len(), 6);
        assert_eq!(counting.most.load(Ordering::SeqCst), 1, "{}", counting.place());
    }
}

#[tokio::test]
async fn each_file_that_is_missing_or_damaged_is_found() {
    for storage in storages().1 {
        let mut writer = store(&storage, "writer");
        writer.commit(&saved(2), 0, STAMP).await.expect("committed");
        let newest = writer.latest().await.expect("listed").expect("one");
        writer.verify(&newest).await.expect("as it was written");
        let files: Vec<_> = newest.files().cloned().collect();
        assert_eq!(files.len(), 6, "rows, dead rows and unwritten rows of two queries");
        for file in files {
            let content = storage.read(&file.name).await.expect("read").expect("there");
            storage.remove(&file.name).await.expect("removed");
            let missing = writer.verify(&newest).await.expect_err("missing");
            assert!(
                missing.to_string().contains(&file.name) && missing.to_string().contains("is missing"),
                "{missing}"
            );
            let mut damaged = content.to_vec();
            damaged[content.len() / 2] ^= 1;
            storage.create(&file.name, damaged.into()).await.expect("created");
            for error in [
                writer.verify(&newest).await.expect_err("damaged"),
                store(&storage, "reader").load(&newest).await.expect_err("damaged"),
            ] {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(
                    error.to_string().contains(&file.name) && error.to_string().contains("--previous-checkpoint"),
                    "{error}"
                );
            }
            storage.remove(&file.name).await.expect("removed");
            storage.create(&file.name, content).await.expect("created");
        }
        writer.verify(&newest).await.expect("as it was written");
    }
}

/// Seed 1056 of the simulation, once: pieces had gone from a file that was kept for another one, and the next run, which counts its own on from the last one
/// that it knows, gave a new piece the number of one of them. That counted as stored, and the old one came back instead.
#[tokio::test]
async fn a_new_piece_is_not_taken_for_one_that_has_gone_from_a_kept_file() {
    for storage in storages().1 {
        let mut first = store(&storage, "first");
        let kept = piece(1, 0..100, &[]);
        first.commit(&job(7, vec![kept.clone(), piece(2, 100..110, &[])]), 0, STAMP).await.expect("committed");
        first.commit(&job(8, vec![kept.clone()]), 0, STAMP).await.expect("committed");
        let mut second = store(&storage, "second");
        let newest = second.latest().await.expect("listed").expect("one");
        second.load(&newest).await.expect("loaded");
        let wanted = job(9, vec![kept, piece(2, 500..510, &[])]);
        second.commit(&wanted, 0, STAMP).await.expect("committed");
        let found = read(&storage).await.expect("read").expect("one");
        assert_same(&found, &wanted, &storage.place());
    }
}
