//! Expressions of DynamoDB, as far as the program writes them: terms that are joined by OR and AND, and updates of SET, REMOVE
//! and ADD.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Attributes by name, each a value with its type: `{"N": "5"}`.
pub(super) type Item = BTreeMap<String, Value>;

/// What an expression's placeholders stand for.
pub(super) struct Placeholders<'a>(pub(super) &'a Value);

impl Placeholders<'_> {
    fn name(&self, tag: &str) -> String {
        self.0["ExpressionAttributeNames"][tag].as_str().unwrap_or_else(|| panic!("no name of '{tag}'")).to_owned()
    }

    fn value(&self, tag: &str) -> Value {
        let value = &self.0["ExpressionAttributeValues"][tag];
        assert!(value.is_object(), "no value of '{tag}'");
        value.clone()
    }

    /// Whether the condition holds for the item; one that is not there has no attributes.
    pub(super) fn holds(&self, condition: &str, item: &Item) -> bool {
        condition.split(" OR ").any(|terms| terms.split(" AND ").all(|term| self.term(term.trim(), item)))
    }

    fn term(&self, term: &str, item: &Item) -> bool {
        if let Some(name) = term.strip_prefix("attribute_not_exists(").and_then(|rest| rest.strip_suffix(')')) {
            return !item.contains_key(&self.name(name));
        }
        let (name, less, value) = match (term.split_once(" <= "), term.split_once(" = ")) {
            (Some((name, value)), _) => (name, true, value),
            (None, Some((name, value))) => (name, false, value),
            (None, None) => panic!("'{term}' is not understood"),
        };
        // What is not there is neither less nor equal.
        let Some(stored) = item.get(&self.name(name)) else { return false };
        match (number(stored), number(&self.value(value))) {
            (Some(stored), Some(given)) => stored == given || (less && stored < given),
            _ => !less && *stored == self.value(value),
        }
    }

    /// Does to the item what an UpdateExpression says.
    pub(super) fn update(&self, expression: &str, item: &mut Item) {
        for (word, list) in clauses(expression) {
            for action in list.split(',').map(str::trim) {
                match word {
                    "SET" => {
                        let (name, value) = action.split_once('=').expect("name = value");
                        item.insert(self.name(name.trim()), self.value(value.trim()));
                    }
                    "REMOVE" => drop(item.remove(&self.name(action))),
                    _ => {
                        let (name, value) = action.split_once(' ').expect("name value");
                        let (name, more) = (self.name(name), number(&self.value(value)).expect("a whole number"));
                        let stored = item.get(&name).and_then(number).unwrap_or(0);
                        item.insert(name, json!({ "N": (stored + more).to_string() }));
                    }
                }
            }
        }
    }
}

/// Whole numbers are all that the simulation writes.
fn number(value: &Value) -> Option<i128> {
    value["N"].as_str()?.parse().ok()
}

/// `SET a=b,c=d REMOVE e` as (`SET`, `a=b,c=d`), (`REMOVE`, `e`).
fn clauses(expression: &str) -> Vec<(&str, &str)> {
    let mut begins: Vec<(usize, &str)> =
        ["SET ", "REMOVE ", "ADD "].iter().filter_map(|word| Some((expression.find(word)?, *word))).collect();
    begins.sort_unstable();
    let ends = begins.iter().skip(1).map(|(at, _)| *at).chain([expression.len()]);
    begins.iter().zip(ends).map(|((at, word), end)| (word.trim(), expression[at + word.len()..end].trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_on_condition() {
        let request = json!({
            "ExpressionAttributeNames": { "#v": "version", "#1": "n", "#t": "ttl", "#a0": "sum" },
            "ExpressionAttributeValues": { ":v": { "N": "10" }, ":1": { "N": "3" }, ":a0": { "N": "-2" } },
        });
        let of = Placeholders(&request);
        let mut item = Item::from([("ttl".to_owned(), json!({ "N": "1" })), ("sum".to_owned(), json!({ "N": "7" }))]);
        let not_older = "attribute_not_exists(#v) OR #v <= :v";
        assert!(of.holds(not_older, &item) && !of.holds("#v = :v AND attribute_not_exists(#t)", &item));
        of.update("SET #v=:v,#1=:1 REMOVE #t ADD #a0 :a0", &mut item);
        let wanted = [("version", "10"), ("n", "3"), ("sum", "5")];
        assert_eq!(item, wanted.map(|(name, n)| (name.to_owned(), json!({ "N": n }))).into());
        assert!(of.holds(not_older, &item) && of.holds("#v = :v AND attribute_not_exists(#t)", &item));
        // 9 is less than 10, and not as texts.
        item.insert("version".to_owned(), json!({ "N": "9" }));
        assert!(of.holds(not_older, &item));
        item.insert("version".to_owned(), json!({ "N": "11" }));
        assert!(!of.holds(not_older, &item));
    }
}
