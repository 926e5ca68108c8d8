//! The connectors `filesystem` and `s3`: tables over files in folders.
//!
//! A path is a plain path, `file://…`, or `s3://bucket/key`, which with `--local DIR` lies under
//! `DIR/s3/<bucket>/<key>`. Files whose names begin with `.` or `_` do not exist for a reader.

mod aside;
mod durable;
mod encode;
mod errors;
mod listing;
mod location;
mod parquet_read;
mod parquet_write;
mod part;
mod partition;
pub mod reference;
mod sink;
mod source;

use std::path::Path;
use std::sync::Arc;

use crate::contracts::{Clock, ErrorOutput, Result, Sink, Source, TableSpec};

pub use aside::SetAside;
pub(super) use errors::FileErrorOutput;
pub use part::PartNames;

/// A readable table of files.
pub(super) fn source(spec: &TableSpec, local: Option<&Path>, clock: Arc<dyn Clock>) -> Result<Arc<dyn Source>> {
    Ok(Arc::new(source::FileSource::try_new(spec, local, clock)?))
}

/// A writable table of files.
pub(super) fn sink(spec: &TableSpec, local: Option<&Path>, names: PartNames) -> Result<Box<dyn Sink>> {
    Ok(Box::new(sink::FileSink::try_new(spec, local, names)?))
}

/// The error output under a folder.
pub(super) fn error_output(path: &str, local: Option<&Path>, names: PartNames) -> Result<Box<dyn ErrorOutput>> {
    Ok(Box::new(FileErrorOutput::open(&location::resolve(path, local)?, names)))
}

/// Moves the files that earlier runs of this job wrote below `path` to a folder beside.
pub(super) fn set_aside(path: &str, local: Option<&Path>, names: &PartNames) -> Result<Option<SetAside>> {
    aside::set_aside(&location::resolve(path, local)?, names)
}
