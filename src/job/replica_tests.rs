//! What becomes of a lease while its job is prepared and run, and afterwards.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::*;
use crate::contracts::{LeaseStore, ManualClock, SystemClock};
use crate::ha::{Member, MemoryLease, Seat, Spread};
use crate::runtime::Ending;

/// Ten rows.
fn job(folder: &Path) -> JobOptions {
    let sql = "CREATE TABLE made (k BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '10');
        CREATE TABLE nothing (k BIGINT) WITH ('connector' = 'blackhole');
        INSERT INTO nothing SELECT k FROM made;";
    std::fs::write(folder.join("job.sql"), sql).expect("written");
    JobOptions {
        paths: vec![folder.join("job.sql")],
        local: Some(folder.join("local")),
        ending: Ending::Drain,
        from: None,
        parameters: Default::default(),
        fresh: false,
        state: Default::default(),
        threads: 1,
        epoch_interval: None,
        epoch_rows: None,
        memory: None,
    }
}

/// What comes between two renewals here is in truth the loading of a large state. It lasts three times as long as the lease, by the lease's
/// own clock, which stands but for that: how fast the machine is does not matter.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_run_that_keeps_its_thread_for_longer_than_the_lease_lasts_has_it_still() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = job(folder.path());
    let (clock, times) = (Arc::new(ManualClock::new(0)), Times { ttl: Duration::from_millis(1_000), ..TIMES });
    let store = Arc::new(MemoryLease::default());
    let candidate = Candidate::new(Arc::clone(&store) as _, Arc::clone(&clock) as _, "one", times);
    let mut stages = Vec::new();
    let mut tell = |stage: Stage<'_>| match stage {
        Stage::Leads { generation } => stages.push(format!("leads {generation}")),
        Stage::Begins { .. } => {
            store.keep_busy(&clock, times, 3);
            stages.push("begins".to_owned());
        }
        // And loses it again after it, for ever.
        Stage::Lost { reason } => panic!("it has lost the lease: {reason}"),
        Stage::Waits { .. } | Stage::Gave { .. } => stages.push("another".to_owned()),
    };
    let (_stop, stopped) = watch::channel(false);
    let of_run: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let done = Replica::new(options, candidate, of_run).run(&stopped, &Arc::default(), &mut tell).await;
    assert_eq!(stages, ["leads 1", "begins"]);
    let summary = done.unwrap_or_else(|errors| panic!("{errors:?}")).expect("it has led");
    assert_eq!(summary.queries[0].rows_out, 10);
}

/// So long that no busy machine costs the lease: nothing here waits for its end.
const TIMES: Times = Times { ttl: Duration::from_secs(600), beat: Duration::from_millis(50) };

/// A replica of a job, and its lease.
struct One {
    folder: tempfile::TempDir,
    lease: Arc<MemoryLease>,
    replica: Replica,
}

impl One {
    /// Alone, or as a member of a fleet.
    fn new(options: impl FnOnce(JobOptions) -> JobOptions, of_fleet: bool) -> Self {
        Self::at(Arc::new(SystemClock::new()), options, of_fleet)
    }

    /// The same, whose lease lasts by that clock.
    fn at(clock: Arc<dyn Clock>, options: impl FnOnce(JobOptions) -> JobOptions, of_fleet: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = options(job(folder.path()));
        let lease = Arc::new(MemoryLease::default());
        let store: Arc<dyn LeaseStore> = Arc::clone(&lease) as _;
        let contender = Self::contender(store, &clock, of_fleet);
        Self { replica: Replica::new(options, contender, clock), folder, lease }
    }

    fn contender(store: Arc<dyn LeaseStore>, clock: &Arc<dyn Clock>, of_fleet: bool) -> Contender {
        if of_fleet {
            let leases = SeatLeases { lease: store, wish: Arc::new(MemoryLease::default()) };
            Seat::new(&Member::new("one", Arc::clone(clock), Spread::default()), "job", leases, TIMES).into()
        } else {
            Candidate::new(store, Arc::clone(clock), "one", TIMES).into()
        }
    }

    fn stored(&self) -> Lease {
        self.lease.stored().expect("it is there")
    }
}

/// Stores the first lease that it is given, and does not answer: somebody stops the replica meanwhile.
#[derive(Debug)]
struct Stopping {
    of: Arc<MemoryLease>,
    stop: watch::Sender<bool>,
}

#[async_trait]
impl LeaseStore for Stopping {
    fn place(&self) -> String {
        self.of.place()
    }

