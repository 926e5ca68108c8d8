//! `tidemill check` and `tidemill explain`

use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::signals::end_on_signal;
use super::{Outcome, Source, default_threads, runtime};
use crate::job::{JobOptions, explain_json, explain_text, plan};
use crate::runtime::Ending;

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    source: Source,
    /// Also name what in the files is not portable to Flink
    #[arg(long)]
    flink: bool,
    /// Also compare the streams, tables, topics and buckets that exist with what the SQL expects, and try what the credentials may
    /// do; changes nothing
    #[arg(long)]
    aws: bool,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    source: Source,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Tree)]
    format: Format,
    /// Also show the plans that each epoch runs, as DataFusion has them
    #[arg(long)]
    physical: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Tree,
    /// For programs
    Json,
}

pub(super) fn options(source: &Source) -> JobOptions {
    JobOptions {
        paths: source.paths.clone(),
        local: None,
        ending: Ending::Run,
        from: None,
        parameters: source.parameters(),
        fresh: false,
        state: Default::default(),
        threads: default_threads(),
        epoch_interval: None,
        epoch_rows: None,
        memory: None,
    }
}

pub(super) fn check(args: CheckArgs) -> Outcome {
    runtime(1)?.block_on(async {
        end_on_signal();
        let plan = plan(&options(&args.source), &Arc::default()).await?;
        for warning in &plan.warnings {
            println!("note: {warning}");
        }
        if args.flink {
            for note in crate::job::not_portable(&args.source.paths).map_err(|e| vec![e])? {
                println!("not portable: {note}");
            }
        }
        println!("{} queries over {} tables: no errors", plan.queries.len(), plan.sources.len());
        if args.aws { super::aws::compare(&args.source).await } else { Ok(()) }
    })
}

pub(super) fn explain(args: ExplainArgs) -> Outcome {
    runtime(1)?.block_on(async {
        let plan = plan(&options(&args.source), &Arc::default()).await?;
        match args.format {
            Format::Tree => print!("{}", explain_text(&plan, args.physical)),
            Format::Json => println!("{:#}", explain_json(&plan)),
        }
        Ok(())
    })
}
