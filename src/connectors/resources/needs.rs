//! What one table needs, read from its options.

use std::collections::BTreeSet;

use arrow::datatypes::DataType;

use crate::connectors::describe::Role;
use crate::connectors::options::Options;
use crate::contracts::{Error, Result, TableSpec};

use super::{KeyAttribute, Kind, Resource, Shape, Target};

/// Parts of an ARN, or a bare name.
struct Named {
    name: String,
    region: Option<String>,
    account: Option<String>,
}

impl Named {
    /// `arn:aws:sns:eu-west-1:123456789012:alerts`, `…:stream/events`, or `events`.
    fn of(text: &str) -> Self {
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        match parts.as_slice() {
            ["arn", _, _, region, account, rest] => Self {
                name: rest.rsplit('/').next().unwrap_or(rest).to_owned(),
                region: some(region),
                account: some(account),
            },
            _ => Self { name: text.to_owned(), region: None, account: None },
        }
    }
}

fn resource(kind: Kind, named: Named, shape: Shape, spec: &TableSpec) -> Resource {
    Resource {
        kind,
        name: named.name,
        account: named.account,
        region: named.region.or_else(|| spec.option("aws.region").map(str::to_owned)),
        shape,
        grants: BTreeSet::new(),
        tables: vec![spec.name.clone()],
        spec: spec.clone(),
    }
}

fn allow(resource: &mut Resource, target: &Target, actions: &[&'static str]) {
    resource.grants.extend(actions.iter().map(|action| (target.clone(), *action)));
}

/// What the table of `spec` needs when it is used in this role; nothing for connectors without AWS.
///
/// # Errors
/// A name is missing, or a key has a type that DynamoDB has not.
pub fn needs(spec: &TableSpec, connector: &str, role: Role) -> Result<Vec<Resource>> {
    match connector {
        "kinesis" | "kinesis-legacy" => streams(spec, role),
        "dynamodb" => dynamodb(spec, role),
        "sns" => topic(spec),
        "firehose" => {
            let named = Named::of(spec.require("delivery-stream")?);
            let mut stream = resource(Kind::DeliveryStream, named, Shape::Plain, spec);
            allow(&mut stream, &Target::Itself, &["firehose:DescribeDeliveryStream", "firehose:PutRecordBatch"]);
            Ok(vec![stream])
        }
        "filesystem" | "s3" => files(spec, role),
        _ => Ok(Vec::new()),
    }
}

fn streams(spec: &TableSpec, role: Role) -> Result<Vec<Resource>> {
    let options = Options(spec);
    let mut grants: Vec<(Target, &[&'static str])> = Vec::new();
    let named: Vec<Named> = if let Some(pattern) = spec.option("stream.pattern") {
        grants.push((Target::Anything, &["kinesis:ListStreams"]));
        vec![Named { name: literal_prefix(pattern), region: None, account: None }]
    } else {
        let text = options.require(&["stream", "stream.arn"])?;
        text.split(';').map(str::trim).filter(|name| !name.is_empty()).map(Named::of).collect()
    };
    let fans_out = options
        .text(&["source.reader.type", "scan.stream.recordpublisher"])
        .is_some_and(|kind| kind.eq_ignore_ascii_case("EFO"));
    match role {
        Role::Sink => {
            grants.push((Target::Itself, &["kinesis:DescribeStreamSummary", "kinesis:PutRecords"]));
        }
        Role::Source if fans_out => {
            grants.push((Target::Itself, &["kinesis:DescribeStreamSummary", "kinesis:ListShards"]));
            grants.push((Target::Consumers, &["kinesis:DescribeStreamConsumer", "kinesis:SubscribeToShard"]));
            let by_user = spec.option("source.efo.lifecycle").is_some_and(|l| l.eq_ignore_ascii_case("SELF_MANAGED"));
            if !by_user {
                // Registering is a right on the stream, the rest on the consumer.
                grants.push((Target::Itself, &["kinesis:RegisterStreamConsumer"]));
                grants.push((Target::Consumers, &["kinesis:DeregisterStreamConsumer"]));
            }
        }
        Role::Source => grants.push((
            Target::Itself,
            &["kinesis:DescribeStreamSummary", "kinesis:GetRecords", "kinesis:GetShardIterator", "kinesis:ListShards"],
        )),
    }
    let stream = |named| {
        let mut stream = resource(Kind::Stream, named, Shape::Plain, spec);
        for (target, actions) in &grants {
            allow(&mut stream, target, actions);
        }
        stream
    };
    Ok(named.into_iter().map(stream).collect())
}

/// What every name that matches the pattern begins with, and `*`.
fn literal_prefix(pattern: &str) -> String {
    let end = pattern.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))).unwrap_or(pattern.len());
    format!("{}*", &pattern[..end])
}

