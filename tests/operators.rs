//! Operators against plain definitions: whatever the batches, and with a snapshot and a restore at any point.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{Int8Type, Int64Type, TimestampMillisecondType};
use datafusion::datasource::MemTable;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;
use tidemill::contracts::{ErrorKind, Watermark, splitmix64};
use tidemill::operators::{
    AggregateParts, Compute, Emit, RestoreRoom, RunningAggregate, StateLimit, TimeToLive, WindowAggregate,
    WindowBuffer, WindowColumns, WindowKind, WindowSpec, run_partitions,
};
use tidemill::state::SpillFolder;

#[path = "operators/expiring.rs"]
mod expiring;
#[path = "operators/many_panes.rs"]
mod many_panes;
#[path = "operators/stored.rs"]
mod stored;

const CASES: u32 = 48;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn compute() -> Compute {
    let context = Arc::new(TaskContext::default());
    Compute { merges: Arc::clone(&context), context, ..Compute::new(1) }
}

/// A folder for state that does not fit into memory; it goes with the first value.
fn spill_folder() -> (tempfile::TempDir, Arc<SpillFolder>) {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = SpillFolder::create(parent.path(), 1 << 20).expect("created");
    (parent, folder)
}

/// What happens to an operator between two epochs.
#[derive(Debug, Clone, Copy)]
struct Between {
    spills: bool,
    restores: bool,
}

const NOTHING: Between = Between { spills: false, restores: false };

fn between() -> impl Strategy<Value = Between> {
    any::<(bool, bool)>().prop_map(|(spills, restores)| Between { spills, restores })
}

/// Rows as a batch: columns of numbers, those named `w…` as times.
fn batch(names: &[&'static str], rows: &[Vec<i64>]) -> RecordBatch {
    let column = |(index, name): (usize, &&'static str)| {
        let values = rows.iter().map(|row| row[index]);
        let array: ArrayRef = if name.starts_with('w') {
            Arc::new(values.map(Some).collect::<TimestampMillisecondArray>())
        } else {
            Arc::new(values.map(Some).collect::<Int64Array>())
        };
        (*name, array)
    };
    RecordBatch::try_from_iter(names.iter().enumerate().map(column)).expect("a batch")
}

/// The numbers of rows; a column of weights is the last.
fn numbers(batches: &[RecordBatch]) -> Vec<Vec<i64>> {
    let value = |column: &ArrayRef, row: usize| {
        if let Some(numbers) = column.as_primitive_opt::<Int64Type>() {
            numbers.value(row)
        } else if let Some(times) = column.as_primitive_opt::<TimestampMillisecondType>() {
            times.value(row)
        } else {
            i64::from(column.as_primitive::<Int8Type>().value(row))
        }
    };
    let rows = |batch: &RecordBatch| {
        (0..batch.num_rows()).map(|row| batch.columns().iter().map(|c| value(c, row)).collect()).collect::<Vec<_>>()
    };
    batches.iter().flat_map(rows).collect()
}

/// An aggregation over columns of numbers.
struct Aggregation {
    names: &'static [&'static str],
    parts: Arc<AggregateParts>,
}

impl Aggregation {
    async fn new(names: &'static [&'static str], sql: &str) -> Self {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        let empty = batch(names, &[]);
        let table = MemTable::try_new(empty.schema(), vec![vec![empty]]).expect("a table");
        context.register_table("t", Arc::new(table)).expect("registered");
        let plan = context.sql(sql).await.expect("SQL").create_physical_plan().await.expect("a plan");
        let aggregate = lowest(&plan).expect("an aggregation");
        let planned = aggregate.downcast_ref::<AggregateExec>().expect("found as such");
        Self { names, parts: Arc::new(AggregateParts::try_new(planned, 1).expect("its parts")) }
    }

    /// Partial states of rows in several batches.
    async fn partials(&self, batches: &[&[Vec<i64>]]) -> Vec<RecordBatch> {
        let mut states = Vec::new();
        for rows in batches {
            let rows = batch(self.names, rows);
            let schema = rows.schema();
            let input = MemorySourceConfig::try_new_exec(&[vec![rows]], schema, None).expect("a source");
            let plan = self.parts.partial(input).expect("a plan");
            states.extend(run_partitions(&plan, &compute()).await.expect("states"));
        }
        states
    }
}

