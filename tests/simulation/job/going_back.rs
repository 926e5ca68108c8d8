//! Somebody makes an earlier checkpoint the newest one, with `tidemill state rewind`: while the job runs, where nothing but its storage keeps
//! two apart, or when it was stopped.
//!
//! What came of the job since is there, and comes again. So items end as they would have, but for sums that are added to what is stored; files
//! and alerts are there once more, and values go back for a while.

use std::sync::Arc;
use std::time::Duration;

use tidemill::contracts::Error;
use tidemill::job::StateTools;

use super::machine::Nature;
use super::site::{Shared, Site, site};

/// Tries of a person whom the storage, or the job, has come in between.
const TRIES: usize = 40;

/// Goes back to one of the checkpoints that there are. Answers whether queries are to catch up with others then.
pub(crate) async fn go_back(shared: &Arc<Shared>, nature: &Arc<Nature>) -> bool {
    for _ in 0..TRIES {
        // The program that was used before has ended, whatever of it is left in this one.
        if let Some(disk) = &shared.disk {
            disk.power_off(&nature.lock().chance, None);
        }
        let site = site(shared, nature, 0);
        let mut tools = StateTools::within(Arc::clone(&site) as _, Arc::clone(&site.clock));
        nature.trace("somebody begins");
        let gone = async {
            let which = match tools.checkpoints().await?.as_slice() {
                [] => return Ok(None),
                some => {
                    let inner = nature.lock();
                    let number = some[inner.chance.below(some.len() as u64) as usize];
                    if inner.chance.percent(50) { number.to_string() } else { "latest".to_owned() }
                }
            };
            Ok::<_, Error>(Some(tools.rewind(&which).await?))
        };
        let gone = tokio::select! {
            biased;
            gone = gone => gone,
            () = dies(&site) => Err(Error::unavailable("power has failed")),
        };
        match gone {
            Ok(None) => return false,
            Ok(Some(said)) => {
                nature.trace(format!("goes back: {said}"));
                return said.contains("had rows in open files");
            }
            Err(error) => nature.trace(format!("does not go back: {}", error.message())),
        }
        nature.world.sleep(Duration::from_millis(700)).await;
    }
    nature.lock().problems.push("nobody could go back".to_owned());
    false
}

/// Waits until the machine does nothing any more.
async fn dies(site: &Site) {
    while !site.machine.is_dead() {
        site.machine.nature.world.sleep(Duration::from_millis(500)).await;
    }
}

/// Removes what keeps the files of a checkpoint while somebody goes back to it: a try that has failed leaves it, and so may a request that
/// comes when it has been removed.
pub(crate) async fn forget_savepoints(site: &Arc<Site>) {
    let tools = StateTools::within(Arc::clone(site) as _, Arc::clone(&site.clock));
    let forgotten = async {
        for name in tools.savepoints().await? {
            tools.drop_savepoint(&name).await?;
        }
        Ok::<_, Error>(())
    };
    if let Err(error) = forgotten.await {
        site.machine.nature.lock().problems.push(format!("savepoints stay: {error}"));
    }
}
