//! How a process competes for a job's lease: for this one alone, or as a member of a fleet, for its share of several.

use super::seat::Seat;
use super::term::{Candidate, Term, Times};
use crate::contracts::{Lease, Result};

/// See the module's description.
#[derive(Debug)]
pub enum Contender {
    /// It wants this job, whatever else runs where.
    Alone(Candidate),
    /// It wants its share of a fleet's jobs.
    Member(Box<Seat>),
}

impl From<Candidate> for Contender {
    fn from(candidate: Candidate) -> Self {
        Self::Alone(candidate)
    }
}

impl From<Seat> for Contender {
    fn from(seat: Seat) -> Self {
        Self::Member(Box::new(seat))
    }
}

impl Contender {
    /// How long things take.
    pub fn times(&self) -> Times {
        match self {
            Self::Alone(candidate) => candidate.times(),
            Self::Member(seat) => seat.times(),
        }
    }

    /// Waits until it may have the lease, and takes it: see [`Candidate::acquire`] and [`Seat::acquire`].
    ///
    /// # Errors
    /// What can not pass by waiting.
    pub async fn acquire(&mut self, waiting: impl FnMut(&Lease)) -> Result<Term> {
        match self {
            Self::Alone(candidate) => candidate.acquire(waiting).await,
            Self::Member(seat) => seat.acquire(waiting).await,
        }
    }

    /// Waits, while it has the lease, until another process should have the job, and says which: see [`Seat::wanted`].
    pub async fn wanted(&mut self) -> String {
        match self {
            Self::Alone(_) => std::future::pending().await,
            Self::Member(seat) => seat.wanted().await,
        }
    }

    /// It has no term any more.
    pub fn ended(&self) {
        if let Self::Member(seat) = self {
            seat.ended();
        }
    }

    /// It does not want the lease for now.
    pub async fn rest(&mut self) {
        match self {
            // It may have been stopped in the midst of taking it.
            Self::Alone(candidate) => candidate.withdraw().await,
            Self::Member(seat) => seat.rest().await,
        }
    }
}
