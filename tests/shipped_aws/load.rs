//! More input than the sinks take: the job waits for its sinks, holds no more than before, says how far behind it is, and catches up.
//!
//! `LOAD_SECONDS=300 THROTTLE_SECONDS=300 cargo nextest run --test shipped_aws load` is the long run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::LONGEST;
use crate::aws_stub::AwsStub;
use crate::program::{self, Job, Reading, produce_file, start, start_job};
use crate::results::{differences, tables_difference};
use crate::services::Services;
use crate::stream::Stream;
use crate::stub::Fault;

fn seconds(name: &str, usual: u64) -> Duration {
    Duration::from_secs(std::env::var(name).ok().map_or(usual, |text| text.parse().expect("seconds")))
}

/// Memory that is the process's own, in KiB.
fn anonymous_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

/// Its most in each part of a time, in MiB.
async fn watch_memory(job: &Job, time: Duration, parts: u32) -> Vec<u64> {
    let began = Instant::now();
    let mut most = vec![0; parts as usize];
    while began.elapsed() < time {
        let part = (began.elapsed().min(time).as_millis() * u128::from(parts) / time.as_millis()) as usize;
        let part = part.min(parts as usize - 1);
        most[part] = most[part].max(anonymous_kib(job.process()) >> 10);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    most
}

/// Of the lines that a run prints: records read, and seconds behind.
fn progress(said: &str) -> Vec<(u64, f64)> {
    let figure = |line: &str, after: &str, before: &str| -> Option<f64> {
        line.split_once(after)?.1.split_once(before)?.0.rsplit(' ').next()?.parse().ok()
    };
    let one =
        |line: &str| Some((figure(line, "job: ", " records (")? as u64, figure(line, "rows out, ", " s behind")?));
    said.lines().filter_map(one).collect()
}

/// Updates a second that the table takes at first; three times as many come.
const TAKEN: u64 = 100;
const COMING: u64 = 3 * TAKEN;
/// Text in each event, so that what is held shows: 4.7 MiB of input a second.
const PAD_BYTES: usize = 16 << 10;
/// A third of the load's time would bring so much more if anything were kept: 50 MiB in CI. This is the allocator's noise.
const NOISE_MIB: u64 = 24;

const SQL: &str = "
CREATE TABLE events (id STRING, kind STRING, pad STRING)
WITH ('connector' = 'kinesis', 'stream' = 'load', 'format' = 'json');
CREATE TABLE items (id STRING, n BIGINT, PRIMARY KEY (id) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'items');
CREATE TABLE kinds (kind STRING, n BIGINT, PRIMARY KEY (kind) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'kinds');
INSERT INTO items SELECT id, CHAR_LENGTH(pad) FROM events;
INSERT INTO kinds SELECT kind, COUNT(*) FROM events GROUP BY kind;
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_times_what_the_sinks_take() {
    let time = seconds("LOAD_SECONDS", 36);
    let Some(services) = Services::start().await else { return };
    services.another_table("items", &[("id", "S")]).await;
    services.another_table("kinds", &[("kind", "S")]).await;
    let stub = AwsStub::start().await;
    stub.create("load", 4);
    // What a table with so much capacity does: the rest of a second's updates is throttled.
    let taken = Arc::new(AtomicU64::new(TAKEN));
    let (limit, began) = (Arc::clone(&taken), Instant::now());
    let (mut second, mut used) = (0, 0);
    services.tables.follow(Box::new(move |operation| {
        if operation != "UpdateItem" && operation != "PutItem" {
            return Fault::None;
        }
        if began.elapsed().as_secs() > second {
            (second, used) = (began.elapsed().as_secs(), 0);
        }
        used += 1;
        if used > limit.load(Ordering::Relaxed) { Fault::Throttle } else { Fault::None }
    }));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("job.sql");
    std::fs::write(&path, SQL).unwrap();
    let checkpoints = folder.path().join("kept").to_string_lossy().into_owned();
    let arguments = ["--from", "trim_horizon", "--epoch-rows", "300", "--checkpoints", &checkpoints];
    let environment = services.environment().map(|(name, value)| (name.to_owned(), value));
    let job = start_job(folder, &path, &stub.endpoint(), &arguments, &environment);

    let pad = "x".repeat(PAD_BYTES);
    let put = async {
        let began = Instant::now();
        let mut put = 0;
        while began.elapsed() < time {
            let due = began.elapsed().as_millis() as u64 * COMING / 1_000;
            for number in put..due {
                let line = format!("{{\"id\":\"e{number}\",\"kind\":\"k{}\",\"pad\":\"{pad}\"}}", number % 3);
                stub.put("load", &number.to_string(), &line);
            }
            put = due;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        put
    };
    let (put, most) = tokio::join!(put, watch_memory(&job, time, 3));
    assert!(job.is_running(), "it has ended: {}", job.said());
    let said = job.said();
    let (read, behind) = *progress(&said).last().unwrap_or_else(|| panic!("it says nothing of how far it is: {said}"));
    let written = services.dynamodb().scan().table_name("items").send().await.unwrap().count();
    println!(
        "{put} events in {time:?}; at their end {read} were read, {written} or more written, {behind} s behind; MiB at most {most:?}"
    );
    assert!(behind >= 3.0 && read < put * 4 / 5, "no back-pressure: {read} of {put} were read, {behind} s behind");
    assert!(most[2] <= most[1] + NOISE_MIB, "memory grows: {most:?} MiB");

    // The input stops, and the table takes what an emulator can.
    taken.store(u64::MAX, Ordering::Relaxed);
    let recovering = Instant::now();
    let client = services.dynamodb();
    let is_complete = async || {
        let mut kinds = BTreeMap::new();
        for item in client.scan().table_name("kinds").consistent_read(true).send().await.unwrap().items() {
            kinds.insert(item["kind"].as_s().unwrap().clone(), item["n"].as_n().unwrap().parse::<u64>().unwrap());
        }
        kinds.values().sum::<u64>() == put
    };
    while !is_complete().await {
        assert!(job.is_running() && recovering.elapsed() < LONGEST + time, "it does not catch up: {}", job.said());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let caught_up = recovering.elapsed();
    let last = async || progress(&job.said()).last().copied();
    while last().await.is_none_or(|(read, behind)| read < put || behind > 1.0) {
        assert!(recovering.elapsed() < LONGEST + time, "it does not say that it has caught up: {}", job.said());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let said = job.stop().await;
    assert!(
        said.contains(", checkpoint ") && said.contains(" s ago ("),
        "it does not say what checkpoints cost: {said}"
    );
    let mut items = Vec::new();
    let mut pages = client.scan().table_name("items").consistent_read(true).into_paginator().items().send();
    while let Some(item) = pages.next().await {
        let item = item.unwrap();
        assert_eq!(item["n"].as_n().unwrap(), &PAD_BYTES.to_string());
        items.push(item["id"].as_s().unwrap().clone());
    }
    items.sort();
    let mut wanted: Vec<String> = (0..put).map(|number| format!("e{number}")).collect();
    wanted.sort();
    assert!(items == wanted, "{} of {put} items: {said}", items.len());
    println!("caught up after {caught_up:?}");
}

/// Everything that is asked of DynamoDB is throttled for some time. The job waits, and in the end nothing is lost or doubled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dynamodb_is_throttled_for_minutes() {
    let time = seconds("THROTTLE_SECONDS", 20);
    let stream = Stream::stub().await;
    let Some(services) = Services::start().await else { return };
    stream.create(4).await;
    let until = Instant::now() + Duration::from_secs(3) + time;
    let begins = Instant::now() + Duration::from_secs(3);
    services.tables.follow(Box::new(move |_| {
        if (begins..until).contains(&Instant::now()) { Fault::Throttle } else { Fault::None }
    }));
    let checkpoints = format!("s3://{}/checkpoints", crate::services::BUCKET);
    let arguments = ["--from", "trim_horizon", "--checkpoints", &checkpoints, "--checkpoint-interval", "1s"];
    let job = start(&stream, &services, Reading::Polling, &arguments);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let events = program::events("shop");
    std::fs::write(&path, &events).unwrap();
    // Events come all the time.
    let rate = events.lines().count() as f64 / (time.as_secs_f64() + 5.0);
    let producer = tokio::spawn(produce_file(stream.endpoint(), path, Some(rate.ceil() as u32)));
    let most = watch_memory(&job, time + Duration::from_secs(3), 4).await;
    let produced = producer.await.unwrap();
    let ends = stream.put_last_events("shop").await;
    let recovering = Instant::now();
    while let Some(wrong) = tables_difference(&services, "shop").await {
        assert!(recovering.elapsed() < LONGEST, "{wrong}\n{}", job.said());
        assert!(job.is_running(), "it has ended\n{}", job.said());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let caught_up = recovering.elapsed();
    let said = job.stop().await;
    assert_eq!(differences(&services, "shop", &ends, 0).await, Vec::<String>::new(), "{said}");
    assert!(said.contains(&format!("{} records in ", produced + ends.len())), "each record is read once: {said}");
    let throttled = services.tables.calls.lock().unwrap().iter().filter(|call| call.1 == Fault::Throttle).count();
    println!(
        "{throttled} calls were throttled in {time:?}, MiB at most {most:?}, exact {caught_up:?} after the last event"
    );
    assert!(throttled > 20, "{throttled} calls were throttled");
    assert!(most[3] <= most[2] + 2 * NOISE_MIB, "memory grows: {most:?} MiB");
}
