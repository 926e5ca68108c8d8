//! Several replicas of a job, of which one runs it; several jobs, of which each process of a fleet runs its share.
//!
//! A lease says who. It keeps two replicas from *wanting* to run a job; what keeps one that was paused, or cut off, from
//! *disturbing* its successor is not here: its entry in the epoch log and its checkpoint are refused, and DynamoDB refuses
//! what is older. So this module needs no clock that agrees with another's, and no promise about pauses.
//!
//! | | |
//! |---|---|
//! | [`Candidate`], [`Term`] | one lease: take it, keep it, notice that it is gone |
//! | [`Keeper`], [`LeaseThread`] | keep it, whatever the process does meanwhile |
//! | [`Spread`] | a fleet: which of its jobs a process should have, as a function of what it sees |
//! | [`Member`], [`Seat`] | a process of a fleet, and its part in one of the jobs: it waits, wishes and gives |
//! | [`Contender`] | one of both, for whoever runs a job |
//!
//! Architecture invariant: imports nothing but [`crate::contracts`].

mod contender;
mod folder;
mod keeper;
mod member;
mod object;
mod seat;
mod spread;
mod term;
mod thread;
mod watch;

pub use contender::Contender;
pub use folder::FolderLease;
pub use keeper::Keeper;
pub use member::Member;
pub use object::ObjectLease;
pub use seat::{Seat, SeatLeases};
pub use spread::Spread;
pub use term::{Candidate, Lost, Term, Times};
pub use thread::LeaseThread;

#[cfg(test)]
mod memory;
#[cfg(test)]
pub(crate) use memory::MemoryLease;
