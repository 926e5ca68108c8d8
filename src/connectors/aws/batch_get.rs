//! Items of a DynamoDB table by their keys.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};

use super::{Attempt, AwsFailure, Call, failure};

/// One BatchGetItem of a table's `keys` (100 at most). Its items go to `found`; what DynamoDB leaves over is left of the task. A failure
/// that no repetition mends is the caller's.
pub(crate) async fn batch_get(
    client: &Client,
    table: &str,
    keys: KeysAndAttributes,
    found: impl FnOnce(&mut dyn Iterator<Item = HashMap<String, AttributeValue>>),
) -> Result<Attempt<KeysAndAttributes>, AwsFailure> {
    let call = Call { service: "dynamodb", operation: "BatchGetItem", resource: table };
    let output = match client.batch_get_item().request_items(table, keys.clone()).send().await {
        Ok(output) => output,
        Err(e) => {
            let failure = failure(call, &e);
            return if failure.retryable { Ok(Attempt::after(keys, failure)) } else { Err(failure) };
        }
    };
    found(&mut output.responses.unwrap_or_default().into_values().flatten());
    // Of the one table that was asked, whether by name or by ARN.
    Ok(match output.unprocessed_keys.unwrap_or_default().into_values().next() {
        Some(left) => {
            let parts = (left.keys.len(), keys.keys.len());
            Attempt::left_over(call, left, parts, true)
        }
        None => Attempt::Done,
    })
}
