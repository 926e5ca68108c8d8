//! What a writer asks of its sink and of the log.

use std::sync::Mutex;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use datafusion::arrow::datatypes::Int64Type;

use super::super::error_orders::is_gone;
use super::super::test_log::Entries;
use super::*;
use crate::contracts::{Changes, Clock, ManualClock, WriteOutcome};
use crate::operators::SpilledRows;
use crate::state::SpillFolder;

/// One that is new, and not caught up with.
fn epoch_of(epoch: u64, changes: Vec<WaitingChanges>) -> Order {
    Order::Epoch { epoch: EpochNumber(epoch), now_ms: 0, catches_up: false, repeats: false, changes }
}

/// Says what it was asked for.
#[derive(Clone, Default)]
struct Recorder {
    in_parts: bool,
    rows: Arc<Mutex<Vec<i64>>>,
    flushed_at: Arc<Mutex<Vec<usize>>>,
    finished_at: Arc<Mutex<Vec<u64>>>,
}

#[async_trait]
impl Sink for Recorder {
    async fn write(&mut self, _: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        let rows = changes.batch.column(0).as_primitive::<Int64Type>().values();
        self.rows.lock().expect("unpoisoned").extend(rows);
        Ok(WriteOutcome { written: rows.len() as u64, refused: Vec::new() })
    }

    fn flushes_parts(&self) -> bool {
        self.in_parts
    }

    async fn flush(&mut self, _: EpochNumber, _: i64) -> Result<WriteOutcome> {
        let rows = self.rows.lock().expect("unpoisoned").len();
        self.flushed_at.lock().expect("unpoisoned").push(rows);
        Ok(WriteOutcome::default())
    }

    async fn finish(&mut self, epoch: EpochNumber) -> Result<Vec<Committable>> {
        self.finished_at.lock().expect("unpoisoned").push(epoch.0);
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn what_is_open_is_closed_only_when_the_run_ends_in_order() {
    let epoch = |epoch| epoch_of(epoch, Vec::new());
    for (given, finished) in [
        (vec![epoch(8), epoch(9), Order::Finish], Some(9)),
        // It has had no epoch: the last one is that up to which it is durable, not that of the saved state.
        (vec![Order::Finish], Some(5)),
        (vec![epoch(6)], None),
        (vec![], None),
    ] {
        let sink = Recorder::default();
        let (orders, receiver) = mpsc::channel(3);
        let (errors, _errors) = mpsc::channel(1);
        for order in given {
            orders.send(order).await.expect("room for it");
        }
        drop(orders);
        let start = WriterLog { after: EpochNumber(7), last: EpochNumber(5), ..WriterLog::default() };
        run_writer("q".to_owned(), Box::new(sink.clone()), receiver, errors, start).await.expect("it ends");
        assert_eq!(*sink.finished_at.lock().expect("unpoisoned"), Vec::from_iter(finished));
    }
}

/// Refuses something at each flush, of which no row is at hand.
#[derive(Clone, Default)]
struct Refuser(Arc<AtomicU64>);

#[async_trait]
impl Sink for Refuser {
    async fn write(&mut self, _: EpochNumber, _: Changes) -> Result<WriteOutcome> {
        Ok(WriteOutcome::default())
    }

    async fn flush(&mut self, _: EpochNumber, _: i64) -> Result<WriteOutcome> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let (reason, detail, record) = ("refused".to_owned(), "why".to_owned(), Some(b"the alert".to_vec()));
        let refused = vec![RefusedRow { row: 0, reason, column: None, detail, record }];
        Ok(WriteOutcome { written: 0, refused })
    }
}

/// When the epoch is repeated after a kill, later values may be stored in the item, and nothing is refused any more.
#[tokio::test]
async fn what_a_flush_refuses_is_told_with_what_it_is_before_the_next_epoch_is_written() {
    let (orders, receiver) = mpsc::channel(2);
    let (errors, mut told) = mpsc::channel(1);
    for epoch in [1, 2] {
        orders.send(epoch_of(epoch, Vec::new())).await.expect("room for it");
    }
    drop(orders);
    let sink = Refuser::default();
    let start = WriterLog::default();
    let writer = tokio::spawn(run_writer("q".to_owned(), Box::new(sink.clone()), receiver, errors, start));
    for epoch in [1, 2] {
        let Some(ErrorsOrder::Records(records)) = told.recv().await else { panic!("it is told") };
        assert_eq!((records.len(), records[0].record.as_slice()), (1, &b"the alert"[..]));
        let Some(ErrorsOrder::Flush(done)) = told.recv().await else { panic!("nobody waits for it") };
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert_eq!(sink.0.load(Ordering::SeqCst), epoch, "flushes");
        done.send(()).expect("it is waited for");
    }
    writer.await.expect("no panic").expect("it ends");
}

/// The run tells by it that the sink is not to blame, and asks the error output itself what has failed.
#[tokio::test]
async fn a_sink_whose_refusals_find_no_error_output_says_that_it_has_gone() {
    // It goes before it has taken anything, before it is asked to flush, and before it has flushed.
    for taken in 0..3 {
        let (orders, receiver) = mpsc::channel(1);
        let (errors, mut told) = mpsc::channel(1);
        orders.send(epoch_of(1, Vec::new())).await.expect("room for it");
        let sink = Box::new(Refuser::default());
        let writer = tokio::spawn(run_writer("q".to_owned(), sink, receiver, errors, WriterLog::default()));
        for _ in 0..taken {
            drop(told.recv().await.expect("it is told"));
        }
        drop(told);
        let error = writer.await.expect("no panic").expect_err("nobody takes what it refuses");
        assert!(is_gone(&error), "{taken}: {error}");
        assert_eq!(error.to_string(), "query 'q': the error output has gone");
    }
    assert!(!is_gone(&Error::internal("the error output has gone")), "a text is no sign of it");
}

/// Stages something with each epoch.
struct Stages;

#[async_trait]
impl Sink for Stages {
    async fn write(&mut self, _: EpochNumber, _: Changes) -> Result<WriteOutcome> {
        Ok(WriteOutcome::default())
    }

