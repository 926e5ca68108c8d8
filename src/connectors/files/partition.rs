//! Hive partitions of what is written: `year=2026/month=02/day=12`, from columns and from a time.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, Scalar, UInt32Array};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use serde::{Deserialize, Serialize};

use crate::contracts::{Error, Result, TableSpec};
use crate::formats::datetime::TimestampStyle;
use crate::formats::write_json::{JsonColumn, JsonStyle};

use super::listing::DEFAULT_PARTITION;
use super::time_folders::TimeFolders;

const STYLE: JsonStyle = JsonStyle { timestamps: TimestampStyle::Sql, skip_nulls: false };

/// Characters of a folder's name that a refusal shows.
const SHOWN: usize = 60;

/// How long the folders below a table's may be, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct FolderRoom {
    /// Each name of the path.
    pub(super) name: usize,
    /// All of the path.
    pub(super) whole: usize,
}

/// How rows are placed in folders. Where it changes, a folder has other rows from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layout {
    folders: String,
    /// Where the columns come from that say which folder it is.
    origins: BTreeMap<String, String>,
}

impl Layout {
    pub(super) fn of(spec: &TableSpec) -> Self {
        let column = |name: &String| match spec.schema.field_with_name(name) {
            Ok(field) => format!("{name} ({})", field.data_type()),
            Err(_) => name.clone(),
        };
        let mut parts: Vec<String> = spec.partitioned_by.iter().map(column).collect();
        if let Some(pattern) = spec.option("sink.partition.pattern") {
            parts.push(format!("{pattern} of {}", spec.option("sink.partition.time-column").unwrap_or_default()));
        }
        let folders = if parts.is_empty() {
            "no column".to_owned()
        } else {
            format!(
                "{}, NULL as {}",
                parts.join(", "),
                spec.option("partition.default-name").unwrap_or(DEFAULT_PARTITION)
            )
        };
        Self { folders, origins: spec.origins.clone() }
    }

    /// The error that rows which lie in files by the layout of `before` cannot be written again by this one.
    pub(super) fn refusal(&self, before: &Self) -> Error {
        let differs = |(name, origin): &(&String, &String)| before.origins.get(*name) != Some(*origin);
        let how = match self.origins.iter().find(differs) {
            Some((name, _)) if self.folders == before.folders => {
                format!(
                    "'{name}', which says in which folder a row lies, comes from something else than in the run before"
                )
            }
            _ => format!(
                "files of the run before are parted by {}, and those of now by {}",
                before.folders, self.folders
            ),
        };
        let error = format!(
            "{how}; and rows that may lie in such files are to be written again: some would be there twice, and others not at all"
        );
        Error::config(error).hint(
            "undo the change and run once with --once; then change it. Or go back to the last checkpoint with `tidemill state rewind STORE \
             latest`, which writes what came since again, beside the files that are there",
        )
    }
}

/// Cuts batches by the values of the partition columns.
pub(super) struct Partitioner {
    names: Vec<String>,
    columns: Vec<usize>,
    default: String,
    /// Folders by time, below those by columns.
    time: Option<TimeFolders>,
    converter: Option<RowConverter>,
}

/// Rows of one partition.
pub(super) struct PartitionRows {
    /// Folder below the table's, empty for a table without partitions.
    pub(super) folder: String,
    /// Which rows; `None` is all.
    pub(super) rows: Option<UInt32Array>,
}

