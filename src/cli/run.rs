//! `tidemill run`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::watch;

use super::{Outcome, Source, default_threads, display, runtime, start_position};
use crate::contracts::{Clock, Error, Result, StartPosition, SystemClock};
use crate::job::{JobOptions, prepare};
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
    /// Threads to compute with [default: the number of cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Longest time that results wait for, e.g. 50ms or 1s [default: 1 s, or the job's own setting]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    epoch_interval: Option<Duration>,
    /// Rows at which an epoch closes before its time
    #[arg(long, value_name = "N")]
    epoch_rows: Option<usize>,
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    crate::connectors::options::parse_duration(text).map_err(|e| e.to_string())
}

pub(super) fn run(args: RunArgs) -> Outcome {
    let threads = args.threads.unwrap_or_else(default_threads);
    let options = JobOptions {
        parameters: args.source.parameters(),
        paths: args.source.paths,
        local: args.local,
        ending: match (args.drain, args.once) {
            (true, _) => Ending::Drain,
            (_, true) => Ending::Once,
            _ => Ending::Run,
        },
        from: args.from,
        fresh: args.fresh,
        threads,
        epoch_interval: args.epoch_interval,
        epoch_rows: args.epoch_rows,
    };
    runtime(threads)?.block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let prepared = prepare(&options, Arc::clone(&clock)).await?;
        for warning in &prepared.warnings {
            eprintln!("note: {warning}");
        }
        let (stop_sender, stop) = watch::channel(false);
        tokio::spawn(stop_on_signal(stop_sender));
        let progress = Arc::new(Progress::default());
        let shown = display::show(Arc::clone(&progress), Arc::clone(&clock), &prepared.name);
        let outcome = Worker::run(prepared.job, stop, progress).await;
        shown.abort();
        display::clear();
        let (summary, saved) = outcome.map_err(|e| vec![e])?;
        if let Some(store) = &prepared.store {
            store.save(&saved).map_err(|e| vec![e])?;
        }
        print_summary(&summary);
        Ok(())
    })
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
}

fn reasons(counts: &std::collections::BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let list: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    format!(" ({})", list.join(", "))
}
