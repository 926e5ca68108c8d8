//! What the tools read while a job is running, and what they call what they write; and what a run reads that takes over from another.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::sync::Mutex;

use super::*;
use crate::contracts::{Created, Storage, SystemClock, Watermark};
use crate::state::{
    LocalStorage, ObjectEpochLog, OperatorState, SavedJob, SavedQuery, SavedSplit, SavedTable, StatePiece,
};

/// One operator for each query, whose only state is a number.
pub(super) fn saved(epoch: u64, queries: &[(&str, i64)]) -> SavedJob {
    let query = |number: i64| {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![number]));
        let rows = RecordBatch::try_from_iter([("n", column)]).expect("a batch").into();
        let operator = OperatorState {
            fingerprint: "f".to_owned(),
            watermark: None,
            pieces: vec![StatePiece { id: epoch, rows, dead: None }],
        };
        let (plan, operators) = ("p".to_owned(), vec![operator]);
        SavedQuery { plan, durable_epoch: epoch, operators, ..SavedQuery::default() }
    };
    let queries = queries.iter().map(|(name, number)| ((*name).to_owned(), query(*number))).collect();
    SavedJob { epoch, tables: BTreeMap::new(), queries, reread: None }
}

/// A folder whose job makes a checkpoint, and removes the one before, whenever somebody is about to read a file of state, or a manifest.
#[derive(Debug)]
struct Running {
    folder: Arc<dyn Storage>,
    job: Mutex<CheckpointStore>,
    /// So often.
    left: AtomicUsize,
    manifests_left: AtomicUsize,
    /// Or about to take the job over.
    entries_left: AtomicUsize,
    /// So often, it cannot be taken over.
    refused: AtomicUsize,
    /// Its manifests may not be read.
    forbidden: AtomicBool,
    /// It is begun again as soon as somebody has taken it over.
    begins_again: AtomicBool,
    /// What it writes then.
    log: Mutex<Option<ObjectEpochLog>>,
}

