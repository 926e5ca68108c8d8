//! DynamoDB in memory: the operations and the forms of expressions that the sinks send, and every state that an item
//! ever had. It is no emulator: the same tests run against emulators, too.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};

pub(crate) type Item = Map<String, Value>;

#[derive(Debug, Default)]
struct Table {
    keys: Vec<(String, String)>,
    items: BTreeMap<String, Item>,
    /// Each write, in order: the item's key, and the item after it.
    history: Vec<(String, Option<Item>)>,
}

#[derive(Debug, Default)]
pub(crate) struct Tables {
    by_name: Mutex<BTreeMap<String, Table>>,
    /// Every condition is taken for fulfilled: what would a test see if a sink did not state it?
    pub(crate) blind: AtomicBool,
    /// The number that is the hash key of items of which there are too many.
    pub(crate) full: Mutex<Option<String>>,
}

type Answer = (u16, Value);

pub(crate) fn error(kind: &str, message: &str) -> Answer {
    (400, json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{kind}"), "message": message }))
}

/// A number as units of its 18th digit after the point.
fn number(text: &str) -> i128 {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let padded = format!("{whole}{part:0<18}");
    padded.parse().unwrap_or_else(|_| panic!("a number that the stub cannot hold: {text}"))
}

fn decimal(units: i128) -> String {
    let text = format!("{:019}", units.unsigned_abs());
    let (whole, part) = text.split_at(text.len() - 18);
    let part = part.trim_end_matches('0');
    let sign = if units < 0 { "-" } else { "" };
    if part.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part}") }
}

struct Expression<'a> {
    names: &'a Value,
    values: &'a Value,
}

impl Expression<'_> {
    fn name(&self, placeholder: &str) -> String {
        let named = self.names[placeholder].as_str();
        named.unwrap_or_else(|| panic!("'{placeholder}' is no name")).to_owned()
    }

    fn value(&self, placeholder: &str) -> &Value {
        let value = &self.values[placeholder];
        assert!(value.is_object(), "'{placeholder}' is no value");
        value
    }

    fn holds(&self, condition: &str, item: Option<&Item>) -> bool {
        condition.split(" OR ").any(|either| {
            either.split(" AND ").all(|term| {
                let term = term.trim();
                if let Some(name) = term.strip_prefix("attribute_not_exists(") {
                    let name = self.name(name.trim_end_matches(')'));
                    return item.is_none_or(|item| !item.contains_key(&name));
                }
                let parts: Vec<&str> = term.split(' ').collect();
                let [name, operator, value] = parts[..] else { panic!("no condition: '{term}'") };
                let Some(stored) = item.and_then(|item| item.get(&self.name(name))) else { return false };
                let value = self.value(value);
                if operator == "=" && !value["N"].is_string() {
                    return stored == value;
                }
                let (stored, value) = (number(stored["N"].as_str().unwrap()), number(value["N"].as_str().unwrap()));
                match operator {
                    "=" => stored == value,
                    "<=" => stored <= value,
                    other => panic!("no operator: '{other}'"),
                }
            })
        })
    }

    fn apply(&self, expression: &str, item: &mut Item) {
        let mut rest = expression;
        while !rest.is_empty() {
            let next = [" SET ", " REMOVE ", " ADD "].iter().filter_map(|word| rest[1..].find(word)).min();
            let (clause, later) = rest.split_at(next.map_or(rest.len(), |at| at + 1));
            rest = later.trim_start();
            let (word, list) = clause.trim().split_once(' ').unwrap();
            for part in list.split(',') {
                match word {
                    "SET" => {
                        let (name, value) = part.split_once('=').unwrap();
                        item.insert(self.name(name), self.value(value).clone());
                    }
                    "REMOVE" => drop(item.remove(&self.name(part))),
                    "ADD" => {
                        let (name, value) = part.split_once(' ').unwrap();
                        let name = self.name(name);
                        let before = item.get(&name).map_or(0, |v| number(v["N"].as_str().unwrap()));
                        let sum = before + number(self.value(value)["N"].as_str().unwrap());
                        item.insert(name, json!({ "N": decimal(sum) }));
                    }
                    other => panic!("no clause: '{other}'"),
                }
            }
        }
    }
}

