//! What a reader says of a split, and as of when.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::idleness::Pending;
use super::quotas::Quotas;
use super::reader::{Event, ReaderTask};
use super::shared_decode::FeedDecoder;
use crate::contracts::{Fetch, ManualClock, Position, Result, SplitReader};

/// Looks, finds nothing, and answers a minute later: the process was stopped, or the answer was on its way for so long.
struct SlowAnswers(Arc<ManualClock>);

#[async_trait]
impl SplitReader for SlowAnswers {
    async fn next(&mut self) -> Result<Fetch> {
        self.0.advance(Duration::from_secs(60));
        Ok(Fetch::CaughtUp)
    }

    fn position(&self) -> Option<Position> {
        None
    }

    fn behind_ms(&self) -> Option<u64> {
        None
    }
}

#[tokio::test]
async fn an_answer_says_what_was_when_it_was_asked_for() {
    let clock = Arc::new(ManualClock::new(0));
    let (events, mut received) = mpsc::channel(1);
    let task = ReaderTask {
        feed: 0,
        split: 0,
        reader: Box::new(SlowAnswers(Arc::clone(&clock))),
        decoder: FeedDecoder::default(),
        tables: Vec::new(),
        events,
        brake: Arc::default(),
        pieces: Arc::default(),
        max_records: 1,
        max_bytes: 1,
        ends_when_caught_up: false,
        quotas: Quotas::new(None),
        looks: false,
        until: None,
        clock,
        pending: Pending::default(),
    };
    let reading = tokio::spawn(task.run());
    for asked_ms in [0, 60_000] {
        let event = received.recv().await;
        assert!(matches!(event, Some(Event::CaughtUp { at_ms, .. }) if at_ms == asked_ms), "{event:?}, {asked_ms}");
    }
    drop(received);
    reading.await.expect("it ends");
}