/// The lowest aggregation of a plan: its groups are columns of the input.
fn lowest(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    let below = plan.children().into_iter().find_map(lowest);
    below.or_else(|| plan.is::<AggregateExec>().then(|| Arc::clone(plan)))
}

/// Lists cut out of rows, some of them empty; all rows are in one.
fn cut<'a>(rows: &'a [Vec<i64>], sizes: &[usize]) -> Vec<&'a [Vec<i64>]> {
    let (mut lists, mut rest) = (Vec::new(), rows);
    for size in sizes {
        let (list, later) = rest.split_at((*size).min(rest.len()));
        lists.push(list);
        rest = later;
    }
    lists.push(rest);
    lists
}

/// Rows `(key, value)`, where epochs end, how an epoch is cut into batches, and what happens between epochs.
type Feed = (Vec<(i64, i64)>, Vec<usize>, Vec<usize>, Vec<Between>);

fn feed() -> impl Strategy<Value = Feed> {
    (
        prop::collection::vec((0i64..9, -50i64..50), 0..80),
        prop::collection::vec(0usize..20, 0..8),
        prop::collection::vec(0usize..5, 0..4),
        prop::collection::vec(between(), 9),
    )
}

const RUNNING: &str = "SELECT k, count(*), sum(v), max(v) FROM t GROUP BY k";

/// `k -> [count, sum, max]`.
fn aggregated(rows: &[Vec<i64>]) -> BTreeMap<i64, Vec<i64>> {
    let mut table: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for row in rows {
        let of = table.entry(row[0]).or_insert_with(|| vec![0, 0, i64::MIN]);
        *of = vec![of[0] + 1, of[1] + row[1], of[2].max(row[1])];
    }
    table
}

async fn restored(operator: RunningAggregate, parts: &Aggregation, emit: Emit) -> RunningAggregate {
    let (watermark, rows) = operator.snapshot();
    let mut other = RunningAggregate::try_new(Arc::clone(&parts.parts), emit, None).expect("an operator");
    other.restore(watermark, rows, None).await.expect("restored");
    assert_eq!(other.size().0, operator.size().0, "keys after a restore");
    other
}

#[test]
fn a_running_aggregate_is_the_aggregate_of_all_rows_so_far() {
    let runtime = runtime();
    let aggregation = runtime.block_on(Aggregation::new(&["k", "v"], RUNNING));
    proptest!(ProptestConfig::with_cases(CASES), |((rows, epochs, batches, restores) in feed())| {
        let rows: Vec<Vec<i64>> = rows.into_iter().map(|(k, v)| vec![k, v]).collect();
        let (_parent, folder) = spill_folder();
        for emit in [Emit::Upserts, Emit::Deltas, Emit::NewKeys] {
            runtime.block_on(async {
                let mut operator = RunningAggregate::try_new(Arc::clone(&aggregation.parts), emit, None).expect("an operator");
                let (mut read, mut table, mut weights) = (0, BTreeMap::new(), BTreeMap::<Vec<i64>, i64>::new());
                for (number, epoch) in cut(&rows, &epochs).into_iter().enumerate() {
                    read += epoch.len();
                    let partials = aggregation.partials(&cut(epoch, &batches)).await;
                    let changes = numbers(&operator.push(partials, &compute()).await.expect("changes"));
                    let expected = aggregated(&rows[..read]);
                    let mut touched: Vec<i64> = epoch.iter().map(|row| row[0]).collect();
                    touched.sort_unstable();
                    touched.dedup();
                    match emit {
                        Emit::Upserts => {
                            // A change for each key that was touched, and for no other.
                            let mut keys: Vec<i64> = changes.iter().map(|row| row[0]).collect();
                            keys.sort_unstable();
                            assert_eq!(keys, touched);
                            table.extend(changes.into_iter().map(|row| (row[0], row[1..].to_vec())));
                            assert_eq!(table, expected);
                        }
                        Emit::Deltas => {
                            for row in changes {
                                let (weight, row) = row.split_last().expect("a weight");
                                *weights.entry(row.to_vec()).or_default() += weight;
                            }
                            weights.retain(|_, weight| *weight != 0);
                            // Each row of the table once, nothing withdrawn that was not there.
                            let wanted = expected.iter().map(|(k, values)| ([&[*k][..], values].concat(), 1));
                            assert_eq!(weights, wanted.collect());
                        }
                        Emit::NewKeys => {
                            for row in changes {
                                assert!(table.insert(row[0], Vec::new()).is_none(), "key {} came twice", row[0]);
                            }
                            assert!(table.keys().eq(expected.keys()));
                        }
                    }
                    let between = restores[number % restores.len()];
                    if between.spills {
                        operator.spill(&folder).expect("spilled");
                        assert_eq!(operator.memory().1, 0, "nothing is left that could be spilled");
                    }
                    if between.restores {
                        operator = restored(operator, &aggregation, emit).await;
                    }
                    let (keys, stored) = operator.size();
                    assert_eq!(keys, expected.len());
                    // Dead rows are bounded by the live ones.
                    assert!(stored <= 4 * keys.max(1), "{stored} rows for {keys} keys");
                }
            });
        }
    });
}