/// One less, if there is one.
fn takes(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Running {
    async fn checkpoint(&self) {
        let mut job = self.job.lock().await;
        let number = job.numbers().await.expect("numbers").last().copied().unwrap_or(0) + 1;
        let state = saved(number, &[("job:counts", i64::try_from(number).expect("a small one"))]);
        job.commit(&state, number, Stamp { generation: 1, time_ms: 0 }).await.expect("committed");
        job.sweep().await.expect("swept");
    }

    /// As a run begins, which goes on from the newest checkpoint with one more epoch.
    async fn begin_again(&self) {
        let mut store = CheckpointStore::new(Arc::clone(&self.folder), "again", 1);
        let (log, entries) = ObjectEpochLog::open(Arc::clone(&self.folder), "again").await.expect("a log");
        let generation = entries.len() as u64 + 1;
        let number = store.newest_number().await.expect("listed");
        log.append(&LogEntry::started(generation, false)).await.expect("an entry");
        let latest = store.latest().await.expect("read").expect("there is one");
        let stamp = Stamp { generation, time_ms: 0 };
        store.take_over(Some(&latest), number, 0, stamp).await.expect("taken over");
        log.append(&failed(latest.epoch + 1)).await.expect("an entry");
        *self.log.lock().await = Some(log);
    }
}

pub(super) fn failed(epoch: u64) -> LogEntry {
    LogEntry::Failed { query: "job:counts".to_owned(), epoch, error: "bad".to_owned() }
}

#[async_trait]
impl Storage for Running {
    fn place(&self) -> String {
        self.folder.place()
    }

    async fn create(&self, name: &str, content: Bytes) -> Result<Created> {
        if name.starts_with("log/") && takes(&self.entries_left) {
            self.checkpoint().await;
        }
        if name.starts_with("log/") && takes(&self.refused) {
            return Err(Error::unavailable("the storage is away"));
        }
        self.folder.create(name, content).await
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        let left = if name.starts_with("manifests/") { &self.manifests_left } else { &self.left };
        if takes(left) {
            self.checkpoint().await;
        }
        if name.starts_with("manifests/") && self.forbidden.load(Ordering::SeqCst) {
            return Err(Error::of_disk(format!("cannot read '{name}'"), std::io::ErrorKind::PermissionDenied.into()));
        }
        self.folder.read(name).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let is_taken_over = !self.folder.list("log").await?.is_empty();
        if folder == "manifests" && is_taken_over && self.begins_again.swap(false, Ordering::SeqCst) {
            self.begin_again().await;
        }
        self.folder.list(folder).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.folder.remove(name).await
    }
}

/// A job with its first checkpoint, and the tools for it.
async fn running(folder: &Path) -> (Arc<Running>, StateTools) {
    let folder: Arc<dyn Storage> = Arc::new(LocalStorage::new(folder.join("job")));
    let job = Mutex::new(CheckpointStore::new(Arc::clone(&folder), "job", 1));
    let [left, manifests_left, entries_left, refused] = Default::default();
    let running = Arc::new(Running {
        folder,
        job,
        left,
        manifests_left,
        entries_left,
        refused,
        forbidden: AtomicBool::default(),
        begins_again: AtomicBool::default(),
        log: Mutex::default(),
    });
    running.checkpoint().await;
    let store = CheckpointStore::new(Arc::clone(&running) as Arc<dyn Storage>, "tools", KEPT);
    (running, StateTools { store, locked: None, clock: Arc::new(SystemClock::new()), outside: None })
}

fn number(file: &Path) -> i64 {
    let file = File::open(file).expect("a file");
    let mut batches = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("a reader");
    batches.next().expect("rows").expect("read").column(0).as_primitive::<Int64Type>().value(0)
}

#[tokio::test]
async fn a_checkpoint_that_a_running_job_removes_while_it_is_read_is_not_called_damaged() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (running, tools) = running(folder).await;
    let to = folder.join("copy").display().to_string();
    // The newest is another one by then.
    for (left, newest) in [(1, 2), (READS - 1, 1 + READS)] {
        running.left.store(left, Ordering::SeqCst);
        let files = tools.export("latest", None, &folder.join("out")).await.expect("exported");
        assert_eq!(files.len(), 1);
        assert_eq!(number(&files[0]), newest as i64);
    }
    running.left.store(1, Ordering::SeqCst);
    let said = tools.restore("latest", &to).await.expect("restored");
    assert!(said.contains(&format!("checkpoint {} is checkpoint 1 of ", 2 + READS)), "{said}");
    let copy = StateTools::open(&to, Arc::new(SystemClock::new())).await.expect("opened");
    let files = copy.export("latest", None, &folder.join("out")).await.expect("exported");
    assert_eq!(number(&files[0]), 2 + READS as i64);
    // It is removed each time; or it is the one that was asked for.
    for (left, which) in [(usize::MAX, "latest".to_owned()), (1, (2 + 2 * READS).to_string())] {
        running.left.store(left, Ordering::SeqCst);
        let error = tools.export(&which, None, &folder.join("out")).await.expect_err("it is gone");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.message().contains("was removed while it was read"), "{error}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("state save")), "{error}");
    }
    running.left.store(0, Ordering::SeqCst);
    running.manifests_left.store(2, Ordering::SeqCst);
    let text = tools.show("latest").await.expect("found");
    assert!(text.starts_with(&format!("checkpoint {}: ", 5 + 2 * READS)), "{text}");
    running.manifests_left.store(usize::MAX, Ordering::SeqCst);
    let error = tools.show("latest").await.expect_err("it is gone each time");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    running.manifests_left.store(0, Ordering::SeqCst);
    // What is damaged is.
    let state = running.list("state").await.expect("names").pop().expect("a file");
    running.remove(&state).await.expect("removed");
    let error = tools.export("latest", None, &folder.join("out")).await.expect_err("a file is missing");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let error = tools.restore("latest", &to).await.expect_err("a file is missing");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[tokio::test]
async fn a_job_goes_back_to_a_checkpoint_that_it_was_about_to_remove() {
    let folder = tempfile::tempdir().expect("a folder");
    let (running, mut tools) = running(folder.path()).await;
    // While it is taken over, the run commits what it has under way, and keeps nothing else.
    for (which, of) in [("latest", 1), ("4", 4), ("kept", 4)] {
        running.entries_left.store(1, Ordering::SeqCst);
        let said = tools.rewind(which).await.expect("it is gone back to");
        let newest = tools.store.latest().await.expect("found").expect("there is one");
        assert!(said.starts_with(&format!("checkpoint {} is ", newest.number)), "{said}");
        let loaded = tools.store.load(&newest).await.expect("its files are there");
        assert_eq!(loaded.queries["job:counts"].operators[0].pieces[0].id, of, "{said}");
        let kept: &[&str] = if which == "kept" { &["kept"] } else { &[] };
        assert_eq!(tools.store.savepoints().await.expect("names"), kept, "{said}");
        // Another run goes on from there.
        let mut next = CheckpointStore::new(Arc::clone(&running.folder), which, 1);
        next.load(&newest).await.expect("loaded");
        *running.job.lock().await = next;
        if which == "latest" {
            running.checkpoint().await;
        } else if which == "4" {
            tools.save("latest", "kept").await.expect("kept");
        }
    }
    // What fails leaves nothing behind either.
    running.checkpoint().await;
    running.refused.store(1, Ordering::SeqCst);
    let error = tools.rewind("latest").await.expect_err("the log cannot be written");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(tools.store.savepoints().await.expect("names"), ["kept"]);
    // It needs nothing of a log, which may be damaged: epochs are counted on from beyond all that it can have had.
    let before = tools.store.latest().await.expect("found").expect("there is one");
    tools.store.storage().create("log/999999999998", Bytes::from_static(b"no entry")).await.expect("written");
    tools.rewind("latest").await.expect("rewound");
    let after = tools.store.latest().await.expect("found").expect("there is one");
    assert!(after.epoch >= before.epoch + 1_000_000 && after.generation > before.generation + 1_000, "{after:?}");
    tools.rewind("latest").await.expect("rewound");
    let again = tools.store.latest().await.expect("found").expect("there is one");
    assert_eq!(again.epoch, after.epoch + 1, "the log is whole again");
}

/// The tools are slow when they have taken it over.
#[tokio::test]
async fn a_job_that_begins_again_while_it_goes_back_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let (running, mut tools) = running(folder.path()).await;
    running.begins_again.store(true, Ordering::SeqCst);
    tools.rewind("latest").await.expect("it is gone back to");
    let newest = tools.store.latest().await.expect("found").expect("there is one");
    let log = running.log.lock().await.take().expect("it has begun");
    let error = log.append(&failed(newest.epoch + 1)).await.expect_err("it was taken over once more");
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    let (_, entries) = ObjectEpochLog::open(Arc::clone(&running.folder), "look").await.expect("a log");
    let logged = entries.iter().filter_map(LogEntry::epoch).max();
    assert!(logged.is_none_or(|logged| logged <= newest.log_after), "{entries:?}, {newest:?}");
}

