//! Several jobs on one fleet, as real processes: they spread, move in order, and are taken over when a process dies; a job that
//! fails disturbs no other. Each event counts once through all of it.
//!
//! `FLEET_TTL='8 s' cargo nextest run --test fleet --no-capture` measures the times with the default lease.

#![expect(clippy::disallowed_methods, reason = "the program under test lives in real time")]
#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

#[path = "emulators/mod.rs"]
#[expect(dead_code, reason = "shared with the tests of other services")]
mod emulators_of_aws;
#[path = "s3_aws/emulator.rs"]
#[expect(dead_code, reason = "shared with the tests of S3")]
mod s3;

/// One job: each event is copied into files, and counted in a table.
const SQL: &str = "
SET 'tidemill.lease.ttl' = '${TTL}';
SET 'execution.checkpointing.interval' = '500 ms';
SET 'tidemill.epoch.interval' = '50 ms';
CREATE TABLE events (id BIGINT) WITH ('connector' = 'kinesis', 'stream' = 'NAME', 'format' = 'json');
CREATE TABLE copies (id BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/out/NAME', 'format' = 'json',
  'sink.rolling-policy.rollover-interval' = '100 ms');
CREATE TABLE counts (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'counts-NAME');
INSERT INTO copies SELECT id FROM events;
INSERT INTO counts SELECT 'all', COUNT(*) FROM events;
";

/// A job that fails whenever it is tried.
const BROKEN: &str = "
SET 'tidemill.lease.ttl' = '${TTL}';
SET 'tidemill.bisect-batch-on-function-error' = 'false';
SET 'tidemill.maximum-retry-attempts' = '2';
SET 'tidemill.retry-delay' = '10 ms';
CREATE TABLE events (id STRING) WITH ('connector' = 'filesystem', 'path' = '${DIR}/in/broken', 'format' = 'json');
CREATE TABLE numbers (id BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/out/broken', 'format' = 'json');
INSERT INTO numbers SELECT CAST(id AS BIGINT) FROM events;
";

const JOBS: [&str; 3] = ["clicks", "orders", "visits"];

fn ttl() -> String {
    std::env::var("FLEET_TTL").unwrap_or_else(|_| "4 s".to_owned())
}

/// A folder with jobs, their input and what they make of it.
struct Place {
    folder: tempfile::TempDir,
    /// Where leases are kept, and what a process needs to reach it.
    lease: String,
    /// Where checkpoints are kept, if not in the local folder.
    checkpoints: Option<String>,
    environment: Vec<(&'static str, String)>,
    /// No file that a process writes becomes larger, if that is said: as if the disk were full then.
    limit_bytes: Option<u64>,
}

impl Place {
    fn new(jobs: &[&str]) -> Self {
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
            lease: "checkpoints".to_owned(),
            checkpoints: None,
            environment: vec![],
            limit_bytes: None,
        };
        for job in jobs {
            let sql = if *job == "broken" { BROKEN.to_owned() } else { SQL.replace("NAME", job) };
            place.write(&format!("jobs/{job}/job.sql"), &sql);
            place.write(&format!("local/kinesis/{job}/shard.jsonl"), "");
        }
        place
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_tidemill");
        let mut command = Command::new(if self.limit_bytes.is_some() { "sh" } else { program });
        if let Some(bytes) = self.limit_bytes {
            // Counted in blocks of 512 bytes; the signal is ignored, so that the write fails.
            let limited = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", bytes / 512);
            command.args(["-c", &limited, "sh", program]);
        }
        command.args(args).current_dir(self.path()).stdin(Stdio::null()).env_remove("COLUMNS");
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_CONFIG_FILE", "none");
        command.envs(self.environment.iter().cloned());
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn start(&self, name: &str) -> Process {
        let log = self.path().join(format!("{name}.log"));
        let file = fs::File::create(&log).unwrap();
        let (ttl, dir) = (format!("TTL={}", ttl()), format!("DIR={}", self.path().display()));
        let mut command = self.command(&["fleet", "jobs", "--local", "local", "--from", "trim_horizon"]);
        command.args(["--param", &ttl, "--param", &dir, "--lease", &self.lease]);
        command.args(self.checkpoints.iter().flat_map(|path| ["--checkpoints", path])).env("HOSTNAME", name);
        Process { child: command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap(), log }
    }
}

/// Puts an event into a job's stream.
fn put(top: &Path, job: &str, id: u64) {
    let stream = top.join("local/kinesis").join(job).join("shard.jsonl");
    // One call, so that nobody sees half a line.
    fs::OpenOptions::new()
        .append(true)
        .open(stream)
        .unwrap()
        .write_all(format!("{{\"id\":{id}}}\n").as_bytes())
        .unwrap();
}

/// What a job has counted.
fn counted(top: &Path, job: &str) -> u64 {
    let read = || {
        let file = top.join("local/dynamodb.sqlite");
        let open = rusqlite::Connection::open_with_flags(file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        open.query_row(&format!("SELECT c FROM \"counts-{job}\""), [], |row| row.get::<_, i64>(0))
    };
    // Not yet there, or just being written.
    read().map_or(0, |count| u64::try_from(count).unwrap())
}

/// How often each event stands in the files of a job.
fn copies(top: &Path, job: &str) -> BTreeMap<u64, u64> {
    let mut rows = BTreeMap::new();
    for entry in fs::read_dir(top.join("out").join(job)).into_iter().flatten() {
        let path = entry.unwrap().path();
        let hidden = path.file_name().unwrap().to_string_lossy().starts_with('.');
        if hidden || !path.is_file() {
            continue;
        }
        for line in fs::read_to_string(&path).unwrap().lines() {
            let id = line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
            *rows.entry(id).or_default() += 1;
        }
    }
    rows
}

struct Process {
    child: Child,
    log: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.text());
        }
    }
}

