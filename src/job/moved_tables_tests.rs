//! Tables that queries read under other names than before.

use std::sync::Arc;

use super::*;
use crate::contracts::{EpochCut, SplitCut};
use crate::runtime::identity;
use crate::sql::{Parameters, PlanOptions, SqlText, plan_job};
use crate::state::{MANIFEST_VERSION, ManifestQuery, SavedSplit};

/// Queries `job:a`, `job:b`, … that each copy the table of this name and hint; or several with `+` between.
async fn reading(tables: &[&str]) -> JobPlan {
    let mut text = "CREATE TABLE t (n BIGINT) WITH ('connector' = 'kinesis', 'stream' = 's', 'format' = 'json');
                    CREATE TABLE u (n BIGINT) WITH ('connector' = 'kinesis', 'stream' = 'u', 'format' = 'json');"
        .to_owned();
    for (table, sink) in tables.iter().zip('a'..='z') {
        let hint = |(name, value): (&str, &str)| match value {
            "elsewhere" => format!("{name} /*+ OPTIONS('stream' = 'other') */"),
            value => format!("{name} /*+ OPTIONS('scan.watermark.idle-timeout' = '{value}') */"),
        };
        let select =
            |table: &str| format!("SELECT n FROM {}", table.split_once(' ').map_or_else(|| table.to_owned(), hint));
        let query = table.split('+').map(select).collect::<Vec<_>>().join(" UNION ALL ");
        text += &format!("CREATE TABLE {sink} (n BIGINT) WITH ('connector' = 'print'); INSERT INTO {sink} {query};");
    }
    let file = Arc::new(SqlText::new("job.sql", text));
    let options = PlanOptions { partitions: 1, batch: false, pruned: true, epoch_time_ms: Arc::default() };
    plan_job(&[file], &Parameters::default(), &options, None).await.expect("it is planned")
}

fn named(table: &str) -> String {
    let hint = |(name, value)| format!("{name} OPTIONS('scan.watermark.idle-timeout'='{value}')");
    table.split_once(' ').map_or_else(|| table.to_owned(), hint)
}

fn stands(at: &str) -> SavedTable {
    let split = SavedSplit {
        after_exclusive: Some(at.to_owned()),
        from_ms: None,
        watermark_ms: 0,
        finished: false,
        version: None,
        gone_ms: None,
    };
    SavedTable { splits: [("shard".to_owned(), split)].into(), floor: 0, source: None }
}

/// A checkpoint of queries that have read these tables up to there; with `says`, it says which.
fn saved(queries: &[(&str, &str)], says: bool) -> Manifest {
    let query = |((table, _), sink): (&(&str, &str), char)| {
        let reads = if says { vec![named(table)] } else { Vec::new() };
        let query = ManifestQuery {
            plan: String::new(),
            in_full: true,
            reads,
            refusal_rules: String::new(),
            durable_epoch: 9,
            operators: Vec::new(),
            unwritten: None,
            sink: None,
        };
        (format!("job:{sink}"), query)
    };
    Manifest {
        version: MANIFEST_VERSION,
        program: "tidemill".to_owned(),
        number: 1,
        nonce: String::new(),
        generation: 1,
        time_ms: 0,
        epoch: 9,
        log_after: 9,
        from: None,
        tables: queries.iter().map(|(table, at)| (named(table), stands(at))).collect(),
        reread: None,
        references: BTreeMap::new(),
        queries: queries.iter().zip('a'..='z').map(query).collect(),
    }
}

