//! `tidemill run` without `--local`: from S3 to S3, with a reference table there, and refused records beside them.

use std::path::Path;
use std::process::Command;

use crate::emulator::{Emulator, both, seaweed};

pub(crate) const SQL: &str = "
CREATE TABLE events (id BIGINT, product STRING, `day` STRING)
WITH ('connector' = 's3', 'path' = 's3://job-bucket/in/', 'format' = 'json');
CREATE TABLE products (product STRING, category STRING)
WITH ('connector' = 'filesystem', 'path' = 's3://job-bucket/reference/products.csv', 'format' = 'csv');
CREATE TABLE out (id BIGINT, category STRING, `day` STRING) PARTITIONED BY (`day`)
WITH ('connector' = 's3', 'path' = 's3://job-bucket/out/', 'format' = 'json');
INSERT INTO out SELECT e.id, p.category, e.`day` FROM events AS e JOIN products AS p ON p.product = e.product;
";

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_from_s3_to_s3() {
    for emulator in both().await {
        let bucket = emulator.bucket("job-bucket").await;
        bucket.put("in/a.json", "{\"id\":1,\"product\":\"p\",\"day\":\"a\"}\nbroken\n").await;
        bucket.put("in/b.json", "{\"id\":2,\"product\":\"q\",\"day\":\"b\"}\n").await;
        bucket.put("reference/products.csv", "p,shoes\nq,hats\n").await;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("job.sql"), SQL).unwrap();
        let run = Command::new(env!("CARGO_BIN_EXE_tidemill"))
            .args(["run", "job.sql", "--drain"])
            .current_dir(dir.path())
            .envs(emulator.environment())
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success(), "{}: {out}{err}", emulator.name);
        let keys = bucket.keys().await;
        let of = |prefix: &str| keys.iter().filter(|k| k.starts_with(prefix)).cloned().collect::<Vec<_>>();
        let (a, b, errors) = (of("out/day=a/"), of("out/day=b/"), of("errors/job/errors-job-"));
        assert_eq!((a.len(), b.len(), errors.len()), (1, 1, 1), "{keys:?}");
        assert_eq!(bucket.get(&a[0]).await, b"{\"id\":1,\"category\":\"shoes\"}\n");
        assert_eq!(bucket.get(&b[0]).await, b"{\"id\":2,\"category\":\"hats\"}\n");
        let refused = String::from_utf8(bucket.get(&errors[0]).await).unwrap();
        assert!(refused.contains("\"split\":\"s3://job-bucket/in/a.json\"") && refused.contains("broken"), "{refused}");
        assert!(bucket.uploads().await.is_empty(), "{}", emulator.name);
        assert!(!dir.path().join("errors").exists());
    }
}

/// Runs the job in `folder` to the end of its input: whether that went well, and what it said.
fn drained(emulator: &Emulator, folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(["run", "job.sql", "--drain"]).args(arguments).current_dir(folder);
    let output = command.envs(emulator.environment()).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// `--fresh` moves files of a folder aside; objects it does not touch, and says so before anything is written twice.
#[tokio::test(flavor = "multi_thread")]
async fn fresh_does_not_write_beside_what_is_there() {
    for emulator in both().await {
        let bucket = emulator.bucket("job-bucket").await;
        bucket.put("in/a.json", "{\"id\":1,\"product\":\"p\",\"day\":\"a\"}\n").await;
        bucket.put("reference/products.csv", "p,shoes\n").await;
        // Of another job, and of nobody: they do not count.
        bucket.put("out/day=a/part-other-1-0.jsonl", "x").await;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("job.sql"), SQL).unwrap();
        let run = |arguments: &[&str]| drained(&emulator, dir.path(), arguments);
        assert!(run(&["--fresh"]).0);
        let own = |keys: Vec<String>| keys.into_iter().filter(|k| k.contains("part-job-")).count();
        assert_eq!(own(bucket.keys().await), 1);
        let (done, said) = run(&["--fresh"]);
        assert!(!done && said.contains("s3://job-bucket/out/day=a/part-job-") && said.contains("'out'"), "{said}");
        assert_eq!(own(bucket.keys().await), 1);
        assert!(run(&["--fresh", "--from", "trim_horizon"]).0, "who says where to begin knows");
        assert_eq!(own(bucket.keys().await), 2);
    }
}

/// The place of checkpoints is misspelt, or somebody has emptied it: everything would be written a second time.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_state_does_not_write_beside_objects_of_earlier_runs() {
    let Some(emulator) = seaweed().await else { return };
    let bucket = emulator.bucket("job-bucket").await;
    bucket.put("in/a.json", "{\"id\":1,\"product\":\"p\",\"day\":\"a\"}\n").await;
    bucket.put("reference/products.csv", "p,shoes\n").await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("job.sql"), SQL).unwrap();
    let run = |arguments: &[&str]| drained(&emulator, dir.path(), arguments);
    let [kept, other] = ["s3://job-bucket/kept", "s3://job-bucket/other"];
    for _ in 0..2 {
        let (done, said) = run(&["--checkpoints", kept]);
        assert!(done, "{said}");
    }
    let before = bucket.keys().await;
    let (done, said) = run(&["--checkpoints", other]);
    let parts = ["s3://job-bucket/out/day=a/part-job-1-0", "no saved state", "looked for in the right place"];
    assert!(!done && parts.iter().all(|part| said.contains(part)), "{said}");
    assert_eq!(bucket.keys().await, before);
    let (done, said) = run(&["--checkpoints", other, "--from", "trim_horizon"]);
    assert!(done, "who says where to begin knows: {said}");
}

const MANY: &str = "
CREATE TABLE events (id BIGINT, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '5' SECOND)
WITH ('connector' = 's3', 'path' = 's3://many-bucket/in/', 'format' = 'json',
      'json.timestamp-format.standard' = 'ISO-8601');
