//! Runs a source as the runtime does: splits in order of their parents, positions after each record, restarts from what
//! would have been saved.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Schema};
use async_trait::async_trait;
use tidemill::connectors::{Connectors, JobContext};
use tidemill::contracts::{
    Clock, Fetch, Position, Result, Source, SourceProgress, Split, SplitId, SplitProgress, StartPosition, SystemClock,
    TableSpec,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::aws_stub::AwsStub;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Polling,
    FanOut,
}

/// The machine's clock, some hours away; pauses pass `speed` times as fast, so that minutes of them fit a test.
#[derive(Debug)]
pub(crate) struct OffsetClock {
    inner: SystemClock,
    offset_ms: AtomicI64,
    speed: AtomicU32,
}

#[async_trait]
impl Clock for OffsetClock {
    fn now_ms(&self) -> i64 {
        self.inner.now_ms() + self.offset_ms.load(Ordering::SeqCst)
    }

    fn elapsed(&self) -> Duration {
        self.inner.elapsed() * self.speed.load(Ordering::SeqCst)
    }

    async fn sleep(&self, duration: Duration) {
        self.inner.sleep(duration / self.speed.load(Ordering::SeqCst)).await;
    }
}

/// One record that was read.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) split: String,
    pub(crate) sequence: String,
    pub(crate) arrival_ms: i64,
    pub(crate) key: Option<String>,
    pub(crate) data: String,
    /// Of the split: `stream` and `shard-id`.
    pub(crate) metadata: BTreeMap<String, String>,
}

/// What a run has seen so far.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) records: Vec<Got>,
    /// Splits in the order in which they were opened, with the number of records seen before.
    pub(crate) opened: Vec<(String, usize)>,
    pub(crate) finished: BTreeSet<String>,
    /// Splits that have said that there is nothing more, since their last record.
    pub(crate) idle: BTreeSet<String>,
    pub(crate) open: BTreeSet<String>,
    pub(crate) behind: BTreeMap<String, Option<u64>>,
}

impl Seen {
    /// Everything that is open is caught up.
    pub(crate) fn all_idle(&self) -> bool {
        !self.open.is_empty() && self.open.iter().all(|s| self.idle.contains(s))
    }
}

/// A job with one table over a stream of the stub.
pub(crate) struct Job {
    spec: TableSpec,
    pub(crate) clock: Arc<OffsetClock>,
    /// What an earlier run has left.
    pub(crate) saved: Option<SourceProgress>,
    /// Another run goes on where one ends.
    pub(crate) is_handed_over: bool,
}

enum Event {
    Fetched(Fetch, Option<Position>, Option<u64>),
    Failed(tidemill::contracts::Error),
}

/// A table of one text column.
pub(crate) fn spec(endpoint: &str, way: Way, stream: &str, options: &[(&str, &str)]) -> TableSpec {
    let schema = Arc::new(Schema::new(vec![Field::new("line", DataType::Utf8View, true)]));
    let mut spec = TableSpec::new("events", schema).with_option("format", "json");
    if !stream.is_empty() {
        spec = spec.with_option("stream", stream);
    }
    for (key, value) in [
        ("aws.endpoint", endpoint),
        ("aws.region", "eu-west-1"),
        ("aws.credentials.provider", "BASIC"),
        ("aws.credentials.basic.accesskeyid", "test"),
        ("aws.credentials.basic.secretkey", "test"),
        ("source.shard.discovery.interval", "500 ms"),
    ] {
        spec = spec.with_option(key, value);
    }
    if way == Way::FanOut {
        spec = spec.with_option("source.reader.type", "EFO").with_option("source.efo.consumer.name", "tidemill-test");
    }
    options.iter().fold(spec, |spec, (k, v)| spec.with_option(k, *v))
}

impl Job {
    pub(crate) fn new(stub: &AwsStub, way: Way, stream: &str, options: &[(&str, &str)]) -> Self {
        Self::at(&stub.endpoint(), way, stream, options)
    }

