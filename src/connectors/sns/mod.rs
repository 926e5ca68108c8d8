//! The connector `sns`: a message for each row.

mod local;

use std::path::Path;

use crate::contracts::{Result, Sink, TableSpec};

use super::options::Options;
use local::LocalTopicSink;

/// A sink into the embedded SNS. `topic` is a name or an ARN, of which the last part is the name.
pub(super) fn local_sink(spec: &TableSpec, local: &Path, job: &str) -> Result<Box<dyn Sink>> {
    let topic = Options(spec).require(&["topic", "topic.arn"])?;
    let name = topic.rsplit(':').next().unwrap_or(topic);
    Ok(Box::new(LocalTopicSink::open(spec, local, name, job)?))
}
