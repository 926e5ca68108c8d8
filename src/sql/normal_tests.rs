//! Queries keep their normal forms, and different ones have different ones.

use super::*;
use crate::runtime::{identity, is_identity_of, is_text_of};
use crate::sql::{JobPlan, Parameters, PlanOptions, SqlText, plan_job};

const TABLES: &str = "
    CREATE TABLE clicks (n BIGINT, data ROW<page STRING, user_id STRING>, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at)
    WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
    CREATE TABLE a (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'a');
    CREATE TABLE b (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'b');
    CREATE TABLE c (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'c');";
const A: &str = "
    INSERT INTO a SELECT data.page, COUNT(*) FROM clicks WHERE data.user_id <> 'x' GROUP BY data.page;
    INSERT INTO a SELECT UPPER(data.page), SUM((n * 7 + 1) * (n * 7 + 1)) FROM clicks WHERE n * 7 + 1 > 3 GROUP BY UPPER(data.page);";
const B: &str = "
    INSERT INTO b SELECT data.page, COUNT(*) + SUM((n * 3 + 2) * (n * 3 + 2)) FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(at), INTERVAL '1' HOUR))
    WHERE n * 3 + 2 > 5 AND data.user_id LIKE '%y' GROUP BY window_start, window_end, data.page;";
const C: &str = "
    INSERT INTO c SELECT k, r FROM (SELECT data.page AS k, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY n) AS r
    FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(at), INTERVAL '1' HOUR)) WHERE data.user_id = 'z' AND n * 3 + 2 > 5 AND n * 3 + 2 < 50);";

async fn planned(files: &[&str]) -> JobPlan {
    let files: Vec<_> = std::iter::once(&TABLES)
        .chain(files)
        .enumerate()
        .map(|(n, text)| SqlText::new(format!("{n}.sql"), (*text).to_owned()).into())
        .collect();
    let options = PlanOptions { partitions: 2, batch: false, pruned: true, epoch_time_ms: Default::default() };
    plan_job(&files, &Parameters::default(), &options, None).await.expect("it is planned")
}

/// Of each query, its normal form and the fingerprints of its operators.
async fn known(files: &[&str]) -> BTreeMap<String, Vec<String>> {
    let plan = planned(files).await;
    let of = |query: &crate::sql::QueryPlan| {
        let operators = query.graph.operators.iter().map(|operator| operator.fingerprint.clone());
        std::iter::once(query.normal.clone()).chain(operators).collect::<Vec<_>>()
    };
    plan.queries.iter().map(|query| (query.sink.name.clone(), of(query))).collect()
}

#[tokio::test]
async fn a_query_is_the_same_whatever_stands_before_it() {
    let (b, c) = (known(&[B]).await, known(&[C]).await);
    assert!(
        b["b"].concat().contains("__common_expr_") && b["b"].concat().contains("__datafusion_extracted_"),
        "{b:#?}"
    );
    for files in [&[A, B, C], &[C, A, B], &[A, C, B]] {
        let all = known(files).await;
        assert_eq!(all["b"], b["b"]);
        assert_eq!(all["c"], c["c"]);
    }
}

#[tokio::test]
async fn a_query_over_a_table_with_a_hint_is_the_same_whatever_hints_stand_before_it() {
    const HINTED: &str = "
        INSERT INTO b SELECT data.page, COUNT(*) FROM clicks /*+ OPTIONS('scan.stream.initpos' = 'LATEST') */ GROUP BY data.page;";
    let same = HINTED.replace("INTO b", "INTO c");
    let other = HINTED.replace("INTO b", "INTO a").replace("LATEST", "TRIM_HORIZON");
    let (alone, beside) = (known(&[HINTED]).await, known(&[&other, &same, HINTED]).await);
    let (saved, own) = (&alone["b"], &beside["b"]);
    assert!(
        saved != own
            && saved.len() == own.len()
            && saved.iter().zip(own).all(|(saved, own)| is_text_of(saved, own, true))
    );
    assert!(is_identity_of(&identity(&saved[0]), &own[0]));
    let without = known(&["INSERT INTO b SELECT data.page, COUNT(*) FROM clicks GROUP BY data.page;"]).await;
    assert!(!is_text_of(&without["b"][1], &own[1], false));
    // Where positions are saved.
    let sources = planned(&[&other, &same, HINTED]).await.sources;
    let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    let of = |at: &str| format!("clicks OPTIONS('scan.stream.initpos'='{at}')");
    assert_eq!(names, [of("TRIM_HORIZON"), of("LATEST")]);
}

