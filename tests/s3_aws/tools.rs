//! `tidemill state` on a bucket, also on that of a job which is running. Its results go into DynamoDB on its conditions: what comes of an
//! earlier checkpoint, or of a copy, must not be refused as older than what is there.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parquet::file::reader::{FileReader, SerializedFileReader};
use tokio::task::JoinHandle;

use crate::emulator::{Bucket, Emulator, pause, seaweed};
use crate::emulators_of_aws::{self, dynoxide};
use crate::replica::wait;
use crate::tables::{client, create_table};

const SQL: &str = "
SET 'state.checkpoints.num-retained' = '1000';
CREATE TABLE events (k STRING, n BIGINT)
WITH ('connector' = 's3', 'path' = 's3://tools/in/', 'format' = 'json', 'source.monitor-interval' = '50 ms');
CREATE TABLE counts (k STRING, c BIGINT, total BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
INSERT INTO counts SELECT k, COUNT(*), SUM(n) FROM events GROUP BY k;
";
/// Rows that are made here, so that there is an epoch each 50 ms.
const MADE: &str = "
SET 'state.checkpoints.num-retained' = '1000';
CREATE TABLE events (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '${RATE}', 'number-of-rows' = '${ROWS}',
  'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '1000000');
CREATE TABLE counts (k STRING, c BIGINT, total BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
INSERT INTO counts SELECT CONCAT('key ', CAST(MOD(n, 5) AS STRING)), COUNT(*), SUM(n) FROM events GROUP BY MOD(n, 5);
";
const KEYS: u64 = 5;
const STORE: &str = "s3://tools/kept/job";

struct Place {
    s3: Emulator,
    dynamodb: emulators_of_aws::Emulator,
    bucket: Arc<Bucket>,
    folder: tempfile::TempDir,
}

impl Place {
    async fn new(sql: &str) -> Option<Self> {
        let (s3, dynamodb) = (seaweed().await?, dynoxide().await?);
        create_table(&client(&dynamodb.endpoint), "counts", &[("k", "S")]).await;
        let (bucket, folder) = (Arc::new(s3.bucket("tools").await), tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("job.sql"), sql).unwrap();
        Some(Self { s3, dynamodb, bucket, folder })
    }

    fn start(&self, args: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(args).current_dir(self.folder.path()).envs(self.s3.environment()).stdin(Stdio::null());
        command.env("AWS_ENDPOINT_URL_DYNAMODB", &self.dynamodb.endpoint);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// A run that goes on, with many epochs and checkpoints.
    fn live(&self, more: &[&str]) -> Child {
        let often = ["--epoch-interval", "50ms", "--checkpoint-interval", "300ms", "--from", "trim_horizon"];
        self.start(&[&["run", "job.sql", "--checkpoints", "s3://tools/kept"], &often[..], more].concat())
    }

    #[track_caller]
    fn done(&self, args: &[&str]) -> String {
        let (success, text) = ended(self.start(args));
        assert!(success, "tidemill {args:?}: {text}");
        text
    }

    /// Runs what is there, in one epoch.
    #[track_caller]
    fn once(&self, checkpoints: &str, more: &[&str]) -> String {
        let run = ["run", "job.sql", "--once", "--epoch-interval", "1h", "--checkpoints", checkpoints];
        self.done(&[&run[..], more].concat())
    }

    /// Puts an object with an event of each key.
    async fn put(&self, number: u64) {
        put(&self.bucket, number).await;
    }

    /// Puts an object each 20 ms until it is told to end. Answers how many there are.
    fn produce(&self, from: u64, ends: Arc<AtomicBool>) -> JoinHandle<u64> {
        let bucket = Arc::clone(&self.bucket);
        tokio::spawn(async move {
            let mut objects = from;
            while !ends.load(Ordering::SeqCst) {
                put(&bucket, objects).await;
                objects += 1;
                pause(20).await;
            }
            objects
        })
    }

    /// What the table has: of each key, the count and the total.
    async fn table(&self) -> BTreeMap<String, (u64, u64)> {
        let items =
            client(&self.dynamodb.endpoint).scan().table_name("counts").consistent_read(true).send().await.unwrap();
        let number = |value: &aws_sdk_dynamodb::types::AttributeValue| value.as_n().unwrap().parse::<u64>().unwrap();
        let row = |item: &std::collections::HashMap<String, aws_sdk_dynamodb::types::AttributeValue>| {
            (item["k"].as_s().unwrap().clone(), (number(&item["c"]), number(&item["total"])))
        };
        items.items().iter().map(row).collect()
    }

    async fn waits_for(&self, objects: u64) {
        wait("events are counted", 30_000, async || self.table().await.values().any(|(count, _)| *count >= objects))
            .await;
    }

    /// Epoch of the newest checkpoint.
    fn epoch(&self, store: &str) -> u64 {
        let text = self.done(&["state", "show", store]);
        text.split(", epoch ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap()
    }
}

async fn put(bucket: &Bucket, number: u64) {
    let text: String = (0..KEYS).map(|key| format!("{{\"k\":\"key {key}\",\"n\":{}}}\n", number * 10 + key)).collect();
    bucket.put(&format!("in/{number:06}.json"), text).await;
}

/// What must come of so many objects.
fn wanted(objects: u64) -> BTreeMap<String, (u64, u64)> {
    let total = |key| (0..objects).map(|number| number * 10 + key).sum();
    (0..KEYS).map(|key| (format!("key {key}"), (objects, total(key)))).collect()
}

fn ended(child: Child) -> (bool, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

fn terminate(child: Child) {
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let (success, text) = ended(child);
    assert!(success, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_on_a_bucket_that_is_running_is_rewound() {
    let Some(place) = Place::new(MADE).await else { return };
    let run = ["--param", "RATE=200", "--param", "ROWS=1000000"];
    for round in 1..=3 {
        let before = place.table().await;
        let live = place.live(&run);
        wait("it counts", 30_000, async || place.table().await != before).await;
        // (The table has the counts of the rounds before.) The checkpoint that a run begins with has nothing of what it counts.
        let begun = place.epoch(STORE);
        wait("a checkpoint has some of it", 30_000, async || place.epoch(STORE) > begun).await;
        let name = format!("kept-{round}");
        let saved = place.done(&["state", "save", STORE, &name]);
        assert!(saved.contains(&format!("is kept as savepoint {name}")), "{saved}");
        place.waits_for(100).await;
        // It writes its log and its checkpoints all the time. The first of these has nothing.
        let rewound = place.done(&["state", "rewind", STORE, if round == 2 { &name } else { "1" }]);
        assert!(rewound.contains(" again; epochs are counted on from "), "{rewound}");
        let (success, told) = ended(live);
        assert!(!success && told.contains("another run"), "{told}");
    }
    // A prefix without its job, or a misspelt one, has nothing.
    for store in ["s3://tools/kept", "s3://tools/kept/jobb"] {
        let (success, text) = ended(place.start(&["state", "list", store]));
        assert!(!success && text.contains(&format!("there is no checkpoint in '{store}'")), "{text}");
        assert!(text.contains("s3://bucket/prefix/JOB"), "{text}");
    }
    let once = |rows: u64, more: &[&str]| {
        let (rate, rows) = ("RATE=10000000", format!("ROWS={rows}"));
        let text = place.once("s3://tools/kept", &[&["--param", rate, "--param", &rows], more].concat());
        text.split(" records").next().unwrap().parse::<u64>().unwrap()
    };
    let table = |rows: u64| -> BTreeMap<String, (u64, u64)> {
        let of = |key: u64| (0..rows).filter(move |n| n % KEYS == key);
        (0..KEYS).map(|key| (format!("key {key}"), (of(key).count() as u64, of(key).sum()))).collect()
    };
    let rows = 10_000;
    assert_eq!((once(rows, &[]), place.table().await), (rows, table(rows)));
    // Back to a savepoint, by the run itself.
    let rows = 11_000;
    let read = once(rows, &["--from-savepoint", "kept-2"]);
    assert!(read > 1_000 && read < rows, "what was read before the savepoint is kept: {read}");
    assert_eq!((once(rows, &[]), place.table().await), (0, table(rows)));

    // What is there is looked at.
    let shown = place.done(&["state", "show", STORE]);
    for wanted in ["  table events\n", ": after ", "query job:counts: durable up to epoch ", "group by "] {
        assert!(shown.contains(wanted), "'{wanted}' in {shown}");
    }
    let diff = place.done(&["state", "diff", STORE, "kept-1"]);
    assert!(diff.contains("savepoint kept-1: ") && diff.contains("query job:counts, operator 0: 5 rows"), "{diff}");
    let exported = place.done(&["state", "export", STORE, "--to", "out"]);
    assert!(exported.contains("out/job-counts-0.parquet\n1 files"), "{exported}");
    let file = std::fs::File::open(place.folder.path().join("out/job-counts-0.parquet")).unwrap();
    let rows_of = SerializedFileReader::new(file).unwrap();
    let exported: Vec<String> = rows_of.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect();
    assert_eq!(exported.len() as u64, KEYS, "{exported:?}");
    for (count, total) in table(rows).into_values() {
        let has = |row: &String| [count, total].iter().all(|number| row.contains(&format!(": {number}")));
        assert!(exported.iter().any(has), "{count}, {total} in {exported:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_of_a_copy_is_newer_than_what_the_job_has_written() {
    let Some(place) = Place::new(SQL).await else { return };
    let live = place.live(&[]);
    let ends = Arc::new(AtomicBool::new(false));
    let producer = place.produce(0, Arc::clone(&ends));
    place.waits_for(20).await;
    let copied = place.done(&["state", "restore", STORE, "--to", "copy/job"]);
    assert!(copied.contains("latest") || copied.contains("is checkpoint 1 of copy/job"), "{copied}");
    // The job does not notice, and goes on counting.
    let so_far = place.table().await.values().map(|(count, _)| *count).max().unwrap();
    place.waits_for(so_far + 60).await;
    ends.store(true, Ordering::SeqCst);
    let mut objects = producer.await.unwrap();
    place.waits_for(objects).await;
    terminate(live);
    assert_eq!(place.table().await, wanted(objects));
    assert!(place.epoch("copy/job") > place.epoch(STORE), "{} and {}", place.epoch("copy/job"), place.epoch(STORE));

    // Into the same table, from the folder; then from a copy of that in the bucket, twice the same.
    let mut from = "copy/job".to_owned();
    for (round, checkpoints) in ["copy", "s3://tools/back", "s3://tools/again"].into_iter().enumerate() {
        let to = format!("{checkpoints}/job");
        if round > 0 {
            let last = place.epoch(&from);
            place.done(&["state", "restore", &from, "--to", &to]);
            assert!(place.epoch(&to) >= last, "{to}");
        }
        place.put(objects).await;
        objects += 1;
        place.once(checkpoints, &[]);
        assert_eq!(place.table().await, wanted(objects), "{to}");
        from = to;
    }

    // A manifest that somebody removes: the log of a bucket always has the last epoch, so that nothing is counted under its number again.
    for _ in 0..3 {
        place.put(objects).await;
        objects += 1;
    }
    let epochs = place.epoch(&from);
    place.once("s3://tools/again", &["--epoch-rows", "1"]);
    assert!(place.epoch(&from) >= epochs + 3);
    let is_manifest = |key: &String| key.starts_with("again/job/manifests/");
    let newest = place.bucket.keys().await.into_iter().rfind(is_manifest).unwrap();
    place.bucket.delete(&newest).await;
    let again = ["run", "job.sql", "--once", "--checkpoints", "s3://tools/again"];
    let (success, told) = ended(place.start(&again));
    assert!(!success && told.contains("the epoch log has epoch ") && told.contains("tidemill state rewind"), "{told}");
    place.done(&["state", "rewind", &from, "latest"]);
    place.put(objects).await;
    place.once("s3://tools/again", &[]);
    objects += 1;
    assert_eq!(place.table().await, wanted(objects));

    // The whole log: what epochs a run has begun behind its checkpoint, nobody knows.
    for key in place.bucket.keys().await.iter().filter(|key| key.starts_with("again/job/log/")) {
        place.bucket.delete(key).await;
    }
    for _ in 0..2 {
        let (success, told) = ended(place.start(&again));
        let is_told = told.contains("the epoch log in 's3://tools/again/job' is gone, though there are checkpoints");
        assert!(!success && is_told && told.contains("tidemill state rewind"), "{told}");
    }
    place.done(&["state", "rewind", &from, "latest"]);
    place.put(objects).await;
    place.once("s3://tools/again", &[]);
    assert_eq!(place.table().await, wanted(objects + 1));
}

/// A sink of files says last of all that its files have appeared, so the newest entry of the log is no cut.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_was_removed_is_missed_behind_files_too() {
    let copies = "
CREATE TABLE copies (k STRING, n BIGINT) WITH ('connector' = 's3', 'path' = 's3://tools/out/', 'format' = 'json');
INSERT INTO copies SELECT k, n FROM events;";
    let Some(place) = Place::new(&format!("{}{copies}", &SQL[..SQL.find("CREATE TABLE counts").unwrap()])).await else {
        return;
    };
    for number in 0..2 {
        place.put(number).await;
        place.once("s3://tools/kept", &[]);
    }
    let manifests = async || {
        let keys = place.bucket.keys().await.into_iter();
        keys.filter(|key| key.starts_with("kept/job/manifests/")).collect::<Vec<_>>()
    };
    let newest = manifests().await.pop().unwrap();
    let kept = place.bucket.get(&newest).await;
    place.bucket.delete(&newest).await;
    place.put(2).await;
    let run = ["run", "job.sql", "--once", "--checkpoints", "s3://tools/kept"];
    for _ in 0..2 {
        let (success, told) = ended(place.start(&run));
        assert!(!success && told.contains("'job:copies' has let appear up to epoch "), "{told}");
        assert!(told.contains("put it back; or go back to the one before with `tidemill state rewind`"), "{told}");
    }
    // Put back, behind what the refused runs have begun with.
    for key in manifests().await {
        if key > newest {
            place.bucket.delete(&key).await;
        }
    }
    place.bucket.put(&newest, kept).await;
    place.once("s3://tools/kept", &[]);
    let mut lines = Vec::new();
    for key in place.bucket.keys().await.into_iter().filter(|key| key.starts_with("out/")) {
        let text = String::from_utf8(place.bucket.get(&key).await).unwrap();
        lines.extend(text.lines().map(str::to_owned));
    }
    lines.sort();
    assert_eq!(lines.len() as u64, 3 * KEYS, "{lines:?}");
}

/// Flips a bit of the newest object of the log. Answers its key.
async fn damage(place: &Place) -> String {
    let keys = place.bucket.keys().await.into_iter();
    let newest = keys.filter(|key| key.starts_with("kept/job/log/")).max().unwrap();
    let mut content = place.bucket.get(&newest).await;
    let middle = content.len() / 2;
    content[middle] ^= 1;
    place.bucket.put(&newest, content).await;
    newest
}

/// Whatever a run, or who goes back by hand, does not need of a log may be damaged.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_of_the_log_is_told_and_can_be_gone_on_without() {
    let Some(place) = Place::new(SQL).await else { return };
    let run = ["run", "job.sql", "--once", "--checkpoints", "s3://tools/kept"];
    let mut objects = 0;
    for way in ["rewind", "savepoint", "fresh"] {
        for _ in 0..2 {
            place.put(objects).await;
            objects += 1;
            place.once("s3://tools/kept", &[]);
        }
        if way == "rewind" {
            place.done(&["state", "save", STORE, "first"]);
        }
        // Killed, with epochs in its log that no checkpoint has.
        let often = ["--epoch-interval", "50ms", "--checkpoint-interval", "1h"];
        let mut child = place.start(&[&["run", "job.sql", "--checkpoints", "s3://tools/kept"], &often[..]].concat());
        for _ in 0..3 {
            place.put(objects).await;
            objects += 1;
            place.waits_for(objects).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        damage(&place).await;
        let (success, told) = ended(place.start(&run));
        assert!(!success && told.contains("of the epoch log is damaged"), "{told}");
        assert!(told.contains("hint: `tidemill state rewind STORE latest` goes on"), "{told}");
        let copy = format!("s3://tools/copies/{way}/job");
        place.done(&["state", "restore", STORE, "latest", "--to", &copy]);
        match way {
            "rewind" => drop(place.done(&["state", "rewind", STORE, "latest"])),
            "savepoint" => drop(place.once("s3://tools/kept", &["--from-savepoint", "first"])),
            _ => drop(place.once("s3://tools/kept", &["--fresh"])),
        }
        place.once("s3://tools/kept", &[]);
        assert_eq!(place.table().await, wanted(objects), "{way}");
    }
}
