//! `tidemill provision`, `iam`, `athena` and `check --aws`: templates and policies as snapshots, and the real thing on
//! ministack.
//!
//! `INSTA_UPDATE=always cargo test --test aws_tools` writes the snapshots anew.

#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

#[path = "../s3_aws/emulator.rs"]
#[expect(dead_code, reason = "shared with the tests of S3, which use all of it")]
mod emulator;
#[path = "../emulators/mod.rs"]
#[expect(dead_code, reason = "shared with the tests of each service")]
mod emulators_of_aws;

mod denying;
#[path = "../support/forward.rs"]
mod forward;
mod rights;

use std::path::Path;
use std::process::{Command, Stdio};

use insta::assert_snapshot;

/// What a command says, and how it ends. Nothing of the caller's environment reaches it.
fn said(dir: &Path, environment: &[(&str, String)], args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(args).current_dir(dir).stdin(Stdio::null()).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", dir);
    command.envs(environment.iter().map(|(k, v)| (*k, v.as_str())));
    let output = command.output().unwrap();
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.stderr.is_empty() {
        text.push_str(&format!("--- standard error\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    text.push_str(&format!("--- exit code {}\n", output.status.code().unwrap_or(-1)));
    text.replace(&dir.display().to_string(), "[DIR]")
}

fn shipped(args: &[&str]) -> String {
    let queries = Path::new(env!("CARGO_MANIFEST_DIR")).join("queries");
    let dir = tempfile::tempdir().unwrap();
    let path = queries.display().to_string();
    let args: Vec<&str> = args.iter().map(|a| if *a == "queries" { path.as_str() } else { *a }).collect();
    said(dir.path(), &[], &args)
}

/// A job with what is unusual: names by ARN, another region, fan-out, other write modes, FIFO, a bucket read and written.
const ODD: &str = "
SET 'tidemill.errors.path' = 's3://refusals/odd';
CREATE TABLE a (id BIGINT, k STRING, at TIMESTAMP(3), `hour` STRING, blob BYTES)
WITH ('connector' = 'kinesis', 'stream.arn' = 'arn:aws:kinesis:ap-south-1:111122223333:stream/far', 'format' = 'json',
      'source.reader.type' = 'EFO', 'source.efo.consumer.name' = 'odd');
CREATE TABLE b (id BIGINT, k STRING)
WITH ('connector' = 'kinesis', 'stream' = 'near', 'format' = 'json', 'aws.region' = 'eu-central-1');
CREATE TABLE names (k STRING, name STRING)
WITH ('connector' = 'filesystem', 'path' = 's3://reference/names.csv', 'format' = 'csv');
CREATE TABLE counted (id BIGINT, k STRING, PRIMARY KEY (id) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'counted');
CREATE TABLE on_call (message STRING)
WITH ('connector' = 'sns', 'topic' = 'on-call.fifo');
CREATE TABLE elsewhere (message STRING)
WITH ('connector' = 'sns', 'topic' = 'arn:aws:sns:us-east-1:444455556666:elsewhere');
CREATE TABLE kept (id BIGINT, name STRING, at TIMESTAMP(3), `hour` STRING, tenant STRING) PARTITIONED BY (tenant, `hour`)
WITH ('connector' = 's3', 'path' = 's3://archive/kept', 'format' = 'json');
CREATE TABLE by_hour (id BIGINT, at TIMESTAMP(3))
WITH ('connector' = 's3', 'path' = 's3://archive/by-hour', 'format' = 'parquet', 'sink.partition.time-column' = 'at',
      'sink.partition.pattern' = 'day={dd}/hour={HH}');
CREATE TABLE lines (id BIGINT) WITH ('connector' = 's3', 'path' = 's3://archive/lines/', 'format' = 'csv');
CREATE TABLE copies (id BIGINT, k STRING) WITH ('connector' = 'kinesis', 'stream' = 'copies', 'format' = 'json');
INSERT INTO counted SELECT id, k FROM a;
INSERT INTO on_call SELECT k FROM b;
INSERT INTO elsewhere SELECT k FROM a;
INSERT INTO kept SELECT a.id, names.name, a.at, a.`hour`, a.k FROM a JOIN names ON names.k = a.k;
INSERT INTO by_hour SELECT id, at FROM a;
INSERT INTO lines SELECT id FROM b;
INSERT INTO copies SELECT id, k FROM a;
";

fn odd(args: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("odd.sql"), ODD).unwrap();
    said(dir.path(), &[], args)
}

#[test]
fn policy_of_the_shipped_job() {
    assert_snapshot!(shipped(&["iam", "queries"]));
}

#[test]
fn policy_of_an_odd_job() {
    assert_snapshot!(odd(&["iam", "odd.sql"]));
}

#[test]
fn cloudformation_of_the_shipped_job() {
    assert_snapshot!(shipped(&["provision", "queries", "--format", "cloudformation"]));
}

#[test]
fn terraform_of_the_shipped_job() {
    assert_snapshot!(shipped(&["provision", "queries", "--format", "terraform", "--shards", "4"]));
}

#[test]
fn templates_of_an_odd_job() {
    assert_snapshot!(odd(&["provision", "odd.sql", "--format", "cloudformation", "--shards", "2"]));
    assert_snapshot!(odd(&["provision", "odd.sql", "--format", "terraform"]));
}

#[test]
fn athena_of_the_shipped_job() {
    assert_snapshot!(shipped(&["athena", "queries"]));
}

#[test]
fn athena_of_an_odd_job() {
    assert_snapshot!(odd(&["athena", "odd.sql"]));
}

#[test]
fn different_keys_of_one_table_are_an_error() {
    let sql = "
CREATE TABLE r (a STRING, b STRING) WITH ('connector' = 'kinesis', 'stream' = 's', 'format' = 'json');
CREATE TABLE one (a STRING, PRIMARY KEY (a) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 't');
CREATE TABLE two (b STRING, PRIMARY KEY (b) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 't');
INSERT INTO one SELECT a FROM r;
INSERT INTO two SELECT b FROM r;
";
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("job.sql"), sql).unwrap();
    let said = said(dir.path(), &[], &["iam", "job.sql"]);
    assert!(
        said.contains("the tables of table 't' have different primary keys") && said.ends_with("code 1\n"),
        "{said}"
    );
}

const LIVE: &str = "
CREATE TABLE events (id BIGINT, k STRING) WITH ('connector' = 'kinesis', 'stream' = 'live-events', 'format' = 'json');
CREATE TABLE counts (k STRING, n BIGINT, PRIMARY KEY (k, n) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'live-counts');
CREATE TABLE alerts (message STRING) WITH ('connector' = 'sns', 'topic' = 'live-alerts.fifo');
CREATE TABLE kept (id BIGINT) WITH ('connector' = 's3', 'path' = 's3://live-archive/kept', 'format' = 'json');
INSERT INTO counts SELECT k, id FROM events;
INSERT INTO alerts SELECT k FROM events;
INSERT INTO kept SELECT id FROM events;
";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_made_and_what_exists_is_left_alone() {
    let Some(emulator) = emulator::ministack().await else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("job.sql"), LIVE).unwrap();
    let mut environment = emulator.environment();
    environment.push(("AWS_ENDPOINT_URL", emulator.endpoint.clone()));
    let say = |args: &[&str]| said(dir.path(), &environment, args);
    let titles = ["stream 'live-events'", "table 'live-counts'", "topic 'live-alerts.fifo'", "bucket 'live-archive'"];

    let checked = say(&["check", "job.sql", "--aws"]);
    for title in titles {
        assert!(checked.contains(&format!("{title} does not exist")), "no {title} in {checked}");
    }
    assert!(checked.ends_with("code 1\n"), "{checked}");
    let shown = say(&["provision", "job.sql", "--dry-run"]);
    assert_eq!(shown.matches("would be made").count(), 4, "{shown}");
    // A dry run has made nothing.
    assert_eq!(say(&["provision", "job.sql", "--dry-run"]), shown);
    let made = say(&["provision", "job.sql", "--shards", "3"]);
    for title in titles {
        assert!(made.contains(&format!("made     {title}")), "no {title} in {made}");
    }
    let checked = say(&["check", "job.sql", "--aws"]);
    assert!(checked.ends_with("code 0\n"), "{checked}");
    assert!(checked.contains("3 shards") && checked.contains("key (k S, n N)"), "{checked}");
    // Another key, and another number of shards: said, and not changed.
    let other = LIVE.replace("PRIMARY KEY (k, n)", "PRIMARY KEY (n)");
    std::fs::write(dir.path().join("job.sql"), other).unwrap();
    let again = say(&["provision", "job.sql", "--shards", "7"]);
    assert_eq!(again.matches("exists   ").count(), 4, "{again}");
    assert!(again.contains("but its key is (k S, n N), the SQL's is (n N); it is left as it is"), "{again}");
    assert!(again.contains("3 shards"), "{again}");
    let checked = say(&["check", "job.sql", "--aws"]);
    assert!(checked.contains("table 'live-counts' (counts): its key is (k S, n N)"), "{checked}");
    assert!(checked.ends_with("code 1\n"), "{checked}");
    let policy = say(&["iam", "job.sql", "--account"]);
    assert!(policy.contains("arn:aws:dynamodb:eu-west-1:000000000000:table/live-counts"), "{policy}");
}

