//! A stream that is read: its shards, as they were last heard of, and what is done about records that are gone.
//!
//! A task lists the shards in the background; [`Stream::shards`] answers from what it heard. A shard that ends says who
//! its children are, and they are known before the runtime hears of the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_kinesis::types::{ChildShard, Shard};
use tokio::sync::Notify;

use crate::connectors::aws::{AwsFailure, Jitter};
use crate::contracts::{Clock, Error, Result, caught};

use super::client::{StreamClient, Summary};
use super::lineage::{Lineage, Listed, ShardId};
use super::position::ShardPosition;
use super::retry::{Backoff, START_PATIENCE};

/// Listings between two looks at the stream itself (was it made anew? has its retention changed?).
const LISTINGS_PER_SUMMARY: u32 = 6;
/// Listings, and the pause between two, in which a shard that has ended waits for its children and their other parents to be named:
/// a listing is some seconds behind at most.
const FAMILY_LISTINGS: u32 = 3;
const BETWEEN_LISTINGS: Duration = Duration::from_secs(1);
/// A reader that runs may be this much older than retention before records count as lost: AWS trims a little late,
/// and a start at the oldest record begins there.
const RUNNING_GRACE_MS: i64 = 300_000;

/// What to do when records that should be read have aged out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnExpired {
    /// End the job with an error that says how much is lost.
    Fail,
    /// Say so, count, and go on from the oldest record that is left.
    Oldest,
}

/// How strictly a position is held against retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// A saved position is taken up.
    Resuming,
    /// Between two reads.
    Running,
}

/// A stream and its shards.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) client: StreamClient,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) jitter: Arc<Jitter>,
    on_expired: OnExpired,
    lineage: Mutex<Lineage>,
    /// Up to when a shard that has ended was read, for its children.
    ended: Mutex<BTreeMap<ShardId, i64>>,
    arn: Mutex<Arc<str>>,
    created_ms: AtomicI64,
    retention_ms: AtomicI64,
    losses: AtomicI64,
    look_now: Notify,
    /// What the task in the background could not go on with.
    failed: Mutex<Option<Error>>,
}

