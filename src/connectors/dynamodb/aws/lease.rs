//! A lease as an item of a DynamoDB table, replaced by PutItem on condition that it is still what was read.
//!
//! A renewal each 2 s is 1.3 M write units a month for each job; those who wait read as often, consistently, and so does the
//! leader in a fleet, to see who asks for its job.

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

    /// The lease under this key.
    pub(crate) fn lease(&self, item: &str) -> TableLease {
        TableLease { of: self.clone(), item: item.to_owned() }
    }
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct TableLease {
    of: LeaseTable,
    /// Value of the key attribute.
    item: String,
}

impl TableLease {
    fn call(&self, operation: &'static str) -> Call<'_> {
        Call { service: "dynamodb", operation, resource: &self.of.table }
    }

    fn item(&self, lease: &Lease) -> HashMap<String, AttributeValue> {
        let mut item = values(lease, "");
        item.insert(self.of.key.clone(), AttributeValue::S(self.item.clone()));
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
        got.item
            .map(|item| {
                lease_of(&item).ok_or_else(|| {
                    Error::corrupt(format!("{} is no lease", self.place()))
                        .hint("take a table of its own for leases, or remove the item when no replica runs")
                })
            })
            .transpose()
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