#[test]
fn a_key_that_was_not_seen_for_its_time_to_live_and_a_day_begins_anew() {
    const TTL: i64 = 100;
    // A day is longer than that, so it is the time-to-live once more.
    const KEPT: i64 = 2 * TTL;
    let runtime = runtime();
    let aggregation = runtime.block_on(Aggregation::new(&["k", "t"], "SELECT k, count(*), max(t) FROM t GROUP BY k"));
    // Behind the key: the state of count(*), then that of max(t).
    let ttl = Some(TimeToLive { ttl_ms: TTL, last_seen: 2 });
    let epochs = prop::collection::vec((prop::collection::vec((0i64..6, 0i64..60), 0..6), 0i64..140, between()), 1..14);
    let emit = prop::sample::select(vec![Emit::Upserts, Emit::NewKeys]);
    proptest!(ProptestConfig::with_cases(2 * CASES), |(epochs in epochs, emit in emit)| {
        runtime.block_on(async {
            let new = || RunningAggregate::try_new(Arc::clone(&aggregation.parts), emit, ttl).expect("an operator");
            let (mut operator, mut now, mut spilled) = (new(), 1_000, false);
            let (_parent, folder) = spill_folder();
            let mut model: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
            for (rows, step, between) in epochs {
                // Rows older than the time-to-live are refused below the operator.
                let rows: Vec<Vec<i64>> = rows.iter().map(|(k, ahead)| vec![*k, now + ahead]).collect();
                model.retain(|_, (_, seen)| *seen >= now - KEPT);
                let mut expected = BTreeMap::new();
                let before: BTreeSet<i64> = model.keys().copied().collect();
                for row in &rows {
                    let (count, seen) = model.get(&row[0]).copied().unwrap_or((0, i64::MIN));
                    model.insert(row[0], (count + 1, seen.max(row[1])));
                    expected.insert(row[0], model[&row[0]]);
                }
                // A distinct row comes once, however long, while it is seen again and again.
                expected.retain(|key, _| emit == Emit::Upserts || !before.contains(key));
                let partials = aggregation.partials(&[&rows]).await;
                let changes = numbers(&operator.push(partials, &compute()).await.expect("changes"));
                let changes: BTreeMap<i64, (i64, i64)> = changes.into_iter().map(|row| (row[0], (row[1], row[2]))).collect();
                assert_eq!(changes, expected);
                now += step;
                operator.advance(Watermark(now)).expect("advanced");
                // Sweeps are 16 in a time-to-live.
                let kept = model.values().filter(|(_, seen)| *seen >= now - KEPT - TTL / 16).count();
                // A block on disk is dropped when all its keys are.
                let young = model.values().any(|(_, seen)| *seen >= now - KEPT - TTL / 16);
                spilled &= young;
                assert!(spilled || operator.size().0 <= kept, "{} keys, {kept} at most", operator.size().0);
                if between.spills {
                    operator.spill(&folder).expect("spilled");
                    spilled = true;
                }
                if between.restores {
                    let (watermark, state) = operator.snapshot();
                    operator = new();
                    operator.restore(watermark, state, None).await.expect("restored");
                }
            }
        });
    });
}

