//! Two replicas of a job that counts into DynamoDB, as processes. The leader is really paused (`SIGSTOP`) while writes of it
//! are on their way, for so long that the other takes over and writes newer values; then it goes on, and its writes arrive.
//! Each write is seen, as it is done: none may put an older value over a newer one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinHandle;

use crate::replica::{Replica, wait};
use crate::s3::{Bucket, Emulator, pause, seaweed};
use crate::stub::tables::Item;
use crate::stub::{Fault, Running, calm};

/// One count, in each mode whose values are said never to go back.
const SQL: &str = "
SET 'tidemill.lease' = 'checkpoints';
SET 'tidemill.lease.ttl' = '6 s';
SET 'state.checkpoints.dir' = 's3://paused/kept';
SET 'tidemill.errors.path' = 's3://paused/errors';
SET 'execution.checkpointing.interval' = '500 ms';
SET 'tidemill.epoch.interval' = '50 ms';
CREATE TABLE events (k STRING)
WITH ('connector' = 'filesystem', 'path' = 'in', 'format' = 'json', 'source.monitor-interval' = '100 ms');
CREATE TABLE updated (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'updated');
CREATE TABLE stored (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'stored', 'sink.write-mode' = 'put');
CREATE TABLE added (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'added', 'sink.write-mode' = 'add');
INSERT INTO updated SELECT k, COUNT(*) FROM events GROUP BY k;
INSERT INTO stored SELECT k, COUNT(*) FROM events GROUP BY k;
INSERT INTO added SELECT k, COUNT(*) FROM events GROUP BY k;
";
const TABLES: [&str; 3] = ["updated", "stored", "added"];
const KEYS: u64 = 5;

