//! The files of a version of a reference table: their names, their digest, and their rows in the columns that are wanted.
//!
//! ```text
//!   references/<number>-<nonce>-<digest>-<part>-<parts>.arrow
//! ```
//!
//! A part is a state file ([`super::files`]). The digest of a version is the SHA-256 of those of its parts, so it tells whether all are
//! there and whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StructArray};
use arrow::datatypes::{DataType, SchemaRef};

use super::checksum::hex_digest;
use super::files::{Encoded, Packing, arrange, encode};
use super::saved::PieceRows;
use crate::contracts::{Error, Result};

/// Where they lie.
pub(super) const FOLDER: &str = "references";
/// The one piece that a table is.
const PIECE: u64 = 1;
/// Bytes of a part, which is in memory while it is written. Whatever memory a run has: the digest depends on it.
const PART_BYTES: usize = 8 << 20;

/// Rows of a file, as they are encoded.
pub(super) type Part = Vec<(u64, PieceRows)>;

/// What the name of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileName<'a> {
    /// Number of the checkpoint that the run was to write next.
    pub(super) number: u64,
    /// The run.
    pub(super) nonce: &'a str,
    /// The version.
    pub(super) digest: &'a str,
    /// Which of its parts, from 0.
    part: usize,
    /// How many there are.
    parts: usize,
}

impl<'a> FileName<'a> {
    /// Names of all parts of a version.
    pub(super) fn all(number: u64, nonce: &str, digest: &str, parts: usize) -> Vec<String> {
        (0..parts).map(|part| format!("{FOLDER}/{number}-{nonce}-{digest}-{part}-{parts}.arrow")).collect()
    }

    /// The name of the same part, written by another run.
    pub(super) fn with(self, number: u64, nonce: &str) -> String {
        let Self { digest, part, parts, .. } = self;
        format!("{FOLDER}/{number}-{nonce}-{digest}-{part}-{parts}.arrow")
    }

    /// `None` for what is no such name.
    pub(super) fn parse(name: &'a str) -> Option<Self> {
        let name = name.strip_prefix(FOLDER)?.strip_prefix('/')?.strip_suffix(".arrow")?;
        let (number, name) = name.split_once('-')?;
        let mut ends = name.rsplitn(4, '-');
        let (parts, part) = (ends.next()?.parse().ok()?, ends.next()?.parse().ok()?);
        let (digest, nonce) = (ends.next()?, ends.next()?);
        Some(Self { number: number.parse().ok()?, nonce, digest, part, parts })
    }
}

/// Of the files of these names, those that have a version, as often as it was written as a whole; the newest first.
pub(super) fn written<'a>(names: impl Iterator<Item = &'a String>, digest: &str) -> Vec<Vec<String>> {
    let mut attempts: BTreeMap<(u64, &str, usize), BTreeMap<usize, String>> = BTreeMap::new();
    for name in names {
        if let Some(file) = FileName::parse(name).filter(|file| file.digest == digest) {
            let attempt = attempts.entry((file.number, file.nonce, file.parts)).or_default();
            attempt.insert(file.part, name.clone());
        }
    }
    let whole = attempts.into_iter().rev().filter(|((_, _, parts), files)| files.len() == *parts);
    whole.map(|(_, files)| files.into_values().collect()).collect()
}

/// The first digits of a digest, for people.
pub(crate) fn shown_digest(digest: &str) -> &str {
    const DIGITS: usize = 16;
    digest.get(..DIGITS).unwrap_or(digest)
}

/// The rows of a table as parts that are files.
pub(super) fn parts_of(rows: &RecordBatch) -> Vec<Part> {
    arrange(vec![(PIECE, rows.clone().into())], PART_BYTES)
}

/// The digest of a version whose parts have these.
pub(super) fn digest_of<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    hex_digest(parts.collect::<Vec<_>>().join("\n").as_bytes())
}

/// The digest of a version, and the file of one that has no other. Large ones are encoded once more when they are written, so that only
/// one part is in memory at a time. Takes its time.
pub(super) fn digested(parts: &[Part]) -> Result<(String, Option<Encoded>)> {
    let mut digests = Vec::with_capacity(parts.len());
    let mut only = None;
    for part in parts {
        let encoded = encode(part, Packing::Plain)?;
        digests.push(encoded.sha256.clone());
        only = (parts.len() == 1).then_some(encoded);
    }
    Ok((digest_of(digests.iter().map(String::as_str)), only))
}

