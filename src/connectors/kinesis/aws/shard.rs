//! What polling and enhanced fan-out share: a shard, where reading stands in it, and how its records become chunks.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_kinesis::types::{ChildShard, Record};

use crate::connectors::aws::AwsFailure;
use crate::contracts::{Fetch, Position, Result, Split, SplitId};

use super::chunks::{Unpacker, arrival_ms};
use super::lineage::ShardId;
use super::position::{Place, ShardPosition};
use super::read_options::ReadOptions;
use super::retry::Backoff;
use super::stream::{Moment, Stream};

/// A timestamp that is refused may be a moment ahead of the service; one that is younger than this is tried again.
pub(super) const AHEAD_MS: i64 = 10_000;

/// Between two answers of a shard that has reached the stop position.
const REST: Duration = Duration::from_secs(1);

/// A shard that is being read.
#[derive(Debug)]
pub(super) struct ShardReading {
    pub(super) stream: Arc<Stream>,
    pub(super) id: ShardId,
    /// The record after which the next read begins.
    pub(super) position: ShardPosition,
    /// The record of `position` is gone: the next one is the oldest that is left.
    from_oldest: bool,
    /// Holds what has been fetched and not been given out.
    unpacker: Unpacker,
    behind_ms: Option<u64>,
    /// Records that arrived then or later are left for a later run.
    stop_ms: Option<i64>,
    stopped: bool,
    rests: bool,
    /// Of pauses while the service does not find a shard that it lists.
    missing: Backoff,
}

/// What a failed call means for a shard's reader.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The same call may succeed later.
    Retry,
    /// A new iterator or subscription is needed, from `position`.
    Renew,
    /// The shard is gone, and the table's option says to go on without it.
    Gone,
}

impl ShardReading {
    pub(super) fn open(
        stream: Arc<Stream>,
        id: ShardId,
        split: &Split,
        resume: Option<&Position>,
        start: ShardPosition,
        (options, stop_ms): (&ReadOptions, Option<i64>),
    ) -> Result<Self> {
        let mut position = resume.map_or(Ok(start), ShardPosition::parse)?;
        let inherited = if position.place == Place::Horizon { stream.inherited(&split_parents(split)) } else { None };
        if let Some(until) = inherited {
            position.read_until(until);
        }
        let moment = if resume.is_some() { Moment::Resuming } else { Moment::Running };
        let missing = stream.backoff();
        let mut this = Self {
            stream,
            id,
            position,
            from_oldest: false,
            unpacker: Unpacker::new(split.id.clone(), options.unpack),
            behind_ms: None,
            stop_ms,
            stopped: false,
            rests: false,
            missing,
        };
        this.hold_against_retention(moment)?;
        Ok(this)
    }

    /// Where the service shall begin.
    pub(super) fn place(&self) -> Place {
        if self.from_oldest { Place::Horizon } else { self.position.place.clone() }
    }

    /// Checks that nothing has aged out before it was read.
    pub(super) fn check_age(&mut self) -> Result<()> {
        if self.from_oldest { Ok(()) } else { self.hold_against_retention(Moment::Running) }
    }

    fn hold_against_retention(&mut self, moment: Moment) -> Result<()> {
        if let Some(oldest_ms) = self.stream.check_age(&self.id, &self.position, moment)? {
            self.from_oldest = true;
            // What is gone has been told of, and is not told of again by the children.
            self.position.read_until(oldest_ms);
        }
        Ok(())
    }

    /// Makes the next chunks no larger than about `bytes`.
    pub(super) fn limit_chunks(&mut self, bytes: usize) {
        self.unpacker.limit_chunks(bytes);
    }

