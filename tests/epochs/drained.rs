//! What is late after a run that was drained: rows for windows that its end has closed, by query, and those that are older than the time to live.

use super::*;

const SQL: &str = "
CREATE TABLE events (n BIGINT, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/events', 'format' = 'json', 'source.monitor-interval' = '1 s');
CREATE TABLE others (n BIGINT, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/others', 'format' = 'json', 'source.monitor-interval' = '1 s');
CREATE TABLE minutes (w TIMESTAMP(3), c BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/minutes', 'format' = 'json');
CREATE TABLE days (w TIMESTAMP(3), c BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/days', 'format' = 'json');
CREATE TABLE hops (w TIMESTAMP(3), c BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/hops', 'format' = 'json');
CREATE TABLE firsts (w TIMESTAMP(3), n BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/firsts', 'format' = 'json');
CREATE TABLE of_others (w TIMESTAMP(3), c BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/of_others', 'format' = 'json');
INSERT INTO minutes SELECT window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end;
INSERT INTO days SELECT window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' DAY))
GROUP BY window_start, window_end;
INSERT INTO hops SELECT window_start, COUNT(*) FROM TABLE(HOP(TABLE events, DESCRIPTOR(at), INTERVAL '1' MINUTE, INTERVAL '2' MINUTE))
GROUP BY window_start, window_end;
INSERT INTO firsts SELECT window_start, n FROM (
  SELECT window_start, n, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY n) AS place
  FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' DAY))) WHERE place = 1;
INSERT INTO of_others SELECT window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE others, DESCRIPTOR(at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end;
";

/// One query over two tables, of which one is a day behind.
const TWO_TABLES: &str = "
CREATE TABLE events (n BIGINT, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/events', 'format' = 'json', 'source.monitor-interval' = '1 s');
CREATE TABLE others (n BIGINT, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/others', 'format' = 'json', 'source.monitor-interval' = '1 s');
CREATE TABLE both_tables (w TIMESTAMP(3), c BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/both', 'format' = 'json');
INSERT INTO both_tables SELECT window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end
UNION ALL SELECT window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE others, DESCRIPTOR(at), INTERVAL '1' HOUR))
GROUP BY window_start, window_end;
";

/// Puts a file of records at these times into a folder; their numbers are those of the file, and grow.
fn add(folder: &Path, file: i64, times: &[&str]) {
    let line = |(n, at): (usize, &&str)| format!("{{\"n\":{},\"at\":\"2026-03-{at}Z\"}}\n", 10 * file + n as i64);
    write(&folder.join(format!("{file}.jsonl")), &times.iter().enumerate().map(line).collect::<String>(), HOUR);
}

/// Used and late rows of each query, in the order of its INSERT.
fn counts(summary: &Summary) -> Vec<(u64, u64)> {
    summary.queries.iter().map(|query| (query.used, query.late)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_late_for_the_windows_of_their_own_query() {
    for variant in VARIANTS {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let (events, others) = (folder.join("events"), folder.join("others"));
        add(&events, 1, &["01T00:00:10", "01T00:01:10"]);
        add(&others, 1, &["01T00:00:10"]);
        assert_eq!(counts(&ran(folder, SQL, variant).await), [(2, 0), (2, 0), (2, 0), (2, 0), (1, 0)], "[{variant}]");

        // The first minute has closed, and the day; the fifth minute has not. Of the hops, the one that ends at 00:03 has closed.
        add(&events, 2, &["01T00:01:30", "01T00:05:00", "02T00:00:30"]);
        add(&others, 2, &["01T00:00:30", "01T00:05:00"]);
        let wanted = [(2, 1), (1, 2), (2, 1), (1, 2), (1, 1)];
        assert_eq!(counts(&ran(folder, SQL, variant).await), wanted, "[{variant}]");

        // A run that closes nothing leaves closed what was.
        assert_eq!(counts(&ran(folder, SQL, variant).await), [(0, 0); 5], "[{variant}]");

        add(&events, 3, &["01T00:05:30", "02T00:00:45", "02T00:05:00", "03T00:00:00"]);
        let wanted = [(2, 2), (1, 3), (2, 2), (1, 3), (0, 0)];
        assert_eq!(counts(&ran(folder, SQL, variant).await), wanted, "[{variant}]");

        let line = |(at, c): (&str, i64)| format!(r#"{{"w":"2026-03-{at}","c":{c}}}"#);
        let minute = |(at, c): (&'static str, i64)| line((at, c));
        let minutes =
            [("01 00:00:00", 1), ("01 00:01:00", 1), ("01 00:05:00", 1), ("02 00:00:00", 1), ("02 00:05:00", 1)];
        let minutes = minutes.into_iter().chain([("03 00:00:00", 1)]).map(minute).collect::<Vec<_>>();
        assert_eq!(lines(&folder.join("minutes")), minutes, "[{variant}] each window once");
        let days = [("01 00:00:00", 2), ("02 00:00:00", 1), ("03 00:00:00", 1)].map(line);
        assert_eq!(lines(&folder.join("days")), days, "[{variant}] each window once");
        let firsts = [("01 00:00:00", 10), ("02 00:00:00", 22), ("03 00:00:00", 33)].map(line);
        let firsts = firsts.map(|line| line.replace("\"c\"", "\"n\""));
        assert_eq!(lines(&folder.join("firsts")), firsts, "[{variant}] each window once");
        let of_others = [("01 00:00:00", 1), ("01 00:05:00", 1)].map(line);
        assert_eq!(lines(&folder.join("of_others")), of_others, "[{variant}] each window once");
        let hops = lines(&folder.join("hops"));
        let windows: BTreeSet<&str> = hops.iter().map(|line| line.split(",\"c\"").next().unwrap()).collect();
        assert_eq!(windows.len(), hops.len(), "[{variant}] each window once: {hops:?}");
    }
}

/// The windows over one table are no reason for the other one's rows to be late, whether the end has closed them or time has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_late_for_windows_over_their_own_table() {
    for (variant, ending) in VARIANTS.into_iter().flat_map(|v| [(v, Ending::Drain), (v, Ending::Once)]) {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let (events, others) = (folder.join("events"), folder.join("others"));
        add(&events, 1, &["02T00:00:10", "02T00:01:10"]);
        add(&others, 1, &["01T00:00:10", "01T01:00:10"]);
        assert_eq!(counts(&ended(folder, TWO_TABLES, variant, ending).await), [(4, 0)], "[{variant}] {ending:?}");
        add(&events, 2, &["02T00:00:30", "02T00:02:10"]);
        add(&others, 2, &["01T00:30:00", "01T02:00:00"]);
        assert_eq!(counts(&ended(folder, TWO_TABLES, variant, ending).await), [(2, 2)], "[{variant}] {ending:?}");
        assert_eq!(
            counts(&ended(folder, TWO_TABLES, variant, Ending::Drain).await),
            [(0, 0)],
            "[{variant}] {ending:?}"
        );
        let wanted = ["01 00", "01 01", "01 02", "02 00:00", "02 00:01", "02 00:02"];
        let found = lines(&folder.join("both"));
        assert_eq!(found.len(), wanted.len(), "[{variant}] {ending:?}: {found:?}");
        assert!(found.iter().zip(wanted).all(|(line, at)| line.contains(&format!("-{at}"))), "{found:?}");
    }
}

/// Rows are late after three days.
const EXPIRING: &str = "
SET 'table.exec.state.ttl' = '3 d';
CREATE TABLE events (n BIGINT, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/events', 'format' = 'json', 'source.monitor-interval' = '1 s');
CREATE TABLE days (d STRING, c BIGINT, PRIMARY KEY (d) NOT ENFORCED) WITH ('connector' = 'filesystem', 'path' = '${DIR}/days', 'format' = 'json');
CREATE TABLE seen (d STRING) WITH ('connector' = 'filesystem', 'path' = '${DIR}/seen', 'format' = 'json');
INSERT INTO days SELECT DATE_FORMAT(at, 'dd'), COUNT(*) FROM events GROUP BY DATE_FORMAT(at, 'dd');
INSERT INTO seen SELECT DISTINCT DATE_FORMAT(at, 'dd') FROM events;
";

/// What the job has written last of a day.
fn last_of_day(folder: &Path, day: &str) -> Option<String> {
    let of_day = format!("{{\"d\":\"{day}\"");
    lines(&folder.join("days")).into_iter().rfind(|line| line.starts_with(&of_day))
}

/// What is forgotten is not counted anew from a file that comes a week later: the whole count would be written over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_keys_that_are_forgotten_are_late_in_later_runs() {
    for (variant, ending) in VARIANTS.into_iter().flat_map(|v| [(v, Ending::Drain), (v, Ending::Once)]) {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let events = folder.join("events");
        add(&events, 1, &["10T00:00:10", "10T00:00:20", "20T00:00:00"]);
        assert_eq!(counts(&ended(folder, EXPIRING, variant, ending).await), [(3, 0); 2], "[{variant}] {ending:?}");
        add(&events, 2, &["10T00:00:30", "16T00:00:00", "18T00:00:00", "20T00:00:30"]);
        assert_eq!(counts(&ended(folder, EXPIRING, variant, ending).await), [(2, 2); 2], "[{variant}] {ending:?}");
        let counted = ["10", "16", "18", "20"].map(|day| last_of_day(folder, day));
        let line = |day: &str, c: i64| Some(format!("{{\"d\":\"{day}\",\"c\":{c}}}"));
        assert_eq!(counted, [line("10", 2), None, line("18", 1), line("20", 2)], "[{variant}] {ending:?}");
        let seen = ["10", "18", "20"].map(|day| format!("{{\"d\":\"{day}\"}}"));
        assert_eq!(lines(&folder.join("seen")), seen, "[{variant}] {ending:?} each day once");
    }
}

/// A row of the evening that is as late as one may be finds the count of the morning, whose rows were the last of their day for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_rows_of_a_day_count_on_where_the_day_was_left() {
    for (variant, ending) in VARIANTS.into_iter().flat_map(|v| [(v, Ending::Drain), (v, Ending::Once)]) {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let events = folder.join("events");
        add(&events, 1, &["01T07:00:00", "01T07:30:00", "01T08:00:00", "04T12:00:00"]);
        assert_eq!(counts(&ended(folder, EXPIRING, variant, ending).await), [(4, 0); 2], "[{variant}] {ending:?}");
        add(&events, 2, &["01T23:00:00", "01T11:00:00"]);
        assert_eq!(counts(&ended(folder, EXPIRING, variant, ending).await), [(1, 1); 2], "[{variant}] {ending:?}");
        assert_eq!(last_of_day(folder, "01").as_deref(), Some("{\"d\":\"01\",\"c\":4}"), "[{variant}] {ending:?}");
        let seen = ["01", "04"].map(|day| format!("{{\"d\":\"{day}\"}}"));
        assert_eq!(lines(&folder.join("seen")), seen, "[{variant}] {ending:?} each day once");
    }
}

/// Sources that end, and windows over few of their rows.
const ENDING: &str = "
CREATE TABLE events (n BIGINT, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/events', 'format' = 'json');
CREATE TABLE minutes (w TIMESTAMP(3), c BIGINT) WITH ('connector' = 'filesystem', 'path' = '${DIR}/minutes', 'format' = 'json');
INSERT INTO minutes SELECT window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' MINUTE))
WHERE n <> 11 GROUP BY window_start, window_end;
";

/// The end of all sources closes windows as `--drain` does, and its epoch is logged like that. So it must leave the same: else rows were late
/// after a run that nobody disturbed, and counted after one that was killed behind that epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_late_after_the_end_of_all_sources_is_what_is_late_after_a_drain() {
    for (variant, ending) in VARIANTS.into_iter().flat_map(|v| [(v, Ending::Drain), (v, Ending::Run)]) {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        add(&folder.join("events"), 1, &["01T00:00:10", "01T00:05:10"]);
        assert_eq!(counts(&ended(folder, ENDING, variant, ending).await), [(1, 0)], "[{variant}] {ending:?}");
        // Of the first minute, which has closed, and of one that no row had been used for.
        add(&folder.join("events"), 2, &["01T00:00:30", "01T00:02:00"]);
        assert_eq!(counts(&ended(folder, ENDING, variant, ending).await), [(1, 1)], "[{variant}] {ending:?}");
    }
}
