//! Splits that come, wait, and go.

use super::*;
use crate::contracts::OpenedAt;

pub(crate) fn table(splits: &[(Status, i64, i64)]) -> (TableTime, FeedSplits) {
    let mut time = TableTime::new(true, Some(30_000), None);
    let mut feed = FeedSplits { gone_kept_ms: GONE_KEPT_MS, ..FeedSplits::default() };
    for (index, (status, watermark, data_ms)) in splits.iter().enumerate() {
        let (status, idleness) = (*status, Idleness::new(*data_ms));
        let id = SplitId(format!("s{index}").into());
        feed.by_id.insert(id.clone(), index);
        time.watermarks.push(*watermark);
        if matches!(status, Status::Reading | Status::CaughtUp) {
            feed.open.insert(index);
        }
        feed.list.push(SplitState {
            id,
            status,
            position: None,
            start: StartPosition::TrimHorizon,
            idleness,
            brake: Arc::default(),
            behind_ms: None,
            really_finished: false,
            opened: Opened { at: OpenedAt::TrimHorizon, watermarks: Vec::new(), finished: false },
            unlogged: Unlogged::default(),
            quota: None,
            split: Split { id: SplitId("".into()), bytes: None, parents: Vec::new() },
            turn: None,
            reader: None,
        });
    }
    (time, feed)
}

/// Seed 738 of the simulation, once: a job was handed over before it knew again that the parents had ended, and the next one read
/// their children from the beginning.
#[test]
fn positions_of_splits_that_still_wait_for_their_parents_are_kept() {
    let (_, mut feed) = table(&[(Status::Reading, 0, 0)]);
    let split = |after: &str| SavedSplit {
        after_exclusive: Some(after.to_owned()),
        from_ms: None,
        watermark_ms: 7,
        finished: false,
        version: None,
        gone_ms: None,
    };
    let splits = [("s0", "1"), ("child", "26"), ("gone", "3")].map(|(id, after)| (id.to_owned(), split(after)));
    let saved = SavedTable { splits: splits.into(), floor: 0, source: None };
    let day = GONE_KEPT_MS;
    let kept = |feed: &FeedSplits, now_ms: i64| {
        feed.not_yet_read(&saved, (1, now_ms), |_| false).map(|(id, _)| id).collect::<Vec<_>>()
    };
    // While epochs are repeated the source has not been asked.
    assert_eq!(kept(&feed, 9 * day), ["child", "gone"]);
    feed.listed(&named(&["s0", "child"]), [&saved], None, day);
    assert_eq!(kept(&feed, 2 * day - 1), ["child", "gone"]);
    assert_eq!(kept(&feed, 2 * day), ["child"]);
    assert_eq!(feed.not_yet_read(&saved, (1, day), |_| false).next(), Some(("child".to_owned(), split("26"))));
    // What the table names no more may be named again.
    let left_out = feed.not_yet_read(&saved, (1, 2 * day), |id| &*id.0 == "gone").map(|(id, _)| id);
    assert_eq!(left_out.collect::<Vec<_>>(), ["child", "gone"]);
}

fn named(ids: &[&str]) -> Vec<Split> {
    ids.iter().map(|id| Split { id: SplitId((*id).into()), bytes: None, parents: Vec::new() }).collect()
}

#[test]
fn a_split_is_gone_when_several_listings_that_name_others_lack_it() {
    let (_, mut feed) = table(&[(Status::Finished, 0, 0), (Status::Finished, 0, 0)]);
    let (one, other) = (named(&["s0"]), named(&["s0", "s1"]));
    let mut gone_after = |listings: &[&[Split]]| {
        listings.iter().for_each(|listing| feed.listed(listing, [], None, 0));
        [0, 1].map(|split| feed.is_gone(&feed.list[split].id, MISSED_LISTINGS))
    };
    assert_eq!(gone_after(&[&[], &[], &[], &[]]), [false, false], "nothing says nothing");
    assert_eq!(gone_after(&[&one, &one, &[]]), [false, false]);
    assert_eq!(gone_after(&[&other, &one, &one]), [false, false], "not in a row");
    assert_eq!(gone_after(&[&[], &one]), [false, true]);
    assert_eq!(gone_after(&[&[]]), [false, true]);
    assert_eq!(gone_after(&[&other]), [false, false], "it is back");
}

