//! A checkpoint is the whole one or an error that says what to do; two runs never have the same; nothing that is named
//! is removed. Everything on a folder and on an object store.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray, StringViewArray};
use arrow::buffer::BooleanBuffer;
use bytes::Bytes;
use object_store::memory::InMemory;

use super::checkpoints::{CheckpointStore, Stamp};
use super::saved::{OperatorState, Reread, SavedJob, SavedQuery, SavedSplit, SavedTable, StatePiece};
use super::{LocalStorage, MANIFEST_VERSIONS, Manifest, ObjectEpochLog, ObjectStorage};
use crate::contracts::{
    Created, EpochCut, EpochLog, ErrorKind, LogEntry, ManualClock, Storage, SystemClock, Watermark,
};

pub(super) const STAMP: Stamp = Stamp { generation: 1, time_ms: 1_790_000_000_000 };

pub(super) fn rows(values: std::ops::Range<i64>) -> RecordBatch {
    let texts: StringArray = values.clone().map(|v| Some(format!("text {v}"))).collect();
    let views: StringViewArray = values.clone().map(|v| Some(format!("a longer text, for a view: {v}"))).collect();
    let numbers: Int64Array = values.collect();
    let columns: [(&str, arrow::array::ArrayRef); 3] =
        [("n", Arc::new(numbers)), ("t", Arc::new(texts)), ("v", Arc::new(views))];
    RecordBatch::try_from_iter(columns).expect("a batch")
}

pub(super) fn piece(id: u64, values: std::ops::Range<i64>, dead: &[usize]) -> StatePiece {
    let batch = rows(values);
    let dead = (!dead.is_empty()).then(|| BooleanBuffer::collect_bool(batch.num_rows(), |row| dead.contains(&row)));
    StatePiece { id, rows: batch.into(), dead }
}

pub(super) fn job(epoch: u64, pieces: Vec<StatePiece>) -> SavedJob {
    let (after_exclusive, version) = (Some("4711".to_owned()), Some("\"e-tag\"".to_owned()));
    let split =
        SavedSplit { after_exclusive, from_ms: None, watermark_ms: 17, finished: false, version, gone_ms: None };
    let table = SavedTable {
        splits: BTreeMap::from([("shardId-0".to_owned(), split)]),
        floor: i64::MIN,
        source: Some("made 2026".to_owned()),
    };
    let tables = BTreeMap::from([("events".to_owned(), table)]);
    let operator = |pieces| OperatorState { fingerprint: "f".to_owned(), watermark: Some(Watermark(3)), pieces };
    let query = SavedQuery {
        plan: "Projection: x".to_owned(),
        reads: vec!["events".to_owned()],
        refusal_rules: "0a".to_owned(),
        durable_epoch: epoch - 1,
        operators: vec![operator(pieces), operator(vec![])],
        unwritten: Some(operator(vec![piece(4, 0..3, &[])])),
        sink: Some("what the sink knows".to_owned()),
    };
    let reread = Some(Reread { after_epoch: epoch - 2, tables: tables.clone(), oldest_ms: None, catch_up: None });
    SavedJob { epoch, tables, queries: BTreeMap::from([("a.sql:counts/by day".to_owned(), query)]), reread }
}

/// A folder and an object store; the folder goes with the first value.
pub(super) fn storages() -> (tempfile::TempDir, Vec<Arc<dyn Storage>>) {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = Arc::new(SystemClock::new());
    let objects = ObjectStorage::new(Arc::new(InMemory::new()), "a/prefix", "s3://b/a/prefix", clock);
    let local = LocalStorage::new(folder.path().join("job"));
    (folder, vec![Arc::new(local), Arc::new(objects)])
}

pub(super) fn store(storage: &Arc<dyn Storage>, nonce: &str) -> CheckpointStore {
    CheckpointStore::new(Arc::clone(storage), nonce, 2)
}

/// What the newest checkpoint has, read by a run that knows nothing.
pub(super) async fn read(storage: &Arc<dyn Storage>) -> crate::contracts::Result<Option<SavedJob>> {
    let mut store = store(storage, "reader");
    match store.latest().await? {
        Some(manifest) => store.load(&manifest).await.map(Some),
        None => Ok(None),
    }
}

