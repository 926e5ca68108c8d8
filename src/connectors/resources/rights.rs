//! Which of a job's actions the caller may do, tried by calls that change nothing.
//!
//! Every action that `tidemill iam` lists has an answer: what cannot be tried without an effect is said to be not tried, with the
//! reason. The calls read a little (a key that no item has, one byte of an object, one record at most), or are of a kind that
//! AWS refuses *after* it has looked at the caller: a write to DynamoDB whose condition cannot hold, a part of an upload that
//! does not exist.
//!
//! Invariant: whatever the service makes of such a call, nothing is written. A condition that contradicts itself holds for no
//! item; a part needs an upload to belong to.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types as db;
use aws_sdk_kinesis::types::ShardIteratorType;
use aws_sdk_s3::operation::upload_part::{UploadPartError, UploadPartOutput};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::connectors::aws::{Call, failure};
use crate::connectors::options::Options;
use crate::contracts::{Error, Result};

use super::live::Account;
use super::{Kind, Resource, Target};

/// What is known of a right.
#[derive(Debug)]
pub enum Right {
    /// The service did what was asked, or would have but for what was asked.
    Allowed,
    /// It was refused for another reason than the caller; AWS does not say which of the two it looks at first.
    NotDenied,
    /// The caller may not.
    Denied(Error),
    /// It was not tried, and why.
    NotTried(String),
}

/// An action that the job needs, on what, and what is known of it.
pub type TriedRight = (Target, &'static str, Right);

/// Text of a key that no item has, and name of an object that nobody writes.
const NOBODYS: &str = "tidemill-check-aws";
/// Of objects, the first of some size is read from.
const OBJECTS_LOOKED_AT: i32 = 20;

type Sent<O, E> = std::result::Result<O, SdkError<E, HttpResponse>>;

/// Sorts an answer: `passed` are codes that come only after the caller has been let in.
fn judged<O, E>(call: Call<'_>, sent: Sent<O, E>, passed: &[&str]) -> (Right, Option<O>)
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match sent {
        Ok(output) => (Right::Allowed, Some(output)),
        Err(error) => {
            let failure = failure(call, &error);
            let right = match failure.code.as_str() {
                _ if failure.is_denied() => Right::Denied(failure.error),
                code if passed.contains(&code) => Right::Allowed,
                _ => Right::NotTried(failure.error.message().to_owned()),
            };
            (right, None)
        }
    }
}

/// Why an action cannot be tried.
pub(super) fn effect(action: &str) -> Option<&'static str> {
    Some(match action {
        "kinesis:PutRecords" | "firehose:PutRecordBatch" => "it would put a record",
        "kinesis:RegisterStreamConsumer" => "it would make a consumer",
        "kinesis:SubscribeToShard" => "it would take the subscription from a running job",
        "kinesis:DeregisterStreamConsumer" => "it would remove the consumer",
        "dynamodb:BatchWriteItem" => "it takes no condition, so it would write an item",
        "sns:Publish" => "it would publish a message",
        "s3:DeleteObject" => "it would leave a marker in a bucket with versions",
        _ => return None,
    })
}

impl Account {
    /// Tries the actions that the job needs of a resource that is there, as [`Account::look`] has found: each with its answer, in
    /// the order of its grants.
    ///
    /// # Errors
    /// No credentials or no region.
    pub async fn rights(&self, resource: &Resource) -> Result<Vec<TriedRight>> {
        if resource.is_pattern() {
            return self.rights_on_pattern(resource).await;
        }
        let mut rights = Vec::new();
        for (target, action) in &resource.grants {
            let right = match effect(action) {
                Some(why) => Right::NotTried(why.to_owned()),
                None => self.try_action(resource, target, action).await?,
            };
            rights.push((target.clone(), *action, right));
        }
        Ok(rights)
    }

    async fn try_action(&self, resource: &Resource, target: &Target, action: &'static str) -> Result<Right> {
        match action {
            // The resource has been found by this very call.
            "kinesis:DescribeStreamSummary"
            | "dynamodb:DescribeTable"
            | "sns:GetTopicAttributes"
            | "sns:ListTopics"
            | "firehose:DescribeDeliveryStream" => Ok(Right::Allowed),
            _ => match (resource.kind, target) {
                (Kind::Stream, _) => self.try_stream(resource, action).await,
                (Kind::Table, _) => self.try_table(resource, action).await,
                (Kind::Bucket, Target::Objects(prefix) | Target::Listing(prefix)) => {
                    self.try_bucket(resource, action, prefix).await
                }
                (Kind::Bucket, _) => self.try_bucket(resource, action, "").await,
                (Kind::Topic | Kind::DeliveryStream, _) => Ok(unknown()),
            },
        }
    }