/// So are they when they copy, here into the same store, as if it were another one.
#[tokio::test]
async fn nothing_is_copied_into_the_store_of_a_job_that_begins_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (running, mut tools) = running(folder.path()).await;
    running.begins_again.store(true, Ordering::SeqCst);
    let (of, _) = tools.find("latest").await.expect("found");
    let TakenOver { epoch, newest, stamp, log } =
        tools.take_over(&mut ReadObjects::default()).await.expect("taken over");
    let from = CheckpointStore::new(Arc::clone(&running.folder), "from", KEPT);
    let copied = async {
        from.copy_to(&of, &mut tools.store, newest, epoch, stamp).await?;
        tools.close(&log, stamp).await
    };
    assert_eq!(copied.await.expect_err("it has begun again").kind(), ErrorKind::Fenced);
}

/// It tries again.
#[tokio::test]
async fn a_run_that_takes_over_is_raced_where_the_other_one_removes_what_was_the_newest_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let (running, tools) = running(folder.path()).await;
    for passes in [Passes::None, Passes::ForNothing] {
        running.manifests_left.store(1, Ordering::SeqCst);
        let error = newest(&tools.store, passes, false, &tools.clock, &mut Vec::new()).await.err().expect("it is gone");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        newest(&tools.store, passes, false, &tools.clock, &mut Vec::new()).await.expect("it is there");
    }
}

