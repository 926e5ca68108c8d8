//! What the services hold after a run, against what must be there.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{AsArray, RecordBatch};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::buckets::Bucket;
use crate::expected::{TABLES, alerts_difference, difference, expected, table_difference};
use crate::program::events;
use crate::services::Services;
use crate::stub::tables::Item;
use crate::stub::topics;
use crate::tables::plain;

/// What is wrong with the tables of DynamoDB.
pub(crate) async fn tables_difference(services: &Services, file: &str) -> Option<String> {
    let expected = expected(file);
    let client = services.dynamodb();
    let mut wrong = Vec::new();
    for (table, _) in TABLES {
        wrong.extend(table_difference(table, &expected, scanned(&client, table).await));
    }
    (!wrong.is_empty()).then(|| wrong.join("\n"))
}

/// The items of a table.
pub(crate) async fn scanned(client: &aws_sdk_dynamodb::Client, table: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut pages = client.scan().table_name(table).consistent_read(true).into_paginator().items().send();
    while let Some(item) = pages.next().await {
        items.push(item.unwrap().iter().map(|(name, value)| (name.clone(), plain(value))).collect());
    }
    items
}

/// All that is wrong. `ends` are events beside those of the file, which only the archive keeps; each of `kills` may have
/// doubled an alert, and what is said of a refused record.
pub(crate) async fn differences(services: &Services, file: &str, ends: &[String], kills: usize) -> Vec<String> {
    let mut wrong: Vec<String> = tables_difference(services, file).await.into_iter().collect();
    wrong.extend(alerts(services, file, kills).await);
    wrong.extend(archive(services, file, ends, kills).await);
    wrong.extend(refusals(services, file, &BTreeMap::new(), kills).await);
    wrong
}

/// Each alert is there, and has come again only where a reply was cut that told of it.
async fn alerts(services: &Services, file: &str, kills: usize) -> Vec<String> {
    let mut unheard: BTreeMap<String, usize> = BTreeMap::new();
    for request in services.topics.unheard.lock().unwrap().iter() {
        for id in alert_ids(&topics::form(&request.body)) {
            *unheard.entry(id).or_default() += 1;
        }
    }
    let mut copies: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (id, message) in services.alerts().await {
        copies.entry(id).or_default().push(message);
    }
    let mut wrong = Vec::new();
    for (id, messages) in &copies {
        let allowed = 1 + kills + unheard.get(id).copied().unwrap_or(0);
        if messages.len() > allowed {
            wrong.push(format!("alerts: '{id}' came {} times, {allowed} are explained", messages.len()));
        }
        if messages.iter().any(|m| *m != messages[0]) {
            wrong.push(format!("alerts: '{id}' has several texts: {messages:?}"));
        }
    }
    let each: Vec<String> = copies.into_values().map(|mut m| m.swap_remove(0)).collect();
    wrong.extend(alerts_difference(&expected(file), &each));
    wrong
}

/// Each line of the error output, and what it is about: its reason, and the record within its query or table.
async fn errors(services: &Services) -> Vec<(String, String, Value)> {
    let mut lines = Vec::new();
    for key in services.bucket.keys().await.iter().filter(|key| key.starts_with("errors/")) {
        let text = String::from_utf8(services.bucket.get(key).await).unwrap();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let reason = match line["reason"].as_str().unwrap() {
                "wrong_type" => format!("type:{}", line["column"].as_str().unwrap()),
                own @ ("query_failed" | "late") => own.to_owned(),
                required => format!("require:{required}"),
            };
            let place = format!("{} {} {}", line["origin"], line["split"], line["sequence_number"]);
            lines.push((reason, place, line));
        }
    }
    lines
}

