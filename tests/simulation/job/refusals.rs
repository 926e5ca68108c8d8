//! What is in the error output, and what of it must be.

use std::collections::BTreeSet;

use serde_json::Value;
use tidemill::contracts::RejectedRecord;

use super::queries::Work;
use super::sinks::{Services, plain};
use super::stream::{Event, Stream};

/// The reason of what makes a query fail.
pub(crate) const FAILED: &str = "query_failed";
/// The reason of each REQUIRE.
pub(crate) const UNWANTED: &str = "unwanted";
/// By which a result is known that a REQUIRE refuses: it is written with what else the query reads of it, too.
const KNOWN_BY: [&str; 3] = ["id", "k", "ts"];

/// A line of the error output.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Refusal {
    origin: String,
    reason: String,
    /// Shard and number; empty where it is of a result.
    split: String,
    number: String,
    /// The record as it came; of a result, its values in their order as texts.
    record: String,
}

impl Refusal {
    /// A record that a table or a query must refuse.
    pub(crate) fn of_record(origin: &str, reason: &str, event: &Event) -> Self {
        Self {
            origin: origin.to_owned(),
            reason: reason.to_owned(),
            split: event.shard.clone(),
            number: event.number.to_string(),
            record: event.record(),
        }
    }

    /// A result that a query must refuse, by its values.
    pub(crate) fn of_result(origin: &str, reason: &str, mut values: Vec<String>) -> Self {
        values.sort();
        let (origin, reason) = (origin.to_owned(), reason.to_owned());
        Self { origin, reason, split: String::new(), number: String::new(), record: values.join(" ") }
    }

    /// What a model of the error output was given.
    pub(crate) fn given(record: &RejectedRecord) -> Self {
        let RejectedRecord { origin, split, sequence_number, reason, record, .. } = record;
        Self::found(origin, &reason.to_string(), (split, sequence_number), &String::from_utf8_lossy(record))
    }

    /// A line that the program's own error output has written.
    pub(crate) fn read(line: &Value) -> Self {
        let of = |name: &str| line[name].as_str().unwrap_or_default();
        Self::found(of("origin"), of("reason"), (of("split"), of("sequence_number")), of("record"))
    }

    fn found(origin: &str, reason: &str, (split, number): (&str, &str), record: &str) -> Self {
        if split.is_empty()
            && let Ok(Value::Object(fields)) = serde_json::from_str(record)
        {
            let is_compared = |name: &str| reason != UNWANTED || KNOWN_BY.contains(&name);
            let values = fields.iter().filter(|(name, _)| is_compared(name)).map(|(_, value)| plain(value));
            return Self::of_result(origin, reason, values.collect());
        }
        let [origin, reason, split, number, record] = [origin, reason, split, number, record].map(str::to_owned);
        Self { origin, reason, split, number, record }
    }

    pub(crate) fn is_of_result(&self) -> bool {
        self.split.is_empty()
    }

    /// Whether something has failed; else it is unwanted.
    pub(crate) fn has_failed(&self) -> bool {
        self.reason == FAILED
    }

    /// Whether a query refuses it, and not a table.
    pub(crate) fn is_of_query(&self) -> bool {
        self.origin.contains(':')
    }
}

/// Records that cannot be decoded are refused by each table that reads them, and rows and results that make a query fail, or that its
/// REQUIRE refuses, by that query, with their position, and no others are.
pub(crate) fn refused_problems(stream: &Stream, services: &Services, work: &Work) -> Vec<String> {
    let found = services.refused.lock().expect("no panic while it is held");
    let events: Vec<Event> = stream.events().cloned().collect();
    let of_tables = work
        .tables()
        .into_iter()
        .flat_map(|table| stream.broken().map(move |event| Refusal::of_record(table, event.is_refused_as(), event)));
    let of_queries = work.queries.iter().flat_map(|query| query.expected(&events).refused);
    let wanted: BTreeSet<Refusal> = of_tables.chain(of_queries).collect();
    let lost = wanted.difference(&found).map(|refusal| format!("{refusal:?} is not in the error output"));
    let others =
        found.difference(&wanted).map(|refusal| format!("{refusal:?} is in the error output and should not be"));
    lost.chain(others).take(5).collect()
}
