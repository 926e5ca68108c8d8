//! Getting a lease, keeping it, and noticing that it is gone.
//!
//! ```text
//!  replica A   take(7) ─ beat ─ beat ─ ✗ (dies)
//!  replica B   watch ─── watch ── watch ─ … no beat for `ttl` on B's own clock … ─ take(8) ─ beat ─
//! ```
//!
//! B counts from the moment its read has returned, A from the moment its renewal was sent: so A knows that its term is
//! over before B begins, as long as both clocks run at the same speed. Where they do not, or A is paused between looking
//! and acting, see the module above.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::watch::{Look, SILENCE_IS_TOLD_AFTER, Watch};
use crate::contracts::{Clock, Error, ErrorKind, Lease, LeaseStore, Outage, Result};

/// How long things take. A successor begins at most `ttl` + `beat` after the last sign of life, and within `beat` after a
/// release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Silence after which a lease may be taken.
    pub ttl: Duration,
    /// Time between two renewals, and between two looks of those who wait. At most a third of `ttl`, so that one lost
    /// renewal is no failure.
    pub beat: Duration,
}

impl Default for Times {
    /// 8 s and 1.6 s: less than 15 s from a crash to the next result. A replica takes over after 9.6 s at most, the last one of a
    /// fleet after 1.34 `ttl` = 10.7 s; that leaves 4.3 s for the start, the state (1 GiB takes 2.7) and what is repeated. DynamoDB
    /// writes 2,592,000 s / 1.6 s = 1.6 M times a month for it.
    fn default() -> Self {
        Self { ttl: Duration::from_secs(8), beat: Duration::from_millis(1_600) }
    }
}

/// Of a beat: what is waited after a request that has failed.
pub(super) const PAUSES_A_BEAT: u32 = 4;

/// A replica that wants to run a job.
#[derive(Debug, Clone)]
pub struct Candidate {
    store: Arc<dyn LeaseStore>,
    clock: Arc<dyn Clock>,
    holder: String,
    times: Times,
    /// Attempts to take or renew, each under a number of its own. An attempt whose answer is lost may have been stored
    /// long ago; if the next one looked the same, it would be taken for that, and the term would seem younger than it is.
    attempts: Arc<AtomicU64>,
    /// The last term that this candidate has had. What is stored under its name with a higher number is an attempt whose answer
    /// was lost: nobody leads by it.
    led: Arc<AtomicU64>,
    /// The last of them that is over: nobody in this process has it any more.
    over: Arc<AtomicU64>,
    /// The lease is free, and cannot be taken.
    refused: Arc<Mutex<Option<Outage>>>,
    /// The last attempt to take it, as long as it is not known what has become of that.
    unheard: Arc<Mutex<Option<Attempt>>>,
}

#[derive(Debug)]
struct Attempt {
    /// What was to be replaced.
    found: Option<Lease>,
}

/// Why a term has ended.
#[derive(Debug)]
pub enum Lost {
    /// Another replica has the lease.
    Taken(Lease),
    /// The store could not be reached for as long as the lease lasts; the last failure, if there was an answer.
    Unreachable(Option<Error>),
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Taken(by) => write!(f, "'{}' has taken the lease (generation {})", by.holder, by.generation),
            Self::Unreachable(Some(error)) => write!(f, "the lease could not be renewed: {error}"),
            Self::Unreachable(None) => write!(f, "the lease could not be renewed: no answer"),
        }
    }
}

impl Candidate {
    /// `holder` must be different for each start of each process.
    pub fn new(store: Arc<dyn LeaseStore>, clock: Arc<dyn Clock>, holder: impl Into<String>, times: Times) -> Self {
        let (attempts, led, over, refused, unheard) = Default::default();
        Self { store, clock, holder: holder.into(), times, attempts, led, over, refused, unheard }
    }

    /// How long things take.
    pub fn times(&self) -> Times {
        self.times
    }

    /// Waits until the lease is free, and takes it. `waiting` is told who has it, each time that changes.
    ///
    /// # Errors
    /// What can not pass by waiting: a missing table, a missing right.
    pub async fn acquire(&self, mut waiting: impl FnMut(&Lease)) -> Result<Term> {
        let mut watch = Watch::default();
        let mut told: Option<String> = None;
        loop {
            match self.look(&mut watch).await? {
                Some(Look::Free { lease, .. }) => {
                    if let Some(term) = self.take(lease.as_ref()).await? {
                        return Ok(term);
                    }
                    // Another one was quicker, as the next look shows, or nobody knows. Not at once: a store that refuses what it
                    // is asked too often must be left in peace, also for those who renew.
                    self.clock.sleep(self.times.beat / PAUSES_A_BEAT).await;
                    continue;
                }
                Some(Look::Held(lease)) if told.as_ref() != Some(&lease.holder) => {
                    waiting(&lease);
                    told = Some(lease.holder);
                }
                Some(Look::Held(_)) | None => {}
            }
            self.clock.sleep(self.until_next_look(&watch)).await;
        }
    }