/// Where a table is read on; the error where that is refused.
async fn followed(
    manifest: Option<&mut Manifest>,
    now: &[&str],
    log: &[LogEntry],
    state: &StateOptions,
) -> std::result::Result<Vec<String>, String> {
    let plan = reading(now).await;
    let Some(manifest) = manifest else {
        return follow_tables(&plan, None, log, state).map_err(|error| error.message().to_owned());
    };
    follow_tables(&plan, Some(&mut *manifest), log, state).map_err(|error| error.message().to_owned())?;
    let at = |name: &str| manifest.tables.get(&named(name))?.splits["shard"].after_exclusive.clone();
    assert!(plan.queries.iter().all(|query| {
        manifest.queries.get(&query.name).is_none_or(|saved| saved.reads == reads(&plan.sources, query))
    }));
    Ok(now.iter().map(|name| at(name).unwrap_or_else(|| "new".to_owned())).collect())
}

/// Where tables are read on, or a part of the error.
type Said = std::result::Result<&'static [&'static str], &'static str>;
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], Said, Option<Said>);

#[tokio::test]
async fn each_query_goes_on_from_where_it_has_read_to() {
    let nothing = StateOptions::default();
    let apart = [("t", "7"), ("t 5 s", "3")];
    let (elsewhere, unclear) = ("to another place", "may have been any of");
    // What was read, up to where; what is read now; where that goes on, or why not. Then the same where the checkpoint does not say who had what.
    let cases: [Case; 10] = [
        (&[("t 5 s", "3")], &["t 6 s"], Ok(&["3"]), None),
        (&[("t 5 s", "3")], &["t"], Ok(&["3"]), None),
        (&[("t", "3")], &["t 6 s"], Ok(&["3"]), None),
        (&apart, &["t", "t 6 s"], Ok(&["7", "3"]), None),
        (&apart, &["t 6 s", "t 5 s"], Ok(&["7", "3"]), None),
        (&apart, &["t 6 s", "t 7 s"], Ok(&["7", "3"]), Some(Err(unclear))),
        // Both change, and one comes to where the other was.
        (&apart, &["t 5 s", "t 6 s"], Err(elsewhere), Some(Ok(&["3", "7"]))),
        (&apart, &["t", "t"], Err(elsewhere), Some(Ok(&["7", "7"]))),
        (&[("t", "7"), ("t 5 s", "7")], &["t", "t"], Ok(&["7", "7"]), None),
        // Where nothing has gone, what comes is new.
        (&[("t", "7")], &["t", "t 5 s"], Ok(&["7", "new"]), None),
    ];
    for (before, now, said, guessed) in cases {
        for says in [true, false] {
            let mut manifest = saved(before, says);
            let expected = if says { &said } else { guessed.as_ref().unwrap_or(&said) };
            match (followed(Some(&mut manifest), now, &[], &nothing).await, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, **expected, "{before:?} {now:?} {says}"),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{before:?} {now:?} {says}: {error}"),
                (found, expected) => panic!("{before:?} {now:?} {says}: {found:?} instead of {expected:?}"),
            }
        }
    }
}

/// Of one table in several places of a query, one may get a hint: it goes on there, too. Not where the hint names another stream.
#[tokio::test]
async fn a_table_in_several_places_of_a_query_stands_where_the_query_does() {
    let nothing = StateOptions::default();
    for (had, now, expected) in [
        (&["t"][..], "t+t 5 s", &[("t", Some("3")), ("t 5 s", Some("3"))][..]),
        (&["t 5 s"], "t 5 s+t 6 s", &[("t 5 s", Some("3")), ("t 6 s", Some("3"))]),
        (&["t", "t 5 s"], "t", &[("t", Some("3"))]),
        (&["t"], "t+t elsewhere", &[("t", Some("3"))]),
        (&["t"], "t+u", &[("t", Some("3")), ("u", None)]),
    ] {
        let mut manifest = saved(&had.iter().map(|table| (*table, "3")).collect::<Vec<_>>(), true);
        manifest.queries.retain(|name, _| name == "job:a");
        manifest.queries.values_mut().for_each(|query| query.reads = had.iter().map(|table| named(table)).collect());
        follow_tables(&reading(&[now]).await, Some(&mut manifest), &[], &nothing).expect(now);
        for (table, at) in expected {
            let found = manifest.tables.get(&named(table)).map(|table| table.splits["shard"].after_exclusive.clone());
            assert_eq!(found, at.map(|at| Some(at.to_owned())), "{had:?}, {now}: {table}");
        }
        assert!(!manifest.tables.keys().any(|name| name.contains("'stream'")), "{:?}", manifest.tables.keys());
    }
    // A hint that goes, where the other place of the table stands elsewhere.
    let mut manifest = saved(&[("t", "7"), ("t 5 s", "3")], true);
    manifest.queries.values_mut().for_each(|query| query.reads = vec![named("t"), named("t 5 s")]);
    for now in ["t", "t 5 s"] {
        let error = follow_tables(&reading(&[now]).await, Some(&mut manifest), &[], &nothing).expect_err(now);
        assert!(error.message().contains("to another place"), "{error}");
    }
}

