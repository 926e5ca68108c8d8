//! Streams of AWS.
//!
//! ```text
//!  KinesisSource ── begin ──► Stream (one for each stream of the table): summary, first listing
//!       │                        │ watch: lists shards in the background          lineage: what is read
//!       ├─ splits ◄──────────────┘
//!       └─ open ──► PollingReader (GetRecords) or FanOutReader (SubscribeToShard)
//!                        └── ShardReading: position, age, chunks (KPL, compression)
//! ```
//!
//! Rules that hold in both ways of reading:
//!
//! - A record is given once, in the order of its shard; children come after their parents (the runtime keeps
//!   [`Split::parents`]).
//! - `LATEST` is resolved once, to a time of the service, for all shards: a shard without records keeps it.
//! - A shard's end is remembered; an ancestor of a known shard is never read.
//! - What has aged out before it was read is an error or, by option, a warning: never silence.
//! - What passes by itself is waited for, for ever.

mod budget;
mod chunks;
mod client;
mod consumer;
mod fan_out;
#[cfg(test)]
mod fuzz;
mod kpl;
mod lineage;
mod pace;
mod payload;
mod polling;
mod position;
mod put;
mod read_options;
mod remembered;
mod retry;
mod sequence;
mod server_time;
mod shard;
mod sink;
mod stream;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, StringArray};
use async_trait::async_trait;
use md5::{Digest, Md5};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use crate::connectors::RunCourse;
use crate::connectors::aws::{AwsSession, Call, Jitter, failure};
use crate::contracts::{
    Boundedness, Clock, Error, Position, Result, Source, SourceProgress, Split, SplitId, SplitProgress, SplitReader,
    StartPosition, TableSpec,
};

pub(crate) use budget::Budget;
pub(super) use put::AwsTarget;
pub(crate) use read_options::NamedConsumer;
pub(super) use read_options::fan_out_consumers;
pub(super) use sink::AwsStreamSink;

use budget::Allowance;
use client::{StreamClient, StreamName};
use consumer::Consumer;
use fan_out::{FanOutReader, SHARDS_PER_CONNECTION};
use lineage::ShardId;
use polling::PollingReader;
use position::ShardPosition;
use read_options::{ReadOptions, StreamChoice};

use remembered::{Remembered, RememberedStream, SplitNames};
use retry::{Backoff, START_PATIENCE};
use shard::{AHEAD_MS, ShardReading};
use stream::Stream;

/// The service's time is known to the second: nothing that was there before a run began is taken for something later.
const SERVER_TIME_MS: i64 = 1_000;

/// A stream, and its consumer where there is one.
#[derive(Debug)]
struct Reading {
    stream: Arc<Stream>,
    consumer: Option<Arc<Consumer>>,
    /// Records that arrived then or later are left for a later run, milliseconds since 1970.
    stop_ms: Option<i64>,
    /// The client for subscriptions that is not full yet, and how many shards it has.
    subscriber: Mutex<Option<(StreamClient, usize)>>,
}

impl Reading {
    /// A client for one more subscription.
    fn subscriber(&self) -> Result<StreamClient> {
        let mut subscriber = self.subscriber.lock().unwrap_or_else(PoisonError::into_inner);
        match subscriber.as_mut() {
            Some((client, shards)) if *shards < SHARDS_PER_CONNECTION => {
                *shards += 1;
                Ok(client.clone())
            }
            _ => Ok(subscriber.insert((self.stream.client.apart()?, 1)).0.clone()),
        }
    }
}

#[derive(Debug)]
struct Begun {
    streams: Vec<Reading>,
    names: SplitNames,
    start: StartPosition,
    /// No earlier run has left positions.
    first: bool,
    /// Streams that earlier runs have read and the table names no more.
    left_out: BTreeMap<String, RememberedStream>,
    /// Streams that are back, and were made again while they were left out: when those of before had been made.
    made_anew: BTreeMap<String, i64>,
}

