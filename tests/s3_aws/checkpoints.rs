//! Checkpoints in a bucket: a run goes on from them, a killed one loses and doubles nothing, and of two runs one is fenced.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::emulator::{Bucket, Emulator, both, pause, seaweed};
use crate::replica::wait;

const SQL: &str = "
CREATE TABLE events (event_id STRING, event_type STRING, `timestamp` TIMESTAMP_LTZ(3),
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND)
WITH ('connector' = 's3', 'path' = 's3://job-state/in/', 'format' = 'json', 'source.monitor-interval' = '${MONITOR:-1 s}');
CREATE TABLE copies (event_id STRING, event_type STRING) PARTITIONED BY (event_type)
WITH ('connector' = 's3', 'path' = 's3://job-state/copies/', 'format' = 'json', 'sink.rolling-policy.rollover-interval' = '${ROLLOVER:-1 s}');
CREATE TABLE minutes (window_start TIMESTAMP(3), event_type STRING, n BIGINT)
WITH ('connector' = 's3', 'path' = 's3://job-state/minutes/', 'format' = 'json', 'sink.rolling-policy.rollover-interval' = '${ROLLOVER:-1 s}');
INSERT INTO copies SELECT event_id, event_type FROM events;
INSERT INTO minutes SELECT window_start, event_type, COUNT(*)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`timestamp`), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, event_type;
";

