//! Reading tables of files: each file is a split, named by its path (`s3://bucket/key` in a bucket).

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array};
use async_trait::async_trait;
use tokio::task::JoinHandle;

use crate::connectors::blocking::BlockingReader;
use crate::connectors::line_file::{AtEnd, DiskFile, LineFile, ReadAt, open_blocking, split_id};
use crate::connectors::options::Options;
use crate::contracts::{
    Boundedness, Clock, Error, Fetch, Position, Result, Source, SourceProgress, Split, SplitId, SplitReader,
    StartPosition, TableSpec,
};
use crate::formats::csv::CsvOptions;
use crate::formats::lines::Framing;

use super::growing::{ReadFiles, ToldFile};
use super::listing::ListedFile;
use super::location::{Place, Reach};
use super::names::{Pattern, names_now};
use super::object::{Object, ObjectPages, ObjectText, Versions};
use super::packed::Packing;
use super::parquet_read::ParquetFile;

/// Files of a table that are read side by side. Each object takes two round trips to open, so with 40 ms for a round trip small
/// ones come at 32 / 80 ms = 400 a second. What they hold of objects of text is 32 × [`RANGE`](super::object::RANGE) = 128 MiB at most.
const READERS: NonZeroUsize = NonZeroUsize::new(32).expect("it is not 0");

/// A readable table of files.
#[derive(Debug)]
pub(super) struct FileSource {
    spec: Arc<TableSpec>,
    place: Place,
    kind: Kind,
    /// Files whose whole path does not match do not belong to the table.
    pattern: Option<Pattern>,
    /// Splits that earlier runs have called otherwise.
    /// New files are looked for, in a bucket so often.
    monitor_interval: Option<Duration>,
    /// Its folder was there when it was last looked for.
    was_there: AtomicBool,
    objects: Mutex<Objects>,
    versions: Arc<Versions>,
    /// Files of a folder that have been read to their ends.
    read: Arc<ReadFiles>,
    clock: Arc<dyn Clock>,
}

/// What is known of a bucket.
#[derive(Debug, Default)]
struct Objects {
    /// The last listing, and when it began.
    listed: Option<(Vec<ListedFile>, Duration)>,
    /// Its number.
    number: u64,
    /// One that is under way.
    listing: Option<JoinHandle<Result<Vec<ListedFile>>>>,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Lines(Framing),
    Parquet,
}

impl Kind {
    pub(super) fn of(spec: &TableSpec) -> Result<Self> {
        match spec.require("format")? {
            "json" => Ok(Self::Lines(Framing::Lines)),
            "csv" => Ok(Self::Lines(CsvOptions::of(spec)?.framing())),
            "parquet" => Ok(Self::Parquet),
            other => Err(Error::config(format!("table '{}': files in format '{other}' cannot be read", spec.name))
                .hint("json, csv or parquet")),
        }
    }
}

impl FileSource {
    pub(super) fn try_new(spec: &TableSpec, reach: &Reach<'_>) -> Result<Self> {
        let kind = Kind::of(spec)?;
        Packing::to_read(spec, "")?;
        let path = spec.require("path")?;
        let pattern = spec.option("source.path.regex-pattern").map(|text| {
            let wrong = |e: Error| e.context(format!("option 'source.path.regex-pattern' of table '{}'", spec.name));
            Pattern::try_new(text, reach.place_as_written(path)?).map_err(wrong)
        });
        let monitors = spec.option("source.monitor-interval").is_some();
        let interval = Options(spec).duration("source.monitor-interval", Duration::ZERO)?;
        Ok(Self {
            place: reach.place(path)?,
            kind,
            pattern: pattern.transpose()?,
            monitor_interval: monitors.then_some(interval),
            spec: Arc::new(spec.clone()),
            was_there: AtomicBool::new(false),
            objects: Mutex::default(),
            versions: Arc::default(),
            read: Arc::default(),
            clock: Arc::clone(&reach.clock),
        })
    }

    async fn files(&self) -> Result<Vec<ListedFile>> {
        let mut files = match &self.place {
            Place::Local(root) => self.in_folder(root).await?,
            Place::S3(_) => self.objects().await?,
        };
        if let Some(pattern) = &self.pattern {
            files.retain(|file| pattern.takes(&file.name, &self.place));
        }
        Ok(files)
    }

    async fn list(&self) -> Result<Vec<ListedFile>> {
        self.place.list().await.map_err(|e| e.context(format!("table '{}'", self.spec.name)))
    }

    /// Files of a folder. One that is monitored need not be there.
    async fn in_folder(&self, root: &Path) -> Result<Vec<ListedFile>> {
        let listed = self.list().await;
        let is_missing = listed.is_err() && self.monitor_interval.is_some() && matches!(root.try_exists(), Ok(false));
        if self.was_there.swap(!is_missing, Ordering::Relaxed) && is_missing {
            let (table, folder) = (&self.spec.name, root.display());
            tracing::warn!("table '{table}': '{folder}' is gone; what has been read of it is known when it is back");
        }
        if is_missing {
            return Ok(Vec::new());
        }
        if let Ok(files) = &listed {
            self.read.compare(&self.spec.name, files);
        }
        listed
    }