/// A run that ends after one listing does not forget what is away, nor does the next one.
#[test]
fn what_is_not_named_any_more_is_known_for_a_day() {
    let split = SavedSplit {
        after_exclusive: None,
        from_ms: None,
        watermark_ms: 0,
        finished: true,
        version: None,
        gone_ms: None,
    };
    let mut saved = SavedTable { splits: [("away".to_owned(), split.clone())].into(), floor: 0, source: None };
    for (now_ms, is_there) in [(5, false), (GONE_KEPT_MS, false), (GONE_KEPT_MS + 4, true), (GONE_KEPT_MS + 5, false)] {
        let mut feed = FeedSplits { gone_kept_ms: GONE_KEPT_MS, ..FeedSplits::default() };
        let names = if is_there { &["a", "away"][..] } else { &["a"] };
        feed.listed(&named(names), [&saved], None, now_ms);
        saved.splits = feed.not_yet_read(&saved, (1, now_ms), |_| false).collect();
        feed.note_gone(&mut saved.splits, 1, |_| false);
        let gone_ms = (!is_there).then_some(if now_ms > GONE_KEPT_MS { now_ms } else { 5 });
        assert_eq!(saved.splits.get("away").map(|split| split.gone_ms), Some(gone_ms), "{now_ms}");
    }
    // It was back for a moment.
    for (now_ms, is_known) in [(2 * GONE_KEPT_MS + 4, true), (2 * GONE_KEPT_MS + 5, false)] {
        let mut feed = FeedSplits { gone_kept_ms: GONE_KEPT_MS, ..FeedSplits::default() };
        feed.listed(&named(&["a"]), [&saved], None, now_ms);
        assert_eq!(feed.not_yet_read(&saved, (1, now_ms), |_| false).count(), usize::from(is_known));
    }
    // One that this run has seen is missed from then on.
    let (_, mut feed) = table(&[(Status::Finished, 0, 0)]);
    let old = SavedSplit { gone_ms: Some(7), ..split.clone() };
    let table = SavedTable { splits: [("s0".to_owned(), old)].into(), floor: 0, source: None };
    feed.listed(&named(&["s0"]), [&table], None, GONE_KEPT_MS);
    feed.listed(&named(&["a"]), [&table], None, 3 * GONE_KEPT_MS);
    assert!(feed.is_gone(&feed.list[0].id, 1) && !feed.is_forgotten(&feed.list[0].id, 1, 4 * GONE_KEPT_MS - 1));
    // Those that went first go first.
    let gone = |number: usize| (format!("{number:06}"), SavedSplit { gone_ms: Some(number as i64), ..split.clone() });
    let mut splits: BTreeMap<_, _> = (0..MOST_GONE_KEPT + 2).map(gone).collect();
    let table = SavedTable { splits: splits.clone(), floor: 0, source: None };
    let mut feed = FeedSplits { gone_kept_ms: GONE_KEPT_MS, ..FeedSplits::default() };
    feed.listed(&named(&["a"]), [&table], None, 0);
    feed.note_gone(&mut splits, 1, |_| false);
    assert_eq!((splits.len(), splits.keys().next().map(String::as_str)), (MOST_GONE_KEPT, Some("000002")));
    // A shard that the stream has no more does not come back.
    let mut feed = FeedSplits::default();
    feed.listed(&named(&["a"]), [&table], None, 0);
    assert_eq!(feed.not_yet_read(&table, (1, 20_000), |_| false).count(), 0);
}

#[test]
fn a_listing_counts_once_however_often_it_is_answered() {
    let (_, mut feed) = table(&[(Status::Finished, 0, 0), (Status::Finished, 0, 0)]);
    let one = named(&["s0"]);
    for (listing, is_gone) in [(1, false), (1, false), (1, false), (2, false), (2, false), (3, true)] {
        feed.listed(&one, [], Some(listing), 0);
        assert_eq!(feed.is_gone(&feed.list[1].id, MISSED_LISTINGS), is_gone, "{listing}");
    }
}

/// Of a folder with very many files: what a piece costs, and what finding one more costs, does not grow with their number.
#[test]
fn many_splits_that_are_not_read_cost_nothing() {
    use std::cell::Cell;

    const MANY: usize = 100_000;
    let ended = |number: usize| (Status::Finished, number as i64, 0);
    let mut splits: Vec<_> = (0..MANY).map(ended).collect();
    let open = [MANY / 2, MANY - 1];
    (splits[open[0]], splits[open[1]]) = ((Status::Reading, 0, 0), (Status::Reading, 100, 0));
    let (mut time, feed) = table(&splits);
    time.max_drift_ms = Some(10);
    // Whoever looks at one of those that have ended lets it go.
    feed.list.iter().filter(|split| split.status == Status::Finished).for_each(|split| split.brake.hold(true));
    let looked_at = Cell::new(0);
    let reading = feed.reading().inspect(|_| looked_at.set(looked_at.get() + 1));
    assert!(time.too_far_ahead(reading).is_some_and(|is_ahead| is_ahead(open[1]) && !is_ahead(open[0])));
    assert_eq!(looked_at.get(), 2);
    feed.apply_brakes(&[time]);
    assert_eq!(open.map(|number| feed.list[number].brake.is_held()), [false, true]);
    assert_eq!(feed.list.iter().filter(|split| split.brake.is_held()).count(), MANY - 1);

    thread_local!(static COMPARED: Cell<usize> = const { Cell::new(0) });
    #[derive(Clone, PartialEq, Eq)]
    struct Counted(usize);
    impl PartialOrd for Counted {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }
    impl Ord for Counted {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            COMPARED.set(COMPARED.get() + 1);
            self.0.cmp(&other.0)
        }
    }
    let mut queue = Queue::default();
    for _ in 0..2 {
        (0..MANY).for_each(|number| queue.push(Counted(number), number));
    }
    assert!(queue.has(&Counted(7)) && !queue.has(&Counted(MANY)));
    let popped: Vec<usize> = std::iter::from_fn(|| queue.pop()).collect();
    assert_eq!(popped, (0..MANY).collect::<Vec<_>>(), "each once, in order");
    assert!(queue.is_empty() && !queue.has(&Counted(7)));
    assert!(COMPARED.get() < MANY * 200, "{} comparisons", COMPARED.get());
}