impl Tables {
    /// Makes a table; `keys` are names and types.
    pub(crate) fn create(&self, name: &str, keys: &[(&str, &str)]) {
        let keys = keys.iter().map(|(n, t)| ((*n).to_owned(), (*t).to_owned())).collect();
        self.by_name.lock().unwrap().insert(name.to_owned(), Table { keys, ..Table::default() });
    }

    pub(crate) fn items(&self, table: &str) -> Vec<Item> {
        self.by_name.lock().unwrap()[table].items.values().cloned().collect()
    }

    /// Every state of every item.
    pub(crate) fn history(&self, table: &str) -> Vec<(String, Option<Item>)> {
        self.by_name.lock().unwrap()[table].history.clone()
    }

    /// Performs an operation.
    pub(crate) fn perform(&self, operation: &str, input: &Value) -> Answer {
        let mut tables = self.by_name.lock().unwrap();
        if let Some(full) = self.full.lock().unwrap().as_ref().filter(|full| writes_to(input, full)) {
            return error("ItemCollectionSizeLimitExceededException", &format!("Collection size exceeded: {full}"));
        }
        if matches!(operation, "BatchWriteItem" | "BatchGetItem") {
            return batch(&mut tables, operation, input);
        }
        let name = input["TableName"].as_str().unwrap();
        let Some(table) = tables.get_mut(name) else {
            return error("ResourceNotFoundException", &format!("no table {name}"));
        };
        match operation {
            "DescribeTable" => (200, json!({ "Table": table.describe(name) })),
            "GetItem" => {
                let found = table.items.get(&table.key_text(input["Key"].as_object().unwrap()));
                (200, found.map_or(json!({}), |item| json!({ "Item": item })))
            }
            "Scan" => (200, json!({ "Items": table.items.values().collect::<Vec<_>>() })),
            "UpdateItem" | "PutItem" | "DeleteItem" => table.write(operation, input, self.blind.load(Ordering::SeqCst)),
            other => panic!("the stub has no '{other}'"),
        }
    }
}

/// Whether a request writes an item with such a number, by itself or among others.
fn writes_to(input: &Value, number: &str) -> bool {
    let has = |item: &Value| item.as_object().is_some_and(|item| item.values().any(|value| value["N"] == number));
    let lists = input["RequestItems"].as_object().into_iter().flat_map(|tables| tables.values());
    let mut requests = lists.filter_map(Value::as_array).flatten();
    has(&input["Key"]) || has(&input["Item"]) || requests.any(|request| has(&request["PutRequest"]["Item"]))
}

/// Cuts a batch: its first half stays in `input`, and what is left over is answered.
pub(crate) fn halve(input: &mut Value) -> Value {
    // Requests of BatchWriteItem, keys of BatchGetItem.
    fn list(of_table: &mut Value) -> &mut Vec<Value> {
        let list = if of_table.is_array() { of_table } else { &mut of_table["Keys"] };
        list.as_array_mut().unwrap()
    }
    let mut left = json!({});
    for (table, asked) in input["RequestItems"].as_object_mut().unwrap() {
        let mut rest = asked.clone();
        let half = (list(asked).len() / 2).max(1);
        let others = list(asked).split_off(half);
        if !others.is_empty() {
            *list(&mut rest) = others;
            left[table] = rest;
        }
    }
    left
}

