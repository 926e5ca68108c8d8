//! What each connector and format says of itself: the SQL layer checks tables against it.
//!
//! Names are Flink's, of both generations where there are two (`FLINK_SQL.md`, sections 7 and 8).
//! Options of Flink that change nothing here are known and marked as ignored, so that a file moves
//! between the two without edits.

use arrow::datatypes::{DataType, TimeUnit};

/// Whether a table is read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is read.
    Source,
    /// It is written.
    Sink,
}

/// What an option's value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionKind {
    /// Any text.
    Text,
    /// A whole number.
    Number,
    /// `300 s`.
    Duration,
    /// `64MB`.
    Size,
    /// `true` or `false`.
    Bool,
    /// One of these, in any case.
    Enum(&'static [&'static str]),
    /// RFC 3339, or seconds since 1970.
    Timestamp,
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct OptionDescription {
    /// Its name.
    pub key: &'static str,
    /// What its value looks like.
    pub kind: OptionKind,
    /// Where it has a meaning; `None` is both.
    pub role: Option<Role>,
    /// Known to Flink, without effect here.
    pub ignored: bool,
}

/// A key for METADATA columns.
#[derive(Debug, Clone, Copy)]
pub struct MetadataKey {
    /// Its name.
    pub key: &'static str,
    /// Its Arrow type.
    pub data_type: fn() -> DataType,
    /// Whether it can be NULL.
    pub nullable: bool,
}

/// Which streams a sink takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Updates {
    /// Append streams only.
    AppendOnly,
    /// Update streams when the table has a PRIMARY KEY, append streams always.
    WithPrimaryKey,
    /// A PRIMARY KEY is needed for any stream.
    NeedsPrimaryKey,
    /// Anything.
    Any,
}

/// What a connector is able to do.
#[derive(Debug, Clone, Copy)]
pub struct ConnectorDescription {
    /// Value of the option `connector`.
    pub name: &'static str,
    /// Tables of it can be read.
    pub can_read: bool,
    /// Tables of it can be written.
    pub can_write: bool,
    /// Values of `format`; empty where it has no such option.
    pub formats: &'static [&'static str],
    /// Options that must be there; each entry lists spellings of which one is enough.
    pub required: &'static [&'static [&'static str]],
    /// All options, the required ones too.
    pub options: &'static [OptionDescription],
    /// Option names that start like this are taken as they are.
    pub prefixes: &'static [&'static str],
    /// METADATA columns that it gives.
    pub metadata: &'static [MetadataKey],
    /// Which streams its sink takes.
    pub updates: Updates,
}

impl ConnectorDescription {
    /// Which streams its sink takes in this format: of files, only JSON lines can say that a row is gone.
    pub fn updates_in(&self, format: Option<&str>) -> Updates {
        match (self.updates, format) {
            (Updates::WithPrimaryKey, Some("csv" | "parquet")) => Updates::AppendOnly,
            (updates, _) => updates,
        }
    }
}

const fn option(key: &'static str, kind: OptionKind) -> OptionDescription {
    OptionDescription { key, kind, role: None, ignored: false }
}

const fn source(key: &'static str, kind: OptionKind) -> OptionDescription {
    OptionDescription { key, kind, role: Some(Role::Source), ignored: false }
}

const fn sink(key: &'static str, kind: OptionKind) -> OptionDescription {
    OptionDescription { key, kind, role: Some(Role::Sink), ignored: false }
}

const fn ignored(key: &'static str, kind: OptionKind) -> OptionDescription {
    OptionDescription { key, kind, role: None, ignored: true }
}

fn timestamp_ltz() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// STRING, as the SQL layer maps it.
fn text() -> DataType {
    DataType::Utf8View
}

fn bigint() -> DataType {
    DataType::Int64
}

use OptionKind::{Bool, Duration, Enum, Number, Size, Text, Timestamp};

/// Options of every source: the runtime reads them.
pub const SOURCE_OPTIONS: &[OptionDescription] = &[
    source("scan.watermark.idle-timeout", Duration),
    source("scan.watermark.alignment.max-drift", Duration),
    source("scan.watermark.alignment.group", Text),
    source("scan.watermark.alignment.update-interval", Duration),
    ignored("scan.watermark.emit.strategy", Enum(&["on-periodic", "on-event"])),
    ignored("scan.watermark.emit.on-event.gap", Number),
    ignored("scan.parallelism", Number),
    ignored("sink.parallelism", Number),
];

