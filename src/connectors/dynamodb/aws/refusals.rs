//! Items that DynamoDB refuses, though nothing is wrong with the request but them: they go to the error output, the others
//! are stored.
//!
//! What is wrong is not always known here. An index's key that is empty, too long or of another type is refused by a
//! `ValidationException`, and so is an expression that is wrong for every item, or an item of a table that has been made
//! anew with another key. The two are told apart by what becomes of other items: when [`MOST_IN_A_ROW`] rows have been
//! refused and none was stored between, it is not they that are wrong.
//!
//! Invariant: every item that is refused is named, in the error output or in the error that ends the run.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use aws_sdk_dynamodb::types::AttributeValue;

use crate::contracts::{Error, RefusedRow, Result};

use super::super::lookup::Objects;
use super::lookup::write;

/// Items that may be refused one after the other, of one epoch or several.
const MOST_IN_A_ROW: usize = 100;

/// With which DynamoDB refuses a request for what is in it.
pub(super) const VALIDATION: &str = "ValidationException";

/// With which it refuses an item whose hash key has too much in a table with a local index.
const COLLECTION_TOO_LARGE: &str = "ItemCollectionSizeLimitExceededException";

/// Whether the answer to a request says that an item in it is to blame.
pub(super) fn blames_an_item(code: &str) -> bool {
    matches!(code, VALIDATION | COLLECTION_TOO_LARGE)
}

/// An item as a JSON object, for people.
fn json(item: &HashMap<String, AttributeValue>) -> Vec<u8> {
    let mut names: Vec<&String> = item.keys().collect();
    names.sort_unstable();
    let mut objects = Objects::default();
    objects.add(names, |name, out| {
        if let Some(value) = item.get(name) {
            write(value, out);
        }
    });
    objects.into_text()
}

/// The items that were refused, of a sink.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Since an item was stored.
    in_a_row: AtomicUsize,
    rows: Mutex<Vec<RefusedRow>>,
}

impl Refusals {
    /// An item was taken.
    pub(super) fn stored(&self) {
        self.in_a_row.store(0, Ordering::Relaxed);
    }

    /// Refuses the item of this key (`item` has what is written of it), if the answer to a write of it alone says that it is to blame.
    ///
    /// # Errors
    /// Too many one after the other.
    pub(super) fn refuse(
        &self,
        table: &str,
        (code, text): (&str, &str),
        key: &HashMap<String, AttributeValue>,
        item: &HashMap<String, AttributeValue>,
    ) -> Result<bool> {
        let (reason, is_known) = match code {
            // The attributes of others count too, and only DynamoDB knows them.
            VALIDATION if text.contains("Item size") => ("item_too_large", true),
            VALIDATION if text.contains("Number overflow") || text.contains("Number underflow") => {
                ("number_out_of_range", true)
            }
            VALIDATION => ("refused_by_dynamodb", false),
            COLLECTION_TOO_LARGE => ("item_collection_too_large", true),
            _ => return Ok(false),
        };
        let detail = format!("{text}: item {}", key_text(key));
        if !is_known && self.in_a_row.fetch_add(1, Ordering::Relaxed) >= MOST_IN_A_ROW {
            let refused = format!("more than {MOST_IN_A_ROW} items one after the other, none stored between");
            return Err(Error::data(format!("DynamoDB table '{table}' refuses {refused}: {detail}")).hint(
                "mend the values that the INSERT gives (an index's key takes no empty text: NULLIF(k, '') leaves it out), or \
                 the table and its indexes",
            ));
        }
        let refused = RefusedRow { row: 0, reason: reason.to_owned(), column: None, detail, record: Some(json(item)) };
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).push(refused);
        Ok(true)
    }

    /// Those since it was last asked.
    pub(super) fn take(&self) -> Vec<RefusedRow> {
        std::mem::take(&mut self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A key for people: `metric_key=pageviews, sort_key=/a`.
pub(super) fn key_text(key: &HashMap<String, AttributeValue>) -> String {
    let mut parts: Vec<String> = key
        .iter()
        .map(|(name, value)| match value {
            AttributeValue::S(text) | AttributeValue::N(text) => format!("{name}={text}"),
            AttributeValue::B(bytes) => format!("{name}={} bytes", bytes.as_ref().len()),
            _ => name.clone(),
        })
        .collect();
    parts.sort();
    parts.join(", ")
}