fn batch(tables: &mut BTreeMap<String, Table>, operation: &str, input: &Value) -> Answer {
    let mut responses = Map::new();
    for (name, requests) in input["RequestItems"].as_object().unwrap() {
        let Some(table) = tables.get_mut(name) else {
            return error("ResourceNotFoundException", &format!("no table {name}"));
        };
        if operation == "BatchGetItem" {
            assert_eq!(requests["ConsistentRead"], true);
            // One bad key fails the whole call.
            let wanted = requests["Keys"].as_array().unwrap();
            if let Some(why) = wanted.iter().find_map(|key| table.bad_key(key.as_object().unwrap())) {
                return error("ValidationException", &why);
            }
            let keys = wanted.iter();
            let found = keys.filter_map(|key| table.items.get(&table.key_text(key.as_object().unwrap()))).cloned();
            responses.insert(name.clone(), found.map(Value::Object).collect());
            continue;
        }
        let requests = requests.as_array().unwrap();
        assert!(requests.len() <= 25, "{} items in a batch", requests.len());
        let mut keys: Vec<String> = Vec::new();
        for request in requests {
            let put = request["PutRequest"]["Item"].as_object();
            let key = table.key_text(put.or(request["DeleteRequest"]["Key"].as_object()).unwrap());
            table.store(key.clone(), put.cloned());
            keys.push(key);
        }
        keys.sort();
        assert!(keys.windows(2).all(|pair| pair[0] != pair[1]), "a key twice in a batch");
    }
    (200, json!({ "UnprocessedItems": {}, "UnprocessedKeys": {}, "Responses": responses }))
}

impl Table {
    fn key_text(&self, item: &Item) -> String {
        self.keys.iter().map(|(name, kind)| item[name][kind].to_string()).collect::<Vec<_>>().join("/")
    }

    /// Why no item can have a key.
    fn bad_key(&self, key: &Item) -> Option<String> {
        for ((name, kind), (part, most)) in self.keys.iter().zip([("hashkey", 2_048), ("rangekey", 1_024)]) {
            let Some(text) = key.get(name).and_then(|value| value[kind].as_str()) else {
                return Some("The provided key element does not match the schema".to_owned());
            };
            if text.is_empty() || (kind == "S" && text.len() > most) {
                return Some(format!(
                    "One or more parameter values were invalid: Size of {part} has exceeded the maximum size limit of{most} bytes"
                ));
            }
        }
        None
    }

    fn describe(&self, name: &str) -> Value {
        let definitions: Vec<Value> =
            self.keys.iter().map(|(n, t)| json!({ "AttributeName": n, "AttributeType": t })).collect();
        let schema = self.keys.iter().zip(["HASH", "RANGE"]);
        let schema: Vec<Value> = schema.map(|((n, _), kind)| json!({ "AttributeName": n, "KeyType": kind })).collect();
        json!({ "TableName": name, "TableStatus": "ACTIVE", "KeySchema": schema, "AttributeDefinitions": definitions })
    }

    fn store(&mut self, key: String, item: Option<Item>) {
        match &item {
            Some(item) => drop(self.items.insert(key.clone(), item.clone())),
            None => drop(self.items.remove(&key)),
        }
        self.history.push((key, item));
    }

    fn write(&mut self, operation: &str, input: &Value, blind: bool) -> Answer {
        let put = input["Item"].as_object();
        let key = self.key_text(put.or(input["Key"].as_object()).unwrap());
        let stored = self.items.get(&key);
        let expression =
            Expression { names: &input["ExpressionAttributeNames"], values: &input["ExpressionAttributeValues"] };
        if !blind && !expression.holds(input["ConditionExpression"].as_str().unwrap(), stored) {
            let (status, mut answer) = error("ConditionalCheckFailedException", "The conditional request failed");
            if let Some(item) = stored
                && input["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD"
            {
                answer["Item"] = Value::Object(item.clone());
            }
            return (status, answer);
        }
        let after = match operation {
            "PutItem" => put.cloned(),
            "DeleteItem" => None,
            _ => {
                let mut item = stored.cloned().unwrap_or_else(|| input["Key"].as_object().unwrap().clone());
                expression.apply(input["UpdateExpression"].as_str().unwrap(), &mut item);
                Some(item)
            }
        };
        let size = serde_json::to_vec(&after).unwrap().len();
        if size > 410_000 {
            return error("ValidationException", "Item size to update has exceeded the maximum allowed size");
        }
        self.store(key, after);
        (200, json!({}))
    }
}
