//! DynamoDB: the stub of the sinks' own tests, and what is noted of each write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::datatypes::DataType;
use serde_json::{Value, json};
use tidemill::contracts::TableSpec;

use super::Answer;
use crate::job::bug::Bug;
use crate::job::lookups::{KEYS, owner};
use crate::job::sinks::{Row, Services, plain};
use crate::stub_tables::{self, Item};

/// All tables, and what is in them.
#[derive(Debug)]
pub(crate) struct Tables {
    stored: stub_tables::Tables,
    /// Names of the tables that results go to.
    results: BTreeSet<String>,
    /// When the ledger first said of an alert that it is published.
    marked: BTreeMap<String, Duration>,
}

/// The table of what has been published, that of leases, and that of what is known of keys; the others are of results.
pub(crate) const LEDGER: &str = "ledger";
pub(crate) const LEASES: &str = "leases";
const OWNERS: &str = "owners";

/// The alert of an entry of the ledger: `id/epoch/count`.
fn alert(entry: &Value) -> Option<String> {
    entry["entry"]["S"].as_str()?.split('/').next().map(str::to_owned)
}

impl Tables {
    /// Those that results do not go to.
    pub(crate) fn new() -> Self {
        let stored = stub_tables::Tables::default();
        for (table, key) in [(LEDGER, "entry"), (LEASES, "job"), (OWNERS, "k")] {
            stored.create(table, &[(key, "S")]);
        }
        let put = KEYS.iter().filter_map(|key| {
            let item = json!({ "k": { "S": key }, "owner": { "S": owner(key)? } });
            Some(json!({ "PutRequest": { "Item": item } }))
        });
        let put: Vec<Value> = put.collect();
        stored.perform("BatchWriteItem", &json!({ "RequestItems": { OWNERS: put } }));
        Self { stored, results: BTreeSet::new(), marked: BTreeMap::new() }
    }

    /// Makes the table that results of `spec` go to, unless it is there.
    pub(crate) fn provide(&mut self, spec: &TableSpec) {
        if !self.results.insert(spec.name.clone()) {
            return;
        }
        let kind = |name: &str| match spec.schema.field_with_name(name).expect("a column").data_type() {
            other if other.is_numeric() => "N",
            DataType::Binary | DataType::BinaryView => "B",
            _ => "S",
        };
        let key: Vec<_> = spec.primary_key.iter().map(|name| (name.as_str(), kind(name))).collect();
        self.stored.create(&spec.name, &key);
    }

    /// All that depends on nothing but the seed: entries of the ledger have the process's number.
    pub(crate) fn digested(&self) -> String {
        let tables = self.results.iter().map(String::as_str).chain([LEASES]);
        // The SDK writes attributes in any order.
        let items = tables.flat_map(|table| self.stored.items(table)).map(BTreeMap::from_iter);
        format!("{:?} {:?}", items.collect::<Vec<_>>(), self.marked)
    }

    /// Whether an alert was marked before that time.
    pub(crate) fn was_marked(&self, id: &str, before: Duration) -> bool {
        self.marked.get(id).is_some_and(|at| *at < before)
    }

    /// The items of a table of results, as rows.
    pub(crate) fn rows(&self, table: &str) -> Vec<Row> {
        if !self.results.contains(table) {
            return Vec::new();
        }
        self.stored.items(table).iter().map(row).collect()
    }

    /// The item that a write is of, as a row.
    fn written(&self, request: &Value) -> Option<Row> {
        let key = if request["Key"].is_object() { &request["Key"] } else { &request["Item"] };
        let (_, found) = self.stored.perform("GetItem", &json!({ "TableName": request["TableName"], "Key": key }));
        found["Item"].as_object().map(row)
    }
}

/// The columns of an item, without what the sink keeps beside them; as text, and times as the models have them.
fn row(item: &Item) -> Row {
    let text = |value: &Value| plain(if value["N"].is_null() { &value["S"] } else { &value["N"] });
    let columns = item.iter().filter(|(name, _)| !name.starts_with("tm_"));
    columns.map(|(name, value)| (name.clone(), text(value))).collect()
}

/// Does what is asked. With `leaves_over`, a batch is done in its first half.
pub(super) fn answer(
    services: &Services,
    operation: &str,
    request: &Value,
    leaves_over: bool,
    bug: Option<Bug>,
) -> Answer {
    let mut tables = services.tables.lock().expect("no panic while it is held");
    let table = request["TableName"].as_str().unwrap_or_default();
    let is_result = tables.results.contains(table);
    let is_ignored = match bug {
        Some(Bug::IgnoresConditions) => is_result,
        Some(Bug::GivesClaimsTwice) => table == LEDGER,
        _ => false,
    };
    tables.stored.blind.store(is_ignored, Ordering::Relaxed);
    let is_write = is_result && matches!(operation, "UpdateItem" | "PutItem" | "DeleteItem");
    let before = if is_write { tables.written(request) } else { None };
    let (mut request, mut left) = (request.clone(), json!({}));
    if leaves_over && operation.starts_with("Batch") {
        left = stub_tables::halve(&mut request);
    }
    let (status, mut answer) = tables.stored.perform(operation, &request);
    if status != 200 {
        let is_refused =
            answer["__type"].as_str().is_some_and(|code| code.ends_with("#ConditionalCheckFailedException"));
        services.nature.lock().faults.count_if(is_refused, "refused by condition");
        return (status, answer).into();
    }
    match operation {
        "BatchGetItem" => {
            if bug == Some(Bug::FindsNothingMarked)
                && let Some(found) = answer["Responses"].as_object_mut().and_then(|found| found.get_mut(LEDGER))
            {
                *found = json!([]);
            }
            answer["UnprocessedKeys"] = left;
        }
        "BatchWriteItem" => {
            let now = services.nature.world.now();
            let items = request["RequestItems"][LEDGER].as_array().into_iter().flatten();
            let items = items.map(|write| &write["PutRequest"]["Item"]);
            for id in items.filter(|item| item["state"]["S"] == "published").filter_map(alert) {
                tables.marked.entry(id).or_insert(now);
            }
            answer["UnprocessedItems"] = left;
        }
        _ => {}
    }
    if is_write && let Some(after) = tables.written(&request) {
        services.watch(table, before.as_ref(), &after);
    }
    (status, answer).into()
}

/// The alerts whose entries a BatchGetItem asks for.
pub(super) fn alerts(request: &Value) -> Vec<String> {
    let keys = request["RequestItems"][LEDGER]["Keys"].as_array();
    keys.into_iter().flatten().filter_map(alert).collect()
}
