//! Sums that several jobs add to: each job's contribution is kept beside the sum.
//!
//! ```text
//!  item: total = 70, tm_added_3fa9c1_total = 30, tm_epoch_3fa9c1 = 6      (this job's 30; others' 40)
//!  epoch 7, contribution 35:  ADD total 5  SET tm_added_… = 35, tm_epoch_… = 7
//!                             on condition that tm_added_… is 30 and tm_epoch_… is 6
//! ```
//!
//! The condition fails when the write was applied and its reply was lost, when this is a replay, and when the sink did
//! not know what is stored. The refusal brings the stored item along, which tells the three apart.
//!
//! A sum that this job's INSERT has written before without noting its contribution (it was set, or noted under another name) has that in it
//! already, and nothing says how much it is: the job ends.
//!
//! Invariant: whatever is repeated, a sum holds each job's last contribution once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use arrow::datatypes::DataType;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};

use crate::connectors::aws::Attempt;
use crate::contracts::{Error, Result, TableSpec};
use crate::formats::datetime::write_decimal;

use super::guarded::{EpochCalls, Expression};
use super::items::{Change, ItemWrite, KeyBytes};
use super::refusals::key_text;

/// Items whose stored contribution is remembered: about 200 bytes each. One that is forgotten costs a refused write.
const KNOWN_ITEMS: usize = 100_000;

/// How often a refusal is answered at once, before the write waits like any other.
const READS: usize = 8;

/// Bytes that the text of an expression may have ("Quotas": the maximum length of any expression string is 4 KB).
const MAX_EXPRESSION_BYTES: usize = 4_096;

/// A column that is added.
#[derive(Debug, Clone)]
pub(super) struct Summand {
    place: usize,
    /// Digits after the point.
    scale: i8,
    /// The attribute that keeps the contribution.
    attribute: String,
}

/// What an item holds of this job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stored {
    epoch: Option<u64>,
    /// By summand, in units of its last digit.
    contributions: Vec<Option<i128>>,
}

/// The columns to add, and what is known of items.
pub(super) struct Adder {
    summands: Vec<Summand>,
    known: Mutex<HashMap<KeyBytes, Stored>>,
}

impl Adder {
    /// `chosen` are columns by place; without, it is each whole or decimal number among `others`.
    pub(super) fn new(spec: &TableSpec, keys: &[usize], chosen: Option<&[usize]>, contribution: &str) -> Result<Self> {
        let scale = |place: usize| match spec.schema.field(place).data_type() {
            DataType::Decimal128(_, scale) if *scale >= 0 => Some(*scale),
            other if other.is_integer() => Some(0),
            _ => None,
        };
        let places: Vec<usize> = match chosen {
            Some(chosen) => chosen.to_vec(),
            None => (0..spec.schema.fields().len()).filter(|p| !keys.contains(p) && scale(*p).is_some()).collect(),
        };
        if places.is_empty() {
            return Err(Error::config(format!("table '{}' has nothing to add", spec.name))
                .hint("'sink.write-mode' = 'add' adds columns of whole or DECIMAL numbers"));
        }
        let summand = |place: usize| {
            let field = spec.schema.field(place);
            match scale(place) {
                Some(scale) if !keys.contains(&place) => {
                    Ok(Summand { place, scale, attribute: format!("{contribution}_{}", field.name()) })
                }
                _ => Err(Error::config(format!(
                    "table '{}': column '{}' of type {} cannot be added",
                    spec.name,
                    field.name(),
                    field.data_type()
                ))
                .hint("only whole and DECIMAL numbers add up exactly")),
            }
        };
        let summands = places.into_iter().map(summand).collect::<Result<Vec<_>>>()?;
        Ok(Self { summands, known: Mutex::new(HashMap::new()) })
    }

    /// Checks that the expressions of an item are short enough, whatever is stored of it. `others` are all columns that are no key.
    pub(super) fn check_length(&self, table: &str, others: &[usize]) -> Result<()> {
        let any = || AttributeValue::Null(true);
        let mut expression = Expression::default();
        ["v", "t"].into_iter().for_each(|tag| expression.set(tag, "", any()));
        for place in others.iter().filter(|place| self.summands.iter().all(|s| s.place != **place)) {
            expression.set(&place.to_string(), "", any());
        }
        let mut condition = "attribute_not_exists(#v)".to_owned();
        for index in 0..self.summands.len() {
            expression.add(&format!("a{index}"), "", any());
            expression.set(&format!("c{index}"), "", any());
            condition.push_str(&absent(&format!("c{index}")));
        }
        // A NULL is removed, which is shorter, but for the word.
        let bytes = condition.len().max(expression.text().len() + " REMOVE ".len());
        if bytes <= MAX_EXPRESSION_BYTES {
            return Ok(());
        }
        let adds = self.summands.len();
        Err(Error::config(format!(
            "the INSERT into '{table}' adds {adds} columns: DynamoDB would be asked in {bytes} bytes, and takes {MAX_EXPRESSION_BYTES}"
        ))
        .hint("name fewer in 'sink.add.columns', or write two INSERTs, each of which adds a part of them to the same items"))
    }

