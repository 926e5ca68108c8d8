//! Connectors: where records come from and where results go.
//!
//! ```text
//! kinesis     read, write    streams; with --local DIR the embedded one under DIR/kinesis
//! dynamodb    write, look up items by key; DIR/dynamodb.sqlite
//! sns         write          messages; DIR/sns/<topic>.jsonl
//! firehose    write          records of a delivery stream; DIR/firehose/<stream>.jsonl
//! filesystem  read, write    JSON lines, CSV, Parquet in folders and buckets; s3://bucket/key is DIR/s3/bucket/key
//! s3          read, write    another name of filesystem
//! datagen     read           made-up rows
//! print       write          lines on the terminal
//! blackhole   write          nothing
//! ```
//!
//! [`Connectors`] makes sources and sinks from a [`TableSpec`]; [`describe()`] tells the SQL layer what each of
//! them accepts, and [`options`] has the parsers of option values.
//!
//! Architecture invariant: a connector imports no other connector; what they share lies in the files of
//! this folder (`options`, `blocking`, `line_file`, `appended`) and in `formats`.

mod appended;
mod aws;
mod blackhole;
mod blocking;
mod datagen;
pub mod describe;
pub mod dynamodb;
pub mod files;
mod firehose;
pub mod kinesis;
mod line_file;
pub mod options;
mod print;
pub mod resources;
mod sns;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::contracts::{
    Clock, Error, ErrorOutput, Lookup, LookupCache, Outside, ReferenceLoader, Result, Sink, Source, StartPosition,
    TableSpec,
};

pub use aws::Calling;
use aws::{AwsSession, AwsSessions};
use describe::{ConnectorDescription, Role};
use dynamodb::local::LocalTables;
use files::PartNames;
pub use files::SetAside;
use files::reference::{ReferenceFiles, ReloadedFiles};
use options::{OptionProblem, nearest};

/// What connectors need to know of the job that uses them.
#[derive(Debug, Clone)]
pub struct JobContext {
    /// Name of the job: part of file names and message ids.
    pub job: String,
    /// Number of this run of the job, higher than any before.
    pub generation: u64,
}

/// How a run goes, as far as its sources need to know.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RunCourse {
    /// It takes what is there, and ends.
    pub(crate) drains: bool,
    /// Another one goes on when it ends: a replica's, or that of the next process.
    pub(crate) is_handed_over: bool,
}

/// Makes sources and sinks.
#[derive(Debug)]
pub struct Connectors {
    local: Option<PathBuf>,
    clock: Arc<dyn Clock>,
    course: RunCourse,
    job: JobContext,
    names: PartNames,
    tables: Mutex<Option<LocalTables>>,
    aws: AwsSessions,
    /// What stands in for all of them.
    outside: Option<Arc<dyn Outside>>,
    /// Memory of each sink of files, where there is a limit.
    files_memory: Option<u64>,
    /// Memory of all shard readers together.
    kinesis_budget: Arc<kinesis::Budget>,
}

impl Connectors {
    /// Connectors of one run of a job. With `local`, AWS connectors are the embedded ones under that folder.
    pub fn new(local: Option<PathBuf>, clock: Arc<dyn Clock>, job: JobContext) -> Self {
        let names = PartNames::new(&job.job, job.generation, clock.now_ms());
        Self {
            local,
            clock,
            course: RunCourse::default(),
            job,
            names,
            tables: Mutex::new(None),
            aws: AwsSessions::default(),
            outside: None,
            files_memory: None,
            kinesis_budget: Arc::default(),
        }
    }

    /// Whether the run takes what is there and ends (`--drain`, `--once`): then the last line of a growing file counts
    /// without its line end, and what arrives in a stream of AWS after the begin is left for a later run.
    #[must_use]
    pub fn draining(mut self, drains: bool) -> Self {
        self.course.drains = drains;
        self
    }

    /// Whether another run goes on at once where this one ends (one of a job with a lease): then what it has made of AWS to
    /// read with stays.
    #[must_use]
    pub fn handed_over(mut self, is_handed_over: bool) -> Self {
        self.course.is_handed_over = is_handed_over;
        self
    }