fn start(emulator: &Emulator, folder: &Path, more: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(["run", "job.sql", "--checkpoints", "s3://job-state/kept", "--from", "trim_horizon"]).args(more);
    command.current_dir(folder).envs(emulator.environment()).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What a run says when it has ended, and whether it succeeded.
fn said(child: Child) -> (bool, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// Every row of the objects below `prefix`, and how often it is there.
async fn rows(bucket: &Bucket, prefix: &str) -> BTreeMap<String, u64> {
    let mut rows = BTreeMap::new();
    for key in bucket.keys().await.into_iter().filter(|key| key.starts_with(prefix)) {
        for line in String::from_utf8(bucket.get(&key).await).unwrap().lines() {
            *rows.entry(line.to_owned()).or_default() += 1;
        }
    }
    rows
}

/// Events of the shop as objects; answers how many.
async fn events(bucket: &Bucket, objects: usize) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/shop.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().take(8_000).collect();
    for (number, part) in lines.chunks(lines.len().div_ceil(objects)).enumerate() {
        bucket.put(&format!("in/{number}.json"), part.join("\n") + "\n").await;
    }
    lines.len()
}

async fn empty(bucket: &Bucket) {
    for key in bucket.keys().await.iter().filter(|key| !key.starts_with("in/")) {
        bucket.delete(key).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_run_goes_on_from_a_bucket() {
    for emulator in both().await {
        let bucket = emulator.bucket("job-state").await;
        events(&bucket, 2).await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("job.sql"), SQL).unwrap();
        let (done, first) = said(start(&emulator, folder.path(), &["--once"]));
        assert!(done && first.starts_with("8000 records"), "{}: {first}", emulator.name);
        let (done, second) = said(start(&emulator, folder.path(), &["--once"]));
        assert!(done && second.starts_with("0 records"), "{}: {second}", emulator.name);
        bucket.put("in/9.json", bucket.get("in/0.json").await).await;
        let (done, third) = said(start(&emulator, folder.path(), &["--drain"]));
        assert!(done && third.starts_with("4000 records"), "{}: {third}", emulator.name);
        let manifests = bucket.keys().await.into_iter().filter(|key| key.starts_with("kept/job/manifests/")).count();
        assert_eq!(manifests, 3, "{}", emulator.name);
        let listed = Command::new(env!("CARGO_BIN_EXE_tidemill"))
            .args(["state", "list", "s3://job-state/kept/job"])
            .envs(emulator.environment())
            .output()
            .unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.lines().count() == 4 && listed.contains("     6  20"), "{}: {listed}", emulator.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_runs_on_a_bucket_lose_and_double_nothing() {
    let Some(emulator) = seaweed().await else { return };
    let bucket = emulator.bucket("job-state").await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("job.sql"), SQL).unwrap();
    events(&bucket, 3).await;
    // Undisturbed, for comparison.
    let (done, text) = said(start(&emulator, folder.path(), &["--drain"]));
    assert!(done, "{text}");
    let wanted = (rows(&bucket, "copies/").await, rows(&bucket, "minutes/").await);
    assert!(wanted.0.len() > 7_000 && wanted.1.len() > 20, "{} and {} rows", wanted.0.len(), wanted.1.len());
    for (round, rollover) in ["100 ms", "1 s", "300 s"].into_iter().enumerate() {
        empty(&bucket).await;
        let parameter = format!("ROLLOVER={rollover}");
        let log =
            async || bucket.keys().await.into_iter().filter(|key| key.starts_with("kept/job/log/")).collect::<Vec<_>>();
        let newest = async || {
            let manifests = bucket.keys().await.into_iter().filter(|key| key.starts_with("kept/job/manifests/"));
            let number = |key: String| key.rsplit('/').next()?.strip_suffix(".json")?.parse::<u64>().ok();
            manifests.filter_map(number).max().unwrap_or(0)
        };
        let mut checkpoints = 0;
        for kill in 0..4_u64 {
            let interval = ["60ms", "250ms"][(kill % 2) as usize];
            let slow = ["--epoch-rows", "150", "--epoch-interval", "20ms", "--checkpoint-interval", interval];
            let before = log().await;
            let mut child = start(&emulator, folder.path(), &[&slow[..], &["--param", &parameter]].concat());
            // However slow the machine is, the run has begun, and the last ones have seen checkpoints; then any moment will do.
            let least = [0, 0, 1, 2][kill as usize];
            wait("the run has begun", 30_000, async || {
                child.try_wait().unwrap().is_some() || (log().await != before && newest().await >= least)
            })
            .await;
            pause(333 * kill + 101 * round as u64).await;
            child.kill().unwrap();
            let (_, text) = said(child);
            assert!(!text.lines().any(|line| line.starts_with("error")), "{rollover}: {text}");
            checkpoints = checkpoints.max(newest().await);
        }
        let (done, text) = said(start(&emulator, folder.path(), &["--drain", "--param", &parameter]));
        assert!(done, "{rollover}: {text}");
        assert!(checkpoints > 1, "{rollover}: {checkpoints} checkpoints before the last run");
        let found = (rows(&bucket, "copies/").await, rows(&bucket, "minutes/").await);
        assert!(found == wanted, "{rollover}: {} and {} rows are others", found.0.len(), found.1.len());
        assert!(bucket.uploads().await.is_empty(), "{rollover}: uploads are left over");
        let log = bucket.keys().await.into_iter().filter(|key| key.starts_with("kept/job/log/")).count();
        assert!(log <= 6, "{rollover}: {log} objects of the log are left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_runs_on_one_bucket_one_is_fenced() {
    for emulator in both().await {
        let bucket = emulator.bucket("job-state").await;
        events(&bucket, 1).await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("job.sql"), SQL).unwrap();
        let first_events = String::from_utf8(bucket.get("in/0.json").await).unwrap();
        let later_events = first_events.replace("\"event_id\":\"", "\"event_id\":\"again-");
        // Undisturbed, for comparison. (Some ids are there twice.)
        bucket.put("in/1.json", later_events.clone()).await;
        let (done, text) = said(start(&emulator, folder.path(), &["--drain"]));
        assert!(done, "{}: {text}", emulator.name);
        let wanted = rows(&bucket, "copies/").await;
        assert!(wanted.len() > 14_000, "{} rows", wanted.len());
        bucket.delete("in/1.json").await;
        empty(&bucket).await;
        let often = ["--checkpoint-interval", "200ms", "--epoch-interval", "50ms"];
        let first = start(&emulator, folder.path(), &often);
        // Who has made the newest checkpoint. A run begins with a copy of the one before it.
        let made_by = async || -> Option<serde_json::Value> {
            let newest = bucket.keys().await.into_iter().rfind(|key| key.starts_with("kept/job/manifests/"))?;
            // It may have been removed since.
            let object = bucket.client.get_object().bucket(&bucket.name).key(newest).send().await.ok()?;
            let text = object.body.collect().await.ok()?.into_bytes();
            Some(serde_json::from_slice::<serde_json::Value>(&text).ok()?["nonce"].clone())
        };
        let mut own = None;
        let has_made_one = async || {
            own = made_by().await;
            own.is_some()
        };
        wait("the first one has made a checkpoint", 30_000, has_made_one).await;
        let mut second = start(&emulator, folder.path(), &often);
        let has_begun = async || made_by().await.is_some_and(|by| Some(by) != own);
        wait("the second one has begun", 30_000, has_begun).await;
        // Both see the new object; only one may do something about it.
        bucket.put("in/1.json", later_events).await;
        let (done, told) = said(first);
        assert!(!done && told.contains("another run"), "{}: {told}", emulator.name);
        // What it has read is to be seen a second later; a busy machine takes its time to read.
        for _ in 0..600 {
            if rows(&bucket, "copies/").await == wanted {
                break;
            }
            pause(200).await;
        }
        let goes_on = second.try_wait().unwrap().is_none();
        let _ = Command::new("kill").args(["-TERM", &second.id().to_string()]).status().unwrap();
        let (done, told) = said(second);
        assert!(goes_on && done, "{}: the second run must go on: {told}", emulator.name);
        let found = rows(&bucket, "copies/").await;
        let others: Vec<_> = wanted.iter().filter(|(row, n)| found.get(*row) != Some(n)).take(3).collect();
        assert!(found == wanted, "{}: {} of {} rows; others: {others:?}", emulator.name, found.len(), wanted.len());
        assert!(bucket.uploads().await.is_empty(), "{}: uploads are left over", emulator.name);
    }
}
