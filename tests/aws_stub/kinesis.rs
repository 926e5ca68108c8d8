//! Streams of the stub: shards with parents and hash ranges, records, trimming.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use md5::{Digest, Md5};

/// GetRecords calls per second and shard, and bytes.
pub(crate) const READS_PER_SECOND: usize = 5;
pub(crate) const BYTES_PER_SECOND: f64 = 2.0 * 1024.0 * 1024.0;

#[derive(Debug, Clone)]
pub(crate) struct StubRecord {
    pub(crate) sequence: String,
    pub(crate) arrival_ms: i64,
    pub(crate) key: String,
    pub(crate) data: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct StubShard {
    pub(crate) id: String,
    pub(crate) parents: Vec<String>,
    pub(crate) first_hash: u128,
    pub(crate) last_hash: u128,
    pub(crate) first_sequence: String,
    pub(crate) closed: Option<(String, i64)>,
    /// All records ever, so that numbers of trimmed ones are still known.
    pub(crate) records: Vec<StubRecord>,
    /// How many of them are gone.
    pub(crate) trimmed: usize,
    /// Empty answers before the next records are given.
    pub(crate) empty_answers: u32,
    /// What answers say of how far behind they are, instead of the truth.
    pub(crate) behind_ms: Option<u64>,
    /// Past reads, for the quota.
    pub(crate) reads: VecDeque<Instant>,
    /// Bytes given are paid for until then.
    pub(crate) paid_until: Option<Instant>,
    /// GetRecords answered.
    pub(crate) answered: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct StubConsumer {
    pub(crate) name: String,
    pub(crate) arn: String,
    pub(crate) created_ms: i64,
    pub(crate) deleting_until: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct StubStream {
    pub(crate) name: String,
    pub(crate) arn: String,
    pub(crate) created_ms: i64,
    pub(crate) retention_hours: i64,
    pub(crate) shards: BTreeMap<String, StubShard>,
    pub(crate) consumers: Vec<StubConsumer>,
    /// Subscriptions by consumer and shard: number, and when it began.
    pub(crate) subscriptions: BTreeMap<(String, String), (u64, Instant)>,
    /// Sequence numbers are short and grow by a digit, as moto's do.
    pub(crate) short_numbers: bool,
    next_shard: usize,
    next_number: u64,
    /// Positions given to SubscribeToShard and GetShardIterator, for tests that look at them.
    pub(crate) starts: Vec<(String, String)>,
}

impl StubStream {
    /// Removes a consumer, which takes a while; `false` when there is none.
    pub(crate) fn deregister(&mut self, arn: &str) -> bool {
        let found = self.consumers.iter_mut().find(|c| c.arn == arn && c.deleting_until.is_none());
        found.map(|consumer| consumer.deleting_until = Some(Instant::now() + Duration::from_millis(700))).is_some()
    }

    pub(crate) fn new(name: &str, shards: usize, now_ms: i64) -> Self {
        let mut this = Self {
            name: name.to_owned(),
            arn: format!("arn:aws:kinesis:eu-west-1:123456789012:stream/{name}"),
            created_ms: now_ms,
            retention_hours: 24,
            shards: BTreeMap::new(),
            consumers: Vec::new(),
            subscriptions: BTreeMap::new(),
            short_numbers: false,
            next_shard: 0,
            next_number: 1,
            starts: Vec::new(),
        };
        let width = u128::MAX / shards as u128;
        for index in 0..shards as u128 {
            let last = if index + 1 == shards as u128 { u128::MAX } else { (index + 1) * width - 1 };
            this.add(Vec::new(), index * width, last);
        }
        this
    }

    fn number(&mut self) -> String {
        self.next_number += 1;
        let n = self.next_number;
        if self.short_numbers { n.to_string() } else { format!("4959033827149025660855969253836157109{n:019}") }
    }

    fn add(&mut self, parents: Vec<String>, first_hash: u128, last_hash: u128) -> String {
        let id = format!("shardId-{:012}", self.next_shard);
        self.next_shard += 1;
        let first_sequence = self.number();
        let shard = StubShard {
            id: id.clone(),
            parents,
            first_hash,
            last_hash,
            first_sequence,
            closed: None,
            records: Vec::new(),
            trimmed: 0,
            empty_answers: 0,
            behind_ms: None,
            reads: VecDeque::new(),
            paid_until: None,
            answered: 0,
        };
        self.shards.insert(id.clone(), shard);
        id
    }

    pub(crate) fn put(&mut self, key: &str, hash: Option<u128>, data: &[u8], now_ms: i64) -> (String, String) {
        let hash = hash.unwrap_or_else(|| u128::from_be_bytes(Md5::digest(key.as_bytes()).into()));
        let sequence = self.number();
        let open = |s: &&mut StubShard| s.closed.is_none() && (s.first_hash..=s.last_hash).contains(&hash);
        let shard = self.shards.values_mut().find(open).expect("open shards cover all hashes");
        let record =
            StubRecord { sequence: sequence.clone(), arrival_ms: now_ms, key: key.to_owned(), data: data.to_vec() };
        shard.records.push(record);
        (shard.id.clone(), sequence)
    }

    fn close(&mut self, shard: &str, now_ms: i64) -> (u128, u128) {
        let number = self.number();
        let shard = self.shards.get_mut(shard).expect("the shard exists");
        assert!(shard.closed.is_none(), "{} is closed", shard.id);
        shard.closed = Some((number, now_ms));
        (shard.first_hash, shard.last_hash)
    }

    pub(crate) fn split(&mut self, shard: &str, at: Option<u128>, now_ms: i64) -> (String, String) {
        let (first, last) = self.close(shard, now_ms);
        let at = at.unwrap_or(first + (last - first) / 2 + 1);
        let parents = vec![shard.to_owned()];
        (self.add(parents.clone(), first, at - 1), self.add(parents, at, last))
    }

    pub(crate) fn merge(&mut self, shard: &str, adjacent: &str, now_ms: i64) -> String {
        let (one, other) = (self.close(shard, now_ms), self.close(adjacent, now_ms));
        let parents = vec![shard.to_owned(), adjacent.to_owned()];
        self.add(parents, one.0.min(other.0), one.1.max(other.1))
    }

    /// Records that are older than the stream's retention go.
    pub(crate) fn trim(&mut self, now_ms: i64) {
        let oldest = now_ms - self.retention_hours * 3_600_000;
        let mut gone = Vec::new();
        for shard in self.shards.values_mut() {
            shard.trimmed = shard.trimmed.max(shard.records.iter().take_while(|r| r.arrival_ms < oldest).count());
            if shard.closed.as_ref().is_some_and(|(_, at)| *at < oldest) {
                gone.push(shard.id.clone());
            }
        }
        for id in gone {
            self.shards.remove(&id);
        }
    }

    pub(crate) fn open_shards(&self) -> Vec<String> {
        self.shards.values().filter(|s| s.closed.is_none()).map(|s| s.id.clone()).collect()
    }

    pub(crate) fn children(&self, shard: &str) -> Vec<&StubShard> {
        self.shards.values().filter(|s| s.parents.iter().any(|p| p == shard)).collect()
    }
}

impl StubShard {
    /// Whether a read is within the quota; it counts either way.
    pub(crate) fn may_read(&mut self) -> bool {
        let now = Instant::now();
        while self.reads.front().is_some_and(|at| now.duration_since(*at) >= Duration::from_secs(1)) {
            self.reads.pop_front();
        }
        let paid = self.paid_until.is_none_or(|until| now >= until);
        if self.reads.len() >= READS_PER_SECOND || !paid {
            return false;
        }
        self.reads.push_back(now);
        true
    }

    pub(crate) fn pay(&mut self, bytes: usize) {
        self.paid_until = Some(Instant::now() + Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND));
    }

    /// The index of the first record after `sequence`, or of it.
    pub(crate) fn index_of(&self, sequence: &str, after: bool) -> Option<usize> {
        let found = self.records.iter().position(|r| r.sequence == sequence);
        match found {
            Some(index) => Some(index + usize::from(after)),
            // The shard's own first number is a position too.
            None if sequence == self.first_sequence => Some(0),
            None => None,
        }
    }
}