/// Epochs of a windowed stream: rows `(time, key, value)`, how far the watermark moves, batches, and what comes then.
type Windowed = Vec<(Vec<(i64, i64, i64)>, i64, Vec<usize>, Between)>;

fn windowed() -> impl Strategy<Value = Windowed> {
    let rows = prop::collection::vec((-40i64..160, 0i64..3, 0i64..9), 0..24);
    prop::collection::vec((rows, 0i64..60, prop::collection::vec(0usize..6, 0..12), between()), 1..9)
}

fn specs() -> [WindowSpec; 5] {
    let spec = |kind, offset_ms| WindowSpec { kind, offset_ms };
    [
        spec(WindowKind::Tumble { size_ms: 25 }, 0),
        spec(WindowKind::Tumble { size_ms: 30 }, -7),
        spec(WindowKind::Hop { slide_ms: 10, size_ms: 40 }, 0),
        spec(WindowKind::Hop { slide_ms: 15, size_ms: 30 }, 4),
        spec(WindowKind::Cumulate { step_ms: 10, max_ms: 50 }, 3),
    ]
}

/// The windows `[start, end)` of a time, by the definition of each shape.
fn windows_by_definition(spec: WindowSpec, time: i64) -> Vec<(i64, i64)> {
    let multiples = |step: i64| (-60..60).map(move |n| spec.offset_ms + n * step);
    let mut windows: Vec<(i64, i64)> = match spec.kind {
        WindowKind::Tumble { size_ms } => multiples(size_ms).map(|start| (start, start + size_ms)).collect(),
        WindowKind::Hop { slide_ms, size_ms } => multiples(slide_ms).map(|start| (start, start + size_ms)).collect(),
        WindowKind::Cumulate { step_ms, max_ms } => {
            let steps = move |start| (1..=max_ms / step_ms).map(move |n| (start, start + n * step_ms));
            multiples(max_ms).flat_map(steps).collect()
        }
    };
    windows.retain(|(start, end)| *start <= time && time < *end);
    windows.sort_by_key(|window| window.1);
    windows
}

#[test]
fn windows_are_those_of_the_definition() {
    proptest!(|(time in -500i64..500, watermark in -600i64..600, which in 0usize..5)| {
        let spec = specs()[which];
        let windows = windows_by_definition(spec, time);
        let pane = spec.pane_start(time);
        prop_assert_eq!(spec.windows_of_pane(pane).collect::<Vec<_>>(), windows.clone());
        prop_assert_eq!(spec.last_end(pane), windows[windows.len() - 1].1);
        let open = windows.iter().map(|window| window.1).find(|end| !Watermark(watermark).closes(*end));
        prop_assert_eq!(spec.first_open_end(time, watermark), open);
        // All times of a pane are in the same windows.
        for other in pane..pane + spec.pane_ms() {
            prop_assert_eq!(&windows_by_definition(spec, other), &windows);
        }
    });
}

