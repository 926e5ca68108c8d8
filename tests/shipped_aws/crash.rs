//! The shipped job under everything at once: it is killed at moments that nobody chose and at each named place, while its stream is
//! resharded, its services fail and readers watch. In the end all that it has written is what an undisturbed run writes.
//!
//! ```text
//! cargo nextest run --test shipped_aws crash                                     # a few kills, as in CI
//! CRASH_KILLS=50 CRASH_SEED=7 cargo nextest run --test shipped_aws crash         # the long run
//! ```
//!
//! A kill at a named place is an abort of the process there, which runs no destructor and flushes nothing, like SIGKILL. The copy of
//! the queries has a ledger for its alerts and three queries more (`more_queries`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemill::contracts::CRASH_POINTS;

use crate::buckets::Bucket;
use crate::evidence::{Happening, RUNNING, Watched, done};
use crate::expected::TABLES;
use crate::faults;
use crate::killed::checkpoints;
use crate::more_queries::{
    ADDED, FILE, KEYS, LEDGER, added_difference, alerts_differences, prepare, refused_more, start,
};
use crate::program::{Job, produce_file};
use crate::random::{Random, asked};
use crate::results::{alert_ids, archive, refusals, scanned, tables_difference, unnamed};
use crate::services::Services;
use crate::stream::Stream;
use crate::stub::{Fault, topics};
use crate::{LONGEST, program};

/// Kills unless `CRASH_KILLS` says otherwise.
const KILLS: usize = 6;
/// With so many, each kind of fault of publishing and of its ledger has its turn.
const FAULTS_OF_THE_LEDGER: usize = 20;
/// What a start and a life take on two cores, about: the producer's rate is made for it.
const LIFE: Duration = Duration::from_millis(3_200);
/// How long a named place is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks of the reader that watches.
const LOOK: Duration = Duration::from_millis(150);