    fn known(&self, key: &[u8]) -> Stored {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).cloned().unwrap_or_else(|| self.nothing())
    }

    fn nothing(&self) -> Stored {
        Stored { epoch: None, contributions: vec![None; self.summands.len()] }
    }

    fn remember(&self, key: &[u8], stored: Stored) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_ITEMS {
            known.clear();
        }
        known.insert(key.to_vec(), stored);
    }

    /// The contributions that `write` asks for, where `stored` are the ones before.
    fn wanted(&self, write: &ItemWrite, stored: &Stored) -> Result<Vec<i128>> {
        let each = self.summands.iter().zip(&stored.contributions);
        each.map(|(summand, before)| {
            match write.changes.iter().find(|(place, _)| *place == summand.place).map(|(_, change)| change) {
                Some(Change::Set(AttributeValue::N(text))) => units(text, summand.scale),
                Some(Change::Keep) => Ok(before.unwrap_or(0)),
                _ => Ok(0),
            }
        })
        .collect()
    }

    /// What the item that a refusal brought along holds.
    fn read(&self, item: Option<&HashMap<String, AttributeValue>>, version: &str) -> Result<Stored> {
        let Some(item) = item else { return Ok(self.nothing()) };
        let number = |name: &str, scale: i8| match item.get(name) {
            Some(AttributeValue::N(text)) => units(text, scale).map(Some),
            Some(_) => Err(not_ours(name)),
            None => Ok(None),
        };
        let epoch = number(version, 0)?.map(|n| u64::try_from(n).map_err(|_| not_ours(version))).transpose()?;
        let contributions = self.summands.iter().map(|s| number(&s.attribute, s.scale)).collect::<Result<_>>()?;
        Ok(Stored { epoch, contributions })
    }
}

/// Asks in a condition that an attribute is not there.
fn absent(tag: &str) -> String {
    format!(" AND attribute_not_exists(#{tag})")
}

fn not_ours(name: &str) -> Error {
    Error::corrupt(format!("the attribute '{name}' of an item does not hold what this job wrote"))
        .hint("does something else write attributes of this name? 'sink.version.attribute' and 'sink.contribution.attribute' choose others")
}

/// A decimal number in units of its digit `scale` after the point.
fn units(text: &str, scale: i8) -> Result<i128> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let scale = usize::try_from(scale).unwrap_or(0);
    let part = part.trim_end_matches('0');
    let padded = format!("{whole}{part:0<scale$}");
    let parsed = if part.len() <= scale { padded.parse().ok() } else { None };
    parsed.ok_or_else(|| {
        Error::corrupt(format!("{text} is no number of {scale} digits after the point"))
            .hint("a column that is added keeps its scale: use a new attribute for another one")
    })
}

fn amount(units: i128, scale: i8) -> AttributeValue {
    let mut text = Vec::new();
    write_decimal(units, scale, &mut text);
    AttributeValue::N(String::from_utf8_lossy(&text).into_owned())
}

