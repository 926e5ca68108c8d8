//! How a table says that its stream is read.
//!
//! | option | older spelling | default |
//! |---|---|---|
//! | `stream` (several with `;`), `stream.arn`, `stream.pattern` | | one is needed |
//! | `source.reader.type` = `POLLING`, `EFO` | `scan.stream.recordpublisher` | `POLLING` |
//! | `source.efo.consumer.name` | `scan.stream.efo.consumername` | needed with `EFO` |
//! | `source.efo.lifecycle` = `JOB_MANAGED`, `SELF_MANAGED` | | `JOB_MANAGED` |
//! | `source.shard.get-records.interval` | `scan.shard.getrecords.intervalmillis` | 200 ms |
//! | `source.shard.get-records.max-record-count` | `scan.shard.getrecords.maxrecordcount` | 10000 |
//! | `source.shard.get-records.idle-interval` | | 1 s |
//! | `source.shard.discovery.interval` | `scan.shard.discovery.intervalmillis` | 10 s |
//! | `source.on-expired-position` = `fail`, `oldest` | | `fail` |
//! | `source.init.sequence-numbers` | | none |
//! | `scan.bounded.timestamp` | | none |
//! | `kpl.deaggregate` | | true |
//! | `payload.compression` = `none`, `auto`, `gzip`, `zstd` | | `none` |

use std::collections::BTreeMap;
use std::time::Duration;

use crate::connectors::aws::{endpoint_of, is_credential};
use crate::connectors::options::{Options, parse_duration, parse_timestamp_ms};
use crate::contracts::{Error, Position, Result, SplitId, TableSpec};

use super::chunks::UnpackOptions;
use super::client::StreamName;
use super::pace::{PaceOptions, READ_INTERVAL};
use super::payload::Compression;
use super::polling::LARGEST_LIMIT;
use super::position::{Place, ShardPosition};
use super::stream::OnExpired;

const IDLE_INTERVAL: Duration = Duration::from_secs(1);
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(10);

/// Which streams a table reads.
#[derive(Debug, Clone)]
pub(super) enum StreamChoice {
    /// These.
    Named(Vec<StreamName>),
    /// All that match when the job starts.
    Matching(regex::Regex),
}

/// How a consumer for enhanced fan-out comes and goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lifecycle {
    /// Registered when it is missing; what was registered by the job is removed at its orderly end, if nobody goes on there.
    JobManaged,
    /// It must be there, and stays.
    SelfManaged,
}

/// A registered consumer.
#[derive(Debug, Clone)]
pub(super) struct FanOutOptions {
    pub(super) consumer: String,
    pub(super) lifecycle: Lifecycle,
}

/// All of it.
#[derive(Debug, Clone)]
pub(super) struct ReadOptions {
    pub(super) streams: StreamChoice,
    /// `None` is polling.
    pub(super) fan_out: Option<FanOutOptions>,
    pub(super) pace: PaceOptions,
    pub(super) most_records: usize,
    pub(super) discovery: Duration,
    pub(super) on_expired: OnExpired,
    pub(super) unpack: UnpackOptions,
    /// Records that arrived then or later are left for a later run, milliseconds.
    pub(super) stop_ms: Option<i64>,
    /// Where a first run begins in these splits: after that record.
    pub(super) begin_after: BTreeMap<SplitId, Position>,
}

