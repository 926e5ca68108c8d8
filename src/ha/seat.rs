//! The part of a process in one of its fleet's jobs: it waits for it, asks for it, runs it, gives it away.
//!
//! ```text
//!  A, which runs jobs 1, 2 and 3     beat ───── sees the wish ── ends job 2 in order ── gives the lease back
//!  B, which has just been started    sees 3 of A ── wishes for 2 ── looks each eighth of a beat ──────────── takes it
//!  C, which waits                    watch ───── watch ────── sees that it is free, and wished for: holds back
//! ```
//!
//! A wish is a lease on a second name beside the job's: so it has one holder at a time, is renewed, and ends when its holder
//! is silent, on the clock of whoever looks. It is a courtesy and no right: what is safe does not depend on it, nor on who
//! sees what when. A replica that is no member of a fleet competes with members for the job's lease, and neither wishes nor
//! knows of wishes.
//!
//! What a process knows of the other jobs comes from its own looks at their leases (one each beat, which it would do anyway).
//! All its leases have the same holder's name. Rules: [`super::spread`].

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::member::Member;
use super::spread::Hold;
use super::term::{Candidate, PAUSES_A_BEAT, Term, Times};
use super::watch::{Look, Watch};
use crate::contracts::{Lease, LeaseStore, Result};

/// Of a beat: looks while a job is on its way to this process. A hand-over so takes no longer than the job's own end and
/// start, and an eighth of a beat.
const LOOKS_A_BEAT: u32 = 8;
/// Of a beat: steps of patience. With the beat at a fifth of a lease, a job of a process that has died waits for at most
/// 1 + 1/5 + 0.7/5 leases (8 s: 10.7 s) until one of those takes it that have most already.
const STEPS_A_BEAT: u32 = 5;
/// A free job that somebody wishes for is left to them for so many beats.
const COURTESY_BEATS: u32 = 3;
/// A wish that the rule does not speak for any more is kept for so many beats: what is seen of two leases may be a beat apart.
const DOUBT_BEATS: u32 = 2;
/// A job that another process wishes for is not asked about again for so many beats.
const SHORT_BAR_BEATS: u32 = 2;
/// A job that was wished for, given, and taken by a third one is not wished for again for so many beats.
const LONG_BAR_BEATS: u32 = 15;

/// Where the two leases of a job are kept.
#[derive(Debug, Clone)]
pub struct SeatLeases {
    /// The right to run the job.
    pub lease: Arc<dyn LeaseStore>,
    /// The wish to have it.
    pub wish: Arc<dyn LeaseStore>,
}

/// The part of a process in one job of its fleet. There is one for each job, for as long as the process lives.
#[derive(Debug)]
pub struct Seat {
    part: Part,
    /// The wish of this process, until it is given back.
    wished: Option<Term>,
    /// What it has seen of the wishes of others when it had one itself.
    others: Watch,
}

#[derive(Debug)]
struct Part {
    member: Arc<Member>,
    job: String,
    lease: Candidate,
    wish: Candidate,
}

/// How a wish has ended.
enum Pursuit {
    /// This process has the job's lease.
    Taken(Term),
    /// It has not, and does not ask again for so long.
    Ended(Duration),
}

impl Seat {
    /// The part of `member` in `job`.
    pub fn new(member: &Arc<Member>, job: impl Into<String>, leases: SeatLeases, times: Times) -> Self {
        let job = job.into();
        let candidate = |store| Candidate::new(store, Arc::clone(&member.clock), member.holder.clone(), times);
        member.knows_of(&job, times.ttl);
        let (lease, wish) = (candidate(leases.lease), candidate(leases.wish));
        let part = Part { member: Arc::clone(member), job, lease, wish };
        Self { part, wished: None, others: Watch::default() }
    }

    /// How long things take.
    pub fn times(&self) -> Times {
        self.part.lease.times()
    }