fn listed(shard: &Shard) -> Listed {
    let parents = [shard.parent_shard_id(), shard.adjacent_parent_shard_id()];
    Listed { id: shard.shard_id().into(), parents: parents.into_iter().flatten().map(Arc::from).collect() }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `3 days 2 h`, `5 min`, `12 s`.
pub(super) fn span(ms: i64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} days {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

fn time(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms)
        .map_or_else(|| ms.to_string(), |t| t.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

impl Stream {
    /// Reaches the stream.
    pub(super) async fn open(
        client: StreamClient,
        clock: Arc<dyn Clock>,
        jitter: Arc<Jitter>,
        on_expired: OnExpired,
    ) -> Result<Self> {
        let this = Self {
            client,
            clock,
            jitter,
            on_expired,
            lineage: Mutex::default(),
            ended: Mutex::default(),
            arn: Mutex::new("".into()),
            created_ms: AtomicI64::new(0),
            retention_ms: AtomicI64::new(i64::MAX),
            losses: AtomicI64::new(0),
            look_now: Notify::new(),
            failed: Mutex::default(),
        };
        let summary = this.summary(Some(START_PATIENCE)).await?;
        if !summary.readable {
            return Err(Error::unavailable(format!("stream '{}' is being created or deleted", this.name()))
                .hint("wait until it is ACTIVE"));
        }
        this.take_summary(&summary);
        this.created_ms.store(summary.created_ms, Ordering::Relaxed);
        Ok(this)
    }

    pub(super) fn name(&self) -> &Arc<str> {
        self.client.name()
    }

    pub(super) fn arn(&self) -> Arc<str> {
        Arc::clone(&lock(&self.arn))
    }

    pub(super) fn created_ms(&self) -> i64 {
        self.created_ms.load(Ordering::Relaxed)
    }

    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(Arc::clone(&self.clock), Arc::clone(&self.jitter))
    }

    async fn summary(&self, patience: Option<Duration>) -> Result<Summary, AwsFailure> {
        self.backoff().persist(patience, || self.client.summary()).await
    }

    fn take_summary(&self, summary: &Summary) {
        self.retention_ms.store(summary.retention_ms, Ordering::Relaxed);
        *lock(&self.arn) = Arc::clone(&summary.arn);
    }

    /// The service's time.
    pub(super) fn server_ms(&self) -> i64 {
        self.client.server_ms()
    }

    async fn list(&self, from_ms: Option<i64>, patience: Option<Duration>) -> Result<Vec<Listed>> {
        let mut shards = Vec::new();
        let mut token = None;
        let mut backoff = self.backoff();
        loop {
            let page = backoff.persist(patience, || self.client.shards(from_ms, token.clone())).await;
            let (page, next) = match page {
                Ok(page) => page,
                // Tokens hold for 5 minutes; a listing that was throttled for longer starts again.
                Err(failure) if failure.code == "ExpiredNextTokenException" => {
                    shards.clear();
                    token = None;
                    continue;
                }
                Err(failure) => return Err(failure.error),
            };
            shards.extend(page.iter().map(listed));
            if next.is_none() {
                return Ok(shards);
            }
            token = next;
        }
    }

    /// Starts with the shards that hold records from `from_ms` on, or all.
    pub(super) async fn start(&self, from_ms: Option<i64>) -> Result<()> {
        let shards = self.list(from_ms, Some(START_PATIENCE)).await?;
        *lock(&self.lineage) = Lineage::start(shards);
        Ok(())
    }

    /// Goes on after an earlier run, which knew these shards and stood there. `true`: read to the end.
    pub(super) async fn go_on(&self, earlier: &BTreeMap<ShardId, (Option<ShardPosition>, bool)>) -> Result<()> {
        let shards = self.list(None, Some(START_PATIENCE)).await?;
        let (lineage, gone) = Lineage::go_on(shards, earlier.keys().cloned().collect::<BTreeSet<_>>());
        *lock(&self.lineage) = lineage;
        for (id, (position, finished)) in earlier {
            if let (true, Some(until)) = (finished, position.as_ref().and_then(ShardPosition::until_ms)) {
                lock(&self.ended).insert(Arc::clone(id), until);
            }
        }
        for id in gone {
            let Some((position, false)) = earlier.get(&id) else { continue };
            let until = position.as_ref().and_then(ShardPosition::until_ms);
            self.lost(&id, until, "the shard itself has aged out")?;
        }
        Ok(())
    }

    /// The shards to read, or why they are not known any more.
    pub(super) fn shards(&self) -> Result<Vec<Listed>> {
        if let Some(error) = lock(&self.failed).take() {
            return Err(error);
        }
        Ok(lock(&self.lineage).shards())
    }

    /// Lists the shards again and again. Ends with the source.
    pub(super) async fn watch(self: Arc<Self>, interval: Duration) {
        let who = format!("the task that lists the shards of stream '{}'", self.name());
        if let Err(error) = caught(&who, self.list_again(interval)).await.flatten() {
            *lock(&self.failed) = Some(error);
        }
    }

    async fn list_again(&self, interval: Duration) -> Result<()> {
        let mut listings = 0u32;
        loop {
            tokio::select! {
                () = self.clock.sleep(interval) => {}
                () = self.look_now.notified() => {}
            }
            listings = listings.wrapping_add(1);
            if listings.is_multiple_of(LISTINGS_PER_SUMMARY) {
                self.same_stream().await?;
            }
            self.refresh().await?;
        }
    }

    async fn refresh(&self) -> Result<()> {
        let shards = self.list(None, None).await?;
        if lock(&self.lineage).listed(shards) {
            tracing::info!(stream = %self.name(), "new shards");
        }
        Ok(())
    }

    /// Whether the service names this shard.
    pub(super) async fn lists(&self, shard: &str) -> Result<bool> {
        Ok(self.list(None, None).await?.iter().any(|listed| &*listed.id == shard))
    }

    /// Fails when the stream is gone, or another one has its name now.
    pub(super) async fn same_stream(&self) -> Result<()> {
        let summary = self.summary(None).await?;
        self.take_summary(&summary);
        self.check_created(self.created_ms(), summary.created_ms)
    }

    /// Fails when the stream was made at another time than an earlier run saw.
    pub(super) fn check_created(&self, before_ms: i64, now_ms: i64) -> Result<()> {
        // To the second: it comes as a binary float.
        if before_ms.abs_diff(now_ms) < 1_000 {
            return Ok(());
        }
        Err(Error::config(format!(
            "stream '{}' was deleted and made again: it was created at {}, the one that was read at {}",
            self.name(),
            time(now_ms),
            time(before_ms)
        ))
        .hint("its positions mean nothing in the new stream; start with --fresh to read that from its beginning"))
    }

    /// A shard has been read to its end. Its children are known when this returns.
    pub(super) async fn shard_ended(&self, shard: &str, children: &[ChildShard], until_ms: Option<i64>) -> Result<()> {
        if let Some(until) = until_ms {
            lock(&self.ended).insert(shard.into(), until);
        }
        let child = |child: &ChildShard| Listed {
            id: child.shard_id().into(),
            parents: child.parent_shards().iter().map(|p| p.as_str().into()).collect(),
        };
        let children: Vec<Listed> = children.iter().map(child).collect();
        lock(&self.lineage).children(children);
        // Not every answer names them, and the other parent of a merge may be so young that no listing has it yet: the runtime would start
        // the child without it. One that stays away has aged out.
        for listing in 0..FAMILY_LISTINGS {
            if lock(&self.lineage).knows_family(shard) {
                break;
            }
            if listing > 0 {
                self.clock.sleep(BETWEEN_LISTINGS).await;
            }
            self.refresh().await?;
        }
        self.look_now.notify_one();
        Ok(())
    }

    /// A time at which a shard was not there yet, so that its records are younger: until then its parents have been read, and each
    /// of them had to end first. Of two that merge, one may have been quiet for long: the later time counts.
    pub(super) fn inherited(&self, parents: &[ShardId]) -> Option<i64> {
        let ended = lock(&self.ended);
        parents.iter().filter_map(|p| ended.get(p).copied()).max()
    }

    /// Holds a position against retention. With a time, records before it are gone, and reading goes on from the oldest one.
    pub(super) fn check_age(&self, shard: &str, position: &ShardPosition, moment: Moment) -> Result<Option<i64>> {
        let Some(until) = position.until_ms() else { return Ok(None) };
        let oldest = self.oldest_ms();
        let grace = if moment == Moment::Running { RUNNING_GRACE_MS } else { 0 };
        if until.max(self.created_ms()) >= oldest.saturating_sub(grace) {
            return Ok(None);
        }
        self.lost(shard, Some(until), "that is older than the stream's retention")?;
        Ok(Some(oldest))
    }

    /// Records before this are gone.
    pub(super) fn oldest_ms(&self) -> i64 {
        self.clock.now_ms().saturating_sub(self.retention_ms.load(Ordering::Relaxed))
    }

    /// Records of a shard are gone: an error, or a warning, as the table's option says.
    pub(super) fn lost(&self, shard: &str, until_ms: Option<i64>, why: &str) -> Result<()> {
        let oldest = self.oldest_ms();
        let retention = span(self.retention_ms.load(Ordering::Relaxed));
        let how_much = match until_ms {
            Some(until) => format!(
                "it was read up to {}, {why}, and what arrived in the {} until {} is lost (retention {retention})",
                time(until),
                span(oldest.saturating_sub(until).max(0)),
                time(oldest.max(until)),
            ),
            None => format!("nothing of it had been read, {why}, and all its records are lost (retention {retention})"),
        };
        let message = format!("shard '{shard}' of stream '{}': {how_much}", self.name());
        match self.on_expired {
            OnExpired::Fail => Err(Error::data(message).hint(
                "to go on with the oldest records that are left, set 'source.on-expired-position' = 'oldest' (if the run before was \
                 killed, `tidemill state rewind STORE latest` first: its last epochs cannot be repeated without the records); \
                 to lose less the next time, raise the stream's retention",
            )),
            OnExpired::Oldest => {
                let losses = self.losses.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::warn!(losses, "{message}; going on with the oldest records that are left");
                Ok(())
            }
        }
    }

    /// Times at which records were found to be gone.
    pub(super) fn losses(&self) -> i64 {
        self.losses.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_for_people() {
        for (ms, text) in [(1_500, "1 s"), (300_000, "5 min"), (7_260_000, "2 h 1 min"), (90_000_000, "1 days 1 h")] {
            assert_eq!(span(ms), text);
        }
    }
}