    /// Takes an answer. `true_ms` is a time at which it was true, `None` where nobody knows one; `ends` says that it is the last one of the
    /// shard.
    ///
    /// # Errors
    /// It has something that is no record.
    pub(super) fn take(
        &mut self,
        records: &[Record],
        behind_ms: Option<u64>,
        true_ms: Option<i64>,
        ends: bool,
    ) -> Result<()> {
        let after_stop = self.stop_ms.and_then(|stop| records.iter().position(|r| arrival_ms(r) >= stop));
        let records = &records[..after_stop.unwrap_or(records.len())];
        if !records.is_empty() {
            self.from_oldest = false;
            self.unpacker.take(records, &mut self.position)?;
        }
        if after_stop.is_some() {
            self.stopped = true;
            self.behind_ms = Some(0);
            return Ok(());
        }
        self.missing.reset();
        self.behind_ms = behind_ms;
        // That nothing is left of a shard which has ended says nothing of the time since, whose records are its children's.
        if let (Some(behind), Some(true_ms), false) = (behind_ms, true_ms, ends) {
            // Everything that arrived before then has been given.
            self.position.read_until(true_ms.saturating_sub(i64::try_from(behind).unwrap_or(i64::MAX)));
        }
        Ok(())
    }

    /// The stop position has been reached: for this run, the shard is caught up.
    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    /// What is to be said before the service is asked again; `end` are the children of a shard that has been read to its
    /// end. `None`: ask.
    pub(super) async fn before_asking(&mut self, end: Option<&[ChildShard]>) -> Result<Option<Fetch>> {
        if let Some(chunk) = self.unpacker.next_chunk() {
            return Ok(Some(Fetch::Records(chunk)));
        }
        if let Some(children) = end {
            self.ended(children).await?;
            return Ok(Some(Fetch::Finished));
        }
        if self.stopped {
            self.rest().await;
            return Ok(Some(Fetch::CaughtUp));
        }
        Ok(None)
    }

    /// Waits before the runtime is told again that the stop position has been reached.
    async fn rest(&mut self) {
        if self.rests {
            self.stream.clock.sleep(REST).await;
        }
        self.rests = true;
    }

    /// Nothing newer was there at `asked_ms`, whatever the answer says of how far behind it is.
    pub(super) fn caught_up(&mut self, asked_ms: i64) {
        self.position.read_until(asked_ms);
        self.behind_ms = Some(0);
    }

    pub(super) fn behind_ms(&self) -> Option<u64> {
        self.behind_ms
    }

    /// The shard has been read to its end.
    async fn ended(&self, children: &[ChildShard]) -> Result<()> {
        self.stream.shard_ended(&self.id, children, self.position.until_ms()).await
    }

    /// What to do about a failed call.
    pub(super) async fn judge(&mut self, failure: AwsFailure) -> Result<Verdict> {
        if failure.retryable {
            return Ok(Verdict::Retry);
        }
        match failure.code.as_str() {
            "ExpiredIteratorException" => Ok(Verdict::Renew),
            "ResourceNotFoundException" => {
                // Fails when it is the whole stream that is gone.
                self.stream.same_stream().await?;
                if self.stream.lists(&self.id).await? {
                    // Not the shard is gone, whatever is: it will be found again.
                    self.missing.pause(&failure).await;
                    return Ok(Verdict::Renew);
                }
                self.stream.lost(&self.id, self.position.read_until_ms, "the shard itself has aged out")?;
                // As above: that it is gone has been told, and its children tell of what is lost of theirs.
                self.position.read_until(self.stream.oldest_ms());
                Ok(Verdict::Gone)
            }
            "InvalidArgumentException" => {
                self.stream.same_stream().await?;
                match &self.position.place {
                    Place::At(ms) if *ms > self.stream.clock.now_ms() - AHEAD_MS => Ok(Verdict::Retry),
                    // A quiet shard, whose last record has aged out: what is left is younger, and nothing was lost,
                    // as `check_age` has found.
                    Place::After { .. } if !self.from_oldest => {
                        self.from_oldest = true;
                        Ok(Verdict::Renew)
                    }
                    _ => Err(self.context(failure)),
                }
            }
            _ => Err(self.context(failure)),
        }
    }

    fn context(&self, failure: AwsFailure) -> crate::contracts::Error {
        failure.error.context(format!("shard '{}'", self.id))
    }
}

/// Parents of a split by their shard ids.
fn split_parents(split: &Split) -> Vec<ShardId> {
    split.parents.iter().map(|SplitId(id)| id.rsplit('/').next().unwrap_or(id).into()).collect()
}