impl Partitioner {
    pub(super) fn try_new(spec: &TableSpec) -> Result<Self> {
        let missing = |name: &String| {
            Error::config(format!("the INSERT into '{}' does not write its partition column '{name}'", spec.name))
        };
        let column = |name: &String| spec.schema.index_of(name).map_err(|_| missing(name));
        let columns = spec.partitioned_by.iter().map(column).collect::<Result<Vec<_>>>()?;
        if let Some(hidden) = spec.partitioned_by.iter().find(|name| name.starts_with(['.', '_'])) {
            let error = format!(
                "table '{}': the name of the partition column '{hidden}' begins with '.' or '_', and so do its folders: no reader would see them",
                spec.name
            );
            return Err(Error::config(error).hint("give the column another name"));
        }
        let default = spec.option("partition.default-name").unwrap_or(DEFAULT_PARTITION).to_owned();
        let time = TimeFolders::of(spec, &default)?;
        let mut types: Vec<SortField> =
            columns.iter().map(|c| SortField::new(spec.schema.field(*c).data_type().clone())).collect();
        if time.is_some() {
            types.push(SortField::new(DataType::Utf8));
        }
        let converter = if types.is_empty() { None } else { Some(RowConverter::new(types)?) };
        Ok(Self { names: spec.partitioned_by.clone(), columns, default, time, converter })
    }

    /// Indices of the columns that are written to files: all but the partition columns.
    pub(super) fn file_columns(&self, width: usize) -> Vec<usize> {
        (0..width).filter(|c| !self.columns.contains(c)).collect()
    }

    /// The partitions of a batch that is not empty, in the order of their first rows.
    pub(super) fn cut(&self, batch: &RecordBatch) -> Result<Vec<PartitionRows>> {
        let Some(converter) = &self.converter else {
            return Ok(vec![PartitionRows { folder: String::new(), rows: None }]);
        };
        let mut columns: Vec<ArrayRef> = self.columns.iter().map(|c| batch.column(*c).clone()).collect();
        if let Some(time) = &self.time {
            columns.push(time.folders(batch)?);
        }
        if Self::is_one(&columns)? {
            return Ok(vec![PartitionRows { folder: self.folder(&columns, 0)?, rows: None }]);
        }
        let keys = converter.convert_columns(&columns)?;
        let mut groups: Vec<Vec<u32>> = Vec::new();
        let mut index: HashMap<&[u8], usize> = HashMap::new();
        let mut last: (&[u8], usize) = (&[], usize::MAX);
        for row in 0..batch.num_rows() {
            let key = keys.row(row).data();
            if last.1 == usize::MAX || last.0 != key {
                let next = groups.len();
                let group = *index.entry(key).or_insert(next);
                if group == next {
                    groups.push(Vec::new());
                }
                last = (key, group);
            }
            groups[last.1].push(row as u32);
        }
        let cut = |rows: Vec<u32>| {
            let folder = self.folder(&columns, rows[0] as usize)?;
            Ok(PartitionRows { folder, rows: Some(UInt32Array::from(rows)) })
        };
        groups.into_iter().map(cut).collect()
    }

    /// Why a folder of this name cannot be made, and the partition column to blame.
    pub(super) fn refusal(&self, folder: &str, room: FolderRoom) -> Option<(Option<String>, String)> {
        let (at, name) = folder.split('/').enumerate().max_by_key(|(_, name)| name.len())?;
        let (what, bytes, most) = if name.len() > room.name {
            ("name", name.len(), room.name)
        } else if folder.len() > room.whole {
            ("path", folder.len(), room.whole)
        } else {
            return None;
        };
        let begins: String = name.chars().take(SHOWN).collect();
        let detail = format!("the {what} of its folder, '{begins}…', has {bytes} bytes, at most {most}");
        Some((self.names.get(at).cloned(), detail))
    }

