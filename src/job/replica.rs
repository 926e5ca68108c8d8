//! One of several replicas of a job: waits for the job's lease, runs it while it has the lease, and waits again.
//!
//! What a run does is kept exact by the epoch log and the checkpoints, also where two replicas both believe to lead; so a
//! run that has lost its lease is dropped where it stands, as if it had been killed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::run::{JobOptions, Prepared, connect_planned, job_name, plan_from_now, prepare};
use super::saved::{checkpoints_path, nonce};
use crate::connectors::dynamodb;
use crate::connectors::files::{StatePlace, state_place};
use crate::contracts::{Clock, Error, ErrorKind, Lease, LeaseStore, Result};
use crate::ha::{Candidate, FolderLease, Lost, ObjectLease, Term, Times};
use crate::runtime::{Progress, Retries, Summary, Worker};
use crate::sql::Settings;

/// Where leases are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeasePlace {
    /// Beside the job's checkpoints.
    Checkpoints,
    /// In a DynamoDB table.
    DynamoDb(String),
}

impl LeasePlace {
    /// `checkpoints` or `dynamodb:TABLE`.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            None if text.eq_ignore_ascii_case("checkpoints") => Ok(Self::Checkpoints),
            Some(("dynamodb", table)) if !table.is_empty() => Ok(Self::DynamoDb(table.to_owned())),
            _ => Err(format!("'{text}' is neither 'checkpoints' nor 'dynamodb:TABLE'")),
        }
    }
}

/// What a person is told while replicas come and go.
pub enum Stage<'a> {
    /// Another replica runs the job.
    Waits {
        /// Its name.
        leader: &'a str,
    },
    /// This one does, from now on.
    Leads {
        /// Number of the term.
        generation: u64,
    },
    /// The job is connected, and begins.
    Begins {
        /// The job, with notes about it.
        prepared: &'a Prepared,
    },
    /// No longer.
    Lost {
        /// Why.
        reason: String,
    },
}

/// A process that wants to run a job.
pub struct Replica {
    options: JobOptions,
    candidate: Candidate,
    clock: Arc<dyn Clock>,
    retries: Retries,
}

/// What came of a replica's term.
enum End {
    Done(std::result::Result<Summary, Vec<Error>>),
    Lost(Lost),
}

/// How a job is run.
pub enum Start {
    /// It has no lease: this process runs it, at once.
    Alone(Box<Prepared>),
    /// It has one: this process runs it when its turn has come.
    Replica(Box<Replica>),
}

impl Start {
    /// Plans a job, and connects it if it has no lease. The SQL of one that has is planned too, so that what is wrong with it
    /// is known now, and not when the replica takes over.
    ///
    /// # Errors
    /// As [`prepare`]; a lease without checkpoints; no such table or bucket of leases.
    pub async fn of(options: &JobOptions, clock: &Arc<dyn Clock>) -> std::result::Result<Self, Vec<Error>> {
        let planned = plan_from_now(options, clock).await?;
        let settings = &planned.0.settings;
        let name = job_name(settings, &options.paths);
        Ok(match candidate(options, settings, &name, clock).await.map_err(|e| vec![e])? {
            Some(candidate) => {
                let replica = Replica::new(options.clone(), candidate, Arc::clone(clock));
                Self::Replica(Box::new(Replica { retries: settings.retries, ..replica }))
            }
            None => Self::Alone(Box::new(connect_planned(options, planned, Arc::clone(clock)).await?)),
        })
    }
}

impl Start {
    /// What is to be done when the run fails.
    pub fn retries(&self) -> Retries {
        match self {
            Self::Alone(prepared) => prepared.job.retries,
            Self::Replica(replica) => replica.retries,
        }
    }

    /// Whether a later run goes on from this one.
    pub fn keeps_state(&self) -> bool {
        match self {
            Self::Alone(prepared) => prepared.job.log.is_some(),
            Self::Replica(_) => true,
        }
    }
}

impl Replica {
    /// A replica that competes as `candidate`.
    pub fn new(options: JobOptions, candidate: Candidate, clock: Arc<dyn Clock>) -> Self {
        Self { options, candidate, clock, retries: Retries::default() }
    }

