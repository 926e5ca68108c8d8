//! The command line.

mod attempts;
mod aws;
mod backfill;
mod check;
mod demo;
mod display;
mod fleet;
mod log;
mod produce;
mod replica;
mod run;
mod signals;
mod state;
mod summary;
mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use self::log::tell;
use crate::contracts::{Error, ErrorKind, StartPosition};

/// Runs a folder of Flink SQL files against Kinesis: one job, one program.
#[derive(Debug, Parser)]
#[command(name = "tidemill", version, about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a job until it is stopped (or, with --drain or --once, until everything there has been read)
    Run(run::RunArgs),
    /// Take part in running several jobs: each process that is started so takes its share, and others take over when it ends
    Fleet(fleet::FleetArgs),
    /// Parse and plan only; show every error at once
    Check(check::CheckArgs),
    /// Show what each query does: steps, state, columns read, sink
    Explain(check::ExplainArgs),
    /// Send JSON lines to a stream
    Produce(produce::ProduceArgs),
    /// Compute the same queries over archived Parquet, as one batch
    Backfill(backfill::BackfillArgs),
    /// Make the streams, tables, topics and buckets that the SQL names and that are missing, or print a template of them
    Provision(aws::ProvisionArgs),
    /// Print the least-privilege policy of this job
    Iam(aws::IamArgs),
    /// Print CREATE EXTERNAL TABLE statements for what the job writes to S3
    Athena(aws::AthenaArgs),
    /// Look at a job's checkpoints, keep them, go back to them
    State(state::StateArgs),
    /// Run the shipped job on generated live traffic, and show counters, alerts and windows as they change
    Demo(demo::DemoArgs),
}

/// Files and parameters of a job.
#[derive(Debug, Clone, Args)]
struct Source {
    /// Folders (all .sql files in them) or .sql files; together they are one job
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    values: Values,
}

impl Source {
    fn parameters(&self) -> BTreeMap<String, String> {
        self.values.parameters()
    }
}

/// Parameters of a job.
#[derive(Debug, Clone, Args)]
struct Values {
    /// Value for ${K} in the files; before the environment, may be repeated
    #[arg(long = "param", value_name = "K=V", value_parser = key_value)]
    parameters: Vec<(String, String)>,
}

impl Values {
    fn parameters(&self) -> BTreeMap<String, String> {
        self.parameters.iter().cloned().collect()
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("'{text}' is not K=V"))?;
    if key.is_empty() {
        return Err(format!("'{text}' has no name before '='"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// `trim_horizon`, `latest` or a time.
fn start_position(text: &str) -> Result<StartPosition, String> {
    match text.to_ascii_lowercase().as_str() {
        "trim_horizon" => Ok(StartPosition::TrimHorizon),
        "latest" => Ok(StartPosition::Latest),
        _ => chrono::DateTime::parse_from_rfc3339(text)
            .map(|time| StartPosition::AtTimestamp(time.timestamp_millis()))
            .map_err(|_| format!("'{text}' is not trim_horizon, latest or a time like 2026-01-31T12:00:00Z")),
    }
}

/// What may pass by itself, as `sysexits.h` calls it (EX_TEMPFAIL).
const MAY_PASS: u8 = 75;

/// Whether an error may be gone when the same is tried later.
fn may_pass(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Fenced)
}

/// Runs the program. Exit codes: 0 done, 1 somebody must look (the job, its SQL, its state, a record), 2 the command line is wrong,
/// 75 it may pass (a service does not answer, another run has taken over): a supervisor starts it again; 141 nobody reads what it writes.
pub fn main() -> ExitCode {
    end_quietly_without_reader();
    let cli = Cli::parse();
    if let Err(error) = log::start() {
        tell!("error: {error}");
        return ExitCode::from(2);
    }
    let outcome = match cli.command {
        Command::Run(args) => run::run(args),
        Command::Fleet(args) => fleet::fleet(args),
        Command::Check(args) => check::check(args),
        Command::Explain(args) => check::explain(args),
        Command::Produce(args) => produce::produce(args),
        Command::Backfill(args) => backfill::backfill(args),
        Command::Provision(args) => aws::provision(args),
        Command::Iam(args) => aws::iam(args),
        Command::Athena(args) => aws::athena(args),
        Command::State(args) => state::state(args),
        Command::Demo(args) => demo::demo(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(errors) if errors.iter().any(Error::is_without_reader) => ExitCode::from(log::WITHOUT_READER),
        Err(errors) => {
            for error in &errors {
                tell!("error{}: {error}\n", shown_kind(error.kind()));
            }
            if errors.len() > 1 {
                tell!("{} errors", errors.len());
            }
            if errors.iter().all(may_pass) { ExitCode::from(MAY_PASS) } else { ExitCode::FAILURE }
        }
    }
}

/// The kind of an error, as the tables in `docs/reliability.md` call it, where it is no fault of options or SQL.
fn shown_kind(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::Config | ErrorKind::Sql => String::new(),
        kind => format!("[{}]", kind.as_str()),
    }
}

/// What `println!` panics with where nobody is left to read, is no failure to report.
fn end_quietly_without_reader() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
        if message.starts_with("failed printing to std") && message.contains("Broken pipe") {
            std::process::exit(log::WITHOUT_READER.into());
        }
        report(panic);
    }));
}

type Outcome = Result<(), Vec<Error>>;

/// Expressions are computed as trees, as deep as `sql` lets them be.
const WORKER_STACK_BYTES: usize = 8 << 20;
/// Threads for work that blocks end when they have been idle for so long. Work goes to the one that has waited longest: with tokio's ten
/// seconds, those that a burst has started (31 after half an hour on a busy machine, `benches/soak.py`) each got some in that time, and stayed.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(1);

/// A runtime with as many threads as the job has tasks.
fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, Vec<Error>> {
    runtime_with_stacks(threads, WORKER_STACK_BYTES)
}

fn runtime_with_stacks(threads: usize, stack_bytes: usize) -> Result<tokio::runtime::Runtime, Vec<Error>> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads.max(1)).thread_stack_size(stack_bytes).thread_keep_alive(BLOCKING_KEEP_ALIVE);
    let built = builder.enable_all().build();
    built.map_err(|e| vec![Error::unavailable("cannot start threads").caused_by(e)])
}

/// More threads than any machine has cores to compute with; each takes a stack, and a part of every plan.
const MOST_THREADS: usize = 1_024;

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(threads) if threads <= MOST_THREADS => Ok(threads),
        Ok(_) => Err(format!("there are {MOST_THREADS} at most")),
        Err(_) => Err(format!("'{text}' is no number of threads")),
    }
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}