    /// Looks at the lease; `None` when there was no answer.
    ///
    /// # Errors
    /// What can not pass by waiting.
    pub(super) async fn look(&self, watch: &mut Watch) -> Result<Option<Look>> {
        let error = match self.answer(self.store.read(), self.times.beat).await {
            None => None,
            Some(Err(error)) if error.kind() == ErrorKind::Unavailable => Some(error),
            // A leader does not end at once either: rights are missing for a moment while somebody changes them.
            Some(Err(error)) if watch.bears_refusal(self.clock.elapsed(), self.times.ttl) => Some(error),
            Some(Err(error)) => return Err(error.context(format!("lease in {}", self.store.place()))),
            Some(Ok(found)) => {
                let now = self.clock.elapsed();
                let look = watch.saw(found, now, self.times.ttl);
                // However often it is looked at: who is patient for a while before taking what is free counts from there.
                let since = watch.since().unwrap_or(now);
                return Ok(Some(match look {
                    Look::Held(lease) if self.is_stray(&lease) => Look::Free { lease: Some(lease), since },
                    look => look,
                }));
            }
        };
        if let Some(silent) = watch.heard_nothing(self.clock.elapsed()) {
            let (place, seconds) = (self.store.place(), silent.as_secs());
            let why = error.map_or_else(|| "no answer".to_owned(), |error| error.to_string());
            tracing::warn!(
                "the lease in {place} could not be read for {seconds} s, so this replica cannot lead: {why}"
            );
        }
        Ok(None)
    }

    /// Whether this is nobody's, and may be replaced at once: a holder's name is given once, so it is this candidate's own, and
    /// - an attempt to take it that was stored when nobody waited for its answer any more: its number is not that of any term that has been; or
    /// - its last term, if that is over. A term is dropped when it is lost or its run has ended, and whoever runs a job for it ends the run before
    ///   asking for the next, so the two do not meet. What the old run has sent and is still on its way may come late; as it may when another
    ///   replica takes over, which would wait no longer, and what keeps it from harm is the same (log, manifests, conditions).
    fn is_stray(&self, stored: &Lease) -> bool {
        let led = self.led.load(Ordering::Relaxed);
        let is_over = self.over.load(Ordering::Relaxed) >= led;
        stored.holder == self.holder && (stored.generation > led || (stored.generation == led && is_over))
    }

    /// See [`Watch::until_next_look`].
    pub(super) fn until_next_look(&self, watch: &Watch) -> Duration {
        watch.until_next_look(self.clock.elapsed(), self.times)
    }

    /// Takes a free lease; `None` if it is another's, or was not answered in time.
    pub(super) async fn take(&self, found: Option<&Lease>) -> Result<Option<Term>> {
        let generation = found.map_or(0, |lease| lease.generation) + 1;
        let lease = Lease { holder: self.holder.clone(), generation, beat: self.attempt(), released: false };
        *self.unheard() = Some(Attempt { found: found.cloned() });
        let sent = self.clock.elapsed();
        match self.set(found, &lease, sent + 2 * self.times.beat).await {
            // Taken, but so long ago that another one may have taken it since: this process was paused.
            Ok(Set::Ours) if self.clock.elapsed().saturating_sub(sent) >= self.times.ttl => Ok(None),
            Ok(Set::Ours) => {
                self.led.fetch_max(generation, Ordering::Relaxed);
                (*self.refused(), *self.unheard()) = (None, None);
                Ok(Some(Term { candidate: self.clone(), lease, renewed: sent }))
            }
            Ok(Set::Theirs(_)) => {
                (*self.refused(), *self.unheard()) = (None, None);
                Ok(None)
            }
            Ok(Set::Unknown) => {
                self.was_refused("no answer");
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                self.was_refused(&error.to_string());
                Ok(None)
            }
            Err(error) => Err(error.context(format!("lease in {}", self.store.place()))),
        }
    }