impl ReadOptions {
    pub(super) fn of(spec: &TableSpec) -> Result<Self> {
        let options = Options(spec);
        let context = |key: &str| format!("option '{key}' of table '{}'", spec.name);
        let duration = |keys: &[&str], default: Duration| -> Result<Duration> {
            let Some(key) = keys.iter().find(|key| spec.option(key).is_some()) else { return Ok(default) };
            parse_duration(spec.option(key).unwrap_or_default()).map_err(|e| e.context(context(key)))
        };
        let interval =
            duration(&["source.shard.get-records.interval", "scan.shard.getrecords.intervalmillis"], READ_INTERVAL)?;
        let idle = duration(&["source.shard.get-records.idle-interval", "scan.shard.idle.interval"], IDLE_INTERVAL)?;
        let discovery =
            duration(&["source.shard.discovery.interval", "scan.shard.discovery.intervalmillis"], DISCOVERY_INTERVAL)?;
        let most_records = match options
            .text(&["source.shard.get-records.max-record-count", "scan.shard.getrecords.maxrecordcount"])
        {
            None => LARGEST_LIMIT,
            Some(text) => match text.trim().parse() {
                Ok(most @ 1..=LARGEST_LIMIT) => most,
                _ => {
                    return Err(Error::config(format!("'{text}' is no number of records for one read"))
                        .hint("GetRecords takes 1 to 10000")
                        .context(context("source.shard.get-records.max-record-count")));
                }
            },
        };
        let on_expired = match options.text(&["source.on-expired-position"]).unwrap_or("fail") {
            text if text.eq_ignore_ascii_case("fail") => OnExpired::Fail,
            text if text.eq_ignore_ascii_case("oldest") => OnExpired::Oldest,
            text => {
                return Err(Error::config(format!("'{text}' is not one of its values"))
                    .hint("fail or oldest")
                    .context(context("source.on-expired-position")));
            }
        };
        let stop = options.text(&["scan.bounded.timestamp"]).map(parse_timestamp_ms).transpose();
        let stop_ms = stop.map_err(|e| e.context(context("scan.bounded.timestamp")))?;
        let compression = Compression::parse(options.text(&["payload.compression"]).unwrap_or("none"))
            .map_err(|e| e.context(context("payload.compression")))?;
        Ok(Self {
            streams: streams(spec)?,
            fan_out: fan_out(spec)?,
            pace: PaceOptions { interval, idle: idle.max(interval) },
            most_records,
            discovery: discovery.max(Duration::from_millis(100)),
            on_expired,
            stop_ms,
            begin_after: begin_after(options.text(&["source.init.sequence-numbers"]).unwrap_or_default())
                .map_err(|e| e.context(context("source.init.sequence-numbers")))?,
            unpack: UnpackOptions {
                deaggregate: options.bool("kpl.deaggregate", true)?,
                compression,
                with_keys: spec.metadata.iter().any(|key| key == "partition-key"),
            },
        })
    }
}

/// `shardId-000000000000=4959…898; shardId-000000000001=4959…914@1700000000000`
fn begin_after(text: &str) -> Result<BTreeMap<SplitId, Position>> {
    let mut splits = BTreeMap::new();
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong = || {
            Error::config(format!("'{part}' is no shard with a sequence number")).hint(
                "write 'shardId-000000000000=4959…; shardId-000000000001=4959…@1700000000000': reading begins after that record, which \
                 arrived at that time; with several streams, 'stream/shardId-…=…'",
            )
        };
        let (shard, number) = part.split_once('=').ok_or_else(wrong)?;
        let position = Position(number.trim().into());
        let is_record = ShardPosition::parse(&position).is_ok_and(|p| matches!(p.place, Place::After { .. }));
        if !is_record || splits.insert(SplitId(shard.trim().into()), position).is_some() {
            return Err(wrong());
        }
    }
    Ok(splits)
}

fn streams(spec: &TableSpec) -> Result<StreamChoice> {
    let options = Options(spec);
    if let Some(pattern) = options.text(&["stream.pattern"]) {
        let whole = regex::Regex::new(&format!("^(?:{pattern})$")).map_err(|e| {
            Error::config(format!("option 'stream.pattern' of table '{}' is no regular expression", spec.name))
                .caused_by(e)
        })?;
        return Ok(StreamChoice::Matching(whole));
    }
    let text = options.require(&["stream.arn", "stream"])?;
    let mut names: Vec<StreamName> =
        text.split(';').map(str::trim).filter(|name| !name.is_empty()).map(StreamName::new).collect();
    names.sort_by(|a, b| a.name.cmp(&b.name));
    if names.is_empty() || names.windows(2).any(|pair| pair[0].name == pair[1].name) {
        return Err(Error::config(format!("table '{}': '{text}' names no stream, or one twice", spec.name)).hint(
            "write 'stream' = 'a' or 'a; b; c'; streams of one name in several accounts need tables of their own",
        ));
    }
    Ok(StreamChoice::Named(names))
}

/// A registered consumer as tables name it. A shard has one subscription of a consumer: a second one takes it from the first.
pub(crate) struct NamedConsumer {
    /// A stream, or the pattern of several.
    pub(crate) stream: String,
    pub(crate) consumer: String,
    /// Where the table says them.
    arn: Option<String>,
    region: Option<String>,
    endpoint: Option<String>,
    /// Options by which requests are signed: others may be those of another account.
    credentials: Vec<(String, String)>,
}

impl NamedConsumer {
    /// Whether it is the same one, as far as the tables tell.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let differ = |one: &Option<String>, other: &Option<String>| matches!((one, other), (Some(one), Some(other)) if one != other);
        let is_one_arn = self.arn.is_some() && self.arn == other.arn;
        self.stream == other.stream
            && self.consumer == other.consumer
            && !differ(&self.arn, &other.arn)
            && !differ(&self.region, &other.region)
            && !differ(&self.endpoint, &other.endpoint)
            && (is_one_arn || self.credentials == other.credentials)
    }
}