/// How a life of the program ends.
#[derive(Debug, Clone, Copy)]
enum Kill {
    /// So long after its start, which may be before it has begun.
    AfterStart(u64),
    /// So long after it has taken over from the one before.
    AfterTakeOver(u64),
    /// When it comes to this place for the n-th time.
    At(&'static str, u64),
}

/// `count` ends: named places, each in its turn, and as many moments.
fn plan(random: &mut Random, count: usize) -> Vec<Kill> {
    let mut places: Vec<&'static str> = Vec::new();
    (0..count)
        .map(|number| {
            if number % 2 == 0 {
                return match random.below(3) {
                    0 => Kill::AfterStart(random.below(1_800)),
                    _ => Kill::AfterTakeOver(random.below(2_500)),
                };
            }
            if places.is_empty() {
                places = CRASH_POINTS.to_vec();
            }
            let at = random.below(places.len() as u64) as usize;
            Kill::At(places.swap_remove(at), 1 + random.below(3))
        })
        .collect()
}

pub(crate) type Chronicle = Arc<Mutex<Vec<Happening>>>;

/// The services' faults, and beside them a chronicle of alerts; `run` is the number of the life that asks.
pub(crate) fn record(services: &Services, run: &Arc<AtomicUsize>) -> Chronicle {
    let chronicle = Chronicle::default();
    let (own, runs, mut script) = (Arc::clone(&chronicle), Arc::clone(run), faults::of_sns());
    services.topics.follow_requests(Box::new(move |operation, request| {
        let fault = script(operation);
        let form = topics::form(&request.body);
        let standard = form.get("TopicArn").is_some_and(|arn| arn.ends_with(":analytics-alerts"));
        if let Some(heard) = done(fault).filter(|_| standard && operation == "PublishBatch") {
            let run = runs.load(Ordering::SeqCst);
            let published = alert_ids(&form).into_iter().map(|id| Happening::Published { run, id, heard });
            own.lock().unwrap().extend(published);
        }
        fault
    }));
    let (own, mut script) = (Arc::clone(&chronicle), faults::of_dynamodb());
    services.tables.follow_requests(Box::new(move |operation, request| {
        let fault = script(operation);
        if operation == "BatchWriteItem" {
            let input = request.json();
            let entries = input["RequestItems"][LEDGER].as_array().cloned().unwrap_or_default();
            let many = match fault {
                Fault::Partial => (entries.len() / 2).max(1),
                other => done(other).map_or(0, |_| entries.len()),
            };
            // An entry is `<id>/<epoch>/<number among equal ones>`.
            let id = |entry: &serde_json::Value| {
                let entry = entry["PutRequest"]["Item"]["entry"]["S"].as_str()?;
                Some(Happening::Marked { id: entry.rsplitn(3, '/').nth(2)?.to_owned() })
            };
            own.lock().unwrap().extend(entries[..many].iter().filter_map(id));
        }
        fault
    }));
    chronicle
}

/// Reads the tables again and again until `stop`, past all faults.
async fn watch(client: aws_sdk_dynamodb::Client, stop: Arc<AtomicBool>) -> Watched {
    let (mut watched, mut round) = (Watched::default(), 0);
    while !stop.load(Ordering::SeqCst) {
        for (table, keys) in TABLES.into_iter().chain([(ADDED, KEYS)]) {
            // Windows are many, and their rows need not be looked at so often.
            if !RUNNING.contains(&table) && round % 12 != 0 {
                continue;
            }
            watched.see(table, &keys.map(|(name, _)| name), scanned(&client, table).await);
        }
        round += 1;
        tokio::time::sleep(LOOK).await;
    }
    watched
}

/// Lets a life end as planned; answers the place where it did, if that was a named one.
async fn end(job: &Job, kill: Kill, state: &Bucket, before: usize) -> Option<&'static str> {
    let began = tokio::time::Instant::now();
    match kill {
        Kill::AfterStart(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        Kill::AfterTakeOver(ms) => {
            while job.is_running() && checkpoints(state).await.0 == before && began.elapsed() < PATIENCE {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        Kill::At(place, _) => {
            while job.is_running() {
                if began.elapsed() > PATIENCE {
                    job.kill();
                    return None;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(job.has_aborted(), "{kill:?}: it has ended by itself: {}", job.said());
            return Some(place);
        }
    }
    assert!(job.is_running(), "{kill:?}: it has ended by itself: {}", job.said());
    job.kill();
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_kill_leaves_everything_exact() {
    let kills = asked("CRASH_KILLS").map_or(KILLS, |kills| kills as usize);
    let seed = asked("CRASH_SEED").unwrap_or(20_261_126);
    println!("CRASH_KILLS={kills} CRASH_SEED={seed}");
    let Some(stream) = Stream::kinesis_local().await else { return };
    let Some(services) = Services::start().await else { return };
    let (state, topic) = prepare(&services).await;
    stream.create(4).await;
    stream.fails_now_and_then();
    faults::of_s3(&services.files);
    let run = Arc::new(AtomicUsize::new(0));
    let chronicle = record(&services, &run);
    let stop = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn(watch(services.dynamodb(), Arc::clone(&stop)));

    let events = program::events(FILE);
    let rate = (events.lines().count() as f64 / (LIFE * kills as u32).as_secs_f64()).ceil().min(f64::from(crate::RATE));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    std::fs::write(&path, &events).unwrap();
    let producer = tokio::spawn(produce_file(stream.endpoint(), path, Some(rate as u32)));

    let mut random = Random::new(seed);
    let start = |kill: Option<Kill>, rollover: &str| {
        let at = match kill {
            Some(Kill::At(place, time)) => vec![("TIDEMILL_CRASH_AT".to_owned(), format!("{place}:{time}"))],
            _ => Vec::new(),
        };
        run.fetch_add(1, Ordering::SeqCst);
        start(&stream, &services, rollover, &[], &at)
    };
    let began = tokio::time::Instant::now();
    let mut places: BTreeMap<&'static str, usize> = BTreeMap::new();
    let (mut missed, mut idle) = (Vec::new(), 0);
    let done = AtomicUsize::new(0);
    let killing = async {
        for (number, kill) in plan(&mut random, kills).into_iter().enumerate() {
            let before = checkpoints(&state).await.0;
            // Some files are complete when the kill comes, some are not, some never are. At a commit there must be one.
            let rollover = match kill {
                Kill::At(..) => "700 ms",
                _ => ["700 ms", "3 s", "300 s"][random.below(3) as usize],
            };
            // On a slow machine all events may have come before a life begins: it may have nothing to do that comes to its place.
            let is_fed = !producer.is_finished();
            let job = start(Some(kill), rollover);
            match end(&job, kill, &state, before).await {
                Some(place) => *places.entry(place).or_default() += 1,
                None if matches!(kill, Kill::At(..)) && !is_fed => idle += 1,
                None if matches!(kill, Kill::At(..)) => missed.push(kill),
                None => {}
            }
            done.store(number + 1, Ordering::SeqCst);
            if number % 10 == 9 && number < kills * 2 / 3 {
                faults::of_s3(&services.files);
            }
        }
    };
    let resharding = async {
        while done.load(Ordering::SeqCst) < kills / 3 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stream.split_all().await;
        while done.load(Ordering::SeqCst) < kills * 2 / 3 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stream.merge_to_three().await;
    };
    tokio::join!(killing, resharding);
    let seconds = began.elapsed().as_secs();
    producer.await.unwrap();
    let ends = stream.put_last_events(FILE).await;
    let job = start(None, "3 s");
    let waited = tokio::time::Instant::now();
    // The tables may have been complete before: the last records are in the archive alone.
    let left = async || match tables_difference(&services, FILE).await.or(added_difference(&services).await) {
        None => archive(&services, FILE, &ends, kills).await.into_iter().next(),
        wrong => wrong,
    };
    while let Some(wrong) = left().await {
        assert!(waited.elapsed() < LONGEST, "CRASH_SEED={seed}: {wrong}\n{}", job.said());
        assert!(job.is_running(), "CRASH_SEED={seed}: it has ended\n{}", job.said());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let said = job.stop().await;
    services.tables.raise_all().await;
    tokio::time::sleep(LOOK * 4).await;
    stop.store(true, Ordering::SeqCst);
    let watched = watching.await.unwrap();

    let happenings = chronicle.lock().unwrap().clone();
    let mut wrong: Vec<String> = tables_difference(&services, FILE).await.into_iter().collect();
    wrong.extend(added_difference(&services).await);
    wrong.extend(unnamed(&state).await);
    wrong.extend(archive(&services, FILE, &ends, kills).await);
    wrong.extend(refusals(&services, FILE, &refused_more(), kills).await);
    let (alerts, orders) = (services.alerts().await, services.received(&topic.queue).await);
    let (alerts, doubles) = alerts_differences(&alerts, &orders, &happenings);
    wrong.extend(alerts);
    wrong.extend(watched.problems.iter().take(10).cloned());
    let marked: BTreeSet<&String> =
        happenings.iter().filter_map(|h| if let Happening::Marked { id } = h { Some(id) } else { None }).collect();
    println!(
        "{kills} kills in {seconds} s, {} at {} named places {places:?}, not reached {missed:?}; {} looks at tables; \
         {} alerts marked, doubled {} by a cut reply and {} by a kill before the mark; checkpoint {}",
        places.values().sum::<usize>(),
        places.len(),
        watched.looks,
        marked.len(),
        doubles.by_cut,
        doubles.by_kill,
        checkpoints(&state).await.0,
    );
    assert_eq!(wrong, Vec::<String>::new(), "CRASH_SEED={seed}: {said}");
    assert!(watched.looks > kills * 4, "{} looks", watched.looks);
    assert!(marked.len() > 300, "{} alerts are in the ledger", marked.len());
    let reached = places.values().sum::<usize>();
    assert!((reached + idle) * 3 >= kills && reached > 0, "places that were reached: {places:?}, not {missed:?}");
    // In the long run each place has had its turns.
    assert!(kills < 2 * CRASH_POINTS.len() || places.len() == CRASH_POINTS.len(), "{places:?}, not {missed:?}");
    stream.check_faults();
    services.check_faults();
    if kills >= FAULTS_OF_THE_LEDGER {
        services.check_faults_of_alerts();
    }
}