/// Two queries whose texts were the same, though they give other rows.
#[tokio::test]
async fn what_the_text_of_a_plan_leaves_out_is_added() {
    let sums = |sum: &str| format!("INSERT INTO a SELECT data.page, {sum} FROM clicks GROUP BY data.page;");
    let values = |last: &str| {
        format!(
            "INSERT INTO a SELECT v.k, SUM(clicks.n) FROM clicks JOIN (VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd'), (5, 'e'), {last})
             AS v (n, k) ON v.n = clicks.n GROUP BY v.k;"
        )
    };
    let joined = |on: &str| {
        format!(
            "CREATE TABLE pages (page STRING, name STRING) WITH ('connector' = 'filesystem', 'path' = 'pages', 'format' = 'csv');
             INSERT INTO a SELECT p.name, COUNT(*) FROM clicks AS c JOIN pages AS p ON {on} GROUP BY p.name;"
        )
    };
    let filtered = |condition: &str| sums(&format!("COUNT(*) FILTER (WHERE {condition})"));
    let pairs = [
        [values("(6, 'f')"), values("(6, 'g')")],
        [values("(6, 'f'), (7, 'g')"), values("(6, 'f'), (7, 'h')")],
        [values("(6, 'f')"), values("(6, 'f'), (7, 'g')")],
        [joined("c.data.page = p.page"), joined("c.data.page IS NOT DISTINCT FROM p.page")],
        [sums("SUM(n - (n * 2 - 3))"), sums("SUM(n - n * 2 - 3)")],
        [sums("SUM(n / (n * 2))"), sums("SUM(n / n * 2)")],
        [sums("SUM(n - (n - (n - 7)))"), sums("SUM(n - (n - n - 7))")],
        [filtered("(n > 1 AND data.page = 'a') IS NOT TRUE"), filtered("n > 1 AND (data.page = 'a') IS NOT TRUE")],
        [sums("COUNT(ARRAY['a, b'][n])"), sums("COUNT(ARRAY['a', 'b'][n])")],
        [sums("COUNT(ARRAY['a', ''][n])"), sums("COUNT(ARRAY['a', CAST(NULL AS STRING)][n])")],
    ];
    for [one, other] in pairs {
        let (one_known, other_known) = (known(&[&one]).await, known(&[&other]).await);
        for (one_text, other_text) in one_known["a"].iter().zip(&other_known["a"]) {
            assert_ne!(one_text, other_text, "{one}\n{other}");
        }
        assert!(one_known["a"].len() > 1 && one_known["a"].len() == other_known["a"].len(), "{one}");
    }
}

