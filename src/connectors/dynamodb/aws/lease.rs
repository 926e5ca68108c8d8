//! A lease as an item of a DynamoDB table, replaced by PutItem on condition that it is still what was read.
//!
//! A renewal each 2 s is 1.3 M write units a month for each job; those who wait read as often, consistently, and so does the
//! leader in a fleet, to see who asks for its job.
//!
//! Items are called after jobs, and two deployments may have one of the same name. So an item says where the job's checkpoints lie: what belongs
//! to others is not waited for, nor taken, as long as they have it.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::AttributeValue;

use crate::connectors::aws::{AwsSession, Call, Jitter, Requests, failure, string_key};
use crate::contracts::{Clock, Error, Lease, LeaseStore, Result};

use super::guarded::number;

const HOLDER: &str = "holder";
const GENERATION: &str = "generation";
const BEAT: &str = "beat";
const RELEASED: &str = "released";
/// Not in items that earlier programs have written.
const CHECKPOINTS: &str = "checkpoints";

/// A table whose items are leases.
#[derive(Debug, Clone)]
pub(crate) struct LeaseTable {
    client: Client,
    table: String,
    /// Name of the key attribute.
    key: String,
}

impl LeaseTable {
    /// Looks the table up.
    pub(crate) async fn open(session: AwsSession, table: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        // An answer that comes late is as bad as none: the holder of a lease decides itself when to ask again.
        let client = Client::new(&session.config_without_retries().await?);
        let requests = Requests::new(clock, Jitter::seeded(&[table]), 1);
        let key = string_key(&client, &requests, table, "a table of leases").await?;
        Ok(Self { client, table: table.to_owned(), key })
    }

    /// The lease under this key, of a job whose checkpoints lie there, if that is a place that has one name everywhere.
    pub(crate) fn lease(&self, item: &str, checkpoints: Option<&str>) -> TableLease {
        TableLease { of: self.clone(), item: item.to_owned(), checkpoints: checkpoints.map(str::to_owned) }
    }
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct TableLease {
    of: LeaseTable,
    /// Value of the key attribute.
    item: String,
    checkpoints: Option<String>,
}

impl TableLease {
    fn call(&self, operation: &'static str) -> Call<'_> {
        Call { service: "dynamodb", operation, resource: &self.of.table }
    }

    fn item(&self, lease: &Lease) -> HashMap<String, AttributeValue> {
        let mut item = values(lease, "");
        item.insert(self.of.key.clone(), AttributeValue::S(self.item.clone()));
        item.extend(self.checkpoints.iter().map(|place| (CHECKPOINTS.to_owned(), AttributeValue::S(place.clone()))));
        item
    }
}

fn values(lease: &Lease, prefix: &str) -> HashMap<String, AttributeValue> {
    HashMap::from([
        (format!("{prefix}{HOLDER}"), AttributeValue::S(lease.holder.clone())),
        (format!("{prefix}{GENERATION}"), number(lease.generation)),
        (format!("{prefix}{BEAT}"), number(lease.beat)),
        (format!("{prefix}{RELEASED}"), AttributeValue::Bool(lease.released)),
    ])
}

fn lease_of(item: &HashMap<String, AttributeValue>) -> Option<Lease> {
    let count = |name: &str| item.get(name)?.as_n().ok()?.parse().ok();
    Some(Lease {
        holder: item.get(HOLDER)?.as_s().ok()?.clone(),
        generation: count(GENERATION)?,
        beat: count(BEAT)?,
        released: *item.get(RELEASED)?.as_bool().ok()?,
    })
}

/// The lease in an item, which people call `place`, for a job whose checkpoints are `own`.
///
/// # Errors
/// `corrupt`: it is none. `config`: somebody has it for a job with other checkpoints. (One that was given back is anybody's: jobs move.)
fn found(item: &HashMap<String, AttributeValue>, own: Option<&str>, place: &str) -> Result<Lease> {
    let lease = lease_of(item).ok_or_else(|| {
        Error::corrupt(format!("{place} is no lease"))
            .hint("take a table of its own for leases, or remove the item when no replica runs")
    })?;
    let other = item.get(CHECKPOINTS).and_then(|other| other.as_s().ok());
    match (own, other) {
        (Some(own), Some(other)) if own != other && !lease.released => {
            let holder = &lease.holder;
            let error =
                format!("'{holder}' has {place} for a job with checkpoints in '{other}'; this job's are in '{own}'");
            Err(Error::config(error).hint(
                "take another table of leases for this deployment, or another name for its job (SET 'pipeline.name' = '…'); where it is the \
                 same job, which has moved, stop all its replicas first, and remove the item if one of them was killed",
            ))
        }
        _ => Ok(lease),
    }
}

#[async_trait]
impl LeaseStore for TableLease {
    fn place(&self) -> String {
        format!("item '{}' of DynamoDB table '{}'", self.item, self.of.table)
    }

