//! The connector `sns`: a message for each row.

mod aws;
mod local;
mod message;

use std::path::Path;
use std::sync::Arc;

use crate::contracts::{Clock, Result, Sink, TableSpec};

use super::JobContext;
use super::aws::AwsSession;
use super::options::Options;
use aws::AwsTopicSink;
use local::LocalTopicSink;

/// A sink into the embedded SNS. `topic` is a name or an ARN, of which the last part is the name.
pub(super) fn local_sink(spec: &TableSpec, local: &Path, job: &str) -> Result<Box<dyn Sink>> {
    let topic = Options(spec).require(&["topic", "topic.arn"])?;
    Ok(Box::new(LocalTopicSink::open(spec, local, topic, job)?))
}

/// A sink into SNS on AWS.
pub(super) fn aws_sink(
    spec: &TableSpec,
    session: AwsSession,
    clock: Arc<dyn Clock>,
    job: &JobContext,
) -> Result<Box<dyn Sink>> {
    Ok(Box::new(AwsTopicSink::try_new(spec, session, clock, job)?))
}
