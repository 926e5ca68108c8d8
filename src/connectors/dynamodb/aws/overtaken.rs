//! Items that are at a later version than an epoch which no run before this one has had.
//!
//! ```text
//!  this run       checkpoints A: epochs 7, 8 … 400                              401: 9000 > 401, refused
//!  another run    checkpoints B, or none: epochs from the time on … 9000 ──┘    (in milliseconds: years of epochs ahead)
//! ```
//!
//! A repeated epoch finds its own version, or those of the epochs behind it, and is refused in silence. A new epoch is the latest of
//! its job, so somebody else has written the item, who counts otherwise: what this run writes there is lost until it has counted as far.
//! It is no error all the same: a leader that stood still, and does not know yet that it leads no more, meets its successor so, and so do two
//! INSERTs of the same columns.
//!
//! Invariant: the first such item of a run is told at once, and from then on one of them each time that an outage would be told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::contracts::{Clock, EpochNumber, Outage};

use super::options::SinkOptions;
use super::refusals::key_text;

const WHAT_TO_DO: &str = "another run writes these items, or has written them: the same job with other checkpoints or none, or a backfill of it \
                          (or another INSERT of the same columns does). End it; then another 'sink.version.attribute' lets this job write them again";

/// Tells of such items.
pub(super) struct Overtaken {
    clock: Arc<dyn Clock>,
    told: Mutex<Option<Told>>,
}

/// Since the first one.
struct Told {
    outage: Outage,
    writes: u64,
}

impl Overtaken {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, told: Mutex::default() }
    }

    /// The item of this key has the version `stored`, and this run is at `epoch`.
    pub(super) fn tell(
        &self,
        options: &SinkOptions,
        key: &HashMap<String, AttributeValue>,
        stored: &AttributeValue,
        epoch: EpochNumber,
    ) {
        if let Some(writes) = self.another() {
            tracing::warn!(writes, "{}; {WHAT_TO_DO}", text(options, key, stored, epoch));
        }
    }

    /// Answers how many writes have been refused so, if that is to be said now.
    fn another(&self) -> Option<u64> {
        let now = self.clock.elapsed();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let told = told.get_or_insert_with(|| Told { outage: Outage::new(now, Duration::ZERO), writes: 0 });
        told.writes += 1;
        told.outage.to_tell(now).map(|_| told.writes)
    }
}

fn text(
    SinkOptions { table, version, .. }: &SinkOptions,
    key: &HashMap<String, AttributeValue>,
    stored: &AttributeValue,
    epoch: EpochNumber,
) -> String {
    let stored = match stored {
        AttributeValue::N(number) => format!("{version} = {number}"),
        _ => format!("a {version} that is no number"),
    };
    let key = key_text(key);
    format!(
        "DynamoDB table '{table}' keeps values that this run would replace: item {key} has {stored}, and the run is at epoch {epoch}, which is new"
    )
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::contracts::{ManualClock, TableSpec};

    #[test]
    fn the_first_one_is_told_at_once_and_then_one_each_half_minute() {
        let clock = Arc::new(ManualClock::new(0));
        let overtaken = Overtaken::new(clock.clone());
        let told: Vec<Option<u64>> = (0..100)
            .map(|_| {
                let told = overtaken.another();
                clock.advance(Duration::from_secs(1));
                told
            })
            .collect();
        let told: Vec<(usize, u64)> = told.iter().enumerate().filter_map(|(at, told)| Some((at, (*told)?))).collect();
        assert_eq!(told, [(0, 1), (30, 31), (60, 61), (90, 91)]);
    }

    #[test]
    fn it_is_said_which_item_has_which_version() {
        let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, true)]));
        let spec = TableSpec::new("metrics", schema).with_option("table-name", "m");
        let options = SinkOptions::of(&spec, "job").expect("options");
        let key = HashMap::from([("k".to_owned(), AttributeValue::S("a".to_owned()))]);
        let version = &options.version;
        for (stored, expected) in [
            (AttributeValue::N("900".to_owned()), format!("item k=a has {version} = 900, and the run is at epoch 8,")),
            (AttributeValue::S("900".to_owned()), format!("item k=a has a {version} that is no number")),
        ] {
            let said = text(&options, &key, &stored, EpochNumber(8));
            assert!(said.contains("table 'm'") && said.contains(&expected), "{said}");
        }
    }
}
