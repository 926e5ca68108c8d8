//! Which tables are read together.
//!
//! Tables share a reader where they name the same records (`Connectors::source_identity`), are to be read alike and stand
//! at the same positions; they share a decoder where their columns agree as well. What may differ is what each makes of
//! the records: columns, watermark, idle rule.
//!
//! A run that was killed may have read tables apart that stand at one place: they had different options, or one had to come there first. Its
//! epochs took records from a reader of each, so they are repeated with a reader of each.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;

use super::run::JobOptions;
use crate::connectors::Connectors;
use crate::connectors::kinesis::NamedConsumer;
use crate::contracts::{Error, LogEntry, Result, StartPosition, TableSpec};
use crate::formats::{RawTest, decoder};
use crate::runtime::{
    DecoderFactory, Ending, FeedSpecification, TableSpecification, WatermarkRule, is_of_feed, union_of,
};
use crate::sql::SourcePlan;
use crate::state::SavedJob;

/// Options that say nothing of how records are read: how they are decoded, and what becomes of the rows.
const NOT_OF_READING: [&str; 4] = ["json.", "scan.watermark.", "sink.", "lookup."];

/// Source tables as feeds, of a run that goes on from `saved` and repeats what `log` has behind it.
pub(super) fn feeds(
    sources: &[SourcePlan],
    connectors: &Connectors,
    options: &JobOptions,
    saved: &SavedJob,
    log: &[LogEntry],
) -> Result<Vec<FeedSpecification>> {
    let repeated = repeated_feeds(saved, log);
    check_tables_of_one_hint(sources, saved, &repeated)?;
    let mut groups: Vec<Group<'_>> = Vec::new();
    for source in sources {
        let start = start(source, connectors, options)?;
        let key = reading_key(source, connectors, start, saved)?;
        let is_raw = raw_format(&source.spec).is_some();
        let is_alike = |group: &&mut Group<'_>| {
            let were_apart = |member: &&SourcePlan| were_apart(&member.name, &source.name, &repeated);
            group.key == key && (is_raw || group.takes(source)) && !group.members.iter().any(were_apart)
        };
        let alike = groups.iter_mut().find(is_alike);
        match alike {
            Some(group) => group.add(source),
            None => {
                groups.push(Group { key, start, union: Some(Arc::clone(&source.spec.schema)), members: vec![source] })
            }
        }
    }
    check_consumers(&groups, connectors)?;
    groups.into_iter().map(|group| group.feed(connectors)).collect()
}

/// Names of the feeds whose records the epochs have that are repeated.
fn repeated_feeds<'a>(saved: &SavedJob, log: &'a [LogEntry]) -> BTreeSet<&'a str> {
    let after = saved.repeats_after();
    let cut = |entry: &'a LogEntry| match entry {
        LogEntry::Cut(cut) if cut.epoch > after => Some(&cut.splits),
        _ => None,
    };
    log.iter().filter_map(cut).flatten().map(|split| split.feed.as_str()).collect()
}

/// Whether two tables were read apart in epochs that are repeated, each without the other. One that has joined the other's feed since, or has
/// left it, was not: what the feed had is repeated for both.
fn were_apart(one: &str, other: &str, feeds: &BTreeSet<&str>) -> bool {
    let without = |this: &str, that: &str| feeds.iter().any(|feed| is_of_feed(this, feed) && !is_of_feed(that, feed));
    without(one, other) && without(other, one)
}

/// For an earlier version, each time that a hint stood after a table made one of its own: `t OPTIONS(…)`, `t OPTIONS(…)#2`. They are one now,
/// which can go on from one position only.
fn check_tables_of_one_hint(sources: &[SourcePlan], saved: &SavedJob, repeated: &BTreeSet<&str>) -> Result<()> {
    let has = |name: &str| sources.iter().any(|source| source.name == name);
    let tables = saved.reread.as_ref().map_or(&saved.tables, |reread| &reread.tables);
    for name in tables.keys() {
        let Some((first, number)) = name.rsplit_once('#') else { continue };
        if !first.ends_with(')') || number.parse::<u32>().is_err() || !has(first) || has(name) {
            continue;
        }
        let positions = |name| saved.read_from(name).map(|table| &table.splits).collect::<Vec<_>>();
        if positions(first) != positions(name) || were_apart(first, name, repeated) {
            return Err(Error::config(format!(
                "the saved state has two positions of {first}, of two queries, and it is one table now"
            ))
            .hint("run the same files with the version of the program before this one and --once, until nothing new comes; or begin anew with --fresh"));
        }
    }
    Ok(())
}