    async fn flush(&mut self, _: EpochNumber, _: i64) -> Result<WriteOutcome> {
        Ok(WriteOutcome::default())
    }

    async fn prepare(&mut self, epoch: EpochNumber) -> Result<Vec<Committable>> {
        Ok(vec![Committable { payload: epoch.to_string() }])
    }

    async fn commit(&mut self, _: Vec<Committable>) -> Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_says_what_has_appeared_once_nothing_else_is_to_be_done() {
    let epoch = |epoch| epoch_of(epoch, Vec::new());
    let entries = Arc::new(Entries::default());
    let logged = || {
        let entries = entries.0.lock().expect("unpoisoned");
        let entry = |entry: &LogEntry| match entry {
            LogEntry::Committed { epoch, payloads, .. } => (*epoch, payloads.len()),
            other => panic!("{other:?}"),
        };
        entries.iter().map(entry).collect::<Vec<_>>()
    };
    let (orders, receiver) = mpsc::channel(3);
    let (errors, _errors) = mpsc::channel(1);
    let promised = vec![Committable { payload: "of before".to_owned() }];
    let committed = Committed { promised, through: 4, ..Committed::default() };
    let log: Arc<dyn EpochLog> = entries.clone();
    let start = WriterLog { log: Some(log), committed, ..WriterLog::default() };
    // Of three that wait, the second and the third say that the one before is done.
    for number in [5, 6, 7] {
        orders.send(epoch(number)).await.expect("room for it");
    }
    let writer = tokio::spawn(run_writer("q".to_owned(), Box::new(Stages), receiver, errors, start));
    while logged().len() < 4 {
        tokio::task::yield_now().await;
    }
    assert_eq!(logged(), [(5, 1), (6, 1), (7, 1), (7, 0)]);
    orders.send(epoch(8)).await.expect("room for it");
    orders.send(Order::Finish).await.expect("room for it");
    writer.await.expect("no panic").expect("it ends");
    let all = logged();
    assert_eq!(all.last(), Some(&(8, 0)), "{all:?}");
}

#[tokio::test]
async fn an_epoch_from_disk_is_flushed_in_parts_where_the_sink_buffers_it() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = SpillFolder::create(parent.path(), 32 << 20).expect("created");
    let text = "x".repeat(1_000);
    let batch = |from: i64| {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + 1_000));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..1_000).map(|_| &text)));
        RecordBatch::try_from_iter([("n", numbers), ("t", texts)]).expect("a batch")
    };
    let schema = batch(0).schema();
    let parts = vec![9_000, 18_000, 21_000];
    // Where one key may come twice in an epoch, all of it is sent at once.
    for (in_parts, once, flushed) in [(true, true, parts), (false, true, vec![21_000]), (true, false, vec![21_000])] {
        let mut file = folder.file(&schema).expect("a file");
        for from in (0..20_000).step_by(1_000) {
            file.write(&batch(from)).expect("written");
        }
        let file = file.finish().expect("finished");
        let mut changes: Vec<_> = SpilledRows::of(&file, &schema).map(WaitingChanges::Spilled).collect();
        changes.push(WaitingChanges::Held(Changes { batch: batch(20_000), kinds: None }, None));
        drop(file);
        let sink = Recorder { in_parts, ..Recorder::default() };
        let (rows, flushed_at) = (Arc::clone(&sink.rows), Arc::clone(&sink.flushed_at));
        let (orders, receiver) = mpsc::channel(1);
        let (errors, _errors) = mpsc::channel(1);
        orders.send(epoch_of(1, changes)).await.expect("room for it");
        drop(orders);
        let start = WriterLog { in_parts: once, ..WriterLog::default() };
        let written = run_writer("q".to_owned(), Box::new(sink), receiver, errors, start).await;
        assert_eq!(written.expect("written").rows, 21_000);
        assert!(rows.lock().expect("unpoisoned").iter().copied().eq(0..21_000), "in order");
        assert_eq!(*flushed_at.lock().expect("unpoisoned"), flushed);
        assert_eq!(folder.bytes().1, 0, "what has been written goes");
    }
}