    /// Runs the job whenever this replica has the lease, until the job ends or `stop` turns true. `None`: stopped while
    /// another one led.
    ///
    /// # Errors
    /// As [`prepare`] and [`Worker::run`]; a run that a successor has fenced is no error, this replica waits again.
    pub async fn run(
        mut self,
        stop: &watch::Receiver<bool>,
        progress: &Arc<Progress>,
        tell: &mut impl FnMut(Stage<'_>),
    ) -> std::result::Result<Option<Summary>, Vec<Error>> {
        loop {
            let Some(mut term) = self.acquire(stop.clone(), tell).await.map_err(|e| vec![e])? else {
                return Ok(None);
            };
            tell(Stage::Leads { generation: term.generation() });
            let run = async {
                let prepared = prepare(&self.options, Arc::clone(&self.clock)).await?;
                tell(Stage::Begins { prepared: &prepared });
                Worker::run(prepared.job, stop.clone(), Arc::clone(progress)).await.map_err(|e| vec![e])
            };
            let end = tokio::select! {
                biased;
                lost = term.keep() => End::Lost(lost),
                done = run => End::Done(done),
            };
            // What was to be forgotten is forgotten: a later term goes on from what this one has done.
            self.options.go_on();
            match end {
                End::Lost(lost) => tell(Stage::Lost { reason: lost.to_string() }),
                End::Done(Err(errors)) if errors.iter().any(|e| e.kind() == ErrorKind::Fenced) && !*stop.borrow() => {
                    let reason = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                    tell(Stage::Lost { reason });
                    // Whoever has fenced this run writes; its lease shows it in a moment.
                    self.clock.sleep(self.candidate.times().beat).await;
                }
                End::Done(done) => {
                    if let Err(error) = term.release().await {
                        tracing::warn!("the lease was not given back: {error}");
                    }
                    return done.map(Some);
                }
            }
        }
    }

    /// The lease; `None` when asked to stop before it was free.
    async fn acquire(&self, mut stop: watch::Receiver<bool>, tell: &mut impl FnMut(Stage<'_>)) -> Result<Option<Term>> {
        let stopped = async {
            // A sender that has gone will never stop anything.
            if stop.wait_for(|stop| *stop).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let state = &self.options.state;
        let once = self.options.fresh || state.from_savepoint.is_some() || state.previous_checkpoint;
        let mut led_by = None;
        let waiting = |lease: &Lease| {
            led_by = Some(lease.holder.clone());
            tell(Stage::Waits { leader: &lease.holder });
        };
        let term = tokio::select! {
            biased;
            () = stopped => None,
            term = self.candidate.acquire(waiting) => Some(term?),
        };
        match led_by {
            Some(leader) if once && term.is_some() => {
                Err(Error::config(format!("'{leader}' was running the job when this replica was started to go back"))
                    .hint("stop all replicas first; --fresh, --from-savepoint and --previous-checkpoint are for a job that nobody runs"))
            }
            _ => Ok(term),
        }
    }
}

/// Where to look for the lease of a job, if it has one.
pub(super) fn lease_place(options: &JobOptions, settings: &Settings) -> Result<Option<LeasePlace>> {
    match (&options.state.lease, &settings.lease) {
        (Some(place), _) => Ok(Some(place.clone())),
        (None, Some(text)) => LeasePlace::parse(text).map(Some).map_err(Error::config),
        (None, None) => Ok(None),
    }
}

/// The candidate of this process for a job's lease; `None` for a job without one.
async fn candidate(
    options: &JobOptions,
    settings: &Settings,
    job: &str,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Candidate>> {
    let Some(place) = lease_place(options, settings)? else { return Ok(None) };
    let Some(path) = checkpoints_path(options, settings, job) else {
        return Err(Error::config("a job with a lease needs checkpoints: without them a successor would begin anew")
            .hint("SET 'state.checkpoints.dir' = 's3://bucket/prefix', or --checkpoints"));
    };
    let store: Arc<dyn LeaseStore> = match place {
        LeasePlace::DynamoDb(table) => dynamodb::lease(&table, job, Arc::clone(clock)).await?,
        LeasePlace::Checkpoints => match state_place(&path, Arc::clone(clock)).await? {
            StatePlace::Folder(folder) => Arc::new(FolderLease::new(folder.join("lease"))),
            StatePlace::Bucket { store, prefix } => {
                let key = format!("{prefix}/lease.json");
                Arc::new(ObjectLease::new(store, &key, format!("{path}/lease.json")))
            }
        },
    };
    let ttl = u64::try_from(settings.lease_ttl_ms).unwrap_or(0).max(500);
    let times = Times { ttl: Duration::from_millis(ttl), beat: Duration::from_millis(ttl / 5) };
    let holder = format!("{}-{}-{}", host(), std::process::id(), nonce()?);
    Ok(Some(Candidate::new(store, Arc::clone(clock), holder, times)))
}

/// Name of the machine (or container), for people.
fn host() -> String {
    let from_system = || std::fs::read_to_string("/etc/hostname").ok();
    let name = std::env::var("HOSTNAME").ok().or_else(from_system).unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "replica".to_owned() } else { name.to_owned() }
}