    /// Waits until this process should have the job, and takes its lease. `waiting` is told who has it, each time that changes.
    /// May be dropped; then [`Seat::rest`] ends a wish.
    ///
    /// # Errors
    /// What can not pass by waiting: a missing table, a missing right.
    pub async fn acquire(&mut self, mut waiting: impl FnMut(&Lease)) -> Result<Term> {
        let mut watch = Watch::default();
        let mut told: Option<String> = None;
        loop {
            let part = &self.part;
            let look = part.lease.look(&mut watch).await?;
            let mut pause = part.lease.until_next_look(&watch);
            match look {
                None => {}
                Some(Look::Held(lease)) => {
                    if told.as_ref() != Some(&lease.holder) {
                        waiting(&lease);
                        told = Some(lease.holder.clone());
                    }
                    part.saw_held(&lease);
                    if part.member.wishes(&part.job) {
                        let pursuit = self.pursue(&mut watch, lease.generation).await?;
                        match pursuit {
                            Pursuit::Taken(term) => {
                                self.part.member.ends_wish(&self.part.job, Duration::ZERO);
                                return Ok(term);
                            }
                            Pursuit::Ended(barred) => self.end_wish(barred).await,
                        }
                    }
                }
                Some(Look::Free { lease, since }) => {
                    part.member.saw(&part.job, Hold::Free);
                    let released = lease.as_ref().is_some_and(|lease| lease.released);
                    let courtesy = if released && part.others_wish().await { COURTESY_BEATS } else { 0 };
                    let step = part.beat() / STEPS_A_BEAT;
                    match part.member.claims(&part.job, since, part.beat() * courtesy, step) {
                        Ok(()) => {
                            if let Some(term) = part.take(lease.as_ref()).await? {
                                return Ok(term);
                            }
                            // Another one was quicker, as the next look shows, or nobody knows.
                            pause = part.beat() / PAUSES_A_BEAT;
                        }
                        // What others take meanwhile counts, too.
                        Err(left) => pause = left.clamp(Duration::from_millis(1), step),
                    }
                }
            }
            self.part.member.clock.sleep(pause).await;
        }
    }

    /// Asks for the job, whose present term has that number, until it is given, or not wanted any more.
    async fn pursue(&mut self, watch: &mut Watch, generation: u64) -> Result<Pursuit> {
        let Self { part, wished, others } = self;
        let put = match part.wish.look(others).await {
            Ok(Some(Look::Free { lease, .. })) => part.wish.take(lease.as_ref()).await,
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        };
        match put {
            Ok(Some(wish)) => part.follow(watch, generation, wished.insert(wish)).await,
            Ok(None) => Ok(Pursuit::Ended(part.beat() * SHORT_BAR_BEATS)),
            Err(error) => {
                // The process still runs what it has, and what is free.
                tracing::warn!("this process cannot ask another one for a job: {error}");
                Ok(Pursuit::Ended(part.beat() * LONG_BAR_BEATS))
            }
        }
    }

    async fn end_wish(&mut self, barred: Duration) {
        self.part.member.ends_wish(&self.part.job, barred);
        if let Some(wish) = self.wished.take()
            && let Err(error) = wish.release().await
        {
            tracing::debug!("the wish for a job was not given back: {error}");
        }
    }

    /// Waits, while this process runs the job, until another process asks for it and should have it, and says which. From then
    /// on the job counts as theirs: it is to be ended in order, and its lease to be given back.
    pub async fn wanted(&mut self) -> String {
        self.end_wish(Duration::ZERO).await;
        let (part, mut watch, mut told) = (&self.part, Watch::default(), false);
        loop {
            match part.wish.look(&mut watch).await {
                Ok(Some(Look::Held(wish))) if wish.holder == part.member.holder => {
                    part.wish.clear(Some(&wish)).await;
                }
                // One who was never seen to write may be dead since long.
                Ok(Some(Look::Held(wish))) if watch.has_changed() && part.member.gives(&part.job, &wish.holder) => {
                    return wish.holder;
                }
                Ok(Some(Look::Free { lease: Some(wish), .. })) if !wish.released => {
                    part.wish.clear(Some(&wish)).await;
                }
                Err(error) if !std::mem::replace(&mut told, true) => {
                    tracing::warn!("this process does not see who asks for the job, and keeps it: {error}");
                }
                Ok(_) | Err(_) => {}
            }
            part.member.clock.sleep(part.beat()).await;
        }
    }

