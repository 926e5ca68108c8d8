//! Tables that Tidemill keeps notes in (a ledger, leases): an item for each text.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::ScalarAttributeType;

use super::{Call, Requests, failure};
use crate::contracts::{Error, Result};

/// Name of the key attribute of a table whose only key is a string; `purpose` is what it is to be, for the error.
pub(crate) async fn string_key(client: &Client, requests: &Requests, table: &str, purpose: &str) -> Result<String> {
    let call = Call { service: "dynamodb", operation: "DescribeTable", resource: table };
    let describe = || async { client.describe_table().table_name(table).send().await.map_err(|e| failure(call, &e)) };
    let found = requests.once(describe).await?.table;
    let keys = found.as_ref().map(|t| t.key_schema()).unwrap_or_default();
    let is_text = |name: &str| {
        let definitions = found.as_ref().map(|t| t.attribute_definitions()).unwrap_or_default();
        let named = definitions.iter().find(|d| d.attribute_name() == name);
        named.is_some_and(|d| *d.attribute_type() == ScalarAttributeType::S)
    };
    match keys {
        [key] if is_text(key.attribute_name()) => Ok(key.attribute_name().to_owned()),
        _ => Err(Error::config(format!("DynamoDB table '{table}' cannot be {purpose}"))
            .hint("it needs a hash key that is a string, and no range key")),
    }
}
