//! What requests cost that fail, or are never answered: on a clock that goes on whenever everybody waits.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;

use super::*;
use crate::contracts::ManualClock;
use crate::ha::spread::Hold;
use crate::ha::{Contender, Member, Seat, SeatLeases, Spread};

#[test]
fn a_silence_is_told_when_it_lasts_and_again_now_and_then() {
    let mut watch = Watch::default();
    let mut told = |seconds: std::ops::Range<u64>| -> Vec<u64> {
        let told = seconds.filter_map(|second| watch.heard_nothing(Duration::from_secs(second)));
        told.map(|silent| silent.as_secs()).collect()
    };
    assert_eq!(told(100..180), [10, 40, 70]);
    watch.saw(None, Duration::from_secs(180), Duration::from_secs(8));
    assert_eq!(watch.heard_nothing(Duration::from_secs(181)), None, "an answer ends it");
    assert_eq!(watch.heard_nothing(Duration::from_secs(191)), Some(Duration::from_secs(10)));
}

/// What becomes of a request to replace the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    /// An error, as of a store that has too much to do.
    Refused,
    /// There is never an answer, and it is not stored.
    Lost,
    /// There is never an answer, and it is stored so many milliseconds later.
    Late(u64),
}

#[derive(Debug)]
struct Store {
    clock: Arc<ManualClock>,
    lease: Arc<Mutex<Option<Lease>>>,
    /// Of the next requests to replace it; then `rest`.
    fates: Mutex<VecDeque<Fate>>,
    rest: Fate,
    /// How many of the next requests to read it are never answered.
    silent_reads: AtomicUsize,
    /// How many of them are refused, as of who may not.
    denied_reads: AtomicUsize,
    requests: AtomicUsize,
}

#[async_trait]
impl LeaseStore for Store {
    fn place(&self) -> String {
        "a store".to_owned()
    }

    async fn read(&self) -> Result<Option<Lease>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let less = |silent: usize| silent.checked_sub(1);
        if self.silent_reads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            std::future::pending::<()>().await;
        }
        if self.denied_reads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            return Err(Error::config("not allowed"));
        }
        Ok(self.lease.lock().expect("no panic").clone())
    }

    async fn replace(&self, expected: Option<&Lease>, next: &Lease) -> Result<bool> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let fate = self.fates.lock().expect("no panic").pop_front().unwrap_or(self.rest);
        let (lease, expected, next) = (Arc::clone(&self.lease), expected.cloned(), next.clone());
        let set = move || {
            let mut lease = lease.lock().expect("no panic");
            let fits = *lease == expected;
            if fits {
                *lease = Some(next);
            }
            fits
        };
        match fate {
            Fate::Done => return Ok(set()),
            Fate::Refused => return Err(Error::unavailable("slow down")),
            Fate::Lost => {}
            Fate::Late(ms) => {
                let clock = Arc::clone(&self.clock);
                tokio::spawn(async move {
                    clock.sleep(Duration::from_millis(ms)).await;
                    set();
                });
            }
        }
        std::future::pending().await
    }
}

/// A store, and time that goes on.
fn world(found: Option<Lease>, fates: &[Fate], rest: Fate) -> Arc<Store> {
    let clock = Arc::new(ManualClock::new(0));
    let goes_on = Arc::clone(&clock);
    tokio::spawn(async move {
        loop {
            goes_on.advance(Duration::from_millis(10));
            tokio::task::yield_now().await;
        }
    });
    Arc::new(Store {
        clock,
        lease: Arc::new(Mutex::new(found)),
        fates: Mutex::new(fates.iter().copied().collect()),
        rest,
        silent_reads: AtomicUsize::new(0),
        denied_reads: AtomicUsize::new(0),
        requests: AtomicUsize::new(0),
    })
}

fn candidate(store: &Arc<Store>) -> Candidate {
    Candidate::new(Arc::clone(store) as _, Arc::clone(&store.clock) as _, "one", Times::default())
}

fn seat(store: &Arc<Store>) -> Seat {
    let clock: Arc<dyn Clock> = Arc::clone(&store.clock) as _;
    let member = Member::new("one", clock, Spread { difference: 2 });
    let wish = world(None, &[], Fate::Done);
    Seat::new(&member, "job", SeatLeases { lease: Arc::clone(store) as _, wish }, Times::default())
}

/// Of one that has died without a word.
fn of_the_dead() -> Option<Lease> {
    Some(Lease { holder: "dead".to_owned(), generation: 7, beat: 99, released: false })
}

