//! Versions of reference tables: written once, found by those who repeat epochs, whole or told, and there for as long as anybody may
//! ask for them, but not longer. Everything on a folder and on an object store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use bytes::Bytes;

use super::checkpoints::CheckpointStore;
use super::tests::{STAMP, job, piece, rows, storages, store};
use super::{Manifest, ReferenceVersions};
use crate::contracts::{EpochCut, ErrorKind, LogEntry, Storage};

fn cut(epoch: u64, weights: &str) -> LogEntry {
    LogEntry::Cut(EpochCut { epoch, generation: 1, now_ms: 5, references: named(weights), ..EpochCut::default() })
}

fn named(digest: &str) -> BTreeMap<String, String> {
    [("weights".to_owned(), digest.to_owned())].into()
}

/// The table has these rows from an epoch on. Answers their digest.
async fn has(store: &CheckpointStore, epoch: u64, rows: &RecordBatch) -> String {
    let digest = store.references().keep("weights", rows).await.expect("kept");
    store.references().note(epoch, &named(&digest));
    digest
}

/// A checkpoint, from which epochs after `epoch - 2` are repeated.
async fn checkpoint(store: &mut CheckpointStore, epoch: u64) {
    store.commit(&job(epoch, vec![piece(1, 0..9, &[])]), epoch - 2, STAMP).await.expect("committed");
    store.sweep().await.expect("swept");
}

async fn files(storage: &Arc<dyn Storage>) -> BTreeSet<String> {
    storage.list("references").await.expect("listed").into_iter().collect()
}

/// Digests of the versions that are there.
async fn digests(storage: &Arc<dyn Storage>) -> BTreeSet<String> {
    let digest = |name: &String| name.rsplit('-').nth(2).expect("a digest").to_owned();
    files(storage).await.iter().map(digest).collect()
}

#[track_caller]
fn set<const N: usize>(digests: [&String; N]) -> BTreeSet<String> {
    digests.into_iter().cloned().collect()
}

async fn loaded(versions: &ReferenceVersions, digest: &str, like: &RecordBatch) -> RecordBatch {
    versions.load(digest, &like.schema(), None).await.expect("readable").expect("there and whole")
}

/// A run that goes on from the newest checkpoint and this log.
async fn later(storage: &Arc<dyn Storage>, nonce: &str, log: &[LogEntry]) -> CheckpointStore {
    let mut own = store(storage, nonce);
    let newest = own.latest().await.expect("readable");
    if let Some(newest) = &newest {
        own.load(newest).await.expect("loaded");
    }
    own.references().adopt(newest.as_ref(), log).await.expect("adopted");
    own
}

#[tokio::test]
async fn a_version_is_written_once_and_found_by_who_repeats_its_epochs() {
    for storage in storages().1 {
        let own = later(&storage, "a", &[]).await;
        let (first, second) = (rows(0..20), rows(5..9));
        let one = has(&own, 1, &first).await;
        assert_eq!(has(&own, 2, &first).await, one);
        let two = has(&own, 3, &second).await;
        assert_ne!(one, two);
        assert_eq!(files(&storage).await.len(), 2, "{}", storage.place());
        // Killed: nothing but the log names them.
        let log = [cut(1, &one), cut(2, &one), cut(3, &two)];
        let next = later(&storage, "b", &log).await;
        for (digest, rows) in [(&one, &first), (&two, &second), (&one, &first)] {
            assert_eq!(&loaded(next.references(), digest, rows).await, rows, "{}", storage.place());
        }
        assert_eq!(has(&next, 4, &second).await, two);
        assert_eq!(files(&storage).await.len(), 2, "what is there is not written again");
        let fewer = second.project(&[1]).expect("a column");
        assert_eq!(loaded(next.references(), &two, &fewer).await, fewer);
        let other = RecordBatch::try_from_iter([("m", Arc::new(Int64Array::from(vec![1])) as _)]).expect("a batch");
        let error = next.references().load(&two, &other.schema(), None).await.expect_err("a column more");
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains("'m'"), "{error}");
        let error = next.references().load(&two, &second.schema(), Some(100)).await.expect_err("too large");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("--memory")), "{error}");
    }
}