/// Does not end to write, or to flush.
struct Hangs {
    closes_files: bool,
    in_write: bool,
}

#[async_trait]
impl Sink for Hangs {
    fn closes_files(&self) -> bool {
        self.closes_files
    }

    async fn write(&mut self, _: EpochNumber, _: Changes) -> Result<WriteOutcome> {
        if self.in_write { std::future::pending().await } else { Ok(WriteOutcome::default()) }
    }

    async fn flush(&mut self, _: EpochNumber, _: i64) -> Result<WriteOutcome> {
        std::future::pending().await
    }
}

/// Files that are closed in the course of an epoch are as large as those at its end.
#[tokio::test]
async fn at_a_stop_a_sink_has_the_time_that_it_needs_for_what_it_does() {
    let seconds = Duration::from_secs;
    for (closes_files, most) in [(false, 30), (true, 300)] {
        for in_write in [false, true] {
            let clock = Arc::new(ManualClock::new(0));
            let (stop, stopped) = tokio::sync::watch::channel(false);
            let patience = Patience::new(Arc::clone(&clock) as Arc<dyn Clock>, stopped, true);
            let (orders, receiver) = mpsc::channel(1);
            let (errors, _errors) = mpsc::channel(1);
            let batch = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
            let changes = vec![WaitingChanges::Held(Changes { batch: batch.expect("a batch"), kinds: None }, None)];
            orders.send(epoch_of(1, changes)).await.expect("room for it");
            let start = WriterLog { patience: Some(patience), ..WriterLog::default() };
            let sink = Box::new(Hangs { closes_files, in_write });
            let writer = tokio::spawn(run_writer("q".to_owned(), sink, receiver, errors, start));
            let goes_on = async |advanced: u64| {
                clock.advance(seconds(advanced));
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                !writer.is_finished()
            };
            assert!(goes_on(3_600).await, "nobody has asked it to stop");
            stop.send_replace(true);
            assert!(goes_on(0).await && goes_on(most - 1).await, "{closes_files}, {in_write}");
            assert!(!goes_on(1).await, "{closes_files}, {in_write}");
            let error = writer.await.expect("no panic").expect_err("given up");
            assert!(error.to_string().contains(&format!("within {most} s of the stop")), "{error}");
        }
    }
}

/// Says what it was asked for, and how much was on disk then.
struct Counts {
    folder: Arc<SpillFolder>,
    told: Arc<Mutex<Vec<String>>>,
    open: Arc<StateLimit>,
}

