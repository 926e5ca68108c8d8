//! Writing tables of files: JSON lines, CSV or Parquet, in Hive partitions, rolled by size, rows and age.
//!
//! A file stays open over many epochs and is not to be seen until it is committed (see [`part`](super::part) and
//! [`upload`](super::upload)). It is closed when it is as large as `sink.rolling-policy.file-size`, has
//! `sink.rolling-policy.row-count` rows, is as old as `sink.rolling-policy.rollover-interval` (by epoch time), when too
//! many partitions are open, or at the end.
//! What a partition gets in an epoch lies in closed files or in its open one, never in both (see [`durable`](super::durable)).

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::connectors::options::Options;
use crate::contracts::{
    Changes, Committable, EpochNumber, Error, Result, Sink, TableSpec, WriteOutcome, off_the_runtime,
};

use super::durable::Noted;
use super::location::{Place, Reach};
use super::open_files::OpenFiles;
use super::output::Target;
use super::part::PartNames;
use super::upload::PARTS_UNDER_WAY;

const DEFAULT_FILE_BYTES: u64 = 64 << 20;

/// Writes files of one INSERT.
pub(super) struct FileSink {
    target: Arc<Target>,
    table: String,
    /// Away while a task in the blocking pool works with it.
    files: Option<Box<OpenFiles>>,
    cleaned: bool,
}

impl FileSink {
    /// `memory` is the sink's share of it, where there is a limit.
    pub(super) fn try_new(spec: &TableSpec, reach: &Reach<'_>, names: PartNames, memory: Option<u64>) -> Result<Self> {
        let options = Options(spec);
        let place = reach.place(spec.require("path")?)?;
        if let Place::Local(root) = &place
            && root.is_file()
        {
            return Err(Error::config(format!("table '{}': '{}' is a file", spec.name, root.display()))
                .hint("a table that is written needs a folder as its path"));
        }
        let target = Arc::new(Target {
            place,
            names,
            permits: Arc::new(Semaphore::new(PARTS_UNDER_WAY)),
            file_bytes: options.size("sink.rolling-policy.file-size", DEFAULT_FILE_BYTES)?.max(1),
        });
        let files = OpenFiles::try_new(spec, &target, memory)?;
        Ok(Self { target, table: spec.name.clone(), files: Some(Box::new(files)), cleaned: false })
    }

    fn named(&self, error: Error) -> Error {
        error.context(format!("table '{}'", self.table))
    }

    /// Runs blocking work in the pool.
    async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut OpenFiles) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut files = self.files.take().ok_or_else(|| Error::internal("a file sink was used after it had failed"))?;
        let worked = off_the_runtime(move || {
            let result = work(&mut files);
            (files, result)
        });
        let (files, result) = worked.await?;
        self.files = Some(files);
        result.map_err(|e| self.named(e))
    }
}

