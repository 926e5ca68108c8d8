//! DynamoDB: tables of items, written under conditions.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::datatypes::DataType;
use serde_json::{Value, json};
use tidemill::contracts::TableSpec;

use super::Answer;
use super::expressions::{Item, Placeholders};
use crate::job::bug::Bug;
use crate::job::lookups::{KEYS, owner};
use crate::job::sinks::{Row, Services};

/// Attributes of a table's key, and their types.
type Key = Vec<(String, &'static str)>;

/// All tables, and what is in them.
#[derive(Debug)]
pub(crate) struct Tables {
    keys: BTreeMap<String, Key>,
    /// By table and key.
    items: BTreeMap<(String, String), Item>,
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
        let keys = [(LEDGER, "entry"), (LEASES, "job"), (OWNERS, "k")];
        let keys = keys.map(|(table, key)| (table.to_owned(), vec![(key.to_owned(), "S")])).into();
        let mut tables = Self { keys, items: BTreeMap::new(), marked: BTreeMap::new() };
        for (key, owner) in KEYS.iter().filter_map(|key| Some((key, owner(key)?))) {
            let item = json!({ "k": { "S": key }, "owner": { "S": owner } });
            tables.items.insert(tables.place(OWNERS, &item), item_of(&item));
        }
        tables
    }

    /// Makes the table that results of `spec` go to, unless it is there.
    pub(crate) fn provide(&mut self, spec: &TableSpec) {
        let kind = |name: &String| match spec.schema.field_with_name(name).expect("a column").data_type() {
            other if other.is_numeric() => "N",
            DataType::Binary | DataType::BinaryView => "B",
            _ => "S",
        };
        let key = spec.primary_key.iter().map(|name| (name.clone(), kind(name))).collect();
        self.keys.entry(spec.name.clone()).or_insert(key);
    }

    /// All that depends on nothing but the seed: entries of the ledger have the process's number.
    pub(crate) fn digested(&self) -> String {
        let items: Vec<_> = self.items.iter().filter(|((table, _), _)| table != LEDGER).collect();
        format!("{items:?} {:?}", self.marked)
    }

    /// Whether an alert was marked before that time.
    pub(crate) fn was_marked(&self, id: &str, before: Duration) -> bool {
        self.marked.get(id).is_some_and(|at| *at < before)
    }

    /// Stores an item.
    fn store(&mut self, place: (String, String), item: Item, now: Duration) {
        if place.0 == LEDGER && item["state"]["S"] == "published" {
            self.marked.extend(alert(&json!(item)).filter(|id| !self.marked.contains_key(id)).map(|id| (id, now)));
        }
        self.items.insert(place, item);
    }

    /// The items of a table, as rows.
    pub(crate) fn rows(&self, table: &str) -> Vec<Row> {
        self.items.iter().filter(|((of, _), _)| of == table).map(|(_, item)| row(item)).collect()
    }

    /// Where an item of these attributes lies.
    fn place(&self, table: &str, attributes: &Value) -> (String, String) {
        let key = self.keys.get(table).unwrap_or_else(|| panic!("there is no table '{table}'"));
        let values: Vec<&Value> = key.iter().map(|(name, kind)| &attributes[name][kind]).collect();
        assert!(values.iter().all(|value| value.is_string()), "{attributes} has not the key {key:?}");
        (table.to_owned(), json!(values).to_string())
    }
}

fn item_of(attributes: &Value) -> Item {
    serde_json::from_value(attributes.clone()).expect("attributes by name")
}

/// The columns of an item, without what the sink keeps beside them; as text, and times as the models have them.
fn row(item: &Item) -> Row {
    let text = |value: &Value| {
        let text = value["N"].as_str().or(value["S"].as_str()).unwrap_or("NULL");
        text.trim_end_matches('Z').trim_end_matches(".000").replace(' ', "T")
    };
    let columns = item.iter().filter(|(name, _)| !name.starts_with("tm_"));
    columns.map(|(name, value)| (name.clone(), text(value))).collect()
}

