//! What a run makes of files that the run before has promised, left open or read, when that was killed or stopped.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::ArrayRef;
use tidemill::contracts::{
    Boundedness, Changes, Clock, Committable, EpochNumber, Error, Position, Result, Sink, Source, SourceProgress,
    Split, SplitReader, StartPosition, SystemClock, WriteOutcome,
};
use tidemill::job::{JobOptions, prepare};
use tidemill::runtime::{Ending, Job, Progress, Summary, Worker};
use tokio::sync::{Notify, watch};

use super::job::{Variant, options};
use super::{HOUR, lines, numbers, write};

/// What a test does when a sink is about to do something.
pub(super) type Hook = Box<dyn FnMut() -> Result<()> + Send>;
/// The same; it gets the epoch, and how many rows of it there are.
type FlushHook = Box<dyn FnMut(EpochNumber, usize) -> Result<()> + Send>;

/// A sink that tells what it is about to do.
pub(super) struct Watched {
    pub(super) sink: Box<dyn Sink>,
    pub(super) before_write: Hook,
    pub(super) before_flush: FlushHook,
    pub(super) unflushed: usize,
    pub(super) before_commit: Hook,
    /// `recover` waits for this; not for ever, since it is not to happen.
    pub(super) recovers_late: Option<Arc<Notify>>,
}

impl Watched {
    fn new(sink: Box<dyn Sink>) -> Self {
        let [before_write, before_commit]: [Hook; 2] = [Box::new(|| Ok(())), Box::new(|| Ok(()))];
        let before_flush = Box::new(|_, _| Ok(()));
        Self { sink, before_write, before_flush, unflushed: 0, before_commit, recovers_late: None }
    }
}

#[async_trait]
impl Sink for Watched {
    async fn open(&mut self) -> Result<()> {
        self.sink.open().await
    }

    async fn recover(&mut self, appeared: Vec<Committable>, promised: Vec<Committable>) -> Result<()> {
        if let Some(event) = &self.recovers_late {
            let _ = tokio::time::timeout(Duration::from_millis(500), event.notified()).await;
        }
        self.sink.recover(appeared, promised).await
    }

    fn snapshot(&self) -> Option<String> {
        self.sink.snapshot()
    }

    fn restore(&mut self, snapshot: &str) -> Result<()> {
        self.sink.restore(snapshot)
    }

    fn open_since(&self) -> Option<EpochNumber> {
        self.sink.open_since()
    }

    fn catches_up(&mut self, catches_up: bool) {
        self.sink.catches_up(catches_up);
    }

    fn repeats(&mut self, repeats: bool) {
        self.sink.repeats(repeats);
    }

    async fn write(&mut self, epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        // Checkpoints are made meanwhile.
        tokio::time::sleep(Duration::from_millis(10)).await;
        (self.before_write)()?;
        self.unflushed += changes.batch.num_rows();
        self.sink.write(epoch, changes).await
    }

    async fn flush(&mut self, epoch: EpochNumber, now_ms: i64) -> Result<WriteOutcome> {
        (self.before_flush)(epoch, std::mem::take(&mut self.unflushed))?;
        self.sink.flush(epoch, now_ms).await
    }

    fn wants_flush_at(&self) -> Option<i64> {
        self.sink.wants_flush_at()
    }

    async fn prepare(&mut self, epoch: EpochNumber) -> Result<Vec<Committable>> {
        self.sink.prepare(epoch).await
    }

    async fn commit(&mut self, committables: Vec<Committable>) -> Result<()> {
        (self.before_commit)()?;
        self.sink.commit(committables).await
    }

    async fn finish(&mut self, epoch: EpochNumber) -> Result<Vec<Committable>> {
        self.sink.finish(epoch).await
    }
}

/// A job over JSON files, a row an epoch.
pub(super) fn job(folder: &Path, sql: &str, ending: Ending) -> JobOptions {
    std::fs::write(folder.join("job.sql"), sql).unwrap();
    let parameters = BTreeMap::from([("DIR".to_owned(), folder.display().to_string())]);
    let variant = Variant { rows: 1, ..Variant::default() };
    let mut options = options(folder.join("job.sql"), folder.join("local"), parameters, variant, ending);
    options.state.interval = Some(Duration::from_nanos(1));
    options
}

/// Runs a job, changed by the test, until it ends or is stopped.
async fn worked(
    options: &JobOptions,
    stop: watch::Receiver<bool>,
    progress: Arc<Progress>,
    change: impl FnOnce(&mut Job),
) -> Result<Summary> {
    worked_by(Arc::new(SystemClock::new()), options, stop, progress, change).await
}