    /// Files of a bucket: listed once, and again in the background where new ones are looked for.
    async fn objects(&self) -> Result<Vec<ListedFile>> {
        let now = self.clock.elapsed();
        let done = {
            let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
            if objects.listing.as_ref().is_some_and(JoinHandle::is_finished) { objects.listing.take() } else { None }
        };
        let fresh = match done {
            Some(task) => {
                let found = task.await.map_err(|e| Error::internal("a listing task died").caused_by(e))?;
                Some(found.map_err(|e| e.context(format!("table '{}'", self.spec.name)))?)
            }
            None => None,
        };
        let known = {
            let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(files) = fresh {
                objects.listed = Some((files, now));
                objects.number += 1;
            }
            if let (Some((_, since)), Some(interval), None) = (&objects.listed, self.monitor_interval, &objects.listing)
                && now.saturating_sub(*since) >= interval
            {
                let place = self.place.clone();
                objects.listing = Some(tokio::spawn(async move { place.list().await }));
            }
            objects.listed.as_ref().map(|(files, _)| files.clone())
        };
        if let Some(files) = known {
            return Ok(files);
        }
        let files = self.list().await?;
        if files.is_empty() && self.monitor_interval.is_none() {
            return Err(
                none_there(&self.spec).hint("check the prefix; with 'source.monitor-interval' a table may begin empty")
            );
        }
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.listed = Some((files.clone(), now));
        Ok(files)
    }
}

/// All that is needed to read a split.
struct FileToRead {
    place: Place,
    spec: Arc<TableSpec>,
    kind: Kind,
    name: String,
    resume: Option<Position>,
    start: StartPosition,
    versions: Arc<Versions>,
    read: Arc<ReadFiles>,
    clock: Arc<dyn Clock>,
}

impl FileToRead {
    async fn open(&self) -> Result<Box<dyn SplitReader>> {
        let clock = Arc::clone(&self.clock);
        let file = FileAt { place: &self.place, spec: &self.spec, name: &self.name, versions: Some(&self.versions) };
        let resume = self.resume.clone();
        Ok(match &self.kind {
            Kind::Lines(framing) => {
                let told = Some(Arc::clone(&self.read));
                Box::new(BlockingReader::new(file.lines(framing.clone(), resume, self.start, told).await?, clock))
            }
            Kind::Parquet => Box::new(BlockingReader::new(file.parquet(resume, self.start).await?, clock)),
        })
    }
}

/// Opens its object when it is first read from: by the task that reads it, so that the round trips of many are made side by side.
struct OpensLater {
    file: FileToRead,
    reader: Option<Box<dyn SplitReader>>,
}

#[async_trait]
impl SplitReader for OpensLater {
    async fn next(&mut self) -> Result<Fetch> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => {
                let context = |e: Error| e.context(format!("table '{}'", self.file.spec.name));
                self.reader.insert(self.file.open().await.map_err(context)?)
            }
        };
        reader.next().await
    }
}

/// A bucket has no folders: one without objects may as well be a misspelt name.
pub(super) fn none_there(spec: &TableSpec) -> Error {
    Error::config(format!("table '{}': there are no files at '{}'", spec.name, spec.option("path").unwrap_or_default()))
}

#[async_trait]
impl Source for FileSource {
    async fn begin(&self, _start: StartPosition, progress: Option<&SourceProgress>) -> Result<()> {
        for (split, progress) in progress.iter().flat_map(|progress| &progress.splits) {
            if let Some(version) = &progress.version {
                self.versions.expect(&split.0, version);
            }
        }
        Ok(())
    }

    async fn known_as(&self, earlier: Vec<SplitId>) -> Result<BTreeMap<SplitId, SplitId>> {
        let Place::Local(root) = &self.place else { return Ok(BTreeMap::new()) };
        let (root, count) = (root.clone(), earlier.len());
        let names = open_blocking(move || Ok(names_now(&root, earlier))).await?;
        if names.is_empty() && count > 0 {
            let (table, path) = (&self.spec.name, self.spec.option("path").unwrap_or_default());
            tracing::warn!(
                "table '{table}': none of the {count} file(s) that were read before lie in '{path}', so all that is there is read from \
                 its beginning; if the folder was moved, and only that, move it back, or put a link to it where it was"
            );
        }
        Ok(names)
    }

    /// That of an object. (A file of a folder may grow, and has none.)
    fn version(&self, split: &SplitId) -> Option<String> {
        self.versions.of(&split.0)
    }

    async fn splits(&self) -> Result<Vec<Split>> {
        let split = |file: ListedFile| Split { id: split_id(&file.name), bytes: Some(file.bytes), parents: Vec::new() };
        Ok(self.files().await?.into_iter().map(split).collect())
    }