/// Options of AWS connectors: endpoint, region, credentials.
const AWS_PREFIXES: &[&str] = &["aws.", "sink.http-client.", "source.http-client."];

const KINESIS: ConnectorDescription = ConnectorDescription {
    name: "kinesis",
    can_read: true,
    can_write: true,
    formats: &["json", "csv"],
    required: &[&["stream", "stream.arn", "stream.pattern"]],
    options: &[
        option("stream", Text),
        option("stream.arn", Text),
        source("stream.pattern", Text),
        source("source.init.sequence-numbers", Text),
        source("scan.bounded.timestamp", Timestamp),
        source("source.on-expired-position", Enum(&["fail", "oldest"])),
        source("kpl.deaggregate", Bool),
        source("payload.compression", Enum(&["none", "auto", "gzip", "zstd"])),
        source("scan.stream.initpos", Enum(&["LATEST", "TRIM_HORIZON", "AT_TIMESTAMP"])),
        source("scan.stream.initpos-timestamp", Timestamp),
        ignored("scan.stream.initpos-timestamp-format", Text),
        source("source.init.position", Enum(&["LATEST", "TRIM_HORIZON", "AT_TIMESTAMP"])),
        source("source.init.timestamp", Timestamp),
        ignored("source.init.timestamp.format", Text),
        source("scan.stream.recordpublisher", Enum(&["POLLING", "EFO"])),
        source("source.reader.type", Enum(&["POLLING", "EFO"])),
        source("source.efo.consumer.name", Text),
        source("source.efo.lifecycle", Enum(&["JOB_MANAGED", "SELF_MANAGED"])),
        source("scan.shard.getrecords.maxrecordcount", Number),
        source("scan.shard.getrecords.intervalmillis", Number),
        source("source.shard.get-records.max-record-count", Number),
        source("source.shard.get-records.interval", Duration),
        source("source.shard.get-records.idle-interval", Duration),
        source("scan.shard.discovery.intervalmillis", Number),
        source("source.shard.discovery.interval", Duration),
        source("scan.shard.idle.interval", Duration),
        sink("sink.partitioner", Enum(&["fixed", "random"])),
        sink("sink.partitioner-field-delimiter", Text),
        sink("sink.keep-order", Bool),
        sink("sink.aggregation", Bool),
        sink("sink.fail-on-error", Bool),
        ignored("sink.batch.max-size", Number),
        ignored("sink.requests.max-inflight", Number),
        ignored("sink.requests.max-buffered", Number),
        ignored("sink.flush-buffer.size", Number),
        ignored("sink.flush-buffer.timeout", Number),
    ],
    prefixes: &["aws.", "sink.http-client.", "source.http-client.", "scan.stream.efo.", "scan.shard.", "scan.stream."],
    metadata: &[
        MetadataKey { key: "timestamp", data_type: timestamp_ltz, nullable: false },
        MetadataKey { key: "shard-id", data_type: text, nullable: false },
        MetadataKey { key: "sequence-number", data_type: text, nullable: false },
        MetadataKey { key: "partition-key", data_type: text, nullable: true },
        MetadataKey { key: "stream", data_type: text, nullable: false },
        MetadataKey { key: "raw", data_type: text, nullable: true },
        MetadataKey { key: "watermark", data_type: timestamp_ltz, nullable: true },
    ],
    updates: Updates::AppendOnly,
};