pub(super) fn operators(job: &SavedJob) -> Vec<String> {
    let states = job.queries.values().flat_map(|query| query.operators.iter().chain(&query.unwritten));
    states
        .map(|state| {
            let dead = |piece: &StatePiece| piece.dead.as_ref().map(|dead| dead.set_indices().collect::<Vec<_>>());
            let piece = |piece: &StatePiece| format!("{} {:?} dead {:?}", piece.id, piece.rows, dead(piece));
            let pieces: Vec<String> = state.pieces.iter().map(piece).collect();
            format!("{} {:?} {}", state.fingerprint, state.watermark, pieces.join("; "))
        })
        .collect()
}

/// Everything of it, as text.
fn shown(job: &SavedJob) -> String {
    let plans: Vec<_> =
        job.queries.iter().map(|(name, query)| (name, &query.plan, query.durable_epoch, &query.sink)).collect();
    format!("{} {:?} {:?} {plans:?} {:?}", job.epoch, job.tables, job.reread, operators(job))
}

#[track_caller]
pub(super) fn assert_same(found: &SavedJob, wanted: &SavedJob, place: &str) {
    assert!(shown(found) == shown(wanted), "{place}: another state of epoch {} was read", wanted.epoch);
}

#[tokio::test]
async fn storages_keep_their_contract() {
    for storage in storages().1 {
        let place = storage.place();
        assert_eq!(storage.list("x").await.expect("no folder is no error"), Vec::<String>::new());
        assert_eq!(storage.read("x/1").await.expect("no object is no error"), None);
        let one = Bytes::from_static(b"one");
        assert_eq!(storage.create("x/1", one.clone()).await.expect("made"), Created::New, "{place}");
        assert_eq!(storage.create("x/1", one.clone()).await.expect("the same"), Created::New, "{place}");
        assert_eq!(storage.create("x/1", "two".into()).await.expect("another"), Created::Taken, "{place}");
        assert_eq!(storage.read("x/1").await.expect("read"), Some(one), "{place}");
        storage.create("x/below/2", Bytes::new()).await.expect("made");
        storage.create("xy", Bytes::new()).await.expect("made");
        assert_eq!(storage.list("x").await.expect("listed"), ["x/1"], "{place}");
        storage.remove("x/1").await.expect("removed");
        storage.remove("x/1").await.expect("gone already");
        assert_eq!(storage.list("x").await.expect("listed"), Vec::<String>::new(), "{place}");
    }
}

#[tokio::test]
async fn of_many_that_create_a_name_one_wins() {
    for storage in storages().1 {
        let made = (0..16).map(|n| {
            let storage = Arc::clone(&storage);
            tokio::spawn(async move { storage.create("m/1", format!("content {n}").into()).await })
        });
        let mut won = 0;
        for made in futures::future::join_all(made).await {
            won += usize::from(made.expect("no panic").expect("an answer") == Created::New);
        }
        assert_eq!(won, 1, "{}", storage.place());
    }
}

#[tokio::test]
async fn what_was_committed_is_read_and_the_newest_wins() {
    for storage in storages().1 {
        let mut own = store(&storage, "a");
        assert!(read(&storage).await.expect("no checkpoint is no error").is_none());
        let mut pieces = vec![piece(1, 0..20, &[])];
        for epoch in 7..30 {
            // A piece comes each time, rows of the older ones die, and the oldest go.
            let id = epoch - 5;
            pieces.push(piece(id, 0..10, &[]));
            let dead: Vec<usize> = (0..usize::try_from(epoch % 5).expect("small")).collect();
            pieces[0] = piece(pieces[0].id, if pieces[0].id == 1 { 0..20 } else { 0..10 }, &dead);
            if epoch % 6 == 0 {
                pieces.remove(0);
            }
            let job = job(epoch, pieces.clone());
            let committed = own.commit(&job, epoch - 2, STAMP).await.expect("committed");
            own.sweep().await.expect("swept");
            assert_eq!(committed.number, epoch - 6);
            let found = read(&storage).await.expect("readable").expect("a checkpoint");
            assert_same(&found, &job, &storage.place());
        }
        assert_eq!(own.numbers().await.expect("numbers"), [22, 23]);
        let (first, second) = (own.manifest(22).await.expect("kept"), own.manifest(23).await.expect("kept"));
        let mut named: Vec<String> = first.files().chain(second.files()).map(|file| file.name.clone()).collect();
        named.sort();
        named.dedup();
        let mut found = storage.list("state").await.expect("listed");
        found.sort();
        assert_eq!(found, named, "nothing else is left");
    }
}