CREATE TABLE out (hour_start TIMESTAMP(3), n BIGINT, total BIGINT)
WITH ('connector' = 's3', 'path' = 's3://many-bucket/out/', 'format' = 'csv');
INSERT INTO out SELECT window_start, COUNT(*), SUM(id)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' HOUR)) GROUP BY window_start, window_end;
";

#[tokio::test(flavor = "multi_thread")]
async fn many_objects_share_event_time() {
    let Some(emulator) = seaweed().await else { return };
    let bucket = emulator.bucket("many-bucket").await;
    // Each object has a row of every hour of a day: no object may close a window before the others have been read.
    for object in 0..150 {
        let row = |hour: i64| format!("{{\"id\":{object},\"at\":\"2026-01-01T{hour:02}:00:00Z\"}}\n");
        bucket.put(&format!("in/{object}.json"), (0..24).map(row).collect::<String>()).await;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("job.sql"), MANY).unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .args(["run", "job.sql", "--drain"])
        .current_dir(dir.path())
        .envs(emulator.environment())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let keys: Vec<String> = bucket.keys().await.into_iter().filter(|k| k.starts_with("out/")).collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    let text = String::from_utf8(bucket.get(&keys[0]).await).unwrap();
    assert_eq!(text.lines().count(), 24, "{text}");
    assert!(text.lines().all(|line| line.ends_with(",150,11175")), "{text}");
}

/// Each object alone is little; all at once they are 130 MB, and each reader has buffers of its own.
#[tokio::test(flavor = "multi_thread")]
#[cfg(target_os = "linux")]
async fn thousands_of_objects_in_bounded_memory() {
    const OBJECTS: usize = 2_000;
    const ROWS: usize = 240;
    let Some(emulator) = seaweed().await else { return };
    let bucket = emulator.bucket("many-bucket").await;
    let filler = "x".repeat(200);
    for object in 0..OBJECTS {
        let row = |row: usize| {
            let (hour, minute) = (row / 10, row % 10);
            format!("{{\"id\":{object},\"at\":\"2026-01-01T{hour:02}:{minute:02}:00Z\",\"filler\":\"{filler}\"}}\n")
        };
        bucket.put(&format!("in/{object:05}.json"), (0..ROWS).map(row).collect::<String>()).await;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("job.sql"), MANY).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(["run", "job.sql", "--drain"]).current_dir(dir.path()).envs(emulator.environment());
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let mut most = 0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        most = most.max(peak.and_then(|p| p.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0));
        pause().await;
    };
    assert!(status.success());
    let keys: Vec<String> = bucket.keys().await.into_iter().filter(|k| k.starts_with("out/")).collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    let text = String::from_utf8(bucket.get(&keys[0]).await).unwrap();
    assert_eq!(text.lines().count(), 24, "{text}");
    let ends = format!(",{},{}", OBJECTS * 10, OBJECTS * (OBJECTS - 1) / 2 * 10);
    assert!(text.lines().all(|line| line.ends_with(&ends)), "{text}");
    eprintln!("at most {most} kB");
    assert!(most > 10_000 && most < 256 << 10, "{most} kB");
}

#[expect(clippy::disallowed_methods, reason = "a test waits for another process")]
async fn pause() {
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
}

/// A copy of an archive's objects has the rows that are there already.
#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_from_a_copy_does_not_write_the_archive_again() {
    let Some(emulator) = seaweed().await else { return };
    let bucket = emulator.bucket("copied-bucket").await;
    bucket.put("in/a.json", "{\"id\":1,\"k\":\"a\"}\n{\"id\":2,\"k\":\"a\"}\n").await;
    let sql = "
CREATE TABLE events (id BIGINT, k STRING) WITH ('connector' = 's3', 'path' = 's3://copied-bucket/in/', 'format' = 'json');
CREATE TABLE archive (id BIGINT, k STRING) WITH ('connector' = 's3', 'path' = 's3://copied-bucket/archive/', 'format' = 'parquet');
CREATE TABLE few (id BIGINT) WITH ('connector' = 's3', 'path' = 's3://copied-bucket/few/', 'format' = 'json');
INSERT INTO archive SELECT id, k FROM events WHERE id > 1;
INSERT INTO few SELECT id FROM events;
";
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("job.sql"), sql).unwrap();
    let tidemill = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        let done = command.args(arguments).current_dir(dir.path()).envs(emulator.environment()).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{out}{err}");
        format!("{out}{err}")
    };
    tidemill(&["run", "job.sql", "--drain"]);
    let archived = async || {
        let keys = bucket.keys().await.into_iter();
        keys.filter(|key| key.starts_with("archive/")).collect::<Vec<_>>()
    };
    let before = archived().await;
    assert_eq!(before.len(), 1, "{before:?}");
    let copy = dir.path().join("copied-bucket/archive");
    std::fs::create_dir_all(&copy).unwrap();
    std::fs::write(copy.join("part.parquet"), bucket.get(&before[0]).await).unwrap();
    for from in ["copied-bucket/archive", "copied-bucket/archive/day=1", "copied-bucket"] {
        std::fs::create_dir_all(copy.join("day=1")).unwrap();
        std::fs::copy(copy.join("part.parquet"), copy.join("day=1/part.parquet")).unwrap();
        let told = tidemill(&["backfill", "job.sql", "--from", from]);
        assert!(
            told.contains("job:archive: left out, it writes the archive of which a copy is read"),
            "{from}: {told}"
        );
        assert!(told.contains("conditions of 'job:archive': 'job:few' may"), "{from}: {told}");
        assert_eq!(archived().await, before, "{from}");
    }
}