const DYNAMODB: ConnectorDescription = ConnectorDescription {
    name: "dynamodb",
    can_read: true,
    can_write: true,
    formats: &[],
    required: &[&["table-name"]],
    options: &[
        option("table-name", Text),
        source("lookup.cache", Enum(&["NONE", "PARTIAL"])),
        source("lookup.partial-cache.max-rows", Number),
        source("lookup.partial-cache.expire-after-write", Duration),
        source("lookup.partial-cache.cache-missing-key", Bool),
        // Calls are repeated for as long as it takes, many at a time.
        ignored("lookup.partial-cache.expire-after-access", Duration),
        ignored("lookup.max-retries", Number),
        ignored("lookup.async", Bool),
        sink("sink.write-mode", Enum(&["update", "put", "batch", "add"])),
        sink("sink.delete", Enum(&["tombstone", "item"])),
        sink("sink.add.columns", Text),
        sink("sink.sets", Text),
        sink("sink.ignore-nulls", Bool),
        sink("sink.version.attribute", Text),
        sink("sink.contribution.attribute", Text),
        sink("sink.ttl.attribute", Text),
        sink("sink.ttl.after", Duration),
        sink("sink.ttl.column", Text),
        ignored("sink.fail-on-error", Bool),
        sink("sink.requests.max-inflight", Number),
        ignored("sink.batch.max-size", Number),
        ignored("sink.requests.max-buffered", Number),
        ignored("sink.flush-buffer.size", Number),
        ignored("sink.flush-buffer.timeout", Number),
    ],
    prefixes: AWS_PREFIXES,
    metadata: &[],
    updates: Updates::NeedsPrimaryKey,
};

const SNS: ConnectorDescription = ConnectorDescription {
    name: "sns",
    can_read: false,
    can_write: true,
    formats: &[],
    required: &[&["topic", "topic.arn"]],
    options: &[
        option("topic", Text),
        option("topic.arn", Text),
        sink("sink.delivery", Enum(&["at-least-once", "at-most-once"])),
        sink("sink.fifo.group", Text),
        sink("sink.fifo.group.column", Text),
        sink("sink.ledger.table", Text),
        sink("sink.ledger.ttl", Duration),
        sink("sink.cooldown", Duration),
        sink("sink.cooldown.key", Text),
        sink("sink.cooldown.time", Text),
        sink("sink.cooldown.summary", Bool),
        sink("sink.requests.max-inflight", Number),
    ],
    prefixes: AWS_PREFIXES,
    metadata: &[],
    updates: Updates::AppendOnly,
};

const FIREHOSE: ConnectorDescription = ConnectorDescription {
    name: "firehose",
    can_read: false,
    can_write: true,
    formats: &["json"],
    required: &[&["delivery-stream"]],
    options: &[
        option("delivery-stream", Text),
        ignored("sink.fail-on-error", Bool),
        sink("sink.requests.max-inflight", Number),
        ignored("sink.batch.max-size", Number),
        ignored("sink.requests.max-buffered", Number),
        ignored("sink.flush-buffer.size", Number),
        ignored("sink.flush-buffer.timeout", Number),
    ],
    prefixes: AWS_PREFIXES,
    metadata: &[],
    updates: Updates::AppendOnly,
};

const FILES: ConnectorDescription = ConnectorDescription {
    name: "filesystem",
    can_read: true,
    can_write: true,
    formats: &["json", "csv", "parquet"],
    required: &[&["path"]],
    options: &[
        option("path", Text),
        option("partition.default-name", Text),
        source("source.monitor-interval", Duration),
        source("source.path.regex-pattern", Text),
        option("compression", Enum(&["none", "gzip", "zstd", "auto"])),
        sink("sink.rolling-policy.file-size", Size),
        sink("sink.rolling-policy.row-count", Number),
        sink("sink.rolling-policy.rollover-interval", Duration),
        ignored("sink.rolling-policy.check-interval", Duration),
        sink("sink.max-open-partitions", Number),
        sink("sink.sort-by", Text),
        sink("sink.partition.pattern", Text),
        sink("sink.partition.time-column", Text),
        sink("sink.partition-commit.trigger", Enum(&["process-time", "partition-time"])),
        sink("sink.partition-commit.delay", Duration),
        sink("sink.partition-commit.policy.kind", Text),
        sink("sink.partition-commit.success-file.name", Text),
        ignored("sink.shuffle-by-partition.enable", Bool),
        ignored("auto-compaction", Bool),
        ignored("compaction.file-size", Size),
        ignored("partition.time-extractor.timestamp-pattern", Text),
    ],
    prefixes: AWS_PREFIXES,
    metadata: &[
        MetadataKey { key: "file.path", data_type: text, nullable: false },
        MetadataKey { key: "file.name", data_type: text, nullable: false },
        MetadataKey { key: "file.size", data_type: bigint, nullable: false },
        MetadataKey { key: "file.modification-time", data_type: timestamp_ltz, nullable: false },
        MetadataKey { key: "timestamp", data_type: timestamp_ltz, nullable: false },
        MetadataKey { key: "sequence-number", data_type: text, nullable: false },
        MetadataKey { key: "raw", data_type: text, nullable: true },
        MetadataKey { key: "watermark", data_type: timestamp_ltz, nullable: true },
    ],
    updates: Updates::WithPrimaryKey,
};

