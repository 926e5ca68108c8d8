//! Reading a shard by GetRecords.
//!
//! ```text
//! next ──► ready? ──► wait (pace) ──► permit ──► GetShardIterator if there is none ──► GetRecords ──► chunks
//!                                                                                        │ no next iterator
//!                                                                                        ▼
//!                                                                         children known, then Finished
//! ```
//!
//! An answer may be empty long before the newest record is reached, may carry records although it says "0 ms behind", and
//! the last one of a shard may carry records too: only an empty answer that is not behind is the end of what there is.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::types::ChildShard;

use crate::contracts::{Fetch, Position, Result, SplitReader};

use super::budget::{Allowance, KEEP_SHARES};
use super::pace::{Pace, PaceOptions};
use super::retry::Backoff;
use super::shard::{ShardReading, Verdict};

/// Records asked for before any has been seen: 100 of the largest are no more than an answer may hold.
const FIRST_LIMIT: usize = 100;
/// GetRecords gives up to so many records.
pub(super) const LARGEST_LIMIT: usize = 10_000;
/// An answer that is empty, though behind, and no less behind than the one before, so many times: there is nothing. Some
/// shards say so for ever (a stream without traffic whose last record is old).
const STUCK_ANSWERS: u32 = 20;
/// Failed calls after which the iterator is not trusted any more.
const TRUSTED_FAILURES: u32 = 4;

/// Reads one shard.
#[derive(Debug)]
pub(super) struct PollingReader {
    shard: ShardReading,
    iterator: Option<String>,
    pace: Pace,
    allowance: Allowance,
    backoff: Backoff,
    failures: u32,
    most_records: usize,
    /// Bytes of a record, as last seen.
    record_bytes: Option<usize>,
    /// How far behind the last empty answers were, and how many have not been less so.
    stuck: (u64, u32),
    end: Option<Vec<ChildShard>>,
}

impl PollingReader {
    pub(super) fn new(shard: ShardReading, allowance: Allowance, pace: PaceOptions, most_records: usize) -> Self {
        let backoff = shard.stream.backoff();
        Self {
            shard,
            iterator: None,
            pace: Pace::new(pace),
            allowance,
            backoff,
            failures: 0,
            most_records,
            record_bytes: None,
            stuck: (u64::MAX, 0),
            end: None,
        }
    }

    fn limit(&self) -> usize {
        let fits = match self.record_bytes {
            Some(bytes) => self.allowance.share() / bytes.max(1),
            None => FIRST_LIMIT,
        };
        fits.clamp(1, self.most_records)
    }

    /// Asks once. `true`: everything that is there has been read.
    async fn ask(&mut self) -> Result<bool> {
        let clock = std::sync::Arc::clone(&self.shard.stream.clock);
        let wait = self.pace.wait(clock.elapsed());
        if !wait.is_zero() {
            clock.sleep(wait).await;
        }
        self.shard.check_age()?;
        let iterator = match self.iterator.clone() {
            Some(iterator) => iterator,
            None => match self.shard.stream.client.iterator(&self.shard.id, &self.shard.place()).await {
                Ok(iterator) => {
                    self.iterator = Some(iterator.clone());
                    iterator
                }
                Err(failure) => return self.failed(failure).await,
            },
        };
        let limit = self.limit();
        let permit = self.allowance.call().await?;
        let asked_ms = clock.now_ms();
        let answer = self.shard.stream.client.records(&iterator, i32::try_from(limit).unwrap_or(i32::MAX)).await;
        drop(permit);
        // Quotas are counted where the call arrives, some time before this.
        let answered = clock.elapsed();
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(failure) => return self.failed(failure).await,
        };
        self.backoff.reset();
        self.failures = 0;
        let bytes: usize =
            answer.records.iter().map(|r| r.data().as_ref().len() + r.partition_key().map_or(0, str::len)).sum();
        let (count, ends) = (answer.records.len(), answer.next.is_none());
        if count == 0 {
            self.shard.take(&[], answer.behind_ms, Some(asked_ms), ends)?;
        } else {
            self.record_bytes = Some(bytes.div_ceil(count));
            let cut = self.fits(&answer.records);
            if cut < count {
                // Much larger than asked for: the rest is read again.
                answer.records.truncate(cut);
                self.shard.take(&answer.records, None, None, false)?;
                self.iterator = None;
                self.pace.took(answered, bytes);
                return Ok(false);
            }
            self.shard.take(&answer.records, answer.behind_ms, Some(asked_ms), ends)?;
        }
        if self.shard.stopped() {
            return Ok(false);
        }
        if ends {
            self.end = Some(answer.children);
        }
        self.iterator = answer.next;
        if ends {
            return Ok(false);
        }
        if count > 0 {
            self.stuck = (u64::MAX, 0);
            self.pace.took(answered, bytes);
            return Ok(false);
        }
        let caught_up = self.caught_up(answer.behind_ms.unwrap_or(0));
        if caught_up {
            self.shard.caught_up(asked_ms);
            self.pace.idle(answered);
        } else {
            self.pace.took(answered, 0);
        }
        Ok(caught_up)
    }

    /// How many of the records are kept.
    fn fits(&self, records: &[aws_sdk_kinesis::types::Record]) -> usize {
        let most = self.allowance.share() * KEEP_SHARES;
        let mut bytes = 0;
        let fits = records.iter().take_while(|record| {
            bytes += record.data().as_ref().len();
            bytes <= most
        });
        fits.count().max(1)
    }

    /// Whether an empty answer that is so far behind means that there is nothing.
    fn caught_up(&mut self, behind_ms: u64) -> bool {
        if behind_ms == 0 {
            self.stuck = (u64::MAX, 0);
            return true;
        }
        self.stuck = if behind_ms < self.stuck.0 { (behind_ms, 0) } else { (self.stuck.0, self.stuck.1 + 1) };
        self.stuck.1 >= STUCK_ANSWERS
    }

    async fn failed(&mut self, failure: crate::connectors::aws::AwsFailure) -> Result<bool> {
        self.failures += 1;
        if self.failures > TRUSTED_FAILURES && !failure.throttled {
            self.iterator = None;
        }
        // The pause needs the failure, and the verdict takes it.
        if failure.retryable {
            self.backoff.pause(&failure).await;
            return Ok(false);
        }
        match self.shard.judge(failure).await? {
            Verdict::Retry => {
                let clock = std::sync::Arc::clone(&self.shard.stream.clock);
                clock.sleep(Duration::from_millis(200)).await;
            }
            Verdict::Renew => self.iterator = None,
            Verdict::Gone => self.end = Some(Vec::new()),
        }
        Ok(false)
    }
}

#[async_trait]
impl SplitReader for PollingReader {
    async fn next(&mut self) -> Result<Fetch> {
        loop {
            if let Some(fetch) = self.shard.before_asking(self.end.as_deref()).await? {
                return Ok(fetch);
            }
            if self.ask().await? {
                return Ok(Fetch::CaughtUp);
            }
        }
    }

    fn position(&self) -> Option<Position> {
        Some(self.shard.position.to_position())
    }

    fn behind_ms(&self) -> Option<u64> {
        self.shard.behind_ms()
    }
}
