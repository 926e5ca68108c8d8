//! One of several replicas of a job: waits for the job's lease, runs it while it has the lease, and waits again.
//!
//! What a run does is kept exact by the epoch log and the checkpoints, also where two replicas both believe to lead; so a
//! run that has lost its lease is dropped where it stands, as if it had been killed.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use super::run::{JobOptions, Prepared, connect_planned, job_name, plan_from_now, prepare};
use super::saved::{checkpoints_path, nonce};
use crate::connectors::dynamodb;
use crate::connectors::files::{StatePlace, state_place};
use crate::contracts::{Clock, Error, ErrorKind, Lease, LeasePlace, Result, caught};
use crate::ha::{Candidate, Contender, FolderLease, Keeper, LeaseThread, Lost, ObjectLease, SeatLeases, Term, Times};
use crate::runtime::{Progress, Retries, Summary, Worker};
use crate::sql::Settings;

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
    /// It has ended the job in order, so that another process of the fleet can run it.
    Gave {
        /// That process.
        to: &'a str,
        /// What the run has done.
        summary: &'a Summary,
    },
}

/// A process that wants to run a job.
pub struct Replica {
    options: JobOptions,
    contender: Contender,
    clock: Arc<dyn Clock>,
    retries: Retries,
    /// Where its terms are kept.
    thread: Option<Arc<LeaseThread>>,
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
            Some((candidate, thread)) => {
                let replica = Replica::new(options.clone(), candidate, Arc::clone(clock)).keeping_on(thread);
                Self::Replica(Box::new(replica.retrying(settings.retries)))
            }
            None => Self::Alone(Box::new(connect_planned(options, planned, Arc::clone(clock)).await?)),
        })
    }
}

impl Replica {
    /// A replica that competes as `contender`, and keeps its terms on the runtime that it is on.
    pub fn new(options: JobOptions, contender: impl Into<Contender>, clock: Arc<dyn Clock>) -> Self {
        Self { options, contender: contender.into(), clock, retries: Retries::default(), thread: None }
    }

    /// Has its terms kept on a thread that nothing else uses.
    pub(super) fn keeping_on(self, thread: Arc<LeaseThread>) -> Self {
        Self { thread: Some(thread), ..self }
    }

    pub(super) fn retrying(self, retries: Retries) -> Self {
        Self { retries, ..self }
    }

    /// What is to be done when a run fails.
    pub fn retries(&self) -> Retries {
        self.retries
    }