/// Two readers with one consumer would take each shard's subscription from each other, every five seconds and for ever.
fn check_consumers(groups: &[Group<'_>], connectors: &Connectors) -> Result<()> {
    let mut readers: Vec<(NamedConsumer, &SourcePlan)> = Vec::new();
    for group in groups {
        let table = group.members[0];
        for consumer in connectors.fan_out_consumers(&table.spec, &table.connector)? {
            let Some((_, other)) = readers.iter().find(|(other, _)| other.is_same(&consumer)) else {
                readers.push((consumer, table));
                continue;
            };
            let (stream, name) = (consumer.stream, consumer.consumer);
            let error = format!(
                "tables '{}' and '{}' read stream '{stream}' with the same consumer '{name}', each by itself: they differ in their options, in \
                 where they stand, or in what a run that was killed had read of each",
                other.name, table.name
            );
            return Err(Error::config(error).hint(
                "a consumer has one subscription of a shard: give one of the tables another 'source.efo.consumer.name', or let it read by POLLING",
            ));
        }
    }
    Ok(())
}

struct Group<'a> {
    key: String,
    start: StartPosition,
    /// Columns of all members, while they agree.
    union: Option<SchemaRef>,
    members: Vec<&'a SourcePlan>,
}

impl<'a> Group<'a> {
    fn with(&self, source: &SourcePlan) -> Option<SchemaRef> {
        union_of(self.union.as_deref()?, &source.spec.schema)
    }

    fn takes(&self, source: &SourcePlan) -> bool {
        self.with(source).is_some()
    }

    fn add(&mut self, source: &'a SourcePlan) {
        self.union = self.with(source);
        self.members.push(source);
    }

    /// Decodes the columns of all members, where one decoder can.
    fn shared(&self) -> Result<Option<DecoderFactory>> {
        let [first, rest @ ..] = self.members.as_slice() else { return Ok(None) };
        let (Some(union), Some(format), false) = (&self.union, raw_format(&first.spec), rest.is_empty()) else {
            return Ok(None);
        };
        let decoded_alike = |other: &&SourcePlan| {
            raw_test(other) == raw_test(first)
                && json_options(&other.spec).eq(json_options(&first.spec))
                // CSV is read by place.
                && (format == "json" || other.spec.physical == first.spec.physical)
        };
        if !rest.iter().all(decoded_alike) {
            return Ok(None);
        }
        let spec = TableSpec { schema: Arc::clone(union), ..first.spec.clone() };
        factory(format, spec, raw_test(first)).map(Some)
    }

    fn feed(self, connectors: &Connectors) -> Result<FeedSpecification> {
        let first = self.members[0];
        let shared = self.shared()?;
        let mut spec = first.spec.clone();
        if let Some(union) = &self.union {
            spec.schema = Arc::clone(union);
        }
        for key in self.members.iter().flat_map(|member| &member.spec.metadata) {
            if !spec.metadata.contains(key) {
                spec.metadata.push(key.clone());
            }
        }
        let stream = first.spec.option("stream").or_else(|| first.spec.option("path")).unwrap_or(&first.name);
        Ok(FeedSpecification {
            stream: stream.to_owned(),
            source: connectors.source(&spec, &first.connector)?,
            start: self.start,
            shared,
            tables: self.members.into_iter().map(table).collect::<Result<_>>()?,
        })
    }
}

fn table(source: &SourcePlan) -> Result<TableSpecification> {
    let decoder = match raw_format(&source.spec) {
        None => None,
        Some(format) => Some(factory(format, source.spec.clone(), raw_test(source))?),
    };
    // Files are read side by side; without a bound, one could run hours of event time ahead.
    const FILE_DRIFT_MS: i64 = 60_000;
    let drift = match source.connector.as_str() {
        "filesystem" | "s3" => Some(FILE_DRIFT_MS),
        _ => None,
    };
    Ok(TableSpecification {
        table: source.table,
        name: source.name.clone(),
        decoder,
        schema: Arc::clone(&source.schema),
        physical: source.spec.schema.fields().len(),
        metadata: source.metadata.clone(),
        watermark: source.watermark.clone(),
        idle_timeout_ms: source.idle_timeout_ms,
        max_drift_ms: source.max_drift_ms.or(drift).filter(|_| source.watermark.is_some()),
    })
}

fn factory(format: &str, spec: TableSpec, test: Option<RawTest>) -> Result<DecoderFactory> {
    let format = format.to_owned();
    // Made once here, so that a wrong option is found before anything runs.
    decoder(&format, &spec, test.as_ref())?;
    Ok(Arc::new(move || decoder(&format, &spec, test.as_ref())))
}

fn start(source: &SourcePlan, connectors: &Connectors, options: &JobOptions) -> Result<StartPosition> {
    let default = match (options.ending, &options.local) {
        (Ending::Run, None) => StartPosition::Latest,
        _ => StartPosition::TrimHorizon,
    };
    match options.from {
        Some(from) => Ok(from),
        None => Ok(connectors.start_position(&source.spec, &source.connector)?.unwrap_or(default)),
    }
}

/// The format of the records that the source gives; `None` when it gives rows.
fn raw_format(spec: &TableSpec) -> Option<&str> {
    let format = spec.option("format").or_else(|| spec.option("value.format"));
    format.filter(|format| *format != "parquet")
}

fn json_options(spec: &TableSpec) -> impl Iterator<Item = (&String, &String)> {
    spec.options.iter().filter(|(key, _)| key.starts_with("json."))
}