/// Rows that were kept, in the columns that a table has now. It may have fewer than then.
///
/// # Errors
/// `config` when it has one that it did not have, or of another type.
pub(super) fn fitted(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let column = |field: &Arc<arrow::datatypes::Field>| {
        let kept = rows.column_by_name(field.name()).and_then(|column| narrowed(column, field.data_type()));
        kept.ok_or_else(|| {
            let error = format!("column '{}' ({}) was not kept with them", field.name(), field.data_type());
            Error::config(error).hint(
                "the run before did not end in order: let the files that it had run once, with --once, and then the changed ones",
            )
        })
    };
    let columns = schema.fields().iter().map(column).collect::<Result<_>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// A column of this type: of a ROW, the fields that are wanted.
fn narrowed(column: &ArrayRef, wanted: &DataType) -> Option<ArrayRef> {
    if column.data_type() == wanted {
        return Some(Arc::clone(column));
    }
    let (Some(own), DataType::Struct(fields)) = (column.as_struct_opt(), wanted) else { return None };
    let field = |field: &Arc<arrow::datatypes::Field>| narrowed(own.column_by_name(field.name())?, field.data_type());
    let columns = fields.iter().map(field).collect::<Option<_>>()?;
    let made = StructArray::try_new_with_length(fields.clone(), columns, own.nulls().cloned(), own.len());
    made.ok().map(|made| Arc::new(made) as ArrayRef)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    #[test]
    fn a_name_says_which_part_of_what_it_is() {
        let names = FileName::all(12, "nonce-7", "abc", 2);
        assert_eq!(names, ["references/12-nonce-7-abc-0-2.arrow", "references/12-nonce-7-abc-1-2.arrow"]);
        let wanted = FileName { number: 12, nonce: "nonce-7", digest: "abc", part: 1, parts: 2 };
        assert_eq!(FileName::parse(&names[1]), Some(wanted));
        for other in
            ["state/1-a-0.arrow", "references/x-a-abc-0-1.arrow", "references/1-a-abc-0-1", "references/1.arrow"]
        {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
        // A torn one, and two whole ones.
        let torn = FileName::all(14, "n", "abc", 3);
        let [first, second] = [FileName::all(2, "n", "abc", 1), FileName::all(13, "n", "abc", 1)];
        let other = FileName::all(15, "n", "abd", 1);
        let all = [&torn[..2], &first, &second, &other].concat();
        assert_eq!(written(all.iter(), "abc"), [second, first]);
    }

    #[test]
    fn columns_and_fields_may_be_fewer_but_not_others() {
        let columns = |names: &[&str]| -> (Vec<Arc<Field>>, Vec<ArrayRef>) {
            let column = |name: &&str| match *name {
                "n" => (Arc::new(Field::new("n", DataType::Int64, true)), Arc::new(Int64Array::from(vec![1, 2])) as _),
                name => {
                    (Arc::new(Field::new(name, DataType::Utf8, true)), Arc::new(StringArray::from(vec!["x", "y"])) as _)
                }
            };
            names.iter().map(column).unzip()
        };
        let table = |own: &[&str], nested: &[&str]| {
            let (mut fields, mut arrays) = columns(own);
            let (inner, values) = columns(nested);
            let row = StructArray::new(inner.into(), values, None);
            fields.push(Arc::new(Field::new("row", row.data_type().clone(), true)));
            arrays.push(Arc::new(row));
            RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).expect("a batch")
        };
        let kept = table(&["n", "a", "b"], &["n", "c"]);
        for wanted in [table(&["b", "n"], &["c"]), kept.clone(), table(&["a"], &["c", "n"])] {
            assert_eq!(fitted(&kept, &wanted.schema()).expect("all there"), wanted);
        }
        for (wanted, name) in [(table(&["d"], &["n"]), "'d'"), (table(&["n"], &["d"]), "'row'")] {
            let error = fitted(&kept, &wanted.schema()).expect_err("it was not kept");
            assert!(error.to_string().contains(name) && error.hint_text().is_some(), "{error}");
        }
        let none = RecordBatch::try_new_with_options(
            Arc::new(Schema::empty()),
            vec![],
            &RecordBatchOptions::new().with_row_count(Some(2)),
        );
        assert_eq!(fitted(&kept, &Arc::new(Schema::empty())).expect("rows alone"), none.expect("a batch"));
    }
}