fn dynamodb(spec: &TableSpec, role: Role) -> Result<Vec<Resource>> {
    let options = Options(spec);
    let named = Named::of(options.require(&["table-name"])?);
    let mut key = Vec::new();
    // As the connector takes it: Flink's PARTITIONED BY names the key where there is no PRIMARY KEY.
    for column in if spec.primary_key.is_empty() { &spec.partitioned_by } else { &spec.primary_key } {
        let field = spec
            .physical
            .field_with_name(column)
            .map_err(|_| Error::config(format!("table '{}': its key column '{column}' is no column", spec.name)))?;
        key.push(KeyAttribute { name: column.clone(), letter: letter(field.data_type()) });
    }
    if key.len() > 2 {
        return Err(Error::config(format!("table '{}': a key of DynamoDB has two columns at most", spec.name)));
    }
    let ttl = spec.option("sink.ttl.attribute").map(str::to_owned);
    let mut table = resource(Kind::Table, named, Shape::Table { key, ttl }, spec);
    allow(&mut table, &Target::Itself, &["dynamodb:DescribeTable"]);
    if role == Role::Source {
        allow(&mut table, &Target::Itself, &["dynamodb:BatchGetItem"]);
        return Ok(vec![table]);
    }
    let mode = spec.option("sink.write-mode").unwrap_or("update").to_ascii_lowercase();
    let write: &[&'static str] = match mode.as_str() {
        "batch" => &["dynamodb:BatchWriteItem"],
        "put" => &["dynamodb:PutItem"],
        _ => &["dynamodb:UpdateItem"],
    };
    allow(&mut table, &Target::Itself, write);
    // The other way to say that a key is gone is a mark on the item, which is a write like any other.
    if mode != "batch" && spec.option("sink.delete").is_some_and(|d| d.eq_ignore_ascii_case("item")) {
        allow(&mut table, &Target::Itself, &["dynamodb:DeleteItem"]);
    }
    Ok(vec![table])
}

/// Type of a key attribute: numbers are numbers, bytes are bytes, and all else is written as text.
fn letter(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "B",
        data_type if data_type.is_numeric() => "N",
        _ => "S",
    }
}

fn topic(spec: &TableSpec) -> Result<Vec<Resource>> {
    let named = Named::of(Options(spec).require(&["topic", "topic.arn"])?);
    let by_name = named.account.is_none();
    let fifo = named.name.ends_with(".fifo");
    let mut topic = resource(Kind::Topic, named, Shape::Topic { fifo }, spec);
    // Each message of a PublishBatch is a Publish to IAM.
    allow(&mut topic, &Target::Itself, &["sns:Publish"]);
    if by_name {
        allow(&mut topic, &Target::Anything, &["sns:ListTopics"]);
    } else {
        allow(&mut topic, &Target::Itself, &["sns:GetTopicAttributes"]);
    }
    let mut all = vec![topic];
    if let Some(ledger) = spec.option("sink.ledger.table") {
        // Any text key will do: the sink asks the table for its name.
        let key = vec![KeyAttribute { name: "alert_id".to_owned(), letter: "S" }];
        let shape = Shape::Table { key, ttl: Some("expires_at".to_owned()) };
        let mut table = resource(Kind::Table, Named::of(ledger), shape, spec);
        allow(
            &mut table,
            &Target::Itself,
            &["dynamodb:BatchGetItem", "dynamodb:BatchWriteItem", "dynamodb:DescribeTable", "dynamodb:PutItem"],
        );
        if spec.option("sink.delivery").is_some_and(|delivery| delivery.eq_ignore_ascii_case("at-most-once")) {
            // Claims of what was not published are released.
            allow(&mut table, &Target::Itself, &["dynamodb:DeleteItem"]);
        }
        all.push(table);
    }
    Ok(all)
}