impl Process {
    fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn says(&self, text: &str) -> usize {
        self.text().matches(text).count()
    }

    /// Whether the machine was so slow (its disk, mostly) that a lease of this process has ended: then jobs move without a wish.
    fn has_lost(&self) -> bool {
        self.says("could not be renewed") + self.says("has taken the lease") > 0
    }

    /// Jobs that it runs.
    fn leads(&self) -> Vec<&'static str> {
        let text = self.text();
        let runs = |job: &&str| {
            let said = text.lines().rev().filter_map(|line| line.strip_prefix(job)?.strip_prefix(": "));
            let mut changes = said.filter_map(|said| {
                let ends = ["waits: ", "gave: ", "failed "].iter().any(|end| said.starts_with(end));
                (said.starts_with("leads: ") || ends).then_some(!ends)
            });
            changes.next().unwrap_or(false)
        };
        JOBS.into_iter().filter(runs).collect()
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Ends it in order.
    fn ends(&mut self) -> Option<i32> {
        self.signal("-TERM");
        self.child.wait().unwrap().code()
    }
}

/// Waits until `done`, and says how long it took.
fn wait(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while started.elapsed() < limit {
        if done() {
            return started.elapsed();
        }
        sleep(Duration::from_millis(20));
    }
    panic!("{what}: not within {limit:?}");
}

/// A little more than a slow machine takes.
const SOON: Duration = Duration::from_secs(60);

/// Puts events in all the time, and sees when they are counted.
struct Traffic {
    end: Arc<AtomicBool>,
    put: JoinHandle<u64>,
    seen: JoinHandle<()>,
    /// The longest time that an event took to be counted, of each job since it was asked last.
    slowest: Arc<Mutex<BTreeMap<&'static str, Duration>>>,
}

impl Traffic {
    fn start(place: &Place) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let slowest = Arc::new(Mutex::new(BTreeMap::new()));
        let times: Arc<Mutex<BTreeMap<u64, Instant>>> = Arc::default();
        let put = {
            let (top, end, times) = (place.path().to_owned(), Arc::clone(&end), Arc::clone(&times));
            std::thread::spawn(move || {
                let mut id = 0;
                while !end.load(Ordering::Relaxed) {
                    times.lock().unwrap().insert(id, Instant::now());
                    JOBS.iter().for_each(|job| put(&top, job, id));
                    id += 1;
                    sleep(Duration::from_millis(50));
                }
                id
            })
        };
        let seen = {
            let (top, end, slowest) = (place.path().to_owned(), Arc::clone(&end), Arc::clone(&slowest));
            std::thread::spawn(move || {
                let mut known: BTreeMap<&str, u64> = BTreeMap::new();
                while !end.load(Ordering::Relaxed) {
                    for job in JOBS {
                        let (count, next) = (counted(&top, job), known.entry(job).or_default());
                        while *next < count {
                            let took = times.lock().unwrap()[next].elapsed();
                            let mut slowest = slowest.lock().unwrap();
                            let longest: &mut Duration = slowest.entry(job).or_default();
                            *longest = took.max(*longest);
                            *next += 1;
                        }
                    }
                    sleep(Duration::from_millis(10));
                }
            })
        };
        Self { end, put, seen, slowest }
    }

    fn slowest(&self) -> BTreeMap<&'static str, Duration> {
        std::mem::take(&mut *self.slowest.lock().unwrap())
    }

    /// Number of events of each job.
    fn end(self) -> u64 {
        self.end.store(true, Ordering::Relaxed);
        self.seen.join().unwrap();
        self.put.join().unwrap()
    }
}