/// The same, by this clock.
pub(super) async fn worked_by(
    clock: Arc<dyn Clock>,
    options: &JobOptions,
    stop: watch::Receiver<bool>,
    progress: Arc<Progress>,
    change: impl FnOnce(&mut Job),
) -> Result<Summary> {
    let mut prepared = prepare(options, clock).await.unwrap_or_else(|errors| panic!("{errors:?}"));
    change(&mut prepared.job);
    let run = tokio::spawn(Worker::run(prepared.job, stop, progress));
    tokio::time::timeout(Duration::from_secs(180), run).await.expect("it ends").expect("no panic")
}

/// Runs a job, with the sinks that the test makes of its own, to the end.
pub(super) async fn ran(options: &JobOptions, change: impl FnOnce(&mut Job)) -> Result<Summary> {
    worked(options, watch::channel(false).1, Arc::default(), change).await
}

/// Puts a sink in the place of a query's own.
pub(super) fn replace(job: &mut Job, table: &str, with: impl FnOnce(Watched) -> Watched) {
    let query = job.queries.iter_mut().find(|query| query.name.ends_with(table)).unwrap();
    let own = std::mem::replace(&mut query.sink, Box::new(Nothing));
    query.sink = Box::new(with(Watched::new(own)));
}

pub(super) struct Nothing;

#[async_trait]
impl Sink for Nothing {
    async fn write(&mut self, _: EpochNumber, _: Changes) -> Result<WriteOutcome> {
        Ok(WriteOutcome::default())
    }

    async fn flush(&mut self, _: EpochNumber, _: i64) -> Result<WriteOutcome> {
        Ok(WriteOutcome::default())
    }
}

/// Fails as if the process were killed there: when that has been asked for so often, and there are so many checkpoints. On a machine where
/// these take long it waits for them, longer each time (not until they are there: the next one may need what comes behind this).
pub(super) fn dies_after(folder: &Path, times: u32, checkpoints: u64) -> Hook {
    let (folder, mut asked, mut pause) = (folder.join("local/checkpoints/job/manifests"), 0, Duration::from_millis(1));
    Box::new(move || {
        asked += 1;
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let number = |name: String| name.strip_suffix(".json").and_then(|number| number.parse::<u64>().ok());
        let newest = entries.filter_map(|entry| number(entry.file_name().to_string_lossy().into_owned())).max();
        let dies = asked > times && newest.is_some_and(|newest| newest >= checkpoints);
        if asked > times && !dies {
            std::thread::sleep(pause);
            pause = (2 * pause).min(Duration::from_secs(1));
        }
        if dies { Err(Error::unavailable("killed")) } else { Ok(()) }
    })
}

#[track_caller]
pub(super) fn assert_killed(outcome: Result<Summary>) {
    let error = outcome.expect_err("it is killed").to_string();
    assert!(error.contains("killed"), "{error}");
}

pub(super) const EVENTS: i64 = 60;

/// A row for each minute, in days of 20.
pub(super) fn events(folder: &Path) {
    let event = |n: i64| format!("{{\"n\":{n},\"at\":\"2026-03-01T00:{n:02}:00Z\",\"day\":{}}}\n", n / 20);
    write(&folder.join("in/a.jsonl"), &(0..EVENTS).map(event).collect::<String>(), HOUR);
}