/// What a job's lease in a DynamoDB table needs; `spec` is any table of the job.
pub fn lease(table: &str, spec: &TableSpec) -> Resource {
    // Any text key will do: the lease asks the table for its name.
    let key = vec![KeyAttribute { name: "job".to_owned(), letter: "S" }];
    let mut table = resource(Kind::Table, Named::of(table), Shape::Table { key, ttl: None }, spec);
    allow(&mut table, &Target::Itself, &["dynamodb:DescribeTable", "dynamodb:GetItem", "dynamodb:PutItem"]);
    table.tables = vec!["(lease)".to_owned()];
    table
}

fn bucket(path: &str, spec: &TableSpec) -> Result<Option<(Resource, String)>> {
    let Some((bucket, key)) = s3_path(path)? else { return Ok(None) };
    let named = Named { name: bucket, region: None, account: None };
    Ok(Some((resource(Kind::Bucket, named, Shape::Plain, spec), key)))
}

/// Bucket and key, without slashes at their ends.
fn s3_path(path: &str) -> Result<Option<(String, String)>> {
    let Some(rest) = ["s3://", "s3a://", "s3n://"].iter().find_map(|scheme| path.strip_prefix(scheme)) else {
        return Ok(None);
    };
    let rest = rest.trim_matches('/');
    if rest.is_empty() {
        return Err(Error::config(format!("'{path}' is no S3 path")).hint("write s3://bucket/key"));
    }
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    Ok(Some((bucket.to_owned(), key.to_owned())))
}

fn files(spec: &TableSpec, role: Role) -> Result<Vec<Resource>> {
    let Some((mut bucket, key)) = bucket(spec.require("path")?, spec)? else { return Ok(Vec::new()) };
    allow(&mut bucket, &Target::Listing(key.clone()), &["s3:ListBucket"]);
    match role {
        Role::Source => allow(&mut bucket, &Target::Objects(key), &["s3:GetObject"]),
        Role::Sink => {
            allow(&mut bucket, &Target::Itself, &["s3:ListBucketMultipartUploads"]);
            allow(&mut bucket, &Target::Objects(key), &["s3:AbortMultipartUpload", "s3:PutObject"]);
        }
    }
    Ok(vec![bucket])
}

/// What the error output at `path` needs; `spec` is the table in whose way it is reached.
///
/// # Errors
/// `path` is no path of S3 although it begins like one.
pub fn error_output(path: &str, spec: &TableSpec) -> Result<Vec<Resource>> {
    let Some((mut bucket, key)) = bucket(path, spec)? else { return Ok(Vec::new()) };
    bucket.tables = vec!["(error output)".to_owned()];
    // An object is put again if it is still the one that was put (If-Match), for which S3 wants both.
    allow(&mut bucket, &Target::Objects(key), &["s3:GetObject", "s3:PutObject"]);
    Ok(vec![bucket])
}

