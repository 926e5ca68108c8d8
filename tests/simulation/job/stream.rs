//! A stream of shards that is resharded while it is written; or a folder to which whole files come. Rows may be out of order and late,
//! and records may be broken.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use arrow::buffer::Buffer;
use async_trait::async_trait;
use tidemill::contracts::{
    Arrivals, Boundedness, Fetch, Position, RECORD_PADDING, RawChunk, RecordRange, Result, SequenceNumbers, Source,
    Split, SplitId, SplitReader, StartPosition,
};

use super::bug::Bug;
use super::machine::Machine;
use crate::world::Chance;

/// An event as it was produced.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) id: u64,
    pub(crate) key: String,
    /// Event time, in milliseconds of the simulation, as are the others.
    pub(crate) time_ms: u64,
    /// When it is in the stream.
    pub(crate) arrives_ms: u64,
    /// The largest event time before it in its own shard.
    pub(crate) passed_ms: Option<u64>,
    /// Its record is none that can be decoded.
    pub(crate) broken: bool,
    /// Where it is in the stream.
    pub(crate) shard: String,
    pub(crate) number: usize,
}

impl Event {
    pub(crate) fn new(id: u64, key: String, time_ms: u64) -> Self {
        let (passed_ms, broken, shard, number) = Default::default();
        Self { id, key, time_ms, arrives_ms: time_ms, passed_ms, broken, shard, number }
    }

    /// As its record is. A broken one is broken for all tables: each of them needs the time.
    pub(super) fn record(&self) -> String {
        let Self { id, key, .. } = self;
        let time = chrono::DateTime::from_timestamp_millis(self.time_ms as i64).expect("a time");
        let time = time.format("%Y-%m-%d %H:%M:%S%.3f");
        match (self.broken, id % 3) {
            (false, _) => format!("{{\"id\":{id},\"k\":\"{key}\",\"ts\":\"{time}\"}}"),
            (true, 0) => format!("{{\"id\":{id},\"k\":"),
            (true, 1) => format!("{{\"id\":{id},\"k\":\"{key}\",\"ts\":true}}"),
            (true, _) => format!("{{\"id\":{id},\"k\":\"{key}\",\"ts\":\"soon\"}}"),
        }
    }

    /// Why a broken one is refused.
    pub(super) fn is_refused_as(&self) -> &'static str {
        ["invalid_syntax", "wrong_type", "bad_timestamp"][(self.id % 3) as usize]
    }
}

/// A row that is no further behind than this has come in time for all its windows: a little less than the shortest delay of a watermark.
const IN_TIME_MS: u64 = 1_900;

#[derive(Debug)]
pub(crate) struct Shard {
    pub(super) id: String,
    pub(super) parents: Vec<String>,
    pub(super) opens_ms: u64,
    pub(super) closes_ms: Option<u64>,
    /// What was in the stream before its events is of earlier times.
    begins_ms: u64,
    pub(crate) events: Vec<Event>,
}

/// All that ever will be in the stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) shards: Vec<Shard>,
    pub(crate) reshards: u64,
    /// Of a folder: how many of its files are read side by side.
    most_open: Option<NonZeroUsize>,
}

impl Stream {
    /// Events of `seconds`: in three of four seeds in shards, else in files.
    pub(crate) fn new(chance: &Chance, seconds: u64) -> Self {
        if chance.percent(75) { Self::of_shards(chance, seconds) } else { Self::of_files(chance, seconds) }
    }

    /// Files that are there, whole, when their time is over: some at once, and some empty. What comes later is of a later time.
    fn of_files(chance: &Chance, seconds: u64) -> Self {
        let keys = 2 + chance.below(6);
        let (mut shards, mut time_ms, mut id) = (Vec::new(), 0, 0);
        while time_ms < seconds * 1_000 {
            let there_ms = time_ms + 200 + chance.below(5_000);
            for _ in 0..chance.below(5) {
                let (mut events, mut at_ms) = (Vec::new(), time_ms);
                loop {
                    at_ms += 1 + chance.below(300);
                    if at_ms >= there_ms || chance.below(30) == 0 {
                        break;
                    }
                    events.push(Event::new(id, format!("k{}", chance.below(keys)), at_ms));
                    id += 1;
                }
                shards.push(Shard {
                    id: format!("file-{:03}", shards.len()),
                    parents: Vec::new(),
                    opens_ms: there_ms,
                    closes_ms: Some(there_ms),
                    begins_ms: time_ms,
                    events,
                });
            }
            time_ms = there_ms;
        }
        Self { shards, reshards: 0, most_open: NonZeroUsize::new(1 + chance.below(3) as usize) }
    }

