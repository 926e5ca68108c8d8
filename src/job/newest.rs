//! The newest checkpoint of a job, and from where runs and epochs are counted on where it, or the log, cannot be read.

use std::sync::Arc;

use super::beginning::or_savepoint;
use crate::contracts::{Clock, Error, ErrorKind, Result};
use crate::state::{CheckpointStore, Manifest};

/// The newest checkpoint that can be read.
#[derive(Default)]
pub(super) struct Newest {
    pub(super) manifest: Option<Manifest>,
    /// There is a newer one, which cannot.
    pub(super) damaged: bool,
    pub(super) generation: u64,
    pub(super) epoch: u64,
}

/// What a damaged newest checkpoint is passed over for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Passes<'a> {
    /// It is an error.
    None,
    /// The run begins anew.
    ForNothing,
    /// The run goes on from the newest one that is whole.
    ForThePrevious,
    /// Somebody goes back to this, and it is told what was passed over.
    For(&'a str),
}

/// `log_damaged`: the log beside it has entries that cannot be read.
///
/// # Errors
/// `fenced` where the run before has made other checkpoints meanwhile.
pub(super) async fn newest(
    store: &CheckpointStore,
    passes: Passes<'_>,
    log_damaged: bool,
    clock: &Arc<dyn Clock>,
    notes: &mut Vec<String>,
) -> Result<Newest> {
    let mut newest = Newest::default();
    let mut is_unknown = false;
    for number in store.numbers().await?.into_iter().rev() {
        let manifest = store.manifest(number).await;
        is_unknown |= manifest.is_err();
        if let Ok(manifest) = &manifest {
            newest.generation = newest.generation.max(manifest.generation);
            newest.epoch = newest.epoch.max(manifest.epoch);
        }
        // For who asks for the one before, a damaged state file is as bad as a damaged manifest.
        let read = async {
            let manifest = manifest?;
            if matches!(passes, Passes::ForThePrevious) {
                store.verify(&manifest).await?;
            }
            Ok::<_, Error>(manifest)
        };
        let error = match read.await {
            Ok(manifest) => {
                newest.manifest = Some(manifest);
                break;
            }
            // A run that is being taken over has made others since it was listed, and has removed it.
            Err(error) if error.kind() == ErrorKind::Config => {
                return Err(Error::new(ErrorKind::Fenced, error.message()));
            }
            Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
            Err(error) => error,
        };
        match passes {
            Passes::None => return Err(or_savepoint(store, error, None).await),
            // What it says is not known: its run and its epochs are passed over by the time.
            Passes::ForNothing => notes.push(format!("--fresh: {}", error.message())),
            Passes::ForThePrevious => notes.push(format!("{}: going on from the one before", error.message())),
            Passes::For(name) => notes.push(format!("{}: passed over for savepoint {name}", error.message())),
        }
        newest.damaged |= !matches!(passes, Passes::ForNothing);
    }
    if (newest.damaged && is_unknown) || log_damaged {
        // The damaged one was at most so many checkpoints later, and a log has at most so many entries behind its checkpoint; numbers of
        // epochs must not be used twice. Where no checkpoint can be read, epochs are counted on by the time, which grows faster than they
        // follow each other.
        newest.generation += 1_000;
        let least = if newest.manifest.is_none() { u64::try_from(clock.now_ms()).unwrap_or(0) } else { 0 };
        newest.epoch = (newest.epoch + 1_000_000).max(least);
    }
    Ok(newest)
}
