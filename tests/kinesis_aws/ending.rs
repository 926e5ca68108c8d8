//! How runs of the program end: what `--once` takes of a stream that is written all the time, and what becomes of a consumer.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::faults::pause;
use crate::killed::{Place, WAYS};

const LONGEST: Duration = Duration::from_secs(60);

/// There is always something newer, so no answer is empty. A run takes what was there when it began, the next one goes on behind its
/// last record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_ends_on_a_stream_that_is_written_all_the_time() {
    for options in WAYS {
        let place = Place::new(options).await;
        place.put(0..100);
        let (stub, ended) = (place.stub.clone(), Arc::new(AtomicBool::new(false)));
        let stop = Arc::clone(&ended);
        let producer = tokio::spawn(async move {
            let mut numbers = 100..;
            while !stop.load(Ordering::SeqCst) {
                let n = numbers.next().unwrap();
                stub.put("clicks", &format!("key {n}"), &format!("{{\"n\":{n}}}"));
                pause(10).await;
            }
            numbers.start
        });
        let mut before = 99;
        for _ in 0..2 {
            let child = place.run(&["--from", "trim_horizon", "--once"]).spawn().unwrap();
            let status = place.end(child, LONGEST).await.unwrap_or_else(|| panic!("{options}: it never ends"));
            assert!(status.success(), "{options}: {}", place.said());
            let copied = place.copied().len();
            assert!(copied > before, "{options}: {copied} after {before}");
            before = copied;
            place.stub.with("clicks", |s| s.subscriptions.clear());
        }
        ended.store(true, Ordering::SeqCst);
        let total = producer.await.unwrap();
        let child = place.run(&["--once"]).spawn().unwrap();
        let status = place.end(child, LONGEST).await.expect("it ends");
        assert!(status.success(), "{options}: {}", place.said());
        assert_eq!(place.copied(), (0..total).collect::<Vec<_>>(), "{options}");
    }
}

/// A first start that fails has registered a consumer, which no saved state knows of: it goes with the start, or it would be billed for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_that_fails_leaves_no_consumer() {
    let place = Place::new(WAYS[1]).await;
    place.put(0..10);
    let job = std::fs::read_to_string(place.at("job.sql")).unwrap();
    let copies = "'connector' = 'filesystem', 'path' = 'copies'";
    std::fs::write(place.at("job.sql"), job.replace(copies, "'connector' = 'kinesis', 'stream' = 'nowhere'")).unwrap();
    let child = place.run(&["--from", "trim_horizon"]).spawn().unwrap();
    let status = place.end(child, LONGEST).await.expect("it ends");
    assert!(status.code() == Some(1) && place.said().contains("'nowhere'"), "{}", place.said());
    assert_eq!(place.stub.calls("RegisterStreamConsumer"), 1);
    let left = place.stub.with("clicks", |s| s.consumers.iter().filter(|c| c.deleting_until.is_none()).count());
    assert_eq!(left, 0);
}

/// A replica that is stopped leaves the consumer to the next one; `--once`, after which nobody goes on, removes it.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_leaves_the_consumer_to_the_next_one() {
    let place = Place::new(WAYS[1]).await;
    place.put(0..10);
    let is_there = || place.stub.with("clicks", |s| s.consumers.iter().any(|c| c.deleting_until.is_none()));
    for replica in 1..=2 {
        let child = place.run(&["--from", "trim_horizon", "--lease", "checkpoints"]).spawn().unwrap();
        while place.stub.calls("SubscribeToShard") < replica {
            pause(20).await;
        }
        // What it reads it takes note of; then it is told to stop.
        let log = || std::fs::read_to_string(place.at("state/job/epochs.log")).unwrap_or_default();
        while !log().contains("\"cut\"") {
            pause(20).await;
        }
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        let status = place.end(child, LONGEST).await.expect("it ends");
        assert!(status.success(), "{}", place.said());
        assert!(is_there(), "replica {replica} has removed it");
        place.stub.with("clicks", |s| s.subscriptions.clear());
    }
    assert_eq!(place.stub.calls("RegisterStreamConsumer"), 1);
    let child = place.run(&["--once"]).spawn().unwrap();
    let status = place.end(child, LONGEST).await.expect("it ends");
    assert!(status.success() && !is_there(), "{}", place.said());
    assert_eq!(place.copied(), (0..10).collect::<Vec<_>>());
}
