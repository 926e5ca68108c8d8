//! `tidemill run`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::watch;

use super::attempts::Attempts;
use super::{Outcome, Source, default_threads, display, runtime, start_position};
use crate::contracts::{Clock, Error, Result, StartPosition, SystemClock};
use crate::job::{JobOptions, LeasePlace, MemoryOptions, Replica, Stage, Start, StateOptions};
use crate::runtime::{Ending, Progress, Summary, Worker};

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    source: Source,
    /// Use embedded stand-ins for Kinesis, DynamoDB, S3 and SNS under this folder
    #[arg(long, value_name = "DIR")]
    local: Option<PathBuf>,
    /// Read what is there, close every window, flush, print a summary and exit
    #[arg(long)]
    drain: bool,
    /// Read what is there, keep windows open for the next run, and exit
    #[arg(long, conflicts_with = "drain")]
    once: bool,
    /// Where to start without a saved position: trim_horizon, latest or a time (RFC 3339)
    #[arg(long, value_name = "POSITION", value_parser = start_position)]
    from: Option<StartPosition>,
    /// Forget saved positions and state, and set aside the files that earlier runs of this job wrote
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    state: StateArgs,
    /// Threads to compute with [default: the number of cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Longest time that results wait for, e.g. 50ms or 1s [default: 1 s, or the job's own setting]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    epoch_interval: Option<Duration>,
    /// Rows at which an epoch closes before its time
    #[arg(long, value_name = "N")]
    epoch_rows: Option<usize>,
    /// Memory that the process may have, e.g. 512MiB; state that does not fit goes to disk [default: 80 % of what its
    /// container or machine has]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Folder on a local disk for state that does not fit into memory [default: DIR/spill of --local DIR, or the system's
    /// folder for temporary files]
    #[arg(long, value_name = "FOLDER")]
    spill_dir: Option<PathBuf>,
}

/// Which saved state a run goes on from, and where it keeps its own.
#[derive(Debug, Args)]
struct StateArgs {
    /// Where checkpoints are kept: a folder or s3://bucket/prefix [default: DIR/checkpoints of --local DIR, or the job's own
    /// setting 'state.checkpoints.dir']
    #[arg(long, value_name = "PATH")]
    checkpoints: Option<String>,
    /// Time between two checkpoints, e.g. 10s [default: 10 s, or the job's own setting]; 0 is only at the end
    #[arg(long, value_name = "TIME", value_parser = duration)]
    checkpoint_interval: Option<Duration>,
    /// Go on from this savepoint (see `tidemill state`)
    #[arg(long, value_name = "NAME", conflicts_with = "fresh")]
    from_savepoint: Option<String>,
    /// If the newest checkpoint is damaged, go on from the one before
    #[arg(long, conflicts_with = "fresh")]
    previous_checkpoint: bool,
    /// Forget the state of a query that is gone; may be repeated
    #[arg(long, value_name = "QUERY")]
    drop_state: Vec<String>,
    /// Let a query that has changed begin without state; may be repeated
    #[arg(long, value_name = "QUERY")]
    reset: Vec<String>,
    /// Run as one of several replicas: the one that has the lease works, the others wait for it. PLACE is `checkpoints` or
    /// `dynamodb:TABLE` [default: the job's own setting 'tidemill.lease']
    #[arg(long, value_name = "PLACE", value_parser = LeasePlace::parse)]
    lease: Option<LeasePlace>,
}

impl StateArgs {
    fn options(self) -> StateOptions {
        StateOptions {
            path: self.checkpoints,
            interval: self.checkpoint_interval,
            previous_checkpoint: self.previous_checkpoint,
            from_savepoint: self.from_savepoint,
            drop_state: self.drop_state,
            reset: self.reset,
            lease: self.lease,
            outside: None,
        }
    }
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    crate::connectors::options::parse_duration(text).map_err(|e| e.to_string())
}

fn size(text: &str) -> std::result::Result<u64, String> {
    crate::connectors::options::parse_size(text).map_err(|e| e.to_string())
}

pub(super) fn run(args: RunArgs) -> Outcome {
    let threads = args.threads.unwrap_or_else(default_threads);
    let mut options = JobOptions {
        parameters: args.source.parameters(),
        paths: args.source.paths,
        memory: MemoryOptions::new(args.memory, args.spill_dir, args.local.as_deref()),
        local: args.local,
        ending: match (args.drain, args.once) {
            (true, _) => Ending::Drain,
            (_, true) => Ending::Once,
            _ => Ending::Run,
        },
        from: args.from,
        fresh: args.fresh,
        state: args.state.options(),
        threads,
        epoch_interval: args.epoch_interval,
        epoch_rows: args.epoch_rows,
    };
    runtime(threads)?.block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let start = Start::of(&options, &clock).await?;
        let (stop_sender, mut stop) = watch::channel(false);
        tokio::spawn(stop_on_signal(stop_sender));
        let progress = Arc::new(Progress::default());
        let mut attempts = Attempts::new(start.retries());
        // A run that ends by itself is one that somebody waits for.
        let may_retry = options.ending == Ending::Run && start.keeps_state();
        let mut next = Some(start);
        loop {
            let outcome = match next.take() {
                Some(start) => run_once(start, &clock, &stop, &progress).await,
                None => match Start::of(&options, &clock).await {
                    Ok(start) => run_once(start, &clock, &stop, &progress).await,
                    Err(errors) => Err(errors),
                },
            };
            match outcome {
                Err(errors) if may_retry && attempts.again(&errors, &progress, &clock, &mut stop).await => {
                    options.go_on();
                }
                outcome => return outcome,
            }
        }
    })
}