/// A table over one or several streams.
#[derive(Debug)]
pub(super) struct KinesisSource {
    table: String,
    session: AwsSession,
    options: ReadOptions,
    clock: Arc<dyn Clock>,
    budget: Arc<Budget>,
    course: RunCourse,
    begun: OnceCell<Begun>,
    watching: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for KinesisSource {
    fn drop(&mut self) {
        self.stop_watching();
    }
}

impl KinesisSource {
    /// Nothing is asked of AWS yet.
    pub(super) fn new(
        spec: &TableSpec,
        session: AwsSession,
        clock: Arc<dyn Clock>,
        budget: Arc<Budget>,
        course: RunCourse,
    ) -> Result<Self> {
        Ok(Self {
            table: spec.name.clone(),
            session,
            options: ReadOptions::of(spec)?,
            clock,
            budget,
            course,
            begun: OnceCell::new(),
            watching: Mutex::default(),
        })
    }

    fn begun(&self) -> Result<&Begun> {
        self.begun.get().ok_or_else(|| Error::internal("a Kinesis source was used before it began"))
    }

    fn stop_watching(&self) {
        for task in self.watching.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }

    async fn names(&self) -> Result<Vec<StreamName>> {
        let pattern = match &self.options.streams {
            StreamChoice::Named(names) => return Ok(names.clone()),
            StreamChoice::Matching(pattern) => pattern,
        };
        let client = client::client(&self.session).await?;
        let call = Call { service: "kinesis", operation: "ListStreams", resource: "*" };
        let mut backoff =
            Backoff::new(Arc::clone(&self.clock), Arc::new(Jitter::new(self.clock.now_ms().unsigned_abs())));
        let (mut names, mut token) = (Vec::new(), None);
        loop {
            let list = || async {
                client.list_streams().set_next_token(token.clone()).send().await.map_err(|e| failure(call, &e))
            };
            let page = backoff.persist(Some(START_PATIENCE), list).await?;
            names.extend(page.stream_names().iter().filter(|n| pattern.is_match(n)).map(|n| StreamName::new(n)));
            token = page.next_token;
            if token.is_none() {
                break;
            }
        }
        if names.is_empty() {
            return Err(Error::config(format!("no stream matches 'stream.pattern' = '{pattern}'"))
                .hint("check the region and the account"));
        }
        names.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(names)
    }

