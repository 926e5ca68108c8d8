//! One run: a world from a seed, replicas in it, faults for a while, then peace and the end of the stream.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use object_store::memory::InMemory;
use tidemill::contracts::{
    Clock, Error, ErrorKind, ErrorOutput, Lookup, Outside, ReferenceLoader, RejectedRecord, Result, Sink, Source,
    Storage, TableSpec,
};
use tidemill::ha::{Candidate, Contender, Member, ObjectLease, Seat, SeatLeases, Spread, Times};
use tidemill::job::{JobOptions, Replica, Stage, StateOptions, prepare};
use tidemill::runtime::{Ending, Progress, Worker};
use tidemill::state::ObjectStorage;
use tokio::sync::watch;

use super::alerts::AlertSink;
use super::careless::Careless;
use super::checks;
use super::lookups::{FarOwners, Weights};
use super::machine::{Machine, Nature};
use super::objects::{FarStore, Silence};
use super::queries::Work;
use super::sinks::{FileSink, ItemSink, Services};
use super::stream::{FarStream, Stream};
use crate::world::{Chance, MachineClock, Tally, World};

/// Events come for so long, and things fail for so long.
const STREAM_S: u64 = 40;
const FAULTS_S: u64 = 60;
/// By then, whoever leads has read everything.
const END_S: u64 = 110;
const REPLICAS: usize = 2;
const LEASE_S: u64 = 4;

/// A fault of a part of the program that the checks must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A reader goes on *at* the last record, not after it.
    ResumesInclusive,
    /// A shard that is closed is not listed any more, though it has not been read to its end.
    DropsClosedShards,
    /// An item is written whatever is stored.
    IgnoresVersions,
    /// A file is seen before the log names it.
    ShowsBeforeCommit,
    /// After a crash, what is in committed files is written again.
    ForgetsCommitted,
    /// Rows in open files are called durable.
    SaysDurable,
    /// Two runs give their files the same names.
    ReusesNames,
    /// Objects that are to be created replace others: nobody is fenced.
    SkipsFence,
    /// An object that was acknowledged is not there, now and then.
    LosesObjects,
    /// What has been published is not looked up in the ledger.
    ForgetsLedger,
    /// Alerts of one key have one id.
    ReusesAlertIds,
    /// The log does not say what epochs had of a reference table: who repeats them takes it as it is.
    ForgetsVersions,
    /// A reader that cannot ask says that there is nothing.
    SaysNothingUnasked,
    /// Versions of reference tables have the same name whenever and by whomever they are written.
    NamesVersionsByContent,
}

impl Bug {
    pub(crate) const ALL: [Self; 14] = [
        Self::ResumesInclusive,
        Self::DropsClosedShards,
        Self::IgnoresVersions,
        Self::ShowsBeforeCommit,
        Self::ForgetsCommitted,
        Self::SaysDurable,
        Self::ReusesNames,
        Self::SkipsFence,
        Self::LosesObjects,
        Self::ForgetsLedger,
        Self::ReusesAlertIds,
        Self::ForgetsVersions,
        Self::SaysNothingUnasked,
        Self::NamesVersionsByContent,
    ];

    /// Where looking for one that notices it begins. A request to remove that comes so late that the same content is in use again is rare:
    /// from here on, seed 370 has one.
    pub(crate) fn first_seed(self) -> u64 {
        if self == Self::NamesVersionsByContent { 350 } else { 0 }
    }
}

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) problems: Vec<String>,
    pub(crate) faults: Tally,
    pub(crate) trace: Vec<String>,
    /// When items were written.
    pub(crate) updates: Vec<Duration>,
    /// Of every request.
    pub(crate) digest: u64,
}