const S3: ConnectorDescription = ConnectorDescription { name: "s3", ..FILES };

const DATAGEN: ConnectorDescription = ConnectorDescription {
    name: "datagen",
    can_read: true,
    can_write: false,
    formats: &[],
    required: &[],
    options: &[source("rows-per-second", Number), source("number-of-rows", Number), source("seed", Number)],
    prefixes: &["fields."],
    metadata: &[],
    updates: Updates::AppendOnly,
};

const PRINT: ConnectorDescription = ConnectorDescription {
    name: "print",
    can_read: false,
    can_write: true,
    formats: &[],
    required: &[],
    options: &[sink("print-identifier", Text), sink("standard-error", Bool)],
    prefixes: &[],
    metadata: &[],
    updates: Updates::Any,
};

const BLACKHOLE: ConnectorDescription = ConnectorDescription {
    name: "blackhole",
    can_read: false,
    can_write: true,
    formats: &[],
    required: &[],
    options: &[],
    prefixes: &[],
    metadata: &[],
    updates: Updates::Any,
};

const ALL: &[ConnectorDescription] = &[KINESIS, DYNAMODB, SNS, FIREHOSE, FILES, S3, DATAGEN, PRINT, BLACKHOLE];

/// Names of all connectors.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|c| c.name)
}

/// The connector of this name. `kinesis-legacy`, Flink's name of an older one, is `kinesis` too.
pub fn connector(name: &str) -> Option<&'static ConnectorDescription> {
    let name = if name == "kinesis-legacy" { "kinesis" } else { name };
    ALL.iter().find(|c| c.name == name)
}

/// Options of a format.
pub fn format_options(format: &str) -> &'static [OptionDescription] {
    match format {
        "json" => JSON,
        "csv" => CSV,
        "parquet" => PARQUET,
        _ => &[],
    }
}

const JSON: &[OptionDescription] = &[
    ignored("json.ignore-parse-errors", Bool),
    source("json.fail-on-missing-field", Bool),
    option("json.timestamp-format.standard", Enum(&["SQL", "ISO-8601"])),
    ignored("json.map-null-key.mode", Enum(&["FAIL", "DROP", "LITERAL"])),
    ignored("json.map-null-key.literal", Text),
    ignored("json.encode.decimal-as-plain-number", Bool),
    sink("json.encode.ignore-null-fields", Bool),
    ignored("decode.json-parser.enabled", Bool),
    ignored("json.decode.json-parser.enabled", Bool),
];

const CSV: &[OptionDescription] = &[
    option("csv.header", Bool),
    option("csv.field-delimiter", Text),
    option("csv.quote-character", Text),
    option("csv.disable-quote-character", Bool),
    option("csv.escape-character", Text),
    option("csv.null-literal", Text),
    option("csv.array-element-delimiter", Text),
    source("csv.allow-comments", Bool),
    ignored("csv.ignore-parse-errors", Bool),
    ignored("csv.write-bigdecimal-in-scientific-notation", Bool),
];

const PARQUET: &[OptionDescription] = &[
    sink("parquet.compression", Enum(&["SNAPPY", "ZSTD", "UNCOMPRESSED"])),
    sink("parquet.compression.codec.zstd.level", Number),
    sink("parquet.row-group.size", Size),
    sink("parquet.block.size", Size),
    sink("parquet.enable.dictionary", Bool),
    sink("parquet.column.statistics.enabled", Bool),
    ignored("parquet.utc-timezone", Bool),
    ignored("parquet.timestamp.time.unit", Enum(&["nanos", "micros", "millis"])),
    ignored("parquet.write.int64.timestamp", Bool),
];