    pub(super) async fn try_stream(&self, resource: &Resource, action: &'static str) -> Result<Right> {
        let config = self.session(resource)?.config().await?;
        let region = config.region().map(ToString::to_string).unwrap_or_default();
        let client = aws_sdk_kinesis::Client::new(&config);
        // As the job does it: by ARN where the SQL has one.
        let arn = resource.account.as_ref().map(|account| resource.arn(&region, account));
        let name = arn.is_none().then(|| resource.name.clone());
        let call = |operation| Call { service: "kinesis", operation, resource: &resource.name };
        if action == "kinesis:DescribeStreamSummary" {
            let ask = client.describe_stream_summary().set_stream_name(name).set_stream_arn(arn);
            return Ok(judged(call("DescribeStreamSummary"), ask.send().await, &[]).0);
        }
        if action == "kinesis:DescribeStreamConsumer" {
            let options = Options(&resource.spec);
            let consumer = options.text(&["source.efo.consumer.name", "scan.stream.efo.consumername"]);
            let ask = client.describe_stream_summary().set_stream_name(name).set_stream_arn(arn);
            let (right, output) = judged(call("DescribeStreamSummary"), ask.send().await, &[]);
            let (Some(consumer), Some(output)) = (consumer, output) else { return Ok(right_or(right, unknown())) };
            let arn = output.stream_description_summary().map(|s| s.stream_arn().to_owned());
            let ask = client.describe_stream_consumer().set_stream_arn(arn).consumer_name(consumer);
            return Ok(judged(call("DescribeStreamConsumer"), ask.send().await, &["ResourceNotFoundException"]).0);
        }
        let ask = client.list_shards().set_stream_name(name.clone()).set_stream_arn(arn.clone()).max_results(1);
        let (right, output) = judged(call("ListShards"), ask.send().await, &[]);
        if action == "kinesis:ListShards" {
            return Ok(right);
        }
        let shard = output.as_ref().and_then(|o| o.shards().first()).map(|shard| shard.shard_id().to_owned());
        let Some(shard) = shard else { return Ok(Right::NotTried("no shard could be listed".to_owned())) };
        let ask = client.get_shard_iterator().set_stream_name(name).set_stream_arn(arn.clone()).shard_id(shard);
        let ask = ask.shard_iterator_type(ShardIteratorType::Latest);
        let (right, output) = judged(call("GetShardIterator"), ask.send().await, &[]);
        if action == "kinesis:GetShardIterator" {
            return Ok(right);
        }
        if action != "kinesis:GetRecords" {
            return Ok(unknown());
        }
        let iterator = output.and_then(|o| o.shard_iterator);
        let Some(iterator) = iterator else { return Ok(Right::NotTried("there was no iterator".to_owned())) };
        let ask = client.get_records().shard_iterator(iterator).limit(1).set_stream_arn(arn);
        Ok(judged(call("GetRecords"), ask.send().await, &["ExpiredIteratorException"]).0)
    }

    async fn try_table(&self, resource: &Resource, action: &'static str) -> Result<Right> {
        let config = self.session(resource)?.config().await?;
        let client = aws_sdk_dynamodb::Client::new(&config);
        let call = |operation| Call { service: "dynamodb", operation, resource: &resource.name };
        let described = client.describe_table().table_name(&resource.name).send().await;
        let (right, output) = judged(call("DescribeTable"), described, &[]);
        let Some(table) = output.as_ref().and_then(|o| o.table()) else { return Ok(right_or(right, unknown())) };
        let mut key = Vec::new();
        for element in table.key_schema() {
            let name = element.attribute_name();
            let definition = table.attribute_definitions().iter().find(|d| d.attribute_name() == name);
            let value = match definition.map(|d| d.attribute_type()) {
                Some(db::ScalarAttributeType::N) => db::AttributeValue::N("0".to_owned()),
                Some(db::ScalarAttributeType::B) => db::AttributeValue::B(Blob::new(NOBODYS)),
                _ => db::AttributeValue::S(NOBODYS.to_owned()),
            };
            key.push((name.to_owned(), value));
        }
        let Some((hash, _)) = key.first().cloned() else { return Ok(unknown()) };
        let key = || key.iter().cloned().collect();
        // It holds for no item, there or not.
        let never = "attribute_exists(#k) AND attribute_not_exists(#k)";
        let refused = &["ConditionalCheckFailedException"];
        Ok(match action {
            "dynamodb:GetItem" => {
                let ask = client.get_item().table_name(&resource.name).set_key(Some(key()));
                judged(call("GetItem"), ask.send().await, &[]).0
            }
            "dynamodb:BatchGetItem" => {
                let keys = db::KeysAndAttributes::builder().keys(key()).build();
                let keys = keys.map_err(|e| Error::internal("a key to ask for").caused_by(e))?;
                let ask = client.batch_get_item().request_items(&resource.name, keys);
                judged(call("BatchGetItem"), ask.send().await, &[]).0
            }
            "dynamodb:UpdateItem" => {
                let ask = client.update_item().table_name(&resource.name).set_key(Some(key()));
                let ask = ask.condition_expression(never).expression_attribute_names("#k", hash);
                judged(call("UpdateItem"), ask.send().await, refused).0
            }
            "dynamodb:PutItem" => {
                let ask = client.put_item().table_name(&resource.name).set_item(Some(key()));
                let ask = ask.condition_expression(never).expression_attribute_names("#k", hash);
                judged(call("PutItem"), ask.send().await, refused).0
            }
            "dynamodb:DeleteItem" => {
                let ask = client.delete_item().table_name(&resource.name).set_key(Some(key()));
                let ask = ask.condition_expression(never).expression_attribute_names("#k", hash);
                judged(call("DeleteItem"), ask.send().await, refused).0
            }
            _ => unknown(),
        })
    }