    /// With `outside`, that is where tables are read and written.
    #[must_use]
    pub fn within(mut self, outside: Option<Arc<dyn Outside>>) -> Self {
        self.outside = outside;
        self
    }

    /// Each sink of files has so many bytes in memory for those that it has open.
    #[must_use]
    pub fn with_files_memory(mut self, bytes: Option<u64>) -> Self {
        self.files_memory = bytes;
        self
    }

    /// AWS is called as `calling` says, whatever the tables' options are.
    #[must_use]
    pub fn calling(mut self, calling: Calling) -> Self {
        self.aws = AwsSessions::given(calling);
        self
    }

    /// The table of `spec`, to read.
    pub fn source(&self, spec: &TableSpec, connector: &str) -> Result<Arc<dyn Source>> {
        if let Some(outside) = &self.outside {
            return outside.source(spec);
        }
        match self.known(spec, connector)?.name {
            "kinesis" => match &self.local {
                Some(local) => kinesis::local_source(spec, local, self.clock(), self.course.drains),
                None => {
                    let budget = Arc::clone(&self.kinesis_budget);
                    kinesis::aws_source(spec, self.aws.of(spec)?, self.clock(), budget, self.course)
                }
            },
            "filesystem" | "s3" => files::source(spec, &self.reach(&|| self.aws.of(spec))),
            "datagen" => datagen::source(spec, self.clock()),
            other => Err(Error::config(format!("table '{}': connector '{other}' cannot be read", spec.name))),
        }
    }

    /// The table of `spec`, to write.
    pub fn sink(&self, spec: &TableSpec, connector: &str) -> Result<Box<dyn Sink>> {
        if let Some(outside) = &self.outside {
            return outside.sink(spec, connector, self.job.generation);
        }
        match self.known(spec, connector)?.name {
            "kinesis" => match &self.local {
                Some(local) => kinesis::local_sink(spec, local, self.clock()),
                None => kinesis::aws_sink(spec, self.aws.of(spec)?, self.clock()),
            },
            "dynamodb" => match &self.local {
                Some(local) => dynamodb::local_sink(spec, self.local_tables(local)),
                None => dynamodb::aws_sink(spec, self.aws.of(spec)?, self.clock(), &self.job.job),
            },
            "sns" => match &self.local {
                Some(local) => sns::local_sink(spec, local, &self.job.job),
                None => sns::aws_sink(spec, self.aws.of(spec)?, self.clock(), &self.job),
            },
            "firehose" => match &self.local {
                Some(local) => firehose::local_sink(spec, local),
                None => firehose::aws_sink(spec, self.aws.of(spec)?, self.clock(), &self.job.job),
            },
            "filesystem" | "s3" => {
                files::sink(spec, &self.reach(&|| self.aws.of(spec)), self.names.clone(), self.files_memory)
            }
            "print" => Ok(Box::new(print::Print::try_new(spec)?)),
            "blackhole" => Ok(Box::new(blackhole::Blackhole)),
            other => Err(Error::config(format!("table '{}': connector '{other}' cannot be written", spec.name))),
        }
    }

    /// A reference table: files that are kept in memory and read again when they change.
    pub fn reference(&self, spec: &TableSpec, connector: &str) -> Result<ReferenceFiles> {
        match self.known(spec, connector)?.name {
            "filesystem" | "s3" => ReferenceFiles::open(spec, &self.reach(&|| self.aws.of(spec))),
            other => Err(Error::config(format!("table '{}': connector '{other}' has no reference tables", spec.name))
                .hint("a table to look rows up in is of 'filesystem'")),
        }
    }

    /// The same, for a run that follows its changes. No more than `most_bytes` of it are loaded.
    pub fn reloaded_reference(
        &self,
        spec: &TableSpec,
        connector: &str,
        most_bytes: Option<usize>,
    ) -> Result<Box<dyn ReferenceLoader>> {
        if let Some(outside) = &self.outside {
            return outside.reference(spec);
        }
        Ok(Box::new(ReloadedFiles::from(self.reference(spec, connector)?.within(most_bytes))))
    }

