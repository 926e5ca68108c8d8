//! Reading tables of files: each file is a split, named by its path.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use async_trait::async_trait;
use regex::Regex;

use crate::connectors::blocking::BlockingReader;
use crate::connectors::line_file::{AtEnd, LineFile, open_blocking, split_id};
use crate::contracts::{
    Boundedness, Clock, Error, Position, Result, Source, Split, SplitReader, StartPosition, TableSpec,
};
use crate::formats::csv::CsvOptions;
use crate::formats::lines::Framing;

use super::listing::{ListedFile, list, partition_values};
use super::location::resolve;
use super::parquet_read::ParquetFile;

/// A readable table of files.
#[derive(Debug)]
pub(super) struct FileSource {
    spec: TableSpec,
    root: PathBuf,
    kind: Kind,
    /// Files whose whole path does not match do not belong to the table.
    pattern: Option<Regex>,
    /// New files are looked for.
    monitors: bool,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Clone)]
enum Kind {
    Lines(Framing),
    Parquet,
}

impl FileSource {
    pub(super) fn try_new(spec: &TableSpec, local: Option<&Path>, clock: Arc<dyn Clock>) -> Result<Self> {
        let kind = match spec.require("format")? {
            "json" => Kind::Lines(Framing::Lines),
            "csv" => Kind::Lines(CsvOptions::of(spec)?.framing()),
            "parquet" => Kind::Parquet,
            other => {
                return Err(Error::config(format!("table '{}': files in format '{other}' cannot be read", spec.name))
                    .hint("json, csv or parquet"));
            }
        };
        let pattern = spec.option("source.path.regex-pattern").map(|text| {
            // Flink matches the whole path.
            Regex::new(&format!("^(?:{text})$")).map_err(|e| {
                Error::config(format!("option 'source.path.regex-pattern' of table '{}'", spec.name)).caused_by(e)
            })
        });
        Ok(Self {
            root: resolve(spec.require("path")?, local)?,
            kind,
            pattern: pattern.transpose()?,
            monitors: spec.option("source.monitor-interval").is_some(),
            spec: spec.clone(),
            clock,
        })
    }

    fn files(&self) -> Result<Vec<ListedFile>> {
        if self.monitors && !self.root.exists() {
            return Ok(Vec::new());
        }
        let mut files = list(&self.root).map_err(|e| e.context(format!("table '{}'", self.spec.name)))?;
        if let Some(pattern) = &self.pattern {
            files.retain(|f| f.path.to_str().is_some_and(|p| pattern.is_match(p)));
        }
        Ok(files)
    }
}

#[async_trait]
impl Source for FileSource {
    async fn splits(&self) -> Result<Vec<Split>> {
        let split = |file: ListedFile| match file.path.to_str() {
            Some(path) => Ok(Split { id: split_id(path), bytes: Some(file.bytes), parents: Vec::new() }),
            None => Err(Error::config(format!("the path '{}' is not UTF-8", file.path.display()))),
        };
        self.files()?.into_iter().map(split).collect()
    }

    async fn open(
        &self,
        split: &Split,
        resume: Option<&Position>,
        start: StartPosition,
    ) -> Result<Box<dyn SplitReader>> {
        let (id, resume) = (split.id.clone(), resume.cloned());
        let path = PathBuf::from(&*split.id.0);
        let clock = Arc::clone(&self.clock);
        match self.kind.clone() {
            Kind::Lines(framing) => {
                let open = move || LineFile::open(&path, id, framing, AtEnd::Finish, resume.as_ref(), start);
                Ok(Box::new(BlockingReader::new(open_blocking(open).await?, clock)))
            }
            Kind::Parquet => {
                let constants = partition_values(&self.root, &path, &self.spec)?;
                let schema = self.spec.schema.clone();
                let open = move || ParquetFile::open(&path, id, schema, constants, resume.as_ref(), start);
                Ok(Box::new(BlockingReader::new(open_blocking(open).await?, clock)))
            }
        }
    }

    fn split_columns(&self, split: &Split) -> Result<Vec<(String, ArrayRef)>> {
        let path = Path::new(&*split.id.0);
        let mut columns = match self.kind {
            Kind::Lines(_) => partition_values(&self.root, path, &self.spec)?,
            Kind::Parquet => Vec::new(),
        };
        let bytes = split.bytes.and_then(|bytes| i64::try_from(bytes).ok());
        columns.push(("file.size".to_owned(), Arc::new(Int64Array::from(vec![bytes]))));
        Ok(columns)
    }

    fn boundedness(&self) -> Boundedness {
        if self.monitors { Boundedness::Unbounded } else { Boundedness::Bounded }
    }
}
