//! The shipped job end to end, without `--local`: the real program reads `queries/` and a stream, and writes DynamoDB, SNS
//! (seen in a queue) and S3, while the stream is resharded and everything between fails now and then. All that is left in
//! the services is compared to what `independent/clickstream.py` computes of the same events.
//!
//! Kinesis is kinesis-local when polling, the emulator that reshards best, and our own stub by fan-out, since no emulator
//! ends shards there as AWS does. DynamoDB is dynoxide, SNS and SQS are ministack, S3 is SeaweedFS. Faults come from proxies
//! before them.

#![expect(clippy::disallowed_methods, reason = "a test waits for other processes, and has a clock of its own")]
#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

#[path = "../aws_stub/mod.rs"]
#[expect(dead_code, reason = "shared with the tests of Kinesis")]
mod aws_stub;
#[path = "../s3_aws/emulator.rs"]
#[expect(dead_code, reason = "shared with the tests of S3")]
mod buckets;
#[path = "../emulators/mod.rs"]
mod emulators_of_aws;
#[path = "../support/exact.rs"]
mod exact;
#[path = "../support/shipped.rs"]
mod expected;
#[path = "../support/forward.rs"]
mod forward;
#[path = "../support/http.rs"]
mod http;
#[path = "../s3_aws/proxy.rs"]
#[expect(dead_code, reason = "shared with the tests of S3")]
mod proxy;
#[path = "../support/queues.rs"]
mod queues;
#[path = "../support/random.rs"]
mod random;
#[path = "../aws_stub_tables/mod.rs"]
#[expect(dead_code, reason = "shared with the tests of DynamoDB and SNS")]
mod stub;
#[path = "../support/tables.rs"]
mod tables;

mod crash;
mod evidence;
mod faults;
mod killed;
mod load;
mod more_queries;
mod planted;
mod program;
mod results;
mod services;
mod stream;

use std::time::Duration;

use program::{Reading, produce, start};
use results::differences;
use services::Services;
use stream::Stream;

/// How long a run may take until its results are there.
const LONGEST: Duration = Duration::from_secs(120);

/// Events a second: what kinesis-local can take.
const RATE: u32 = 1_200;

/// Waits until about so many records have been put; what is exact about the moment does not matter.
async fn after(records: u64) {
    tokio::time::sleep(Duration::from_millis(records * 1_000 / u64::from(RATE))).await;
}

/// Number of the newest checkpoint beside the archive.
async fn newest_checkpoint(services: &Services) -> usize {
    let keys = services.bucket.keys().await.into_iter().filter(|key| key.starts_with("checkpoints/queries/manifests/"));
    keys.filter_map(|key| key.rsplit('/').next()?.strip_suffix(".json")?.parse().ok()).max().unwrap_or(0)
}

/// Events of a file through the whole job, while its stream is split 4→8→3 and calls fail; with `kills`, the program is
/// killed so often meanwhile, without a word, and another one goes on from its checkpoints in the bucket.
async fn all_is_exact(file: &'static str, reading: Reading, kills: usize) {
    let stream = match reading {
        Reading::Polling => Stream::kinesis_local().await,
        Reading::FanOut => Some(Stream::stub().await),
    };
    let Some(stream) = stream else { return };
    let Some(services) = Services::start().await else { return };
    stream.create(4).await;
    stream.fails_now_and_then();
    services.fail_now_and_then();
    let checkpoints = format!("s3://{}/checkpoints", services::BUCKET);
    let arguments = ["--from", "trim_horizon", "--checkpoints", &checkpoints, "--checkpoint-interval", "500ms"];
    let arguments = &arguments[..if kills > 0 { 6 } else { 2 }];
    let mut job = start(&stream, &services, reading, arguments);
    let producer = tokio::spawn(produce(stream.endpoint(), file, RATE));
    after(1_500).await;
    stream.split_all().await;
    for kill in 0..kills {
        after(6_000 / (kills as u64 + 1)).await;
        // Each start makes a checkpoint of what it begins with. However slow the machine is, there is one more.
        let waited = tokio::time::Instant::now();
        while newest_checkpoint(&services).await <= kill + 1 && waited.elapsed() < LONGEST {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        job.kill();
        job = start(&stream, &services, reading, arguments);
    }
    after(6_000 / (kills as u64 + 1)).await;
    stream.merge_to_three().await;
    let produced = producer.await.unwrap();
    let ends = stream.put_last_events(file).await;
    let waited = tokio::time::Instant::now();
    while let Some(wrong) = results::tables_difference(&services, file).await {
        assert!(waited.elapsed() < LONGEST, "{wrong}\n{}", job.said());
        assert!(job.is_running(), "it has ended\n{}", job.said());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let said = job.stop().await;
    services.tables.raise_all().await;
    assert_eq!(differences(&services, file, &ends, kills).await, Vec::<String>::new(), "{said}");
    let all = produced + ends.len();
    if kills == 0 {
        assert!(said.contains(&format!("{all} records in ")), "each record is read once: {said}");
    } else {
        // The archive's open files are read again from the stream; other queries go on where a checkpoint has them.
        let rows = said.split("query page_views:metrics: ").nth(1).and_then(|rest| rest.split(' ').next());
        let rows: usize = rows.expect("a line for each query").parse().unwrap();
        assert!(rows > 0 && rows < all, "the last run goes on from a checkpoint: {said}");
    }
    stream.check_faults();
    services.check_faults();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_traffic_by_polling() {
    all_is_exact("weblog", Reading::Polling, 0).await;
}

/// `kill -9` twice: nothing is lost, and nothing doubled but alerts, which a run that dies may have published just before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_traffic_while_the_program_is_killed() {
    all_is_exact("weblog", Reading::Polling, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_by_fan_out() {
    all_is_exact("shop", Reading::FanOut, 0).await;
}

/// The same comparison, where something *is* wrong: one event is missing, one is there twice, an alert was published a
/// second time though its reply came, and an update was acknowledged and not made. Each must be seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_or_doubled_is_noticed() {
    let stream = Stream::stub().await;
    let Some(services) = Services::start().await else { return };
    stream.create(4).await;
    let folder = tempfile::tempdir().unwrap();
    let mut lines: Vec<String> = program::events("weblog").lines().map(str::to_owned).collect();
    // A page view and another one.
    assert!(lines[10].contains("page_view") && lines[5_000].contains("page_view"));
    lines[10] = lines[5_000].clone();
    let path = folder.path().join("wrong.jsonl");
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    program::produce_file(stream.endpoint(), path, None).await;
    services.swallow_one_update_of_errors();
    let said = start(&stream, &services, Reading::Polling, &["--drain"]).ended().await;
    assert!(said.contains("9999 records in "), "{said}");
    services.publish_an_alert_again().await;
    let seen = differences(&services, "weblog", &[], 0).await;
    for part in ["archive:", "page-views-per-minute:", "alerts:", "2015-05-17#10"] {
        assert!(seen.iter().any(|line| line.contains(part)), "{part} is not noticed: {seen:#?}");
    }
}