    pub(crate) fn at(endpoint: &str, way: Way, stream: &str, options: &[(&str, &str)]) -> Self {
        let clock =
            Arc::new(OffsetClock { inner: SystemClock::new(), offset_ms: AtomicI64::new(0), speed: AtomicU32::new(1) });
        let mut spec = spec(endpoint, way, stream, options);
        spec.metadata = vec!["partition-key".to_owned()];
        Self { spec, clock, saved: None, is_handed_over: false }
    }

    /// Makes the program's pauses so many times shorter; the stub must not ration it then.
    pub(crate) fn hurry(&self, speed: u32) {
        self.clock.speed.store(speed, Ordering::SeqCst);
    }

    /// Some hours later, here and at the stub, whose retention has done its work.
    pub(crate) fn hours_later(&self, stub: &AwsStub, stream: &str, hours: i64) {
        let offset = self.clock.offset_ms.load(Ordering::SeqCst) + hours * 3_600_000;
        self.clock.offset_ms.store(offset, Ordering::SeqCst);
        stub.set_offset(offset);
        stub.with(stream, |s| s.trim(stub_now(offset)));
        // Iterators and subscriptions of before are over.
        stub.with(stream, |s| s.subscriptions.clear());
    }

    pub(crate) fn source(&self) -> Result<Arc<dyn Source>> {
        let job = JobContext { job: "test".to_owned(), generation: 1 };
        let clock: Arc<dyn Clock> = self.clock.clone();
        Connectors::new(None, clock, job).handed_over(self.is_handed_over).source(&self.spec, "kinesis")
    }

    /// Reads until `done`, and saves where it stands.
    pub(crate) async fn run(&mut self, start: StartPosition, done: impl Fn(&Seen) -> bool) -> Result<Seen> {
        self.run_with(start, |_| {}, done).await
    }

    /// The same; `began` is called when the splits of the start are open.
    pub(crate) async fn run_with(
        &mut self,
        start: StartPosition,
        began: impl FnOnce(&Seen),
        done: impl Fn(&Seen) -> bool,
    ) -> Result<Seen> {
        let source = self.source()?;
        source.begin(start, self.saved.as_ref()).await?;
        let goes_on = self.saved.is_some();
        let mut before = self.saved.take().unwrap_or_default();
        let now = source.known_as(before.splits.keys().cloned().collect()).await?;
        let renamed = |(id, at)| (now.get(&id).cloned().unwrap_or(id), at);
        before.splits = before.splits.into_iter().map(renamed).collect();
        let mut run = Run {
            source: Arc::clone(&source),
            start,
            goes_on,
            before,
            at: BTreeMap::new(),
            seen: Seen::default(),
            tasks: Vec::new(),
            metadata: BTreeMap::new(),
            first: true,
        };
        let (sender, mut events) = mpsc::channel(1);
        run.discover(&sender).await?;
        run.first = false;
        began(&run.seen);
        let deadline = self.clock.inner.elapsed() + Duration::from_secs(180);
        while !done(&run.seen) {
            let event = tokio::select! {
                event = events.recv() => event,
                () = self.clock.inner.sleep(Duration::from_millis(100)) => None,
            };
            assert!(self.clock.inner.elapsed() < deadline, "nothing more comes: {:?}", run.seen);
            match event {
                Some((split, event)) => run.take(split, event, &done, &sender).await?,
                None => run.discover(&sender).await?,
            }
        }
        for task in run.tasks.drain(..) {
            task.abort();
        }
        let listed: BTreeSet<SplitId> = source.splits().await?.into_iter().map(|s| s.id).collect();
        run.at.retain(|id, at| !at.finished || listed.contains(id));
        run.at.extend(run.before.splits.into_iter().filter(|(id, _)| source.is_left_out(id)));
        self.saved = Some(SourceProgress { splits: run.at, state: source.snapshot() });
        source.end().await;
        Ok(run.seen)
    }
}

fn stub_now(offset: i64) -> i64 {
    SystemClock::new().now_ms() + offset
}

struct Run {
    source: Arc<dyn Source>,
    start: StartPosition,
    goes_on: bool,
    before: SourceProgress,
    at: BTreeMap<SplitId, SplitProgress>,
    seen: Seen,
    tasks: Vec<JoinHandle<()>>,
    metadata: BTreeMap<SplitId, BTreeMap<String, String>>,
    first: bool,
}