impl Drop for FileSink {
    /// Writers flush what they hold when they are dropped. An upload would wait there, on a thread of the runtime, for room among those that
    /// are under way; and it is open because it is not to be finished.
    fn drop(&mut self) {
        self.target.permits.close();
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn open(&mut self) -> Result<()> {
        match &self.target.place {
            Place::Local(_) => Ok(()),
            Place::S3(prefix) => prefix.bucket.reach(&prefix.join("")).await.map_err(|e| self.named(e)),
        }
    }

    async fn recover(&mut self, appeared: Vec<Committable>, promised: Vec<Committable>) -> Result<()> {
        let all = appeared.iter().chain(&promised).map(Noted::of).collect::<Result<Vec<_>>>()?;
        self.commit(promised).await?;
        if let Some(files) = &mut self.files {
            all.iter().for_each(|file| files.note_of_before(file));
        }
        Ok(())
    }

    fn check_repeat(&self, first: EpochNumber) -> Result<()> {
        self.files.as_ref().map_or(Ok(()), |files| files.check_repeat(first)).map_err(|e| self.named(e))
    }

    fn snapshot(&self) -> Option<String> {
        self.files.as_ref()?.snapshot()
    }

    fn restore(&mut self, snapshot: &str) -> Result<()> {
        match &mut self.files {
            Some(files) => files.restore(snapshot).map_err(|e| e.context(format!("table '{}'", self.table))),
            None => Ok(()),
        }
    }

    fn closes_files(&self) -> bool {
        true
    }

    fn open_since(&self) -> Option<EpochNumber> {
        self.files.as_ref()?.open_since()
    }

    fn catches_up(&mut self, catches_up: bool) {
        if let Some(files) = &mut self.files {
            files.catches_up(catches_up);
        }
    }

    async fn write(&mut self, epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        if changes.batch.num_rows() == 0 {
            return Ok(WriteOutcome::default());
        }
        if !self.cleaned {
            // Not before the first row: what the last manifest lists has been committed by now.
            self.target.remove_leftovers().await.map_err(|e| self.named(e))?;
            self.cleaned = true;
        }
        self.run(move |files| files.write(epoch, &changes)).await
    }

    async fn flush(&mut self, _epoch: EpochNumber, now_ms: i64) -> Result<WriteOutcome> {
        if !self.files.as_deref().is_some_and(OpenFiles::is_idle) {
            self.run(move |files| files.roll(now_ms)).await?;
        }
        Ok(WriteOutcome::default())
    }

    fn wants_flush_at(&self) -> Option<i64> {
        self.files.as_ref()?.next_due()
    }

    async fn prepare(&mut self, epoch: EpochNumber) -> Result<Vec<Committable>> {
        self.files.as_mut().map_or_else(|| Ok(Vec::new()), |files| files.prepare(epoch))
    }

    async fn commit(&mut self, committables: Vec<Committable>) -> Result<()> {
        let noted = committables.iter().map(Noted::of).collect::<Result<Vec<_>>>()?;
        let staged: Vec<Committable> = noted.iter().map(Noted::staged).collect();
        self.target.commit(&staged).await.map_err(|e| self.named(e))?;
        if let Some(files) = &mut self.files {
            noted.iter().for_each(|file| files.note(file));
        }
        Ok(())
    }

    async fn finish(&mut self, epoch: EpochNumber) -> Result<Vec<Committable>> {
        self.run(move |files| files.finish(epoch)).await
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};

    use super::super::output::Output;
    use super::super::upload::Upload;
    use super::*;
    use crate::connectors::aws::AwsSessions;
    use crate::contracts::SystemClock;

    /// A run that fails leaves its files open. What their writers hold is more than their parts have room for.
    #[tokio::test]
    async fn uploads_that_are_left_open_send_nothing_when_their_sink_goes() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1_000));
        let batch = RecordBatch::try_from_iter([("n", numbers)]).expect("a batch");
        let table = TableSpec::new("t", batch.schema())
            .with_option("path", "s3://bucket/out")
            .with_option("format", "json")
            .with_option("aws.region", "eu-west-1");
        let sessions = AwsSessions::default();
        let session = || sessions.of(&table);
        let reach = Reach { local: None, session: &session, clock: Arc::new(SystemClock::new()) };
        let mut sink = FileSink::try_new(&table, &reach, PartNames::new("job", 1, 0), None).expect("a sink");
        // Nothing of an earlier run is looked for: there is no bucket.
        sink.cleaned = true;
        let Place::S3(prefix) = sink.target.place.clone() else { panic!("in a bucket") };
        let permits = Arc::clone(&sink.target.permits);
        let upload = Output::S3(Box::new(Upload::with_room(&prefix, &permits, 100)));
        sink.files.as_mut().expect("idle").open_into("", upload, &batch).expect("open");
        sink.write(EpochNumber(1), Changes { batch, kinds: None }).await.expect("held by its writer");
        drop(sink);
        assert_eq!(permits.available_permits(), PARTS_UNDER_WAY, "none is under way");
    }
}