    async fn read(&self) -> Result<Option<Lease>> {
        self.of.read().await
    }

    async fn replace(&self, expected: Option<&Lease>, next: &Lease) -> Result<bool> {
        let replaced = self.of.replace(expected, next).await;
        if !self.stop.send_replace(true) {
            std::future::pending::<()>().await;
        }
        replaced
    }
}

/// Nobody would give it back, and the others would wait for as long as for one that has died.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_stopped_while_it_takes_the_lease_leaves_none() {
    for of_fleet in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let (lease, (stop, stopped)) = (Arc::new(MemoryLease::default()), watch::channel(false));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let contender = One::contender(Arc::new(Stopping { of: Arc::clone(&lease), stop }), &clock, of_fleet);
        let mut replica = Replica::new(job(folder.path()), contender, clock);
        let done = replica.run(&stopped, &Arc::default(), &mut |_| ()).await;
        assert!(done.unwrap_or_else(|errors| panic!("{errors:?}")).is_none(), "it has not led");
        let stored = lease.stored().expect("it was stored");
        assert_eq!((stored.holder.as_str(), stored.released), ("one", true), "of a fleet: {of_fleet}");
    }
}

/// It has the lease when it learns that it must not go on: the next one must not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_had_to_wait_and_was_to_go_back_gives_the_lease_back() {
    // It waits until the dead one's lease is over: on a clock that goes on whenever somebody waits.
    let clock = Arc::new(ManualClock::new(0));
    let goes_on = Arc::clone(&clock);
    let going_on = tokio::spawn(async move {
        loop {
            goes_on.advance(TIMES.beat);
            tokio::task::yield_now().await;
        }
    });
    let mut one = One::at(clock, |options| JobOptions { fresh: true, ..options }, false);
    let dead = Lease { holder: "dead".to_owned(), generation: 7, beat: 1, released: false };
    assert!(one.lease.replace(None, &dead).await.expect("written"));
    let (_stop, stopped) = watch::channel(false);
    let errors = one.replica.run(&stopped, &Arc::default(), &mut |_| ()).await.expect_err("it had to wait");
    assert!(errors[0].to_string().contains("'dead' was running the job"), "{errors:?}");
    going_on.abort();
    let stored = one.stored();
    assert_eq!((stored.holder.as_str(), stored.released), ("one", true));
}

/// Another run has the folder that has no lease: it keeps nobody from competing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_fenced_gives_the_lease_back() {
    for of_fleet in [false, true] {
        let mut one = One::new(|options| options, of_fleet);
        let other = prepare(&job(one.folder.path()), Arc::new(SystemClock::new())).await;
        let other = other.unwrap_or_else(|errors| panic!("{errors:?}"));
        let (stop, stopped) = watch::channel(false);
        let mut lost = Vec::new();
        let mut tell = |stage: Stage<'_>| {
            if let Stage::Lost { reason } = stage {
                lost.push(reason);
                stop.send_replace(true);
            }
        };
        let done = one.replica.run(&stopped, &Arc::default(), &mut tell).await;
        assert!(done.unwrap_or_else(|errors| panic!("{errors:?}")).is_none(), "it was stopped while it waited");
        assert_eq!(lost.len(), 1, "{lost:?}");
        assert!(one.stored().released, "{lost:?}");
        drop(other);
    }
}

/// Whoever counts failures counts it, and the lease does not outlive it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_panics_is_a_failure_and_gives_the_lease_back() {
    for of_fleet in [false, true] {
        let mut one = One::new(|options| options, of_fleet);
        let (_stop, stopped) = watch::channel(false);
        let dies = AtomicBool::new(true);
        let mut tell = |stage: Stage<'_>| {
            if matches!(stage, Stage::Begins { .. }) && dies.swap(false, Ordering::Relaxed) {
                panic!("as it does");
            }
        };
        let errors = one.replica.run(&stopped, &Arc::default(), &mut tell).await.expect_err("it has died");
        assert_eq!(errors[0].kind(), ErrorKind::Internal, "{errors:?}");
        assert_eq!(errors[0].message(), "the run died: as it does");
        assert!(one.stored().released, "of a fleet: {of_fleet}");
        // And it may be tried again.
        let summary = one.replica.run(&stopped, &Arc::default(), &mut tell).await;
        let summary = summary.unwrap_or_else(|errors| panic!("{errors:?}")).expect("it has led");
        assert_eq!(summary.queries[0].rows_out, 10, "of a fleet: {of_fleet}");
    }
}