fn never(lease: &Lease) {
    panic!("it waits for '{}'", lease.holder);
}

/// Some more than a request takes, and the clock's steps.
const MOMENT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_renewal_without_an_answer_does_not_cost_the_lease() {
    let Times { ttl, .. } = Times::default();
    for (fates, silent_reads) in [
        ([Fate::Done, Fate::Lost], 0),
        ([Fate::Done, Fate::Lost], 1),
        ([Fate::Done, Fate::Late(0)], 0),
        ([Fate::Done, Fate::Late(0)], 1),
        // Stored when the next one has been asked for.
        ([Fate::Done, Fate::Late(3_500)], 0),
        ([Fate::Done, Fate::Late(5_500)], 1),
    ] {
        let store = world(None, &fates, Fate::Done);
        let mut term = candidate(&store).acquire(never).await.expect("it is free");
        store.silent_reads.store(silent_reads, Ordering::Relaxed);
        let lost = tokio::select! {
            biased;
            lost = term.keep() => Some(lost.to_string()),
            () = store.clock.sleep(2 * ttl) => None,
        };
        assert_eq!(lost, None, "{fates:?}, then {silent_reads} reads without an answer");
        assert!(store.fates.lock().expect("no panic").is_empty());
        let age = store.clock.elapsed().saturating_sub(term.renewed);
        assert!(age < ttl / 2, "{age:?} without a renewal");
    }
}

#[tokio::test]
async fn a_store_that_is_silent_costs_the_lease_when_it_ends_and_not_later() {
    let Times { ttl, .. } = Times::default();
    let store = world(None, &[Fate::Done], Fate::Lost);
    let mut term = candidate(&store).acquire(never).await.expect("it is free");
    store.silent_reads.store(usize::MAX, Ordering::Relaxed);
    let begun = term.renewed;
    let lost = term.keep().await;
    assert!(matches!(lost, Lost::Unreachable(None)), "{lost}");
    let lasted = store.clock.elapsed() - begun;
    assert!(lasted >= ttl && lasted < ttl + MOMENT, "{lasted:?}");
}

#[tokio::test]
async fn a_lease_that_was_taken_without_an_answer_is_not_waited_for() {
    let Times { beat, .. } = Times::default();
    // What is read at once shows it; or it is stored when nobody waits for it any more, and the next attempt meets it, or the next look.
    for (late, reads) in [(0, 0), (1_700, 0), (1_900, 0), (2_300, 0), (3_900, 1), (2_600, 1)] {
        let store = world(None, &[Fate::Late(late)], Fate::Done);
        let candidate = candidate(&store);
        let mut term = {
            let mut acquired = pin!(candidate.acquire(never));
            // The first look is answered.
            tokio::select! {
                biased;
                _ = &mut acquired => panic!("it has no answer yet"),
                () = store.clock.sleep(beat / 2) => store.silent_reads.store(reads, Ordering::Relaxed),
            }
            acquired.await.expect("it is free")
        };
        let (now, stored) = (store.clock.elapsed(), store.lease.lock().expect("no panic").clone());
        assert!(now < Duration::from_millis(late).max(2 * beat) + beat + MOMENT, "{late} ms late: {now:?}");
        assert_eq!(stored.as_ref(), Some(&term.lease), "{late} ms late");
        tokio::select! {
            biased;
            lost = term.keep() => panic!("{late} ms late: {lost}"),
            () = store.clock.sleep(2 * candidate.times.ttl) => {}
        }
        // Its own term, once it has been, is not taken for such an attempt.
        let mut watch = Watch::default();
        let look = candidate.look(&mut watch).await.expect("an answer");
        assert!(matches!(look, Some(Look::Held(_))), "{look:?}");
    }
}

#[tokio::test]
async fn a_store_that_refuses_is_not_asked_without_a_pause() {
    let within = Duration::from_secs(10);
    for found in [None, of_the_dead()] {
        let store = world(found.clone(), &[], Fate::Refused);
        // One that is silent must have been so for the time of a lease.
        store.clock.sleep(Duration::from_millis(10)).await;
        let candidate = candidate(&store);
        tokio::select! {
            biased;
            _ = candidate.acquire(|_| {}) => panic!("it is refused"),
            () = store.clock.sleep(within) => {}
        }
        // A look, an attempt and the read after it, four times a beat.
        let requests = store.requests.load(Ordering::Relaxed);
        assert!((8..=80).contains(&requests), "{requests} requests, {found:?}");
        let seat_store = world(found.clone(), &[], Fate::Refused);
        let mut seat = seat(&seat_store);
        tokio::select! {
            biased;
            _ = seat.acquire(|_| {}) => panic!("it is refused"),
            () = seat_store.clock.sleep(within) => {}
        }
        let requests = seat_store.requests.load(Ordering::Relaxed);
        assert!((8..=80).contains(&requests), "{requests} requests of a seat, {found:?}");
    }
}