/// What checkpoints at `path` need; `spec` is any table of the job.
///
/// # Errors
/// `path` is no path of S3 although it begins like one.
pub fn checkpoints(path: &str, spec: &TableSpec) -> Result<Vec<Resource>> {
    let Some((mut bucket, key)) = bucket(path, spec)? else { return Ok(Vec::new()) };
    bucket.tables = vec!["(checkpoints)".to_owned()];
    allow(&mut bucket, &Target::Listing(key.clone()), &["s3:ListBucket"]);
    allow(&mut bucket, &Target::Objects(key), &["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]);
    Ok(vec![bucket])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn table(options: &[(&str, &str)]) -> TableSpec {
        let fields = [
            Field::new("k", DataType::Utf8View, true),
            Field::new("n", DataType::Decimal128(10, 0), true),
            Field::new("b", DataType::Binary, true),
        ];
        let spec = TableSpec::new("t", Arc::new(Schema::new(fields.to_vec())));
        options.iter().fold(spec, |spec, (key, value)| spec.with_option(key, *value))
    }

    fn actions(options: &[(&str, &str)], connector: &str, role: Role) -> String {
        let mut all = Vec::new();
        for resource in needs(&table(options), connector, role).unwrap() {
            let grants: Vec<String> = resource.grants.iter().map(|(target, a)| format!("{a} {target:?}")).collect();
            all.push(format!("{}: {}", resource.name, grants.join(", ")));
        }
        all.join("; ").replace("dynamodb:", "").replace("kinesis:", "").replace(" Itself", "")
    }

    #[test]
    fn write_modes_of_dynamodb() {
        let of = |options: &[(&str, &str)]| {
            let options = [&[("table-name", "d")], options].concat();
            actions(&options, "dynamodb", Role::Sink)
        };
        assert_eq!(of(&[]), "d: DescribeTable, UpdateItem");
        assert_eq!(of(&[("sink.write-mode", "ADD")]), "d: DescribeTable, UpdateItem");
        assert_eq!(of(&[("sink.write-mode", "put"), ("sink.delete", "item")]), "d: DeleteItem, DescribeTable, PutItem");
        assert_eq!(of(&[("sink.write-mode", "batch"), ("sink.delete", "item")]), "d: BatchWriteItem, DescribeTable");
    }

    #[test]
    fn streams_by_list_pattern_and_fan_out() {
        let read = "DescribeStreamSummary, GetRecords, GetShardIterator, ListShards";
        assert_eq!(actions(&[("stream", "a; b")], "kinesis", Role::Source), format!("a: {read}; b: {read}"));
        let all = actions(&[("stream.pattern", "web-(eu|us)")], "kinesis", Role::Source);
        assert_eq!(all, format!("web-*: {read}, ListStreams Anything"));
        let own = [("stream", "a"), ("source.reader.type", "EFO"), ("source.efo.lifecycle", "SELF_MANAGED")];
        assert_eq!(
            actions(&own, "kinesis", Role::Source),
            "a: DescribeStreamSummary, ListShards, DescribeStreamConsumer Consumers, SubscribeToShard Consumers"
        );
    }

    #[test]
    fn keys_ttl_and_ledger() {
        let mut spec = table(&[("table-name", "d"), ("sink.ttl.attribute", "gone_at")]);
        spec.primary_key = vec!["b".to_owned(), "n".to_owned()];
        let made = needs(&spec, "dynamodb", Role::Sink).unwrap();
        let key = |name: &str, letter| KeyAttribute { name: name.to_owned(), letter };
        let wanted = Shape::Table { key: vec![key("b", "B"), key("n", "N")], ttl: Some("gone_at".to_owned()) };
        assert_eq!(made[0].shape, wanted);
        spec.primary_key.push("k".to_owned());
        assert!(needs(&spec, "dynamodb", Role::Sink).unwrap_err().to_string().contains("two columns at most"));
        let ledger = [("topic", "alerts.fifo"), ("sink.ledger.table", "sent")];
        let both = needs(&table(&ledger), "sns", Role::Sink).unwrap();
        let kinds: Vec<_> = both.iter().map(|r| (r.kind, r.name.as_str())).collect();
        assert_eq!(kinds, [(Kind::Topic, "alerts.fifo"), (Kind::Table, "sent")]);
        assert_eq!(both[0].shape, Shape::Topic { fifo: true });
    }

    #[test]
    fn a_lease_is_read_and_replaced() {
        let lease = lease("leases", &table(&[]));
        let actions: Vec<&str> = lease.grants.iter().map(|(_, action)| *action).collect();
        assert_eq!(actions, ["dynamodb:DescribeTable", "dynamodb:GetItem", "dynamodb:PutItem"]);
        assert!(matches!(&lease.shape, Shape::Table { key, .. } if key[0].name == "job" && key[0].letter == "S"));
    }

    #[test]
    fn checkpoints_are_read_written_and_removed_below_their_prefix() {
        let [bucket] = &checkpoints("s3://b/kept/job", &table(&[])).unwrap()[..] else { panic!("one bucket") };
        let grants: Vec<String> = bucket.grants.iter().map(|(target, action)| format!("{action} {target:?}")).collect();
        let below = "Objects(\"kept/job\")";
        let wanted = ["DeleteObject", "GetObject", "PutObject"].map(|action| format!("s3:{action} {below}"));
        assert_eq!(grants, [&wanted[..], &["s3:ListBucket Listing(\"kept/job\")".to_owned()]].concat());
        assert!(checkpoints("/a/folder", &table(&[])).unwrap().is_empty());
    }

    #[test]
    fn arns_of_other_partitions() {
        let arn = "arn:aws-cn:sns:cn-north-1:111122223333:alerts";
        let topic = &needs(&table(&[("topic", arn)]), "sns", Role::Sink).unwrap()[0];
        assert_eq!(topic.arn("REGION", "ACCOUNT"), arn);
        let bucket = needs(&table(&[("path", "s3://b/k"), ("aws.region", "us-gov-west-1")]), "s3", Role::Sink);
        assert_eq!(bucket.unwrap()[0].arn("REGION", "ACCOUNT"), "arn:aws-us-gov:s3:::b");
    }
}