#[tokio::test]
async fn a_table_of_another_name_is_the_same_where_a_person_says_so() {
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let kept = StateOptions { keep_state: named(&["a"]), ..StateOptions::default() };
    for (state, expected) in [(StateOptions::default(), Err("read 't' up to the last checkpoint")), (kept, Ok("3"))] {
        let mut manifest = saved(&[("t", "3")], true);
        match (followed(Some(&mut manifest), &["u"], &[], &state).await, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, [expected]),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }
}

fn killed(epoch: u64, table: &str, queries: &JobPlan, says: bool) -> [LogEntry; 2] {
    let identities = queries.queries.iter().map(|query| (query.name.clone(), identity(&query.normal))).collect();
    let reads = |query: &QueryPlan| (query.name.clone(), reads(&queries.sources, query));
    let reads = if says { queries.queries.iter().map(reads).collect() } else { BTreeMap::new() };
    let split = SplitCut {
        feed: named(table),
        split: "shard".to_owned(),
        opened: None,
        records: 1,
        after: None,
        version: None,
        ended: false,
    };
    let cut = EpochCut { epoch, generation: 2, splits: vec![split], ..EpochCut::default() };
    [LogEntry::Started { generation: 2, queries: identities, anew: false, behind: Some(9), reads }, LogEntry::Cut(cut)]
}

#[tokio::test]
async fn logged_epochs_are_repeated_by_who_reads_the_same() {
    let reset = StateOptions { reset: vec!["a".to_owned()], ..StateOptions::default() };
    let nothing = StateOptions::default();
    for says in [true, false] {
        // The killed run had changed the hint, and had gone on from there: so does the one that repeats its epochs.
        let log = killed(10, "t 6 s", &reading(&["t 6 s"]).await, says);
        let mut manifest = saved(&[("t 5 s", "3")], true);
        assert_eq!(followed(Some(&mut manifest), &["t 6 s"], &log, &nothing).await, Ok(vec!["3".to_owned()]));
        // Not one that undoes the change, nor one that changes it again.
        for now in ["t 5 s", "t 7 s", "t"] {
            let mut manifest = saved(&[("t 5 s", "3")], true);
            let error = followed(Some(&mut manifest), &[now], &log, &nothing).await.expect_err("it is refused");
            assert!(error.contains("did not end in order") && error.contains("'6 s'"), "{now}: {error}");
            // Without a checkpoint, too; and one that begins anew gets none of them.
            followed(None, &[now], &log, &nothing).await.expect_err("it is refused");
            followed(None, &[now], &log, &reset).await.expect("it is asked for");
        }
        // What a checkpoint has is not repeated.
        let log = killed(9, "t 6 s", &reading(&["t 6 s"]).await, says);
        let mut manifest = saved(&[("t 6 s", "4")], true);
        assert_eq!(followed(Some(&mut manifest), &["t 5 s"], &log, &nothing).await, Ok(vec!["4".to_owned()]));
    }
    // A table that has given nothing is in no epoch.
    let both = reading(&["t", "t 5 s"]).await;
    followed(None, &["t", "t 5 s"], &killed(1, "t", &both, true), &nothing).await.expect("nothing has changed");
}
