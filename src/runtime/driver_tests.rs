//! What a driver makes of sources that are not as they were: while it repeats logged epochs, and while queries catch up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::Schema;

use super::crew::Foreman;
use super::driver::{Course, Driver};
use super::epoch::EpochLimits;
use super::feed::{FeedSpecification, TableSpecification};
use super::repeat::Logged;
use super::worker::Ending;
use crate::contracts::{
    Arrivals, Boundedness, EpochCut, ErrorKind, Fetch, ManualClock, Opened, OpenedAt, Position, Result, RowChunk,
    SequenceNumbers, Source, Split, SplitCut, SplitId, SplitReader, StartPosition,
};
use crate::operators::Compute;
use crate::state::{CatchUp, Reread, SavedSplit, SavedTable};

/// Names what it is told to name. The first record of each split that is left has this number.
#[derive(Debug, Default)]
struct Listed {
    named: Mutex<Vec<&'static str>>,
    first: u64,
    /// The rest is of streams that the table has left out.
    leaves_out: bool,
    /// All others are its children.
    parent: Option<&'static str>,
}

#[async_trait]
impl Source for Listed {
    async fn splits(&self) -> Result<Vec<Split>> {
        let named = self.named.lock().expect("one thread").clone();
        let parents = |id| self.parent.filter(|parent| *parent != id).map(|parent| SplitId(parent.into()));
        let split =
            |id: &'static str| Split { id: SplitId(id.into()), bytes: None, parents: Vec::from_iter(parents(id)) };
        Ok(named.into_iter().map(split).collect())
    }

    async fn open(&self, split: &Split, _: Option<&Position>, _: StartPosition) -> Result<Box<dyn SplitReader>> {
        Ok(Box::new(Records { split: split.id.clone(), next: Some(self.first) }))
    }

    fn boundedness(&self) -> Boundedness {
        Boundedness::Unbounded
    }

    fn is_left_out(&self, _: &SplitId) -> bool {
        self.leaves_out
    }
}

/// One chunk of three records, which have no columns.
struct Records {
    split: SplitId,
    next: Option<u64>,
}

#[async_trait]
impl SplitReader for Records {
    async fn next(&mut self) -> Result<Fetch> {
        let Some(first) = self.next.take() else {
            tokio::task::yield_now().await;
            return Ok(Fetch::CaughtUp);
        };
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)?;
        let (sequence, arrivals) = (SequenceNumbers::Dense { first }, Arrivals::Same(0));
        Ok(Fetch::Rows(RowChunk { split: self.split.clone(), batch, sequence, arrivals, rejects: Vec::new() }))
    }

    fn position(&self) -> Option<Position> {
        None
    }

    fn behind_ms(&self) -> Option<u64> {
        None
    }
}

fn tables(names: &[&str], splits: &[(&str, &str)]) -> BTreeMap<String, SavedTable> {
    let split = |(id, after): &(&str, &str)| {
        let after_exclusive = Some((*after).to_owned());
        let saved = SavedSplit {
            after_exclusive,
            from_ms: None,
            watermark_ms: 0,
            finished: false,
            version: None,
            gone_ms: None,
        };
        ((*id).to_owned(), saved)
    };
    let table = SavedTable { splits: splits.iter().map(split).collect(), floor: i64::MIN, source: None };
    names.iter().map(|name| ((*name).to_owned(), table.clone())).collect()
}

/// A driver of one feed with these tables, which goes on from `from`; some queries from there, and others from `to` if that is given.
fn driver(
    source: Arc<Listed>,
    names: &[&str],
    ending: Ending,
    from: &[(&str, &str)],
    to: Option<&[(&str, &str)]>,
) -> (Driver, Arc<ManualClock>, Foreman) {
    let table = |(table, name): (usize, &&str)| TableSpecification {
        table,
        name: (*name).to_owned(),
        decoder: None,
        schema: Arc::new(Schema::empty()),
        physical: 0,
        metadata: Vec::new(),
        watermark: None,
        idle_timeout_ms: None,
        max_drift_ms: None,
    };
    let tables_of = names.iter().enumerate().map(table).collect();
    let (stream, start) = ("s".to_owned(), StartPosition::TrimHorizon);
    let feed = FeedSpecification { stream, source, start, shared: None, tables: tables_of };
    let limits = EpochLimits { interval: Duration::ZERO, rows: 100, bytes: 1_000, record_age_ms: None };
    let catch_up = to.map(|to| CatchUp { tables: tables(names, to), ..CatchUp::default() });
    let reread = Reread { tables: tables(names, from), catch_up, ..Reread::default() };
    let (clock, (foreman, crew)) = (Arc::new(ManualClock::new(0)), Foreman::new());
    let course = Course { limits, ending };
    let driver =
        Driver::new(vec![feed], names.len(), Arc::<ManualClock>::clone(&clock), Compute::new(1), course, reread, crew);
    (driver, clock, foreman)
}

fn logged(feeds: &[&str], records: u64, after: &str) -> Logged {
    let split = |feed: &&str| SplitCut {
        feed: (*feed).to_owned(),
        split: "a".to_owned(),
        opened: Some(Opened { at: OpenedAt::TrimHorizon, watermarks: vec![0; 2], finished: false }),
        records,
        after: Some(after.to_owned()),
        version: None,
        ended: false,
    };
    let splits = feeds.iter().map(split).collect();
    let cut = EpochCut { epoch: 1, catches_up: true, splits, ..EpochCut::default() };
    Logged { cuts: VecDeque::from([cut]), ..Logged::default() }
}

