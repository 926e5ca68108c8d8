//! The life of a run: epochs from start to end, then flush and save.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use datafusion::arrow::datatypes::SchemaRef;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::accounting::Summary;
use super::checkpoints::{Checkpointer, Checkpointing};
use super::crew::{Crew, Foreman};
use super::driver::{Course, Driver};
use super::epoch::EpochLimits;
use super::error_orders::{ERRORS_WAITING, is_gone, refuse, run_errors};
use super::failures::{Failures, Retries};
use super::feed::FeedSpecification;
use super::inputs::{Inputs, tests_of};
use super::memory::MemoryWatch;
use super::patience::{FINISH_PATIENCE, FLUSH_PATIENCE, Patience, asked};
use super::progress::{Progress, report};
use super::queries::{
    EpochContext, RunningQuery, all_recovered, check_writer, checkpoint_query, end_query, finish_query, run_queries,
    start_query,
};
use super::references::{ReferenceSpecification, References};
use super::repeat::{JobLog, Repeated, append, identity, repeated};
use super::restored::restore_queries;
use super::writer::WriterLog;
use crate::contracts::{Clock, EpochCut, EpochLog, EpochNumber, Error, ErrorOutput, LogEntry, Result, Sink, Watermark};
use crate::operators::{Compute, GateKind, QueryGraph};
use crate::state::SavedJob;

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// When it is told to (or when all its sources have ended).
    Run,
    /// When everything that is there has been read; windows close, as at the end of the input.
    Drain,
    /// When everything that is there has been read; windows stay open.
    Once,
}

/// A query and its sink.
pub struct QuerySpec {
    /// `file:sink`.
    pub name: String,
    /// What it computes, in its normal form.
    pub plan: String,
    /// The query.
    pub graph: QueryGraph,
    /// Source tables that it reads.
    pub tables: Vec<usize>,
    /// The same, by the names under which their positions are saved.
    pub reads: Vec<String>,
    /// A hash of what decides which records are refused: how they are decoded, the query, its sink, settings.
    pub refusal_rules: String,
    /// Whether that depends on what is found in other tables, too, when it is looked up.
    pub looks_up: bool,
    /// What its gates check, by number.
    pub gates: Vec<GateKind>,
    /// Primary key among the sink's columns.
    pub key: Vec<usize>,
    /// Whether the rows of an epoch are known to differ in the key.
    pub has_each_key_once: bool,
    /// Schema of the rows for the sink.
    pub schema: SchemaRef,
    /// Where rows go.
    pub sink: Box<dyn Sink>,
}

/// Everything a run needs.
pub struct Job {
    /// Sources, each with the tables that read it.
    pub feeds: Vec<FeedSpecification>,
    /// Length of the epoch's inputs.
    pub slots: usize,
    /// Reference tables.
    pub references: Vec<ReferenceSpecification>,
    /// The queries.
    pub queries: Vec<QuerySpec>,
    /// Where refused records go.
    pub errors: Box<dyn ErrorOutput>,
    /// Whether late rows go there too.
    pub late_to_errors: bool,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What `now()` answers, in milliseconds.
    pub epoch_time: Arc<AtomicI64>,
    /// What runs plans.
    pub compute: Compute,
    /// When epochs close.
    pub limits: EpochLimits,
    /// How the run ends.
    pub ending: Ending,
    /// Where an earlier run stopped.
    pub saved: SavedJob,
    /// Where cuts are written; `None` when nothing outlives the run.
    pub log: Option<JobLog>,
    /// Where checkpoints are kept; `None` when nothing outlives the run.
    pub checkpointing: Option<Checkpointing>,
    /// What is done about an epoch that has made a run fail.
    pub retries: Retries,
}

/// While no rows come, epochs follow each other no faster than this, however short they are.
const QUIET: std::time::Duration = std::time::Duration::from_millis(200);

/// Runs jobs.
#[derive(Debug)]
pub struct Worker;

