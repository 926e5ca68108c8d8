//! The storage of a job's checkpoints is away for longer than any attempt to write the epoch log lasts.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::emulator::{pause, seaweed};
use crate::proxy::{Fault, Proxy};
use crate::replica::{Replica, wait};

/// No failure that counts is tried again, so that one is enough.
const SQL: &str = "
SET 'tidemill.maximum-retry-attempts' = '0';
CREATE TABLE events (n BIGINT) WITH ('connector' = 'kinesis', 'stream' = 'live', 'format' = 'json');
CREATE TABLE copies (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'copies', 'format' = 'json',
  'sink.rolling-policy.rollover-interval' = '300 ms');
INSERT INTO copies SELECT n FROM events;
";

fn copies(folder: &Path) -> BTreeMap<String, u64> {
    let mut rows = BTreeMap::new();
    for file in std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
        if file.file_name().unwrap().to_str().unwrap().starts_with("part-") {
            for line in std::fs::read_to_string(&file).unwrap().lines() {
                *rows.entry(line.to_owned()).or_default() += 1;
            }
        }
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlasts_its_storage() {
    let Some(emulator) = seaweed().await else { return };
    emulator.bucket("away").await;
    let proxy = Proxy::before(&emulator.endpoint).await;
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    std::fs::write(at("job.sql"), SQL).unwrap();
    std::fs::create_dir_all(at("local/kinesis/live")).unwrap();
    let stream = at("local/kinesis/live/shard.jsonl");
    let put = |numbers: std::ops::Range<u64>| {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&stream).unwrap();
        file.write_all(numbers.map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>().as_bytes()).unwrap();
    };
    put(0..10);
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args([
            "run",
            "job.sql",
            "--local",
            "local",
            "--checkpoints",
            "s3://away/kept",
            "--from",
            "trim_horizon",
        ]);
        command.current_dir(folder.path());
        command.envs(emulator.environment()).env("AWS_ENDPOINT_URL_S3", &proxy.endpoint);
        command
    };
    let closed =
        || ["GET", "PUT", "POST", "HEAD", "DELETE"].map(|method| proxy.next(usize::MAX, method, "", Fault::Close));
    // A start that has never succeeded says so, and ends.
    closed();
    let mut first = Replica::spawn(command(), folder.path(), "first");
    wait("the first start ends", 30_000, async || first.child.try_wait().unwrap().is_some()).await;
    assert!(!first.child.wait().unwrap().success() && first.text().contains("s3://away/kept"), "{}", first.text());
    proxy.mend();
    let mut job = Replica::spawn(command(), folder.path(), "job");
    wait("the first copies", 15_000, async || copies(&at("copies")).len() == 10).await;
    closed();
    put(10..20);
    wait("the run fails", 120_000, async || job.text().contains("for as long as it takes")).await;
    // The run after it fails, too.
    wait("it fails again", 90_000, async || job.text().matches("for as long as it takes").count() > 1).await;
    assert!(job.child.try_wait().unwrap().is_none(), "{}", job.text());
    proxy.mend();
    wait("the other copies", 30_000, async || copies(&at("copies")).len() == 20).await;
    pause(100).await;
    job.end().await;
    let copies = copies(&at("copies"));
    assert!(copies.len() == 20 && copies.values().all(|times| *times == 1), "{copies:?}");
}