fn show(what: &str, times: &BTreeMap<&str, Duration>) {
    let list: Vec<String> = times.iter().map(|(job, time)| format!("{job} {:.2} s", time.as_secs_f64())).collect();
    println!("{what}: {}", list.join(", "));
}

fn joins_leaves_and_dies(place: &Place) {
    let traffic = Traffic::start(place);
    let quiet = Duration::from_millis(1_500);

    let mut one = place.start("one");
    wait("the first one runs all", SOON, || one.leads().len() == 3);
    sleep(quiet);
    traffic.slowest();
    sleep(quiet);
    show("an event's way, nothing happens", &traffic.slowest());

    // Joins: one job moves, in order.
    let mut two = place.start("two");
    let took = wait("the second one gets one job", SOON, || two.leads().len() == 1 && one.leads().len() == 2);
    println!("from its start until the second process runs a job: {took:?}");
    sleep(quiet);
    show("an event's way, a job was given away", &traffic.slowest());
    let undisturbed = !one.has_lost() && !two.has_lost();
    let seen = (one.says("gave: 'two-"), two.says("gave: "), one.leads().len(), two.leads().len());
    assert!(!undisturbed || seen == (1, 0, 2, 1), "{seen:?}\n{}{}", one.text(), two.text());

    // Dies with two jobs: the other has all three.
    one.signal("-KILL");
    one.child.wait().unwrap();
    let took = wait("the second one runs all", SOON, || two.leads().len() == 3);
    println!("from the kill until the other process runs all jobs: {took:?}");
    sleep(quiet);
    let slowest = traffic.slowest();
    show("an event's way, a process was killed", &slowest);
    let soon = slowest.values().all(|time| *time < Duration::from_secs(15));
    assert!(soon || one.has_lost() || two.has_lost(), "{slowest:?}");

    // Ends in order: the other one has its jobs soon.
    let mut three = place.start("three");
    wait("the third one gets one job", SOON, || three.leads().len() == 1 && two.leads().len() == 2);
    traffic.slowest();
    assert_eq!(two.ends(), Some(0), "{}", two.text());
    let took = wait("the third one runs all", SOON, || three.leads().len() == 3);
    println!("from the end in order until the other process runs all jobs: {took:?}");
    sleep(quiet);
    show("an event's way, a process has ended in order", &traffic.slowest());

    let count = traffic.end();
    wait("all events are there", SOON, || JOBS.iter().all(|job| copies(place.path(), job).len() as u64 == count));
    assert_eq!(three.ends(), Some(0), "{}", three.text());
    for job in JOBS {
        assert!(three.text().contains(&format!("{job}: ")) && three.says("checkpoints: ") == 3, "{}", three.text());
        let copies = copies(place.path(), job);
        assert!(copies.len() as u64 == count && copies.values().all(|n| *n == 1), "{job}: {copies:?}");
        assert_eq!(counted(place.path(), job), count, "{job}");
    }
}

#[test]
fn jobs_spread_over_the_processes_and_each_event_counts_once() {
    joins_leaves_and_dies(&Place::new(&JOBS));
}

