//! Options of a DynamoDB table as a sink.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::connectors::options::{Options, parse_duration};
use crate::contracts::{Error, Result, TableSpec, hex};

/// How items are written (`sink.write-mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteMode {
    /// UpdateItem of the INSERT's own attributes, on condition.
    Update,
    /// PutItem of the whole row, on condition.
    Put,
    /// BatchWriteItem: whole rows without any condition.
    Batch,
    /// UpdateItem that adds what has been added to this job's contribution.
    Add,
}

/// What a retraction does to the item (`sink.delete`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeleteMode {
    /// The INSERT's own attributes go, its version stays: no replay brings them back.
    Tombstone,
    /// The item goes.
    Item,
}

/// An attribute with the time at which DynamoDB may remove the item.
#[derive(Debug, Clone)]
pub(super) struct Expiry {
    /// Name of the attribute; it holds seconds since 1970.
    pub(super) attribute: String,
    /// Added to the time of `column`, or to the epoch's.
    pub(super) after: Duration,
    /// A column of the INSERT, by its place.
    pub(super) column: Option<usize>,
}

/// All of them.
#[derive(Debug, Clone)]
pub(super) struct SinkOptions {
    pub(super) table: String,
    pub(super) mode: WriteMode,
    pub(super) delete: DeleteMode,
    /// Attribute with the number of the epoch that wrote last.
    pub(super) version: String,
    /// Beginning of the names of attributes that keep a contribution.
    pub(super) contribution: String,
    pub(super) ignore_nulls: bool,
    pub(super) expiry: Option<Expiry>,
    /// Columns, by place, whose lists are sets.
    pub(super) sets: Vec<usize>,
    /// Columns to add, by place; `None` is each whole or decimal number.
    pub(super) add: Option<Vec<usize>>,
    pub(super) in_flight: usize,
}

/// Calls at the same time. 32 calls of 5 ms are some 6,000 writes a second: more than a partition takes (1,000).
const IN_FLIGHT: i64 = 32;
/// Names of hidden attributes begin so.
const VERSION: &str = "tm_epoch";
const CONTRIBUTION: &str = "tm_added";

