//! INSERTs of one file into one table, of which one comes or goes before others.

use super::*;

const TABLE: &str = "\
CREATE TABLE metrics (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'metrics');
";
const NUMBER: &str = "INSERT INTO metrics SELECT 'number', COUNT(*) FROM events;\n";
const SUM: &str = "INSERT INTO metrics SELECT 'sum', SUM(amount) FROM events;\n";
const LARGEST: &str = "INSERT INTO metrics SELECT 'largest', MAX(id) FROM events;\n";

fn metrics(inserts: &[&str]) -> String {
    format!("{TABLE}{}", inserts.concat())
}

fn with(inserts: &[&str]) -> Place {
    let place = Place::of(&[("events.sql", SOURCE), ("counts.sql", COUNTS), ("revenue.sql", &metrics(inserts))]);
    place.produce(0..100);
    place.run(&[]);
    place
}

impl Place {
    fn metric(&self, name: &str) -> Option<i64> {
        self.rows("SELECT k, c FROM metrics").get(name).copied().flatten()
    }
}

fn sum(ids: Range<u64>) -> Option<i64> {
    i64::try_from(ids.map(amount).sum::<u64>()).ok()
}

#[test]
fn an_insert_before_others_may_go_and_they_keep_their_state() {
    let place = with(&[NUMBER, SUM]);
    place.write("revenue.sql", &metrics(&[SUM]));
    place.produce(100..200);
    let refused = place.refused(&RUN);
    assert!(refused.contains("the query 'revenue:metrics' is not in the job any more, and has 1 rows"), "{refused}");
    let said = place.run(&["--drop-state", "revenue:metrics"]);
    let told = "query 'revenue:metrics' was 'revenue:metrics#2' before, and goes on with the state of that";
    assert!(said.contains(told), "{said}");
    assert_eq!((place.metric("number"), place.metric("sum")), (Some(100), sum(0..200)));
    // That is its name now.
    place.produce(200..250);
    let said = place.run(&[]);
    assert!(!said.contains("before, and goes on"), "{said}");
    assert_eq!(place.metric("sum"), sum(0..250));
}

#[test]
fn an_insert_may_come_before_others_also_when_the_run_is_killed_before_its_first_checkpoint() {
    let place = with(&[NUMBER, SUM]);
    place.write("revenue.sql", &metrics(&[LARGEST, SUM, NUMBER]));
    place.produce(100..200);
    kill(place.run_until(200, &["--epoch-rows", "10", "--checkpoint-interval", "0"]));
    // The checkpoint has the old names, the log those of now.
    place.produce(200..300);
    let said = place.run(&[]);
    assert!(
        said.contains("query 'revenue:metrics#3' was 'revenue:metrics' before") && !said.contains("#2' was"),
        "{said}"
    );
    let found = (place.metric("largest"), place.metric("number"), place.metric("sum"));
    assert_eq!(found, (Some(299), Some(300), sum(0..300)));
}

#[test]
fn places_do_not_change_while_epochs_are_to_be_repeated_in_the_old_ones() {
    let place = with(&[NUMBER, SUM]);
    place.produce(100..200);
    kill(place.run_until(200, &["--epoch-rows", "10", "--checkpoint-interval", "0"]));
    place.write("revenue.sql", &metrics(&[SUM]));
    let refused = place.refused(&[&RUN[..], &["--drop-state", "revenue:metrics"]].concat());
    let told = "'revenue:metrics' is what 'revenue:metrics#2' was before; but the run before did not end in order";
    assert!(refused.contains(told) && refused.contains("run once with --once"), "{refused}");
    // As it says.
    place.write("revenue.sql", &metrics(&[NUMBER, SUM]));
    place.run(&[]);
    place.write("revenue.sql", &metrics(&[SUM]));
    place.produce(200..210);
    place.run(&["--drop-state", "revenue:metrics"]);
    assert_eq!((place.metric("number"), place.metric("sum")), (Some(200), sum(0..210)));
}

/// It would be counted on from what another query has counted.
#[test]
fn state_that_may_be_another_query_s_is_not_kept() {
    let place = with(&[NUMBER, SUM]);
    place.write("revenue.sql", &metrics(&[&SUM.replace("SUM(amount)", "SUM(amount + 1)")]));
    let gone = ["--drop-state", "revenue:metrics#2"];
    let refused = place.refused(&[&RUN[..], &gone].concat());
    assert!(
        refused.contains("this may be a comparison with another one") && !refused.contains("--keep-state"),
        "{refused}"
    );
    let refused = place.refused(&[&RUN[..], &gone, &["--keep-state", "revenue:metrics"]].concat());
    assert!(refused.contains("the state of 'revenue:metrics' may be another query's"), "{refused}");
    assert!(refused.contains("change one thing after the other"), "{refused}");
    // As it says.
    place.write("revenue.sql", &metrics(&[SUM]));
    place.run(&["--drop-state", "revenue:metrics"]);
    place.write("revenue.sql", &metrics(&[&SUM.replace("SUM(amount)", "SUM(amount + 1)")]));
    place.produce(100..110);
    place.run(&["--keep-state", "revenue:metrics"]);
    assert_eq!(place.metric("sum"), sum(0..110).map(|sum| sum + 10));
}