    /// Shards that split and merge. In half of the streams there are pauses, in others one shard has nothing for a while.
    fn of_shards(chance: &Chance, seconds: u64) -> Self {
        let shard = |number: usize, parents: Vec<String>, opens_ms: u64| Shard {
            id: format!("shard-{number:03}"),
            parents,
            opens_ms,
            closes_ms: None,
            begins_ms: opens_ms,
            events: Vec::new(),
        };
        let mut shards: Vec<Shard> = (0..1 + chance.below(3) as usize).map(|n| shard(n, Vec::new(), 0)).collect();
        let keys = 2 + chance.below(6);
        let pauses = chance.percent(50);
        let (falls_quiet, mut quiet) = (chance.percent(50), (0, 0));
        let (mut time_ms, mut id, mut reshards) = (0, 0, 0);
        while time_ms < seconds * 1_000 {
            time_ms += 1 + chance.below(150);
            if pauses && chance.below(100) == 0 {
                time_ms += 500 + chance.below(6_000);
            }
            let open: Vec<usize> = (0..shards.len()).filter(|at| shards[*at].closes_ms.is_none()).collect();
            if falls_quiet && chance.below(40) == 0 {
                quiet = (open[chance.below(open.len() as u64) as usize], time_ms + 1_000 + chance.below(14_000));
            }
            let has_some: Vec<usize> = open.iter().copied().filter(|at| *at != quiet.0 || time_ms >= quiet.1).collect();
            let from = if has_some.is_empty() { &open } else { &has_some };
            let at = from[chance.below(from.len() as u64) as usize];
            let key = format!("k{}", chance.below(keys));
            shards[at].events.push(Event::new(id, key, time_ms));
            id += 1;
            if chance.below(seconds * 4) == 0 {
                reshards += 1;
                let number = shards.len();
                if open.len() > 1 && chance.percent(50) {
                    let mut parents = Vec::new();
                    for parent in [open[0], open[1]] {
                        shards[parent].closes_ms = Some(time_ms);
                        parents.push(shards[parent].id.clone());
                    }
                    shards.push(shard(number, parents, time_ms));
                } else {
                    shards[at].closes_ms = Some(time_ms);
                    let parent = shards[at].id.clone();
                    shards.push(shard(number, vec![parent.clone()], time_ms));
                    shards.push(shard(number + 1, vec![parent], time_ms));
                }
            }
        }
        Self { shards, reshards, most_open: None }
    }

    /// Makes rows be out of order; with `late`, some are late by what their own shard has brought before, and the clocks of those who write
    /// to some shards are ahead: a shard may have passed windows that are open because of others. Nothing is of a time that other shards
    /// may have closed: what becomes of such a row is a matter of when it is read.
    pub(crate) fn disorder(&mut self, chance: &Chance, late: bool) {
        let mut ahead_ms = BTreeMap::new();
        let late_of_20 = if late { [2, 12][chance.below(2) as usize] } else { 0 };
        for shard in &mut self.shards {
            // Files have no parents, and time goes on to the latest when all are read.
            let own_ms = match shard.parents.iter().map(|parent| ahead_ms[parent]).max() {
                Some(of_parents) => of_parents,
                None if late && self.most_open.is_none() && chance.percent(50) => chance.below(30_000),
                None => 0,
            };
            ahead_ms.insert(shard.id.clone(), own_ms);
            let earliest_ms = shard.begins_ms.saturating_sub(IN_TIME_MS);
            for event in &mut shard.events {
                let behind_ms = match chance.below(20) {
                    share if share < late_of_20 => IN_TIME_MS + chance.below(10_000),
                    share if share < late_of_20 + 3 => chance.below(IN_TIME_MS),
                    _ => 0,
                };
                event.time_ms = own_ms + event.time_ms.saturating_sub(behind_ms).max(earliest_ms);
            }
        }
    }

    /// Makes some records undecodable.
    pub(crate) fn damage(&mut self, chance: &Chance) {
        for event in self.shards.iter_mut().flat_map(|shard| &mut shard.events) {
            event.broken = chance.below(30) == 0;
        }
    }

    /// Notes where each event is, and what its shard has brought before it.
    pub(crate) fn note_places(&mut self) {
        for shard in &mut self.shards {
            let mut passed_ms = None;
            for (number, event) in shard.events.iter_mut().enumerate() {
                event.passed_ms = passed_ms;
                (event.shard, event.number) = (shard.id.clone(), number);
                if !event.broken {
                    passed_ms = passed_ms.max(Some(event.time_ms));
                }
            }
        }
    }

    /// How many files it has.
    pub(crate) fn files(&self) -> u64 {
        self.most_open.map_or(0, |_| self.shards.len() as u64)
    }

    /// All events whose records can be decoded.
    pub(crate) fn events(&self) -> impl Iterator<Item = &Event> {
        self.shards.iter().flat_map(|shard| &shard.events).filter(|event| !event.broken)
    }

    /// All others.
    pub(crate) fn broken(&self) -> impl Iterator<Item = &Event> {
        self.shards.iter().flat_map(|shard| &shard.events).filter(|event| event.broken)
    }
}