    async fn reach(&self, start: StartPosition, progress: Option<&SourceProgress>) -> Result<Begun> {
        let names = self.names().await?;
        let is_pattern = matches!(self.options.streams, StreamChoice::Matching(_));
        let remembered = progress.map(Remembered::of).transpose()?.unwrap_or_default();
        // Streams of a pattern come and go without anybody's naming them.
        if !is_pattern {
            remembered.check(&self.table, &names)?;
        }
        let plain = match names.as_slice() {
            _ if !remembered.streams.is_empty() => remembered.plain.as_deref().map(Arc::from),
            [only] if !is_pattern => Some(Arc::clone(&only.name)),
            _ => None,
        };
        let split_names = SplitNames { plain };
        let mut streams = Vec::with_capacity(names.len());
        let mut made_anew = BTreeMap::new();
        for name in names {
            // The seed is the stream's and the run's: readers of several jobs do not pause in step.
            let md5: [u8; 16] = Md5::digest(name.name.as_bytes()).into();
            let seed = (u128::from_le_bytes(md5) as u64) ^ self.clock.now_ms().unsigned_abs();
            let client = StreamClient::new(&self.session, name.clone(), Arc::clone(&self.clock)).await?;
            let jitter = Arc::new(Jitter::new(seed));
            let stream = Stream::open(client, Arc::clone(&self.clock), jitter, self.options.on_expired).await?;
            let mut before = remembered.streams.get(&*name.name);
            if let Some(read) = before
                && let Err(error) = stream.check_created(read.created_ms, stream.created_ms())
            {
                if !read.left_out {
                    return Err(error);
                }
                tracing::warn!(table = self.table, "{}; it is read from its beginning", error.message());
                made_anew.insert(name.name.to_string(), read.created_ms);
                before = None;
            }
            let consumer = match &self.options.fan_out {
                None => None,
                Some(options) => {
                    let ours = before.is_some_and(|b| b.registered_consumer);
                    Some(Arc::new(Consumer::ready(&stream, options, ours).await?))
                }
            };
            let stop_ms = self.stop_ms(&stream);
            streams.push(Reading { stream: Arc::new(stream), consumer, stop_ms, subscriber: Mutex::default() });
        }
        let start = match start {
            // After every stream has been reached, so that it is not ahead of any of them.
            StartPosition::Latest => {
                StartPosition::AtTimestamp(streams.iter().map(|r| r.stream.server_ms()).min().unwrap_or(0))
            }
            StartPosition::AtTimestamp(ms) if ms > self.clock.now_ms() + AHEAD_MS => {
                return Err(Error::config(format!("table '{}': its start time is in the future", self.table))
                    .hint("use LATEST to begin with what comes from now on"));
            }
            other => other,
        };
        for Reading { stream, .. } in &streams {
            match progress {
                // A stream that is new in the list has no earlier shards, and all that it has is read from the beginning.
                Some(_) if made_anew.contains_key(&**stream.name()) => stream.go_on(&BTreeMap::new()).await?,
                Some(progress) => stream.go_on(&split_names.earlier(progress, stream.name())?).await?,
                None => {
                    let from = if let StartPosition::AtTimestamp(ms) = start { Some(ms) } else { None };
                    stream.start(from).await?;
                }
            }
        }
        let named: Vec<&str> = streams.iter().map(|reading| &**reading.stream.name()).collect();
        let is_gone = |name: &str| matches!(&self.options.streams, StreamChoice::Matching(all) if all.is_match(name));
        let left_out = remembered.left_out(&self.table, &named, is_gone);
        let first = progress.is_none_or(|p| p.state.is_none() && !self.options.begin_after.is_empty());
        Ok(Begun { streams, names: split_names, start, first, left_out, made_anew })
    }

    /// A run that takes what is there ends with what had arrived when it began: a stream that is written all the time has always more.
    fn stop_ms(&self, stream: &Stream) -> Option<i64> {
        let begun_ms = self.course.drains.then(|| stream.server_ms().saturating_add(SERVER_TIME_MS));
        self.options.stop_ms.into_iter().chain(begun_ms).min()
    }

    /// Where `source.init.sequence-numbers` says that reading begins, as saved positions.
    fn named_positions(&self) -> SourceProgress {
        let at = |(split, position): (&SplitId, &Position)| {
            (split.clone(), SplitProgress { after_exclusive: Some(position.clone()), ..SplitProgress::default() })
        };
        SourceProgress { splits: self.options.begin_after.iter().map(at).collect(), state: None }
    }

    /// The stream and the shard of a split.
    fn find(&self, split: &Split) -> Result<(&Reading, ShardId)> {
        let begun = self.begun()?;
        let found = begun.names.parts(&split.id).and_then(|(stream, shard)| {
            Some((begun.streams.iter().find(|reading| **reading.stream.name() == *stream)?, shard))
        });
        let (found, shard) =
            found.ok_or_else(|| Error::internal(format!("split '{}' is of no stream of the table", split.id)))?;
        Ok((found, shard.into()))
    }
}

#[async_trait]
impl Source for KinesisSource {
    async fn begin(&self, start: StartPosition, progress: Option<&SourceProgress>) -> Result<()> {
        // Records to begin after are as if an earlier run had stopped there.
        let named = (progress.is_none() && !self.options.begin_after.is_empty()).then(|| self.named_positions());
        let (start, progress) = match &named {
            Some(named) => (StartPosition::TrimHorizon, Some(named)),
            None => (start, progress),
        };
        let begun = self.begun.get_or_try_init(|| self.reach(start, progress)).await?;
        let mut watching = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        for reading in &begun.streams {
            watching.push(tokio::spawn(Arc::clone(&reading.stream).watch(self.options.discovery)));
        }
        Ok(())
    }

