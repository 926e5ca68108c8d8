//! `tidemill run`

use std::sync::Arc;

use clap::Args;
use tokio::sync::watch;

use super::attempts::Attempts;
use super::display::Display;
use super::log::tell;
use super::replica::Told;
use super::signals::{stop_on_signal, unless_stopped};
use super::summary::print_summary;
use super::work::WorkArgs;
use super::{Outcome, Source, display, runtime};
use crate::contracts::{Clock, SystemClock};
use crate::job::{JobOptions, Prepared, Start, StateOptions, prepare};
use crate::runtime::{Ending, Progress, Worker};

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    source: Source,
    /// Read what is there, close every window, flush, print a summary and exit
    #[arg(long)]
    drain: bool,
    /// Read what is there, keep windows open for the next run, and exit
    #[arg(long, conflicts_with = "drain")]
    once: bool,
    /// Forget saved positions and state, and set aside the files that earlier runs of this job wrote
    #[arg(long)]
    fresh: bool,
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
    /// Let a query that has changed go on with its state as it is, if that has the same columns; may be repeated
    #[arg(long, value_name = "QUERY")]
    keep_state: Vec<String>,
    #[command(flatten)]
    work: WorkArgs,
}

impl RunArgs {
    fn options(self) -> JobOptions {
        let parameters = self.source.parameters();
        let options = self.work.options(self.source.paths, parameters);
        JobOptions {
            ending: match (self.drain, self.once) {
                (true, _) => Ending::Drain,
                (_, true) => Ending::Once,
                _ => Ending::Run,
            },
            fresh: self.fresh,
            state: StateOptions {
                from_savepoint: self.from_savepoint,
                previous_checkpoint: self.previous_checkpoint,
                drop_state: self.drop_state,
                reset: self.reset,
                keep_state: self.keep_state,
                ..options.state
            },
            ..options
        }
    }
}

pub(super) fn run(args: RunArgs) -> Outcome {
    let options = args.options();
    runtime(options.threads)?.block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let stop = stop_on_signal();
        let Some(start) = unless_stopped(&stop, Start::of(&options, &clock)).await else { return Ok(()) };
        let start = start?;
        // A run that ends by itself is one that somebody waits for.
        let retries = options.ending == Ending::Run;
        match start {
            Start::Replica(mut replica) => {
                let told = Told { of: String::new(), display: Display::One, retries };
                if let Some(summary) = told.run(&mut replica, &clock, &stop).await? {
                    print_summary("", &summary);
                }
                Ok(())
            }
            Start::Alone(prepared) => run_alone(options, *prepared, &clock, &stop, retries).await,
        }
    })
}

async fn run_alone(
    mut options: JobOptions,
    prepared: Prepared,
    clock: &Arc<dyn Clock>,
    stop: &watch::Receiver<bool>,
    retries: bool,
) -> Outcome {
    let progress = Arc::new(Progress::default());
    let mut attempts = Attempts::new("", prepared.job.retries);
    // Without a log, a later run would not go on from this one.
    let generation = prepared.job.log.as_ref().map(|log| log.generation);
    let retries = retries && generation.is_some();
    let mut next = Ok(prepared);
    loop {
        let outcome = match next {
            Ok(prepared) => run_once(prepared, clock, stop, &progress).await,
            Err(errors) => Err(errors),
        };
        match outcome {
            Err(errors) if retries && attempts.again(&errors, &progress, clock, stop).await => {
                options.go_on(generation);
                let Some(again) = unless_stopped(stop, prepare(&options, Arc::clone(clock))).await else {
                    return Ok(());
                };
                next = again;
            }
            outcome => return outcome,
        }
    }
}

async fn run_once(
    prepared: Prepared,
    clock: &Arc<dyn Clock>,
    stop: &watch::Receiver<bool>,
    progress: &Arc<Progress>,
) -> Outcome {
    for warning in &prepared.warnings {
        tell!("note: {warning}");
    }
    let shown = display::show(Arc::clone(progress), Arc::clone(clock), &prepared.name, Display::One);
    let outcome = Worker::run(prepared.job, stop.clone(), Arc::clone(progress)).await;
    shown.abort();
    display::clear();
    print_summary("", &outcome.map_err(|e| vec![e])?);
    Ok(())
}
