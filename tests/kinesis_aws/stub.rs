//! The stub itself: a fake that is wrong makes every other test worthless.

use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, ShardFilter, ShardFilterType, ShardIteratorType};
use aws_smithy_http_client::tls;

use crate::aws_stub::AwsStub;

/// A client with nothing of ours in between.
pub(crate) fn client(endpoint: &str) -> aws_sdk_kinesis::Client {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .build_https();
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .region(Region::new("eu-west-1"))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::new("a", "b", None, None, "test"))
        .retry_config(aws_sdk_kinesis::config::retry::RetryConfig::disabled())
        .build();
    aws_sdk_kinesis::Client::from_conf(config)
}

#[tokio::test]
async fn listing_pages_and_filters_as_the_service_does() {
    let stub = AwsStub::start().await;
    stub.create("s", 3);
    crate::faults::pause(5).await;
    stub.split("s", "shardId-000000000000");
    let client = client(&stub.endpoint());
    let one = client.list_shards().stream_name("s").max_results(3).send().await.unwrap();
    assert_eq!(one.shards().len(), 3);
    let token = one.next_token().unwrap();
    let both = client.list_shards().stream_name("s").next_token(token).send().await.unwrap_err();
    assert!(both.into_service_error().is_invalid_argument_exception());
    let two = client.list_shards().next_token(token).send().await.unwrap();
    assert_eq!((two.shards().len(), two.next_token()), (2, None));
    assert_eq!(two.shards()[0].parent_shard_id(), Some("shardId-000000000000"));
    let latest = ShardFilter::builder().r#type(ShardFilterType::AtLatest).build().unwrap();
    let open = client.list_shards().stream_name("s").shard_filter(latest).send().await.unwrap();
    assert_eq!(open.shards().len(), 4);
}

#[tokio::test]
async fn records_are_routed_read_and_rationed() {
    let stub = AwsStub::start().await;
    stub.create("s", 2);
    let client = client(&stub.endpoint());
    // md5("a") begins with 0c, md5("user-1") with more than 80.
    let entry = |key: &str| PutRecordsRequestEntry::builder().data(b"x"[..].into()).partition_key(key).build().unwrap();
    let put = client.put_records().stream_name("s").records(entry("a")).records(entry("user-1")).send().await.unwrap();
    let shards: Vec<_> = put.records().iter().map(|r| r.shard_id().unwrap()).collect();
    assert_eq!(shards, ["shardId-000000000000", "shardId-000000000001"]);
    assert_eq!(put.records()[0].sequence_number().unwrap().len(), 56);
    let call = client.get_shard_iterator().stream_name("s").shard_id(shards[0]);
    let iterator = call.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap();
    let iterator = iterator.shard_iterator().unwrap().to_owned();
    for read in 0..6 {
        let got = client.get_records().shard_iterator(&iterator).send().await;
        match (read, got) {
            (0..5, Ok(got)) => assert_eq!(got.records()[0].data().as_ref(), b"x"),
            (5, Err(error)) => {
                assert!(error.into_service_error().is_provisioned_throughput_exceeded_exception());
            }
            (_, other) => panic!("read {read}: {other:?}"),
        }
    }
    let foreign = client.get_shard_iterator().stream_name("s").shard_id(shards[1]);
    let foreign = foreign.shard_iterator_type(ShardIteratorType::AfterSequenceNumber);
    let refused = foreign.starting_sequence_number(put.records()[0].sequence_number().unwrap()).send().await;
    assert!(refused.unwrap_err().into_service_error().is_invalid_argument_exception());
}
