//! `check --aws` tries what the credentials may do, and changes nothing.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use serde_json::Value;

use crate::denying::{Asked, Denying, Policy};
use crate::emulator::{self, Emulator};
use crate::said;

/// Every sort of table, in every role and write mode.
const JOB: &str = "
SET 'tidemill.errors.path' = 's3://rights-errors/odd';
SET 'tidemill.lease' = 'dynamodb:rights-leases';
SET 'state.checkpoints.dir' = 's3://rights-state/kept';
CREATE TABLE events (id BIGINT, k STRING, proc_time AS PROCTIME())
WITH ('connector' = 'kinesis', 'stream' = 'rights-events', 'format' = 'json');
CREATE TABLE pushed (id BIGINT, k STRING)
WITH ('connector' = 'kinesis', 'stream' = 'rights-pushed', 'format' = 'json',
      'source.reader.type' = 'EFO', 'source.efo.consumer.name' = 'job');
CREATE TABLE names (k STRING, name STRING)
WITH ('connector' = 'filesystem', 'path' = 's3://rights-in/names', 'format' = 'csv');
CREATE TABLE known (k STRING, name STRING) PARTITIONED BY (k)
WITH ('connector' = 'dynamodb', 'table-name' = 'rights-known');
CREATE TABLE copies (id BIGINT) WITH ('connector' = 'kinesis', 'stream' = 'rights-copies', 'format' = 'json');
CREATE TABLE counts (k STRING, n BIGINT, PRIMARY KEY (k, n) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'rights-counts', 'sink.ttl.attribute' = 'gone_at', 'sink.ttl.after' = '1 d');
CREATE TABLE puts (n BIGINT, k STRING, PRIMARY KEY (n) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'rights-puts', 'sink.write-mode' = 'put', 'sink.delete' = 'item');
CREATE TABLE batches (b BYTES, n BIGINT, PRIMARY KEY (b) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'rights-batches', 'sink.write-mode' = 'batch');
CREATE TABLE alerts (message STRING) WITH ('connector' = 'sns', 'topic' = 'rights-alerts');
CREATE TABLE kept (id BIGINT) WITH ('connector' = 's3', 'path' = 's3://rights-out/kept', 'format' = 'json');
INSERT INTO copies SELECT id FROM pushed;
INSERT INTO counts SELECT k, COUNT(*) FROM events GROUP BY k;
INSERT INTO puts SELECT id, MAX(k) FROM events GROUP BY id;
INSERT INTO batches SELECT CAST(k AS BYTES), id FROM events;
INSERT INTO alerts SELECT e.k FROM events AS e JOIN known FOR SYSTEM_TIME AS OF e.proc_time AS n ON n.k = e.k;
INSERT INTO kept SELECT e.id FROM events AS e JOIN names AS n ON n.k = e.k;
";

/// What cannot be tried without an effect.
const NOT_TRIED: [&str; 8] = [
    "kinesis:PutRecords",
    "kinesis:RegisterStreamConsumer",
    "kinesis:SubscribeToShard",
    "kinesis:DeregisterStreamConsumer",
    "dynamodb:BatchWriteItem",
    "sns:Publish",
    "firehose:PutRecordBatch",
    "s3:DeleteObject",
];

struct Job {
    emulator: Emulator,
    proxy: Denying,
    dir: tempfile::TempDir,
}

