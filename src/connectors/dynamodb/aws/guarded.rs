//! Writes that never take a value back: UpdateItem, PutItem and DeleteItem on condition.
//!
//! The item carries the number of the epoch that wrote last, and a write asks that the stored one is *not greater*:
//!
//! ```text
//!  epoch 7 is sent ──────── its reply is lost ──► sent again: 7 <= 7, the same values once more
//!  epoch 6 arrives late, from a connection or a worker that was thought dead: 7 > 6, refused
//! ```
//!
//! A refusal is no error: it says that the table has this epoch's values or later ones. Where the epoch is new, there should be none, which is
//! told (`overtaken`).

use std::collections::HashMap;
use std::fmt::Write;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::error::ConditionalCheckFailedException;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::connectors::aws::{Attempt, Call, failure};
use crate::contracts::EpochNumber;

use super::items::{Change, Expires, ItemWrite};
use super::options::{DeleteMode, SinkOptions};
use super::overtaken::Overtaken;
use super::refusals::Refusals;

/// Conflicts with a transaction or with another region's write: they pass.
const CONFLICTS: &[&str] = &["TransactionConflictException", "ReplicatedWriteConflictException"];

/// What calls for one epoch share.
pub(super) struct EpochCalls<'a> {
    pub(super) client: &'a Client,
    pub(super) options: &'a SinkOptions,
    /// Names of the INSERT's columns.
    pub(super) names: &'a [String],
    pub(super) epoch: EpochNumber,
    pub(super) now_ms: i64,
    /// Names of the key's attributes.
    pub(super) key: &'a [String],
    /// Items that DynamoDB refuses.
    pub(super) refusals: &'a Refusals,
    /// Of an epoch that no run before has had: items that are at a later one.
    pub(super) overtaken: Option<&'a Overtaken>,
}

/// What one expression names and holds.
#[derive(Default)]
pub(super) struct Expression {
    pub(super) set: String,
    pub(super) remove: String,
    pub(super) add: String,
    pub(super) names: HashMap<String, String>,
    pub(super) values: HashMap<String, AttributeValue>,
}

impl Expression {
    fn part(list: &mut String) -> &mut String {
        if !list.is_empty() {
            list.push(',');
        }
        list
    }

    /// `#tag` for an attribute's name.
    pub(super) fn name(&mut self, tag: &str, name: &str) -> String {
        let placeholder = format!("#{tag}");
        self.names.insert(placeholder.clone(), name.to_owned());
        placeholder
    }

    pub(super) fn set(&mut self, tag: &str, name: &str, value: AttributeValue) {
        let name = self.name(tag, name);
        let _infallible = write!(Self::part(&mut self.set), "{name}=:{tag}");
        self.values.insert(format!(":{tag}"), value);
    }

    pub(super) fn remove(&mut self, tag: &str, name: &str) {
        let name = self.name(tag, name);
        Self::part(&mut self.remove).push_str(&name);
    }

    pub(super) fn add(&mut self, tag: &str, name: &str, value: AttributeValue) {
        let name = self.name(tag, name);
        let _infallible = write!(Self::part(&mut self.add), "{name} :{tag}");
        self.values.insert(format!(":{tag}"), value);
    }

    /// The UpdateExpression.
    pub(super) fn text(&self) -> String {
        let clauses = [("SET ", &self.set), ("REMOVE ", &self.remove), ("ADD ", &self.add)];
        let clauses = clauses.iter().filter(|(_, list)| !list.is_empty());
        clauses.map(|(word, list)| format!("{word}{list}")).collect::<Vec<_>>().join(" ")
    }
}

/// A number as an attribute.
pub(super) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// Refuses a write that is older than what is stored.
const NOT_OLDER: &str = "attribute_not_exists(#v) OR #v <= :v";

