//! The stream: on kinesis-local behind a proxy, or on our own stub.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, Shard};
use serde_json::json;

use crate::aws_stub::AwsStub;
use crate::emulators_of_aws::{Emulator, kinesis_local};
use crate::faults;
use crate::stub::{Running, calm};

pub(crate) const STREAM: &str = "analytics-events";

/// Who plays Kinesis.
enum Service {
    KinesisLocal { _emulator: Emulator, proxy: Running },
    Stub(AwsStub),
}

/// A stream, and a client that reaches it past all faults.
pub(crate) struct Stream {
    service: Service,
    client: Client,
}

/// Where a shard's hash keys begin, and end.
fn range(shard: &Shard) -> (u128, u128) {
    let range = shard.hash_key_range().unwrap();
    (range.starting_hash_key().parse().unwrap(), range.ending_hash_key().parse().unwrap())
}

impl Stream {
    pub(crate) async fn kinesis_local() -> Option<Self> {
        let emulator = kinesis_local().await?;
        let client = client(&emulator.endpoint);
        let proxy = Running::before(emulator.port, calm()).await;
        Some(Self { service: Service::KinesisLocal { _emulator: emulator, proxy }, client })
    }

    pub(crate) async fn stub() -> Self {
        let stub = AwsStub::start().await;
        let client = client(&stub.endpoint());
        Self { service: Service::Stub(stub), client }
    }

    /// Where the program finds it.
    pub(crate) fn endpoint(&self) -> String {
        match &self.service {
            Service::KinesisLocal { proxy, .. } => proxy.url(),
            Service::Stub(stub) => stub.endpoint(),
        }
    }

    pub(crate) fn fails_now_and_then(&self) {
        match &self.service {
            Service::KinesisLocal { proxy, .. } => proxy.follow(faults::of_kinesis()),
            Service::Stub(stub) => faults::of_the_stub(stub),
        }
    }

    /// Every kind of fault has been met.
    pub(crate) fn check_faults(&self) {
        match &self.service {
            Service::KinesisLocal { proxy, .. } => {
                for operation in ["GetRecords", "GetShardIterator", "ListShards", "PutRecords"] {
                    faults::check_met(proxy, operation);
                }
            }
            Service::Stub(stub) => faults::check_stub(stub),
        }
    }

    pub(crate) async fn create(&self, shards: usize) {
        match &self.service {
            Service::Stub(stub) => stub.create(STREAM, shards),
            Service::KinesisLocal { .. } => {
                self.client.create_stream().stream_name(STREAM).shard_count(shards as i32).send().await.unwrap();
                self.active().await;
            }
        }
    }

    /// Waits until the stream can be changed again.
    async fn active(&self) {
        for _ in 0..400 {
            let summary = self.client.describe_stream_summary().stream_name(STREAM).send().await;
            if let Ok(summary) = summary
                && summary.stream_description_summary().unwrap().stream_status().as_str() == "ACTIVE"
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the stream does not become active");
    }

    /// Open shards, in the order of their hash keys.
    async fn open(&self) -> Vec<Shard> {
        let shards = loop {
            // The stub's faults do not know who asks.
            if let Ok(answer) = self.client.list_shards().stream_name(STREAM).send().await {
                break answer.shards.unwrap();
            }
        };
        let is_open = |s: &Shard| s.sequence_number_range().unwrap().ending_sequence_number().is_none();
        let mut open: Vec<_> = shards.into_iter().filter(is_open).collect();
        open.sort_by_key(range);
        open
    }

    pub(crate) async fn split_all(&self) {
        for shard in self.open().await {
            let (first, last) = range(&shard);
            let middle = (first + (last - first) / 2 + 1).to_string();
            let split = self.client.split_shard().stream_name(STREAM).shard_to_split(shard.shard_id());
            split.new_starting_hash_key(middle).send().await.unwrap();
            self.active().await;
        }
        assert_eq!(self.open().await.len(), 8);
    }

    pub(crate) async fn merge_to_three(&self) {
        for at in [0, 1, 2, 0, 1] {
            let open = self.open().await;
            let merge = self.client.merge_shards().stream_name(STREAM).shard_to_merge(open[at].shard_id());
            merge.adjacent_shard_to_merge(open[at + 1].shard_id()).send().await.unwrap();
            self.active().await;
        }
        assert_eq!(self.open().await.len(), 3);
    }

    /// An event in each open shard that is later than all others, so that the last windows close; no query counts it, and
    /// the archive has it. Answers their texts.
    pub(crate) async fn put_last_events(&self, file: &str) -> Vec<String> {
        let time = if file == "weblog" { "2015-05-20T22:00:00Z" } else { "2026-02-12T12:00:00Z" };
        let mut texts = Vec::new();
        for shard in self.open().await {
            let id = format!("end-of-{}", shard.shard_id());
            let text = json!({ "event_id": id, "event_type": "end", "timestamp": time, "data": {} }).to_string();
            let entry = PutRecordsRequestEntry::builder()
                .data(text.clone().into_bytes().into())
                .partition_key("end")
                .explicit_hash_key(range(&shard).0.to_string())
                .build()
                .unwrap();
            let put = self.client.put_records().stream_name(STREAM).records(entry).send().await.unwrap();
            assert_eq!((put.failed_record_count(), put.records()[0].shard_id()), (Some(0), Some(shard.shard_id())));
            texts.push(text);
        }
        texts
    }
}

fn client(endpoint: &str) -> Client {
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .region(Region::new("eu-west-1"))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::new("test", "testtest", None, None, "test"));
    Client::from_conf(config.build())
}