/// Does what is asked. With `leaves_over`, not all of a batch.
pub(super) fn answer(
    services: &Services,
    operation: &str,
    request: &Value,
    leaves_over: bool,
    bug: Option<Bug>,
) -> Answer {
    let mut tables = services.tables.lock().expect("no panic while it is held");
    let now = services.nature.world.now();
    let table = request["TableName"].as_str().unwrap_or_default();
    match operation {
        "DescribeTable" => describe(&tables, table),
        "UpdateItem" | "PutItem" | "DeleteItem" => {
            let attributes = if operation == "PutItem" { &request["Item"] } else { &request["Key"] };
            let place = tables.place(table, attributes);
            let before = tables.items.get(&place).cloned();
            let condition = request["ConditionExpression"].as_str();
            let asked = Placeholders(request);
            let is_ignored = match bug {
                Some(Bug::IgnoresConditions) => ![LEDGER, LEASES].contains(&table),
                Some(Bug::GivesClaimsTwice) => table == LEDGER,
                _ => false,
            };
            if let Some(condition) = condition.filter(|_| !is_ignored)
                && !asked.holds(condition, before.as_ref().unwrap_or(&Item::new()))
            {
                services.nature.lock().faults.count("refused by condition");
                let shows = request["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD";
                let item = before.filter(|_| shows).map_or(json!({}), |item| json!({ "Item": item }));
                return Answer::refusal(400, "ConditionalCheckFailedException", item);
            }
            let given = item_of(attributes);
            let after = match operation {
                "PutItem" => Some(given),
                "DeleteItem" => None,
                _ => {
                    let mut item = before.clone().unwrap_or(given);
                    asked.update(request["UpdateExpression"].as_str().unwrap_or_default(), &mut item);
                    Some(item)
                }
            };
            match after {
                Some(after) => {
                    if ![LEDGER, LEASES].contains(&table) {
                        services.watch(table, &place.1, before.as_ref().map(row).as_ref(), &row(&after));
                    }
                    tables.store(place, after, now);
                }
                None => drop(tables.items.remove(&place)),
            }
            Answer::json(&json!({}))
        }
        "GetItem" => {
            let found = tables.items.get(&tables.place(table, &request["Key"]));
            Answer::json(&found.map_or(json!({}), |item| json!({ "Item": item })))
        }
        "BatchGetItem" => {
            let (table, asked) =
                request["RequestItems"].as_object().and_then(|all| all.iter().next()).expect("a table");
            let asked = asked["Keys"].as_array().expect("keys");
            let (keys, left) = asked.split_at(asked.len() - usize::from(leaves_over && asked.len() > 1));
            let found = keys.iter().filter_map(|key| tables.items.get(&tables.place(table, key)));
            let found: Vec<&Item> = found.filter(|_| bug != Some(Bug::FindsNothingMarked) || table != LEDGER).collect();
            let left = if left.is_empty() { json!({}) } else { json!({ table: { "Keys": left } }) };
            let found = json!({ table: found });
            Answer::json(&json!({ "Responses": found, "UnprocessedKeys": left }))
        }
        "BatchWriteItem" => {
            let asked = request["RequestItems"][LEDGER].as_array().expect("items of the ledger");
            let (writes, left) = asked.split_at(asked.len() - usize::from(leaves_over && asked.len() > 1));
            for write in writes {
                let item = &write["PutRequest"]["Item"];
                let place = tables.place(LEDGER, item);
                tables.store(place, item_of(item), now);
            }
            let left = if left.is_empty() { json!({}) } else { json!({ LEDGER: left }) };
            Answer::json(&json!({ "UnprocessedItems": left }))
        }
        other => panic!("{other} is not simulated"),
    }
}

/// The alerts whose entries a BatchGetItem asks for.
pub(super) fn alerts(request: &Value) -> Vec<String> {
    let keys = request["RequestItems"][LEDGER]["Keys"].as_array();
    keys.into_iter().flatten().filter_map(alert).collect()
}

fn describe(tables: &Tables, table: &str) -> Answer {
    let Some(key) = tables.keys.get(table) else {
        return Answer::refusal(400, "ResourceNotFoundException", json!({}));
    };
    let schema =
        key.iter().zip(["HASH", "RANGE"]).map(|((name, _), kind)| json!({ "AttributeName": name, "KeyType": kind }));
    let types = key.iter().map(|(name, kind)| json!({ "AttributeName": name, "AttributeType": kind }));
    Answer::json(&json!({ "Table": {
        "TableName": table,
        "TableStatus": "ACTIVE",
        "KeySchema": schema.collect::<Vec<_>>(),
        "AttributeDefinitions": types.collect::<Vec<_>>(),
    } }))
}