impl Run {
    async fn discover(&mut self, sender: &mpsc::Sender<(Split, Event)>) -> Result<()> {
        let splits = self.source.splits().await?;
        let listed: BTreeSet<_> = splits.iter().map(|s| s.id.clone()).collect();
        for split in splits {
            if self.at.contains_key(&split.id) {
                continue;
            }
            let ready = split.parents.iter().all(|p| match self.at.get(p) {
                Some(at) => at.finished,
                None => !listed.contains(p),
            });
            if ready {
                self.open(split, sender).await?;
            }
        }
        Ok(())
    }

    async fn open(&mut self, split: Split, sender: &mpsc::Sender<(Split, Event)>) -> Result<()> {
        let before = self.before.splits.get(&split.id).cloned();
        if let Some(finished) = before.as_ref().filter(|b| b.finished) {
            self.at.insert(split.id.clone(), finished.clone());
            return Ok(());
        }
        let follows = split.parents.iter().any(|p| self.at.contains_key(p));
        let start = if self.first && !self.goes_on && !follows { self.start } else { StartPosition::TrimHorizon };
        let resume = before.and_then(|b| b.after_exclusive);
        let mut reader = self.source.open(&split, resume.as_ref(), start).await?;
        let after_exclusive = resume.or_else(|| reader.position());
        self.at.insert(split.id.clone(), SplitProgress { after_exclusive, ..SplitProgress::default() });
        let metadata = self.source.split_metadata(&split)?;
        let text = |(k, v): (String, arrow::array::ArrayRef)| (k, v.as_string::<i32>().value(0).to_owned());
        self.metadata.insert(split.id.clone(), metadata.into_iter().map(text).collect());
        self.seen.opened.push((split.id.to_string(), self.seen.records.len()));
        self.seen.open.insert(split.id.to_string());
        let sender = sender.clone();
        self.tasks.push(tokio::spawn(async move {
            loop {
                let event = match reader.next().await {
                    Ok(fetch) => Event::Fetched(fetch, reader.position(), reader.behind_ms()),
                    Err(error) => Event::Failed(error),
                };
                let last = matches!(event, Event::Failed(_) | Event::Fetched(Fetch::Finished, ..));
                if sender.send((split.clone(), event)).await.is_err() || last {
                    return;
                }
            }
        }));
        Ok(())
    }

    async fn take(
        &mut self,
        split: Split,
        event: Event,
        done: &impl Fn(&Seen) -> bool,
        sender: &mpsc::Sender<(Split, Event)>,
    ) -> Result<()> {
        let (fetch, position, behind) = match event {
            Event::Fetched(fetch, position, behind) => (fetch, position, behind),
            Event::Failed(error) => return Err(error),
        };
        let name = split.id.to_string();
        self.seen.behind.insert(name.clone(), behind);
        let at = self.at.get_mut(&split.id).expect("an open split");
        match fetch {
            Fetch::Records(chunk) => {
                assert!(!chunk.is_empty());
                self.seen.idle.remove(&name);
                for i in 0..chunk.len() {
                    // A run may stop between any two records, whatever chunk they are in.
                    if done(&self.seen) {
                        return Ok(());
                    }
                    at.after_exclusive = Some(chunk.position_after(i));
                    self.seen.records.push(Got {
                        split: name.clone(),
                        sequence: chunk.sequence.get(i).into_owned(),
                        arrival_ms: chunk.arrivals.get(i),
                        key: chunk.partition_keys.as_ref().map(|k| k[i].to_string()),
                        data: String::from_utf8_lossy(chunk.record(i)).into_owned(),
                        metadata: self.metadata[&split.id].clone(),
                    });
                }
            }
            Fetch::Rows(_) => panic!("a stream has no typed rows"),
            Fetch::CaughtUp => {
                at.after_exclusive = position.or(at.after_exclusive.take());
                self.seen.idle.insert(name);
            }
            Fetch::Finished => {
                at.finished = true;
                self.seen.open.remove(&name);
                self.seen.finished.insert(name);
                self.discover(sender).await?;
            }
        }
        Ok(())
    }
}