#[test]
fn a_window_aggregate_gives_each_window_once_with_the_rows_that_came_in_time() {
    let runtime = runtime();
    let sql = "SELECT ws, we, k, count(*), sum(v) FROM t GROUP BY ws, we, k";
    let aggregation = runtime.block_on(Aggregation::new(&["ws", "we", "k", "v"], sql));
    proptest!(ProptestConfig::with_cases(CASES), |(epochs in windowed(), which in 0usize..5)| {
        let spec = specs()[which];
        runtime.block_on(async {
            let columns = || WindowColumns { start: Some(0), end: Some(1), time: None, size_ms: None };
            let shared = spec.shares_panes().then_some(spec);
            let new = || WindowAggregate::try_new(Arc::clone(&aggregation.parts), columns(), shared).expect("an operator");
            let (_parent, folder) = spill_folder();
            let (mut operator, mut watermark) = (new(), i64::MIN);
            // (window, key) -> (count, sum), of windows that have not closed
            let mut model: BTreeMap<(i64, i64, i64), (i64, i64)> = BTreeMap::new();
            let closing = std::iter::once((Vec::new(), i64::MAX, Vec::new(), NOTHING));
            for (rows, step, batches, between) in epochs.into_iter().chain(closing) {
                let mut given = Vec::new();
                for (time, key, value) in rows {
                    // What the gate below does: a row keeps its first window that is open, or is refused.
                    let Some(first_open_end) = spec.first_open_end(time, watermark) else { continue };
                    let start = spec.pane_start(time);
                    given.push(vec![start, first_open_end, key, value]);
                    for (start, end) in windows_by_definition(spec, time) {
                        if !Watermark(watermark).closes(end) {
                            let of = model.entry((start, end, key)).or_default();
                            *of = (of.0 + 1, of.1 + value);
                        }
                    }
                }
                for part in cut(&given, &batches) {
                    let partials = aggregation.partials(&[part]).await;
                    operator.push(partials, &compute()).await.expect("taken");
                    if between.spills {
                        // So a pane has several runs, and some are merged.
                        operator.spill(&folder, 0, &compute()).await.expect("spilled");
                        assert_eq!(operator.memory().1, 0, "nothing is left that could be spilled");
                    }
                }
                if between.restores {
                    let (at, state) = operator.snapshot();
                    operator = new();
                    operator.restore(at, state, None, &compute()).await.expect("restored");
                }
                watermark = if step == i64::MAX { i64::MAX } else { watermark.max(-50) + step };
                operator.begin_close(Watermark(watermark));
                let mut closed = Vec::new();
                while let Some(rows) = operator.next_closed(&compute()).await.expect("closed windows") {
                    closed.extend(numbers(&rows));
                }
                closed.sort();
                let is_closed = |window: &(i64, i64, i64)| Watermark(watermark).closes(window.1);
                let expected = model.iter().filter(|(window, _)| is_closed(window));
                let mut expected: Vec<Vec<i64>> =
                    expected.map(|((start, end, key), (count, sum))| vec![*start, *end, *key, *count, *sum]).collect();
                expected.sort();
                assert_eq!(closed, expected, "{spec:?} at {watermark}");
                model.retain(|window, _| !is_closed(window));
            }
            assert_eq!(operator.size(), (0, 0), "nothing is kept behind the last window");
        });
    });
}

