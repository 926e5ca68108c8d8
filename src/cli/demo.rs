//! `tidemill demo`: the shipped job on generated live traffic, with what it makes on the screen.
//!
//! ```text
//! traffic ──> DIR/kinesis/analytics-events ──> the job ──> DIR/dynamodb.sqlite, sns, s3 ──> screen
//! ```
//!
//! Nothing is short-cut: the events go through the embedded stream, the job is the one that `tidemill run` runs, and the
//! screen reads the files that anybody else can read.

mod folder;
mod results;
mod screen;
mod text;
mod traffic;

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use self::folder::Folder;
use self::results::{Figures, Results};
use self::screen::{Pulse, Screen, log_line, window_lines};
use self::traffic::Traffic;
use super::log::tell;
use super::signals::signalled;
use super::summary::print_summary;
use super::{Outcome, default_threads, produce::rate, runtime};
use crate::connectors::kinesis::produce::{BATCH_RECORDS, local_target};
use crate::contracts::{Clock, Error, Result, SystemClock};
use crate::job::{JobOptions, prepare};
use crate::runtime::{Ending, Progress, Worker};

/// The names that the screen looks for, whatever the environment says.
const PARAMETERS: &[(&str, &str)] = &[
    ("EVENTS_STREAM", "analytics-events"),
    ("METRICS_TABLE", "analytics-metrics"),
    ("ALERTS_TOPIC", "analytics-alerts"),
    ("ARCHIVE_BUCKET", "my-analytics-archive"),
    ("PAGE_VIEWS_TABLE", "page-views-per-minute"),
    ("TOP_PAGES_TABLE", "top-pages"),
    ("REVENUE_BY_CATEGORY_TABLE", "revenue-by-category"),
];