#[tokio::test]
async fn exported_files_of_two_queries_never_have_one_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (running, tools) = running(folder).await;
    let names = [("a-b:c", 1), ("a:b-c", 2), ("a:b c", 3), ("other:counts", 4), ("ä:ß", 5)];
    let state = saved(2, &names);
    let stamp = Stamp { generation: 1, time_ms: 0 };
    running.job.lock().await.commit(&state, 2, stamp).await.expect("committed");
    let files = tools.export("latest", None, &folder.join("all")).await.expect("exported");
    let unique: BTreeSet<&PathBuf> = files.iter().collect();
    assert_eq!(unique.len(), names.len(), "{files:?}");
    let mut numbers: Vec<i64> = files.iter().map(|file| number(file)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert!(files.contains(&folder.join("all/other-counts-0.parquet")), "{files:?}");
    // One that is asked for alone has the same name.
    for (name, of) in names {
        let alone = tools.export("latest", Some(name), &folder.join("alone")).await.expect("exported");
        let [file] = &alone[..] else { panic!("{alone:?}") };
        assert_eq!(number(file), of, "{name}");
        let same = files.iter().find(|other| number(other) == of).and_then(|other| other.file_name());
        assert_eq!(file.file_name(), same, "{name}");
    }
}

/// Positions alone do not tell of an input that has ended, nor sizes of an operator that has come.
#[tokio::test]
async fn whatever_differs_between_two_checkpoints_is_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new(folder.path().join("job")));
    let mut job = CheckpointStore::new(Arc::clone(&storage), "job", 9);
    let (mut epoch, stamp) = (0, Stamp { generation: 1, time_ms: 0 });
    let (after_exclusive, from_ms, version) = (Some("17".to_owned()), None, None);
    let split = SavedSplit { after_exclusive, from_ms, watermark_ms: 0, finished: false, version, gone_ms: None };
    let mut state = saved(1, &[("job:counts", 1)]);
    state
        .tables
        .insert("t".to_owned(), SavedTable { splits: [("a.jsonl".to_owned(), split)].into(), ..SavedTable::default() });
    let mut commit = async |change: &dyn Fn(&mut SavedSplit, &mut SavedQuery)| {
        let split = state.tables.get_mut("t").and_then(|table| table.splits.get_mut("a.jsonl")).expect("the split");
        change(split, state.queries.get_mut("job:counts").expect("the query"));
        epoch += 1;
        state.epoch = epoch;
        job.commit(&state, epoch, stamp).await.expect("committed");
    };
    commit(&|_, _| {}).await;
    commit(&|split, _| split.watermark_ms = 60_000).await;
    commit(&|split, _| split.finished = true).await;
    commit(&|_, query| query.operators.push(query.operators[0].clone())).await;
    commit(&|_, query| query.unwritten = query.operators.pop()).await;
    commit(&|_, query| {
        let mut pieces = saved(7, &[("another", 2)]).queries.remove("another").expect("it").operators[0].pieces.clone();
        query.operators[0].pieces.append(&mut pieces);
        query.operators[0].pieces.remove(0);
    })
    .await;
    let store = CheckpointStore::new(storage, "tools", KEPT);
    let tools = StateTools { store, locked: None, clock: Arc::new(SystemClock::new()), outside: None };
    let told = async |number: u64| {
        let text = tools.diff(&number.to_string(), &(number + 1).to_string()).await.expect("a difference");
        let bytes = regex::Regex::new(r"\d+ bytes").expect("a pattern");
        let lines = text.lines().skip(2).map(|line| bytes.replace_all(line, "N bytes").into_owned());
        lines.collect::<Vec<_>>()
    };
    let at = |ms: i64| format!("after 17, watermark {}", Watermark(ms));
    assert_eq!(told(1).await, [format!("  table t, a.jsonl: {} -> {}", at(0), at(60_000))]);
    assert_eq!(told(2).await, [format!("  table t, a.jsonl: {0} -> {0}, finished", at(60_000))]);
    let size = "1 rows, N bytes in 1 files";
    assert_eq!(told(3).await, [format!("  query job:counts, operator 1: none -> {size}")]);
    assert_eq!(
        told(4).await,
        [
            format!("  query job:counts, operator 1: {size} -> none"),
            format!("  query job:counts, in open files of its sink: none -> {size}"),
        ]
    );
    assert_eq!(told(5).await, [format!("  query job:counts, operator 0: {size}, written anew")]);
}

