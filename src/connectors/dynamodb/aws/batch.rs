//! BatchWriteItem: 25 whole items in a call, without any condition.
//!
//! It is cheaper in calls, not in write units, and it promises less: a call that was thought lost may be applied after a
//! later one, so a value can go back for a moment, and attributes of other writers are lost.

use aws_sdk_dynamodb::types::{DeleteRequest, PutRequest, WriteRequest};

use crate::connectors::aws::{Attempt, Call, failure};
use crate::contracts::{Error, Result};

use super::guarded::EpochCalls;
use super::items::ItemWrite;

/// Items in a call ("Quotas"). The other limit, 16 MB, is out of reach: 25 × 400 KB are 10 MB.
pub(super) const BATCH_ITEMS: usize = 25;

impl EpochCalls<'_> {
    /// One entry of a batch.
    pub(super) fn entry(&self, write: &ItemWrite) -> Result<WriteRequest> {
        let incomplete = |e| Error::internal("an item without its key").caused_by(e);
        let request = WriteRequest::builder();
        Ok(if write.deleted {
            let delete = DeleteRequest::builder().set_key(Some(write.key.clone())).build().map_err(incomplete)?;
            request.delete_request(delete).build()
        } else {
            let put = PutRequest::builder().set_item(Some(self.whole(write))).build().map_err(incomplete)?;
            request.put_request(put).build()
        })
    }

    /// Writes a batch; what DynamoDB leaves over is left over.
    pub(super) async fn batch(&self, entries: Vec<WriteRequest>) -> Attempt<Vec<WriteRequest>> {
        let table = &self.options.table;
        let sent = self.client.batch_write_item().request_items(table, entries.clone()).send().await;
        match sent {
            Ok(output) => {
                let left: Vec<WriteRequest> =
                    output.unprocessed_items.unwrap_or_default().into_values().flatten().collect();
                let progress = left.len() < entries.len();
                if left.is_empty() { Attempt::Done } else { Attempt::Again { task: left, throttled: true, progress } }
            }
            Err(e) => {
                let call = Call { service: "dynamodb", operation: "BatchWriteItem", resource: table };
                Attempt::after(entries, failure(call, &e))
            }
        }
    }
}