/// The world as one machine sees it.
#[derive(Debug)]
struct Site {
    machine: Arc<Machine>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Shared {
    stream: Arc<Stream>,
    services: Arc<Services>,
    objects: Arc<InMemory>,
    nonces: AtomicU64,
    bug: Option<Bug>,
    silence: Option<Silence>,
    /// Whether the processes are a fleet, and hand the job over.
    fleet: bool,
    pace: Pace,
}

/// How often epochs and checkpoints come. Where there are more checkpoints than epochs, or the stream is quiet, nothing is left in the log
/// but its beginning.
#[derive(Debug, Clone, Copy)]
struct Pace {
    epochs: Duration,
    checkpoints: Duration,
}

impl Pace {
    fn new(chance: &Chance) -> Self {
        let one_of = |times: [u64; 4]| Duration::from_millis(times[chance.below(4) as usize]);
        Self { epochs: one_of([100, 400, 400, 1_500]), checkpoints: one_of([300, 1_000, 2_000, 5_000]) }
    }
}

impl Site {
    fn store(&self) -> Arc<FarStore> {
        Arc::new(FarStore {
            inner: Arc::clone(&self.shared.objects),
            machine: Arc::clone(&self.machine),
            bug: self.shared.bug,
            silence: self.shared.silence,
        })
    }
}

impl Outside for Site {
    fn source(&self, _: &TableSpec) -> Result<Arc<dyn Source>> {
        let stream = Arc::clone(&self.shared.stream);
        Ok(Arc::new(FarStream { stream, machine: Arc::clone(&self.machine), bug: self.shared.bug }))
    }

    fn sink(&self, spec: &TableSpec, generation: u64) -> Result<Box<dyn Sink>> {
        let (services, machine) = (Arc::clone(&self.shared.services), Arc::clone(&self.machine));
        Ok(match spec.primary_key.is_empty() {
            true if spec.name == "alerts" => Box::new(AlertSink::new(services, machine, self.shared.bug)),
            true => Box::new(FileSink::new(services, machine, &spec.name, generation, self.shared.bug)),
            false => Box::new(ItemSink::new(services, machine, spec.clone(), self.shared.bug)),
        })
    }

    fn lookup(&self, spec: &TableSpec) -> Result<Arc<dyn Lookup>> {
        Ok(Arc::new(FarOwners { machine: Arc::clone(&self.machine), schema: Arc::clone(&spec.schema) }))
    }

    fn reference(&self, spec: &TableSpec) -> Result<Box<dyn ReferenceLoader>> {
        Ok(Box::new(Weights::new(Arc::clone(&self.machine), Arc::clone(&spec.schema))))
    }

    fn error_output(&self) -> Result<Box<dyn ErrorOutput>> {
        Ok(Box::new(Refused(Arc::clone(&self.machine))))
    }

    fn storage(&self) -> Arc<dyn Storage> {
        let own = ObjectStorage::new(self.store(), "kept", "s3://simulated/kept", Arc::clone(&self.clock));
        match self.shared.bug {
            Some(bug @ (Bug::ForgetsVersions | Bug::NamesVersionsByContent)) => Arc::new(Careless::new(own, bug)),
            _ => Arc::new(own),
        }
    }

