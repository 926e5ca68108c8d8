//! BatchWriteItem: 25 whole items in a call, without any condition.
//!
//! It is cheaper in calls, not in write units, and it promises less: a call that was thought lost may be applied after a
//! later one, so a value can go back for a moment, and attributes of other writers are lost.

use aws_sdk_dynamodb::types::{DeleteRequest, PutRequest, WriteRequest};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::connectors::aws::{Attempt, AwsFailure, Call, failure};
use crate::contracts::{Error, Result};

use super::guarded::EpochCalls;
use super::items::ItemWrite;
use super::refusals::blames_an_item;

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
        match self.send(entries.clone()).await {
            Ok(left) => {
                let parts = (left.len(), entries.len());
                if left.is_empty() { Attempt::Done } else { Attempt::left_over(self.batch_call(), left, parts, true) }
            }
            Err((failure, text)) if blames_an_item(&failure.code) => match entries.as_slice() {
                [entry] => match self.refuse(entry, (&failure.code, &text)) {
                    Ok(()) => Attempt::Done,
                    Err(too_many) => Attempt::Failed(too_many),
                },
                _ => self.one_by_one(entries).await,
            },
            Err((failure, _)) => Attempt::after(entries, failure),
        }
    }

    /// Writes each entry by itself: one bad item fails a whole call, and the answer does not say which.
    async fn one_by_one(&self, entries: Vec<WriteRequest>) -> Attempt<Vec<WriteRequest>> {
        let mut entries = entries.into_iter();
        let mut progress = false;
        while let Some(entry) = entries.next() {
            let (mut left, throttled, why) = match self.send(vec![entry.clone()]).await {
                Ok(left) if left.is_empty() => {
                    progress = true;
                    continue;
                }
                Ok(left) => (left, true, Error::unavailable("DynamoDB leaves items over")),
                Err((failure, text)) if blames_an_item(&failure.code) => {
                    match self.refuse(&entry, (&failure.code, &text)) {
                        Ok(()) => {
                            progress = true;
                            continue;
                        }
                        Err(too_many) => return Attempt::Failed(too_many),
                    }
                }
                Err((failure, _)) if failure.retryable => (vec![entry], failure.throttled, failure.error),
                Err((failure, _)) => return Attempt::Failed(failure.error),
            };
            left.extend(entries);
            return Attempt::Again { task: left, throttled, progress, why };
        }
        Attempt::Done
    }

    /// One call. Answers what is left over, or the failure and what the service said.
    async fn send(&self, entries: Vec<WriteRequest>) -> Result<Vec<WriteRequest>, (AwsFailure, String)> {
        let table = &self.options.table;
        let puts = entries.iter().filter(|entry| entry.put_request.is_some()).count();
        match self.client.batch_write_item().request_items(table, entries).send().await {
            Ok(output) => {
                let left: Vec<WriteRequest> =
                    output.unprocessed_items.unwrap_or_default().into_values().flatten().collect();
                if left.iter().filter(|entry| entry.put_request.is_some()).count() < puts {
                    self.refusals.stored();
                }
                Ok(left)
            }
            Err(e) => Err((failure(self.batch_call(), &e), e.message().unwrap_or_default().to_owned())),
        }
    }

    fn batch_call(&self) -> Call<'_> {
        Call { service: "dynamodb", operation: "BatchWriteItem", resource: &self.options.table }
    }

    fn refuse(&self, entry: &WriteRequest, answer: (&str, &str)) -> Result<()> {
        let put = entry.put_request.as_ref().map(|put| &put.item);
        let item = put.or(entry.delete_request.as_ref().map(|delete| &delete.key));
        let Some(item) = item else { return Err(Error::internal("a request without its item")) };
        let named = |name: &String| Some((name.clone(), item.get(name)?.clone()));
        let key = self.key.iter().filter_map(named).collect();
        self.refusals.refuse(&self.options.table, answer, &key, item).map(drop)
    }
}
