//! Who runs a job: of all replicas, one.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::error::Result;

/// The right to run a job, as a store has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The replica that has it: different for each process and start.
    pub holder: String,
    /// How often the lease has changed hands.
    pub generation: u64,
    /// Number of the attempt that stored this, growing. Others see by it that the holder lives; no time of any machine is
    /// compared.
    pub beat: u64,
    /// The holder has given it back.
    pub released: bool,
}

/// Where a person wants leases to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeasePlace {
    /// Beside the job's checkpoints.
    Checkpoints,
    /// In a DynamoDB table.
    DynamoDb(String),
}

impl LeasePlace {
    /// `checkpoints` or `dynamodb:TABLE`.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            None if text.eq_ignore_ascii_case("checkpoints") => Ok(Self::Checkpoints),
            Some(("dynamodb", table)) if !table.is_empty() => Ok(Self::DynamoDb(table.to_owned())),
            _ => Err(format!("'{text}' is neither 'checkpoints' nor 'dynamodb:TABLE'")),
        }
    }
}

/// Where the lease of one job is kept.
///
/// # Contract
/// - `read` sees every `replace` that has returned before it was called.
/// - `replace` stores `next` if what is stored is `expected` (`None`: nothing is), else it changes nothing and answers
///   `false`. After an error nobody knows: read again.
#[async_trait]
pub trait LeaseStore: Send + Sync + std::fmt::Debug {
    /// Where it is, for people.
    fn place(&self) -> String;

    /// The lease, if there ever was one.
    async fn read(&self) -> Result<Option<Lease>>;

    /// Compares and sets.
    async fn replace(&self, expected: Option<&Lease>, next: &Lease) -> Result<bool>;
}
