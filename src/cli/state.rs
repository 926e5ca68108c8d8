//! `tidemill state`

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::signals::end_on_signal;
use super::{Outcome, runtime};
use crate::contracts::{Clock, Result, SystemClock};
use crate::job::StateTools;

/// Arguments of `state`.
#[derive(Debug, Args)]
pub(super) struct StateArgs {
    #[command(subcommand)]
    command: Command,
}

/// What all commands need: where the checkpoints lie.
#[derive(Debug, Args)]
struct Store {
    /// Checkpoints of a job: the folder of --local, DIR/checkpoints/JOB or s3://bucket/prefix/JOB
    #[arg(value_name = "STORE")]
    store: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the checkpoints and savepoints that there are
    List(Store),
    /// Show positions, queries, operators and files of a checkpoint
    Show {
        #[command(flatten)]
        store: Store,
        /// A number, the name of a savepoint, or 'latest'
        #[arg(value_name = "CHECKPOINT", default_value = "latest")]
        checkpoint: String,
    },
    /// Show what has changed between two checkpoints
    Diff {
        #[command(flatten)]
        store: Store,
        /// The earlier one
        before: String,
        /// The later one
        #[arg(default_value = "latest")]
        after: String,
    },
    /// Write the state of each operator as Parquet, readable by any tool
    Export {
        #[command(flatten)]
        store: Store,
        /// A number, the name of a savepoint, or 'latest'
        #[arg(value_name = "CHECKPOINT", default_value = "latest")]
        checkpoint: String,
        /// Folder for the files
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// Only this query, as file:sink
        #[arg(long, value_name = "QUERY")]
        query: Option<String>,
    },
    /// Keep a checkpoint under a name, as a savepoint that clean-up leaves alone
    Save {
        #[command(flatten)]
        store: Store,
        /// Name of the savepoint
        name: String,
        /// The checkpoint to keep
        #[arg(long, value_name = "CHECKPOINT", default_value = "latest")]
        checkpoint: String,
    },
    /// Remove a savepoint
    Drop {
        #[command(flatten)]
        store: Store,
        /// Name of the savepoint
        name: String,
    },
    /// Make a checkpoint the newest again: the next run goes on from it (stop the job first)
    Rewind {
        #[command(flatten)]
        store: Store,
        /// A number or the name of a savepoint
        checkpoint: String,
    },
    /// Copy a checkpoint with its files to another store, where it becomes the newest
    Restore {
        #[command(flatten)]
        store: Store,
        /// A number, the name of a savepoint, or 'latest'
        #[arg(value_name = "CHECKPOINT", default_value = "latest")]
        checkpoint: String,
        /// The job that is to go on from it: DIR/checkpoints/JOB or s3://bucket/prefix/JOB
        #[arg(long, value_name = "JOB")]
        to: String,
    },
}

pub(super) fn state(args: StateArgs) -> Outcome {
    runtime(1)?.block_on(run(args.command)).map_err(|e| vec![e])
}

async fn run(command: Command) -> Result<()> {
    end_on_signal();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let open = async |store: Store| StateTools::open(&store.store, Arc::clone(&clock)).await;
    match command {
        Command::List(store) => print!("{}", open(store).await?.list().await?),
        Command::Show { store, checkpoint } => print!("{}", open(store).await?.show(&checkpoint).await?),
        Command::Diff { store, before, after } => print!("{}", open(store).await?.diff(&before, &after).await?),
        Command::Export { store, checkpoint, to, query } => {
            let files = open(store).await?.export(&checkpoint, query.as_deref(), &to).await?;
            files.iter().for_each(|file| println!("{}", file.display()));
            println!("{} files", files.len());
        }
        Command::Save { store, name, checkpoint } => println!("{}", open(store).await?.save(&checkpoint, &name).await?),
        Command::Drop { store, name } => println!("{}", open(store).await?.drop_savepoint(&name).await?),
        Command::Rewind { store, checkpoint } => println!("{}", open(store).await?.rewind(&checkpoint).await?),
        Command::Restore { store, checkpoint, to } => {
            println!("{}", open(store).await?.restore(&checkpoint, &to).await?);
        }
    }
    Ok(())
}