fn credentials() -> [(&'static str, String); 3] {
    let (id, secret) = (emulators_of_aws::KEY_ID.to_owned(), emulators_of_aws::SECRET.to_owned());
    [("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret), ("AWS_REGION", "eu-west-1".to_owned())]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_with_checkpoints_and_leases_in_a_bucket() {
    let Some(emulator) = s3::seaweed().await else { return };
    let bucket = emulator.bucket("fleet").await;
    let mut place = Place::new(&JOBS);
    place.checkpoints = Some("s3://fleet/kept".to_owned());
    place.environment = emulator.environment();
    joins_leaves_and_dies(&place);
    let keys = bucket.keys().await;
    assert!(keys.iter().any(|key| key.ends_with("/wanted.json")), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_with_leases_in_dynamodb() {
    let Some(emulator) = emulators_of_aws::dynoxide().await else { return };
    let mut place = Place::new(&JOBS);
    place.lease = "dynamodb:leases".to_owned();
    place.environment = vec![("AWS_ENDPOINT_URL_DYNAMODB", emulator.endpoint.clone())];
    place.environment.extend(credentials());
    // The table of leases is one of the things that such a job needs.
    place.write(
        "leases.sql",
        "SET 'tidemill.lease' = 'dynamodb:leases';
         CREATE TABLE events (id BIGINT) WITH ('connector' = 'filesystem', 'path' = 'in/x', 'format' = 'json');
         CREATE TABLE nothing (id BIGINT) WITH ('connector' = 'blackhole');
         INSERT INTO nothing SELECT id FROM events;",
    );
    let made = place.output(&["provision", "leases.sql"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    joins_leaves_and_dies(&place);
}

#[test]
fn a_job_that_fails_is_given_up_and_the_others_go_on() {
    let place = Place::new(&["clicks", "broken", "visits"]);
    place.write("in/broken/x.json", "{\"id\":\"no number\"}\n");
    let mut one = place.start("one");
    wait("the broken job is given up", SOON, || one.says("broken: given up") == 1);
    assert_eq!(one.says("broken: failed ("), 2, "two retries: {}", one.text());
    // Another process tries it too, and knows how often it has failed.
    let mut two = place.start("two");
    wait("the other one gives it up", SOON, || two.says("broken: given up") == 1);
    wait("the jobs are shared", SOON, || one.leads().len() == 1 && two.leads().len() == 1);
    for job in ["clicks", "visits"] {
        put(place.path(), job, 1);
        wait("the others go on", SOON, || copies(place.path(), job).len() == 1);
    }
    // The other one knows that the job has failed before.
    for (process, kind) in [(&mut one, "data"), (&mut two, "poison")] {
        assert_eq!(process.ends(), Some(1), "{}", process.text());
        let told = [format!("broken: error[{kind}]: "), "`tidemill run JOB` with it".to_owned()];
        assert!(told.iter().all(|told| process.text().contains(told)), "{}", process.text());
        assert!(process.text().contains("error: 1 of 3 jobs failed: 'broken'"), "{}", process.text());
    }
}

#[test]
fn what_is_wrong_is_told_before_anything_runs() {
    let place = Place::new(&JOBS);
    place.write("more/orders/other.sql", &SQL.replace("NAME", "other"));
    place.write("bad/one.sql", "INSERT INTO nothing SELECT 1;");
    place.write("bad/two.sql", "SELEC 1;");
    let said = |args: &[&str]| {
        let output = place.output(args);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let ttl = ["--local", "local", "--param", "TTL=2 s", "--param", "DIR=/nowhere"];
    let (code, text) = said(&[&["fleet", "jobs", "more"][..], &ttl].concat());
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("named 'orders': 'jobs/orders' and 'more/orders'") && text.contains("pipeline.name"),
        "{text}"
    );
    // All errors of all jobs.
    let (code, text) = said(&[&["fleet", "jobs", "bad/one.sql", "bad/two.sql"][..], &ttl].concat());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("bad/one.sql:1:") && text.contains("bad/two.sql:1:"), "{text}");
    let (code, text) = said(&["fleet", "jobs", "--param", "TTL=2 s", "--param", "DIR=/nowhere"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("job 'clicks'") && text.contains("needs checkpoints"), "{text}");
    let (code, text) = said(&["fleet", "jobs", "--drain"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("'--drain' is for one job") && text.contains("tidemill run JOB --drain"), "{text}");
    assert!(!place.path().join("local/checkpoints").exists());
}

/// A job whose state is larger than any file may become: its last checkpoint fails.
const LARGE: &str = "
SET 'tidemill.lease.ttl' = '${TTL}';
SET 'execution.checkpointing.interval' = '0';
CREATE TABLE events (id STRING) WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json', 'source.monitor-interval' = '50 ms');
CREATE TABLE counts (id STRING, c BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH ('connector' = 'blackhole');
INSERT INTO counts SELECT id, COUNT(*) FROM events GROUP BY id;
";

/// What may pass is told as `run` tells it: whoever started the process starts it again.
#[test]
fn a_fleet_whose_jobs_end_for_what_may_pass_says_so() {
    let mut place = Place::new(&[]);
    for job in ["clicks", "visits"] {
        place.write(&format!("jobs/{job}/job.sql"), LARGE);
    }
    let line = |n: u64| {
        let random = |i: u64| char::from(b'a' + (tidemill::contracts::splitmix64(n * 100 + i) % 26) as u8);
        format!("{{\"id\":\"{}\"}}\n", (0..100).map(random).collect::<String>())
    };
    place.write("in/a.jsonl", &(0..4_000).map(line).collect::<String>());
    place.limit_bytes = Some(128 << 10);
    let mut one = place.start("one");
    let state = |job: &str| place.path().join("local/checkpoints").join(job).join("epochs.log");
    let read = |job: &str| fs::read_to_string(state(job)).is_ok_and(|log| log.contains("\"records\":4000"));
    wait("both have read all", SOON, || read("clicks") && read("visits"));
    let code = one.ends();
    assert_eq!(code, Some(75), "{}", one.text());
    for words in ["clicks: error[unavailable]: the last checkpoint", "visits: error[unavailable]: the last checkpoint"]
    {
        assert_eq!(one.says(words), 1, "'{words}' in {}", one.text());
    }
    assert_eq!(one.says("error[unavailable]: 2 of 2 jobs failed: "), 1, "{}", one.text());
    assert_eq!(one.says("its other jobs go on"), 0, "none does: {}", one.text());
}
