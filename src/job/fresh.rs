//! `--fresh` where it cannot be done: rows are written again, and objects of earlier runs would stay beside them.

use std::sync::Arc;

use super::run::JobOptions;
use crate::connectors::{Connectors, JobContext};
use crate::contracts::{Clock, Error, Result};
use crate::sql::JobPlan;

/// Refuses a run that would write rows a second time into buckets, before anything is forgotten. Files are moved aside; objects
/// can only be copied, at a price and with other rights, so a person must say what is to be done with them.
pub(super) async fn refuse_beside_objects(
    options: &JobOptions,
    plan: &JobPlan,
    job: &str,
    clock: &Arc<dyn Clock>,
) -> Result<()> {
    if !options.fresh || options.from.is_some() {
        return Ok(());
    }
    // Of any run of this job: the number does not matter.
    let context = JobContext { job: job.to_owned(), generation: 0 };
    let connectors = Connectors::new(options.local.clone(), Arc::clone(clock), context);
    for query in &plan.queries {
        let Some(object) = connectors.own_object(&query.sink.spec, &query.sink.connector).await? else { continue };
        return Err(Error::config(format!(
            "--fresh would write everything again beside '{object}', which an earlier run of this job has written into '{}'",
            query.sink.name
        ))
        .hint(
            "move the objects of earlier runs (`aws s3 mv --recursive`), or give the table another path; where nothing is to be \
             written twice, say where to begin: --from latest, or a time",
        ));
    }
    Ok(())
}
