//! Where a job keeps its checkpoints: a folder, or a prefix of a bucket.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;

use crate::connectors::aws::AwsSessions;
use crate::contracts::{Clock, Result};

use super::location::{Place, Reach};

/// Where checkpoints lie.
#[derive(Debug)]
pub enum StatePlace {
    /// In a folder of this machine.
    Folder(PathBuf),
    /// In a bucket: its store, and the prefix of all keys.
    Bucket {
        /// The bucket.
        store: Arc<dyn ObjectStore>,
        /// Without slashes at its ends.
        prefix: String,
    },
}

/// Finds `path` (plain, `file://…` or `s3://bucket/prefix`) with the credentials that the environment gives.
///
/// # Errors
/// No such kind of path, no bucket, no rights, no credentials.
pub async fn state_place(path: &str, clock: Arc<dyn Clock>) -> Result<StatePlace> {
    let sessions = AwsSessions::default();
    let place = Reach { local: None, session: &|| sessions.default_session(), clock }.place_as_written(path)?;
    match place {
        Place::Local(folder) => Ok(StatePlace::Folder(folder)),
        Place::S3(prefix) => {
            prefix.bucket.reach(&prefix.join("")).await.map_err(|e| e.context(format!("checkpoints in '{path}'")))?;
            Ok(StatePlace::Bucket { store: prefix.bucket.store().await?, prefix: prefix.key })
        }
    }
}
