//! Several jobs of which this process runs its share.
//!
//! Each job is a [`Replica`] of its own, with its own lease, checkpoints, retries and end: what happens to one is nothing to the
//! others. What they share is the process: its name, its threads, equal parts of its memory. How jobs spread over processes:
//! [`crate::ha`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::jobs;
use super::replica::{Replica, holder, lease_place, leases, times};
use super::run::{JobOptions, job_name, plan_from_now};
use crate::contracts::{Clock, Error, LeasePlace};
use crate::ha::{LeaseThread, Member, Seat, Spread};

/// See the module's description.
pub struct Fleet {
    /// Name of this process, as other processes see it.
    pub holder: String,
    /// All that it takes part in.
    pub jobs: Vec<FleetJob>,
}

/// A job of a fleet.
pub struct FleetJob {
    /// Its name, which no other one of the fleet has.
    pub name: String,
    /// This process's part in it.
    pub replica: Replica,
}

impl Fleet {
    /// Plans all jobs, so that what is wrong with any of them is known before one of them runs. `options` are those of each, but
    /// for its files. A job without a place for its lease keeps it beside its checkpoints.
    ///
    /// # Errors
    /// All errors of all jobs' SQL; two jobs of one name; no checkpoints; no such table or bucket of leases.
    pub async fn plan(options: &JobOptions, clock: &Arc<dyn Clock>) -> std::result::Result<Self, Vec<Error>> {
        let paths = jobs(&options.paths).map_err(|e| vec![e])?;
        let mut planned = Vec::new();
        let mut errors = Vec::new();
        let mut places: BTreeMap<String, PathBuf> = BTreeMap::new();
        for path in &paths {
            let mut options = JobOptions { paths: vec![path.clone()], ..options.clone() };
            options.state.of_fleet = true;
            if let Some(memory) = &mut options.memory {
                memory.jobs = paths.len();
            }
            match plan_from_now(&options, clock).await {
                Ok((plan, _)) => {
                    let name = job_name(&plan.settings, &options.paths);
                    if let Some(other) = places.insert(name.clone(), path.clone()) {
                        errors.push(same_name(&name, &other, path));
                    }
                    planned.push((name, options, plan.settings));
                }
                Err(wrong) => errors.extend(wrong),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let holder = holder().map_err(|e| vec![e])?;
        let thread = LeaseThread::start().map_err(|e| vec![e])?;
        let member = Member::new(holder.clone(), Arc::clone(clock), Spread::default());
        let mut jobs = Vec::new();
        for (name, mut options, settings) in planned {
            let opened = async {
                let place = lease_place(&options, &settings).unwrap_or(LeasePlace::Checkpoints);
                options.state.lease = Some(place.clone());
                leases(place, &options, &settings, &name, clock, &thread).await
            };
            match opened.await {
                Ok(leases) => {
                    let seat = Seat::new(&member, name.clone(), leases, times(&settings));
                    let replica = Replica::new(options, seat, Arc::clone(clock)).keeping_on(Arc::clone(&thread));
                    jobs.push(FleetJob { name, replica: replica.retrying(settings.retries) });
                }
                Err(error) => errors.push(error.context(format!("job '{name}'"))),
            }
        }
        if errors.is_empty() { Ok(Self { holder, jobs }) } else { Err(errors) }
    }
}

fn same_name(name: &str, one: &Path, other: &Path) -> Error {
    let (one, other) = (one.display(), other.display());
    Error::config(format!("two jobs of the fleet are named '{name}': '{one}' and '{other}'"))
        .hint("they would share checkpoints and lease: SET 'pipeline.name' = '…' in one of them")
}