/// One keeps its file open, and has to write its rows again; the other one, in a folder below, closes a file for each row.
const TWO_SINKS: &str = "
CREATE TABLE events (n BIGINT, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE minutes (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/out', 'format' = 'json');
CREATE TABLE copies (n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/out/copies', 'format' = 'json', 'sink.rolling-policy.row-count' = '1');
INSERT INTO minutes SELECT MAX(n) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end;
INSERT INTO copies SELECT n FROM events;
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_sink_has_promised_is_not_cleaned_up_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    events(folder);
    let options = job(folder, TWO_SINKS, Ending::Drain);
    // The log names a file of `copies`, and the rename has not happened.
    let dies = dies_after(folder, 5, 4);
    let killed = ran(&options, |job| replace(job, "copies", |sink| Watched { before_commit: dies, ..sink })).await;
    assert_killed(killed);
    // While that sink has not got to it, the other one has rows to write.
    let written = Arc::new(Notify::new());
    let ended = ran(&options, |job| {
        let saved = job.saved.queries.iter().find(|(name, _)| name.ends_with("minutes")).unwrap().1;
        assert!(saved.unwritten.is_some(), "it has to write again what it had in an open file");
        let tells = Arc::clone(&written);
        let before_write = move || {
            tells.notify_one();
            Ok(())
        };
        replace(job, "minutes", |sink| Watched { before_write: Box::new(before_write), ..sink });
        replace(job, "copies", |sink| Watched { recovers_late: Some(Arc::clone(&written)), ..sink });
    });
    ended.await.unwrap_or_else(|e| panic!("{e}"));
    for table in ["out", "out/copies"] {
        assert_eq!(numbers(&lines(&folder.join(table))), (0..EVENTS).collect::<Vec<_>>(), "{table}");
    }
}

const MARKED: &str = "
CREATE TABLE events (n BIGINT, `day` BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE archive (n BIGINT, `day` BIGINT) PARTITIONED BY (`day`)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/archive', 'format' = 'json',
  'sink.partition-commit.policy.kind' = 'success-file', 'sink.partition-commit.delay' = '1 h');
INSERT INTO archive SELECT n, `day` FROM events;
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_stopped_while_it_repeats_epochs_calls_no_partition_complete() {
    // Before its sink gets the first epoch, and after some.
    for after in [0, 3] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        events(folder);
        let options = job(folder, MARKED, Ending::Drain);
        let dies = dies_after(folder, 10, 2);
        let killed = ran(&options, |job| replace(job, "archive", |sink| Watched { before_write: dies, ..sink })).await;
        assert_killed(killed);
        let (stop, stopped) = watch::channel(after == 0);
        let written = Arc::new(AtomicU32::new(0));
        let run = worked(&options, stopped, Arc::default(), |job| {
            let saved = job.saved.queries.values().next().unwrap();
            assert!(saved.sink.is_some(), "a partition waits for its mark");
            assert!(saved.durable_epoch < job.saved.epoch, "its file was open at the checkpoint");
            let written = Arc::clone(&written);
            let before_write = move || {
                if written.fetch_add(1, Ordering::Relaxed) + 1 == after {
                    stop.send_replace(true);
                }
                Ok(())
            };
            replace(job, "archive", |sink| Watched { before_write: Box::new(before_write), ..sink });
        });
        let summary = run.await.unwrap_or_else(|e| panic!("{e}"));
        assert!(summary.checkpoints.is_none() && written.load(Ordering::Relaxed) >= after, "it still repeated epochs");
        let marked = |day: i64| folder.join(format!("archive/day={day}/_SUCCESS")).exists();
        assert!(!marked(0), "stopped after {after}: a file of the day is missing");
        ran(&options, |_| ()).await.unwrap_or_else(|e| panic!("{e}"));
        for day in 0..3 {
            let rows = numbers(&lines(&folder.join(format!("archive/day={day}"))));
            assert_eq!(rows, (20 * day..20 * day + 20).collect::<Vec<_>>(), "stopped after {after}");
            assert!(marked(day), "stopped after {after}");
        }
    }
}

/// Rows that the statement has, beside those of a stream. Two fill a file of their day, the third one lies in an open file.
const VALUES: &str = "
CREATE TABLE events (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE copies (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/copies', 'format' = 'json');
CREATE TABLE fixed (n BIGINT, `day` BIGINT) PARTITIONED BY (`day`)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/fixed', 'format' = 'json', 'sink.rolling-policy.row-count' = '2');
INSERT INTO copies SELECT n FROM events;
INSERT INTO fixed VALUES (1, 0), (2, 0), (3, 1);
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_values_that_lay_in_an_open_file_are_given_again_and_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    events(folder);
    let options = job(folder, VALUES, Ending::Drain);
    let fixed = |day: u8| numbers(&lines(&folder.join(format!("fixed/day={day}"))));
    // The second run has them in an open file, too, when it is killed behind another checkpoint.
    for checkpoints in [3, 6] {
        let dies = dies_after(folder, 5, checkpoints);
        let killed = ran(&options, |job| {
            let saved = job.saved.queries.iter().find(|(name, _)| name.ends_with("fixed"));
            assert!(saved.is_none_or(|(_, query)| query.durable_epoch < job.saved.epoch), "its file was open");
            replace(job, "copies", |sink| Watched { before_write: dies, ..sink });
        });
        assert_killed(killed.await);
        assert_eq!((fixed(0), fixed(1)), (vec![1, 2], vec![]));
    }
    ran(&options, |_| ()).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((fixed(0), fixed(1)), (vec![1, 2], vec![3]));
    // Nothing is open any more, and they have been given.
    write(&folder.join("in/b.jsonl"), &format!("{{\"n\":{EVENTS}}}\n"), HOUR);
    ran(&options, |_| ()).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((fixed(0), fixed(1)), (vec![1, 2], vec![3]));
    assert_eq!(numbers(&lines(&folder.join("copies"))), (0..=EVENTS).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_values_that_lay_in_an_open_file_are_given_again_by_a_checkpoint_that_was_gone_back_to() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    events(folder);
    // All of them in open files.
    let options = job(folder, &VALUES.replace(", 'sink.rolling-policy.row-count' = '2'", ""), Ending::Drain);
    let dies = dies_after(folder, 5, 3);
    assert_killed(ran(&options, |job| replace(job, "copies", |sink| Watched { before_write: dies, ..sink })).await);
    let output = super::program(folder, &["state", "rewind", "local", "latest"]);
    assert!(output.status.success(), "{output:?}");
    for _ in 0..2 {
        ran(&options, |_| ()).await.unwrap_or_else(|e| panic!("{e}"));
        let fixed = [0, 1].map(|day| numbers(&lines(&folder.join(format!("fixed/day={day}")))));
        assert_eq!(fixed, [vec![1, 2], vec![3]]);
        assert_eq!(numbers(&lines(&folder.join("copies"))), (0..EVENTS).collect::<Vec<_>>());
    }
}

/// A source that counts how often it was asked for its splits.
#[derive(Debug)]
struct Counted {
    source: Arc<dyn Source>,
    asked: watch::Sender<u32>,
}

#[async_trait]
impl Source for Counted {
    async fn begin(&self, start: StartPosition, progress: Option<&SourceProgress>) -> Result<()> {
        self.source.begin(start, progress).await
    }

    fn snapshot(&self) -> Option<String> {
        self.source.snapshot()
    }

    async fn splits(&self) -> Result<Vec<Split>> {
        let splits = self.source.splits().await;
        self.asked.send_modify(|asked| *asked += 1);
        splits
    }

    async fn open(
        &self,
        split: &Split,
        resume: Option<&Position>,
        start: StartPosition,
    ) -> Result<Box<dyn SplitReader>> {
        self.source.open(split, resume, start).await
    }

    fn split_columns(&self, split: &Split) -> Result<Vec<(String, ArrayRef)>> {
        self.source.split_columns(split)
    }

    fn most_open(&self) -> Option<std::num::NonZeroUsize> {
        self.source.most_open()
    }

    fn boundedness(&self) -> Boundedness {
        self.source.boundedness()
    }
}

const MONITORED: &str = "
CREATE TABLE events (n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json', 'source.monitor-interval' = '1 s');
CREATE TABLE copies (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/copies', 'format' = 'json');
INSERT INTO copies SELECT n FROM events;
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_were_away_for_a_while_are_not_read_again() {
    // A folder is gone, or nothing is mounted there.
    for mount_point in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        events(folder);
        let (root, away) = (folder.join("in"), folder.join("away"));
        let mut options = job(folder, MONITORED, Ending::Run);
        options.epoch_interval = Some(Duration::from_millis(20));
        let (stop, stopped) = watch::channel(false);
        let (asked, mut listings) = watch::channel(0);
        let progress = Arc::<Progress>::default();
        let run = worked(&options, stopped, Arc::clone(&progress), |job| {
            let source = &mut job.feeds[0].source;
            *source = Arc::new(Counted { source: Arc::clone(source), asked });
        });
        let disturb = async {
            while progress.rows_out.load(Ordering::Relaxed) < EVENTS as u64 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            std::fs::rename(&root, &away).unwrap();
            if mount_point {
                std::fs::create_dir(&root).unwrap();
            }
            // One may be under way.
            let before = *listings.borrow_and_update();
            listings.wait_for(|asked| *asked >= before + 2).await.unwrap();
            stop.send_replace(true);
        };
        let (ended, ()) = tokio::join!(run, disturb);
        ended.unwrap_or_else(|e| panic!("{e}"));
        let _ = std::fs::remove_dir(&root);
        std::fs::rename(&away, &root).unwrap();
        options.ending = Ending::Once;
        ran(&options, |_| ()).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(numbers(&lines(&folder.join("copies"))), (0..EVENTS).collect::<Vec<_>>(), "{mount_point}");
    }
}
