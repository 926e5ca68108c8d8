//! Windows that move by a small part of their length: each pane is in very many of them, and a watermark closes few.

use std::time::{Duration, Instant};

use super::*;

/// A day by seconds.
const PANES: i64 = 86_400;

/// For each pane all its windows were looked at, at each move of the watermark: a day's worth of seconds took minutes. And at the end of the
/// input, each had a list of its panes.
#[test]
#[expect(clippy::disallowed_methods, reason = "how long it takes is what is tested")]
fn what_closes_is_found_without_looking_at_each_window_of_each_pane() {
    let runtime = runtime();
    let sql = "SELECT ws, we, count(*), sum(v) FROM t GROUP BY ws, we";
    let aggregation = runtime.block_on(Aggregation::new(&["ws", "we", "v"], sql));
    let spec = WindowSpec { kind: WindowKind::Hop { slide_ms: 1_000, size_ms: 1_000 * PANES }, offset_ms: 0 };
    let columns = WindowColumns { start: Some(0), end: Some(1), time: None, size_ms: None };
    let mut operator = WindowAggregate::try_new(Arc::clone(&aggregation.parts), columns, Some(spec)).expect("new");
    runtime.block_on(async {
        let rows: Vec<Vec<i64>> = (0..PANES).map(|n| vec![n * 1_000, (n + 1) * 1_000, n]).collect();
        operator.push(aggregation.partials(&[&rows]).await, &compute()).await.expect("taken");
        // All windows have closed that end more than two seconds before the last row.
        let (_, state) = operator.snapshot();
        let before = Watermark(1_000 * (PANES - 3));
        operator.restore(before, state, None, &compute()).await.expect("restored");
        let of = |end: i64| {
            let numbers = (end - PANES).max(0)..end.min(PANES);
            vec![1_000 * (end - PANES), 1_000 * end, numbers.end - numbers.start, numbers.sum::<i64>()]
        };
        let started = Instant::now();
        for end in PANES - 2..=PANES {
            operator.begin_close(Watermark(1_000 * end - 1));
            let closed = operator.next_closed(&compute()).await.expect("closed windows").expect("one");
            assert_eq!(numbers(&closed), [of(end)]);
            assert!(operator.next_closed(&compute()).await.expect("closed windows").is_none());
        }
        operator.begin_close(Watermark::MAX);
        let mut closed = numbers(&operator.next_closed(&compute()).await.expect("closed windows").expect("many"));
        closed.sort();
        let expected: Vec<_> = (PANES + 1..).map(of).take(closed.len()).collect();
        assert_eq!(closed, expected, "in the order of their ends, until there are enough rows for a plan");
        assert!((2..100).contains(&closed.len()), "{}", closed.len());
        let elapsed = started.elapsed();
        println!("{elapsed:?}");
        assert!(elapsed < Duration::from_secs(120), "{elapsed:?}");
    });
}
