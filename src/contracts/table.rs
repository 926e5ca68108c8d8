//! A table as its DDL declares it, seen by connectors and formats.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};

use super::error::{Error, Result};

/// A `METADATA` column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataColumn {
    /// Name of the column.
    pub name: String,
    /// Key of the connector's metadata, e.g. `sequence-number`.
    pub key: String,
}

/// What a connector needs to know of a table.
#[derive(Clone)]
pub struct TableSpec {
    /// Name in SQL.
    pub name: String,
    /// Options of WITH and of hints, after parameters; without `connector`.
    pub options: BTreeMap<String, String>,
    /// For a source: the physical columns that queries use, structs pruned to the fields in use.
    /// For a sink: the columns that the INSERT writes, in its order.
    pub schema: SchemaRef,
    /// Every physical column of the DDL in its order, unpruned: CSV is read by place, not by name.
    pub physical: SchemaRef,
    /// Primary key columns, in DDL order.
    pub primary_key: Vec<String>,
    /// PARTITIONED BY columns, in DDL order. See [`in_folders`](Self::in_folders).
    pub partitioned_by: Vec<String>,
    /// Keys of the METADATA columns that queries use: what costs something to give is given only then.
    pub metadata: Vec<String>,
    /// For a sink: where the columns that say in which partition a row is come from, in words that are the same as long as that is.
    pub origins: BTreeMap<String, String>,
}

impl TableSpec {
    /// A table without options, key or partitions, whose columns are all in use.
    pub fn new(name: impl Into<String>, schema: SchemaRef) -> Self {
        Self {
            name: name.into(),
            options: BTreeMap::new(),
            physical: Arc::clone(&schema),
            schema,
            primary_key: Vec::new(),
            partitioned_by: Vec::new(),
            metadata: Vec::new(),
            origins: BTreeMap::new(),
        }
    }

    /// The same with one more option.
    #[must_use]
    pub fn with_option(mut self, key: &str, value: impl Into<String>) -> Self {
        self.options.insert(key.to_owned(), value.into());
        self
    }

    /// PARTITIONED BY columns that the folders of files have in their names (`day=2026-02-12`), and their records have not. Of a table that is
    /// none of files, these are columns of the record like any other (a stream's key, say).
    pub fn in_folders(&self) -> &[String] {
        if self.option("path").is_some() { &self.partitioned_by } else { &[] }
    }

    /// The columns in use as a decoder fills them: what a folder gives stays NULL, also where the table takes none.
    pub fn decoded(&self) -> SchemaRef {
        let in_folders = self.in_folders();
        if in_folders.is_empty() {
            return Arc::clone(&self.schema);
        }
        let field = |field: &FieldRef| {
            let is_null = in_folders.contains(field.name());
            Arc::new(field.as_ref().clone().with_nullable(field.is_nullable() || is_null))
        };
        Arc::new(Schema::new(self.schema.fields().iter().map(field).collect::<Vec<_>>()))
    }

    /// Value of an option.
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options.get(key).map(String::as_str)
    }

    /// Value of an option that must be there.
    pub fn require(&self, key: &str) -> Result<&str> {
        self.option(key).ok_or_else(|| Error::config(format!("table '{}' lacks the option '{key}'", self.name)))
    }
}

impl std::fmt::Debug for TableSpec {
    /// Options are named only: their values may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let options: Vec<&String> = self.options.keys().collect();
        f.debug_struct("TableSpec")
            .field("name", &self.name)
            .field("options", &options)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}