impl Worker {
    /// Runs a job until it ends or `stop` turns true.
    ///
    /// # Errors
    /// The first failure of a source, query or sink, with its name and the records of its epoch. No checkpoint is made then.
    pub async fn run(job: Job, stop: watch::Receiver<bool>, progress: Arc<Progress>) -> Result<Summary> {
        let log = job.log.as_ref().map(|log| Arc::clone(&log.log));
        let entries = job.log.as_ref().map(|log| log.entries.as_slice()).unwrap_or_default();
        let queries = job.queries.iter().map(|query| (query.name.as_str(), identity(&query.plan)));
        let mut failures = Failures::new(entries, queries, job.retries);
        let (foreman, crew) = Foreman::new();
        let outcome = Self::run_epochs(job, stop, progress, &mut failures, crew).await;
        foreman.dismiss().await;
        match outcome {
            Err(error) => Err(failures.note(log.as_ref(), error).await),
            done => done,
        }
    }

    async fn run_epochs(
        mut job: Job,
        mut stop: watch::Receiver<bool>,
        progress: Arc<Progress>,
        failures: &mut Failures,
        crew: Crew,
    ) -> Result<Summary> {
        let started = job.clock.elapsed();
        let Repeated { cuts, mut committed } = repeated(&job)?;
        let is_first = cuts.cuts.is_empty() && job.saved.tables.is_empty();
        let generation = job.log.as_ref().map_or(0, |log| log.generation);
        let log: Option<Arc<dyn EpochLog>> = job.log.map(|log| log.log);
        let clock = Arc::clone(&job.clock);
        let versions = job.checkpointing.as_ref().map(|kept| Arc::clone(kept.store.references()));
        let mut references = References::new(job.references, versions, Arc::clone(&clock));
        let mut checkpointer = job.checkpointing.map(|checkpointing| {
            Checkpointer::new(
                checkpointing,
                &job.saved,
                log.clone(),
                generation,
                clock,
                crew.clone(),
                Arc::clone(&progress),
            )
        });
        let after = EpochNumber(job.saved.epoch);
        let catch_up = job.saved.reread.as_ref().and_then(|reread| reread.catch_up.as_ref());
        let catching_up = catch_up.map(|catch_up| catch_up.queries.clone()).unwrap_or_default();
        let (error_sender, error_receiver) = mpsc::channel(ERRORS_WAITING);
        let errors = crew.spawn(run_errors(job.errors, error_receiver));
        let (mut queries, mut memory) = (Vec::new(), MemoryWatch::default());
        let mut may_write = Vec::new();
        let patience = Patience::new(Arc::clone(&job.clock), stop.clone(), log.is_some());
        for restored in restore_queries(job.queries, &mut job.saved, &job.compute, &crew).await? {
            let committed = committed.remove(&restored.query.name).unwrap_or_default();
            let (all, recovered) = oneshot::channel();
            may_write.push(all);
            let all_recovered = Some(recovered);
            let (log, patience) = (log.clone(), Some(patience.clone()));
            let log = WriterLog { log, committed, after, all_recovered, patience, ..WriterLog::default() };
            let mut query = start_query(restored, error_sender.clone(), log, &job.compute, &crew);
            query.catches_up = catching_up.contains(&query.name) && query.graph.operators.is_empty();
            queries.push(query);
        }
        memory.keep(&mut queries, &job.compute, started).await?;
        let decoded_through = queries.iter().map(|query| query.told_through.by_decoding).min().unwrap_or(after);
        let mut driver = Driver::new(
            job.feeds,
            job.slots,
            Arc::clone(&job.clock),
            job.compute.clone(),
            Course { limits: job.limits, ending: job.ending },
            job.saved.take_reread(),
            crew.clone(),
        );
        let begun = async {
            driver.begin(cuts).await?;
            all_recovered(&mut queries).await
        };
        let is_stopped = tokio::select! {
            biased;
            begun = begun => begun.map(|()| false),
            () = asked(stop.clone()) => Ok(true),
        };
        if is_stopped.is_err() && is_first {
            // What a first start has registered, no saved state knows of: the next start would take it for somebody else's.
            driver.stop();
            let end = async {
                driver.end().await;
                Ok(())
            };
            let _ = patience.within("the source", FLUSH_PATIENCE, end).await;
        }
        if is_stopped? {
            // The last checkpoint and the log have everything for the next run.
            tracing::warn!("stopped before every source and sink had been reached: no epoch was run");
            driver.stop();
            // What a source leaves behind, its next run finds.
            let _ = patience
                .within("the source", FLUSH_PATIENCE, async {
                    driver.end().await;
                    Ok(())
                })
                .await;
            let elapsed = job.clock.elapsed().saturating_sub(started);
            return Ok(Summary { tables: driver.counts().cloned().collect(), elapsed, ..Summary::default() });
        }
        // One that does not wait has failed, and says it by its end.
        for all in may_write {
            let _ = all.send(());
        }
        let mut epoch_number = after;
        let mut saved_epoch = after;
        let mut summary = Summary::default();
        let mut told = (vec![Watermark::MIN; job.slots], Vec::new());
        let mut ran = job.clock.elapsed();
        let tests = tests_of(&queries, job.slots);
        let (mut finishes, mut drained) = (true, false);
        loop {
            let caught_up = driver.catches_up();
            let mut epoch = driver.next(&mut stop).await?;
            let catches_up = driver.catches_up();
            if let (Some(checkpointer), true) = (&mut checkpointer, caught_up && !catches_up) {
                checkpointer.caught_up(epoch_number);
            }
            for query in &mut queries {
                let checked = check_writer(query).await;
                if let Err(error) = failures.of(&query.name, query.writes(), checked) {
                    return Err(cause_of(error, errors).await);
                }
            }
            if errors.is_finished() {
                return Err(errors_failed(errors).await);
            }
            let last = epoch.last;
            if last && (driver.is_replaying() || catches_up) {
                // Stopped between two logged epochs, or before some queries have caught up with the others: the last checkpoint and the log have everything for the next run.
                checkpointer = None;
                finishes = false;
                break;
            }
            // Also when nothing has come: a split that has caught up since says so.
            report(&progress, &driver, &epoch);
            let changed = references.of_epoch(epoch.logged.as_ref()).await?;
            let loaded = changed.iter().any(Option::is_some);
            let first = summary.epochs == 0;
            let repeats = epoch.logged.is_some();
            let now_ms = epoch.now_ms;
            let due = queries.iter().any(|query| query.due.load(Ordering::Relaxed) <= now_ms);
            // Time alone moves watermarks at each epoch, which may be short, and mostly closes nothing.
            let quiet_over = job.clock.elapsed().saturating_sub(ran) >= QUIET;
            let is_new = (&epoch.watermarks, &epoch.standings) != (&told.0, &told.1);
            let moved = is_new && (quiet_over || told.0.contains(&Watermark::MIN));
            if epoch.total_rows > 0 || moved || loaded || first || last || repeats || due {
                told = (epoch.watermarks.clone(), epoch.standings.clone());
                ran = job.clock.elapsed();
                let cut = match epoch.logged.take() {
                    Some(cut) => cut,
                    None => {
                        let stopped = *stop.borrow();
                        let closes = last && !stopped && job.ending != Ending::Once;
                        let (splits, tables) = driver.cut_of(&epoch);
                        let (number, oldest_ms) = (epoch_number.next().0, epoch.oldest_ms);
                        let references = references.noted(number);
                        EpochCut {
                            epoch: number,
                            generation,
                            now_ms,
                            oldest_ms,
                            closes,
                            catches_up,
                            splits,
                            tables,
                            references,
                        }
                    }
                };
                let (closes, now_ms) = (cut.closes, cut.now_ms);
                drained = closes;
                if let Some(checkpointer) = &mut checkpointer {
                    checkpointer.cut(EpochNumber(cut.epoch), cut.oldest_ms);
                }
                epoch_number = EpochNumber(cut.epoch);
                progress.epoch.store(cut.epoch, Ordering::Relaxed);
                progress.without_epoch.store(failures.skipping(cut.epoch), Ordering::Relaxed);
                summary.epochs += 1;
                job.epoch_time.store(now_ms, Ordering::Relaxed);
                let floors = queries.iter().map(|query| &query.floors);
                let inputs = Inputs::new(&epoch, &tests, changed, closes, floors)?;
                // The cut is written while the queries compute; nothing leaves the process before both are done.
                let entry = Arc::new(LogEntry::Cut(cut));
                failures.begin(Arc::clone(&entry));
                let entry = (!repeats).then_some(&*entry);
                let computed = run_queries(queries, &inputs, &job.compute, (epoch_number, catches_up), failures);
                let computed = patience.within("an epoch", FINISH_PATIENCE, computed);
                let (computed, logged) = tokio::join!(computed, append(log.as_ref(), entry));
                // Without its cut there is no epoch that a query could have failed at: the next run makes another one of that number.
                logged?;
                queries = computed?;
                let rejects = std::mem::take(&mut epoch.rejects);
                if epoch_number > decoded_through && refuse(&error_sender, rejects).await.is_err() {
                    return Err(errors_failed(errors).await);
                }
                let context =
                    EpochContext { driver: &driver, epoch: &epoch, epoch_number, now_ms, catches_up, repeats };
                for query in queries.iter_mut().filter(|query| query.is_given(epoch_number, catches_up)) {
                    let finished = finish_query(query, &context, job.late_to_errors, &error_sender).await;
                    if let Err(error) = failures.of(&query.name, query.writes(), finished) {
                        return Err(cause_of(error, errors).await);
                    }
                }
                memory.keep(&mut queries, &job.compute, job.clock.elapsed()).await?;
                progress.epochs.store(summary.epochs, Ordering::Relaxed);
                let rows_out = queries.iter().map(|q| q.counts.rows_out).sum();
                progress.rows_out.store(rows_out, Ordering::Relaxed);
                if repeats {
                    if closes {
                        queries.iter_mut().for_each(RunningQuery::reopen);
                    }
                    driver.go_on(closes).await?;
                }
            }
            if let Some(checkpointer) = &mut checkpointer
                && !last
                && epoch_number > saved_epoch
                && !driver.is_replaying()
                && !catches_up
                && checkpointer.is_due().await?
            {
                saved_epoch = epoch_number;
                checkpointer.begun(&driver.begun_tables());
                let tables = driver.saved_tables(false);
                let order = checkpointer.begin(epoch_number, tables, queries.len(), error_sender.clone()).await?;
                for query in &mut queries {
                    // Its writer may have gone since the epoch was sent.
                    let ordered = checkpoint_query(query, order.clone()).await;
                    if let Err(error) = failures.of(&query.name, query.writes(), ordered) {
                        return Err(cause_of(error, errors).await);
                    }
                }
            }
            if last {
                break;
            }
        }
        let mut saved = SavedJob { epoch: epoch_number.0, ..SavedJob::default() };
        for query in queries {
            let (name, writes) = (query.name.clone(), query.writes());
            let ended = end_query(query, epoch_number, finishes).await;
            let (counts, state) = match failures.of(&name, writes, ended) {
                Ok(ended) => ended,
                Err(error) => return Err(cause_of(error, errors).await),
            };
            saved.queries.insert(counts.name.clone(), state);
            summary.queries.push(counts);
        }
        drop(error_sender);
        errors.await.map_err(|e| Error::internal("the error output ended early").caused_by(e))??;
        driver.stop();
        saved.tables = driver.saved_tables(drained);
        driver.end().await;
        summary.tables = driver.counts().cloned().collect();
        summary.elapsed = job.clock.elapsed().saturating_sub(started);
        summary.check()?;
        summary.spilled_bytes = job.compute.limit.as_ref().map_or(0, |limit| limit.folder.bytes().0);
        if let Some(checkpointer) = checkpointer {
            summary.checkpoints = Some(checkpointer.finish(&saved).await?);
        }
        Ok(summary)
    }
}

/// What has failed, of a query or its writer: itself, or the error output that it sent to.
async fn cause_of(error: Error, errors: JoinHandle<Result<()>>) -> Error {
    if is_gone(&error) { errors_failed(errors).await } else { error }
}

/// Why the error output has gone.
async fn errors_failed(errors: JoinHandle<Result<()>>) -> Error {
    match errors.await {
        Ok(Err(error)) => error,
        _ => Error::internal("the error output ended early"),
    }
}
