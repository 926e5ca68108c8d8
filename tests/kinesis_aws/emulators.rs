//! The general cases on emulators that others wrote: what our own stub misunderstands, they may not.
//!
//! kinesis-local does polling and resharding as AWS does; ministack does enhanced fan-out (it drops a parent shard at the
//! moment of a split, so the split comes when everything has been read).

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, Shard};
use tidemill::contracts::StartPosition::{Latest, TrimHorizon};

use crate::emulators_of_aws::{kinesis_local, ministack};
use crate::faults::pause;
use crate::feed::{Feed, assert_complete};
use crate::run::{Job, Way};
use crate::stub::client;

const S: &str = "events";

async fn create(client: &Client, shards: i32) {
    client.create_stream().stream_name(S).shard_count(shards).send().await.unwrap();
    active(client).await;
}

/// Waits until the stream can be changed again.
async fn active(client: &Client) {
    for _ in 0..200 {
        let summary = client.describe_stream_summary().stream_name(S).send().await;
        let status =
            summary.ok().and_then(|s| Some(s.stream_description_summary()?.stream_status().as_str().to_owned()));
        if status.as_deref() == Some("ACTIVE") {
            return;
        }
        pause(50).await;
    }
    panic!("the stream does not become active");
}

async fn put(client: &Client, feed: &mut Feed, count: usize) {
    let mut left = count;
    while left > 0 {
        let batch: Vec<_> = (0..left.min(100)).map(|_| feed.next()).collect();
        left -= batch.len();
        let entry = |(key, data): (String, String)| {
            PutRecordsRequestEntry::builder().data(data.into_bytes().into()).partition_key(key).build().unwrap()
        };
        let entries = batch.into_iter().map(entry).collect();
        let answer = client.put_records().stream_name(S).set_records(Some(entries)).send().await.unwrap();
        assert_eq!(answer.failed_record_count(), Some(0));
    }
}

async fn open_shards(client: &Client) -> Vec<Shard> {
    let shards = client.list_shards().stream_name(S).send().await.unwrap().shards.unwrap();
    let mut open: Vec<_> =
        shards.into_iter().filter(|s| s.sequence_number_range().unwrap().ending_sequence_number().is_none()).collect();
    open.sort_by_key(|s| s.hash_key_range().unwrap().starting_hash_key().parse::<u128>().unwrap());
    open
}

async fn split(client: &Client, shard: &Shard) {
    let range = shard.hash_key_range().unwrap();
    let (first, last): (u128, u128) =
        (range.starting_hash_key().parse().unwrap(), range.ending_hash_key().parse().unwrap());
    let middle = (first + (last - first) / 2 + 1).to_string();
    let call = client.split_shard().stream_name(S).shard_to_split(shard.shard_id());
    call.new_starting_hash_key(middle).send().await.unwrap();
    active(client).await;
}

async fn merge(client: &Client, one: &Shard, other: &Shard) {
    let call = client.merge_shards().stream_name(S).shard_to_merge(one.shard_id());
    call.adjacent_shard_to_merge(other.shard_id()).send().await.unwrap();
    active(client).await;
}

/// Everything, in order, over a split and a merge, with restarts before and after each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_through_a_split_and_a_merge() {
    let Some(emulator) = kinesis_local().await else { return };
    let client = client(&emulator.endpoint);
    create(&client, 2).await;
    let mut feed = Feed::detached(23);
    let mut job = Job::at(&emulator.endpoint, Way::Polling, S, &[]);
    put(&client, &mut feed, 300).await;
    let mut got = job.run(TrimHorizon, |s| s.records.len() >= 120).await.unwrap().records;
    split(&client, &open_shards(&client).await[0]).await;
    put(&client, &mut feed, 200).await;
    got.extend(job.run(Latest, |s| s.records.len() >= 250).await.unwrap().records);
    let open = open_shards(&client).await;
    merge(&client, &open[1], &open[2]).await;
    put(&client, &mut feed, 100).await;
    let left = feed.total() - got.len();
    got.extend(job.run(Latest, |s| s.records.len() >= left && s.all_idle()).await.unwrap().records);
    assert_complete(&feed, &got);
}

/// LATEST on empty shards, kept over a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latest_is_resolved_once_by_polling() {
    let Some(emulator) = kinesis_local().await else { return };
    let client = client(&emulator.endpoint);
    create(&client, 2).await;
    put(&client, &mut Feed::detached(5), 20).await;
    pause(1_100).await;
    let mut job = Job::at(&emulator.endpoint, Way::Polling, S, &[]);
    assert!(job.run(Latest, |s| s.all_idle()).await.unwrap().records.is_empty());
    let mut feed = Feed::detached(23);
    put(&client, &mut feed, 50).await;
    let got = job.run(Latest, |s| s.records.len() >= 50 && s.all_idle()).await.unwrap().records;
    assert_complete(&feed, &got);
}

/// Fan-out with a restart, live records and a split.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fan_out_through_a_restart_and_a_split() {
    let Some(emulator) = ministack().await else { return };
    let client = client(&emulator.endpoint);
    create(&client, 2).await;
    let mut feed = Feed::detached(23);
    let mut job = Job::at(&emulator.endpoint, Way::FanOut, S, &[]);
    put(&client, &mut feed, 300).await;
    let mut got = job.run(TrimHorizon, |s| s.records.len() >= 120).await.unwrap().records;
    put(&client, &mut feed, 100).await;
    let left = feed.total() - got.len();
    got.extend(job.run(TrimHorizon, |s| s.records.len() >= left && s.all_idle()).await.unwrap().records);
    assert_complete(&feed, &got);
    split(&client, &open_shards(&client).await[0]).await;
    put(&client, &mut feed, 100).await;
    // The parent has vanished at once, and with it what the job could know of its end.
    job = Job::at(&emulator.endpoint, Way::FanOut, S, &[]);
    let seen = job.run(TrimHorizon, |s| s.all_idle() && s.records.len() >= 100).await.unwrap();
    assert!(seen.records.len() >= 100);
}
