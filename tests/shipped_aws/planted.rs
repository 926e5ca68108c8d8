//! Each check of the kills, where something *is* wrong. First all is well, and the checks say so; then one thing after the other is
//! spoilt in the services themselves, and each must be seen by the check that is for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::crash::record;
use crate::more_queries::{ADDED, FILE, added_difference, alerts_differences, prepare, refused_more, start};
use crate::program::{events, produce_file};
use crate::results::{archive, refusals, tables_difference, unnamed};
use crate::services::Services;
use crate::stream::Stream;

/// What the checks say, by name.
#[derive(Debug, PartialEq, Eq)]
struct Said(BTreeMap<&'static str, Vec<String>>);

impl Said {
    #[track_caller]
    fn only(&self, check: &str, parts: &[&str]) {
        for (name, wrong) in &self.0 {
            assert_eq!(wrong.is_empty(), *name != check, "'{name}' says, when '{check}' should: {wrong:#?}");
        }
        for part in parts {
            assert!(
                self.0[check].iter().any(|line| line.contains(part)),
                "'{part}' is not noticed: {:#?}",
                self.0[check]
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_check_of_the_kills_notices_what_it_is_for() {
    let Some(services) = Services::start().await else { return };
    let stream = Stream::stub().await;
    let (state, topic) = prepare(&services).await;
    stream.create(4).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    std::fs::write(&path, events(FILE)).unwrap();
    produce_file(stream.endpoint(), path, None).await;
    let chronicle = record(&services, &Arc::new(AtomicUsize::new(1)));
    start(&stream, &services, "3 s", &["--drain"], &[]).ended().await;
    services.tables.raise_all().await;

    // Queues are empty after they have been read: what came is kept here.
    let (mut alerts, mut orders) = (services.alerts().await, services.received(&topic.queue).await);
    let check = async |alerts: &[(String, String)], orders: &[(String, String)]| {
        let happenings = chronicle.lock().unwrap().clone();
        Said(BTreeMap::from([
            ("tables", tables_difference(&services, FILE).await.into_iter().collect()),
            ("added", added_difference(&services).await.into_iter().collect()),
            ("unnamed", unnamed(&state).await),
            ("archive", archive(&services, FILE, &[], 0).await),
            ("refusals", refusals(&services, FILE, &refused_more(), 0).await),
            ("alerts", alerts_differences(alerts, orders, &happenings).0),
        ]))
    };
    check(&alerts, &orders).await.only("none", &[]);

    let client = &services.bucket.client;
    let upload = client.create_multipart_upload().bucket(&services.bucket.name).key("events/year=2026/left.parquet");
    let upload = upload.send().await.unwrap();
    check(&alerts, &orders).await.only("archive", &["an upload is left over"]);
    let abort = client.abort_multipart_upload().bucket(&services.bucket.name).key("events/year=2026/left.parquet");
    abort.upload_id(upload.upload_id().unwrap()).send().await.unwrap();

    let keys = services.bucket.keys().await;
    let key = |start: &str| keys.iter().find(|key| key.starts_with(start)).unwrap().clone();
    let file = services.bucket.get(&key("events/")).await;
    services.bucket.put("events/again.parquet", file).await;
    check(&alerts, &orders).await.only("archive", &["positions", "too many"]);
    services.bucket.delete("events/again.parquet").await;

    // A record that was refused is said again, without a kill.
    let lines = services.bucket.get(&key("errors/")).await;
    let lines = String::from_utf8(lines).unwrap();
    let with = |reason: &str| lines.lines().find(|line| line.contains(reason)).unwrap().to_owned();
    for reason in ["\"query_failed\"", "\"it ends with a three\"", "\"purchase without an amount\""] {
        services.bucket.put("errors/again.jsonl", with(reason) + "\n").await;
        check(&alerts, &orders).await.only("refusals", &[reason.trim_matches('"')]);
    }
    services.bucket.delete("errors/again.jsonl").await;
    // And one is forgotten.
    for reason in ["\"query_failed\"", "\"it ends with a three\"", "\"purchase without an amount\""] {
        let line = with(reason) + "\n";
        services.bucket.put(&key("errors/"), lines.replacen(&line, "", 1)).await;
        check(&alerts, &orders).await.only("refusals", &[reason.trim_matches('"')]);
    }
    services.bucket.put(&key("errors/"), lines.clone()).await;

    for stray in ["kept/queries/state/99-0123-0.arrow", "kept/queries/references/99-0123-4567-0-1.arrow"] {
        state.put(stray, "of nobody").await;
        check(&alerts, &orders).await.only("unnamed", &[stray.trim_start_matches("kept/queries/")]);
        state.delete(stray).await;
    }

    let counter = services.item(ADDED).await;
    let add = async |number: &str| {
        let add = services.dynamodb().update_item().table_name(ADDED).set_key(Some(counter.clone()));
        let add = add.update_expression("ADD view_count :n");
        add.expression_attribute_values(":n", AttributeValue::N(number.to_owned())).send().await.unwrap();
    };
    add("1").await;
    check(&alerts, &orders).await.only("added", &[ADDED]);
    add("-1").await;

    // An order once more under another id of deduplication, so that the topic does not know it.
    services.publish(&topic, &orders[0], Some("another")).await;
    let came = services.received(&topic.queue).await;
    assert_eq!(came.len(), 1, "{came:?}");
    orders.extend(came);
    check(&alerts, &orders).await.only("alerts", &["FIFO"]);
    orders.pop();

    // An alert once more, that nobody has seen being published. (The reply of the first publication is cut: those come twice anyway.)
    let is_alone = |(id, _): &&(String, String)| alerts.iter().filter(|(other, _)| other == id).count() == 1;
    let alone = alerts.iter().find(is_alone).unwrap().clone();
    services.publish(&services.alerts_topic, &alone, None).await;
    let came = services.alerts().await;
    assert_eq!(came, std::slice::from_ref(&alone));
    alerts.extend(came);
    check(&alerts, &orders).await.only("alerts", &["came 2 times, and was published 1 times"]);
    // And one that never came.
    alerts.retain(|alert| *alert != alone);
    check(&alerts, &orders).await.only("alerts", &["alerts:"]);
    alerts.push(alone);
    check(&alerts, &orders).await.only("none", &[]);
}
