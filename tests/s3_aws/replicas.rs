//! Replicas of a job, with its checkpoints in a bucket and its lease there or in DynamoDB: one works, another takes over
//! when it is killed, stopped or paused, and one that wakes up again does no harm.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::emulator::{Bucket, Emulator, ministack, pause, seaweed};
use crate::replica::{Replica, wait};

const SQL: &str = "
SET 'tidemill.lease' = '${LEASE}';
SET 'tidemill.lease.ttl' = '6 s';
SET 'state.checkpoints.dir' = 's3://replicas/kept';
SET 'execution.checkpointing.interval' = '500 ms';
SET 'tidemill.epoch.interval' = '100 ms';
CREATE TABLE events (id BIGINT, kind STRING)
WITH ('connector' = 's3', 'path' = 's3://replicas/in/', 'format' = 'json', 'source.monitor-interval' = '200 ms');
CREATE TABLE copies (id BIGINT) WITH ('connector' = 's3', 'path' = 's3://replicas/copies/', 'format' = 'json',
  'sink.rolling-policy.rollover-interval' = '300 ms');
INSERT INTO copies SELECT id FROM events;
";
const TTL_MS: u64 = 6_000;

fn command(emulator: &Emulator, folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.current_dir(folder).envs(emulator.environment()).stdin(Stdio::null());
    command.env("AWS_ENDPOINT_URL_DYNAMODB", &emulator.endpoint);
    command
}

fn start(emulator: &Emulator, folder: &Path, name: &str, lease: &str) -> Replica {
    let lease = format!("LEASE={lease}");
    let mut command = command(emulator, folder);
    command.args(["run", "job.sql", "--from", "trim_horizon", "--param", &lease]);
    Replica::spawn(command, folder, name)
}

async fn copies(bucket: &Bucket) -> BTreeMap<String, u64> {
    let mut rows = BTreeMap::new();
    for key in bucket.keys().await.into_iter().filter(|key| key.starts_with("copies/")) {
        for line in String::from_utf8(bucket.get(&key).await).unwrap().lines() {
            *rows.entry(line.to_owned()).or_default() += 1;
        }
    }
    rows
}

/// Puts ten events in, and waits for their copies.
async fn ten_more(bucket: &Bucket, number: u64) {
    let line = |id: u64| format!("{{\"id\":{id},\"kind\":\"k\"}}\n");
    let text: String = (number * 10..number * 10 + 10).map(line).collect();
    bucket.put(&format!("in/{number}.json"), text).await;
    let wanted = usize::try_from(number + 1).unwrap() * 10;
    wait("the events' copies", 15_000, async || copies(bucket).await.len() == wanted).await;
}

async fn replicas(emulator: &Emulator, bucket: &Bucket, lease: &str) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("job.sql"), SQL).unwrap();
    let start = |name: &str| start(emulator, folder.path(), name, lease);

    let one = start("one");
    wait("the first one leads", 10_000, async || one.terms() == 1).await;
    ten_more(bucket, 0).await;
    let mut two = start("two");
    wait("the second one waits", 10_000, async || two.text().contains("waits: 'one-")).await;

    // Paused for longer than the lease lasts.
    one.signal("-STOP");
    // The silence, a look each 1.2 s, and the process's own work on two busy cores.
    let waited = wait("the second one leads", 15_000, async || two.terms() == 1).await;
    assert!(waited + 100 >= TTL_MS - 2 * TTL_MS / 5, "{lease}: taken over after {waited} ms, while the lease held");
    ten_more(bucket, 1).await;
    one.signal("-CONT");
    wait("the first one notices", 10_000, async || one.text().contains("waits: ")).await;
    ten_more(bucket, 2).await;

    // Killed.
    let three = start("three");
    wait("the third one waits", 10_000, async || three.text().contains("waits: 'two-")).await;
    two.signal("-KILL");
    two.child.wait().unwrap();
    wait("another one leads", 15_000, async || one.terms() + three.terms() == 2).await;
    ten_more(bucket, 3).await;

    // Ended in order: the successor need not wait.
    let (mut leader, mut other) = if one.terms() == 2 { (one, three) } else { (three, one) };
    let terms = other.terms();
    leader.signal("-TERM");
    assert!(leader.child.wait().unwrap().success(), "{lease}: {}", leader.text());
    wait("the last one leads", 10_000, async || other.terms() == terms + 1).await;
    ten_more(bucket, 4).await;
    other.signal("-TERM");
    assert!(other.child.wait().unwrap().success(), "{lease}: {}", other.text());
    assert!(other.text().contains("checkpoints: "), "{lease}: {}", other.text());

    let copies = copies(bucket).await;
    assert!(copies.len() == 50 && copies.values().all(|n| *n == 1), "{lease}: {copies:?}");
    assert!(bucket.uploads().await.is_empty(), "{lease}: uploads are left over");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_works_with_its_lease_beside_the_checkpoints() {
    let Some(emulator) = seaweed().await else { return };
    let bucket = emulator.bucket("replicas").await;
    replicas(&emulator, &bucket, "checkpoints").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_works_with_its_lease_in_dynamodb() {
    let Some(emulator) = ministack().await else { return };
    let bucket = emulator.bucket("replicas").await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("job.sql"), SQL).unwrap();
    // The table of leases is one of the things that the job needs.
    let lease = ["--param", "LEASE=dynamodb:leases"];
    let made = command(&emulator, folder.path()).args(["provision", "job.sql"]).args(lease).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    replicas(&emulator, &bucket, "dynamodb:leases").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_must_wait_does_not_begin_anew() {
    let Some(emulator) = seaweed().await else { return };
    let bucket = emulator.bucket("replicas").await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("job.sql"), SQL).unwrap();
    let one = start(&emulator, folder.path(), "one", "checkpoints");
    wait("the first one leads", 10_000, async || one.terms() == 1).await;
    ten_more(&bucket, 0).await;
    let mut fresh = command(&emulator, folder.path());
    fresh.args(["run", "job.sql", "--fresh", "--param", "LEASE=checkpoints"]);
    let fresh = fresh.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    pause(1_000).await;
    drop(one);
    let output = fresh.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("was running the job"), "{text}");
    assert_eq!(copies(&bucket).await.len(), 10);
}
