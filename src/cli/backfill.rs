//! `tidemill backfill`

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::log::tell;
use super::signals::end_on_signal;
use super::{Outcome, Source, default_threads, runtime, threads};
use crate::contracts::{Clock, SystemClock};
use crate::job::{BackfillOptions, JobOptions, backfill as run_backfill};
use crate::runtime::Ending;
use crate::sql::TimeRange;

/// Arguments of `backfill`.
#[derive(Debug, Args)]
pub(super) struct BackfillArgs {
    #[command(flatten)]
    source: Source,
    /// Folder of the archive's Parquet files, e.g. DIR/s3/my-analytics-archive/events
    #[arg(long, value_name = "FOLDER")]
    from: PathBuf,
    /// Source table whose rows the archive has; may be repeated [default: those of the stream that the query reads which
    /// writes the archive]
    #[arg(long = "table", value_name = "NAME")]
    tables: Vec<String>,
    /// First event time (RFC 3339); windows that begin before it are left out
    #[arg(long, value_name = "TIME", value_parser = time)]
    start: Option<i64>,
    /// End of event time, exclusive (RFC 3339); windows that end after it are left out
    #[arg(long, value_name = "TIME", value_parser = time)]
    end: Option<i64>,
    /// Use embedded stand-ins for DynamoDB, S3 and SNS under this folder
    #[arg(long, value_name = "DIR")]
    local: Option<PathBuf>,
    /// Send alerts too
    #[arg(long)]
    alerts: bool,
    /// Threads to compute with [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,
}

fn time(text: &str) -> Result<i64, String> {
    chrono::DateTime::parse_from_rfc3339(text)
        .map(|time| time.timestamp_millis())
        .map_err(|_| format!("'{text}' is not a time like 2026-01-31T12:00:00Z"))
}

pub(super) fn backfill(args: BackfillArgs) -> Outcome {
    let threads = args.threads.unwrap_or_else(default_threads);
    let options = BackfillOptions {
        job: JobOptions {
            parameters: args.source.parameters(),
            paths: args.source.paths,
            local: args.local,
            ending: Ending::Drain,
            from: None,
            fresh: false,
            state: Default::default(),
            threads,
            epoch_interval: None,
            epoch_rows: None,
            memory: None,
        },
        from: args.from,
        tables: args.tables,
        range: TimeRange { start_ms: args.start, end_exclusive_ms: args.end },
        alerts: args.alerts,
    };
    runtime(threads)?.block_on(async {
        end_on_signal();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let started = clock.elapsed();
        let done = run_backfill(&options, Arc::clone(&clock)).await?;
        for warning in &done.warnings {
            tell!("note: {warning}");
        }
        for query in &done.queries {
            match &query.outcome {
                Ok(rows) => {
                    println!("query {}: {rows} rows out, {} late, {} rejected", query.name, query.late, query.rejected)
                }
                Err(why) => println!("query {}: left out, {why}", query.name),
            }
        }
        let seconds = clock.elapsed().saturating_sub(started).as_secs_f64();
        println!("{} queries in {seconds:.2} s", done.queries.len());
        if done.failed.is_empty() { Ok(()) } else { Err(done.failed) }
    })
}