    async fn read(&self) -> Result<Option<Lease>> {
        let LeaseTable { client, table, key } = &self.of;
        let item = AttributeValue::S(self.item.clone());
        let got = client.get_item().table_name(table).key(key, item).consistent_read(true).send().await;
        let got = got.map_err(|e| failure(self.call("GetItem"), &e).error)?;
        got.item.map(|item| found(&item, self.checkpoints.as_deref(), &self.place())).transpose()
    }

    async fn replace(&self, expected: Option<&Lease>, next: &Lease) -> Result<bool> {
        let LeaseTable { client, table, key } = &self.of;
        let put = client.put_item().table_name(table).set_item(Some(self.item(next)));
        let put = match expected {
            None => put.condition_expression("attribute_not_exists(#k)").expression_attribute_names("#k", key),
            Some(expected) => {
                let names = [HOLDER, GENERATION, BEAT, RELEASED];
                let equal = names.map(|name| format!("#{name} = :{name}")).join(" AND ");
                let names = names.map(|name| (format!("#{name}"), name.to_owned()));
                put.condition_expression(equal)
                    .set_expression_attribute_names(Some(names.into()))
                    .set_expression_attribute_values(Some(values(expected, ":")))
            }
        };
        match put.send().await {
            Ok(_) => Ok(true),
            Err(e) => match e.as_service_error() {
                Some(PutItemError::ConditionalCheckFailedException(_)) => Ok(false),
                _ => Err(failure(self.call("PutItem"), &e).error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contracts::ErrorKind;

    /// Staging and production, with a job of one name and one table: each would wait for ever while the other one runs *its* job.
    #[test]
    fn a_lease_that_is_had_for_other_checkpoints_is_refused() {
        let (own, other) = (Some("s3://staging/clicks"), Some("s3://prod/clicks"));
        for (stored, reads, released, refused) in [
            (other, own, false, true),
            (other, own, true, false),
            (own, own, false, false),
            // By an earlier program, or with folders, which may have another name on each machine.
            (None, own, false, false),
            (other, None, false, false),
        ] {
            let lease = Lease { holder: "worker-a".to_owned(), generation: 3, beat: 9, released };
            let mut item = values(&lease, "");
            item.extend(stored.map(|place| (CHECKPOINTS.to_owned(), AttributeValue::S(place.to_owned()))));
            let found = found(&item, reads, "item 'clicks' of DynamoDB table 'leases'");
            if !refused {
                assert_eq!(found.expect("it may be waited for, and taken"), lease, "{stored:?}, {reads:?}");
                continue;
            }
            let error = found.expect_err("it is another job's");
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
            for said in ["'worker-a' has item 'clicks'", "'s3://prod/clicks'", "'s3://staging/clicks'", "pipeline.name"]
            {
                assert!(error.to_string().contains(said), "{said}: {error}");
            }
        }
    }
}
