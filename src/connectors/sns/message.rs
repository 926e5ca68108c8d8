//! Rows as messages: what both SNSs, the real and the embedded one, make of them.
//!
//! `subject` and `message` are the parts of a message; without a column `message` the row as JSON is. Other columns
//! beside a `message` are its attributes.
//!
//! The id is a hash of the job, the table and the row (of the column `alert_id` alone, where the row has one), so a
//! message has the same id whenever, and by whichever worker, it is published.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::DataType;
use sha2::{Digest, Sha256};

use crate::contracts::{ChangeKind, Changes, Error, RefusedRow, Result, TableSpec, hex};
use crate::formats::write_json::{JsonRows, JsonStyle};

/// SNS takes at most 256 KiB in a message and 100 characters in a subject ("Publish").
pub(super) const MAX_MESSAGE_BYTES: usize = 256 * 1_024;
const MAX_SUBJECT_CHARACTERS: usize = 100;

/// The column that names an alert, and the attribute with the id.
pub(super) const ALERT_ID: &str = "alert_id";

/// A message, without what only one of the two SNSs needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// Row of the batch.
    pub(super) row: usize,
    pub(super) id: String,
    /// The id is made of the row's `alert_id`: other rows may have it too. Else it is made of the whole row.
    pub(super) is_named: bool,
    pub(super) subject: Option<String>,
    pub(super) body: String,
}

/// The topic's name: of an ARN, its last part.
pub(super) fn topic_name<'a>(topic: &'a str, table: &str) -> Result<&'a str> {
    let name = topic.rsplit(':').next().unwrap_or(topic);
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > 256 || !name.chars().all(allowed) || name.starts_with('.') {
        return Err(Error::config(format!("'{name}' is no name for an SNS topic (table '{table}')"))
            .hint("letters, digits, '_' and '-', or an ARN"));
    }
    Ok(name)
}

/// The columns of a batch whose names are not among `without`.
pub(super) fn project_without(batch: &RecordBatch, without: &[&str]) -> Result<RecordBatch> {
    let schema = batch.schema();
    let keep: Vec<usize> =
        (0..batch.num_columns()).filter(|i| !without.contains(&schema.field(*i).name().as_str())).collect();
    Ok(batch.project(&keep)?)
}

/// Checks that a column can be read as text, if the INSERT writes it.
pub(super) fn check_text(spec: &TableSpec, name: &str) -> Result<()> {
    match spec.schema.field_with_name(name) {
        Ok(field) if !can_cast_types(field.data_type(), &DataType::Utf8) => {
            let what = format!("table '{}': column '{name}' of type {} is no text", spec.name, field.data_type());
            Err(Error::config(what).hint(
                "give it a text: JSON_OBJECT(…) or CONCAT(…) of its fields; or name it otherwise: other columns may be of any type",
            ))
        }
        _ => Ok(()),
    }
}

/// A column as text.
pub(super) fn text_column(batch: &RecordBatch, name: &str) -> Result<Option<ArrayRef>> {
    batch.column_by_name(name).map(|c| Ok(cast(c, &DataType::Utf8)?)).transpose()
}

pub(super) fn text_at(column: Option<&ArrayRef>, row: usize) -> Option<&str> {
    column.filter(|c| c.is_valid(row)).map(|c| c.as_string::<i32>().value(row))
}

/// Makes messages of one INSERT.
#[derive(Debug, Clone)]
pub(super) struct Messages {
    job: String,
    table: String,
}

impl Messages {
    pub(super) fn try_new(spec: &TableSpec, job: &str) -> Result<Self> {
        for name in ["subject", "message", ALERT_ID] {
            check_text(spec, name)?;
        }
        Ok(Self { job: job.to_owned(), table: spec.name.clone() })
    }

    /// The messages of all rows, and the rows that cannot be one.
    pub(super) fn of(&self, changes: &Changes) -> Result<(Vec<Message>, Vec<RefusedRow>)> {
        let batch = &changes.batch;
        let subjects = text_column(batch, "subject")?;
        let bodies = text_column(batch, "message")?;
        let alert_ids = text_column(batch, ALERT_ID)?;
        let rest = JsonRows::try_new(&project_without(batch, &["subject"])?, JsonStyle::MESSAGE)?;
        let whole = JsonRows::try_new(batch, JsonStyle::MESSAGE)?;
        let (mut messages, mut refused) = (Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            if changes.kinds.as_ref().is_some_and(|k| k[row] == ChangeKind::Delete) {
                continue;
            }
            // SNS takes no empty one.
            let subject = text_at(subjects.as_ref(), row).filter(|subject| !subject.is_empty());
            let body = match &bodies {
                Some(_) => text_at(bodies.as_ref(), row).unwrap_or("").to_owned(),
                None => json(&rest, row)?,
            };
            if let Some((reason, column, detail)) = refusal(subject, &body) {
                let (reason, column) = (reason.to_owned(), Some(column.to_owned()));
                refused.push(RefusedRow { row, reason, column, detail, record: None });
                continue;
            }
            let named = text_at(alert_ids.as_ref(), row).filter(|id| !id.is_empty());
            let id = match named {
                Some(id) => self.id(id.as_bytes()),
                None => self.id(json(&whole, row)?.as_bytes()),
            };
            let is_named = named.is_some();
            messages.push(Message { row, id, is_named, subject: subject.map(str::to_owned), body });
        }
        Ok((messages, refused))
    }

    /// 32 hex digits: the first half of SHA-256 over job, table and row, each with its length before it.
    pub(super) fn id(&self, identity: &[u8]) -> String {
        let mut hash = Sha256::new();
        for part in [self.job.as_bytes(), self.table.as_bytes(), identity] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hex(&hash.finalize()[..16])
    }
}

fn json(rows: &JsonRows, row: usize) -> Result<String> {
    let mut out = Vec::new();
    rows.write(row, &mut out);
    String::from_utf8(out).map_err(|e| Error::internal("JSON is UTF-8").caused_by(e))
}

/// Why SNS takes no such message: reason, column, what was found.
fn refusal(subject: Option<&str>, body: &str) -> Option<(&'static str, &'static str, String)> {
    let characters = subject.map_or(0, |s| s.chars().count());
    if characters > MAX_SUBJECT_CHARACTERS {
        let detail = format!("subject of {characters} characters, at most {MAX_SUBJECT_CHARACTERS}");
        return Some(("subject_too_long", "subject", detail));
    }
    if subject.is_some_and(|s| s.chars().any(char::is_control)) {
        let detail = "a subject takes neither line breaks nor other control characters".to_owned();
        return Some(("subject_not_plain", "subject", detail));
    }
    if body.is_empty() {
        return Some(("empty_message", "message", "SNS takes no empty message".to_owned()));
    }
    (body.len() > MAX_MESSAGE_BYTES).then(|| {
        let detail = format!("message of {} bytes, at most {MAX_MESSAGE_BYTES}", body.len());
        ("message_too_large", "message", detail)
    })
}