/// Whether everything that is to be refused has been: by the decoder and by conditions, as `independent/clickstream.py` counts it, and
/// `more`. After kills each of it is there once or more often, else once.
pub(crate) async fn refusals(
    services: &Services,
    file: &str,
    more: &BTreeMap<String, usize>,
    kills: usize,
) -> Vec<String> {
    let mut found: Vec<(String, String)> =
        errors(services).await.into_iter().map(|(reason, place, _)| (reason, place)).collect();
    if kills > 0 {
        found.sort();
        found.dedup();
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (reason, _) in found {
        *counts.entry(reason).or_default() += 1;
    }
    let expected = expected(file);
    let count = |(reason, count): (&String, &Value)| (reason.clone(), count.as_u64().unwrap() as usize);
    let mut wanted: BTreeMap<String, usize> = expected["rejected"].as_object().unwrap().iter().map(count).collect();
    wanted.extend(more.clone());
    let reasons: BTreeSet<&String> = wanted.keys().chain(counts.keys()).collect();
    let differs = reasons.into_iter().filter(|reason| wanted.get(*reason) != counts.get(*reason));
    let told = |of: &BTreeMap<String, usize>, reason| of.get(reason).copied().unwrap_or(0);
    differs
        .map(|reason| format!("errors: '{reason}': {} wanted, {} found", told(&wanted, reason), told(&counts, reason)))
        .collect()
}

/// Each record is in the archive once, or refused once; no position is there twice.
pub(crate) async fn archive(services: &Services, file: &str, ends: &[String], kills: usize) -> Vec<String> {
    let (mut texts, mut positions) = (Vec::new(), Vec::new());
    for key in services.bucket.keys().await {
        if key.starts_with("events/") {
            let file = bytes::Bytes::from(services.bucket.get(&key).await);
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
            for batch in reader {
                let batch = batch.unwrap();
                let (raw, shard, number) =
                    (column(&batch, "raw_event"), column(&batch, "shard_id"), column(&batch, "sequence_number"));
                positions.extend(shard.iter().zip(&number).map(|(shard, number)| format!("{shard}/{number}")));
                texts.extend(raw);
            }
        } else if !key.starts_with("errors/") && !key.starts_with("checkpoints/") {
            return vec![format!("archive: what is '{key}'?")];
        }
    }
    // What the decoder refuses is in no query, so not in the archive either; the other reasons are a query's affair.
    let refused = errors(services).await.into_iter().filter(|(reason, ..)| reason.starts_with("type:"));
    let mut refused: Vec<(String, String)> =
        refused.map(|(_, place, line)| (place, line["record"].as_str().unwrap().to_owned())).collect();
    if kills > 0 {
        refused.sort();
        refused.dedup();
    }
    texts.extend(refused.into_iter().map(|(_, record)| record));
    let wanted = events(file).lines().map(str::to_owned).chain(ends.iter().cloned()).collect();
    let mut wrong: Vec<String> = difference("archive", wanted, texts).into_iter().collect();
    let rows = positions.len();
    positions.sort();
    positions.dedup();
    if positions.len() != rows {
        wrong.push(format!("archive: {rows} rows of {} positions", positions.len()));
    }
    if !services.bucket.uploads().await.is_empty() {
        wrong.push("archive: an upload is left over".to_owned());
    }
    wrong
}

/// Files of states and of reference tables that no checkpoint names: what kills have left must have been removed.
pub(crate) async fn unnamed(state: &Bucket) -> Vec<String> {
    let (mut named, mut files) = (BTreeSet::new(), Vec::new());
    for key in state.keys().await {
        if key.contains("/manifests/") {
            let manifest = String::from_utf8(state.get(&key).await).unwrap();
            named.extend(manifest.split('"').map(str::to_owned));
        } else if let Some(at) = key.find("/state/").or_else(|| key.find("/references/")) {
            files.push(key[at + 1..].to_owned());
        }
    }
    assert!(files.len() > 3, "{files:?}");
    files.retain(|file| !named.contains(file));
    files.into_iter().map(|file| format!("checkpoints: nothing names '{file}'")).collect()
}

fn column(batch: &RecordBatch, name: &str) -> Vec<String> {
    let column = arrow::compute::cast(batch.column_by_name(name).unwrap(), &arrow::datatypes::DataType::Utf8).unwrap();
    column.as_string::<i32>().iter().map(|text| text.unwrap().to_owned()).collect()
}

/// The ids of alerts that a PublishBatch carries.
pub(crate) fn alert_ids(form: &BTreeMap<String, String>) -> Vec<String> {
    let names = form.iter().filter(|(name, value)| name.ends_with(".Name") && *value == "alert_id");
    let value = |name: &String| form.get(&format!("{}.Value.StringValue", name.trim_end_matches(".Name"))).cloned();
    names.filter_map(|(name, _)| value(name)).collect()
}
