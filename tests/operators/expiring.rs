//! Keys that came into the state before anything said when they were seen.

use super::*;

const TTL: i64 = 100;

#[test]
fn keys_without_a_time_are_kept_until_they_have_one() {
    let runtime = runtime();
    let aggregation = |sql| runtime.block_on(Aggregation::new(&["k", "t"], sql));
    let before = aggregation("SELECT k, count(*) FROM t GROUP BY k");
    let with = aggregation("SELECT k, count(*), max(t) FROM t GROUP BY k");
    let ttl = Some(TimeToLive { ttl_ms: TTL, last_seen: 2 });
    let new = || RunningAggregate::try_new(Arc::clone(&with.parts), Emit::Upserts, ttl).expect("an operator");
    for spills in [false, true] {
        let (_parent, folder) = spill_folder();
        let restored = async |(watermark, state)| {
            let mut operator = new();
            operator.restore(watermark, state, None).await.expect("restored");
            if spills {
                operator.spill(&folder).expect("spilled");
            }
            operator
        };
        let pushed = async |operator: &mut RunningAggregate, key: i64, time: i64| {
            let partials = with.partials(&[&[vec![key, time]]]).await;
            numbers(&operator.push(partials, &compute()).await.expect("changes"))
        };
        runtime.block_on(async {
            let mut operator =
                RunningAggregate::try_new(Arc::clone(&before.parts), Emit::Upserts, None).expect("an operator");
            let rows = [vec![1, 0], vec![2, 0], vec![3, 0]];
            operator.push(before.partials(&[&rows]).await, &compute()).await.expect("changes");
            // The end of the input says nothing of event time.
            operator.advance(Watermark::MAX).expect("advanced");
            assert_eq!(operator.snapshot().0, Watermark::MIN);

            let mut operator = restored(operator.snapshot()).await;
            assert_eq!(pushed(&mut operator, 1, 1_000).await, [[1, 2, 1_000]]);
            operator.advance(Watermark(1_000 + TTL + 10)).expect("advanced");
            assert_eq!(operator.size().0, 2, "of the others nothing is known: {spills}");
            operator.advance(Watermark::MAX).expect("advanced");
            assert_eq!(pushed(&mut operator, 1, 1_110).await, [[1, 1, 1_110]], "it has begun anew");

            // The next run knows a time, so it has seen them then.
            let mut operator = restored(operator.snapshot()).await;
            assert_eq!(pushed(&mut operator, 2, 1_200).await, [[2, 2, 1_200]]);
            operator.advance(Watermark(1_110 + TTL + 1)).expect("advanced");
            assert_eq!(operator.size().0, 1, "{spills}");
            assert_eq!(pushed(&mut operator, 3, 1_300).await, [[3, 1, 1_300]]);
        });
    }
}
