//! The job's resources as CloudFormation and as Terraform, in JSON.
//!
//! Both make tables on demand and buckets that abort uploads which nobody finishes. A deleted stack keeps them.

use serde_json::{Map, Value, json};

use super::{Kind, Resource, Shape};

/// Days after which an unfinished upload of a crashed job is aborted by S3 itself.
pub(super) const ABORT_UPLOADS_DAYS: i32 = 7;

/// Which of the resources a template can make: not those of other accounts, nor patterns of names, nor Firehose, which
/// needs a destination that the SQL does not name.
pub fn can_be_made(resource: &Resource) -> Result<(), &'static str> {
    match resource {
        r if r.account.is_some() => Err("it is named by an ARN, so it may belong to another account"),
        r if r.name.contains('*') => Err("the job reads every stream of a pattern"),
        r if r.kind == Kind::DeliveryStream => {
            Err("a delivery stream needs a destination, which the SQL does not name")
        }
        Resource { kind: Kind::Table, shape: Shape::Table { key, .. }, .. } if key.is_empty() => {
            Err("its key is not known")
        }
        _ => Ok(()),
    }
}

/// `page-views.fifo` as `PageViewsFifo`.
fn logical_id(resource: &Resource) -> String {
    let words = resource.name.split(|c: char| !c.is_ascii_alphanumeric());
    let mut id: String = words
        .filter_map(|word| {
            let mut chars = word.chars();
            chars.next().map(|first| format!("{}{}", first.to_ascii_uppercase(), chars.as_str()))
        })
        .collect();
    id.push_str(match resource.kind {
        Kind::Stream | Kind::DeliveryStream => "Stream",
        Kind::Table => "Table",
        Kind::Topic => "Topic",
        Kind::Bucket => "Bucket",
    });
    id
}

/// A CloudFormation template. `shards` of `None` is on demand.
pub fn cloudformation(resources: &[Resource], shards: Option<i32>) -> Value {
    let mut made = Map::new();
    for resource in resources.iter().filter(|r| can_be_made(r).is_ok()) {
        let (of_type, properties) = match (&resource.kind, &resource.shape) {
            (Kind::Stream, _) => (
                "AWS::Kinesis::Stream",
                match shards {
                    None => json!({ "Name": resource.name, "StreamModeDetails": { "StreamMode": "ON_DEMAND" } }),
                    Some(shards) => json!({
                        "Name": resource.name, "ShardCount": shards, "StreamModeDetails": { "StreamMode": "PROVISIONED" }
                    }),
                },
            ),
            (Kind::Table, Shape::Table { key, ttl }) => {
                let mut table = json!({
                    "TableName": resource.name,
                    "BillingMode": "PAY_PER_REQUEST",
                    "AttributeDefinitions": key.iter()
                        .map(|k| json!({ "AttributeName": k.name, "AttributeType": k.letter })).collect::<Vec<_>>(),
                    "KeySchema": key.iter().zip(["HASH", "RANGE"])
                        .map(|(k, role)| json!({ "AttributeName": k.name, "KeyType": role })).collect::<Vec<_>>(),
                });
                if let Some(ttl) = ttl {
                    table["TimeToLiveSpecification"] = json!({ "AttributeName": ttl, "Enabled": true });
                }
                ("AWS::DynamoDB::Table", table)
            }
            (Kind::Topic, Shape::Topic { fifo: true }) => {
                ("AWS::SNS::Topic", json!({ "TopicName": resource.name, "FifoTopic": true }))
            }
            (Kind::Topic, _) => ("AWS::SNS::Topic", json!({ "TopicName": resource.name })),
            (Kind::Bucket, _) => (
                "AWS::S3::Bucket",
                json!({
                    "BucketName": resource.name,
                    "PublicAccessBlockConfiguration": {
                        "BlockPublicAcls": true, "BlockPublicPolicy": true,
                        "IgnorePublicAcls": true, "RestrictPublicBuckets": true
                    },
                    "LifecycleConfiguration": { "Rules": [{
                        "Id": "abort-unfinished-uploads", "Status": "Enabled",
                        "AbortIncompleteMultipartUpload": { "DaysAfterInitiation": ABORT_UPLOADS_DAYS }
                    }] }
                }),
            ),
            _ => continue,
        };
        made.insert(
            logical_id(resource),
            json!({
                "Type": of_type,
                "DeletionPolicy": "Retain",
                "UpdateReplacePolicy": "Retain",
                "Properties": properties
            }),
        );
    }
    json!({ "AWSTemplateFormatVersion": "2010-09-09", "Description": "What a Tidemill job uses", "Resources": made })
}

/// Terraform's JSON form (`*.tf.json`). `shards` of `None` is on demand.
pub fn terraform(resources: &[Resource], shards: Option<i32>) -> Value {
    let mut made = Map::new();
    let mut add = |of_type: &str, id: &str, value: Value| {
        let of_type = made.entry(of_type.to_owned()).or_insert_with(|| json!({}));
        of_type[id] = value;
    };
    let keep = json!({ "prevent_destroy": true });
    for resource in resources.iter().filter(|r| can_be_made(r).is_ok()) {
        let id = &logical_id(resource);
        match (&resource.kind, &resource.shape) {
            (Kind::Stream, _) => {
                let mut stream = match shards {
                    None => json!({ "stream_mode_details": [{ "stream_mode": "ON_DEMAND" }] }),
                    Some(shards) => json!({ "shard_count": shards }),
                };
                stream["name"] = json!(resource.name);
                stream["lifecycle"] = keep.clone();
                add("aws_kinesis_stream", id, stream);
            }
            (Kind::Table, Shape::Table { key, ttl }) => {
                let mut table = json!({
                    "name": resource.name,
                    "billing_mode": "PAY_PER_REQUEST",
                    "attribute": key.iter().map(|k| json!({ "name": k.name, "type": k.letter })).collect::<Vec<_>>(),
                    "lifecycle": keep,
                });
                for (role, attribute) in ["hash_key", "range_key"].iter().zip(key) {
                    table[*role] = json!(attribute.name);
                }
                if let Some(ttl) = ttl {
                    table["ttl"] = json!([{ "attribute_name": ttl, "enabled": true }]);
                }
                add("aws_dynamodb_table", id, table);
            }
            (Kind::Topic, shape) => {
                let mut topic = json!({ "name": resource.name });
                if *shape == (Shape::Topic { fifo: true }) {
                    topic["fifo_topic"] = json!(true);
                }
                add("aws_sns_topic", id, topic);
            }
            (Kind::Bucket, _) => {
                add("aws_s3_bucket", id, json!({ "bucket": resource.name, "lifecycle": keep }));
                let bucket = format!("${{aws_s3_bucket.{id}.id}}");
                add(
                    "aws_s3_bucket_public_access_block",
                    id,
                    json!({
                        "bucket": bucket, "block_public_acls": true, "block_public_policy": true,
                        "ignore_public_acls": true, "restrict_public_buckets": true
                    }),
                );
                add(
                    "aws_s3_bucket_lifecycle_configuration",
                    id,
                    json!({
                        "bucket": bucket,
                        "rule": [{
                            "id": "abort-unfinished-uploads", "status": "Enabled", "filter": [{}],
                            "abort_incomplete_multipart_upload": [{ "days_after_initiation": ABORT_UPLOADS_DAYS }]
                        }]
                    }),
                );
            }
            _ => {}
        }
    }
    json!({ "resource": made })
}