async fn run_once(
    start: Start,
    clock: &Arc<dyn Clock>,
    stop: &watch::Receiver<bool>,
    progress: &Arc<Progress>,
) -> Outcome {
    let prepared = match start {
        Start::Replica(replica) => return run_replica(*replica, clock, stop, progress).await,
        Start::Alone(prepared) => *prepared,
    };
    for warning in &prepared.warnings {
        eprintln!("note: {warning}");
    }
    let shown = display::show(Arc::clone(progress), Arc::clone(clock), &prepared.name);
    let outcome = Worker::run(prepared.job, stop.clone(), Arc::clone(progress)).await;
    shown.abort();
    display::clear();
    print_summary(&outcome.map_err(|e| vec![e])?);
    Ok(())
}

async fn run_replica(
    replica: Replica,
    clock: &Arc<dyn Clock>,
    stop: &watch::Receiver<bool>,
    progress: &Arc<Progress>,
) -> Outcome {
    let mut shown: Option<tokio::task::JoinHandle<()>> = None;
    let mut tell = |stage: Stage<'_>| match stage {
        Stage::Waits { leader } => eprintln!("waits: '{leader}' runs the job"),
        Stage::Leads { generation } => eprintln!("leads: this replica runs the job (generation {generation})"),
        Stage::Begins { prepared } => {
            for warning in &prepared.warnings {
                eprintln!("note: {warning}");
            }
            shown = Some(display::show(Arc::clone(progress), Arc::clone(clock), &prepared.name));
        }
        Stage::Lost { reason } => {
            if let Some(shown) = shown.take() {
                shown.abort();
                display::clear();
            }
            eprintln!("waits: {reason}");
        }
    };
    let outcome = replica.run(stop, progress, &mut tell).await;
    if let Some(shown) = shown.take() {
        shown.abort();
        display::clear();
    }
    if let Some(summary) = outcome? {
        print_summary(&summary);
    }
    Ok(())
}

/// The first signal asks for an orderly end, the second ends at once.
pub(super) async fn stop_on_signal(stop: watch::Sender<bool>) {
    if let Err(error) = signalled().await {
        eprintln!("note: cannot wait for signals: {error}");
        return;
    }
    eprintln!("stopping: finishing the epoch and flushing; a second signal ends at once");
    let _ = stop.send(true);
    if signalled().await.is_ok() {
        std::process::exit(130);
    }
}

/// Waits for SIGINT or SIGTERM.
pub(super) async fn signalled() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |e| Error::unavailable("signal handler").caused_by(e);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        done = tokio::signal::ctrl_c() => done.map_err(failed),
        _ = terminate.recv() => Ok(()),
    }
}

/// What a run did, for people and for scripts that read its last lines.
pub(super) fn print_summary(summary: &Summary) {
    let seconds = summary.elapsed.as_secs_f64();
    let records = summary.records();
    let rate = if seconds > 0.0 { records as f64 / seconds } else { 0.0 };
    println!("{records} records in {seconds:.2} s ({rate:.0} events/s), {} epochs", summary.epochs);
    for table in &summary.tables {
        let rejected: u64 = table.rejected.values().sum();
        let reasons = reasons(&table.rejected);
        let with = table.read_with.as_ref().map(|other| format!(" (read with {other})")).unwrap_or_default();
        println!(
            "  table {}: {} records{with}, {} decoded, {rejected} rejected{reasons}, {} skipped",
            table.name, table.records, table.decoded, table.skipped
        );
    }
    for query in &summary.queries {
        let rejected: u64 = query.rejected.values().sum();
        let refused: u64 = query.refused.values().sum();
        println!(
            "  query {}: {} rows in, {} used, {} late, {rejected} rejected{}, {} rows out, {refused} refused{}",
            query.name,
            query.rows_in,
            query.used,
            query.late,
            reasons(&query.rejected),
            query.rows_out,
            reasons(&query.refused)
        );
    }
    if summary.spilled_bytes > 0 {
        println!("  memory: {} of state were put on disk", bytes(summary.spilled_bytes));
    }
    if let Some(counts) = &summary.checkpoints {
        let failed = if counts.failed > 0 { format!(", {} failed", counts.failed) } else { String::new() };
        println!(
            "  checkpoints: {}{failed}, {} written, {} kept, {} ms each, {} ms the longest",
            counts.checkpoints,
            bytes(counts.written_bytes),
            bytes(counts.total_bytes),
            counts.together.as_millis() / u128::from(counts.checkpoints.max(1)),
            counts.longest.as_millis()
        );
    }
}

/// `17 B`, `1.5 KiB`, `2.3 GiB`.
pub(super) fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (count.max(1).ilog2() / 10).min(4);
    match power {
        0 => format!("{count} B"),
        _ => format!("{:.1} {}", count as f64 / 1024_f64.powi(power as i32), units[power as usize]),
    }
}

fn reasons(counts: &std::collections::BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let list: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    format!(" ({})", list.join(", "))
}