/// Until when queries have not caught up, in seconds, where the source names these splits at first and those from the time on that is given.
async fn catches_up_for(ending: Ending, first: &[&'static str], then: Option<(u64, &[&'static str])>) -> (u64, bool) {
    let source = Arc::new(Listed { named: Mutex::new(first.to_vec()), first: 6, ..Listed::default() });
    let to: &[_] = &[("a", "12"), ("b", "7")];
    let (mut driver, clock, _foreman) = driver(Arc::clone(&source), &["t"], ending, &[("b", "7")], Some(to));
    let (_stop, mut stop) = tokio::sync::watch::channel(false);
    driver.begin(Logged::default()).await.expect("it begins");
    for second in 0..100 {
        if let Some((_, named)) = then.filter(|(since, _)| *since == second) {
            *source.named.lock().expect("one thread") = named.to_vec();
        }
        // Once it is known, its reader is none of this test's business.
        if driver.feeds[0].splits.by_id.contains_key(&SplitId("a".into())) && driver.catches_up() {
            return (second, true);
        }
        driver.next(&mut stop).await.expect("an epoch");
        if !driver.catches_up() {
            return (second, false);
        }
        clock.advance(Duration::from_secs(1));
    }
    panic!("it waits for ever");
}

#[tokio::test]
async fn what_is_away_for_a_moment_is_waited_for_by_those_that_catch_up() {
    use Ending::{Once, Run};
    // Of "b" nothing is left to be read.
    assert_eq!(catches_up_for(Run, &[], Some((12, &["a", "b"]))).await, (13, true));
    assert_eq!(catches_up_for(Run, &["b"], Some((2, &["a", "b"]))).await, (3, true));
    // It does not come back: three listings without it are enough, unless they name nothing.
    assert_eq!(catches_up_for(Run, &["b"], None).await, (3, false));
    assert_eq!(catches_up_for(Run, &[], None).await, (30, false));
    assert_eq!(catches_up_for(Once, &[], None).await, (0, false));
    assert_eq!(catches_up_for(Run, &["a"], None).await, (0, true));
}

/// What was logged for queries that catch up, up to where the others stand, is not in the stream any more.
#[tokio::test]
async fn an_epoch_of_queries_that_catch_up_is_not_repeated_without_what_has_been_lost() {
    for (first, left) in [(13, 5), (11, 3), (12, 4)] {
        let source = Arc::new(Listed { named: Mutex::new(vec!["a"]), first, ..Listed::default() });
        let (mut driver, _, _foreman) = driver(source, &["t"], Ending::Run, &[], Some(&[("a", "12")]));
        let (_stop, mut stop) = tokio::sync::watch::channel(false);
        driver.begin(logged(&["t"], 5, "12")).await.expect("it begins");
        let Err(error) = driver.next(&mut stop).await else { panic!("five records were logged") };
        let lost = format!("split 'a' of 't' has lost {left} of the records, through 12, that epoch 1");
        assert!(error.kind() == ErrorKind::Corrupt && error.message().contains(&lost), "{first}: {error}");
    }
}

/// Never by itself (`job/feeds.rs`); but two names may have become one.
#[tokio::test]
async fn a_split_that_an_epoch_has_read_twice_is_not_repeated_with_one_reader() {
    let source = Arc::new(Listed { named: Mutex::new(vec!["a"]), first: 6, ..Listed::default() });
    let (mut driver, _, _foreman) = driver(source, &["t", "u"], Ending::Run, &[], None);
    let (_stop, mut stop) = tokio::sync::watch::channel(false);
    driver.begin(logged(&["t", "u"], 3, "8")).await.expect("it begins");
    let Err(error) = driver.next(&mut stop).await else { panic!("two readers read it") };
    let hint = error.hint_text().unwrap_or_default();
    assert!(error.message().contains("split 'a' of 'u' with more than one reader"), "{error}");
    assert!(hint.contains("state rewind STORE latest"), "{hint}");
}

#[tokio::test]
async fn a_logged_split_of_a_stream_that_was_left_out_is_asked_for_by_name() {
    let source = Arc::new(Listed { named: Mutex::new(vec!["b"]), first: 6, leaves_out: true, ..Listed::default() });
    let (mut driver, _, _foreman) = driver(source, &["t"], Ending::Run, &[], None);
    let (_stop, mut stop) = tokio::sync::watch::channel(false);
    driver.begin(logged(&["t"], 3, "8")).await.expect("it begins");
    let Err(error) = driver.next(&mut stop).await else { panic!("nobody gives its records") };
    let hint = error.hint_text().unwrap_or_default();
    assert!(error.kind() == ErrorKind::Config && error.message().contains("split 'a' of 't'"), "{error}");
    assert!(hint.contains("run once with --once") && !hint.contains("rewind"), "{hint}");
}

/// Else listings would put them in the queue again and again, and whoever goes back would never have caught up.
#[tokio::test]
async fn splits_that_only_the_others_will_read_do_not_wait_while_queries_catch_up() {
    let source = Listed { named: Mutex::new(vec!["c", "b", "a"]), first: 6, parent: Some("a"), ..Listed::default() };
    let (mut driver, ..) = driver(Arc::new(source), &["t"], Ending::Run, &[], Some(&[("a", "8")]));
    driver.begin(Logged::default()).await.expect("it begins");
    assert!(driver.feeds[0].splits.by_id.contains_key(&SplitId("a".into())) && driver.catches_up());
    assert!(driver.feeds[0].waiting.is_empty(), "{:?}", driver.feeds[0].waiting);
}
