//! What of AWS a job uses: which streams, tables, topics and buckets, in which shape, and with which actions.
//!
//! [`needs`] says it of one table, from its options alone and without any call. The job merges what all its tables need
//! ([`merge`]), and four commands show it: [`iam::policy`], [`templates`], [`athena::ddl`], and [`live`], which asks AWS, as does
//! [`rights`].
//!
//! Invariant: only [`live`] and [`rights`] make calls, and of these only `create` changes anything; nothing here deletes.

pub mod athena;
pub mod iam;
pub mod live;
mod needs;
mod patterns;
pub mod rights;
pub mod templates;

use std::collections::BTreeSet;

use crate::contracts::{Error, Result, TableSpec};

pub use needs::{checkpoints, error_output, lease, needs};

/// Sort of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Of Kinesis Data Streams.
    Stream,
    /// Of DynamoDB.
    Table,
    /// Of SNS.
    Topic,
    /// Of S3.
    Bucket,
    /// Of Firehose.
    DeliveryStream,
}

impl Kind {
    /// As it is called in texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Table => "table",
            Self::Topic => "topic",
            Self::Bucket => "bucket",
            Self::DeliveryStream => "delivery stream",
        }
    }
}

/// How a resource must be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// Nothing but its name.
    Plain,
    /// A DynamoDB table.
    Table {
        /// Hash key, then range key if there is one; none where the job does not say.
        key: Vec<KeyAttribute>,
        /// Attribute of the time to live.
        ttl: Option<String>,
    },
    /// A topic: FIFO or standard.
    Topic {
        /// Its name ends with `.fifo`.
        fifo: bool,
    },
}

/// An attribute of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyAttribute {
    /// Its name.
    pub name: String,
    /// `S`, `N` or `B`.
    pub letter: &'static str,
}

/// What part of a resource a grant is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The resource.
    Itself,
    /// The registered consumers of a stream.
    Consumers,
    /// The objects of a bucket below this prefix (empty: all).
    Objects(String),
    /// The list of a bucket's objects below this prefix.
    Listing(String),
    /// Whatever there is: the service knows no narrower form.
    Anything,
}

/// Something of AWS that the job uses.
#[derive(Debug, Clone)]
pub struct Resource {
    /// What it is.
    pub kind: Kind,
    /// Its name, without the rest of an ARN. May hold `*` where the job reads all streams of a pattern.
    pub name: String,
    /// The account, where an ARN says it.
    pub account: Option<String>,
    /// The region, where an ARN or an option says it.
    pub region: Option<String>,
    /// How it must be made.
    pub shape: Shape,
    /// Allowed actions, as IAM spells them, and on what of it.
    pub grants: BTreeSet<(Target, &'static str)>,
    /// Names in SQL of the tables that need it.
    pub tables: Vec<String>,
    /// One of them, for credentials, region and endpoint.
    pub(crate) spec: TableSpec,
}

impl Target {
    /// What of a resource, in an error: `" below 'prefix/'"`; empty for the whole.
    pub fn part(&self) -> String {
        match self {
            Self::Objects(prefix) | Self::Listing(prefix) if !prefix.is_empty() => format!(" below '{prefix}'"),
            Self::Consumers => " on its consumers".to_owned(),
            _ => String::new(),
        }
    }
}

impl Resource {
    /// `table 'page-views'`
    pub fn title(&self) -> String {
        format!("{} '{}'", self.kind.name(), self.name)
    }

    /// Its ARN, with the given words where the job says neither region nor account.
    pub fn arn(&self, region: &str, account: &str) -> String {
        let region = self.region.as_deref().unwrap_or(region);
        let account = self.account.as_deref().unwrap_or(account);
        let partition = match region {
            r if r.starts_with("cn-") => "aws-cn",
            r if r.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        };
        let name = &self.name;
        match self.kind {
            Kind::Stream => format!("arn:{partition}:kinesis:{region}:{account}:stream/{name}"),
            Kind::Table => format!("arn:{partition}:dynamodb:{region}:{account}:table/{name}"),
            Kind::Topic => format!("arn:{partition}:sns:{region}:{account}:{name}"),
            Kind::Bucket => format!("arn:{partition}:s3:::{name}"),
            Kind::DeliveryStream => format!("arn:{partition}:firehose:{region}:{account}:deliverystream/{name}"),
        }
    }
}

/// One entry for each resource, sorted by kind and name.
///
/// # Errors
/// Two tables that want different keys of the same DynamoDB table.
pub fn merge(all: Vec<Resource>) -> Result<Vec<Resource>> {
    let mut merged: Vec<Resource> = Vec::new();
    for resource in all {
        let same = |r: &&mut Resource| {
            r.kind == resource.kind
                && r.name == resource.name
                && r.account == resource.account
                && r.region == resource.region
        };
        let Some(known) = merged.iter_mut().find(same) else {
            merged.push(resource);
            continue;
        };
        known.shape = both(&known.shape, &resource)?;
        known.grants.extend(resource.grants);
        for table in resource.tables {
            if !known.tables.contains(&table) {
                known.tables.push(table);
            }
        }
    }
    merged.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    Ok(merged)
}

fn both(known: &Shape, other: &Resource) -> Result<Shape> {
    match (known, &other.shape) {
        (Shape::Table { key, ttl }, Shape::Table { key: other_key, ttl: other_ttl }) => {
            if !key.is_empty() && !other_key.is_empty() && key != other_key {
                return Err(Error::config(format!("the tables of {} have different primary keys", other.title()))
                    .hint("a DynamoDB table has one key: declare the same PRIMARY KEY, with the same types, in all"));
            }
            let key = if key.is_empty() { other_key } else { key };
            Ok(Shape::Table { key: key.clone(), ttl: ttl.clone().or_else(|| other_ttl.clone()) })
        }
        (known, _) => Ok(known.clone()),
    }
}
