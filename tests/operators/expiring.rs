//! When keys are forgotten: those that came into the state before anything said when they were seen, and those whose day is not over.

use super::*;

const TTL: i64 = 100;
/// How long a key outlives its last row: a day is longer than the time-to-live, so it is that once more.
const KEPT: i64 = 2 * TTL;

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
            operator.advance(Watermark(1_000 + KEPT + 10)).expect("advanced");
            assert_eq!(operator.size().0, 2, "of the others nothing is known: {spills}");
            operator.advance(Watermark::MAX).expect("advanced");
            assert_eq!(pushed(&mut operator, 1, 1_210).await, [[1, 1, 1_210]], "it has begun anew");

            // The next run knows a time, so it has seen them then.
            let mut operator = restored(operator.snapshot()).await;
            assert_eq!(pushed(&mut operator, 2, 1_300).await, [[2, 2, 1_300]]);
            operator.advance(Watermark(1_210 + KEPT + 1)).expect("advanced");
            assert_eq!(operator.size().0, 1, "{spills}");
            assert_eq!(pushed(&mut operator, 3, 1_400).await, [[3, 1, 1_400]]);
        });
    }
}

const HOUR: i64 = 3_600_000;
/// Days as `2026-03-01` are, in UTC.
const DAY: i64 = 24 * HOUR;
const DAYS_KEPT: i64 = 3;

/// Counts of users by day, of which each epoch is pushed, and then its watermark: `(user, day)` to the count that was given last.
async fn counted(
    aggregation: &Aggregation,
    emit: Emit,
    epochs: &[(Vec<(i64, i64)>, i64)],
    between: Between,
) -> Vec<(i64, i64, i64)> {
    let ttl = Some(TimeToLive { ttl_ms: DAYS_KEPT * DAY, last_seen: 3 });
    let new = || RunningAggregate::try_new(Arc::clone(&aggregation.parts), emit, ttl).expect("an operator");
    let (_parent, folder) = spill_folder();
    let (mut operator, mut given) = (new(), Vec::new());
    for (rows, watermark) in epochs {
        let rows: Vec<Vec<i64>> = rows.iter().map(|(user, at)| vec![*user, at.div_euclid(DAY), *at]).collect();
        let changes = operator.push(aggregation.partials(&[&rows]).await, &compute()).await.expect("changes");
        given.extend(numbers(&changes).into_iter().map(|row| (row[0], row[1], row[2])));
        operator.advance(Watermark(*watermark)).expect("advanced");
        if between.spills {
            operator.spill(&folder).expect("spilled");
        }
        if between.restores {
            let (watermark, state) = operator.snapshot();
            operator = new();
            operator.restore(watermark, state, None).await.expect("restored");
        }
    }
    given
}

fn betweens() -> impl Iterator<Item = Between> {
    [false, true].into_iter().flat_map(|spills| [false, true].map(|restores| Between { spills, restores }))
}

fn by_day(runtime: &tokio::runtime::Runtime) -> Aggregation {
    let sql = "SELECT u, d, count(*), max(t) FROM t GROUP BY u, d";
    runtime.block_on(Aggregation::new(&["u", "d", "t"], sql))
}

/// The last rows of the day's morning lie before what is late, and those of its evening behind it.
#[test]
fn a_late_row_of_a_day_finds_what_the_day_had_before() {
    let (runtime, of_a_day) = (runtime(), |day: i64, minutes: i64| day * DAY + minutes * 60_000);
    let aggregation = by_day(&runtime);
    let morning = [(1, of_a_day(0, 420)), (1, of_a_day(0, 450)), (1, of_a_day(0, 480))];
    let (another, evening) = ((2, of_a_day(3, 720)), (1, of_a_day(0, 1_380)));
    let noon = of_a_day(3, 720);
    let all = [&morning[..], &[another]].concat();
    let two = vec![(all.clone(), noon), (vec![evening], noon)];
    let one = vec![([&all[..], &[evening]].concat(), noon)];
    for between in betweens() {
        for epochs in [&one, &two] {
            let given = runtime.block_on(counted(&aggregation, Emit::Upserts, epochs, between));
            let last = given.iter().rfind(|(user, ..)| *user == 1);
            assert_eq!(last, Some(&(1, 0, 4)), "{between:?}, {} epochs: {given:?}", epochs.len());
        }
        let given = runtime.block_on(counted(&aggregation, Emit::NewKeys, &two, between));
        let days = given.iter().filter(|(user, ..)| *user == 1).count();
        assert_eq!(days, 1, "{between:?}: a day comes once: {given:?}");
        // It is forgotten when the longest day is behind what is late.
        let kept = DAYS_KEPT * DAY + 25 * HOUR;
        for (more, count) in [(0, 4), (1, 1)] {
            let epochs = [(morning.to_vec(), morning[2].1 + kept + more), (vec![morning[2]], 0)];
            let given = runtime.block_on(counted(&aggregation, Emit::Upserts, &epochs, between));
            assert_eq!(given.last(), Some(&(1, 0, count)), "{between:?}: {given:?}");
        }
    }
}

/// However late, a row that is taken finds the count of its day.
#[test]
fn days_are_counted_on_while_their_rows_are_taken() {
    let runtime = runtime();
    let aggregation = by_day(&runtime);
    let rows = prop::collection::vec((0i64..3, -DAYS_KEPT * 24..=6), 0..4);
    let epochs = prop::collection::vec((rows, 0i64..20), 1..30);
    proptest!(ProptestConfig::with_cases(CASES), |(epochs in epochs, between in between())| {
        let mut now = 1_000 * DAY;
        let (mut counts, mut expected, mut input) = (BTreeMap::new(), Vec::new(), Vec::new());
        for (rows, hours) in epochs {
            // The gate below takes what is not more than the time-to-live behind.
            let rows: Vec<(i64, i64)> = rows.into_iter().map(|(user, behind)| (user, now + behind * HOUR)).collect();
            let mut changed = BTreeSet::new();
            for (user, at) in &rows {
                let key = (*user, at.div_euclid(DAY));
                *counts.entry(key).or_insert(0) += 1;
                changed.insert(key);
            }
            expected.push(changed.into_iter().map(|(user, day)| (user, day, counts[&(user, day)])).collect::<Vec<_>>());
            now += hours * HOUR;
            input.push((rows, now));
        }
        let given = runtime.block_on(counted(&aggregation, Emit::Upserts, &input, between));
        let mut given = given.into_iter();
        for expected in expected {
            let mut own: Vec<_> = given.by_ref().take(expected.len()).collect();
            own.sort_unstable();
            prop_assert_eq!(own, expected);
        }
        prop_assert_eq!(given.next(), None);
    });
}