impl Job {
    /// A job of which nothing is there yet.
    async fn of(sql: &str) -> Option<Self> {
        let emulator = emulator::ministack().await?;
        let proxy = Denying::before(&emulator.endpoint).await;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("job.sql"), sql).unwrap();
        Some(Self { emulator, proxy, dir })
    }

    /// The job with all that it needs, and objects to read.
    async fn new() -> Option<Self> {
        let job = Self::of(JOB).await?;
        let made = said(job.dir.path(), &job.environment(&job.emulator.endpoint), &["provision", "job.sql"]);
        assert!(made.ends_with("code 0\n"), "{made}");
        for (bucket, key) in [("rights-in", "names/a.csv"), ("rights-errors", "odd/errors-rights-1-0.jsonl")] {
            let put = job.emulator.client().put_object().bucket(bucket).key(key);
            put.body(b"k,one\n".to_vec().into()).send().await.unwrap();
        }
        Some(job)
    }

    fn environment(&self, endpoint: &str) -> Vec<(&'static str, String)> {
        let mut environment = self.emulator.environment();
        environment.retain(|(name, _)| *name != "AWS_ENDPOINT_URL_S3");
        environment.push(("AWS_ENDPOINT_URL", endpoint.to_owned()));
        environment
    }

    /// What `check --aws` says to a caller with these rights.
    fn checked(&self, policy: Policy) -> String {
        self.proxy.follow(policy);
        said(self.dir.path(), &self.environment(&self.proxy.endpoint), &["check", "job.sql", "--aws"])
    }

    /// The actions that `iam` says the job needs.
    fn needed(&self) -> BTreeSet<String> {
        let policy = said(self.dir.path(), &self.environment(&self.emulator.endpoint), &["iam", "job.sql"]);
        let policy: Value = serde_json::from_str(policy.rsplit_once("--- exit").unwrap().0).unwrap();
        let statements = policy["Statement"].as_array().unwrap().iter();
        let actions = statements.flat_map(|statement| statement["Action"].as_array().unwrap());
        actions.map(|action| action.as_str().unwrap().to_owned()).collect()
    }

    /// Everything that a write would have changed.
    async fn contents(&self) -> String {
        let http = aws_smithy_http_client::Builder::new().build_http();
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new("eu-west-1"))
            .endpoint_url(&self.emulator.endpoint)
            .credentials_provider(Credentials::new("test", "test", None, None, "test"));
        let tables = aws_sdk_dynamodb::Client::from_conf(config.build());
        let mut found = Vec::new();
        for table in ["rights-known", "rights-counts", "rights-puts", "rights-batches", "rights-leases"] {
            let items = tables.scan().table_name(table).send().await.unwrap();
            found.push(format!("{table}: {} items", items.count()));
        }
        for bucket in ["rights-in", "rights-out", "rights-errors", "rights-state"] {
            let objects = self.emulator.client().list_objects_v2().bucket(bucket).send().await.unwrap();
            let uploads = self.emulator.client().list_multipart_uploads().bucket(bucket).send().await.unwrap();
            let keys: Vec<_> = objects.contents().iter().filter_map(|o| o.key()).collect();
            found.push(format!("{bucket}: {keys:?}, {} uploads", uploads.uploads().len()));
        }
        found.join("; ")
    }
}