/// Files know by it whether a row is still of the same partition.
#[tokio::test]
async fn where_a_column_comes_from_is_all_that_makes_it_and_no_more() {
    let by_day = |insert: &str| {
        format!(
            "CREATE TABLE files (n BIGINT, day STRING, kind STRING) PARTITIONED BY (day, kind)
             WITH ('connector' = 'filesystem', 'path' = 'files', 'format' = 'json'); {insert};"
        )
    };
    let origins = async |insert: &str| {
        let text = by_day(insert);
        let plan = planned(&[&text]).await;
        plan.queries[0].sink.spec.origins.clone()
    };
    let day = "DATE_FORMAT(at, 'yyyy-MM-dd')";
    let first = origins(&format!("INSERT INTO files SELECT n, {day}, data.page FROM clicks")).await;
    assert_eq!(first.keys().collect::<Vec<_>>(), ["day", "kind"]);
    for same in [
        format!("INSERT INTO files SELECT n * 2, {day}, data.page FROM clicks WHERE n > 5 AND data.user_id <> 'x'"),
        format!("INSERT INTO files (kind, day, n) SELECT data.page, {day}, n FROM clicks"),
    ] {
        assert_eq!(origins(&same).await, first, "{same}");
    }
    for other in [
        format!("INSERT INTO files SELECT n, {day}, data.user_id FROM clicks"),
        format!("INSERT INTO files (n, kind, day) SELECT n, {day}, data.page FROM clicks"),
        format!("INSERT INTO files (n, day) SELECT n, {day} FROM clicks"),
        format!("INSERT INTO files PARTITION (kind = 'a') SELECT n, {day} FROM clicks"),
        format!("INSERT INTO files PARTITION (kind = 'b') SELECT n, {day} FROM clicks"),
        "INSERT INTO files SELECT n, DATE_FORMAT(at, 'yyyy-MM'), data.page FROM clicks".to_owned(),
        format!(
            "INSERT INTO files SELECT n, {day}, UPPER(k) FROM (SELECT n, at, SUBSTRING(data.page, 1) AS k FROM clicks)"
        ),
        format!(
            "INSERT INTO files SELECT n, {day}, UPPER(k) FROM (SELECT n, at, SUBSTRING(data.page, 2) AS k FROM clicks)"
        ),
        format!(
            "SET 'table.local-time-zone' = 'Europe/Berlin'; INSERT INTO files SELECT n, {day}, data.page FROM clicks"
        ),
    ] {
        assert_ne!(origins(&other).await, first, "{other}");
    }
    let literal = |value: &str| format!("INSERT INTO files PARTITION (kind = '{value}') SELECT n, {day} FROM clicks");
    assert_ne!(origins(&literal("a")).await, origins(&literal("b")).await);
    // Digits of a number are a matter of its declared type, which is in no expression.
    let digits = async |declared: &str| {
        let mut known = Vec::new();
        for (column, price) in [(declared.to_owned(), "p"), (format!("ROW<q {declared}, r STRING>"), "p.q")] {
            let price = format!(
                "CREATE TABLE prices (n BIGINT, p {column}, at TIMESTAMP_LTZ(3)) WITH ('connector' = 'filesystem', 'path' = 'in', 'format' = 'json');
                 INSERT INTO files SELECT n, {day}, CAST({price} AS STRING) FROM prices"
            );
            known.push(origins(&price).await);
        }
        known
    };
    for (one, other) in [
        ("DECIMAL(10, 2)", "DECIMAL(10, 1)"),
        ("TIMESTAMP(3)", "TIMESTAMP(6)"),
        ("TIMESTAMP(3)", "TIMESTAMP_LTZ(3)"),
        ("BIGINT", "DOUBLE"),
    ] {
        let (own, others) = (digits(one).await, digits(other).await);
        assert!(own.iter().zip(&others).all(|(own, other)| own != other), "{one}, {other}: {own:?}, {others:?}");
    }
    // Rows that are no table's: all that makes them counts.
    let counted = |least: u32| {
        format!(
            "INSERT INTO files SELECT COUNT(*), DATE_FORMAT(window_start, 'yyyy'), 'x'
             FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(at), INTERVAL '1' HOUR)) WHERE n > {least} GROUP BY window_start, window_end"
        )
    };
    let (one, other) = (origins(&counted(1)).await, origins(&counted(2)).await);
    assert!(one["day"] != other["day"] && one["kind"] == other["kind"], "{one:?}, {other:?}");
}

/// States are known by these texts.
#[tokio::test]
async fn texts_that_say_all_stay_as_they_are() {
    for file in [A, B, C] {
        let known = known(&[file]).await;
        assert!(known.values().flatten().all(|text| !text.contains("in full")), "{known:#?}");
    }
    let plain = "INSERT INTO a SELECT v.k, SUM(clicks.n - 1 - v.n) FROM clicks JOIN (VALUES (1, 'a'), (2, 'b')) AS v (n, k) ON v.n = clicks.n
        WHERE (clicks.n = 1 OR clicks.n = 2) AND clicks.n IS NOT NULL AND ARRAY['a', 'b'][clicks.n] = 'a' GROUP BY v.k;";
    let known = known(&[plain]).await;
    assert!(known["a"].iter().all(|text| !text.contains("in full")), "{known:#?}");
}

/// Earlier versions gave it the rows of panes there, so states have another layout.
#[tokio::test]
async fn windows_behind_those_that_share_panes_are_known_as_other_ones() {
    let planned = async |branches: &[&str]| {
        let view = "CREATE VIEW hops AS SELECT * FROM TABLE(HOP(TABLE clicks, DESCRIPTOR(at), INTERVAL '1' MINUTE, INTERVAL '5' MINUTES));";
        known(&[&format!("{view} INSERT INTO a {};", branches.join(" UNION ALL "))]).await["a"][1..].to_vec()
    };
    let shares = "SELECT 'x', COUNT(*) FROM hops GROUP BY window_start, window_end";
    let others = [
        "SELECT 'y', COUNT(*) FROM hops GROUP BY window_end",
        "SELECT 'z', r FROM (SELECT ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY n) AS r FROM hops)",
    ];
    for other in others {
        let (shared, alone) = (planned(&[shares]).await.concat(), planned(&[other]).await.concat());
        assert_eq!(planned(&[other, shares]).await, [alone.clone(), shared.clone()]);
        assert_eq!(planned(&[shares, shares]).await, [shared.clone(), shared.clone()]);
        assert_eq!(planned(&[shares, other]).await, [shared, format!("{alone}\nwith each row in each of its windows")]);
    }
}