    fn snapshot(&self) -> Option<String> {
        let stream = |reading: &Reading| {
            let registered_consumer = reading.consumer.as_ref().is_some_and(|consumer| consumer.is_ours());
            let created_ms = reading.stream.created_ms();
            (reading.stream.name().to_string(), RememberedStream { created_ms, registered_consumer, left_out: false })
        };
        let begun = self.begun.get()?;
        let streams = begun.left_out.clone().into_iter().chain(begun.streams.iter().map(stream)).collect();
        let remembered = Remembered { streams, plain: begun.names.plain.as_deref().map(str::to_owned) };
        serde_json::to_string(&remembered).ok()
    }

    async fn known_as(&self, earlier: Vec<SplitId>) -> Result<BTreeMap<SplitId, SplitId>> {
        let begun = self.begun()?;
        let now = |split: &SplitId| {
            let (stream, shard) = begun.names.parts(split)?;
            Some(begun.names.of_before(stream, shard, *begun.made_anew.get(stream)?))
        };
        Ok(earlier.into_iter().filter_map(|split| Some((split.clone(), now(&split)?))).collect())
    }

    fn is_left_out(&self, split: &SplitId) -> bool {
        let stream_of = |begun: &Begun| Some(begun.left_out.contains_key(begun.names.parts(split)?.0));
        self.begun.get().and_then(stream_of).unwrap_or(false)
    }

    async fn splits(&self) -> Result<Vec<Split>> {
        let begun = self.begun()?;
        let mut splits = Vec::new();
        for reading in &begun.streams {
            let id = |shard: &ShardId| begun.names.split(reading.stream.name(), shard);
            for shard in reading.stream.shards()? {
                let parents = shard.parents.iter().map(id).collect();
                splits.push(Split { id: id(&shard.id), bytes: None, parents });
            }
        }
        Ok(splits)
    }

    async fn open(
        &self,
        split: &Split,
        resume: Option<&Position>,
        start: StartPosition,
    ) -> Result<Box<dyn SplitReader>> {
        let begun = self.begun()?;
        let named = if begun.first { self.options.begin_after.get(&split.id) } else { None };
        let (resume, start) = match (resume.or(named), start) {
            // Shards that are not named are read from their beginning.
            (resume, _) if begun.first && !self.options.begin_after.is_empty() => (resume, StartPosition::TrimHorizon),
            (resume, StartPosition::Latest) => (resume, begun.start),
            (resume, start) => (resume, start),
        };
        let (reading, shard) = self.find(split)?;
        let start = ShardPosition::start(start)?;
        let stream = Arc::clone(&reading.stream);
        let shard = ShardReading::open(stream, shard, split, resume, start, (&self.options, reading.stop_ms))?;
        let allowance = Allowance::new(Arc::clone(&self.budget));
        let reader: Box<dyn SplitReader> = match &reading.consumer {
            Some(consumer) => {
                Box::new(FanOutReader::new(shard, allowance, Arc::clone(consumer), reading.subscriber()?))
            }
            None => Box::new(PollingReader::new(shard, allowance, self.options.pace, self.options.most_records)),
        };
        Ok(reader)
    }

    fn split_metadata(&self, split: &Split) -> Result<Vec<(String, ArrayRef)>> {
        let (reading, shard) = self.find(split)?;
        let text = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
        Ok(vec![("stream".to_owned(), text(reading.stream.name())), ("shard-id".to_owned(), text(&shard))])
    }

    async fn end(&self) {
        self.stop_watching();
        for reading in self.begun.get().map(|b| b.streams.as_slice()).unwrap_or_default() {
            // The next run would wait until AWS has removed it and made it again, and may be under way already.
            if let (Some(consumer), false) = (&reading.consumer, self.course.is_handed_over) {
                consumer.release(&reading.stream).await;
            }
            if reading.stream.losses() > 0 {
                let losses = reading.stream.losses();
                tracing::warn!(stream = %reading.stream.name(), losses, "records had aged out before they were read");
            }
        }
    }

    fn boundedness(&self) -> Boundedness {
        Boundedness::Unbounded
    }
}
