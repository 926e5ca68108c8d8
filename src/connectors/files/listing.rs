//! Which files a table has, and what their paths say.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use base64::Engine;
use futures::TryStreamExt;
use object_store::ObjectStore;

use crate::connectors::aws::object_failure;
use crate::connectors::line_file::{io_error, modified_ms, open_blocking};
use crate::contracts::{Error, Result, TableSpec};

use super::location::{Place, Prefix};

/// Name of a partition whose value is NULL, as Flink and Hive have it.
pub(super) const DEFAULT_PARTITION: &str = "__DEFAULT_PARTITION__";

/// A file of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListedFile {
    /// Its whole path, or `s3://bucket/key`.
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) modified_ms: i64,
    /// An object's ETag, which changes with its content.
    pub(super) tag: Option<String>,
}

fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name.starts_with('_')
}

impl Place {
    /// All files, sorted by name.
    pub(super) async fn list(&self) -> Result<Vec<ListedFile>> {
        let mut files = match self {
            Self::Local(root) => {
                let root = root.clone();
                open_blocking(move || list_folder(&root)).await?
            }
            Self::S3(prefix) => list_objects(prefix).await?,
        };
        files.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(packed) = files.iter().find(|f| f.name.ends_with(".bz2")) {
            return Err(Error::config(format!("'{}': files packed by bzip2 are not read", packed.name))
                .hint("unpack it first, or pack it with gzip or zstd"));
        }
        Ok(files)
    }

    /// What of a file's name stands below the table's path.
    pub(super) fn below<'a>(&self, name: &'a str) -> &'a str {
        let root = match self {
            Self::Local(root) => root.to_string_lossy().into_owned(),
            Self::S3(prefix) => prefix.url(&prefix.key),
        };
        name.strip_prefix(root.as_str()).unwrap_or(name).trim_start_matches('/')
    }

    /// Values of the partition columns in the path of a file (`…/year=2026/month=02/…`): for each column of
    /// `spec.schema` that is one, its name and an array of length 1.
    pub(super) fn partition_values(&self, name: &str, spec: &TableSpec) -> Result<Vec<(String, ArrayRef)>> {
        let pairs: Vec<(String, String)> = partitions(self.below(name)).collect();
        let default = spec.option("partition.default-name").unwrap_or(DEFAULT_PARTITION);
        let mut values = Vec::new();
        for column in &spec.partitioned_by {
            let Ok(field) = spec.schema.field_with_name(column) else { continue };
            let text = pairs.iter().find(|(n, _)| n == column).map(|(_, v)| v.as_str()).filter(|v| *v != default);
            let value = typed(text, field.data_type()).map_err(|e| {
                let shown = if is_bytes(field.data_type()) { "base64" } else { &field.data_type().to_string() };
                Error::data(format!("'{name}': the folder's value of '{column}' is no {shown}")).caused_by(e)
            })?;
            values.push((column.clone(), value));
        }
        Ok(values)
    }
}

/// Names and values of the partition columns in a path below the table's.
pub(super) fn partitions(below: &str) -> impl Iterator<Item = (String, String)> {
    let folders = below.rsplit_once('/').map_or("", |(folders, _)| folders);
    let pairs = folders.split('/').filter_map(|folder| folder.split_once('='));
    pairs.map(|(name, value)| (unescape(name), unescape(value)))
}

fn is_bytes(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_))
}

/// A partition's value as its column has it, in an array of length 1. Bytes are written as base64.
fn typed(text: Option<&str>, data_type: &DataType) -> std::result::Result<ArrayRef, ArrowError> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    if is_bytes(data_type) {
        let decode = |text| base64::engine::general_purpose::STANDARD.decode(text);
        let bytes = text.map(decode).transpose().map_err(|e| ArrowError::ExternalError(Box::new(e)))?;
        let array: ArrayRef = Arc::new(BinaryArray::from(vec![bytes.as_deref()]));
        return cast_with_options(&array, data_type, &strict);
    }
    let array: ArrayRef = Arc::new(StringArray::from(vec![text]));
    cast_with_options(&array, data_type, &strict)
}

/// All files at `root`, which is a file or a folder. Blocks.
fn list_folder(root: &Path) -> Result<Vec<ListedFile>> {
    let mut files = Vec::new();
    let metadata = std::fs::metadata(root).map_err(|e| io_error(root, "read", e))?;
    if metadata.is_file() {
        files.push(listed(root, &metadata)?);
    } else {
        walk(root, &mut files)?;
    }
    Ok(files)
}

fn listed(path: &Path, metadata: &std::fs::Metadata) -> Result<ListedFile> {
    let name = path.to_str().ok_or_else(|| Error::config(format!("the path '{}' is not UTF-8", path.display())))?;
    Ok(ListedFile { name: name.to_owned(), bytes: metadata.len(), modified_ms: modified_ms(metadata), tag: None })
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
            files.push(listed(&path, &metadata)?);
        }
    }
    Ok(())
}

/// All objects under a prefix, or the one object of that key. Empty ones are the folders of S3's console.
async fn list_objects(prefix: &Prefix) -> Result<Vec<ListedFile>> {
    let store = prefix.bucket.store().await?;
    let failed = |e: object_store::Error| Error::from(object_failure("ListObjectsV2", &prefix.bucket, &prefix.key, &e));
    let path = object_path(&prefix.key)?;
    let found = |meta: &object_store::ObjectMeta| ListedFile {
        name: prefix.url(meta.location.as_ref()),
        bytes: meta.size,
        modified_ms: meta.last_modified.timestamp_millis(),
        tag: meta.e_tag.clone(),
    };
    let below = if prefix.key.is_empty() { None } else { Some(&path) };
    let mut files: Vec<ListedFile> = store
        .list(below)
        .try_filter_map(|meta| {
            let rest = meta.location.as_ref().strip_prefix(prefix.key.as_str()).unwrap_or_default();
            let hidden = rest.split('/').any(is_hidden);
            std::future::ready(Ok((!hidden && meta.size > 0).then(|| found(&meta))))
        })
        .try_collect()
        .await
        .map_err(failed)?;
    if files.is_empty()
        && !prefix.key.is_empty()
        && let Some(one) = prefix.bucket.find(&prefix.key).await?.filter(|one| one.bytes > 0)
    {
        let name = prefix.url(&prefix.key);
        files.push(ListedFile { name, bytes: one.bytes, modified_ms: one.modified_ms, tag: one.tag });
    }
    Ok(files)
}

/// The key as `object_store` wants it.
pub(super) fn object_path(key: &str) -> Result<object_store::path::Path> {
    object_store::path::Path::parse(key).map_err(|e| Error::config(format!("'{key}' is no key of S3")).caused_by(e))
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