    /// Whether all rows belong to one partition: the usual case, and ten times cheaper to find than to group.
    fn is_one(columns: &[ArrayRef]) -> Result<bool> {
        for column in columns {
            let equal: BooleanArray = not_distinct(column, &Scalar::new(column.slice(0, 1)))?;
            if equal.true_count() != equal.len() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn folder(&self, columns: &[ArrayRef], row: usize) -> Result<String> {
        let mut folder = String::new();
        for (name, column) in self.names.iter().zip(columns) {
            if !folder.is_empty() {
                folder.push('/');
            }
            escape(name, &mut folder);
            folder.push('=');
            let value = JsonColumn::try_new(&column.slice(row, 1))?;
            let mut json = Vec::new();
            value.write_value(0, STYLE, &mut json);
            let text = match json.first() {
                Some(b'"') => serde_json::from_slice::<String>(&json)
                    .map_err(|e| Error::internal("a partition's value is no JSON string").caused_by(e))?,
                _ if value.is_null(0) => String::new(),
                _ => String::from_utf8_lossy(&json).into_owned(),
            };
            escape(if text.is_empty() { &self.default } else { &text }, &mut folder);
        }
        if self.time.is_some()
            && let Some(by_time) = columns.last()
        {
            if !folder.is_empty() {
                folder.push('/');
            }
            folder.push_str(by_time.as_string::<i32>().value(row));
        }
        Ok(folder)
    }
}

/// Writes `%XX` for what may not stand in a folder's name, as Flink's `PartitionPathUtils` does.
pub(super) fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        if c.is_ascii() && ((c as u8) < 0x20 || "\"#%'*/:=?\\{[]^\u{7f}".contains(c)) {
            out.push_str(&format!("%{:02X}", c as u8));
        } else {
            out.push(c);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, Schema, TimeUnit};

    use super::*;
    use crate::contracts::ErrorKind;

    fn table(partitioned_by: &[&str], options: &[(&str, &str)]) -> TableSpec {
        let texts = partitioned_by.iter().map(|name| Field::new(*name, DataType::Utf8View, true));
        let times = ["at", "seen"].map(|name| Field::new(name, DataType::Timestamp(TimeUnit::Millisecond, None), true));
        let mut table = TableSpec::new("t", Arc::new(Schema::new(texts.chain(times).collect::<Vec<_>>())));
        table.partitioned_by = partitioned_by.iter().map(|name| (*name).to_owned()).collect();
        options.iter().fold(table, |table, (key, value)| table.with_option(key, *value))
    }

    /// That of a table which is PARTITIONED BY this column.
    pub(in super::super) fn layout(by: &str) -> Layout {
        Layout::of(&table(&[by], &[]))
    }

    #[test]
    fn a_layout_is_another_where_a_row_may_lie_in_another_folder() {
        let (pattern, time) = ("sink.partition.pattern", "sink.partition.time-column");
        let by_day = [(pattern, "{yyyy}-{MM}-{dd}"), (time, "at")];
        let mut from_elsewhere = table(&["day"], &[]);
        from_elsewhere.origins.insert("day".to_owned(), "'2026-03-01'".to_owned());
        let mut number = table(&["day"], &[]);
        number.schema = Arc::new(Schema::new(vec![Field::new("day", DataType::Int64, true)]));
        let tables = [
            table(&[], &[]),
            table(&["day"], &[]),
            number,
            from_elsewhere,
            table(&["day", "kind"], &[]),
            table(&["kind", "day"], &[]),
            table(&["day"], &[("partition.default-name", "none")]),
            table(&[], &by_day),
            table(&[], &[by_day[0], (time, "seen")]),
            table(&[], &[(pattern, "{yyyy}-{MM}"), by_day[1]]),
            table(&["day"], &by_day),
        ];
        for (at, one) in tables.iter().enumerate() {
            for (other_at, other) in tables.iter().enumerate() {
                let (one, other) = (Layout::of(one), Layout::of(other));
                assert_eq!(one == other, at == other_at, "{one:?}, {other:?}");
                let error = one.refusal(&other);
                assert_eq!(error.kind(), ErrorKind::Config);
                assert!(error.hint_text().is_some_and(|hint| hint.contains("--once")));
            }
        }
        // What is written in the files, and how, is something else.
        let gzip = table(&["day"], &[("compression", "gzip"), ("format", "json"), ("path", "elsewhere")]);
        assert_eq!(Layout::of(&gzip), layout("day"));
    }
}