    async fn try_bucket(&self, resource: &Resource, action: &'static str, prefix: &str) -> Result<Right> {
        let (client, _) = self.s3(resource).await?;
        let call = |operation| Call { service: "s3", operation, resource: &resource.name };
        let below = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let nobodys = || format!("{below}{NOBODYS}");
        let list = |prefix: String| {
            let ask = client.list_objects_v2().bucket(&resource.name).max_keys(OBJECTS_LOOKED_AT);
            ask.set_prefix(Some(prefix).filter(|p| !p.is_empty())).send()
        };
        Ok(match action {
            "s3:ListBucket" => judged(call("ListObjectsV2"), list(below).await, &[]).0,
            "s3:ListBucketMultipartUploads" => {
                let ask = client.list_multipart_uploads().bucket(&resource.name).max_uploads(1);
                judged(call("ListMultipartUploads"), ask.send().await, &[]).0
            }
            "s3:GetObject" => {
                let mut key = None;
                // The prefix may as well be the name of one object.
                for prefix in [below, prefix.to_owned()] {
                    let (_, listed) = judged(call("ListObjectsV2"), list(prefix).await, &[]);
                    let listed = listed.map(|l| l.contents.unwrap_or_default()).unwrap_or_default();
                    let some = listed.into_iter().find(|object| object.size().is_some_and(|bytes| bytes > 0));
                    key = key.or(some.and_then(|object| object.key));
                }
                let Some(key) = key else { return Ok(Right::NotTried("there is no object to read".to_owned())) };
                let ask = client.get_object().bucket(&resource.name).key(key).range("bytes=0-0");
                judged(call("GetObject"), ask.send().await, &["NoSuchKey", "InvalidObjectState"]).0
            }
            "s3:PutObject" => {
                let sent = upload_nothing(&client, resource, &nobodys()).await;
                not_denied(judged(call("UploadPart"), sent, &["NoSuchUpload"]).0)
            }
            "s3:AbortMultipartUpload" => {
                let ask = client.abort_multipart_upload().bucket(&resource.name).key(nobodys()).upload_id(NOBODYS);
                not_denied(judged(call("AbortMultipartUpload"), ask.send().await, &["NoSuchUpload"]).0)
            }
            _ => unknown(),
        })
    }
}

/// Sends a part of an upload that does not exist, so that nothing comes of it.
async fn upload_nothing(
    client: &aws_sdk_s3::Client,
    resource: &Resource,
    key: &str,
) -> Sent<UploadPartOutput, UploadPartError> {
    client.upload_part().bucket(&resource.name).key(key).upload_id(NOBODYS).part_number(1).send().await
}

/// Whether a bucket is there, where the job may not list it: by what S3 makes of a part of no upload.
pub(super) async fn look_without_listing(client: &aws_sdk_s3::Client, resource: &Resource) -> Result<Option<String>> {
    let below = resource.grants.iter().find_map(|(target, _)| match target {
        Target::Objects(prefix) if !prefix.is_empty() => Some(format!("{prefix}/{NOBODYS}")),
        _ => None,
    });
    let sent = upload_nothing(client, resource, &below.unwrap_or_else(|| NOBODYS.to_owned())).await;
    let Err(error) = sent else { return Ok(Some("it is there".to_owned())) };
    let failure = failure(Call { service: "s3", operation: "UploadPart", resource: &resource.name }, &error);
    match failure.code.as_str() {
        "NoSuchBucket" => Ok(None),
        "NoSuchUpload" => Ok(Some("it is there".to_owned())),
        _ => Err(failure.error),
    }
}

/// S3 does not say whether it looks for the upload first, or at the caller.
fn not_denied(right: Right) -> Right {
    if matches!(right, Right::Allowed) { Right::NotDenied } else { right }
}

fn right_or(right: Right, other: Right) -> Right {
    if matches!(right, Right::Allowed) { other } else { right }
}

/// Of an action for which there is no rule here.
fn unknown() -> Right {
    Right::NotTried("there is no way to try it".to_owned())
}
