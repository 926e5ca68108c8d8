//! One run: a world from a seed, replicas in it, faults for a while, then peace and the end of the stream.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tidemill::runtime::Ending;
use tidemill::sql::STACK_BYTES;
use tokio::sync::watch;

use super::bug::Bug;
use super::checks;
use super::disk::Disk;
use super::going_back::{forget_savepoints, go_back};
use super::machine::{Far, Nature};
use super::objects::Silence;
use super::process::{LEASE, alone, process};
use super::queries::Work;
use super::sinks::Services;
use super::site::{Pace, Shared, site};
use super::stream::{Event, Stream};
use crate::world::{Chance, Tally, World};

/// Events come for so long, and things fail for so long.
const STREAM_S: u64 = 40;
const FAULTS_S: u64 = 60;
/// By then, whoever leads has read everything.
const END_S: u64 = 110;
const REPLICAS: usize = 2;
/// The last run, in which nothing fails, takes less.
const LAST_RUN: Duration = Duration::from_secs(600);

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) problems: Vec<String>,
    pub(crate) faults: Tally,
    pub(crate) trace: Vec<String>,
    /// When items were written.
    pub(crate) updates: Vec<Duration>,
    /// Of every request, and of what was written in the end.
    pub(crate) digest: u64,
}

/// The stream of a seed: in half of them rows are out of order, in a third some records are broken.
fn stream(seed: u64, work: &Work, bug: Option<Bug>) -> Stream {
    let mut stream = Stream::new(&Chance::new(seed ^ 0x5eed), STREAM_S);
    let (order, damage) = (Chance::new(seed ^ 0x0dde4), Chance::new(seed ^ 0xb40c));
    if order.percent(50) || bug == Some(Bug::ForgetsWatermarks) {
        stream.disorder(&order, !work.goes_on_without_quiet_shards());
    }
    if damage.percent(33) {
        stream.damage(&damage);
    }
    stream.note_places();
    stream
}

fn count_rows(stream: &Stream, work: &Work, faults: &mut Tally) {
    let events: Vec<Event> = stream.events().cloned().collect();
    let behind = events.iter().filter(|event| event.passed_ms.is_some_and(|passed| event.time_ms < passed));
    faults.count_many("row out of order", behind.count() as u64);
    faults.count_many("broken record", stream.broken().count() as u64);
    work.queries.iter().flat_map(|query| query.shapes()).for_each(|shape| faults.count(shape));
    for expected in work.queries.iter().map(|query| query.expected(&events)) {
        faults.count_many("late row", expected.late);
        for refusal in &expected.refused {
            faults.count(match (refusal.has_failed(), refusal.is_of_result()) {
                (true, false) => "row that fails",
                (true, true) => "result that fails",
                (false, false) => "refused row",
                (false, true) => "refused result",
            });
        }
    }
}

/// Runs a seed; with `bug`, a part of the program has that fault.
pub(crate) fn run(seed: u64, bug: Option<Bug>) -> Outcome {
    on_the_programs_stack(move || run_with(seed, bug, None))
}

