//! Several replicas of a job, of which one runs it.
//!
//! A lease says who. It keeps two replicas from *wanting* to run a job; what keeps one that was paused, or cut off, from
//! *disturbing* its successor is not here: its entry in the epoch log and its checkpoint are refused, and DynamoDB refuses
//! what is older. So this module needs no clock that agrees with another's, and no promise about pauses.
//!
//! Architecture invariant: imports nothing but [`crate::contracts`].

mod folder;
mod object;
mod term;

pub use folder::FolderLease;
pub use object::ObjectLease;
pub use term::{Candidate, Lost, Term, Times};