    fn listing(&self) -> Option<u64> {
        match &self.place {
            Place::Local(_) => None,
            Place::S3(_) => Some(self.objects.lock().unwrap_or_else(PoisonError::into_inner).number),
        }
    }

    async fn open(
        &self,
        split: &Split,
        resume: Option<&Position>,
        start: StartPosition,
    ) -> Result<Box<dyn SplitReader>> {
        let file = FileToRead {
            place: self.place.clone(),
            spec: Arc::clone(&self.spec),
            kind: self.kind.clone(),
            name: split.id.0.to_string(),
            resume: resume.cloned(),
            start,
            versions: Arc::clone(&self.versions),
            read: Arc::clone(&self.read),
            clock: Arc::clone(&self.clock),
        };
        Ok(match &self.place {
            Place::Local(_) => file.open().await?,
            Place::S3(_) => Box::new(OpensLater { file, reader: None }),
        })
    }

    fn split_columns(&self, split: &Split) -> Result<Vec<(String, ArrayRef)>> {
        let mut columns = match self.kind {
            Kind::Lines(_) => self.place.partition_values(&split.id.0, &self.spec)?,
            Kind::Parquet => Vec::new(),
        };
        let bytes = split.bytes.and_then(|bytes| i64::try_from(bytes).ok());
        columns.push(("file.size".to_owned(), Arc::new(Int64Array::from(vec![bytes]))));
        Ok(columns)
    }

    fn most_open(&self) -> Option<NonZeroUsize> {
        Some(READERS)
    }

    async fn end(&self) {
        self.read.compare_at_end(&self.spec.name).await;
    }

    fn boundedness(&self) -> Boundedness {
        if self.monitor_interval.is_some() { Boundedness::Unbounded } else { Boundedness::Bounded }
    }
}

/// A file of a table, by its name.
pub(super) struct FileAt<'a> {
    pub(super) place: &'a Place,
    pub(super) spec: &'a TableSpec,
    pub(super) name: &'a str,
    /// Versions that must not change while the table is read.
    pub(super) versions: Option<&'a Versions>,
}

impl FileAt<'_> {
    async fn object(&self, prefix: &super::location::Prefix) -> Result<Object> {
        let key = self.name.strip_prefix(prefix.url("").as_str()).unwrap_or(self.name);
        let object = Object::open(&prefix.bucket, key).await?;
        if let Some(versions) = self.versions {
            versions.check(self.name, &object)?;
        }
        Ok(object)
    }

    /// Opens it as lines. What is read of it to its end is `told`.
    pub(super) async fn lines(
        &self,
        framing: Framing,
        resume: Option<Position>,
        start: StartPosition,
        told: Option<Arc<ReadFiles>>,
    ) -> Result<LineFile> {
        let object = match self.place {
            Place::Local(_) => None,
            Place::S3(prefix) => Some(self.object(prefix).await?),
        };
        let (id, path) = (split_id(self.name), PathBuf::from(self.name));
        let packing = Packing::to_read(self.spec, self.name)?;
        open_blocking(move || {
            let file: Box<dyn ReadAt> = match (object, told) {
                (Some(object), _) => Box::new(ObjectText::new(object)),
                // A packed one says itself where it ends.
                (None, Some(told)) if packing == Packing::None => {
                    Box::new(ToldFile { file: DiskFile::open(&path)?, name: path.to_string_lossy().into_owned(), told })
                }
                (None, _) => Box::new(DiskFile::open(&path)?),
            };
            let file = packing.unpack(file, &path.to_string_lossy())?;
            LineFile::over(file, &path, id, framing, AtEnd::Finish, resume.as_ref(), start)
        })
        .await
    }

    /// Opens it as Parquet.
    pub(super) async fn parquet(&self, resume: Option<Position>, start: StartPosition) -> Result<ParquetFile> {
        let constants = self.place.partition_values(self.name, self.spec)?;
        let schema = Arc::clone(&self.spec.schema);
        let (id, path) = (split_id(self.name), PathBuf::from(self.name));
        let object = match self.place {
            Place::Local(_) => None,
            Place::S3(prefix) => Some(self.object(prefix).await?),
        };
        open_blocking(move || match object {
            None => ParquetFile::open(&path, id, schema, constants, resume.as_ref(), start),
            Some(object) => {
                let modified_ms = object.modified_ms;
                let columns = schema.fields().iter().map(|f| leaves(f.data_type())).sum();
                let pages = ObjectPages::new(object, columns);
                let name: &Path = &path;
                ParquetFile::over(pages, name, modified_ms, id, schema, constants, resume.as_ref(), start)
            }
        })
        .await
    }
}

/// Columns of Parquet that a column of a table is.
fn leaves(data_type: &arrow::datatypes::DataType) -> usize {
    use arrow::datatypes::DataType;
    match data_type {
        DataType::Struct(fields) => fields.iter().map(|f| leaves(f.data_type())).sum(),
        DataType::List(field) | DataType::LargeList(field) | DataType::Map(field, _) => leaves(field.data_type()),
        _ => 1,
    }
}