impl EpochCalls<'_> {
    fn version(&self) -> AttributeValue {
        number(self.epoch.0)
    }

    /// Attribute and time at which the item may go, in seconds since 1970, rounded up.
    fn expiry(&self, write: &ItemWrite) -> Option<(&str, AttributeValue)> {
        let expiry = self.options.expiry.as_ref()?;
        let after = i64::try_from(expiry.after.as_millis()).unwrap_or(i64::MAX);
        let at_ms = match write.expires {
            Expires::Keep | Expires::Never => return None,
            Expires::At(at_ms) => at_ms,
            Expires::AfterEpoch => self.now_ms.saturating_add(after),
        };
        Some((&expiry.attribute, number(at_ms.saturating_add(999).div_euclid(1_000))))
    }

    /// Changes the INSERT's own attributes, and no others.
    pub(super) async fn update<'w>(&self, write: &'w ItemWrite) -> Attempt<&'w ItemWrite> {
        if write.deleted && self.options.delete == DeleteMode::Item {
            return self.delete(write).await;
        }
        let expression = self.changes(write, |_| true);
        let update = self.update_item(write, expression, NOT_OLDER);
        let sent = update.set_return_values_on_condition_check_failure(self.of_a_refusal()).send().await;
        self.outcome("UpdateItem", sent.map(drop), write, |error| match error {
            UpdateItemError::ConditionalCheckFailedException(refusal) => Some(refusal),
            _ => None,
        })
    }

    /// What a refusal is to bring along. The item costs bytes on the way, which nobody looks at where refusals are as they should be.
    fn of_a_refusal(&self) -> Option<ReturnValuesOnConditionCheckFailure> {
        self.overtaken.map(|_| ReturnValuesOnConditionCheckFailure::AllOld)
    }

    /// Version, expiry, and what a write does to the columns that `wanted` chooses by their places.
    pub(super) fn changes(&self, write: &ItemWrite, wanted: impl Fn(usize) -> bool) -> Expression {
        let mut expression = Expression::default();
        expression.set("v", &self.options.version, self.version());
        if let Some((name, value)) = self.expiry(write) {
            expression.set("t", name, value);
        } else if write.expires == Expires::Never
            && let Some(expiry) = &self.options.expiry
        {
            expression.remove("t", &expiry.attribute);
        }
        for (place, change) in write.changes.iter().filter(|(place, _)| wanted(*place)) {
            match change {
                Change::Keep => {}
                Change::Remove => expression.remove(&place.to_string(), &self.names[*place]),
                Change::Set(value) => expression.set(&place.to_string(), &self.names[*place], value.clone()),
            }
        }
        expression
    }

    /// The call that updates an item on condition.
    pub(super) fn update_item(
        &self,
        write: &ItemWrite,
        expression: Expression,
        condition: &str,
    ) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(&self.options.table)
            .set_key(Some(write.key.clone()))
            .update_expression(expression.text())
            .condition_expression(condition)
            .set_expression_attribute_names(Some(expression.names))
            .set_expression_attribute_values(Some(expression.values))
    }

    /// Writes the whole item; of a row that is gone, its key and version.
    pub(super) async fn put<'w>(&self, write: &'w ItemWrite) -> Attempt<&'w ItemWrite> {
        if write.deleted && self.options.delete == DeleteMode::Item {
            return self.delete(write).await;
        }
        let mut item = self.whole(write);
        item.insert(self.options.version.clone(), self.version());
        let sent = self
            .client
            .put_item()
            .table_name(&self.options.table)
            .set_item(Some(item))
            .condition_expression(NOT_OLDER)
            .expression_attribute_names("#v", &self.options.version)
            .expression_attribute_values(":v", self.version())
            .set_return_values_on_condition_check_failure(self.of_a_refusal())
            .send()
            .await;
        self.outcome("PutItem", sent.map(drop), write, |error| match error {
            PutItemError::ConditionalCheckFailedException(refusal) => Some(refusal),
            _ => None,
        })
    }

    /// Key, values and expiry.
    pub(super) fn whole(&self, write: &ItemWrite) -> HashMap<String, AttributeValue> {
        let mut item = write.key.clone();
        item.extend(write.changes.iter().filter_map(|(place, change)| match change {
            Change::Set(value) => Some((self.names[*place].clone(), value.clone())),
            Change::Keep | Change::Remove => None,
        }));
        item.extend(self.expiry(write).map(|(name, value)| (name.to_owned(), value)));
        item
    }

    async fn delete<'w>(&self, write: &'w ItemWrite) -> Attempt<&'w ItemWrite> {
        let sent = self
            .client
            .delete_item()
            .table_name(&self.options.table)
            .set_key(Some(write.key.clone()))
            .condition_expression(NOT_OLDER)
            .expression_attribute_names("#v", &self.options.version)
            .expression_attribute_values(":v", self.version())
            .set_return_values_on_condition_check_failure(self.of_a_refusal())
            .send()
            .await;
        self.outcome("DeleteItem", sent.map(drop), write, |error| match error {
            DeleteItemError::ConditionalCheckFailedException(refusal) => Some(refusal),
            _ => None,
        })
    }

    fn outcome<'w, E>(
        &self,
        operation: &'static str,
        sent: Result<(), SdkError<E, HttpResponse>>,
        write: &'w ItemWrite,
        refusal: impl Fn(&E) -> Option<&ConditionalCheckFailedException>,
    ) -> Attempt<&'w ItemWrite>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        if let Err(error) = sent {
            if error.code() != Some("ConditionalCheckFailedException") {
                return self.failed(operation, &error, write);
            }
            let item = error.as_service_error().and_then(refusal).and_then(ConditionalCheckFailedException::item);
            if let Some(stored) = item.and_then(|item| item.get(&self.options.version)) {
                self.is_later(write, stored);
            }
        }
        self.stored(write);
        Attempt::Done
    }

    /// The item has this version, which is later than the epoch.
    pub(super) fn is_later(&self, write: &ItemWrite, stored: &AttributeValue) {
        if let Some(overtaken) = self.overtaken {
            overtaken.tell(self.options, &write.key, stored, self.epoch);
        }
    }

    /// What a failure that is no condition's means for a write.
    pub(super) fn failed<'w, E>(
        &self,
        operation: &'static str,
        error: &SdkError<E, HttpResponse>,
        write: &'w ItemWrite,
    ) -> Attempt<&'w ItemWrite>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let failure = failure(Call { service: "dynamodb", operation, resource: &self.options.table }, error);
        if CONFLICTS.contains(&failure.code.as_str()) {
            return Attempt::Again { task: write, throttled: false, progress: false, why: failure.error };
        }
        let text = error.message().unwrap_or_default();
        match self.refusals.refuse(&self.options.table, (&failure.code, text), &write.key, &self.whole(write)) {
            Ok(true) => Attempt::Done,
            Ok(false) => Attempt::after(write, failure),
            Err(too_many) => Attempt::Failed(too_many),
        }
    }

    /// A write was applied, or the table has later values.
    pub(super) fn stored(&self, write: &ItemWrite) {
        // A statement all of whose rows are refused may still delete.
        if !write.deleted {
            self.refusals.stored();
        }
    }
}
