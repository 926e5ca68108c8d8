//! `tidemill provision`, `iam`, `athena` and `check --aws`: the job's resources of AWS.

use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::log::tell;
use super::{Outcome, Source, check, runtime};
use crate::connectors::resources::live::{Account, State};
use crate::connectors::resources::rights::{Right, TriedRight};
use crate::connectors::resources::{Resource, iam as iam_policy, templates};
use crate::contracts::{Clock, Error, SystemClock};
use crate::job::{athena as athena_statements, job_resources};

/// Arguments of `provision`.
#[derive(Debug, Args)]
pub(super) struct ProvisionArgs {
    #[command(flatten)]
    source: Source,
    /// Make streams with this many shards [default: on demand]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    shards: Option<i32>,
    /// Look, and show what would be made
    #[arg(long, conflicts_with = "format")]
    dry_run: bool,
    /// Print a template of all resources instead; nothing is asked of AWS
    #[arg(long, value_enum)]
    format: Option<Template>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Template {
    /// A CloudFormation template
    Cloudformation,
    /// Terraform's JSON form: save it as NAME.tf.json
    Terraform,
}

/// Arguments of `iam`.
#[derive(Debug, Args)]
pub(super) struct IamArgs {
    #[command(flatten)]
    source: Source,
    /// Fill in region and account of the credentials (asks STS) instead of REGION and ACCOUNT
    #[arg(long)]
    account: bool,
}

/// Arguments of `athena`.
#[derive(Debug, Args)]
pub(super) struct AthenaArgs {
    #[command(flatten)]
    source: Source,
}

fn account() -> Account {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    Account::new(clock)
}

fn used_by(resource: &Resource) -> String {
    resource.tables.join(", ")
}

pub(super) fn provision(args: ProvisionArgs) -> Outcome {
    runtime(1)?.block_on(async {
        let (_, resources) = job_resources(&check::options(&args.source)).await?;
        if let Some(format) = args.format {
            for resource in &resources {
                if let Err(why) = templates::can_be_made(resource) {
                    tell!("note: {} is not in the template: {why}", resource.title());
                }
            }
            let template = match format {
                Template::Cloudformation => templates::cloudformation(&resources, args.shards),
                Template::Terraform => templates::terraform(&resources, args.shards),
            };
            println!("{template:#}");
            return Ok(());
        }
        if resources.is_empty() {
            println!("the job uses nothing of AWS");
            return Ok(());
        }
        let account = account();
        let mut errors = Vec::new();
        for resource in &resources {
            let title = resource.title();
            match (account.look(resource).await, templates::can_be_made(resource)) {
                (State::Found { facts, problems }, _) => {
                    println!("exists   {title}: {facts}");
                    for problem in problems {
                        println!("         but {problem}; it is left as it is");
                    }
                }
                (State::Unknown(error), _) => errors.push(error),
                (State::Missing, Err(why)) => {
                    errors.push(Error::config(format!("{title} is missing, and is not made: {why}")));
                }
                (State::Missing, Ok(())) if args.dry_run => println!("missing  {title}: would be made"),
                (State::Missing, Ok(())) => match account.create(resource, args.shards).await {
                    Ok(()) => println!("made     {title}"),
                    Err(error) => errors.push(error),
                },
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    })
}

pub(super) fn iam(args: IamArgs) -> Outcome {
    runtime(1)?.block_on(async {
        let (_, resources) = job_resources(&check::options(&args.source)).await?;
        let (region, number) = match args.account {
            true => account().identity().await.map_err(|e| vec![e])?,
            false => ("REGION".to_owned(), "ACCOUNT".to_owned()),
        };
        println!("{:#}", iam_policy::policy(&resources, &region, &number));
        Ok(())
    })
}

pub(super) fn athena(args: AthenaArgs) -> Outcome {
    runtime(1)?.block_on(async {
        let (statements, notes) = athena_statements(&check::options(&args.source)).await?;
        for note in notes {
            tell!("note: {note}");
        }
        if statements.is_empty() {
            tell!("note: the job writes no Parquet or JSON to S3");
        }
        print!("{}", statements.join("\n"));
        Ok(())
    })
}

/// Compares what exists with what the job expects, and tries the caller's rights; changes nothing.
pub(super) async fn compare(source: &Source) -> Outcome {
    let (_, resources) = job_resources(&check::options(source)).await?;
    let account = account();
    let (mut errors, mut open) = (Vec::new(), false);
    for resource in &resources {
        let title = resource.title();
        let tables = used_by(resource);
        let context = |error: Error| error.context(format!("{title} ({tables})"));
        match account.look(resource).await {
            State::Found { facts, problems } => {
                let mark = if problems.is_empty() { "ok" } else { "wrong" };
                println!("{mark}: {title}: {facts} ({tables})");
                errors.extend(problems.iter().map(|p| Error::config(format!("{title} ({tables}): {p}"))));
                match account.rights(resource).await {
                    Ok(rights) => {
                        open |= show_rights(&rights);
                        let denied = rights.into_iter().filter_map(|(target, action, right)| match right {
                            Right::Denied(error) => Some(error.context(format!("{action}{}", target.part()))),
                            _ => None,
                        });
                        errors.extend(denied.map(context));
                    }
                    Err(error) => errors.push(context(error)),
                }
            }
            State::Missing => errors.push(
                Error::config(format!("{title} does not exist ({tables})"))
                    .hint("check its name, the region and the account, or make it with `tidemill provision`"),
            ),
            State::Unknown(error) => {
                println!("not looked at: {title} ({tables}), and no right on it was tried");
                errors.push(context(error));
            }
        }
    }
    if open {
        println!(
            "note: what was not tried, or only not denied, must be looked up in the policies of the job's role; `tidemill iam` prints \
             what it needs. What was tried are the rights of the credentials that this command has"
        );
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Prints what is known of the rights on a resource, and says whether anything is left to be looked up.
fn show_rights(rights: &[TriedRight]) -> bool {
    let of = |wanted: fn(&Right) -> bool| {
        let names = rights.iter().filter(|(_, _, right)| wanted(right));
        names.map(|(target, action, _)| format!("{action}{}", target.part())).collect::<Vec<_>>().join(", ")
    };
    let (allowed, not_denied) =
        (of(|right| matches!(right, Right::Allowed)), of(|right| matches!(right, Right::NotDenied)));
    if !allowed.is_empty() {
        println!("    allowed: {allowed}");
    }
    if !not_denied.is_empty() {
        println!("    not denied: {not_denied} (for an upload that does not exist)");
    }
    let mut open = !not_denied.is_empty();
    for (target, action, right) in rights {
        if let Right::NotTried(why) = right {
            println!("    not tried: {action}{}: {why}", target.part());
            open = true;
        }
    }
    open
}
