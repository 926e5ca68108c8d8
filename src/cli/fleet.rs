//! `tidemill fleet`

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::display::Display;
use super::log::tell;
use super::replica::Told;
use super::signals::{stop_on_signal, unless_stopped};
use super::summary::print_summary;
use super::work::WorkArgs;
use super::{Cli, Outcome, Values, may_pass, runtime_with_stacks, shown_kind};
use crate::contracts::{Clock, Error, SystemClock};
use crate::job::Fleet;
use crate::sql::STACK_BYTES;

/// Arguments of `fleet`.
#[derive(Debug, Args)]
pub(super) struct FleetArgs {
    /// Jobs: each a .sql file or a folder of them; a folder without .sql files is the jobs in the folders below it
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<PathBuf>,
    #[command(flatten)]
    values: Values,
    #[command(flatten)]
    work: WorkArgs,
    #[command(flatten)]
    of_one: OfOneJob,
}

/// Options of `run` that are for one job: a person who tries them is told so.
#[derive(Debug, Args)]
struct OfOneJob {
    #[arg(long, hide = true)]
    drain: bool,
    #[arg(long, hide = true)]
    once: bool,
    #[arg(long, hide = true)]
    fresh: bool,
    #[arg(long, hide = true)]
    previous_checkpoint: bool,
    #[arg(long, hide = true)]
    from_savepoint: Option<String>,
    #[arg(long, hide = true)]
    drop_state: Vec<String>,
    #[arg(long, hide = true)]
    reset: Vec<String>,
    #[arg(long, hide = true)]
    keep_state: Vec<String>,
}

impl OfOneJob {
    fn refuse(&self) {
        let given = [
            ("--drain", self.drain),
            ("--once", self.once),
            ("--fresh", self.fresh),
            ("--previous-checkpoint", self.previous_checkpoint),
            ("--from-savepoint", self.from_savepoint.is_some()),
            ("--drop-state", !self.drop_state.is_empty()),
            ("--reset", !self.reset.is_empty()),
            ("--keep-state", !self.keep_state.is_empty()),
        ];
        if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
            let text = format!(
                "'{option}' is for one job, and for a moment when nothing else runs it\n\n  tip: stop the fleet, \
                 `tidemill run JOB {option}` with the same --checkpoints, and start the fleet again"
            );
            Cli::command().error(ErrorKind::ArgumentConflict, text).exit();
        }
    }
}

pub(super) fn fleet(args: FleetArgs) -> Outcome {
    args.of_one.refuse();
    let parameters = args.values.parameters();
    let options = args.work.options(args.jobs, parameters);
    // A job is planned again, on one of these threads, when its turn comes.
    runtime_with_stacks(options.threads, STACK_BYTES)?.block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let stop = stop_on_signal();
        let Some(fleet) = unless_stopped(&stop, Fleet::plan(&options, &clock)).await else { return Ok(()) };
        let fleet = fleet?;
        let names: Vec<String> = fleet.jobs.iter().map(|job| job.name.clone()).collect();
        tell!("fleet: '{}' takes part in {} jobs: {}", fleet.holder, names.len(), names.join(", "));
        run(fleet, &clock, &stop).await
    })
}

/// A hint that names an option which a fleet refuses says where it is to be given.
fn hinting_at_run(error: Error) -> Error {
    const NAMED: [&str; 8] = [
        "--once",
        "--drain",
        "--fresh",
        "--previous-checkpoint",
        "--from-savepoint",
        "--drop-state",
        "--reset",
        "--keep-state",
    ];
    match error.hint_text() {
        Some(hint) if NAMED.iter().any(|option| hint.contains(option)) => {
            let instead = "a fleet takes no such option: stop it, `tidemill run JOB` with it and the same --checkpoints, and start the fleet again";
            let hint = format!("{hint} ({instead})");
            error.hint(hint)
        }
        _ => error,
    }
}

/// Runs all jobs, each by itself, until all have ended.
async fn run(fleet: Fleet, clock: &Arc<dyn Clock>, stop: &watch::Receiver<bool>) -> Outcome {
    let count = fleet.jobs.len();
    let mut names = HashMap::new();
    let mut tasks = JoinSet::new();
    for job in fleet.jobs {
        let told = Told { of: format!("{}: ", job.name), display: Display::OneOfSeveral, retries: true };
        let (mut replica, clock, stop) = (job.replica, Arc::clone(clock), stop.clone());
        let span = tracing::error_span!("job", name = %job.name);
        let work = async move { told.run(&mut replica, &clock, &stop).await };
        names.insert(tasks.spawn(work.instrument(span)).id(), job.name);
    }
    let (mut given_up, mut all_may_pass) = (Vec::new(), true);
    while let Some(ended) = tasks.join_next_with_id().await {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, outcome),
            // It has told of it; a run that panics does not come here. What it had is given up with it.
            Err(died) => (died.id(), Err(vec![Error::internal("the job's task died").caused_by(died)])),
        };
        let Some(name) = names.remove(&id) else { continue };
        match outcome {
            Ok(Some(summary)) => {
                if !*stop.borrow() {
                    tell!("{name}: all there was has been read, the job has ended");
                }
                print_summary(&format!("{name}: "), &summary);
            }
            Ok(None) => {}
            Err(errors) => {
                all_may_pass &= errors.iter().all(may_pass);
                for error in errors.into_iter().map(hinting_at_run) {
                    tell!("{name}: error{}: {error}", shown_kind(error.kind()));
                }
                if !names.is_empty() && !*stop.borrow() {
                    tell!("{name}: given up by this process until it is started again; its other jobs go on");
                }
                given_up.push(format!("'{name}'"));
            }
        }
    }
    if given_up.is_empty() {
        return Ok(());
    }
    let (few, list) = (given_up.len(), given_up.join(", "));
    let failed = format!("{few} of {count} jobs failed: {list}");
    Err(vec![if all_may_pass { Error::unavailable(failed) } else { Error::config(failed) }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_at_an_option_that_a_fleet_refuses_says_where_to_give_it() {
        let told = |hint: &str| hinting_at_run(Error::corrupt("it is damaged").hint(hint)).to_string();
        let with = told("go on from the one before with --previous-checkpoint");
        assert!(with.contains("with --previous-checkpoint (a fleet takes no such option: "), "{with}");
        assert!(with.contains("`tidemill run JOB`"), "{with}");
        assert!(told("restore the file").ends_with("hint: restore the file"));
    }
}
