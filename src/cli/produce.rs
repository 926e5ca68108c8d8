//! `tidemill produce`

use std::fs::File;
use std::io::{BufReader, IsTerminal, Read, stdin};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::log::write_error;
use super::{Outcome, runtime};
use crate::connectors::kinesis::aws_target;
use crate::connectors::kinesis::produce::{ProduceOptions, local_target, produce as put};
use crate::contracts::{Clock, Error, Result, SystemClock};

/// Arguments of `produce`.
#[derive(Debug, Args)]
pub(super) struct ProduceArgs {
    /// The stream, by name or ARN; with --local, it is created when it is missing
    stream: String,
    /// Use the embedded Kinesis under this folder
    #[arg(long, value_name = "DIR")]
    local: Option<PathBuf>,
    /// JSON lines; '-' is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    from: String,
    /// Records per second, e.g. 1000/s; as fast as possible without
    #[arg(long, value_name = "N/s", value_parser = rate)]
    rate: Option<f64>,
    /// Field whose value decides the shard, e.g. data.user_id; without it, a hash of the record
    #[arg(long, value_name = "FIELD")]
    partition_key: Option<String>,
    /// Field whose value, a whole number below 2^128, is the hash that decides the shard in place of the partition key's
    #[arg(long, value_name = "FIELD")]
    explicit_hash_key: Option<String>,
    /// Stop after so many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// `1000/s` or `1000`.
pub(super) fn rate(text: &str) -> std::result::Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).trim();
    let rate: f64 = number.parse().map_err(|_| format!("'{text}' is not a rate like 1000/s"))?;
    if rate > 0.0 { Ok(rate) } else { Err("a rate is above zero".to_owned()) }
}

pub(super) fn produce(args: ProduceArgs) -> Outcome {
    runtime(2)?.block_on(async { run(args).await.map_err(|e| vec![e]) })
}

async fn run(args: ProduceArgs) -> Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let mut target = match &args.local {
        Some(local) => local_target(local, &args.stream, Arc::clone(&clock))?,
        None => aws_target(&args.stream, Arc::clone(&clock)).await?,
    };
    let input: Box<dyn Read> = match args.from.as_str() {
        "-" => Box::new(stdin()),
        path => Box::new(File::open(path).map_err(|e| Error::config(format!("cannot read '{path}'")).caused_by(e))?),
    };
    let options = ProduceOptions {
        partition_key: args.partition_key,
        explicit_hash_key: args.explicit_hash_key,
        rate: args.rate,
        limit: args.limit,
    };
    let terminal = std::io::stderr().is_terminal();
    let input = BufReader::with_capacity(1 << 20, input);
    let done = put(input, target.as_mut(), &options, clock.as_ref(), |done| {
        if terminal {
            write_error(&format!("\r\x1b[2K{}: {} records", args.stream, done.records));
        }
    })
    .await?;
    super::display::clear();
    println!("{} records, {} bytes, {} retried, {} refused", done.records, done.bytes, done.retried, done.refused);
    match done.first_refusal {
        Some(reason) => Err(Error::data(format!("{} records were refused, the first because: {reason}", done.refused))),
        None => Ok(()),
    }
}