/// The stream as one machine reads it.
#[derive(Debug)]
pub(crate) struct FarStream {
    pub(crate) stream: Arc<Stream>,
    pub(crate) machine: Arc<Machine>,
    pub(crate) bug: Option<Bug>,
}

impl FarStream {
    fn now_ms(&self) -> u64 {
        self.machine.nature.world.now_ms()
    }
}

#[async_trait]
impl Source for FarStream {
    async fn splits(&self) -> Result<Vec<Split>> {
        let now_ms = self.now_ms();
        let split = |shard: &Shard| Split {
            id: SplitId(shard.id.as_str().into()),
            bytes: None,
            parents: shard.parents.iter().map(|parent| SplitId(parent.as_str().into())).collect(),
        };
        let drops =
            |shard: &&Shard| self.bug != Some(Bug::DropsClosedShards) || shard.closes_ms.is_none_or(|at| at > now_ms);
        Ok(self.stream.shards.iter().filter(|shard| shard.opens_ms <= now_ms).filter(drops).map(split).collect())
    }

    async fn open(&self, split: &Split, resume: Option<&Position>, _: StartPosition) -> Result<Box<dyn SplitReader>> {
        let shard = self.stream.shards.iter().position(|shard| shard.id == *split.id.0).expect("a shard of the stream");
        let after = resume.map_or(0, |position| position.0.parse::<usize>().expect("a number") + 1);
        let next = if self.bug == Some(Bug::ResumesInclusive) { after.saturating_sub(1) } else { after };
        let stream = FarStream { stream: Arc::clone(&self.stream), machine: Arc::clone(&self.machine), bug: self.bug };
        Ok(Box::new(Reader { stream, shard, next, silent_until_ms: 0 }))
    }

    fn most_open(&self) -> Option<NonZeroUsize> {
        self.stream.most_open
    }

    fn boundedness(&self) -> Boundedness {
        Boundedness::Unbounded
    }
}

struct Reader {
    stream: FarStream,
    shard: usize,
    next: usize,
    /// Nobody can ask the shard until then.
    silent_until_ms: u64,
}

#[async_trait]
impl SplitReader for Reader {
    async fn next(&mut self) -> Result<Fetch> {
        let machine = &self.stream.machine;
        let (pause, most) = {
            let calm = machine.nature.is_calm();
            let mut inner = machine.nature.lock();
            // Throttled, or cut off from this shard alone.
            let silent = !calm && inner.chance.below(300) == 0;
            inner.faults.count_if(silent, "silent shard");
            let pause = 5 + inner.chance.below(200);
            let silence = if silent { 1_000 + inner.chance.below(20_000) } else { 0 };
            self.silent_until_ms = self.silent_until_ms.max(self.stream.now_ms() + silence);
            (pause, 1 + inner.chance.below(40) as usize)
        };
        let silence = self.silent_until_ms.saturating_sub(self.stream.now_ms());
        if silence > 0 && self.stream.bug == Some(Bug::SaysNothingUnasked) {
            machine.nature.world.sleep(Duration::from_millis(pause)).await;
            return Ok(Fetch::CaughtUp);
        }
        let pause = pause + silence;
        machine.nature.world.sleep(Duration::from_millis(pause)).await;
        machine.goes().await;
        let now_ms = self.stream.now_ms();
        let shard = &self.stream.stream.shards[self.shard];
        let events: Vec<&Event> =
            shard.events[self.next..].iter().take_while(|event| event.arrives_ms <= now_ms).take(most).collect();
        if events.is_empty() {
            let ended = shard.closes_ms.is_some_and(|at| at <= now_ms) && self.next == shard.events.len();
            let late = {
                let mut inner = machine.nature.lock();
                let late = !machine.nature.is_calm() && inner.chance.below(100) == 0;
                inner.faults.count_if(late, "old answer");
                if late { 1_000 + inner.chance.below(15_000) } else { 0 }
            };
            machine.nature.world.sleep(Duration::from_millis(late)).await;
            machine.goes().await;
            return Ok(if ended { Fetch::Finished } else { Fetch::CaughtUp });
        }
        let (mut data, mut records) = (Vec::new(), Vec::new());
        for event in &events {
            let start = data.len() as u32;
            data.extend(event.record().bytes());
            records.push(RecordRange { start, end: data.len() as u32 });
        }
        data.resize(data.len() + RECORD_PADDING, b' ');
        let first = self.next as u64;
        self.next += events.len();
        Ok(Fetch::Records(RawChunk {
            split: SplitId(shard.id.as_str().into()),
            data: Buffer::from_vec(data),
            records: records.into(),
            sequence: SequenceNumbers::Dense { first },
            arrivals: Arrivals::Same(now_ms as i64),
            partition_keys: None,
        }))
    }
}