#[tokio::test]
async fn only_what_is_new_is_written_also_by_a_later_run() {
    for storage in storages().1 {
        let mut own = store(&storage, "a");
        let mut pieces = vec![piece(1, 0..50_000, &[])];
        let first = own.commit(&job(7, pieces.clone()), 7, STAMP).await.expect("committed");
        assert!(first.written_bytes > 1_000_000, "{first:?}");
        pieces.push(piece(2, 0..10, &[]));
        pieces[0] = piece(1, 0..50_000, &[3, 4, 5]);
        let second = own.commit(&job(8, pieces.clone()), 8, STAMP).await.expect("committed");
        assert!(second.written_bytes < 30_000, "{second:?}");
        assert!(second.total_bytes > first.total_bytes);
        let mut later = store(&storage, "b");
        let newest = later.latest().await.expect("readable").expect("there");
        let restored = later.load(&newest).await.expect("loaded");
        assert_same(&restored, &job(8, pieces), &storage.place());
        let third = later.commit(&restored, 8, STAMP).await.expect("committed");
        assert!(third.written_bytes < 10_000, "{third:?}");
    }
}

#[tokio::test]
async fn a_large_piece_lies_in_several_files() {
    for storage in storages().1 {
        let mut own = store(&storage, "a");
        let job = job(7, vec![piece(3, 0..700_000, &[1]), piece(4, 0..10, &[])]);
        own.commit(&job, 7, STAMP).await.expect("committed");
        let manifest = own.latest().await.expect("readable").expect("there");
        let files = &manifest.queries.values().next().expect("a query").operators[0].files;
        assert!(files.len() > 1 && files.iter().all(|file| file.bytes < 40 << 20), "{files:?}");
        let found = read(&storage).await.expect("readable").expect("a checkpoint");
        let [found, wanted] = [&found, &job].map(|job| &job.queries["a.sql:counts/by day"].operators[0].pieces);
        assert_eq!(found.len(), 2);
        assert!(found.iter().zip(wanted).all(|(a, b)| a.id == b.id
            && a.rows.load().expect("rows") == b.rows.load().expect("rows")
            && a.dead == b.dead));
    }
}

#[tokio::test]
async fn of_two_runs_on_one_checkpoint_one_goes_on() {
    for storage in storages().1 {
        let mut first = store(&storage, "a");
        first.commit(&job(7, vec![piece(1, 0..9, &[])]), 7, STAMP).await.expect("committed");
        let mut second = store(&storage, "b");
        let newest = second.latest().await.expect("readable").expect("there");
        let restored = second.load(&newest).await.expect("loaded");
        let stamp = Stamp { generation: 2, ..STAMP };
        second.commit(&restored, 7, stamp).await.expect("the second run was quicker");
        let error = first.commit(&job(8, vec![piece(1, 0..9, &[])]), 8, STAMP).await.expect_err("fenced");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        assert!(error.to_string().contains("run 2 is at checkpoint 2"), "{error}");
    }
}

#[tokio::test]
async fn a_number_that_was_removed_is_not_given_again() {
    for storage in storages().1 {
        let mut paused = store(&storage, "a");
        paused.commit(&job(7, vec![]), 7, STAMP).await.expect("committed");
        let mut other = store(&storage, "b");
        let newest = other.latest().await.expect("readable").expect("there");
        other.load(&newest).await.expect("loaded");
        for epoch in 8..14 {
            other.commit(&job(epoch, vec![piece(epoch, 0..9, &[])]), epoch, STAMP).await.expect("committed");
            other.sweep().await.expect("swept");
        }
        assert_eq!(other.numbers().await.expect("numbers"), [6, 7], "number 2 is free again");
        let error = paused.commit(&job(8, vec![]), 8, STAMP).await.expect_err("fenced");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        // What it tidies is its own: the other run's state is whole.
        paused.sweep().await.expect("swept");
        assert_eq!(other.numbers().await.expect("numbers"), [6, 7]);
        assert_eq!(read(&storage).await.expect("whole").expect("there").epoch, 13);
    }
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_found() {
    let (folder, storages) = storages();
    let mut own = store(&storages[0], "a");
    own.commit(&job(7, vec![piece(1, 0..20, &[2]), piece(2, 0..10, &[])]), 7, STAMP).await.expect("committed");
    let files: Vec<std::path::PathBuf> = ["manifests", "state"]
        .iter()
        .flat_map(|below| std::fs::read_dir(folder.path().join("job").join(below)).expect("a folder"))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let whole = std::fs::read(&file).expect("readable");
        // Every bit of a few hundred bytes in each file.
        let step = (whole.len() / 300).max(1);
        for at in (0..whole.len()).step_by(step) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            std::fs::write(&file, damaged).expect("written");
            let error = read(&storages[0]).await.err().unwrap_or_else(|| panic!("byte {at} of {}", file.display()));
            assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
            assert!(error.hint_text().is_some_and(|hint| hint.contains("--fresh")), "{error}");
        }
        std::fs::remove_file(&file).expect("removed");
        let missing = read(&storages[0]).await;
        assert!(matches!(missing, Err(_) | Ok(None)), "{} is missing", file.display());
        std::fs::write(&file, whole).expect("written");
    }
    read(&storages[0]).await.expect("whole again");
}