/// Queries are planned on a stack as the program has it.
fn on_the_programs_stack(run: impl FnOnce() -> Outcome + Send + 'static) -> Outcome {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).expect("a thread");
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs a seed in which nothing fails but that an object cannot be written.
pub(crate) fn run_in_silence(seed: u64, silence: Silence) -> Outcome {
    on_the_programs_stack(move || run_with(seed, None, Some(silence)))
}

fn run_with(seed: u64, bug: Option<Bug>, silence: Option<Silence>) -> Outcome {
    let world = Arc::<World>::default();
    let calm = if silence.is_some() { Duration::ZERO } else { Duration::from_secs(FAULTS_S) };
    let nature = Arc::new(Nature::new(Arc::clone(&world), seed, calm));
    let mut work = Work::new(&Chance::new(seed ^ 0x90b), &Chance::new(seed ^ 0x5a9e5));
    let own_connectors = match bug {
        Some(bug) => bug.is_of_own_connectors(),
        None => Chance::new(seed ^ 0xa35).percent(25),
    };
    if own_connectors {
        work.writes_to_aws(&Chance::new(seed ^ 0x3a1));
    }
    if bug == Some(Bug::ForgetsWatermarks) {
        work.waits_for_quiet_shards();
    }
    let stream = Arc::new(stream(seed, &work, bug));
    let folder = tempfile::tempdir().expect("a folder");
    let job = folder.path().join("job.sql");
    std::fs::write(&job, work.sql()).expect("written");
    nature.trace(work.sql());
    nature.lock().faults.count_many("reshard", stream.reshards);
    nature.lock().faults.count_many("file", stream.files());
    count_rows(&stream, &work, &mut nature.lock().faults);
    let services = Services::new(&nature);
    let has_disk = match bug {
        Some(bug) => bug == Bug::DoesNotSync,
        None => silence.is_none() && Chance::new(seed ^ 0xd15c).percent(25),
    };
    // In few seeds: results that may come twice are checked less sharply.
    let goes_back = Chance::new(seed ^ 0x90bac);
    let may_go_back = match bug {
        Some(bug) => bug == Bug::ForgetsWhoCatchesUp,
        None => silence.is_none() && goes_back.percent(20),
    };
    let mut going_back: Vec<Duration> = match may_go_back && !work.adds() {
        true => (0..1 + goes_back.below(2)).map(|_| Duration::from_millis(8_000 + goes_back.below(60_000))).collect(),
        false => Vec::new(),
    };
    going_back.sort();
    let has_little_memory = Chance::new(seed ^ 0x5b111).percent(25);
    nature.lock().faults.count_if(has_little_memory, "little memory");
    let disk = has_disk.then(|| Arc::new(Disk::new()));
    let replicas = if has_disk { 1 } else { REPLICAS };
    let shared = Arc::new(Shared {
        stream: Arc::clone(&stream),
        services: Arc::clone(&services),
        objects: Arc::default(),
        disk,
        nonces: AtomicU64::new(0),
        bug,
        silence,
        retries: [0, 1, 3, 8][Chance::new(seed ^ 0x4e7217).below(4) as usize],
        hesitates: bug.is_none() && !going_back.is_empty() && Chance::new(seed ^ 0x4e517).percent(50),
        // Half of the seeds, in each of the four tests.
        fleet: Chance::new(seed ^ 0xf1ee7).percent(50),
        own_connectors,
        pace: Pace::new(&Chance::new(seed ^ 0x9ace)),
        spill: has_little_memory.then(|| folder.path().join("spill")),
    });
    world.run(async {
        let (stop_sender, stop) = watch::channel(false);
        let mut started = 0;
        let mut start = |replica: usize| {
            started += 1;
            if let Some(disk) = &shared.disk {
                disk.power_off(&nature.lock().chance, bug);
            }
            let site = site(&shared, &nature, 3_600_000 * replica as i64);
            nature.trace(format!("{started} starts"));
            let task = tokio::spawn(process(started, Arc::clone(&site), job.clone(), stop.clone()));
            (started, site, task)
        };
        let mut replicas: Vec<_> = (0..replicas).map(&mut start).collect();
        while world.now() < Duration::from_secs(END_S) {
            world.sleep(Duration::from_millis(500)).await;
            if going_back.first().is_some_and(|at| *at <= world.now()) {
                going_back.remove(0);
                services.goes_back();
                // Two cannot have a folder; in a bucket, the job may run on until it hears of it.
                let ends = shared.disk.is_some() || nature.lock().chance.percent(50);
                for (number, site, task) in replicas.iter().filter(|_| ends) {
                    nature.leads(*number, false);
                    site.machine.die();
                    task.abort();
                }
                if let Some(disk) = &shared.disk {
                    disk.power_off(&nature.lock().chance, bug);
                }
                let catches_up = go_back(&shared, &nature).await;
                let mut inner = nature.lock();
                inner.faults.count("went back");
                inner.faults.count_if(catches_up, "catches up");
            }
            for (replica, running) in replicas.iter_mut().enumerate() {
                let dead = running.1.machine.is_dead();
                if dead {
                    running.2.abort();
                }
                if dead || running.2.is_finished() {
                    *running = start(replica);
                }
                if nature.is_calm() {
                    continue;
                }
                let (what, seconds) = {
                    let inner = nature.lock();
                    (inner.chance.below(60), 1 + inner.chance.below(12))
                };
                let until = (world.now() + Duration::from_secs(seconds)).min(calm);
                let number = running.0;
                match what {
                    0 | 1 => {
                        nature.trace(format!("{number} crashes"));
                        nature.lock().faults.count("crash");
                        nature.leads(number, false);
                        running.1.machine.die();
                        running.2.abort();
                        *running = start(replica);
                    }
                    2 => {
                        nature.trace(format!("{number} stands still until {until:?}"));
                        nature.lock().faults.count("pause");
                        nature.lock().faults.count_if(until - world.now() > LEASE, "pause longer than the lease");
                        running.1.machine.stand_until(until);
                    }
                    3 => {
                        nature.trace(format!("{number} is cut off until {until:?}"));
                        nature.lock().faults.count("cut");
                        running.1.machine.cut_until(&[Far::Store, Far::Services], until);
                    }
                    4 => {
                        let far = if seconds % 2 == 0 { Far::Store } else { Far::Services };
                        nature.trace(format!("{number} does not reach its {far:?} until {until:?}"));
                        nature.lock().faults.count("cut from one service");
                        running.1.machine.cut_until(&[far], until);
                    }
                    _ => {}
                }
            }
        }
        let _ = stop_sender.send(true);
        for (number, _, task) in replicas {
            if task.await.is_err() {
                nature.lock().problems.push(format!("process {number} panicked"));
            }
        }
        // The end of the stream: windows close.
        if let Some(disk) = &shared.disk {
            disk.power_off(&nature.lock().chance, None);
        }
        let last = site(&shared, &nature, 0);
        if services.has_gone_back() {
            forget_savepoints(&last).await;
        }
        let drained = alone(started + 1, &last, &job, Ending::Drain, watch::channel(false).1);
        tokio::select! {
            biased;
            drained = drained => match drained {
                Ok(summary) => nature.trace(format!("drained {} records", summary.records())),
                Err(errors) => nature.lock().problems.push(format!("the last run: {errors:?}")),
            },
            () = world.sleep(LAST_RUN) => nature.lock().problems.push("the last run does not end".to_owned()),
        }
        let left = checks::left_behind(&shared.stored().await);
        nature.lock().problems.extend(left);
    });
    let wrong = checks::problems(&stream, &services, &work);
    let mut inner = nature.lock();
    let mut problems = std::mem::take(&mut inner.problems);
    let (faults, trace, digest) = (inner.faults.clone(), std::mem::take(&mut inner.trace), inner.digest);
    drop(inner);
    problems.extend(wrong);
    let digest = digest ^ services.digest();
    let updates = std::mem::take(&mut *services.updates.lock().expect("no panic while it is held"));
    let trace = match &shared.disk {
        Some(disk) => trace.iter().map(|line| disk.named(line)).collect(),
        None => trace,
    };
    Outcome { problems, faults, trace, updates, digest }
}