    /// A table that is asked for rows by their keys.
    pub fn lookup(&self, spec: &TableSpec, connector: &str) -> Result<Arc<dyn Lookup>> {
        if let Some(outside) = &self.outside {
            return outside.lookup(spec);
        }
        match self.known(spec, connector)?.name {
            "dynamodb" => match &self.local {
                Some(local) => dynamodb::local_lookup(spec, self.local_tables(local)),
                None => dynamodb::aws_lookup(spec, self.aws.of(spec)?, self.clock(), &self.job.job),
            },
            other => Err(Error::config(format!("table '{}': connector '{other}' cannot be looked up", spec.name))),
        }
    }

    /// The error output in the folder `path` (plain, `file://` or `s3://bucket/prefix`).
    pub fn error_output(&self, path: &str) -> Result<Box<dyn ErrorOutput>> {
        if let Some(outside) = &self.outside {
            return outside.error_output(self.job.generation);
        }
        files::error_output(path, &self.reach(&|| self.aws.default_session()), self.names.clone())
    }

    /// The same, reached as the table of `spec` is: with its endpoint, region and credentials.
    pub fn error_output_beside(&self, path: &str, spec: &TableSpec) -> Result<Box<dyn ErrorOutput>> {
        if let Some(outside) = &self.outside {
            return outside.error_output(self.job.generation);
        }
        files::error_output(path, &self.reach(&|| self.aws.of(spec)), self.names.clone())
    }

    fn reach<'a>(&'a self, session: &'a dyn Fn() -> Result<AwsSession>) -> files::Reach<'a> {
        files::Reach { local: self.local.as_deref(), session, clock: self.clock() }
    }

    /// Moves what earlier runs of this job wrote into the files of `spec` to a folder beside, before everything is written
    /// again. Other connectors write the same keys again, or cannot tell what is theirs.
    pub fn set_aside(&self, spec: &TableSpec, connector: &str) -> Result<Option<SetAside>> {
        match self.known(spec, connector)?.name {
            "filesystem" | "s3" => files::set_aside(spec, &self.reach(&|| self.aws.of(spec)), &self.names),
            _ => Ok(None),
        }
    }

    /// The folder of this machine in which the files of `spec` are; `None` when they are objects, or the table is none of files.
    pub fn local_folder(&self, spec: &TableSpec, connector: &str) -> Result<Option<PathBuf>> {
        match self.known(spec, connector)?.name {
            "filesystem" | "s3" => files::local_folder(spec.require("path")?, &self.reach(&|| self.aws.of(spec))),
            _ => Ok(None),
        }
    }

    /// A file that an earlier run of this job wrote into the table of `spec`, if that is a folder and there is one.
    pub fn own_file(&self, spec: &TableSpec, connector: &str) -> Result<Option<PathBuf>> {
        match self.known(spec, connector)?.name {
            "filesystem" | "s3" => {
                files::own_file(spec.require("path")?, &self.reach(&|| self.aws.of(spec)), &self.names)
            }
            _ => Ok(None),
        }
    }

    /// Moves what earlier runs of this job wrote into the error output in the folder `path` to one beside.
    pub fn set_errors_aside(&self, path: &str) -> Result<Option<SetAside>> {
        files::set_errors_aside(path, &self.reach(&|| self.aws.default_session()), &self.names)
    }

    /// An object of S3 that an earlier run of this job wrote into the table of `spec`, if there is one. It cannot be moved.
    pub async fn own_object(&self, spec: &TableSpec, connector: &str) -> Result<Option<String>> {
        match (self.known(spec, connector)?.name, &self.local) {
            ("filesystem" | "s3", None) => {
                let find = files::own_object(spec.require("path")?, &self.reach(&|| self.aws.of(spec)), &self.names)?;
                find.await
            }
            _ => Ok(None),
        }
    }

