//! The same job, killed again and again while its stream is resharded and its services fail; checkpoints are in a bucket.

use std::time::Duration;

use crate::buckets::Bucket;
use crate::program::{Reading, produce, start};
use crate::results::{differences, tables_difference};
use crate::services::Services;
use crate::stream::Stream;
use crate::{LONGEST, RATE, after};

/// Time from when a run has taken over to its kill, in milliseconds: before anything is read, in the midst, after some
/// checkpoints.
const KILLS: [u64; 6] = [900, 2_700, 50, 1_900, 3_300, 400];

/// Number of the newest checkpoint, and how many there are.
pub(crate) async fn checkpoints(state: &Bucket) -> (usize, usize) {
    let keys = state.keys().await.into_iter().filter(|key| key.starts_with("kept/queries/manifests/"));
    let numbers: Vec<usize> =
        keys.filter_map(|key| key.rsplit('/').next()?.strip_suffix(".json")?.parse().ok()).collect();
    (numbers.iter().max().copied().unwrap_or(0), numbers.len())
}

async fn all_is_exact(file: &'static str, reading: Reading) {
    let stream = match reading {
        Reading::Polling => Stream::kinesis_local().await,
        Reading::FanOut => Some(Stream::stub().await),
    };
    let Some(stream) = stream else { return };
    let Some(services) = Services::start().await else { return };
    let state = services.another_bucket("shipped-state").await;
    stream.create(4).await;
    let arguments =
        ["--from", "trim_horizon", "--checkpoints", "s3://shipped-state/kept", "--checkpoint-interval", "600ms"];
    let producer = tokio::spawn(produce(stream.endpoint(), file, RATE));
    let mut said = String::new();
    let killing = async {
        for (number, wait) in KILLS.into_iter().enumerate() {
            let before = checkpoints(&state).await.0;
            let job = start(&stream, &services, reading, &arguments);
            while job.is_running() && checkpoints(&state).await.0 == before {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            // However slow the machine is, one of them makes some more.
            let began = tokio::time::Instant::now();
            while number == 1 && checkpoints(&state).await.0 < before + 3 && began.elapsed() < Duration::from_secs(30) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            tokio::time::sleep(Duration::from_millis(wait)).await;
            assert!(job.is_running(), "it has ended: {}", job.said());
            job.kill();
            said.push_str(&job.said());
        }
    };
    let resharding = async {
        after(1_500).await;
        stream.split_all().await;
        after(5_000).await;
        stream.merge_to_three().await;
    };
    tokio::join!(killing, resharding);
    producer.await.unwrap();
    let ends = stream.put_last_events(file).await;
    let job = start(&stream, &services, reading, &arguments);
    let waited = tokio::time::Instant::now();
    while let Some(wrong) = tables_difference(&services, file).await {
        assert!(waited.elapsed() < LONGEST, "{wrong}\n{said}\n{}", job.said());
        assert!(job.is_running(), "it has ended\n{said}\n{}", job.said());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    said.push_str(&job.stop().await);
    assert_eq!(differences(&services, file, &ends, KILLS.len()).await, Vec::<String>::new(), "{said}");
    // Each run takes over with one, the last one ends with one; some were made on the way.
    let (newest, kept) = checkpoints(&state).await;
    assert!(newest > KILLS.len() + 3 && kept == 3, "{kept} checkpoints up to {newest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_traffic_by_polling() {
    all_is_exact("weblog", Reading::Polling).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_by_fan_out() {
    all_is_exact("shop", Reading::FanOut).await;
}
