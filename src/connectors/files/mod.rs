//! The connectors `filesystem` and `s3`: tables over files in folders and buckets.
//!
//! A path is a plain path, `file://…`, or `s3://bucket/key`, which with `--local DIR` lies under
//! `DIR/s3/<bucket>/<key>`. Files whose names begin with `.` or `_` do not exist for a reader.
//!
//! ```text
//! source, reference ─► FileAt ─► LineFile, ParquetFile over a DiskFile or an Object (ranges)
//! sink ─► Partitioner ─► Writer (encode) ─► Output: PartFile (rename at commit) or Upload (completed at commit)
//! ```
//!
//! Everything but the two ends is the same for folders and buckets.

mod archived;
mod aside;
mod commit_mark;
mod durable;
mod encode;
mod error_objects;
mod errors;
mod folders;
mod growing;
mod listing;
mod location;
mod names;
mod object;
mod open_files;
mod output;
mod packed;
mod parquet_checks;
mod parquet_columns;
mod parquet_pages;
mod parquet_read;
mod parquet_write;
mod part;
mod partition;
pub mod reference;
mod sink;
mod sorting;
mod source;
mod state_place;
mod time_folders;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;

use crate::contracts::{Error, ErrorOutput, Result, Sink, Source, TableSpec};

pub use archived::{ArchivedFile, ArchivedFiles};
pub use aside::SetAside;
pub(super) use errors::FileErrorOutput;
pub(super) use location::Reach;
pub use location::{check_path, s3_path};
pub use part::PartNames;
pub use state_place::{StatePlace, state_place};

/// A readable table of files.
pub(super) fn source(spec: &TableSpec, reach: &Reach<'_>) -> Result<Arc<dyn Source>> {
    Ok(Arc::new(source::FileSource::try_new(spec, reach)?))
}

/// A writable table of files, which has `memory` for them where there is a limit.
pub(super) fn sink(
    spec: &TableSpec,
    reach: &Reach<'_>,
    names: PartNames,
    memory: Option<u64>,
) -> Result<Box<dyn Sink>> {
    Ok(Box::new(sink::FileSink::try_new(spec, reach, names, memory)?))
}

/// The error output under a folder.
pub(super) fn error_output(path: &str, reach: &Reach<'_>, names: PartNames) -> Result<Box<dyn ErrorOutput>> {
    let place = reach.place(path)?;
    if let location::Place::Local(folder) = &place
        && let Some(file) = folder.ancestors().find(|above| above.exists()).filter(|above| !above.is_dir())
    {
        // It is made when the first record is refused, which may be days later.
        let error = format!("'{}' cannot be made: '{}' is a file", folder.display(), file.display());
        return Err(Error::config(error).hint("name another folder: SET 'tidemill.errors.path' = '…'"));
    }
    Ok(Box::new(FileErrorOutput::open(place, names)))
}

/// Moves the files that earlier runs of this job wrote into a table to a folder beside. Objects stay: see [`own_object`].
pub(super) fn set_aside(spec: &TableSpec, reach: &Reach<'_>, names: &PartNames) -> Result<Option<SetAside>> {
    match reach.place(spec.require("path")?)? {
        location::Place::Local(root) => aside::set_aside(&root, names, commit_mark::file_name(spec)),
        location::Place::S3(_) => Ok(None),
    }
}

/// The same of an error output under `path`.
pub(super) fn set_errors_aside(path: &str, reach: &Reach<'_>, names: &PartNames) -> Result<Option<SetAside>> {
    match reach.place(path)? {
        location::Place::Local(root) => aside::set_aside(&root, names, None),
        location::Place::S3(_) => Ok(None),
    }
}

/// Where `path` lies on this machine; `None` in a bucket.
pub(super) fn local_folder(path: &str, reach: &Reach<'_>) -> Result<Option<PathBuf>> {
    if reach.local.is_none() && s3_path(path)?.is_some() {
        // Without a session, for which there may be no region.
        return Ok(None);
    }
    match reach.place(path)? {
        location::Place::Local(folder) => Ok(Some(folder)),
        location::Place::S3(_) => Ok(None),
    }
}

/// Finds a file that an earlier run of this job wrote below `path`, if that is no bucket.
pub(super) fn own_file(path: &str, reach: &Reach<'_>, names: &PartNames) -> Result<Option<PathBuf>> {
    match reach.place(path)? {
        location::Place::Local(root) => aside::own_file(&root, names),
        location::Place::S3(_) => Ok(None),
    }
}

/// Finds an object that an earlier run of this job wrote below `path`, if that is in a bucket.
pub(super) fn own_object(
    path: &str,
    reach: &Reach<'_>,
    names: &PartNames,
) -> Result<impl Future<Output = Result<Option<String>>> + Send + use<>> {
    let (place, names) = (reach.place(path)?, names.clone());
    Ok(async move {
        match place {
            location::Place::Local(_) => Ok(None),
            location::Place::S3(prefix) => aside::own_object(&prefix, &names).await,
        }
    })
}