/// Calls that read; and those of the writing kind, which must be such that nothing can come of them.
fn changes_nothing(asked: &Asked) -> bool {
    let never = "attribute_exists(#k) AND attribute_not_exists(#k)";
    match asked.action.as_str() {
        "dynamodb:UpdateItem" | "dynamodb:PutItem" | "dynamodb:DeleteItem" => {
            let input: Value = serde_json::from_str(&asked.body).unwrap();
            input["ConditionExpression"] == never
        }
        "s3:PutObject" | "s3:AbortMultipartUpload" => asked.line.contains("uploadId=tidemill-check-aws"),
        action => {
            let operation = action.split_once(':').unwrap().1;
            ["Describe", "List", "Get", "BatchGet"].iter().any(|reading| operation.starts_with(reading))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_policy_of_iam_allows_is_enough_to_check_it_and_nothing_is_changed() {
    let Some(job) = Job::new().await else { return };
    let before = job.contents().await;
    let needed = job.needed();
    let text = job.checked(Policy::Only(needed.clone()));
    assert!(text.ends_with("code 0\n"), "{text}");
    assert!(text.contains("time to live not looked at (dynamodb:DescribeTimeToLive is denied)"), "{text}");
    // Each action has its answer.
    for action in &needed {
        let line = text.lines().find(|line| line.contains(action.as_str()) && line.starts_with("    "));
        let line = line.unwrap_or_else(|| panic!("nothing is said of {action}: {text}"));
        let tried = line.starts_with("    allowed: ") || line.starts_with("    not denied: ");
        assert_eq!(tried, !NOT_TRIED.contains(&action.as_str()), "{line}");
        if !tried {
            assert!(line.starts_with(&format!("    not tried: {action}")) && line.contains(": it "), "{line}");
        }
    }
    assert!(text.contains("note: what was not tried"), "{text}");
    for asked in job.proxy.asked() {
        assert!(changes_nothing(&asked), "{asked:?}");
    }
    assert_eq!(job.contents().await, before);
    insta::assert_snapshot!(text);
}

impl Job {
    /// Denies each action in turn; answers how many were missed.
    fn misses_what_is_denied(&self) -> usize {
        let mut missed = 0;
        for action in self.needed() {
            let action: &'static str = action.leak();
            let text = self.checked(Policy::AllBut(action));
            for asked in self.proxy.asked() {
                assert!(changes_nothing(&asked), "{asked:?}");
            }
            if NOT_TRIED.contains(&action) {
                let said = text.contains(&format!("not tried: {action}"));
                assert!(text.ends_with("code 0\n") && said, "{action}: {text}");
                continue;
            }
            assert!(text.ends_with("code 1\n"), "{action}: {text}");
            let hint = format!("allow the action '{action}' on it");
            assert!(text.contains(&hint), "{action}: {text}");
            let allowed =
                text.lines().filter(|line| line.starts_with("    allowed: ") || line.starts_with("    not denied: "));
            for line in allowed {
                let listed = line.split_once(": ").unwrap().1.split(", ");
                assert!(!listed.into_iter().any(|name| name.split(' ').next() == Some(action)), "{action} in {line}");
            }
            missed += 1;
        }
        missed
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_right_that_is_missing_is_named() {
    let Some(job) = Job::new().await else { return };
    let before = job.contents().await;
    assert!(job.misses_what_is_denied() >= 15);
    assert_eq!(job.contents().await, before);
}

/// Streams by their names' pattern, in both ways of reading, and a delivery stream: what `provision` does not make.
const UNMADE: &str = "
CREATE TABLE web (id BIGINT) WITH ('connector' = 'kinesis', 'stream.pattern' = 'rights-web-(eu|us)', 'format' = 'json');
CREATE TABLE pushed (id BIGINT)
WITH ('connector' = 'kinesis', 'stream.pattern' = 'rights-fan-.*', 'format' = 'json', 'source.reader.type' = 'EFO',
      'source.efo.consumer.name' = 'job');
CREATE TABLE delivered (id BIGINT) WITH ('connector' = 'firehose', 'delivery-stream' = 'rights-delivery', 'format' = 'json');
INSERT INTO delivered SELECT id FROM web;
INSERT INTO delivered SELECT id FROM pushed;
";

#[tokio::test(flavor = "multi_thread")]
async fn rights_on_streams_of_a_pattern_and_on_a_delivery_stream() {
    let Some(job) = Job::of(UNMADE).await else { return };
    // Nothing matches: a run would end with that.
    let text = job.checked(Policy::AllBut("nothing"));
    for missing in ["stream 'rights-web-*' does not exist", "delivery stream 'rights-delivery' does not exist"] {
        assert!(text.ends_with("code 1\n") && text.contains(missing), "'{missing}' in {text}");
    }
    let http = aws_smithy_http_client::Builder::new().build_http();
    let credentials = Credentials::new("test", "test", None, None, "test");
    let config = aws_config::SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .region(Region::new("eu-west-1"))
        .endpoint_url(&job.emulator.endpoint)
        .credentials_provider(aws_credential_types::provider::SharedCredentialsProvider::new(credentials))
        .build();
    let streams = aws_sdk_kinesis::Client::new(&config);
    // The first by name is none of the pattern.
    for name in ["rights-fan-out", "rights-web-apac", "rights-web-eu", "rights-web-us"] {
        streams.create_stream().stream_name(name).shard_count(1).send().await.unwrap();
    }
    let destination = aws_sdk_firehose::types::ExtendedS3DestinationConfiguration::builder()
        .role_arn("arn:aws:iam::000000000000:role/delivers")
        .bucket_arn("arn:aws:s3:::rights-delivered")
        .build();
    let make = aws_sdk_firehose::Client::new(&config).create_delivery_stream().delivery_stream_name("rights-delivery");
    make.extended_s3_destination_configuration(destination.unwrap()).send().await.unwrap();

    let text = job.checked(Policy::Only(job.needed()));
    assert!(text.ends_with("code 0\n"), "{text}");
    assert!(
        job.proxy.asked().iter().all(|asked| !asked.body.contains("rights-web-apac")),
        "it is no stream of the job"
    );
    insta::assert_snapshot!(text);
    assert!(job.misses_what_is_denied() >= 7);
    let put =
        streams.list_stream_consumers().stream_arn("arn:aws:kinesis:eu-west-1:000000000000:stream/rights-fan-out");
    assert_eq!(put.send().await.unwrap().consumers().len(), 0, "no consumer was made");
}