/// The consumers with which a table reads.
pub(in crate::connectors::kinesis) fn fan_out_consumers(spec: &TableSpec) -> Result<Vec<NamedConsumer>> {
    let Some(FanOutOptions { consumer, .. }) = fan_out(spec)? else { return Ok(Vec::new()) };
    let signed = spec.options.iter().filter(|(key, _)| is_credential(key));
    let credentials: Vec<_> = signed.map(|(key, value)| (key.clone(), value.clone())).collect();
    let endpoint = endpoint_of(&spec.options).map(str::to_owned);
    let of = |stream: &str, arn: Option<&str>| {
        let region = spec.option("aws.region").or_else(|| arn?.split(':').nth(3)).map(str::to_owned);
        let (stream, arn) = (stream.to_owned(), arn.map(str::to_owned));
        let (consumer, endpoint, credentials) = (consumer.clone(), endpoint.clone(), credentials.clone());
        NamedConsumer { stream, consumer, arn, region, endpoint, credentials }
    };
    Ok(match streams(spec)? {
        StreamChoice::Named(names) => names.iter().map(|name| of(&name.name, name.arn.as_deref())).collect(),
        StreamChoice::Matching(pattern) => vec![of(pattern.as_str(), None)],
    })
}

fn fan_out(spec: &TableSpec) -> Result<Option<FanOutOptions>> {
    let options = Options(spec);
    let kind = options.text(&["source.reader.type", "scan.stream.recordpublisher"]).unwrap_or("POLLING");
    if kind.eq_ignore_ascii_case("POLLING") {
        return Ok(None);
    }
    if !kind.eq_ignore_ascii_case("EFO") {
        return Err(Error::config(format!("table '{}': '{kind}' is no way to read a stream", spec.name))
            .hint("'source.reader.type' is POLLING or EFO"));
    }
    let consumer = options.require(&["source.efo.consumer.name", "scan.stream.efo.consumername"])?.to_owned();
    let none = options.text(&["scan.stream.efo.registration"]).is_some_and(|r| r.eq_ignore_ascii_case("NONE"));
    let lifecycle = match options.text(&["source.efo.lifecycle"]) {
        Some(text) if text.eq_ignore_ascii_case("SELF_MANAGED") => Lifecycle::SelfManaged,
        None if none => Lifecycle::SelfManaged,
        _ => Lifecycle::JobManaged,
    };
    Ok(Some(FanOutOptions { consumer, lifecycle }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Schema;

    use super::*;

    fn consumer(options: &[(&str, &str)]) -> NamedConsumer {
        let table = TableSpec::new("clicks", Arc::new(Schema::empty()))
            .with_option("source.reader.type", "EFO")
            .with_option("source.efo.consumer.name", "job");
        let table = options.iter().fold(table, |table, (key, value)| table.with_option(key, *value));
        fan_out_consumers(&table).expect("valid options").remove(0)
    }

    #[test]
    fn a_consumer_is_the_same_unless_the_tables_say_another_one() {
        let arn = |account: &str| format!("arn:aws:kinesis:eu-west-1:{account}:stream/clicks");
        let (own, other) = (arn("111111111111"), arn("222222222222"));
        let by_name = [("stream", "clicks")];
        let role = ("aws.credentials.role.arn", "arn:aws:iam::222222222222:role/reader");
        for (one, another, is_same) in [
            (&by_name[..], &by_name[..], true),
            (&by_name, &[("stream", "other")], false),
            // The region of a name is the environment's.
            (&by_name, &[("stream.arn", &own)], true),
            (&[by_name[0], ("aws.region", "us-east-1")], &[("stream.arn", &own)], false),
            (&[("stream.arn", &own)], &[("stream.arn", &other)], false),
            (&by_name, &[by_name[0], role], false),
            (&[("stream.arn", &own)], &[("stream.arn", &own), role], true),
            (&[by_name[0], ("aws.endpoint", "http://a")], &[by_name[0], ("aws.endpoint-url", "http://a")], true),
            (&[by_name[0], ("aws.endpoint", "http://a")], &[by_name[0], ("aws.endpoint-url", "http://b")], false),
        ] {
            assert_eq!(consumer(one).is_same(&consumer(another)), is_same, "{one:?} and {another:?}");
        }
    }
}