impl SinkOptions {
    pub(super) fn of(spec: &TableSpec, job: &str) -> Result<Self> {
        let options = Options(spec);
        let error = |text: String| Error::config(format!("table '{}': {text}", spec.name));
        let mode = match options.text(&["sink.write-mode"]).unwrap_or("update").to_ascii_lowercase().as_str() {
            "update" => WriteMode::Update,
            "put" => WriteMode::Put,
            "batch" => WriteMode::Batch,
            "add" => WriteMode::Add,
            other => {
                return Err(
                    error(format!("there is no 'sink.write-mode' '{other}'")).hint("it takes update, put, batch, add")
                );
            }
        };
        let delete = match options.text(&["sink.delete"]).map(str::to_ascii_lowercase).as_deref() {
            None if mode == WriteMode::Batch => DeleteMode::Item,
            None | Some("tombstone") => DeleteMode::Tombstone,
            Some("item") => DeleteMode::Item,
            Some(other) => {
                return Err(error(format!("there is no 'sink.delete' '{other}'")).hint("it takes tombstone, item"));
            }
        };
        if delete == DeleteMode::Tombstone && mode == WriteMode::Batch {
            return Err(error("'sink.write-mode' 'batch' keeps no tombstones".to_owned())
                .hint("'sink.delete' = 'item', or another mode"));
        }
        if delete == DeleteMode::Item && mode == WriteMode::Add {
            return Err(error("'sink.write-mode' 'add' never removes items, which others add to".to_owned())
                .hint("leave 'sink.delete' out"));
        }
        let ignore_nulls = options.bool("sink.ignore-nulls", false)?;
        if ignore_nulls && matches!(mode, WriteMode::Put | WriteMode::Batch) {
            return Err(error("'sink.ignore-nulls' has no meaning where whole items are written".to_owned())
                .hint("use 'sink.write-mode' = 'update'"));
        }
        let place = |name: &str, option: &str| {
            spec.schema
                .index_of(name)
                .map_err(|_| error(format!("'{option}' names '{name}', which is no column that the INSERT writes")))
        };
        let places = |option: &str| -> Result<Option<Vec<usize>>> {
            let Some(text) = options.text(&[option]) else { return Ok(None) };
            let names = text.split([',', ';']).map(str::trim).filter(|n| !n.is_empty());
            names.map(|name| place(name, option)).collect::<Result<Vec<_>>>().map(Some)
        };
        let add = places("sink.add.columns")?;
        if add.is_some() && mode != WriteMode::Add {
            return Err(error("'sink.add.columns' is for 'sink.write-mode' 'add'".to_owned()));
        }
        let expiry = match (options.text(&["sink.ttl.attribute"]), options.text(&["sink.ttl.after"])) {
            (Some(attribute), after) => Some(Expiry {
                attribute: attribute.to_owned(),
                after: after.map(parse_duration).transpose()?.unwrap_or_default(),
                column: options.text(&["sink.ttl.column"]).map(|name| place(name, "sink.ttl.column")).transpose()?,
            }),
            (None, Some(_)) => {
                return Err(error("'sink.ttl.after' needs 'sink.ttl.attribute'".to_owned())
                    .hint("name the attribute that the table's time to live is set to"));
            }
            (None, None) => None,
        };
        if expiry.as_ref().is_some_and(|e| e.column.is_none() && e.after.is_zero()) {
            return Err(error("'sink.ttl.attribute' without 'sink.ttl.after' or 'sink.ttl.column'".to_owned())
                .hint("say when an item may go: 'sink.ttl.after' = '30 d'"));
        }
        let in_flight = options.number("sink.requests.max-inflight")?.unwrap_or(IN_FLIGHT);
        let in_flight = usize::try_from(in_flight).ok().filter(|n| (1..=1_000).contains(n));
        let group = group(spec, job);
        let version = options.text(&["sink.version.attribute"]).unwrap_or(VERSION);
        Ok(Self {
            table: options.require(&["table-name"])?.to_owned(),
            mode,
            delete,
            // An item that is put has one writer; one that is updated has a version for each group of attributes.
            version: if mode == WriteMode::Put { version.to_owned() } else { format!("{version}_{group}") },
            contribution: format!("{}_{group}", options.text(&["sink.contribution.attribute"]).unwrap_or(CONTRIBUTION)),
            ignore_nulls,
            expiry,
            sets: places("sink.sets")?.unwrap_or_default(),
            add,
            in_flight: in_flight.ok_or_else(|| error("'sink.requests.max-inflight' is from 1 to 1000".to_owned()))?,
        })
    }
}

/// The attributes by which a sink of this table would know its own work in an item, where another INSERT of the same columns hinders it in
/// attributes that it does not write itself: the version, where a NULL leaves an attribute alone, and contributions too. Empty elsewhere,
/// and where an option is wrong.
pub(in super::super) fn own_attributes(spec: &TableSpec) -> Vec<String> {
    // All INSERTs that are compared are of one job.
    let Ok(SinkOptions { table, mode, version, contribution, ignore_nulls, .. }) = SinkOptions::of(spec, "") else {
        return Vec::new();
    };
    let names = match mode {
        WriteMode::Update if ignore_nulls => vec![version],
        WriteMode::Add => vec![version, contribution],
        _ => Vec::new(),
    };
    names.into_iter().map(|name| format!("{name} in {table}")).collect()
}

/// Names the attributes that one INSERT of a job writes: 6 hex digits of SHA-256 over the job's name and the
/// attributes' names. Two INSERTs that write other attributes of one item so have versions of their own.
fn group(spec: &TableSpec, job: &str) -> String {
    let mut names: Vec<&str> = spec.schema.fields().iter().map(|f| f.name().as_str()).collect();
    names.sort_unstable();
    let mut hash = Sha256::new();
    for part in std::iter::once(job).chain(names) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize()[..3])
}
