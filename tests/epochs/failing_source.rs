//! A reader that panics: nobody waits for its task, and the run must end all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::ArrayRef;
use tidemill::contracts::{
    Boundedness, Error, ErrorKind, Fetch, Position, Result, Source, SourceProgress, Split, SplitReader, StartPosition,
};
use tidemill::runtime::{Ending, Summary};

use super::going_on::{EVENTS, events, job, ran, replace};
use super::{lines, numbers};

/// A source whose readers panic when they are asked for more after so many answers.
#[derive(Debug)]
struct Dying {
    source: Arc<dyn Source>,
    answers: u32,
}

struct DyingReader {
    reader: Box<dyn SplitReader>,
    left: u32,
}

#[async_trait]
impl SplitReader for DyingReader {
    async fn next(&mut self) -> Result<Fetch> {
        self.left = self.left.checked_sub(1).expect("what the reader did not think of");
        self.reader.next().await
    }

    fn position(&self) -> Option<Position> {
        self.reader.position()
    }
}

#[async_trait]
impl Source for Dying {
    async fn begin(&self, start: StartPosition, progress: Option<&SourceProgress>) -> Result<()> {
        self.source.begin(start, progress).await
    }

    async fn splits(&self) -> Result<Vec<Split>> {
        self.source.splits().await
    }

    async fn open(
        &self,
        split: &Split,
        resume: Option<&Position>,
        start: StartPosition,
    ) -> Result<Box<dyn SplitReader>> {
        let reader = self.source.open(split, resume, start).await?;
        Ok(Box::new(DyingReader { reader, left: self.answers }))
    }

    fn split_columns(&self, split: &Split) -> Result<Vec<(String, ArrayRef)>> {
        self.source.split_columns(split)
    }

    fn boundedness(&self) -> Boundedness {
        self.source.boundedness()
    }
}

const SQL: &str = "
CREATE TABLE events (n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json', 'source.monitor-interval' = '10 ms');
CREATE TABLE copies (n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/copies', 'format' = 'json', 'sink.rolling-policy.row-count' = '1');
INSERT INTO copies SELECT n FROM events;
";

async fn dies(folder: &std::path::Path, ending: Ending, answers: u32) -> Result<Summary> {
    let options = job(folder, SQL, ending);
    let run = ran(&options, |job| {
        let source = &mut job.feeds[0].source;
        *source = Arc::new(Dying { source: Arc::clone(source), answers });
    });
    tokio::time::timeout(Duration::from_secs(120), run).await.expect("it does not hang")
}

#[track_caller]
fn is_told(died: Result<Summary>) {
    let error = died.expect_err("the reader has died");
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Internal, "{text}");
    assert!(text.contains("a reader of '") && text.contains("what the reader did not think of"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_panics_ends_the_run() {
    for ending in [Ending::Run, Ending::Once, Ending::Drain] {
        let folder = tempfile::tempdir().unwrap();
        events(folder.path());
        // Before the first record, and when there is no more.
        for answers in [0, 1] {
            is_told(dies(folder.path(), ending, answers).await);
        }
        ran(&job(folder.path(), SQL, Ending::Once), |_| ()).await.unwrap_or_else(|e| panic!("{ending:?}: {e}"));
        assert_eq!(numbers(&lines(&folder.path().join("copies"))), (0..EVENTS).collect::<Vec<_>>(), "{ending:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_does_one_that_panics_while_logged_epochs_are_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    events(folder);
    let mut options = job(folder, SQL, Ending::Once);
    // Nothing but the log has what was done.
    options.state.interval = Some(Duration::ZERO);
    let written = AtomicU32::new(0);
    let killed = move || match written.fetch_add(1, Ordering::Relaxed) {
        5 => Err(Error::unavailable("killed")),
        _ => Ok(()),
    };
    let killed = ran(&options, |job| {
        replace(job, "copies", |mut sink| {
            sink.before_flush = Box::new(move |_, _| killed());
            sink
        });
    });
    assert!(killed.await.expect_err("it is killed").to_string().contains("killed"));
    is_told(dies(folder, Ending::Once, 0).await);
    is_told(dies(folder, Ending::Run, 0).await);
    ran(&options, |_| ()).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(numbers(&lines(&folder.join("copies"))), (0..EVENTS).collect::<Vec<_>>());
}
