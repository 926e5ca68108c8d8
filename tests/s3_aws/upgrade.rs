//! A rolling upgrade: three replicas, each ended in order and started again while events come, those that stand by as well as
//! the one that leads. What is looked at is what a reader of the results sees: no pause longer than the lease and an epoch; indeed a shorter one.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::emulator::{Emulator, pause, seaweed};
use crate::replica::{Replica, wait};

/// Each event is copied into files, and counted in a table. Checkpoints and lease are in a bucket.
pub(crate) const SQL: &str = "
SET 'tidemill.lease' = 'checkpoints';
SET 'tidemill.lease.ttl' = '8 s';
SET 'execution.checkpointing.interval' = '500 ms';
SET 'tidemill.epoch.interval' = '50 ms';
CREATE TABLE events (id BIGINT) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
CREATE TABLE copies (id BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/out', 'format' = 'json',
  'sink.rolling-policy.rollover-interval' = '100 ms');
CREATE TABLE counts (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
INSERT INTO copies SELECT id FROM events;
INSERT INTO counts SELECT 'all', COUNT(*) FROM events;
";

/// Five of the eight seconds of the lease: the others look each fifth of it, and the rest is for the start of the one that takes over, on
/// busy cores. A leader that is only missed, since it has not given its lease back, is replaced after four fifths at the earliest.
const HAND_OVER: Duration = Duration::from_secs(5);

/// From an event in the stream to its count in the table when nothing happens: an epoch is open for 50 ms, and the watcher looks
/// each 20; the rest is for reading, the two calls of an epoch (its cut, its row) and the work, on cores that have other work.
const EPOCH: Duration = Duration::from_millis(500);

pub(crate) struct Place {
    emulator: Emulator,
    /// Where the lease is, if not in the bucket.
    pub(crate) dynamodb: Option<crate::emulators_of_aws::Emulator>,
    folder: tempfile::TempDir,
}

impl Place {
    /// A job, a bucket for its checkpoints and its lease, and an empty stream, whose file it answers with that of the tables.
    pub(crate) async fn new(sql: &str) -> Option<(Self, PathBuf, PathBuf)> {
        let emulator = seaweed().await?;
        emulator.bucket("upgrade").await;
        let place = Self { emulator, dynamodb: None, folder: tempfile::tempdir().unwrap() };
        std::fs::write(place.at("job.sql"), sql).unwrap();
        std::fs::create_dir_all(place.at("local/kinesis/clicks")).unwrap();
        let (stream, database) = (place.at("local/kinesis/clicks/shard.jsonl"), place.at("local/dynamodb.sqlite"));
        std::fs::write(&stream, "").unwrap();
        Some((place, stream, database))
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Starts a replica, and waits until it stands by or leads.
    pub(crate) async fn begin(&self, name: &str) -> Replica {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.current_dir(self.folder.path()).envs(self.emulator.environment());
        command.envs(self.dynamodb.iter().map(|dynamodb| ("AWS_ENDPOINT_URL_DYNAMODB", &dynamodb.endpoint)));
        let dir = format!("DIR={}", self.folder.path().display());
        command.args(["run", "job.sql", "--local", "local", "--checkpoints", "s3://upgrade/kept", "--param", &dir]);
        command.args(["--from", "trim_horizon"]);
        let replica = Replica::spawn(command, self.folder.path(), name);
        let begun = async || replica.text().contains("waits: '") || replica.text().contains("leads:");
        wait("a replica stands by or leads", 15_000, begun).await;
        replica
    }
}

/// Puts an event into the stream each 20 ms, until it is told to end. Answers when each came.
pub(crate) async fn produce(stream: PathBuf, ends: Arc<AtomicBool>) -> Vec<Instant> {
    let mut came = Vec::new();
    while !ends.load(Ordering::SeqCst) {
        let mut file = std::fs::OpenOptions::new().append(true).open(&stream).unwrap();
        // One call, so that nobody sees half a line.
        file.write_all(format!("{{\"id\":{}}}\n", came.len()).as_bytes()).unwrap();
        came.push(Instant::now());
        pause(20).await;
    }
    came
}

/// A machine that stands still for so long at a time, as a whole or its disk, is not the one of which the pages speak.
pub(crate) const STILL: Duration = Duration::from_secs(1);

/// The longest time for which it did, until it is told to end: for which nothing was run, or no file was written.
pub(crate) async fn stood_still(file: PathBuf, ends: Arc<AtomicBool>) -> Duration {
    let mut longest = Duration::ZERO;
    while !ends.load(Ordering::SeqCst) {
        let (began, path) = (Instant::now(), file.clone());
        pause(100).await;
        let written = tokio::task::spawn_blocking(move || {
            let mut file = std::fs::File::create(path)?;
            file.write_all(b"it is written").and_then(|()| file.sync_all())
        });
        written.await.unwrap().unwrap();
        longest = longest.max(began.elapsed());
    }
    longest
}

pub(crate) fn counted(database: &Path) -> u64 {
    let read = || {
        let open = rusqlite::Connection::open_with_flags(database, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        open.query_row("SELECT c FROM counts", [], |row| row.get::<_, i64>(0))
    };
    // Not yet there, or just being written.
    read().map_or(0, |count| u64::try_from(count).unwrap())
}

/// Looks at the count until it is told to end. Answers when it had changed, and to what. `repeats` is whether it may be shown as it was
/// before: the stand-in for DynamoDB has no condition, and a run that was killed is repeated.
pub(crate) async fn watch(database: PathBuf, repeats: bool, ends: Arc<AtomicBool>) -> Vec<(Instant, u64)> {
    let mut seen: Vec<(Instant, u64)> = Vec::new();
    while !ends.load(Ordering::SeqCst) {
        let (now, before) = (counted(&database), seen.last().map_or(0, |(_, count)| *count));
        assert!(repeats || now == 0 || now >= before, "the count went from {before} to {now}");
        if now > before {
            seen.push((Instant::now(), now));
        }
        pause(20).await;
    }
    seen
}

/// How often each event is in the files.
pub(crate) fn copies(folder: &Path) -> BTreeMap<String, u64> {
    let mut rows = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // What is not finished yet has a hidden name.
        if !path.file_name().unwrap().to_string_lossy().starts_with(['.', '_']) {
            for line in std::fs::read_to_string(path).unwrap().lines() {
                *rows.entry(line.to_owned()).or_default() += 1;
            }
        }
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_makes_no_pause_longer_than_the_lease() {
    let Some((place, stream, database)) = Place::new(SQL).await else { return };
    let mut replicas = vec![place.begin("one").await, place.begin("two").await, place.begin("three").await];
    assert_eq!(replicas.iter().map(Replica::terms).collect::<Vec<_>>(), [1, 0, 0]);
    let (produced, watched) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let producer = tokio::spawn(produce(stream, Arc::clone(&produced)));
    let watcher = tokio::spawn(watch(database.clone(), false, Arc::clone(&watched)));
    let machine = tokio::spawn(stood_still(place.at("probe"), Arc::clone(&watched)));
    wait("events are counted", 15_000, async || counted(&database) > 0).await;

    // As the pages say: those that stand by, and the leader last. Then in the worst order, the one that leads each time, and
    // the new one comes late, so that one of the others has to take over.
    let leads = |replica: &Replica| replica.text().rfind("leads:") > replica.text().rfind("waits: '");
    let mut hand_overs = 0;
    for (step, chosen) in [Some(1), Some(1), Some(0), None, None, None].into_iter().enumerate() {
        let at = chosen.unwrap_or_else(|| replicas.iter().position(leads).expect("one leads"));
        let mut old = replicas.remove(at);
        hand_overs += usize::from(leads(&old));
        old.end().await;
        if chosen.is_none() {
            wait("one of the others leads", 15_000, async || replicas.iter().any(leads)).await;
        }
        replicas.push(place.begin(&format!("new-{step}")).await);
        wait("one leads", 15_000, async || replicas.iter().any(leads)).await;
        // Counts of the one that leads now.
        let before = counted(&database);
        wait("events are counted", 15_000, async || counted(&database) > before + 20).await;
    }
    assert_eq!(hand_overs, 4);

    produced.store(true, Ordering::SeqCst);
    let came = producer.await.unwrap();
    let events = came.len() as u64;
    wait("all events are counted", 15_000, async || counted(&database) == events).await;
    pause(100).await;
    watched.store(true, Ordering::SeqCst);
    let (seen, still) = (watcher.await.unwrap(), machine.await.unwrap());
    for replica in &mut replicas {
        replica.end().await;
    }

    assert_eq!(counted(&database), events);
    let copies = copies(&place.at("out"));
    assert!(copies.len() as u64 == events && copies.values().all(|times| *times == 1), "{events}: {copies:?}");
    let longest = seen.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap();
    // Of each count, the oldest event that it is the first to have.
    let firsts = std::iter::once(0).chain(seen.iter().map(|(_, count)| *count));
    let delays = seen.iter().zip(firsts).map(|((at, _), first)| *at - came[usize::try_from(first).unwrap()]);
    let delay = delays.max().unwrap();
    println!(
        "{events} events, {} counts; the longest pause {longest:?}, the longest delay {delay:?}; the machine stood still for {still:?}",
        seen.len()
    );
    assert!(longest <= HAND_OVER + EPOCH || still > STILL, "no result for {longest:?}");
    assert!(delay <= HAND_OVER + EPOCH || still > STILL, "an event waited for {delay:?}");
    assert!(seen.len() > 20, "too few counts to tell: {}", seen.len());
}