#[tokio::test]
async fn a_savepoint_outlives_clean_up() {
    for storage in storages().1 {
        let mut own = store(&storage, "a");
        own.commit(&job(7, vec![piece(1, 0..20, &[])]), 7, STAMP).await.expect("committed");
        let manifest = own.latest().await.expect("readable").expect("there");
        own.save_as(&manifest, "before-upgrade").await.expect("saved");
        assert!(own.save_as(&manifest, "../x").await.is_err());
        for epoch in 8..14 {
            own.commit(&job(epoch, vec![piece(epoch, 0..9, &[])]), epoch, STAMP).await.expect("committed");
            own.sweep().await.expect("swept");
        }
        let taken = own.save_as(&own.manifest(7).await.expect("kept"), "before-upgrade").await;
        assert!(taken.is_err_and(|e| e.to_string().contains("already")));
        let mut later = store(&storage, "b");
        assert_eq!(later.savepoints().await.expect("listed"), ["before-upgrade"]);
        let savepoint = later.savepoint("before-upgrade").await.expect("readable");
        let newest = later.newest_number().await.expect("listed");
        let rewound = later.rewind(&savepoint, "savepoint before-upgrade", newest, 99, STAMP).await.expect("rewound");
        assert_eq!((rewound.number, rewound.epoch, rewound.log_after), (8, 100, 99));
        let found = read(&storage).await.expect("whole").expect("there");
        assert_eq!(found.epoch, 100, "epochs are counted on");
        assert_eq!(found.queries["a.sql:counts/by day"].operators[0].pieces[0].rows.load().expect("rows"), rows(0..20));
        later.drop_savepoint("before-upgrade").await.expect("dropped");
        assert_eq!(later.savepoints().await.expect("listed"), Vec::<String>::new());
    }
}

#[test]
fn a_state_of_another_version_is_refused() {
    for version in [*MANIFEST_VERSIONS.start() - 1, *MANIFEST_VERSIONS.end() + 1] {
        let text = format!("{{\"version\": {version}, \"epoch\": 9, \"checksum\": \"\"}}");
        let error = Manifest::parse(text.as_bytes(), "1.json").expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&format!("has version {version}, this program reads 3 to 5")), "{error}");
    }
}

fn cut(epoch: u64) -> LogEntry {
    LogEntry::Cut(EpochCut { epoch, generation: 1, now_ms: 5, ..EpochCut::default() })
}

fn started(generation: u64) -> LogEntry {
    LogEntry::started(generation, false)
}

#[tokio::test]
async fn entries_of_a_log_in_objects_keep_their_order() {
    for storage in storages().1 {
        let (log, entries) = ObjectEpochLog::open(Arc::clone(&storage), "a").await.expect("a log");
        assert_eq!(entries, []);
        log.append(&started(1)).await.expect("an entry");
        // Ten at the same time: fewer objects, the same order.
        let entries: Vec<LogEntry> = (1..=10).map(cut).collect();
        futures::future::try_join_all(entries.iter().map(|entry| log.append(entry))).await.expect("entries");
        // (Memory answers at once.)
        let objects = storage.list("log").await.expect("listed").len();
        assert!(objects <= 3 || storage.place().starts_with("s3:"), "{objects} objects");
        let found = ObjectEpochLog::open(Arc::clone(&storage), "b").await.expect("a log").1;
        assert_eq!(found, [&[started(1)], entries.as_slice()].concat());
    }
}