    fn refused(&self) -> MutexGuard<'_, Option<Outage>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unheard(&self) -> MutexGuard<'_, Option<Attempt>> {
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn was_refused(&self, why: &str) {
        let now = self.clock.elapsed();
        if let Some(lasts) = self.refused().get_or_insert(Outage::new(now, SILENCE_IS_TOLD_AFTER)).to_tell(now) {
            let (place, seconds) = (self.store.place(), lasts.as_secs());
            tracing::warn!("the lease in {place} is free, and could not be taken for {seconds} s: {why}");
        }
    }

    /// Takes back an attempt to take the lease of which nobody knows what has become: for one who asks no more. Others would wait for it as
    /// for a leader.
    pub(super) async fn withdraw(&self) {
        let Some(Attempt { found }) = self.unheard().take() else { return };
        let Some(Ok(stored)) = self.answer(self.store.read(), self.times.beat).await else { return };
        // One that is still on its way then finds something else than it expects.
        if stored == found || stored.as_ref().is_some_and(|stored| self.is_stray(stored)) {
            self.clear(stored.as_ref()).await;
        }
    }

    /// Marks the lease, of which `found` is stored, as given back: one of whose holder nothing is heard any more, and which nobody
    /// wants to have. The holder, if it lives, sees that it has lost it. A failure leaves it as it is.
    pub(super) async fn clear(&self, found: Option<&Lease>) {
        let generation = found.map_or(0, |lease| lease.generation) + 1;
        let lease = Lease { holder: self.holder.clone(), generation, beat: self.attempt(), released: true };
        if let Some(Err(error)) = self.answer(self.store.replace(found, &lease), self.times.beat).await {
            tracing::debug!("{} was not cleared: {error}", self.store.place());
        }
    }

    fn attempt(&self) -> u64 {
        self.attempts.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Compares and sets; when the answer is no, or lost, what is stored tells. Each request may take half of the time that is left until
    /// `until`, so that one which is never answered leaves as much for the next.
    async fn set(&self, expected: Option<&Lease>, next: &Lease, until: Duration) -> Result<Set> {
        let half = || until.saturating_sub(self.clock.elapsed()) / 2;
        let outcome = self.answer(self.store.replace(expected, next), half()).await;
        if let Some(Ok(true)) = outcome {
            return Ok(Set::Ours);
        }
        match self.answer(self.store.read(), half()).await {
            Some(Ok(Some(stored))) if stored == *next => Ok(Set::Ours),
            Some(Ok(Some(stored))) if Some(&stored) != expected => Ok(Set::Theirs(stored)),
            Some(Ok(_)) | None => match outcome {
                Some(Err(error)) => Err(error),
                _ => Ok(Set::Unknown),
            },
            Some(Err(error)) => Err(error),
        }
    }

    /// An answer within `limit`; `None` when there was none.
    async fn answer<T>(&self, call: impl Future<Output = T>, limit: Duration) -> Option<T> {
        tokio::select! {
            biased;
            answer = call => Some(answer),
            () = self.clock.sleep(limit) => None,
        }
    }
}

enum Set {
    Ours,
    Theirs(Lease),
    Unknown,
}

/// A lease that this replica has.
#[derive(Debug)]
pub struct Term {
    candidate: Candidate,
    lease: Lease,
    /// When the last renewal that succeeded was sent.
    renewed: Duration,
}

impl Term {
    /// Number of the term: higher than that of every earlier one.
    pub fn generation(&self) -> u64 {
        self.lease.generation
    }

    /// Renews the lease until it is lost. May be dropped at any time and called again.
    pub async fn keep(&mut self) -> Lost {
        let Times { ttl, beat } = self.candidate.times;
        let mut last = None;
        loop {
            let clock = Arc::clone(&self.candidate.clock);
            let age = clock.elapsed().saturating_sub(self.renewed);
            if age >= ttl {
                return Lost::Unreachable(last);
            }
            if age < beat {
                clock.sleep(beat - age).await;
                continue;
            }
            let next = Lease { beat: self.candidate.attempt(), ..self.lease.clone() };
            let sent = clock.elapsed();
            match self.candidate.set(Some(&self.lease), &next, self.renewed + ttl).await {
                Ok(Set::Ours) => {
                    (self.lease, self.renewed) = (next, sent);
                    last = None;
                }
                // A renewal of ours whose answer came too late, or never.
                Ok(Set::Theirs(stored)) if self.is_own(&stored) => self.lease = stored,
                Ok(Set::Theirs(stored)) => return Lost::Taken(stored),
                Ok(Set::Unknown) => self.pause(beat / PAUSES_A_BEAT).await,
                Err(error) => {
                    last = Some(error);
                    self.pause(beat / PAUSES_A_BEAT).await;
                }
            }
        }
    }

    /// Waits, but not beyond the end of the term.
    async fn pause(&self, pause: Duration) {
        let clock = &self.candidate.clock;
        let left = (self.renewed + self.candidate.times.ttl).saturating_sub(clock.elapsed());
        clock.sleep(pause.min(left)).await;
    }

    fn is_own(&self, stored: &Lease) -> bool {
        stored.holder == self.lease.holder && stored.generation == self.lease.generation
    }

    /// Gives the lease back, so that a successor need not wait. A failure costs only that wait.
    pub async fn release(mut self) -> Result<()> {
        // Twice: what is stored may be a renewal whose answer was lost.
        for _ in 0..2 {
            let next = Lease { released: true, beat: self.candidate.attempt(), ..self.lease.clone() };
            let until = self.candidate.clock.elapsed() + 2 * self.candidate.times.beat;
            match self.candidate.set(Some(&self.lease), &next, until).await? {
                Set::Theirs(stored) if self.is_own(&stored) => self.lease = stored,
                _ => break,
            }
        }
        Ok(())
    }
}

impl Drop for Term {
    fn drop(&mut self) {
        self.candidate.over.fetch_max(self.lease.generation, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "term_tests.rs"]
mod tests;
