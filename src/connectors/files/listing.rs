//! Which files a table has, and what their paths say.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;

use crate::connectors::line_file::{io_error, modified_ms};
use crate::contracts::{Error, Result, TableSpec};

/// Name of a partition whose value is NULL, as Flink and Hive have it.
pub(super) const DEFAULT_PARTITION: &str = "__DEFAULT_PARTITION__";

/// A file of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListedFile {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) modified_ms: i64,
}

fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name.starts_with('_')
}

/// All files at `root`, which is a file or a folder, sorted by path.
pub(super) fn list(root: &Path) -> Result<Vec<ListedFile>> {
    let mut files = Vec::new();
    let metadata = std::fs::metadata(root).map_err(|e| io_error(root, "read", e))?;
    if metadata.is_file() {
        files.push(ListedFile { path: root.to_owned(), bytes: metadata.len(), modified_ms: modified_ms(&metadata) });
    } else {
        walk(root, &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
    }
    if let Some(packed) =
        files.iter().find(|f| f.path.extension().is_some_and(|e| e == "gz" || e == "zst" || e == "bz2"))
    {
        return Err(Error::config(format!("'{}': compressed text files are not read", packed.path.display()))
            .hint("unpack it first"));
    }
    Ok(files)
}

fn walk(folder: &Path, files: &mut Vec<ListedFile>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(|e| io_error(folder, "listed", e))? {
        let entry = entry.map_err(|e| io_error(folder, "listed", e))?;
        if is_hidden(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let path = entry.path();
        // Follows symbolic links; a file that was removed meanwhile is not there.
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(io_error(&path, "read", e)),
        };
        if metadata.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(ListedFile { path, bytes: metadata.len(), modified_ms: modified_ms(&metadata) });
        }
    }
    Ok(())
}

/// Values of the partition columns in the path of a file (`…/year=2026/month=02/…`): for each column of
/// `spec.schema` that is one, its name and an array of length 1.
pub(super) fn partition_values(root: &Path, file: &Path, spec: &TableSpec) -> Result<Vec<(String, ArrayRef)>> {
    let below = file.strip_prefix(root).unwrap_or(file);
    let pairs: Vec<(String, String)> = below
        .parent()
        .into_iter()
        .flat_map(Path::components)
        .filter_map(|c| c.as_os_str().to_str()?.split_once('='))
        .map(|(name, value)| (unescape(name), unescape(value)))
        .collect();
    let default = spec.option("partition.default-name").unwrap_or(DEFAULT_PARTITION);
    let mut values = Vec::new();
    for name in &spec.partitioned_by {
        let Ok(field) = spec.schema.field_with_name(name) else { continue };
        let text = pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str()).filter(|v| *v != default);
        let array: ArrayRef = Arc::new(StringArray::from(vec![text]));
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        let value = cast_with_options(&array, field.data_type(), &strict).map_err(|e| {
            Error::data(format!(
                "'{}': the folder's value of '{name}' is no {}",
                file.display(),
                type_name(field.data_type())
            ))
            .caused_by(e)
        })?;
        values.push((name.clone(), value));
    }
    Ok(values)
}

fn type_name(data_type: &DataType) -> String {
    data_type.to_string()
}

/// Undoes [`escape`](super::partition::escape).
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}