/// Some of the state goes to disk while it is restored, and the state of that run is restored again.
#[test]
fn pieces_keep_their_age_when_there_is_little_room_for_them() {
    let runtime = runtime();
    let sql = "SELECT ws, we, k, first_value(v), last_value(v) FROM t GROUP BY ws, we, k";
    let aggregation = runtime.block_on(Aggregation::new(&["ws", "we", "k", "v"], sql));
    let new = || {
        let columns = WindowColumns { start: Some(0), end: Some(1), time: None, size_ms: None };
        WindowAggregate::try_new(Arc::clone(&aggregation.parts), columns, None).expect("an operator")
    };
    let (_parent, folder) = spill_folder();
    for bytes in [0, 10_000, 60_000] {
        runtime.block_on(async {
            let (mut operator, mut buffer) = (new(), WindowBuffer::new(1));
            for n in 0..6 {
                let rows: Vec<Vec<i64>> = (0..500).map(|k| vec![0, 10, k, n]).collect();
                operator.push(aggregation.partials(&[&rows]).await, &compute()).await.expect("taken");
                buffer.push(&[batch(&["ws", "we", "k", "v"], &rows)]).expect("taken");
            }
            let limit = StateLimit::new(Arc::clone(&folder), bytes, 1 << 20, 1 << 30);
            for room in [Some(RestoreRoom::new(limit)), None] {
                let (at, state) = operator.snapshot();
                operator = new();
                operator.restore(at, state, room.as_ref(), &compute()).await.expect("restored");
                let (at, state) = buffer.snapshot();
                buffer = WindowBuffer::new(1);
                buffer.restore(at, state, room.as_ref()).await.expect("restored");
                assert!(room.is_none() || operator.memory().1 < 200_000, "some of it is on disk");
            }
            operator.begin_close(Watermark(20));
            let mut closed = Vec::new();
            while let Some(rows) = operator.next_closed(&compute()).await.expect("closed windows") {
                closed.extend(numbers(&rows));
            }
            closed.sort();
            let expected: Vec<Vec<i64>> = (0..500).map(|k| vec![0, 10, k, 0, 5]).collect();
            assert_eq!(closed, expected, "{bytes} bytes");
            buffer.begin_close(Watermark(20));
            let (schema, mut order) = (batch(&["ws", "we", "k", "v"], &[]).schema(), Vec::new());
            while let Some(rows) = buffer.next_closed(&schema).expect("closed") {
                order.extend(numbers(&[rows.load().expect("read")]).into_iter().map(|row| row[3]));
            }
            assert!(order.len() == 3_000 && order.is_sorted(), "{bytes} bytes: rows of a window by age");
        });
    }
}

#[test]
fn a_window_buffer_gives_the_rows_of_each_window_once_in_order_of_ends() {
    let runtime = runtime();
    proptest!(|(epochs in windowed(), which in 0usize..2)| {
        let spec = specs()[which];
        let (mut buffer, mut watermark) = (WindowBuffer::new(0), i64::MIN);
        let schema = batch(&["we", "k", "v"], &[]).schema();
        let (_parent, folder) = spill_folder();
        let mut model: BTreeMap<i64, Vec<Vec<i64>>> = BTreeMap::new();
        let closing = std::iter::once((Vec::new(), i64::MAX, Vec::new(), NOTHING));
        for (rows, step, batches, between) in epochs.into_iter().chain(closing) {
            let rows = rows.into_iter().map(|(time, key, value)| vec![spec.last_end(spec.pane_start(time)), key, value]);
            let rows: Vec<Vec<i64>> = rows.collect();
            for row in &rows {
                if !Watermark(watermark).closes(row[0]) {
                    model.entry(row[0]).or_default().push(row.clone());
                }
            }
            let lists: Vec<RecordBatch> = cut(&rows, &batches).into_iter().map(|rows| batch(&["we", "k", "v"], rows)).collect();
            buffer.push(&lists).expect("taken");
            if between.spills {
                buffer.spill(&folder, 0).expect("spilled");
                prop_assert_eq!(buffer.memory().0, 0);
            }
            if between.restores {
                let (at, state) = buffer.snapshot();
                buffer = WindowBuffer::new(0);
                runtime.block_on(buffer.restore(at, state, None)).expect("restored");
            }
            watermark = if step == i64::MAX { i64::MAX } else { watermark.max(-50) + step };
            buffer.begin_close(Watermark(watermark));
            let mut closed = Vec::new();
            while let Some(rows) = buffer.next_closed(&schema).expect("closed") {
                closed.extend(numbers(&[rows.load().expect("read")]));
            }
            let mut expected = Vec::new();
            while let Some(entry) = model.first_entry().filter(|entry| Watermark(watermark).closes(*entry.key())) {
                expected.extend(entry.remove());
            }
            // Rows of a window in the order in which they came.
            prop_assert_eq!(closed, expected);
        }
        prop_assert_eq!(buffer.size(), (0, 0));
    });
}