/// A store that says of each file that is read which files had been exported whole by then.
#[derive(Debug)]
struct Watched {
    of: Arc<dyn Storage>,
    exported: PathBuf,
    seen: std::sync::Mutex<Vec<(String, usize)>>,
}

#[async_trait]
impl Storage for Watched {
    fn place(&self) -> String {
        self.of.place()
    }

    async fn create(&self, name: &str, content: Bytes) -> Result<Created> {
        self.of.create(name, content).await
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        let files = std::fs::read_dir(&self.exported).into_iter().flatten().flatten().map(|entry| entry.path());
        let whole =
            files.filter(|path| std::fs::read(path).is_ok_and(|file| file.len() > 8 && file.ends_with(b"PAR1")));
        self.seen.lock().expect("no panic").push((name.to_owned(), whole.count()));
        self.of.read(name).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.of.list(folder).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.of.remove(name).await
    }
}

/// All of it at once may not fit into memory.
#[tokio::test]
async fn states_are_exported_one_after_the_other_without_what_is_dead() {
    let folder = tempfile::tempdir().expect("a folder");
    let of: Arc<dyn Storage> = Arc::new(LocalStorage::new(folder.path().join("job")));
    let mut state = saved(2, &[("a:a", 1), ("b:b", 2), ("c:c", 3)]);
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(7..12));
    let rows = RecordBatch::try_from_iter([("n", column)]).expect("a batch").into();
    let dead = Some([false, true, false, true, true].into_iter().collect());
    state.queries.get_mut("b:b").expect("it").operators[0].pieces.push(StatePiece { id: 3, rows, dead });
    let mut job = CheckpointStore::new(Arc::clone(&of), "job", 1);
    job.commit(&state, 2, Stamp { generation: 1, time_ms: 0 }).await.expect("committed");
    let watched = Arc::new(Watched { of, exported: folder.path().join("out"), seen: Default::default() });
    let store = CheckpointStore::new(Arc::clone(&watched) as Arc<dyn Storage>, "tools", KEPT);
    let tools = StateTools { store, locked: None, clock: Arc::new(SystemClock::new()), outside: None };
    let files = tools.export("latest", None, &watched.exported).await.expect("exported");
    assert_eq!(files.len(), 3);
    let seen = watched.seen.lock().expect("no panic").clone();
    let by_then: BTreeSet<usize> =
        seen.iter().filter(|(name, _)| name.starts_with("state/")).map(|(_, whole)| *whole).collect();
    assert_eq!(by_then, BTreeSet::from([0, 1, 2]), "{seen:?}");
    let file = File::open(&files[1]).expect("a file");
    let batches = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("a reader");
    let batches: Vec<RecordBatch> = batches.map(|batch| batch.expect("read")).collect();
    let numbers = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec());
    assert_eq!(numbers.collect::<Vec<_>>(), [2, 7, 9]);
}

/// Somebody must give a right: nobody has taken over, and nothing was removed.
#[tokio::test]
async fn a_checkpoint_that_may_not_be_read_is_told_as_that() {
    let folder = tempfile::tempdir().expect("a folder");
    let (running, tools) = running(folder.path()).await;
    running.forbidden.store(true, Ordering::SeqCst);
    for passes in [Passes::None, Passes::ForNothing, Passes::ForThePrevious, Passes::For("another one")] {
        let error = newest(&tools.store, passes, false, &tools.clock, &mut Vec::new()).await.err().expect("no right");
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("may the user")), "{error}");
    }
}