#[tokio::test]
async fn a_refused_attempt_does_not_begin_the_wait_anew() {
    let Times { ttl, beat } = Times::default();
    let soon = ttl + 2 * beat;
    for fate in [Fate::Refused, Fate::Lost] {
        let store = world(of_the_dead(), &[fate], Fate::Done);
        let term = candidate(&store).acquire(|_| {}).await.expect("it is free");
        let now = store.clock.elapsed();
        assert!(now >= ttl && now < soon + MOMENT, "{fate:?}: {now:?}");
        assert_eq!(term.generation(), 8);
        let store = world(of_the_dead(), &[fate], Fate::Done);
        let term = seat(&store).acquire(|_| {}).await.expect("it is free");
        let now = store.clock.elapsed();
        assert!(now >= ttl && now < soon + MOMENT, "{fate:?}, a seat: {now:?}");
        assert_eq!(term.generation(), 8);
    }
}

/// Who stops meanwhile does not hear the answer: others would wait for a lease that nobody has.
#[tokio::test]
async fn an_attempt_that_is_given_up_half_way_is_taken_back() {
    let Times { ttl, beat } = Times::default();
    for of_fleet in [false, true] {
        // Stored by then; or on its way for so long that it arrives later.
        for (found, late) in [(None, 0), (None, 5_000), (of_the_dead(), 0), (of_the_dead(), 5_000)] {
            let case = format!("{found:?}, {late} ms late, of a fleet: {of_fleet}");
            let store = world(found, &[Fate::Late(late)], Fate::Done);
            let mut contender: Contender = if of_fleet { seat(&store).into() } else { candidate(&store).into() };
            let is_asked = async {
                while !store.fates.lock().expect("no panic").is_empty() {
                    tokio::task::yield_now().await;
                }
                store.clock.sleep(beat / 4).await;
            };
            tokio::select! {
                biased;
                _ = contender.acquire(|_| {}) => panic!("it has no answer yet: {case}"),
                () = is_asked => {}
            }
            contender.rest().await;
            store.clock.sleep(ttl).await;
            let stored = store.lease.lock().expect("no panic").clone().expect("something is stored");
            assert!(stored.released && stored.holder == "one", "{stored:?}: {case}");
            // The next one does not wait.
            let other = Candidate::new(Arc::clone(&store) as _, Arc::clone(&store.clock) as _, "two", Times::default());
            other.acquire(never).await.expect("it is free");
            // Nor does who has nothing to take back disturb it.
            contender.rest().await;
            let stored = store.lease.lock().expect("no panic").clone().expect("it is there");
            assert!(!stored.released && stored.holder == "two", "{stored:?}: {case}");
        }
    }
}

/// Somebody changes the rights of all replicas: those who wait are as patient as the one that leads.
#[tokio::test]
async fn a_refusal_that_passes_does_not_end_the_wait() {
    let Times { ttl, beat } = Times::default();
    for (denied, passes) in [(2, true), (usize::MAX, false)] {
        let store = world(of_the_dead(), &[], Fate::Done);
        let candidate = candidate(&store);
        let mut acquired = pin!(candidate.acquire(|_| {}));
        // The first look is answered.
        tokio::select! {
            biased;
            _ = &mut acquired => panic!("it is held"),
            () = store.clock.sleep(beat / 2) => store.denied_reads.store(denied, Ordering::Relaxed),
        }
        let acquired = acquired.await;
        let now = store.clock.elapsed();
        if passes {
            assert_eq!(acquired.expect("it has been free").generation(), 8);
            assert!(now >= ttl && now < ttl + beat + MOMENT, "{now:?}");
        } else {
            let error = acquired.expect_err("it is not allowed");
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
            assert!(now >= ttl && now < ttl + 2 * beat + MOMENT, "{now:?}");
            // Also when the lease might be free by then, it is not asked for without a pause.
            let requests = store.requests.load(Ordering::Relaxed);
            assert!(requests <= 20, "{requests} requests");
        }
    }
    // At the start it is told at once.
    let store = world(of_the_dead(), &[], Fate::Done);
    store.denied_reads.store(usize::MAX, Ordering::Relaxed);
    candidate(&store).acquire(|_| {}).await.expect_err("it is not allowed");
    assert!(store.clock.elapsed() < MOMENT);
}