/// Equal for tables that one reader can serve.
fn reading_key(source: &SourcePlan, connectors: &Connectors, start: StartPosition, saved: &SavedJob) -> Result<String> {
    let mut key = format!("{} {start:?}", connectors.source_identity(&source.spec, &source.connector)?);
    let of_reading = |key: &&String| !NOT_OF_READING.iter().any(|prefix| key.starts_with(prefix));
    for (name, value) in source.spec.options.iter().filter(|(key, _)| of_reading(key)) {
        let _ = write!(key, " {name}={value:?}");
    }
    let _ = write!(key, " {:?}", source.spec.partitioned_by);
    for table in saved.read_from(&source.name) {
        for (split, saved) in &table.splits {
            let _ = write!(key, " {split}={:?},{:?},{}", saved.after_exclusive, saved.from_ms, saved.finished);
        }
    }
    Ok(key)
}

/// The raw-byte test, where time can be had without decoding.
fn raw_test(source: &SourcePlan) -> Option<RawTest> {
    let text = source.literal.clone()?;
    let columns = source.spec.schema.fields();
    let time_column = match &source.watermark {
        None => None,
        Some(WatermarkRule::Delay { column, .. }) => {
            let name = columns.get(*column)?.name();
            if source.spec.in_folders().contains(name) {
                return None;
            }
            Some(name.clone())
        }
        Some(WatermarkRule::Computed(_)) => return None,
    };
    Some(RawTest { text, time_column })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contracts::{EpochCut, SplitCut};
    use crate::sql::{Parameters, PlanOptions, SqlText, plan_job};
    use crate::state::{SavedSplit, SavedTable};

    fn cut(epoch: u64, feeds: &[&str]) -> LogEntry {
        let split = |feed: &&str| {
            let (feed, split) = ((*feed).to_owned(), "s".to_owned());
            SplitCut { feed, split, opened: None, records: 1, after: None, version: None, ended: false }
        };
        LogEntry::Cut(EpochCut { epoch, splits: feeds.iter().map(split).collect(), ..EpochCut::default() })
    }

    #[tokio::test]
    async fn tables_of_one_hint_that_were_two_go_on_as_one_from_one_position() {
        let text = "
            CREATE TABLE t (n BIGINT) WITH ('connector' = 'kinesis', 'stream' = 't', 'format' = 'json');
            CREATE TABLE o (n BIGINT) WITH ('connector' = 'blackhole');
            INSERT INTO o SELECT n FROM t /*+ OPTIONS('scan.stream.initpos' = 'LATEST') */;";
        let file = Arc::new(SqlText::new("job.sql", text));
        let options = PlanOptions { partitions: 1, batch: false, pruned: true, epoch_time_ms: Arc::default() };
        let sources = plan_job(&[file], &Parameters::default(), &options, None).await.expect("it is planned").sources;
        let name = "t OPTIONS('scan.stream.initpos'='LATEST')";
        assert_eq!(sources[0].name, name);
        let at = |position: &str| {
            let after_exclusive = Some(position.to_owned());
            let split = SavedSplit {
                after_exclusive,
                from_ms: None,
                watermark_ms: 0,
                finished: false,
                version: None,
                gone_ms: None,
            };
            SavedTable { splits: [("s".to_owned(), split)].into(), floor: 0, source: None }
        };
        let second = format!("{name}#2");
        let saved = |first: &str, other: &str| {
            let tables = [(name.to_owned(), at(first)), (second.clone(), at(other)), ("u#2".to_owned(), at("9"))];
            SavedJob { tables: tables.into(), ..SavedJob::default() }
        };
        let together = format!("{name} + {second}");
        let apart = [name, second.as_str()];
        assert!(check_tables_of_one_hint(&sources, &saved("7", "7"), &[together.as_str()].into()).is_ok());
        assert!(check_tables_of_one_hint(&sources, &saved("7", "7"), &apart.into()).is_err());
        assert!(check_tables_of_one_hint(&sources, &saved("7", "8"), &BTreeSet::new()).is_err());
    }

    #[test]
    fn tables_that_were_read_apart_stay_apart_while_that_is_repeated() {
        let cases: [(&[&[&str]], bool); 8] = [
            (&[], false),
            (&[&["a", "b"]], true),
            // Each has brought something in another epoch.
            (&[&["a"], &["b"]], true),
            (&[&["a + b"]], false),
            (&[&["a + c", "b"]], true),
            // One of them is new since, or was not there for a while.
            (&[&["a"], &["a + b"]], false),
            (&[&["a + b"], &["b"]], false),
            // They were read together at first.
            (&[&["a + b"], &["a", "b"]], true),
        ];
        for (epochs, apart) in cases {
            let log: Vec<LogEntry> = (6..).zip(epochs).map(|(epoch, feeds)| cut(epoch, feeds)).collect();
            let of = |epoch: u64| {
                let saved = SavedJob { epoch, ..SavedJob::default() };
                let feeds = repeated_feeds(&saved, &log);
                assert_eq!(were_apart("a", "b", &feeds), were_apart("b", "a", &feeds));
                were_apart("a", "b", &feeds)
            };
            assert_eq!((of(5), of(8)), (apart, false), "{epochs:?}");
        }
    }
}
