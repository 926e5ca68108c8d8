//! `tidemill backfill` into DynamoDB tables that a job has written: what a query without its state has made incomplete. It writes
//! as a job of its own, whose versions are not those of the job that runs; what that means in each mode is in `docs/reliability.md`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::stub::{Running, calm};

const SQL: &str = "
SET 'state.checkpoints.dir' = 'kept';
SET 'tidemill.errors.path' = 'errors';
CREATE TABLE events (id BIGINT, at TIMESTAMP_LTZ(3), seen TIMESTAMP_LTZ(3) METADATA FROM 'watermark' VIRTUAL,
  WATERMARK FOR at AS at - INTERVAL '5' SECOND)
WITH ('connector' = 'filesystem', 'path' = 'in', 'format' = 'json', 'source.monitor-interval' = '1 s',
  'json.timestamp-format.standard' = 'ISO-8601');
CREATE TABLE archive (id BIGINT, at TIMESTAMP_LTZ(3), seen TIMESTAMP_LTZ(3))
WITH ('connector' = 'filesystem', 'path' = 'archive', 'format' = 'parquet');
CREATE TABLE minutes (m STRING, c BIGINT, PRIMARY KEY (m) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'minutes', 'sink.write-mode' = 'MODE', 'sink.version.attribute' = '${VERSION:-tm_epoch}');
INSERT INTO archive SELECT id, at, seen FROM events;
INSERT INTO minutes SELECT DATE_FORMAT(window_start, 'HH:mm'), COUNT(*)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' MINUTE)) WHERE id >= 0 GROUP BY window_start, window_end;
";

/// Event `id` is at second `id` after 10:00.
pub(crate) fn put(folder: &Path, ids: std::ops::Range<u64>) {
    let line = |id: u64| format!("{{\"id\":{id},\"at\":\"2026-03-01T10:{:02}:{:02}Z\"}}\n", id / 60, id % 60);
    let name = format!("in/{}.json", ids.start);
    std::fs::write(folder.join(name), ids.map(line).collect::<String>()).unwrap();
}

pub(crate) fn minutes(stub: &Running) -> BTreeMap<String, String> {
    let items = stub.tables.items("minutes");
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    items.iter().map(|item| (text(&item["m"]["S"]), text(&item["c"]["N"]))).collect()
}

pub(crate) fn command(folder: &Path, stub: &Running, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(args).current_dir(folder).env("AWS_ENDPOINT_URL_DYNAMODB", stub.url());
    command.envs([("AWS_REGION", "eu-west-1"), ("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")]);
    command
}

pub(crate) fn tidemill(folder: &Path, stub: &Running, args: &[&str]) -> String {
    let mut command = command(folder, stub, args);
    let output = tokio::task::block_in_place(|| command.output().unwrap());
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "tidemill {args:?}: {said}");
    said
}

/// So many events in each minute.
pub(crate) fn with(counts: &[u64]) -> BTreeMap<String, String> {
    counts.iter().enumerate().map(|(minute, count)| (format!("10:{minute:02}"), count.to_string())).collect()
}

/// A query loses its state in the midst of the third minute, and the archive is computed up to the end of it. Answers what the
/// table has then, and when the job has gone on.
async fn rebuilt(mode: &str, more: &[&str]) -> [BTreeMap<String, String>; 2] {
    let stub = Running::start(calm()).await;
    stub.tables.create("minutes", &[("m", "S")]);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("in")).unwrap();
    let sql = SQL.replace("MODE", mode);
    std::fs::write(folder.join("job.sql"), &sql).unwrap();
    let run = ["run", "job.sql", "--from", "trim_horizon", "--once"];
    put(folder, 0..150);
    tidemill(folder, &stub, &run);
    std::fs::write(folder.join("job.sql"), sql.replace("id >= 0", "id >= -1")).unwrap();
    put(folder, 150..300);
    tidemill(folder, &stub, &[&run[..], &["--reset", "minutes"]].concat());
    assert_eq!(minutes(&stub), with(&[60, 60, 30, 60]), "{mode}");
    let backfill = ["backfill", "job.sql", "--from", "archive", "--end", "2026-03-01T10:03:00Z"];
    let said = tidemill(folder, &stub, &[&backfill[..], more].concat());
    assert!(said.contains("query job:minutes: 3 rows out"), "{said}");
    let keeps = said.contains("DynamoDB table 'minutes' keeps values that this run would replace: item m=10:0");
    assert_eq!(keeps, mode == "put" && more.is_empty(), "{mode}: {said}");
    let after = minutes(&stub);
    put(folder, 300..400);
    tidemill(folder, &stub, &run);
    [after, minutes(&stub)]
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_that_are_updated_are_completed_from_the_archive() {
    let found = rebuilt("update", &[]).await;
    assert_eq!(found, [with(&[60, 60, 60, 60]), with(&[60, 60, 60, 60, 60, 60])]);
}

/// The item has the version of the job that runs; the backfill writes over it where it has another one.
#[tokio::test(flavor = "multi_thread")]
async fn items_that_are_put_are_completed_under_a_version_of_its_own() {
    let found = rebuilt("put", &[]).await;
    assert_eq!(found, [with(&[60, 60, 30, 60]), with(&[60, 60, 30, 60, 60, 60])]);
    let found = rebuilt("put", &["--param", "VERSION=tm_backfill"]).await;
    assert_eq!(found, [with(&[60, 60, 60, 60]), with(&[60, 60, 60, 60, 60, 60])]);
}

/// As those of any other job.
#[tokio::test(flavor = "multi_thread")]
async fn sums_of_a_backfill_come_on_top() {
    let found = rebuilt("add", &[]).await;
    assert_eq!(found, [with(&[120, 120, 90, 60]), with(&[120, 120, 90, 60, 60, 60])]);
}
