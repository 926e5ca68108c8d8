//! Golden queries: each `golden/*.sql` gives what Flink gives (`golden/expected`, see `golden/README.md`), whatever
//! the epoch size, the number of threads and of splits, when the job is stopped half way and goes on later, when it is
//! killed and its last epochs are repeated, and as one batch.
//!
//! A query in `golden/UNSUPPORTED.txt` must be refused at planning, with its place. `GOLDEN=name,name` runs some only.

#![recursion_limit = "256"]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{BooleanArray, RecordBatch, RecordBatchReader};
use arrow::compute::{concat_batches, filter_record_batch};
use job::{Variant, run};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use support::compare::{Sink, differences};
use support::inputs::Inputs;
use support::kill::dies_after;
use support::{block_on_all, golden_folder, plan};
use tidemill::contracts::{Clock, SystemClock};
use tidemill::job::{JobOptions, MemoryOptions, StateTools, run_batch};
use tidemill::runtime::Ending;
use tidemill::state::{CheckpointStore, LocalStorage, OperatorState, StatePiece};

#[path = "support/exact.rs"]
mod exact;
#[path = "support/job.rs"]
mod job;
#[path = "golden/support/mod.rs"]
mod support;

/// Rows of an epoch, threads, splits.
const STRAIGHT: [Variant; 5] = [
    Variant { rows: usize::MAX, threads: 1, splits: 1 },
    Variant { rows: 1, threads: 1, splits: 1 },
    Variant { rows: 7, threads: 4, splits: 1 },
    Variant { rows: 7, threads: 1, splits: 5 },
    Variant { rows: 1_000, threads: 4, splits: 5 },
];
/// Stopped after one half of the input.
const STOPPED: [Variant; 2] =
    [Variant { rows: usize::MAX, threads: 1, splits: 1 }, Variant { rows: 7, threads: 4, splits: 1 }];

/// Killed after so many entries of the epoch log, one time after the other; then run to the end.
const KILLED: Variant = Variant { rows: 7, threads: 1, splits: 1 };
const KILLED_AFTER: [usize; 3] = [2, 3, 5];
/// With so little memory that all state goes to disk after each epoch; stopped after one half of the input, too.
const SPILLED: Variant = Variant { rows: 7, threads: 4, splits: 1 };
/// As one batch: rows of an epoch mean nothing there.
const BATCH: [Variant; 2] =
    [Variant { rows: usize::MAX, threads: 1, splits: 1 }, Variant { rows: usize::MAX, threads: 4, splits: 5 }];

/// Goldens whose state has been on disk; that of the others is one row, or none.
static SPILLED_GOLDENS: AtomicUsize = AtomicUsize::new(0);
/// Operators whose state was exported after a stop, and its rows.
static EXPORTED_STATES: AtomicUsize = AtomicUsize::new(0);
static EXPORTED_ROWS: AtomicUsize = AtomicUsize::new(0);
/// Goldens whose batch plan gives another answer, and why.
const NO_BATCH: [(&str, &str); 0] = [];

#[test]
fn goldens_give_what_flink_gives() {
    let folder = golden_folder();
    let unsupported = std::fs::read_to_string(folder.join("UNSUPPORTED.txt")).unwrap_or_default();
    let unsupported: BTreeSet<String> = unsupported
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| Some(l.split_whitespace().next()?.to_owned()))
        .collect();
    let chosen: Option<BTreeSet<String>> =
        std::env::var("GOLDEN").ok().map(|names| names.split(',').map(str::to_owned).collect());
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .expect("the folder of goldens")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.strip_suffix(".sql").map(str::to_owned))
        .filter(|name| chosen.as_ref().is_none_or(|chosen| chosen.contains(name)))
        .collect();
    names.sort();
    assert!(chosen.is_some() || names.len() >= 60, "only {} goldens", names.len());
    let total = names.len();
    let checks = names.into_iter().map(|name| {
        let refused = unsupported.contains(&name);
        async move {
            let problems = if refused { check_refused(&name).await } else { check(&name).await };
            problems.into_iter().map(|problem| format!("{name} {problem}")).collect::<Vec<_>>()
        }
    });
    let outcomes = block_on_all(checks);
    let problems: Vec<Vec<String>> = outcomes.into_iter().filter(|p| !p.is_empty()).collect();
    let texts: Vec<String> = problems.iter().map(|list| list.join("\n")).collect();
    let spilled = SPILLED_GOLDENS.load(Ordering::Relaxed);
    assert!(chosen.is_some() || spilled >= 60, "only the state of {spilled} goldens was put on disk");
    let [states, rows] = [&EXPORTED_STATES, &EXPORTED_ROWS].map(|count| count.load(Ordering::Relaxed));
    println!("state of {spilled} goldens on disk; {states} states with {rows} rows exported");
    assert!(chosen.is_some() || states >= 60, "only {states} states were exported, with {rows} rows");
    assert!(problems.is_empty(), "{} of {total} goldens fail:\n\n{}", problems.len(), texts.join("\n\n"));
}