impl EpochCalls<'_> {
    /// Adds what `write` has more than what is stored of this job.
    pub(super) async fn add<'w>(
        &self,
        adder: &Adder,
        (key, write): (&'w KeyBytes, &'w ItemWrite),
    ) -> Attempt<(&'w KeyBytes, &'w ItemWrite)> {
        let mut stored = adder.known(key);
        for _ in 0..READS {
            let wanted = match adder.wanted(write, &stored) {
                Ok(wanted) => wanted,
                Err(e) => return Attempt::Failed(e),
            };
            let applied = stored.contributions.iter().zip(&wanted).all(|(s, w)| *s == Some(*w));
            if let Some(later) = stored.epoch.filter(|stored| *stored > self.epoch.0) {
                self.is_later(write, &super::guarded::number(later));
                adder.remember(key, stored);
                return Attempt::Done;
            }
            if stored.epoch == Some(self.epoch.0) && applied {
                adder.remember(key, stored);
                return Attempt::Done;
            }
            let (expression, condition) = match self.addition(adder, write, &stored, &wanted) {
                Ok(made) => made,
                Err(e) => return Attempt::Failed(e),
            };
            let sent = self
                .update_item(write, expression, &condition)
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
                .send()
                .await;
            let error = match sent {
                Ok(_) => {
                    self.stored(write);
                    let contributions = wanted.into_iter().map(Some).collect();
                    adder.remember(key, Stored { epoch: Some(self.epoch.0), contributions });
                    return Attempt::Done;
                }
                Err(error) => error,
            };
            match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(refusal)) => {
                    match self.found(adder, write, refusal.item()) {
                        Ok(found) => stored = found,
                        Err(e) => return Attempt::Failed(e),
                    }
                }
                _ => {
                    return match self.failed("UpdateItem", &error, write) {
                        Attempt::Done => Attempt::Done,
                        Attempt::Failed(e) => Attempt::Failed(e),
                        Attempt::Again { throttled, progress, why, .. } => {
                            Attempt::Again { task: (key, write), throttled, progress, why }
                        }
                    };
                }
            }
        }
        let text = format!("an item of '{}' is changed by others between each two looks", self.options.table);
        let why = Error::unavailable(text);
        Attempt::Again { task: (key, write), throttled: false, progress: false, why }
    }

    /// What the item that a refusal brought along holds of this job.
    ///
    /// # Errors
    /// It has a sum in which this job's part is not known.
    fn found(
        &self,
        adder: &Adder,
        write: &ItemWrite,
        item: Option<&HashMap<String, AttributeValue>>,
    ) -> Result<Stored> {
        let stored = adder.read(item, &self.options.version)?;
        let has = |name: &String| item.is_some_and(|item| item.contains_key(name));
        let unnoted = adder.summands.iter().zip(&stored.contributions).filter(|(_, noted)| noted.is_none());
        let sums = unnoted.map(|(summand, _)| &self.names[summand.place]);
        // (Without a version, the sum is that of others.)
        let unknown = stored.epoch.and_then(|_| sums.into_iter().find(|name| has(name)));
        let Some(name) = unknown else { return Ok(stored) };
        let (table, key) = (&self.options.table, key_text(&write.key));
        Err(Error::config(format!(
            "item {key} of DynamoDB table '{table}' has a '{name}' that this INSERT has written without noting its contribution, so what it adds would count twice"
        ))
        .hint(format!(
            "was the column set before it was added, or 'sink.contribution.attribute' another one? Write the sum under another name than '{name}'; or remove \
             that attribute from the items: each gets the whole contribution then"
        )))
    }

    fn addition(
        &self,
        adder: &Adder,
        write: &ItemWrite,
        stored: &Stored,
        wanted: &[i128],
    ) -> Result<(Expression, String)> {
        let mut expression = self.changes(write, |place| adder.summands.iter().all(|s| s.place != place));
        let mut condition = match stored.epoch {
            None => "attribute_not_exists(#v)".to_owned(),
            Some(epoch) => {
                expression.values.insert(":sv".to_owned(), super::guarded::number(epoch));
                "#v = :sv".to_owned()
            }
        };
        for (index, ((summand, before), after)) in
            adder.summands.iter().zip(&stored.contributions).zip(wanted).enumerate()
        {
            let (tag, name) = (format!("c{index}"), &summand.attribute);
            let more = after.checked_sub(before.unwrap_or(0)).ok_or_else(|| {
                Error::data(format!("the difference of two sums in '{}' does not fit", self.names[summand.place]))
            })?;
            expression.add(&format!("a{index}"), &self.names[summand.place], amount(more, summand.scale));
            expression.set(&tag, name, amount(*after, summand.scale));
            match before {
                None => condition.push_str(&absent(&tag)),
                Some(before) => {
                    expression.values.insert(format!(":s{tag}"), amount(*before, summand.scale));
                    condition.push_str(&format!(" AND #{tag} = :s{tag}"));
                }
            }
        }
        Ok((expression, condition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_amounts_are_each_others_inverse() {
        for (text, scale, expected) in
            [("0", 0, 0), ("12.5", 2, 1250), ("-0.07", 2, -7), ("1999", 2, 199_900), ("12.50", 1, 125), ("-3", 0, -3)]
        {
            assert_eq!(units(text, scale).unwrap(), expected, "{text}");
            assert_eq!(amount(expected, scale), amount(units(text, scale).unwrap(), scale));
        }
        let largest = "99999999999999999999999999999999999999";
        assert_eq!(amount(units(largest, 0).unwrap(), 0), AttributeValue::N(largest.to_owned()));
        assert!(units("1.234", 2).is_err() && units("1E+3", 0).is_err());
    }
}
