//! Queries of many shapes, each alone and all beside others that read every column: each gives the same both times.
//!
//! A table has only the columns and fields that its job uses. What else a query names there, in branches that the optimizer answers without
//! it or in columns that nobody takes, is NULL, and must not be asked.

use super::*;

/// A text of columns. `of` stands before their names.
fn expression(random: &mut Random, of: &str, depth: u64) -> String {
    if depth > 0 {
        let (one, other) = (expression(random, of, depth - 1), expression(random, of, depth - 1));
        let depth = random.below(2);
        return match random.below(6) {
            0 => format!("COALESCE({one}, {other})"),
            1 => format!("{one} || {other}"),
            2 => format!("CASE WHEN {} THEN {one} ELSE {other} END", asking(random, of, depth)),
            3 => format!("CASE WHEN {} THEN {one} END", asking(random, of, depth)),
            4 => format!("NULLIF({one}, {other})"),
            _ => format!("CAST({} AS STRING)", asking(random, of, depth)),
        };
    }
    match random.below(16) {
        0 => format!("CAST({of}n AS STRING)"),
        1 => format!("CAST({of}m AS STRING)"),
        2 => format!("CAST({of}n IS NULL AS STRING)"),
        3 => format!("UPPER({of}s)"),
        4 => format!("'{}'", pick(random, &TEXTS)),
        5 => format!("CAST(CHAR_LENGTH({of}t) AS STRING)"),
        _ => format!("{of}{}", pick(random, &["s", "t", "d.s", "d.deep.t", "tags['k']", "day", "file", "c", "u", "r"])),
    }
}

/// A condition, also of columns that are never NULL and of whole rows.
fn asking(random: &mut Random, of: &str, depth: u64) -> String {
    match random.below(12) {
        0 => format!("{of}m IS NOT NULL"),
        1 => format!("{of}m IS NULL"),
        2 => format!("{of}m > {}", random.below(9)),
        3 => format!("{of}d IS NOT NULL"),
        4 => format!("{of}d.deep IS NULL"),
        5 => format!("({of}r IS NOT NULL OR {})", condition(random, of, depth)),
        6 => format!("(TRUE OR {})", condition(random, of, depth)),
        _ => condition(random, of, depth),
    }
}

/// One of `MAX(x)`, `SUM(n)`, …, as a text.
fn aggregate(random: &mut Random) -> String {
    let depth = random.below(2);
    let x = expression(random, "", depth);
    let aggregate = match random.below(7) {
        0 => format!("MAX({x})"),
        1 => "SUM(n)".to_owned(),
        2 => "SUM(m)".to_owned(),
        3 => format!("COUNT({x})"),
        4 => format!("COUNT(DISTINCT {x})"),
        5 => "COUNT(*)".to_owned(),
        _ => "AVG(m)".to_owned(),
    };
    let filter = match random.below(3) {
        0 => format!(" FILTER (WHERE {})", asking(random, "", 0)),
        _ => String::new(),
    };
    format!("CAST({aggregate}{filter} AS STRING)")
}

const WINDOW: &str = "TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE))";

/// A query of two columns of text, the first of which is never NULL.
fn shape(random: &mut Random) -> String {
    let key = "CAST(i AS STRING)";
    let depth = random.below(2);
    let (x, y, a) = (expression(random, "", depth), expression(random, "", depth), asking(random, "", depth));
    let (one, other) = (aggregate(random), aggregate(random));
    match random.below(10) {
        0 => format!("SELECT {key}, {x} FROM events WHERE {a}"),
        1 => {
            let above = match random.below(4) {
                0 => "v = w".to_owned(),
                1 => "v IS NOT NULL".to_owned(),
                2 => "COALESCE(w, v) IS NOT NULL".to_owned(),
                _ => asking(random, "q.", 0),
            };
            format!("SELECT q.k, q.v FROM (SELECT *, {key} AS k, {x} AS v, {y} AS w FROM events WHERE {a}) AS q WHERE {above}")
        }
        2 => format!("SELECT {key}, {x} FROM views WHERE {a}"),
        3 => format!(
            "SELECT CAST(window_start AS STRING), {one} FROM {WINDOW} WHERE {a} GROUP BY window_start, window_end HAVING COUNT({y}) >= 0"
        ),
        4 => format!(
            "SELECT CAST(window_start AS STRING), q.v FROM (SELECT window_start, {x} AS v, {one} AS w, {other} AS x
FROM {WINDOW} WHERE {a} GROUP BY window_start, window_end, {x}) AS q WHERE q.w IS NOT NULL OR q.v IS NULL"
        ),
        5 => format!("SELECT COALESCE({x}, ''), {one} FROM events WHERE {a} GROUP BY COALESCE({x}, '')"),
        6 => format!(
            "SELECT CAST(window_start AS STRING), {x} FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY m, i) AS place
FROM {WINDOW} WHERE {a}) AS q WHERE place <= 3"
        ),
        7 => {
            let on = format!("e.s = r.s{}", pick(random, &["", " AND r.s = 'home'", " AND r.label = '404'"]));
            let join = pick(random, &["JOIN", "LEFT JOIN"]);
            let (x, a) = (expression(random, "e.", 0), asking(random, "e.", depth));
            format!("SELECT CAST(e.i AS STRING) || COALESCE(r.label, ''), {x} FROM events AS e {join} labels AS r ON {on} WHERE {a}")
        }
        8 => format!("SELECT CAST(e.i AS STRING), r.label FROM events AS e CROSS JOIN LATERAL (SELECT label FROM labels WHERE labels.s = e.{}) AS r", pick(random, &["s", "t", "c", "r"])),
        _ => format!("SELECT {key}, {x} FROM events WHERE {a} UNION ALL SELECT {key}, {y} FROM views"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_gives_the_same_beside_others() {
    let seed = asked("SKIPPED_SEED").unwrap_or(2026);
    let make = |random: &mut Random| {
        let select = shape(random);
        let is_running = select.starts_with("SELECT COALESCE(");
        let columns =
            if is_running { "k STRING, v STRING, PRIMARY KEY (k) NOT ENFORCED" } else { "k STRING, v STRING" };
        Query { columns, select }
    };
    let every = "s || t || CAST(n AS STRING) || CAST(m AS STRING) || CAST(b AS STRING) || d.s || d.deep.t || tags['k'] || day || file || c || u || r";
    let every =
        Query { columns: "k STRING, v STRING", select: format!("SELECT CAST(i AS STRING), {every} FROM events") };
    let gave = alone_and_beside(seed, make, every).await;
    let rows = gave.iter().filter(|(_, rows)| *rows > 0).count();
    println!("seed {seed}: {rows} of {} queries gave rows", gave.len());
    assert!(rows * 2 > gave.len(), "{rows} of {}", gave.len());
}