/// A query that is not supported yet is never run wrongly.
async fn check_refused(name: &str) -> Vec<String> {
    let inputs = Inputs::make(name, 1);
    match plan(&inputs.options(Variant::default(), Ending::Drain)).await {
        Ok(_) => vec!["is listed in UNSUPPORTED.txt, but planned".to_owned()],
        Err(errors) if errors.iter().all(|e| e.contains(&format!("{name}.sql:")) && e.contains('^')) => vec![],
        Err(errors) => vec![format!("is refused without a place: {}", errors.join("\n"))],
    }
}

async fn check(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(golden_folder().join(format!("{name}.sql"))).expect("the query");
    let one_split = text.contains("-- shards: 1");
    let mut problems = Vec::new();
    for variant in STRAIGHT {
        if one_split && variant.splits > 1 {
            continue;
        }
        let inputs = Inputs::make(name, variant.splits);
        match straight(name, &inputs, variant).await {
            Ok(differences) => problems.extend(differences.into_iter().map(|d| format!("[{variant}] {d}"))),
            Err(error) => problems.push(format!("[{variant}] {error}")),
        }
        // The others would only say the same again.
        if !problems.is_empty() {
            return problems;
        }
    }
    for variant in STOPPED.into_iter().filter(|_| !one_split) {
        match stopped(name, variant).await {
            Ok(differences) => problems.extend(differences.into_iter().map(|d| format!("[{variant}, stopped] {d}"))),
            Err(error) => problems.push(format!("[{variant}, stopped] {error}")),
        }
    }
    match killed(name, KILLED).await {
        Ok(differences) => problems.extend(differences.into_iter().map(|d| format!("[{KILLED}, killed] {d}"))),
        Err(error) => problems.push(format!("[{KILLED}, killed] {error}")),
    }
    if !one_split {
        match spilled(name, SPILLED).await {
            Ok(differences) => problems.extend(differences.into_iter().map(|d| format!("[{SPILLED}, spilled] {d}"))),
            Err(error) => problems.push(format!("[{SPILLED}, spilled] {error}")),
        }
    }
    for variant in BATCH {
        if (one_split && variant.splits > 1) || NO_BATCH.iter().any(|(without, _)| *without == name) {
            continue;
        }
        match batch(name, variant).await {
            Ok(differences) => problems.extend(differences.into_iter().map(|d| format!("[{variant}, batch] {d}"))),
            Err(error) => problems.push(format!("[{variant}, batch] {error}")),
        }
    }
    problems
}

async fn straight(name: &str, inputs: &Inputs, variant: Variant) -> Result<Vec<String>, String> {
    let options = inputs.options(variant, Ending::Drain);
    let sinks = sinks(&options).await?;
    run(&options).await?;
    Ok(differences(&golden_folder().join("expected").join(name), &sinks, inputs.output()))
}

async fn killed(name: &str, variant: Variant) -> Result<Vec<String>, String> {
    let inputs = Inputs::make(name, variant.splits);
    let mut options = inputs.options(variant, Ending::Drain);
    for (run, entries) in KILLED_AFTER.into_iter().enumerate() {
        // By turns: a checkpoint after every epoch, as far as one is done before the next; and the log alone.
        options.state.interval = Some(Duration::from_millis(u64::from(run % 2 == 0)));
        if !dies_after(&options, entries).await? {
            break;
        }
    }
    let sinks = sinks(&options).await?;
    dies_after(&options, usize::MAX).await?;
    Ok(differences(&golden_folder().join("expected").join(name), &sinks, inputs.output()))
}

/// Each epoch's state goes to disk, and comes back from there; also out of the checkpoint of a run before.
async fn spilled(name: &str, variant: Variant) -> Result<Vec<String>, String> {
    let inputs = Inputs::make(name, 1);
    let options = |ending| {
        let options = inputs.options(variant, ending);
        let spill = options.local.as_ref().expect("a folder").join("spill");
        JobOptions { memory: Some(MemoryOptions { bytes: 0, spill, asked: true, jobs: 1 }), ..options }
    };
    let planned = plan(&options(Ending::Once)).await.map_err(|e| e.join("\n"))?;
    let sources: Vec<&str> = planned.sources.iter().filter_map(|s| s.spec.option("path")).collect();
    let rest = inputs.keep_first_half(&sources);
    let first = run(&options(Ending::Once)).await?;
    inputs.add(rest);
    let options = options(Ending::Drain);
    let sinks = sinks(&options).await?;
    let done = run(&options).await?;
    SPILLED_GOLDENS.fetch_add(usize::from(first.spilled_bytes + done.spilled_bytes > 0), Ordering::Relaxed);
    Ok(differences(&golden_folder().join("expected").join(name), &sinks, inputs.output()))
}

/// The batch plan of the same queries over the same records: the oracle of the stream.
async fn batch(name: &str, variant: Variant) -> Result<Vec<String>, String> {
    let inputs = Inputs::make(name, variant.splits);
    let options = inputs.options(variant, Ending::Drain);
    let sinks = sinks(&options).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let done = run_batch(&options, clock).await;
    done.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    Ok(differences(&golden_folder().join("expected").join(name), &sinks, inputs.output()))
}