    /// Where reading the table starts, as its own options or its connector say; `None` when they do not.
    pub fn start_position(&self, spec: &TableSpec, connector: &str) -> Result<Option<StartPosition>> {
        match self.known(spec, connector)?.name {
            "kinesis" => kinesis::start_position(spec),
            // As in Flink: a table of files is what is there, not what comes.
            "filesystem" | "s3" => Ok(Some(StartPosition::TrimHorizon)),
            _ => Ok(None),
        }
    }

    /// The registered consumers with which a table reads by enhanced fan-out.
    pub(crate) fn fan_out_consumers(&self, spec: &TableSpec, connector: &str) -> Result<Vec<kinesis::NamedConsumer>> {
        match (self.known(spec, connector)?.name, &self.local) {
            ("kinesis", None) => kinesis::fan_out_consumers(spec),
            _ => Ok(Vec::new()),
        }
    }

    /// A text that is equal for tables which read the same records (`kinesis:analytics-events`): such tables are read once.
    pub fn source_identity(&self, spec: &TableSpec, connector: &str) -> Result<String> {
        match self.known(spec, connector)?.name {
            "kinesis" => {
                let name = match spec.option("stream.pattern") {
                    Some(pattern) => pattern,
                    None => kinesis::stream_name(spec)?,
                };
                let begins = spec.option("source.init.sequence-numbers").unwrap_or("");
                Ok(format!("kinesis:{name}:{begins}"))
            }
            "filesystem" | "s3" => {
                let pattern = spec.option("source.path.regex-pattern").unwrap_or("");
                Ok(format!("files:{}:{pattern}", spec.require("path")?))
            }
            other => Ok(format!("{other}:{}", spec.name)),
        }
    }

    /// The clock of the run.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    fn known(&self, spec: &TableSpec, connector: &str) -> Result<&'static ConnectorDescription> {
        describe::connector(connector).ok_or_else(|| {
            let error = Error::config(format!("table '{}': there is no connector '{connector}'", spec.name));
            match nearest(connector, describe::names()) {
                Some(near) => error.hint(format!("did you mean '{near}'?")),
                None => error.hint(format!("there are {}", describe::names().collect::<Vec<_>>().join(", "))),
            }
        })
    }

    /// The SQLite file, one connection for all tables.
    fn local_tables(&self, local: &Path) -> LocalTables {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.get_or_insert_with(|| LocalTables::new(local)).clone()
    }
}

/// What the options `lookup.*` of a table say of a cache; `None` is no cache.
///
/// # Errors
/// A bound that is no bound.
pub fn lookup_cache(spec: &TableSpec) -> Result<Option<LookupCache>> {
    let options = options::Options(spec);
    if !options.text(&["lookup.cache"]).is_some_and(|kind| kind.eq_ignore_ascii_case("PARTIAL")) {
        return Ok(None);
    }
    let most = options.number("lookup.partial-cache.max-rows")?.unwrap_or(LOOKUP_ROWS);
    let max_rows = usize::try_from(most).ok().filter(|rows| *rows > 0).ok_or_else(|| {
        Error::config(format!("table '{}': 'lookup.partial-cache.max-rows' is at least 1", spec.name))
    })?;
    Ok(Some(LookupCache {
        max_rows,
        expire_after_write: options.duration("lookup.partial-cache.expire-after-write", LOOKUP_AGE)?,
        cache_missing_key: options.bool("lookup.partial-cache.cache-missing-key", true)?,
    }))
}

/// Bounds of a cache that are not said: some 100 MB of rows of 1 KB, and as old as a person who has changed a row may
/// have patience.
const LOOKUP_ROWS: i64 = 100_000;
const LOOKUP_AGE: std::time::Duration = std::time::Duration::from_secs(60);

/// What the connector of this name says of itself.
pub fn describe(connector: &str) -> Option<&'static ConnectorDescription> {
    describe::connector(connector)
}

/// Checks the options of a table; an unknown connector has none to check.
pub fn validate_options(connector: &str, options: &BTreeMap<String, String>, role: Role) -> Vec<OptionProblem> {
    describe(connector).map(|c| options::check(c, options, role)).unwrap_or_default()
}