#[test]
fn many_keys_are_on_disk_and_come_back_one_by_one() {
    const KEYS: i64 = 30_000;
    let runtime = runtime();
    let aggregation = runtime.block_on(Aggregation::new(&["k", "v"], RUNNING));
    let (_parent, folder) = spill_folder();
    runtime.block_on(async {
        let mut operator =
            RunningAggregate::try_new(Arc::clone(&aggregation.parts), Emit::Upserts, None).expect("an operator");
        let mut rows: Vec<Vec<i64>> = Vec::new();
        let mut most = 0;
        for epoch in 0..30 {
            // Keys of all ages, and a few that are in each epoch.
            let new: Vec<Vec<i64>> =
                (0..5_000).map(|n| vec![if n % 10 == 0 { n } else { (epoch * 7_919 + n * 131) % KEYS }, n]).collect();
            rows.extend(new.iter().cloned());
            let partials = aggregation.partials(&[&new]).await;
            let changes = numbers(&operator.push(partials, &compute()).await.expect("changes"));
            let expected = aggregated(&rows);
            assert!(changes.iter().all(|row| row[1..] == expected[&row[0]]), "epoch {epoch}");
            most = most.max(operator.memory().0);
            if epoch % 3 == 1 {
                operator.spill(&folder).expect("spilled");
            }
            assert_eq!(operator.size().0, expected.len(), "epoch {epoch}");
            if epoch == 20 {
                operator = restored(operator, &aggregation, Emit::Upserts).await;
            }
        }
        operator.spill(&folder).expect("spilled");
        assert!(operator.memory().0 * 20 < most, "{} bytes in memory, {most} before", operator.memory().0);
        let (_, held) = folder.bytes();
        assert!(held < 4 * KEYS as u64 * 32, "{held} bytes on disk for {KEYS} keys");
        drop(operator);
        assert_eq!(folder.bytes().1, 0, "files go with their operator");
    });
}

#[test]
fn damage_to_files_of_spilled_state_is_an_error_that_names_them_and_never_another_result() {
    const KEYS: i64 = 6_000;
    let runtime = runtime();
    let aggregation = runtime.block_on(Aggregation::new(&["k", "v"], RUNNING));
    runtime.block_on(async {
        let (mut noticed, cases) = (0, 90_u64);
        for case in 0..cases {
            let (_parent, folder) = spill_folder();
            let mut operator =
                RunningAggregate::try_new(Arc::clone(&aggregation.parts), Emit::Upserts, None).expect("an operator");
            let mut rows: Vec<Vec<i64>> = (0..KEYS).map(|n| vec![n, n * 3]).collect();
            operator.push(aggregation.partials(&[&rows]).await, &compute()).await.expect("changes");
            operator.spill(&folder).expect("spilled");
            let entries =
                std::fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry").path());
            let files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "arrow")).collect();
            let file = &files[splitmix64(case) as usize % files.len()];
            let mut bytes = std::fs::read(file).expect("read");
            let at = (splitmix64(case ^ 0xda3a9e) % bytes.len() as u64) as usize;
            match case % 3 {
                0 => bytes[at] ^= 1 << (case / 3 % 8),
                1 => bytes.truncate(at),
                _ => bytes[at..].iter_mut().take(100).for_each(|byte| *byte = !*byte),
            }
            std::fs::write(file, bytes).expect("written");
            // Every second time all keys are touched, else a few.
            let step = if case % 2 == 0 { 1 } else { 1_500 };
            let new: Vec<Vec<i64>> = (0..KEYS).step_by(step).map(|n| vec![n, 1]).collect();
            rows.extend(new.iter().cloned());
            match operator.push(aggregation.partials(&[&new]).await, &compute()).await {
                Ok(changes) => {
                    assert!(step > 1, "case {case}: all of the file was needed");
                    let expected = aggregated(&rows);
                    assert!(numbers(&changes).iter().all(|row| row[1..] == expected[&row[0]]), "case {case}");
                }
                Err(error) => {
                    let text = error.to_string();
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "case {case}: {text}");
                    assert!(text.contains(&*file.to_string_lossy()), "case {case}: {text}");
                    noticed += 1;
                }
            }
        }
        assert!(noticed >= cases / 2, "{noticed} of {cases}");
    });
}