/// One half of each source, a stop that keeps windows open, then everything.
async fn stopped(name: &str, variant: Variant) -> Result<Vec<String>, String> {
    let inputs = Inputs::make(name, 1);
    let planned = plan(&inputs.options(variant, Ending::Once)).await.map_err(|e| e.join("\n"))?;
    let sources: Vec<&str> = planned.sources.iter().filter_map(|s| s.spec.option("path")).collect();
    let rest = inputs.keep_first_half(&sources);
    let first = inputs.options(variant, Ending::Once);
    run(&first).await?;
    let differences = exported(first.local.as_ref().expect("a folder")).await?;
    if !differences.is_empty() {
        return Ok(differences);
    }
    inputs.add(rest);
    straight(name, &inputs, variant).await
}

/// What the checkpoint below `local` holds, as Parquet: the live rows of each operator, value by value, and nothing of a query without
/// state.
async fn exported(local: &Path) -> Result<Vec<String>, String> {
    let text = |e: tidemill::contracts::Error| format!("cannot be exported: {e}");
    let folder = tempfile::tempdir().expect("a folder");
    let tools = StateTools::open(&local.to_string_lossy(), Arc::new(SystemClock::new())).await.map_err(text)?;
    let files = tools.export("latest", None, folder.path()).await.map_err(text)?;
    let name = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
    let mut left: BTreeMap<String, RecordBatch> = files.iter().map(|path| (name(path), parquet(path))).collect();
    let job = std::fs::read_dir(local.join("checkpoints")).expect("a folder").flatten().next().expect("a job").path();
    let mut store = CheckpointStore::new(Arc::new(LocalStorage::new(job)), "tools", 3);
    let newest = store.latest().await.map_err(text)?.expect("a checkpoint");
    let saved = store.load(&newest).await.map_err(text)?;
    let mut differences = Vec::new();
    for (name, query) in &saved.queries {
        let operators = query.operators.iter().zip(&newest.queries[name].operators).enumerate();
        let operators = operators.map(|(number, (state, manifest))| (number.to_string(), state, manifest));
        let open = query.unwritten.iter().zip(&newest.queries[name].unwritten);
        for (which, state, manifest) in operators.chain(open.map(|(s, m)| ("open".to_owned(), s, m))) {
            let file = format!("{}-{which}", name.replace(|c: char| !c.is_alphanumeric() && c != '_', "-"));
            let (kept, written) = (live(state), left.remove(&file));
            let rows = kept.as_ref().map_or(0, RecordBatch::num_rows);
            if rows as u64 != manifest.rows {
                differences.push(format!("{file}: {rows} live rows, of {}", manifest.rows));
            }
            if !is_same(kept.as_ref(), written.as_ref()) {
                differences.push(format!("{file}: {written:?} was written of {kept:?}"));
            }
            EXPORTED_ROWS.fetch_add(rows, Ordering::Relaxed);
            EXPORTED_STATES.fetch_add(usize::from(rows > 0), Ordering::Relaxed);
        }
    }
    differences.extend(left.into_keys().map(|file| format!("{file}: nobody's state")));
    Ok(differences)
}

/// All rows of a Parquet file.
fn parquet(path: &Path) -> RecordBatch {
    let file = std::fs::File::open(path).expect("a file");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("a reader");
    let schema = reader.schema();
    let batches: Vec<RecordBatch> = reader.map(|batch| batch.expect("rows")).collect();
    concat_batches(&schema, &batches).expect("of one schema")
}

/// All live rows of an operator; `None` if it has no piece.
fn live(state: &OperatorState) -> Option<RecordBatch> {
    let rows = |piece: &StatePiece| {
        let rows = piece.rows.load().expect("its rows");
        match &piece.dead {
            Some(dead) => filter_record_batch(&rows, &BooleanArray::from(!dead)).expect("as many bits as rows"),
            None => rows,
        }
    };
    let batches: Vec<RecordBatch> = state.pieces.iter().map(rows).collect();
    Some(concat_batches(batches.first()?.schema_ref(), &batches).expect("of one schema"))
}

fn is_same(kept: Option<&RecordBatch>, written: Option<&RecordBatch>) -> bool {
    let columns = |batch: &RecordBatch| {
        let schema = batch.schema();
        let fields = schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone()));
        fields.zip(batch.columns().to_vec()).collect::<Vec<_>>()
    };
    kept.map(columns) == written.map(columns)
}

async fn sinks(options: &JobOptions) -> Result<Vec<Sink>, String> {
    let planned = plan(options).await.map_err(|errors| errors.join("\n"))?;
    let sinks = planned.queries.iter().map(|query| {
        let spec = &query.sink.spec;
        let path = Path::new(spec.option("path").unwrap_or_default());
        Sink {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            key: query.sink.key.iter().map(|index| spec.schema.field(*index).name().clone()).collect(),
            schema: Arc::clone(&spec.schema),
        }
    });
    Ok(sinks.collect())
}