    /// Runs the job whenever this replica has the lease, until the job ends or `stop` turns true. `None`: stopped while
    /// another one led. May be called again.
    ///
    /// # Errors
    /// As [`prepare`] and [`Worker::run`]; a run that a successor has fenced is no error, this replica waits again.
    pub async fn run(
        &mut self,
        stop: &watch::Receiver<bool>,
        progress: &Arc<Progress>,
        tell: &mut impl FnMut(Stage<'_>),
    ) -> std::result::Result<Option<Summary>, Vec<Error>> {
        loop {
            let outcome = match self.acquire(stop.clone(), tell).await {
                Ok(Some(term)) => match self.lead(term, stop, progress, tell).await {
                    Some(done) => done.map(Some),
                    None => continue,
                },
                Ok(None) => Ok(None),
                Err(error) => Err(vec![error]),
            };
            self.contender.rest().await;
            return outcome;
        }
    }

    /// Runs the job for a term. `None`: it is another one's turn.
    async fn lead(
        &mut self,
        term: Term,
        stop: &watch::Receiver<bool>,
        progress: &Arc<Progress>,
        tell: &mut impl FnMut(Stage<'_>),
    ) -> Option<std::result::Result<Summary, Vec<Error>>> {
        tell(Stage::Leads { generation: term.generation() });
        let mut keeper = Keeper::of(term, self.thread.as_deref());
        let (end_sender, ending) = watch::channel(false);
        let mut given: Option<String> = None;
        let begun = OnceLock::new();
        let end = {
            let Self { options, contender, clock, .. } = &mut *self;
            let mut run = pin!(caught("the run", async {
                let prepared = tokio::select! {
                    biased;
                    prepared = prepare(options, Arc::clone(clock)) => prepared?,
                    // A large state need not be read for a run that is not to be.
                    () = stopped(ending.clone()) => {
                        tracing::warn!("stopped before the job had begun");
                        return Ok(Summary::default());
                    }
                };
                let _ = begun.set(prepared.job.log.as_ref().map(|log| log.generation));
                tell(Stage::Begins { prepared: &prepared });
                Worker::run(prepared.job, ending.clone(), Arc::clone(progress)).await.map_err(|e| vec![e])
            }));
            let mut stopped = pin!(stopped(stop.clone()));
            let mut wanted = pin!(contender.wanted());
            let mut goes_on = true;
            loop {
                tokio::select! {
                    biased;
                    lost = keeper.lost() => break End::Lost(lost),
                    // A panic has no other way to whoever counts failures, and the lease is to be given back after it.
                    done = &mut run => break End::Done(done.map_err(|died| vec![died]).flatten()),
                    () = &mut stopped, if goes_on => goes_on = false,
                    to = &mut wanted, if goes_on => (given, goes_on) = (Some(to), false),
                }
                // In order, and with the lease kept meanwhile.
                end_sender.send_replace(!goes_on);
            }
        };
        let term = keeper.end().await;
        // What was to be forgotten is forgotten: a later term goes on from what this one has done. If it has come to nothing, that is
        // still to be done.
        if let Some(generation) = begun.into_inner() {
            self.options.go_on(generation);
        }
        let done = match end {
            End::Lost(lost) => {
                tell(Stage::Lost { reason: lost.to_string() });
                None
            }
            End::Done(Err(errors)) if errors.iter().any(|e| e.kind() == ErrorKind::Fenced) && !*stop.borrow() => {
                let reason = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                tell(Stage::Lost { reason });
                // Whoever has fenced this run may have taken no lease: nobody is to wait for this one.
                give_back(term).await;
                // It writes; its lease, if it has one, shows it in a moment.
                self.clock.sleep(self.contender.times().beat).await;
                None
            }
            End::Done(done) => {
                give_back(term).await;
                match (done, given) {
                    (Ok(summary), Some(to)) if !*stop.borrow() => {
                        tell(Stage::Gave { to: &to, summary: &summary });
                        None
                    }
                    (done, _) => Some(done),
                }
            }
        };
        self.contender.ended();
        done
    }

    /// The lease; `None` when asked to stop before it was free.
    async fn acquire(&mut self, stop: watch::Receiver<bool>, tell: &mut impl FnMut(Stage<'_>)) -> Result<Option<Term>> {
        let state = &self.options.state;
        let once = self.options.fresh || state.from_savepoint.is_some() || state.previous_checkpoint;
        let mut led_by = None;
        let waiting = |lease: &Lease| {
            led_by = Some(lease.holder.clone());
            tell(Stage::Waits { leader: &lease.holder });
        };
        let term = tokio::select! {
            biased;
            () = stopped(stop) => None,
            term = self.contender.acquire(waiting) => Some(term?),
        };
        match led_by {
            Some(leader) if once && term.is_some() => {
                give_back(term).await;
                Err(Error::config(format!("'{leader}' was running the job when this replica was started to go back"))
                    .hint("stop all replicas first; --fresh, --from-savepoint and --previous-checkpoint are for a job that nobody runs"))
            }
            _ => Ok(term),
        }
    }
}

/// A successor need not wait for what nobody uses.
async fn give_back(term: Option<Term>) {
    if let Some(term) = term
        && let Err(error) = term.release().await
    {
        tracing::warn!("the lease was not given back: {error}");
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // A sender that has gone will never stop anything.
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Where to look for the lease of a job, if it has one.
pub(super) fn lease_place(options: &JobOptions, settings: &Settings) -> Option<LeasePlace> {
    options.state.lease.clone().or_else(|| settings.lease.clone())
}

/// The candidate of this process for a job's lease, and a thread for it; `None` for a job without one.
async fn candidate(
    options: &JobOptions,
    settings: &Settings,
    job: &str,
    clock: &Arc<dyn Clock>,
) -> Result<Option<(Candidate, Arc<LeaseThread>)>> {
    let Some(place) = lease_place(options, settings) else { return Ok(None) };
    let thread = LeaseThread::start()?;
    let leases = leases(place, options, settings, job, clock, &thread).await?;
    Ok(Some((Candidate::new(leases.lease, Arc::clone(clock), holder()?, times(settings)), thread)))
}

/// Opens where a job's lease is kept, and the wish for it; all that is asked of them is asked on `thread`.
pub(super) async fn leases(
    place: LeasePlace,
    options: &JobOptions,
    settings: &Settings,
    job: &str,
    clock: &Arc<dyn Clock>,
    thread: &Arc<LeaseThread>,
) -> Result<SeatLeases> {
    let Some(path) = checkpoints_path(options, settings, job) else {
        return Err(Error::config("a job with a lease needs checkpoints: without them a successor would begin anew")
            .hint("SET 'state.checkpoints.dir' = 's3://bucket/prefix', or --checkpoints"));
    };
    let opened = thread.run(open_leases(place, path, job.to_owned(), Arc::clone(clock))).await??;
    Ok(SeatLeases { lease: thread.store(opened.lease), wish: thread.store(opened.wish) })
}

/// `path` is that of the job's checkpoints.
async fn open_leases(place: LeasePlace, path: String, job: String, clock: Arc<dyn Clock>) -> Result<SeatLeases> {
    Ok(match place {
        LeasePlace::DynamoDb(table) => {
            let (wanted, checkpoints) = (format!("{job}#wanted"), same_everywhere(&path));
            let [lease, wish] = dynamodb::leases(&table, [&job, &wanted], checkpoints.as_deref(), clock, None).await?;
            SeatLeases { lease, wish }
        }
        LeasePlace::Checkpoints => match state_place(&path, clock).await? {
            StatePlace::Folder(folder) => {
                let in_folder = |name: &str| Arc::new(FolderLease::new(folder.join(name)));
                SeatLeases { lease: in_folder("lease"), wish: in_folder("wanted") }
            }
            StatePlace::Bucket { store, prefix } => {
                let object = |name: &str| {
                    let (key, place) = (format!("{prefix}/{name}.json"), format!("{path}/{name}.json"));
                    Arc::new(ObjectLease::new(Arc::clone(&store), &key, place))
                };
                SeatLeases { lease: object("lease"), wish: object("wanted") }
            }
        },
    })
}

/// A place of checkpoints, if all machines call it so. A folder may be mounted anywhere.
fn same_everywhere(path: &str) -> Option<String> {
    let (scheme, place) = path.split_once("://")?;
    matches!(scheme, "s3" | "s3a" | "s3n").then(|| format!("s3://{place}"))
}

/// Times of a job's lease.
pub(super) fn times(settings: &Settings) -> Times {
    let ttl = u64::try_from(settings.lease_ttl_ms).unwrap_or(0).max(500);
    Times { ttl: Duration::from_millis(ttl), beat: Duration::from_millis(ttl / 5) }
}

/// A name of this process that no other one has, and no earlier one had.
pub(super) fn holder() -> Result<String> {
    Ok(format!("{}-{}-{}", host(), std::process::id(), nonce()?))
}

/// Name of the machine (or container), for people.
fn host() -> String {
    let from_system = || std::fs::read_to_string("/etc/hostname").ok();
    let name = std::env::var("HOSTNAME").ok().or_else(from_system).unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "replica".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;