    fn nonce(&self) -> String {
        format!("nonce-{}", self.shared.nonces.fetch_add(1, Ordering::Relaxed))
    }
}

/// No record of the stream is to be refused.
struct Refused(Arc<Machine>);

#[async_trait]
impl ErrorOutput for Refused {
    async fn write(&mut self, records: &[RejectedRecord]) -> Result<()> {
        self.0.nature.lock().problems.push(format!("refused: {:?}", records.first()));
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

fn options(job: &Path, site: &Arc<Site>, ending: Ending) -> JobOptions {
    JobOptions {
        paths: vec![job.to_owned()],
        local: None,
        ending,
        from: Some(tidemill::contracts::StartPosition::TrimHorizon),
        parameters: Default::default(),
        fresh: false,
        state: StateOptions {
            outside: Some(Arc::clone(site) as Arc<dyn Outside>),
            interval: Some(site.shared.pace.checkpoints),
            ..StateOptions::default()
        },
        threads: 1,
        epoch_interval: Some(site.shared.pace.epochs),
        epoch_rows: None,
        memory: None,
    }
}

fn site(shared: &Arc<Shared>, nature: &Arc<Nature>, offset_ms: i64) -> Arc<Site> {
    let machine = Machine::new(nature);
    // The hour differs from machine to machine, and how fast it goes; nothing of that may matter for what is right.
    let per_mille = {
        let mut inner = nature.lock();
        let per_mille = 980 + inner.chance.below(41) as u32;
        inner.faults.count_if(per_mille > 1_000, "fast clock");
        per_mille
    };
    let clock = Arc::new(MachineClock { world: Arc::clone(&nature.world), offset_ms, per_mille });
    Arc::new(Site { machine, shared: Arc::clone(shared), clock })
}

/// A process from its start to its end; a supervisor starts another one.
async fn process(number: u64, site: Arc<Site>, job: PathBuf, stop: watch::Receiver<bool>) -> bool {
    let nature = &site.machine.nature;
    let object = |name: &str| Arc::new(ObjectLease::new(site.store(), name, format!("s3://simulated/{name}")));
    let times = Times { ttl: Duration::from_secs(LEASE_S), beat: Duration::from_millis(800) };
    let holder = format!("process-{number}");
    let (contender, other) = if site.shared.fleet {
        // A second job, which does nothing, is a reason to hand the first one over.
        let member = Member::new(holder, Arc::clone(&site.clock), Spread::default());
        let seat = |job: &str| {
            let leases =
                SeatLeases { lease: object(&format!("{job}.json")), wish: object(&format!("{job}-wanted.json")) };
            Seat::new(&member, job, leases, times)
        };
        (Contender::from(seat("lease")), Some(seat("other")))
    } else {
        (Candidate::new(object("lease.json"), Arc::clone(&site.clock), holder, times).into(), None)
    };
    let mut replica = Replica::new(options(&job, &site, Ending::Run), contender, Arc::clone(&site.clock));
    let mut tell = |stage: Stage<'_>| match stage {
        Stage::Leads { generation } => {
            nature.trace(format!("{number} leads, term {generation}"));
            nature.leads(number, true);
        }
        Stage::Lost { reason } => {
            nature.leads(number, false);
            nature.trace(format!("{number} lost: {reason}"));
            nature.lock().faults.count("lost lead");
        }
        Stage::Begins { .. } => nature.trace(format!("{number} begins")),
        Stage::Gave { to, .. } => {
            nature.leads(number, false);
            nature.trace(format!("{number} gave the job to {to}"));
            nature.lock().faults.count("hand-over");
        }
        Stage::Waits { .. } => {}
    };
    let progress = Arc::new(Progress::default());
    let ended = tokio::select! {
        biased;
        ended = replica.run(&stop, &progress, &mut tell) => ended,
        () = run_nothing(other) => unreachable!("it goes on for ever"),
    };
    site.machine.goes().await;
    nature.leads(number, false);
    match ended {
        Ok(summary) => nature.trace(format!("{number} ends, {} epochs", summary.map_or(0, |s| s.epochs))),
        Err(errors) => {
            let text: Vec<String> = errors.iter().map(Error::to_string).collect();
            nature.trace(format!("{number} failed: {}", text.join("; ")));
            // What a supervisor's restart mends.
            let passes = |e: &Error| matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Fenced);
            if !errors.iter().all(passes) {
                nature.lock().problems.push(format!("process {number}: {}", text.join("; ")));
            }
        }
    }
    *stop.borrow()
}

/// Has a job that does nothing whenever it is this process's turn.
async fn run_nothing(seat: Option<Seat>) {
    let Some(mut seat) = seat else { return std::future::pending().await };
    loop {
        let mut term = seat.acquire(|_| {}).await.expect("nothing but the network fails");
        let lost = tokio::select! {
            biased;
            _ = term.keep() => true,
            _ = seat.wanted() => false,
        };
        if !lost {
            let _ = term.release().await;
        }
        seat.ended();
    }
}

/// Runs a seed; with `bug`, a part of the program has that fault.
pub(crate) fn run(seed: u64, bug: Option<Bug>) -> Outcome {
    run_with(seed, bug, None)
}

/// Runs a seed in which nothing fails but that an object cannot be written.
pub(crate) fn run_in_silence(seed: u64, silence: Silence) -> Outcome {
    run_with(seed, None, Some(silence))
}

fn run_with(seed: u64, bug: Option<Bug>, silence: Option<Silence>) -> Outcome {
    let world = Arc::<World>::default();
    let calm = if silence.is_some() { Duration::ZERO } else { Duration::from_secs(FAULTS_S) };
    let nature = Arc::new(Nature::new(Arc::clone(&world), seed, calm));
    let stream = Arc::new(Stream::new(&Chance::new(seed ^ 0x5eed), STREAM_S));
    let work = Work::new(&Chance::new(seed ^ 0x90b));
    let folder = tempfile::tempdir().expect("a folder");
    let job = folder.path().join("job.sql");
    std::fs::write(&job, work.sql()).expect("written");
    nature.lock().faults.count_many("reshard", stream.reshards);
    nature.lock().faults.count_many("file", stream.files());
    let services = Services::new(&nature);
    let shared = Arc::new(Shared {
        stream: Arc::clone(&stream),
        services: Arc::clone(&services),
        objects: Arc::default(),
        nonces: AtomicU64::new(0),
        bug,
        silence,
        // Half of the seeds, in each of the four tests.
        fleet: Chance::new(seed ^ 0xf1ee7).percent(50),
        pace: Pace::new(&Chance::new(seed ^ 0x9ace)),
    });
    world.run(async {
        let (stop_sender, stop) = watch::channel(false);
        let mut started = 0;
        let mut start = |replica: usize| {
            started += 1;
            let site = site(&shared, &nature, 3_600_000 * replica as i64);
            nature.trace(format!("{started} starts"));
            let task = tokio::spawn(process(started, Arc::clone(&site), job.clone(), stop.clone()));
            (started, site, task)
        };
        let mut replicas: Vec<_> = (0..REPLICAS).map(&mut start).collect();
        while world.now() < Duration::from_secs(END_S) {
            world.sleep(Duration::from_millis(500)).await;
            for (replica, running) in replicas.iter_mut().enumerate() {
                if running.2.is_finished() {
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
                        nature.lock().faults.count_if(seconds > LEASE_S, "pause longer than the lease");
                        running.1.machine.stand_until(until);
                    }
                    3 => {
                        nature.trace(format!("{number} is cut off until {until:?}"));
                        nature.lock().faults.count("cut");
                        running.1.machine.cut_until(until);
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
        let site = site(&shared, &nature, 0);
        let drained = async {
            let prepared = prepare(&options(&job, &site, Ending::Drain), Arc::clone(&site.clock)).await?;
            let progress = Arc::new(Progress::default());
            Worker::run(prepared.job, watch::channel(false).1, progress).await.map_err(|e| vec![e])
        };
        match drained.await {
            Ok(summary) => nature.trace(format!("drained {} records", summary.records())),
            Err(errors) => nature.lock().problems.push(format!("the last run: {errors:?}")),
        }
    });
    let mut inner = nature.lock();
    let mut problems = std::mem::take(&mut inner.problems);
    let (faults, trace, digest) = (inner.faults.clone(), std::mem::take(&mut inner.trace), inner.digest);
    drop(inner);
    problems.extend(checks::problems(&stream, &services, &work));
    let updates = std::mem::take(&mut *services.updates.lock().expect("no panic while it is held"));
    Outcome { problems, faults, trace, updates, digest }
}
