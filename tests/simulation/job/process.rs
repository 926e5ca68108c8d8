//! A process that runs the job, from its start to its end; a supervisor starts another one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidemill::connectors::dynamodb;
use tidemill::contracts::{Error, ErrorKind, LeaseStore, Outside, StartPosition};
use tidemill::ha::{Candidate, Contender, Member, ObjectLease, Seat, SeatLeases, Spread, Times};
use tidemill::job::{JobOptions, MemoryOptions, Replica, Stage, StateOptions, prepare};
use tidemill::runtime::{Ending, Progress, Summary, Worker};
use tokio::sync::watch;

use super::aws::LEASES;
use super::site::Site;

pub(crate) const LEASE: Duration = Duration::from_secs(4);
/// Of two jobs, and the wishes to have them.
const LEASE_NAMES: [&str; 4] = ["lease.json", "lease-wanted.json", "other.json", "other-wanted.json"];

pub(crate) fn options(job: &Path, site: &Arc<Site>, ending: Ending) -> JobOptions {
    JobOptions {
        paths: vec![job.to_owned()],
        local: None,
        ending,
        from: Some(StartPosition::TrimHorizon),
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
        memory: site.shared.spill.as_ref().map(|spill| MemoryOptions {
            // All state goes to disk after each epoch.
            bytes: 0,
            spill: spill.clone(),
            asked: true,
            jobs: 1,
        }),
    }
}

/// Runs until `stop` turns true, or something fails.
pub(crate) async fn process(number: u64, site: Arc<Site>, job: PathBuf, stop: watch::Receiver<bool>) {
    let nature = &site.machine.nature;
    let ended = match site.shared.disk {
        Some(_) => alone(number, &site, &job, Ending::Run, stop).await.map(Some),
        None => replica(number, &site, &job, &stop).await,
    };
    site.machine.goes().await;
    nature.leads(number, false);
    match ended {
        Ok(summary) => nature.trace(format!("{number} ends, {} epochs", summary.map_or(0, |s| s.epochs))),
        Err(errors) => {
            let text: Vec<String> = errors.iter().map(|error| without_durations(&error.to_string())).collect();
            nature.trace(format!("{number} failed: {}", text.join("; ")));
            // What a supervisor's restart mends.
            let passes = |e: &Error| {
                e.kind() == ErrorKind::Unavailable || (site.shared.disk.is_none() && e.kind() == ErrorKind::Fenced)
            };
            if !errors.iter().all(passes) {
                nature.lock().problems.push(format!("process {number}: {}", text.join("; ")));
            }
        }
    }
}

/// A text without how long something has really taken, which errors of `object_store` say: `… in 1.2ms, after …`.
fn without_durations(text: &str) -> String {
    let is_duration = |word: &str| word.starts_with(|c: char| c.is_ascii_digit()) && word.ends_with('s');
    let mut words: Vec<&str> = text.split(' ').collect();
    for at in 1..words.len() {
        if words[at - 1] == "in" && is_duration(words[at].trim_end_matches(',')) {
            words[at] = "…";
        }
    }
    words.join(" ")
}

/// Runs the job without a lease.
pub(crate) async fn alone(
    number: u64,
    site: &Arc<Site>,
    job: &Path,
    ending: Ending,
    stop: watch::Receiver<bool>,
) -> Result<Summary, Vec<Error>> {
    let prepared = prepare(&options(job, site, ending), Arc::clone(&site.clock)).await?;
    site.machine.nature.trace(format!("{number} begins"));
    Worker::run(prepared.job, stop, Arc::new(Progress::default())).await.map_err(|e| vec![e])
}

/// Runs the job whenever it has the lease.
async fn replica(
    number: u64,
    site: &Arc<Site>,
    job: &Path,
    stop: &watch::Receiver<bool>,
) -> Result<Option<Summary>, Vec<Error>> {
    let nature = &site.machine.nature;
    let object = |name: &str| -> Arc<dyn LeaseStore> {
        Arc::new(ObjectLease::new(site.store(), name, format!("s3://simulated/{name}")))
    };
    // Objects beside the checkpoints, or items of DynamoDB.
    let own = match site.shared.own_connectors {
        true => {
            let opened = dynamodb::leases(LEASES, LEASE_NAMES, None, Arc::clone(&site.clock), Some(site.aws()));
            opened.await.map_err(|e| vec![e])?
        }
        false => LEASE_NAMES.map(object),
    };
    let store = |name: &str| Arc::clone(&own[LEASE_NAMES.iter().position(|own| *own == name).expect("a lease")]);
    let times = Times { ttl: LEASE, beat: Duration::from_millis(800) };
    let holder = format!("process-{number}");
    let (contender, other) = if site.shared.fleet {
        // A second job, which does nothing, is a reason to hand the first one over.
        let member = Member::new(holder, Arc::clone(&site.clock), Spread::default());
        let seat = |job: &str| {
            let leases =
                SeatLeases { lease: store(&format!("{job}.json")), wish: store(&format!("{job}-wanted.json")) };
            Seat::new(&member, job, leases, times)
        };
        (Contender::from(seat("lease")), Some(seat("other")))
    } else {
        (Candidate::new(store("lease.json"), Arc::clone(&site.clock), holder, times).into(), None)
    };
    let mut replica = Replica::new(options(job, site, Ending::Run), contender, Arc::clone(&site.clock));
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
    tokio::select! {
        biased;
        ended = replica.run(stop, &progress, &mut tell) => ended,
        () = run_nothing(other) => unreachable!("it goes on for ever"),
    }
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