/// Events leave this often.
const TRAFFIC_STEP: Duration = Duration::from_millis(10);
const SCREEN_STEP: Duration = Duration::from_secs(1);
const LOG_STEP: Duration = Duration::from_secs(3);
/// How often the job's counters are looked at, and epochs that the shown rate spans.
const LOOK_STEP: Duration = Duration::from_millis(100);
const RATE_EPOCHS: usize = 8;
/// How long the end waits until the job has read what was sent.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Arguments of `demo`.
#[derive(Debug, Clone, Args)]
pub(super) struct DemoArgs {
    /// Folder of the queries, which you may edit, and of all that they make. A demo starts anew in the folder of an
    /// earlier one; in any other it removes nothing
    #[arg(long, value_name = "DIR", default_value = "tidemill-demo")]
    local: PathBuf,
    /// Events per second
    #[arg(long, value_name = "N/s", default_value = "1000/s", value_parser = rate)]
    rate: f64,
    /// End after so many seconds instead of by Ctrl-C
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Another seed gives other visitors
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

pub(super) fn demo(args: DemoArgs) -> Outcome {
    runtime(default_threads())?.block_on(run(args))
}

async fn run(args: DemoArgs) -> Outcome {
    let folder = Folder::prepare(&args.local).map_err(|e| vec![e])?;
    if !folder.own {
        tell!("note: '{}' was not made by the demo: what is in it is kept", folder.path.display());
    }
    if !folder.edited.is_empty() {
        tell!("note: queries that you have edited are used as they are: {}", folder.edited.join(", "));
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let options = JobOptions {
        paths: vec![folder.queries()],
        local: Some(folder.path.clone()),
        ending: Ending::Run,
        from: None,
        parameters: PARAMETERS.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        fresh: folder.own,
        state: Default::default(),
        threads: default_threads(),
        epoch_interval: None,
        epoch_rows: None,
        memory: None,
    };
    let prepared = prepare(&options, Arc::clone(&clock)).await?;
    for warning in &prepared.warnings {
        tell!("note: {warning}");
    }
    let progress = Arc::new(Progress::default());
    let (stop_job, stop) = watch::channel(false);
    let mut job = tokio::spawn(Worker::run(prepared.job, stop, Arc::clone(&progress)));
    let sent = Arc::new(AtomicU64::new(0));
    let (stop_traffic, quiet) = watch::channel(false);
    let mut traffic = tokio::spawn(send(args.clone(), Arc::clone(&clock), Arc::clone(&sent), quiet));
    let mut watched = Watched::new(&args.local, clock, progress, sent);
    let mut failed = tokio::select! {
        shown = watched.show(args.seconds) => shown.err(),
        ended = &mut traffic => {
            watched.restore();
            Some(joined(ended).err().unwrap_or_else(|| Error::internal("the traffic has ended by itself")))
        }
        ended = &mut job => {
            watched.restore();
            return Err(vec![joined(ended).err().unwrap_or_else(|| Error::internal("the job has ended by itself"))]);
        }
    };
    // In this order, so that everything that was sent is also counted.
    tokio::spawn(end_at_next_signal(watched.screen.is_some()));
    let _ = stop_traffic.send(true);
    if failed.is_none() {
        failed = joined((&mut traffic).await).err();
        watched.settle().await;
    }
    let _ = stop_job.send(true);
    let summary = joined(job.await).map_err(|e| vec![e])?;
    watched.close();
    print_summary("", &summary);
    print_ways_on(&folder);
    failed.map_or(Ok(()), |error| Err(vec![error]))
}

/// The result of a task.
fn joined<T>(ended: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    ended.map_err(|e| Error::internal("a task of the demo failed").caused_by(e))?
}

/// While the end takes its time: another signal ends at once.
async fn end_at_next_signal(screen: bool) {
    if signalled().await.is_ok() {
        if screen {
            Screen::restore();
        }
        std::process::exit(130);
    }
}

/// Sends events until it is told to stop.
async fn send(args: DemoArgs, clock: Arc<dyn Clock>, sent: Arc<AtomicU64>, stop: watch::Receiver<bool>) -> Result<()> {
    let mut target = local_target(&args.local, "analytics-events", Arc::clone(&clock))?;
    let mut traffic = Traffic::new(args.seed, args.rate, clock.now_ms());
    let started = clock.elapsed();
    let mut count = 0;
    while !*stop.borrow() {
        let due = ((clock.elapsed() - started).as_secs_f64() * args.rate) as u64;
        let now_ms = clock.now_ms();
        let batch: Vec<_> = (count..due).take(BATCH_RECORDS).map(|_| traffic.event(now_ms)).collect();
        if !batch.is_empty() {
            target.put(&batch).await?;
            count += batch.len() as u64;
            sent.store(count, Ordering::Relaxed);
        }
        if due <= count {
            clock.sleep(TRAFFIC_STEP).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// What is shown, and where.
struct Watched {
    clock: Arc<dyn Clock>,
    progress: Arc<Progress>,
    sent: Arc<AtomicU64>,
    results: Results,
    figures: Figures,
    pulse: Pulse,
    screen: Option<Screen>,
    started: Duration,
    /// Records and time when the counter last moved, which it does once an epoch.
    moves: VecDeque<(u64, Duration)>,
}

impl Watched {
    fn new(local: &Path, clock: Arc<dyn Clock>, progress: Arc<Progress>, sent: Arc<AtomicU64>) -> Self {
        let started = clock.elapsed();
        Self {
            results: Results::new(local),
            figures: Figures::default(),
            pulse: Pulse::default(),
            screen: std::io::stdout().is_terminal().then(Screen::open),
            moves: VecDeque::from([(0, started)]),
            started,
            clock,
            progress,
            sent,
        }
    }

    /// Shows until the time is over or a signal asks for the end.
    async fn show(&mut self, seconds: Option<u64>) -> Result<()> {
        let failed = |e| Error::unavailable("signal handler").caused_by(e);
        let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
        let clock = Arc::clone(&self.clock);
        let stop = signalled();
        let limit = async {
            match seconds {
                Some(seconds) => clock.sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(stop, limit);
        let step = if self.screen.is_some() { SCREEN_STEP } else { LOG_STEP };
        let mut next = self.started + if self.screen.is_some() { Duration::ZERO } else { step };
        loop {
            self.look();
            if self.clock.elapsed() >= next {
                next += step;
                self.draw();
            }
            tokio::select! {
                () = clock.sleep(LOOK_STEP) => {}
                _ = resized.recv() => self.screen.as_mut().map_or((), Screen::resized),
                signal = &mut stop => return signal,
                () = &mut limit => return Ok(()),
            }
        }
    }

    /// Takes note of the job's counters.
    fn look(&mut self) {
        let now = self.clock.elapsed();
        let records = self.progress.records.load(Ordering::Relaxed);
        if self.moves.back().is_none_or(|(before, _)| *before != records) {
            self.moves.push_back((records, now));
            if self.moves.len() > RATE_EPOCHS {
                self.moves.pop_front();
            }
        }
        let (first, since) = self.moves.front().copied().unwrap_or_default();
        let (last, until) = self.moves.back().copied().unwrap_or_default();
        self.pulse = Pulse {
            now_ms: self.clock.now_ms(),
            seconds: (now - self.started).as_secs(),
            records,
            rejected: self.progress.rejected.load(Ordering::Relaxed),
            rate: (last - first) as f64 / (until - since).as_secs_f64().max(0.001),
            watermark_ms: self.progress.watermark_ms.load(Ordering::Relaxed),
        };
    }

    fn draw(&mut self) {
        let alerts = self.results.follow();
        let most = self.screen.as_ref().map_or(10, Screen::panel_lines);
        let figures = self.results.figures(self.pulse.now_ms, most);
        if let Some(screen) = &self.screen {
            screen.draw(&self.pulse, &figures, &self.results);
        } else {
            for alert in alerts {
                println!("alert: {}", alert.line);
            }
            for line in window_lines(&self.figures, &figures) {
                println!("{line}");
            }
            println!("{}", log_line(&self.pulse, &figures, &self.results));
        }
        self.figures = figures;
    }

    /// Waits until the job has read what was sent, or it takes too long.
    async fn settle(&self) {
        let until = self.clock.elapsed() + LAST_EVENTS;
        let sent = self.sent.load(Ordering::Relaxed);
        while self.progress.records.load(Ordering::Relaxed) < sent && self.clock.elapsed() < until {
            self.clock.sleep(TRAFFIC_STEP).await;
        }
    }

    /// Gives the terminal back.
    fn restore(&mut self) {
        self.screen = None;
    }

    /// Gives the terminal back and leaves the last figures there.
    fn close(&mut self) {
        self.restore();
        self.look();
        self.draw();
        println!();
    }
}

fn print_ways_on(folder: &Folder) {
    let local = folder.path.display();
    let program = std::env::args().next().unwrap_or_else(|| "tidemill".to_owned());
    println!(
        "
All of it is in {local}/:
  queries/           the job that ran: edit a file or add one, then run the demo again
  dynamodb.sqlite    sqlite3 {local}/dynamodb.sqlite 'select * from \"page-views-per-minute\" order by view_count desc limit 10'
  sns/               alerts, a line each
  s3/                the archive, Parquet files by day
  errors/            refused records, with the reason
Windows that were open are saved. To go on from here, and to see how a query is run:
  {program} run {local}/queries --local {local}
  {program} explain {local}/queries"
    );
}