/// The store is away for as long as the term lasts.
async fn lose(store: &Store, term: &mut Term) {
    store.fates.lock().expect("no panic").extend([Fate::Lost; 100]);
    store.silent_reads.store(usize::MAX, Ordering::Relaxed);
    let lost = term.keep().await;
    assert!(matches!(lost, Lost::Unreachable(_)), "{lost}");
    store.fates.lock().expect("no panic").clear();
    store.silent_reads.store(0, Ordering::Relaxed);
}

/// A single replica, whose store was away for as long as its lease lasts: there is nobody else, and it knows that it does not lead.
#[tokio::test]
async fn an_own_term_that_is_over_is_not_waited_for() {
    let Times { beat, .. } = Times::default();
    let store = world(None, &[Fate::Done], Fate::Done);
    let candidate = candidate(&store);
    for _ in 0..3 {
        let mut term = candidate.acquire(never).await.expect("it is free");
        lose(&store, &mut term).await;
        // As long as somebody has it, its run may be there: it must not be taken beside that.
        let look = candidate.look(&mut Watch::default()).await.expect("an answer");
        assert!(matches!(look, Some(Look::Held(_))), "{look:?}");
        drop(term);
        let before = store.clock.elapsed();
        let again = candidate.acquire(never).await.expect("it is its own");
        let waited = store.clock.elapsed() - before;
        assert!(waited < beat + MOMENT, "{waited:?}");
        // It is given back, and the store does not hear of it.
        store.fates.lock().expect("no panic").extend([Fate::Refused; 2]);
        again.release().await.expect_err("refused");
        assert!(store.lease.lock().expect("no panic").as_ref().is_some_and(|lease| !lease.released));
        store.fates.lock().expect("no panic").clear();
        let next = candidate.acquire(never).await.expect("it is its own");
        next.release().await.expect("given back");
    }
}

/// Nor in a fleet, where a free job is left to others for some moments; nor is it asked for all the time.
#[tokio::test]
async fn a_seat_does_not_wait_for_its_own_term_that_is_over() {
    let Times { beat, .. } = Times::default();
    let store = world(None, &[Fate::Done], Fate::Done);
    let mut seat = seat(&store);
    for _ in 0..3 {
        let mut term = seat.acquire(never).await.expect("it is free");
        lose(&store, &mut term).await;
        drop(term);
        seat.rest().await;
        let (before, asked) = (store.clock.elapsed(), store.requests.load(Ordering::Relaxed));
        let again = seat.acquire(never).await.expect("it is its own");
        let waited = store.clock.elapsed() - before;
        let asked = store.requests.load(Ordering::Relaxed) - asked;
        assert!(waited < beat + MOMENT && asked <= 10, "{waited:?}, {asked} requests");
        again.release().await.expect("given back");
        seat.rest().await;
    }
}

/// By a panic of whoever had it: the process would count the job as its own for ever, and ask for none beside.
#[tokio::test]
async fn a_seat_that_is_dropped_has_no_part_in_its_job() {
    let store = world(None, &[], Fate::Done);
    let clock: Arc<dyn Clock> = Arc::clone(&store.clock) as _;
    let member = Member::new("one", clock, Spread { difference: 2 });
    let leases = || SeatLeases { lease: Arc::clone(&store) as _, wish: world(None, &[], Fate::Done) };
    let mut seat = Seat::new(&member, "job", leases(), Times::default());
    let term = seat.acquire(never).await.expect("it is free");
    assert_eq!(member.hold("job"), Hold::Mine);
    drop((seat, term));
    assert_eq!(member.hold("job"), Hold::Unknown);
    // While it asks for one, it asks for no other.
    let other = |job: &str, holder: &str| member.saw(job, Hold::Of(holder.to_owned()));
    let seat = Seat::new(&member, "job", leases(), Times::default());
    for job in ["job", "a", "b", "c"] {
        other(job, "two");
    }
    let wished = ["job", "a", "b", "c"].into_iter().find(|job| member.wishes(job)).expect("two has four");
    let seat_of_it = if wished == "job" { seat } else { Seat::new(&member, wished, leases(), Times::default()) };
    let wishes = || ["job", "a", "b", "c"].into_iter().any(|job| member.wishes(job));
    assert!(!wishes());
    drop(seat_of_it);
    for job in ["job", "a", "b", "c"] {
        other(job, "two");
    }
    assert!(wishes());
}