    /// This process has no term any more.
    pub fn ended(&self) {
        self.part.member.lets_go(&self.part.job);
    }

    /// This process does not want the lease for now.
    pub async fn rest(&mut self) {
        self.ended();
        self.end_wish(Duration::ZERO).await;
        // It may have been stopped in the midst of taking either.
        self.part.wish.withdraw().await;
        self.part.lease.withdraw().await;
    }
}

impl Drop for Seat {
    /// Whoever has given it up, by a panic too, has no part in the job any more.
    fn drop(&mut self) {
        self.ended();
        self.part.member.ends_wish(&self.part.job, Duration::ZERO);
    }
}

impl Part {
    fn beat(&self) -> Duration {
        self.lease.times().beat
    }

    fn saw_held(&self, lease: &Lease) {
        // One of an earlier term, which this process has lost.
        let own = lease.holder == self.member.holder;
        self.member.saw(&self.job, if own { Hold::Unknown } else { Hold::Of(lease.holder.clone()) });
    }

    /// Takes the lease of a job that counts as this process's already.
    async fn take(&self, found: Option<&Lease>) -> Result<Option<Term>> {
        let taken = self.lease.take(found).await;
        if !matches!(taken, Ok(Some(_))) {
            self.member.has(&self.job, Hold::Unknown);
        }
        taken
    }

    /// Whether another process wishes for the job. Not known is no: it is only a courtesy.
    async fn others_wish(&self) -> bool {
        match self.wish.look(&mut Watch::default()).await {
            Ok(Some(Look::Held(wish))) => wish.holder != self.member.holder,
            Ok(_) => false,
            Err(error) => {
                tracing::debug!("whether another process wishes for a job is not known: {error}");
                false
            }
        }
    }

    /// Renews the wish until it has come true, or should not.
    async fn follow(&self, watch: &mut Watch, generation: u64, wish: &mut Term) -> Result<Pursuit> {
        let clock = &self.member.clock;
        let mut kept = pin!(wish.keep());
        let mut doubted: Option<Duration> = None;
        loop {
            let mut pause = self.beat() / LOOKS_A_BEAT;
            let look = tokio::select! {
                biased;
                _ = &mut kept => return Ok(Pursuit::Ended(self.beat())),
                look = self.lease.look(watch) => look?,
            };
            match look {
                None => {}
                Some(Look::Held(lease)) => {
                    self.saw_held(&lease);
                    if lease.generation != generation {
                        return Ok(Pursuit::Ended(self.beat() * LONG_BAR_BEATS));
                    }
                }
                Some(Look::Free { lease, .. }) => {
                    self.member.has(&self.job, Hold::Mine);
                    if let Some(term) = self.take(lease.as_ref()).await? {
                        return Ok(Pursuit::Taken(term));
                    }
                    pause = self.beat() / PAUSES_A_BEAT;
                }
            }
            if self.member.wants(&self.job) {
                doubted = None;
            } else {
                let now = clock.elapsed();
                if now.saturating_sub(*doubted.get_or_insert(now)) >= self.beat() * DOUBT_BEATS {
                    return Ok(Pursuit::Ended(Duration::ZERO));
                }
            }
            tokio::select! {
                biased;
                _ = &mut kept => return Ok(Pursuit::Ended(self.beat())),
                () = clock.sleep(pause) => {}
            }
        }
    }
}