/// A table that is looked up, with its key as Flink's DynamoDB tables name it.
const LOOKUP: &str = "
CREATE TABLE orders (id BIGINT, product STRING, region INT, proc_time AS PROCTIME())
WITH ('connector' = 'kinesis', 'stream' = 'orders', 'format' = 'json');
CREATE TABLE products (product STRING, region INT, category STRING, price DECIMAL(12, 2)) PARTITIONED BY (product, region)
WITH ('connector' = 'dynamodb', 'table-name' = 'products', 'lookup.cache' = 'PARTIAL', 'lookup.partial-cache.max-rows' = '5000');
CREATE TABLE enriched (id BIGINT, category STRING) WITH ('connector' = 'kinesis', 'stream' = 'enriched', 'format' = 'json');
INSERT INTO enriched
SELECT o.id, p.category FROM orders AS o
LEFT JOIN products FOR SYSTEM_TIME AS OF o.proc_time AS p ON p.product = o.product AND p.region = o.region AND p.price > 0;
";

#[test]
fn a_table_that_is_looked_up() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("job.sql"), LOOKUP).unwrap();
    assert_snapshot!("iam_of_a_lookup", said(dir.path(), &[], &["iam", "job.sql"]));
    assert_snapshot!(
        "provision_of_a_lookup",
        said(dir.path(), &[], &["provision", "job.sql", "--format", "cloudformation"])
    );
    assert_snapshot!("explain_of_a_lookup", said(dir.path(), &[], &["explain", "--physical", "job.sql"]));
}