#[tokio::test]
async fn a_run_that_was_taken_over_cannot_append_also_when_the_log_was_shortened() {
    for storage in storages().1 {
        for shortened in [false, true] {
            let (stale, _) = ObjectEpochLog::open(Arc::clone(&storage), "a").await.expect("a log");
            stale.append(&started(1)).await.expect("an entry");
            stale.append(&cut(1)).await.expect("an entry");
            let (own, entries) = ObjectEpochLog::open(Arc::clone(&storage), "b").await.expect("a log");
            assert!(entries.contains(&cut(1)));
            own.append(&started(2)).await.expect("taken over");
            own.append(&cut(2)).await.expect("an entry");
            if shortened {
                own.forget(2).await.expect("shortened");
            }
            let error = stale.append(&cut(2)).await.expect_err("fenced");
            assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
            let error = stale.append(&cut(3)).await.expect_err("for good");
            assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
            own.append(&cut(3)).await.expect("goes on");
            own.forget(9).await.expect("shortened");
            let left = ObjectEpochLog::open(Arc::clone(&storage), "c").await.expect("a log").1;
            let left: Vec<_> = left.iter().filter(|entry| entry.epoch().is_some()).collect();
            assert_eq!(left, [&cut(3)], "the newest object alone");
        }
    }
}

/// As in seed 24072 of the simulation: a checkpoint had covered all that the leader had logged when it lost its lease, and both it and
/// its successor logged epoch 4, far from each other.
#[tokio::test]
async fn a_run_that_has_shortened_its_log_to_nothing_is_fenced_by_its_successor() {
    for storage in storages().1 {
        let (stale, _) = ObjectEpochLog::open(Arc::clone(&storage), "a").await.expect("a log");
        stale.append(&started(1)).await.expect("an entry");
        for epoch in 1..=3 {
            stale.append(&cut(epoch)).await.expect("an entry");
        }
        stale.forget(3).await.expect("shortened");
        let (own, _) = ObjectEpochLog::open(Arc::clone(&storage), "b").await.expect("a log");
        own.append(&started(2)).await.expect("taken over");
        let error = stale.append(&cut(4)).await.expect_err("fenced");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        own.append(&cut(4)).await.expect("goes on");
    }
}

#[tokio::test]
async fn two_runs_that_begin_together_do_not_both_go_on() {
    for storage in storages().1 {
        let (first, _) = ObjectEpochLog::open(Arc::clone(&storage), "a").await.expect("a log");
        let (second, _) = ObjectEpochLog::open(Arc::clone(&storage), "b").await.expect("a log");
        first.append(&started(1)).await.expect("an entry");
        let error = second.append(&started(1)).await.expect_err("the same entry, of another run");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    }
}

#[tokio::test]
async fn a_damaged_entry_in_an_object_is_found() {
    let (folder, storages) = storages();
    let (log, _) = ObjectEpochLog::open(Arc::clone(&storages[0]), "a").await.expect("a log");
    log.append(&cut(1)).await.expect("an entry");
    let path = folder.path().join("job/log/000000000001");
    let whole = std::fs::read(&path).expect("readable");
    for at in 2..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, damaged).expect("written");
        let error = ObjectEpochLog::open(Arc::clone(&storages[0]), "b").await.expect_err("damaged");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
    }
}

#[tokio::test]
async fn a_lost_answer_is_no_failure() {
    use super::test_faults::Flaky;
    let clock = Arc::new(ManualClock::new(0));
    for fault in [Flaky::lost_answers(), Flaky::refused()] {
        let fault = Arc::new(fault);
        let own: Arc<dyn Storage> =
            Arc::new(ObjectStorage::new(Arc::clone(&fault) as _, "p", "s3://b/p", Arc::clone(&clock) as _));
        let waits = {
            let clock = Arc::clone(&clock);
            tokio::spawn(async move {
                loop {
                    clock.advance(std::time::Duration::from_millis(50));
                    tokio::task::yield_now().await;
                }
            })
        };
        let mut checkpoints = store(&own, "a");
        checkpoints.commit(&job(7, vec![piece(1, 0..9, &[])]), 7, STAMP).await.expect("committed in spite of it");
        checkpoints.commit(&job(8, vec![piece(1, 0..9, &[])]), 8, STAMP).await.expect("and again");
        assert_eq!(checkpoints.numbers().await.expect("numbers"), [1, 2]);
        assert!(fault.faults() > 2, "no answer was lost");
        waits.abort();
    }
}