#[tokio::test]
async fn a_large_version_lies_in_several_files_and_all_must_be_there() {
    for storage in storages().1 {
        let own = later(&storage, "a", &[]).await;
        let rows = rows(0..200_000);
        let digest = has(&own, 1, &rows).await;
        let names = files(&storage).await;
        assert!(names.len() > 1, "{names:?}");
        let next = later(&storage, "b", &[cut(1, &digest)]).await;
        assert_eq!(loaded(next.references(), &digest, &rows).await, rows);
        storage.remove(names.last().expect("a file")).await.expect("removed");
        for versions in [next.references(), later(&storage, "c", &[cut(1, &digest)]).await.references()] {
            let error =
                versions.load(&digest, &rows.schema(), None).await.expect("an answer").expect_err("a part is gone");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
        // Written once more, as a whole.
        let again = later(&storage, "d", &[cut(1, &digest)]).await;
        assert_eq!(has(&again, 1, &rows).await, digest);
        assert_eq!(loaded(again.references(), &digest, &rows).await, rows);
    }
}

#[tokio::test]
async fn damage_anywhere_is_told_with_what_to_do() {
    let (folder, storages) = storages();
    let own = later(&storages[0], "a", &[]).await;
    let rows = rows(0..20);
    let digest = has(&own, 1, &rows).await;
    let path = folder.path().join("job").join(files(&storages[0]).await.first().expect("a file"));
    let whole = std::fs::read(&path).expect("readable");
    let next = later(&storages[0], "b", &[cut(1, &digest)]).await;
    let mut damaged: Vec<Vec<u8>> = (0..whole.len())
        .step_by(7)
        .map(|at| {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            damaged
        })
        .collect();
    damaged.extend([Vec::new(), whole[..whole.len() / 2].to_vec()]);
    for damaged in damaged {
        std::fs::write(&path, damaged).expect("written");
        let found = next.references().load(&digest, &rows.schema(), None).await.expect("an answer");
        let error = found.expect_err("it is damaged");
        let told = error.to_string().contains("is damaged") && error.to_string().contains(".arrow");
        assert!(error.kind() == ErrorKind::Corrupt && told, "{error}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("put the table's own files back")), "{error}");
    }
    std::fs::remove_file(&path).expect("removed");
    let error =
        next.references().load(&digest, &rows.schema(), None).await.expect("an answer").expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    std::fs::write(&path, &whole).expect("written");
    assert_eq!(loaded(next.references(), &digest, &rows).await, rows);
    // Found to be damaged, and there again with other help: it is written once more, and the damaged file goes.
    std::fs::write(&path, &whole[1..]).expect("written");
    let mut next = later(&storages[0], "c", &[cut(1, &digest)]).await;
    next.references().load(&digest, &rows.schema(), None).await.expect("an answer").expect_err("it is damaged");
    assert_eq!(has(&next, 1, &rows).await, digest);
    assert_eq!(loaded(next.references(), &digest, &rows).await, rows);
    checkpoint(&mut next, 3).await;
    assert!(!path.exists() && files(&storages[0]).await.len() == 1);
}

#[tokio::test]
async fn what_may_be_asked_for_stays_and_the_rest_goes() {
    for storage in storages().1 {
        let place = storage.place();
        // Two checkpoints are kept, and epochs since two before the newest are repeated.
        let mut own = later(&storage, "a", &[]).await;
        let a = has(&own, 1, &rows(0..1)).await;
        checkpoint(&mut own, 10).await;
        let b = has(&own, 11, &rows(0..2)).await;
        let c = has(&own, 12, &rows(0..3)).await;
        checkpoint(&mut own, 12).await;
        assert_eq!(digests(&storage).await, set([&a, &b, &c]), "{place}: `a` is an earlier checkpoint's");
        assert_eq!(own.latest().await.expect("readable").expect("there").references["weights"].digest, c);
        checkpoint(&mut own, 20).await;
        assert_eq!(digests(&storage).await, set([&c]), "{place}: nobody repeats the others' epochs");
        // A savepoint keeps its own.
        own.save_as(&own.latest().await.expect("readable").expect("there"), "kept").await.expect("saved");
        let d = has(&own, 21, &rows(0..4)).await;
        for epoch in [30, 40, 50] {
            checkpoint(&mut own, epoch).await;
        }
        assert_eq!(digests(&storage).await, set([&c, &d]), "{place}");
        // Gone back to it, in another run; the newest of its log may not be forgotten meanwhile.
        let mut back = store(&storage, "b");
        let savepoint = back.savepoint("kept").await.expect("there");
        let newest = back.newest_number().await.expect("listed");
        let rewound = back.rewind(&savepoint, "savepoint kept", newest, 99, STAMP).await.expect("rewound");
        back.load(&rewound).await.expect("loaded");
        back.references().adopt(Some(&rewound), &[]).await.expect("adopted");
        assert_eq!(loaded(back.references(), &c, &rows(0..3)).await, rows(0..3), "{place}");
        let before = files(&storage).await;
        assert_eq!(has(&back, 100, &rows(0..3)).await, c);
        assert_eq!(files(&storage).await, before, "{place}: it is named, so it is not written again");
        for epoch in [110, 120, 130] {
            checkpoint(&mut back, epoch).await;
        }
        assert_eq!(digests(&storage).await, set([&c]), "{place}");
        back.drop_savepoint("kept").await.expect("dropped");
        has(&back, 131, &rows(0..5)).await;
        for epoch in [140, 150] {
            checkpoint(&mut back, epoch).await;
        }
        assert!(!digests(&storage).await.contains(&c), "{place}");
        back.clear().await.expect("cleared");
    }
}

#[tokio::test]
async fn a_version_that_a_log_alone_names_outlives_checkpoints_of_others() {
    for storage in storages().1 {
        let mut own = later(&storage, "a", &[]).await;
        let a = has(&own, 1, &rows(0..1)).await;
        checkpoint(&mut own, 10).await;
        let b = has(&own, 11, &rows(0..2)).await;
        let torn = "references/3-a-0000-0-2.arrow";
        storage.create(torn, Bytes::from_static(b"torn")).await.expect("made");
        // The next run repeats epochs 9 to 12, and makes no checkpoint before it has.
        let log: Vec<LogEntry> =
            [(9, &a), (10, &a), (11, &b), (12, &b)].map(|(epoch, digest)| cut(epoch, digest)).into();
        let mut next = later(&storage, "b", &log).await;
        next.sweep().await.expect("swept");
        assert!(digests(&storage).await.is_superset(&set([&a, &b])), "{}", storage.place());
        let c = has(&next, 13, &rows(0..3)).await;
        checkpoint(&mut next, 13).await;
        checkpoint(&mut next, 20).await;
        checkpoint(&mut next, 30).await;
        assert_eq!(digests(&storage).await, set([&c]), "{}: what was torn is gone, too", storage.place());
    }
}

#[tokio::test]
async fn a_run_that_was_taken_over_removes_nothing_of_its_successor() {
    for storage in storages().1 {
        let mut stale = later(&storage, "a", &[]).await;
        let a = has(&stale, 1, &rows(0..1)).await;
        checkpoint(&mut stale, 10).await;
        let b = has(&stale, 11, &rows(0..2)).await;
        checkpoint(&mut stale, 20).await;
        // Its successor goes on, and content comes back that the stale run has done with.
        let mut next = store(&storage, "b");
        let newest = next.latest().await.expect("readable");
        let own = next
            .take_over(newest.as_ref(), newest.as_ref().expect("there").number, 20, STAMP)
            .await
            .expect("taken over");
        assert_eq!(own.references["weights"].digest, b);
        next.load(&own).await.expect("loaded");
        next.references().adopt(Some(&own), &[]).await.expect("adopted");
        assert_eq!(has(&next, 21, &rows(0..1)).await, a);
        let doubled = files(&storage).await.iter().filter(|name| name.contains(&a)).count();
        assert_eq!(doubled, 2, "{}: under a name that nobody is about to remove", storage.place());
        let before = files(&storage).await;
        let fenced = stale.commit(&job(30, vec![]), 28, STAMP).await.expect_err("fenced");
        assert_eq!(fenced.kind(), ErrorKind::Fenced, "{fenced}");
        stale.sweep().await.expect("swept");
        assert!(files(&storage).await.is_superset(&before), "{}", storage.place());
        // A request of the stale run that comes late.
        let old = before.iter().find(|name| name.contains(&a) && name.starts_with("references/1-a-")).expect("its own");
        storage.remove(old).await.expect("removed");
        assert_eq!(loaded(next.references(), &a, &rows(0..1)).await, rows(0..1), "{}", storage.place());
    }
}

#[tokio::test]
async fn they_move_to_another_store_with_their_checkpoint() {
    let (_folder, storages) = storages();
    let mut from = later(&storages[0], "a", &[]).await;
    let digest = has(&from, 1, &rows(0..20)).await;
    checkpoint(&mut from, 10).await;
    let manifest = from.latest().await.expect("readable").expect("there");
    from.copy_to(&manifest, &mut store(&storages[1], "b"), 0, 10, STAMP).await.expect("copied");
    let moved = later(&storages[1], "c", &[]).await;
    assert_eq!(loaded(moved.references(), &digest, &rows(0..20)).await, rows(0..20));
}

/// As programs wrote them that kept no versions.
#[test]
fn cuts_and_manifests_of_before_are_read() {
    let cut = r#"{"cut":{"epoch":7,"generation":2,"now_ms":1790000000000,"splits":[{"feed":"events","split":"shardId-0","records":3,"after":"12"}],"tables":[]}}"#;
    let LogEntry::Cut(cut) = serde_json::from_str(cut).expect("readable") else { panic!("no cut") };
    assert_eq!((cut.epoch, cut.references), (7, BTreeMap::new()));
    let manifest = r#"{
  "version": 3,
  "program": "tidemill 0.1.0",
  "number": 4,
  "nonce": "00ff",
  "generation": 2,
  "time_ms": 1790000000000,
  "epoch": 6,
  "log_after": 5,
  "tables": {},
  "queries": {}"#;
    let digest = super::hex_digest(manifest.as_bytes());
    let sealed = format!("{manifest},\n  \"checksum\": \"{digest}\"\n}}\n");
    let parsed = Manifest::parse(sealed.as_bytes(), "4").expect("readable");
    assert_eq!((parsed.number, &parsed.references), (4, &BTreeMap::new()));
    assert_eq!(parsed.text().expect("written"), sealed.into_bytes(), "without versions nothing has changed");
}