/// What becomes of the leader.
#[derive(Debug, Clone, Copy)]
enum Pause {
    /// Paused with a write to this table on its way, which arrives before it goes on.
    WriteFirst(&'static str),
    /// The same, but it goes on first.
    LeaderFirst(&'static str),
    /// Paused wherever it is.
    Anywhere,
}

/// Puts a file with an event of each key into the folder each 50 ms. Answers the number of files.
fn produce(folder: &Path, ends: Arc<AtomicBool>) -> JoinHandle<u64> {
    let folder = folder.to_owned();
    tokio::spawn(async move {
        let mut files = 0;
        while !ends.load(Ordering::SeqCst) {
            let text: String = (0..KEYS).map(|key| format!("{{\"k\":\"key {key}\"}}\n")).collect();
            std::fs::write(folder.join("new"), text).unwrap();
            std::fs::rename(folder.join("new"), folder.join(format!("in/{files}.json"))).unwrap();
            files += 1;
            pause(50).await;
        }
        files
    })
}

fn count(item: &Item) -> i64 {
    item["c"]["N"].as_str().unwrap().parse().unwrap()
}

/// What all keys of a table have together now.
fn total(stub: &Running, table: &str) -> i64 {
    stub.tables.items(table).iter().map(count).sum()
}

/// Writes that put an older value over a newer one: table and key, the newer value, the older one.
fn gone_back(stub: &Running) -> Vec<(String, i64, i64)> {
    let mut found = Vec::new();
    for table in TABLES {
        let mut last: BTreeMap<String, i64> = BTreeMap::new();
        for (key, item) in stub.tables.history(table) {
            let now = count(&item.expect("nothing is removed"));
            let before = last.insert(key.clone(), now).unwrap_or(0);
            if now < before {
                found.push((format!("{table} {key}"), before, now));
            }
        }
    }
    found
}

struct World {
    emulator: Emulator,
    _bucket: Bucket,
    stub: Running,
    folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Option<Self> {
        let emulator = seaweed().await?;
        let bucket = emulator.bucket("paused").await;
        let stub = Running::start(calm()).await;
        TABLES.iter().for_each(|table| stub.tables.create(table, &[("k", "S")]));
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("in")).unwrap();
        std::fs::write(folder.path().join("job.sql"), SQL).unwrap();
        Some(Self { emulator, _bucket: bucket, stub, folder })
    }

    fn start(&self, name: &str) -> Replica {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(["run", "job.sql", "--from", "trim_horizon"]).current_dir(self.folder.path());
        command.envs(self.emulator.environment()).env("AWS_ENDPOINT_URL_DYNAMODB", self.stub.url());
        Replica::spawn(command, self.folder.path(), name)
    }

    /// Pauses `leader` until `other` has written newer values, and lets it go on.
    async fn pause(&self, leader: &Replica, other: &Replica, how: Pause) {
        let held = || self.stub.calls.lock().unwrap().iter().filter(|(_, fault)| *fault == Fault::Held).count();
        let before = held();
        if let Pause::WriteFirst(table) | Pause::LeaderFirst(table) = how {
            self.stub.gate.send_replace(false);
            let mut left = 2;
            self.stub.follow_requests(Box::new(move |operation, request| {
                let of_table = request.json()["TableName"] == table;
                if left > 0 && of_table && matches!(operation, "UpdateItem" | "PutItem") {
                    left -= 1;
                    return Fault::Held;
                }
                Fault::None
            }));
            wait("writes are held", 10_000, async || held() == before + 2).await;
        }
        leader.signal("-STOP");
        let (terms, written) = (other.terms(), TABLES.map(|table| total(&self.stub, table)));
        wait("the other one leads", 15_000, async || other.terms() == terms + 1).await;
        // Ten files and more: of every key there are newer values than those that are held.
        let newer = async || TABLES.iter().zip(written).all(|(t, was)| total(&self.stub, t) > was + 10 * KEYS as i64);
        wait("the other one writes", 15_000, newer).await;
        self.stub.follow(calm());
        let waits = leader.text().matches("waits: '").count();
        if matches!(how, Pause::LeaderFirst(_)) {
            leader.signal("-CONT");
            pause(300).await;
            self.stub.gate.send_replace(true);
        } else {
            self.stub.gate.send_replace(true);
            pause(300).await;
            leader.signal("-CONT");
        }
        let noticed = async || leader.text().matches("waits: '").count() > waits;
        wait("the paused one notices", 10_000, noticed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_paused_leader_still_writes_is_never_seen_over_newer_values() {
    let Some(world) = World::new().await else { return };
    let (mut one, mut two) = (world.start("one"), world.start("two"));
    wait("one of them leads", 15_000, async || one.terms() + two.terms() == 1).await;
    let ends = Arc::new(AtomicBool::new(false));
    let producer = produce(world.folder.path(), Arc::clone(&ends));
    wait("values come", 15_000, async || TABLES.iter().all(|table| total(&world.stub, table) > 20)).await;
    let (mut leader, mut other) = if one.terms() == 1 { (&one, &two) } else { (&two, &one) };
    let pauses =
        [Pause::WriteFirst("updated"), Pause::LeaderFirst("added"), Pause::WriteFirst("stored"), Pause::Anywhere];
    for how in pauses {
        world.pause(leader, other, how).await;
        (leader, other) = (other, leader);
    }
    ends.store(true, Ordering::SeqCst);
    let files = i64::try_from(producer.await.unwrap()).unwrap();
    let all = async || TABLES.iter().all(|table| total(&world.stub, table) == files * KEYS as i64);
    wait("everything is counted", 15_000, all).await;
    one.end().await;
    two.end().await;
    assert_eq!(gone_back(&world.stub), []);
    for table in TABLES {
        let counts: Vec<i64> = world.stub.tables.items(table).iter().map(count).collect();
        assert_eq!(counts, [files; KEYS as usize], "{table}");
    }
}

/// The watcher can fail: where the table heeds no conditions, a held write arrives over a newer value.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_a_paused_leader_without_a_condition_would_be_noticed() {
    let Some(world) = World::new().await else { return };
    world.stub.tables.blind.store(true, Ordering::SeqCst);
    let (one, two) = (world.start("one"), world.start("two"));
    wait("one of them leads", 15_000, async || one.terms() + two.terms() == 1).await;
    let ends = Arc::new(AtomicBool::new(false));
    let _producer = produce(world.folder.path(), ends);
    wait("values come", 15_000, async || total(&world.stub, "updated") > 20).await;
    let (leader, other) = if one.terms() == 1 { (&one, &two) } else { (&two, &one) };
    world.pause(leader, other, Pause::WriteFirst("updated")).await;
    let found = gone_back(&world.stub);
    assert!(found.iter().any(|(what, ..)| what.starts_with("updated ")), "{found:?}");
}