#[async_trait]
impl Sink for Counts {
    async fn write(&mut self, epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        let (rows, in_memory) = (changes.batch.num_rows(), self.open.open_rows.sum());
        assert!(in_memory <= 64 << 10, "{in_memory} bytes are in memory");
        assert!(self.folder.bytes().1 > 1 << 20);
        self.told.lock().expect("unpoisoned").push(format!("{epoch}: {rows}"));
        Ok(WriteOutcome { written: rows as u64, refused: Vec::new() })
    }

    async fn flush(&mut self, epoch: EpochNumber, now_ms: i64) -> Result<WriteOutcome> {
        self.told.lock().expect("unpoisoned").push(format!("{epoch} is flushed at {now_ms}"));
        Ok(WriteOutcome::default())
    }

    fn open_since(&self) -> Option<EpochNumber> {
        Some(EpochNumber(1))
    }
}

#[tokio::test]
async fn rows_of_open_files_are_written_again_one_by_one_and_an_epoch_is_flushed_once() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = SpillFolder::create(parent.path(), 32 << 20).expect("created");
    // Next to none may be in memory.
    let limit = Arc::new(StateLimit::new(Arc::clone(&folder), 0, 0, 0));
    let batch = |rows: i64| {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        Changes { batch: RecordBatch::try_from_iter([("n", numbers)]).expect("a batch"), kinds: None }
    };
    let mut before = Unwritten::new(Some(limit.as_ref().clone()));
    for (epoch, rows) in [(2, 60_000), (2, 20_000), (3, 30_000), (5, 10_000), (5, 40_000)] {
        before.add(EpochNumber(epoch), epoch as i64 * 10, &batch(rows)).expect("kept");
    }
    let unwritten = before.snapshot();
    drop(before);
    let told = Arc::default();
    let sink = Counts { folder, told: Arc::clone(&told), open: Arc::clone(&limit) };
    let (orders, receiver) = mpsc::channel(1);
    let (errors, _errors) = mpsc::channel(1);
    drop(orders);
    let start = WriterLog { keeps_rows: true, limit: Some(limit.as_ref().clone()), unwritten, ..WriterLog::default() };
    run_writer("q".to_owned(), Box::new(sink), receiver, errors, start).await.expect("it ends");
    let expected = [
        "2: 60000",
        "2: 20000",
        "2 is flushed at 20",
        "3: 30000",
        "3 is flushed at 30",
        "5: 10000",
        "5: 40000",
        "5 is flushed at 50",
    ];
    assert_eq!(*told.lock().expect("unpoisoned"), expected);
}

/// Says from which epoch on rows are written again.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<u64>>>);

#[async_trait]
impl Sink for Asked {
    fn check_repeat(&self, first: EpochNumber) -> Result<()> {
        self.0.lock().expect("unpoisoned").push(first.0);
        Err(Error::config("not these"))
    }

    async fn write(&mut self, _: EpochNumber, _: Changes) -> Result<WriteOutcome> {
        panic!("it was refused")
    }

    async fn flush(&mut self, _: EpochNumber, _: i64) -> Result<WriteOutcome> {
        panic!("it was refused")
    }
}

#[tokio::test]
async fn a_sink_is_asked_whether_it_can_take_rows_again_before_any_is_written() {
    let batch = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
    let changes = Changes { batch: batch.expect("a batch"), kinds: None };
    for (kept, first) in [(None, 6), (Some(3), 3), (Some(9), 6)] {
        let unwritten = kept.and_then(|epoch| {
            let mut before = Unwritten::new(None);
            before.add(EpochNumber(epoch), 0, &changes).expect("kept");
            before.snapshot()
        });
        let sink = Asked::default();
        let (orders, receiver) = mpsc::channel(1);
        let (errors, _errors) = mpsc::channel(1);
        orders.send(epoch_of(6, Vec::new())).await.expect("room for it");
        let (recovered, others) = oneshot::channel();
        let recovered = Some(recovered);
        let start = WriterLog { last: EpochNumber(5), keeps_rows: true, unwritten, recovered, ..WriterLog::default() };
        let ended = run_writer("q".to_owned(), Box::new(sink.clone()), receiver, errors, start).await;
        assert!(ended.is_err_and(|error| error.to_string().contains("not these")));
        assert_eq!(*sink.0.lock().expect("unpoisoned"), [first]);
        assert!(others.await.is_err(), "no other sink writes a row either");
    }
}
