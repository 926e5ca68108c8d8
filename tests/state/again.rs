//! What a person asks for once, of a run that fails before a checkpoint has it, and is tried again by its own process.

use std::fs::File;
use std::process::Command;

use super::{COUNTS, PAGES, Place, SOURCE, TOTAL, VIEWS, wait};

/// One number, which shows the state that it comes from.
const ALL: &str = "\
CREATE TABLE counts (event_type STRING, events BIGINT, PRIMARY KEY (event_type) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
INSERT INTO counts SELECT 'all', COUNT(*) FROM events;
";

impl Place {
    fn in_sqlite(&self, statement: &str) {
        let connection = rusqlite::Connection::open(self.at("local/dynamodb.sqlite")).unwrap();
        connection.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        connection.execute_batch(statement).unwrap();
    }

    /// The table of counts takes nothing any more, and the sink says that it is out of reach.
    fn breaks(&self) {
        self.in_sqlite("CREATE TRIGGER away BEFORE INSERT ON counts BEGIN SELECT RAISE(ABORT, 'away'); END");
    }

    fn mends(&self) {
        self.in_sqlite("DROP TRIGGER away");
    }

    /// Runs with these options, and a checkpoint each `checkpoints`; `meanwhile` sees what it says. Answers all that it has said.
    #[track_caller]
    fn run_meanwhile(&self, checkpoints: &str, more: &[&str], meanwhile: impl FnOnce(&dyn Fn() -> String)) -> String {
        let always =
            ["run", "job", "--local", "local", "--epoch-interval", "20ms", "--checkpoint-interval", checkpoints];
        let said = || std::fs::read_to_string(self.at("said")).unwrap();
        let mut command = self.command(&[&always[..], more].concat());
        let child = command.stderr(File::create(self.at("said")).unwrap()).spawn().unwrap();
        meanwhile(&said);
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        assert!(child.wait_with_output().unwrap().status.success(), "{}", said());
        said()
    }
}

#[test]
fn a_query_that_is_reset_stays_so_when_its_run_is_tried_again() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", ALL)]);
    place.run(&[]);
    assert_eq!(place.number(TOTAL), 300);
    let fails_and_goes_on = |said: &dyn Fn() -> String, from: usize| {
        place.breaks();
        place.produce(from, 100);
        wait("its sink fails", || said().contains("failed ("));
        place.mends();
        wait("it goes on", || place.number(TOTAL) >= 200);
    };
    let said = place.run_meanwhile("1h", &["--reset", "counts"], |said| {
        place.produce(300, 100);
        wait("it counts anew", || place.number(TOTAL) == 100);
        fails_and_goes_on(said, 400);
    });
    assert_eq!(place.number(TOTAL), 200, "from what it had counted, not from the old state");
    assert!(said.matches("query 'counts:counts' begins without state").count() >= 2, "{said}");
    place.produce(500, 50);
    place.run(&[]);
    assert_eq!(place.number(TOTAL), 250);
    // Where a checkpoint of the run has it, that is gone on from.
    place.run_meanwhile("20ms", &["--reset", "counts"], |said| {
        place.produce(550, 99);
        wait("it counts anew", || place.number(TOTAL) == 99);
        let before = place.manifests();
        place.produce(649, 1);
        wait("a checkpoint has it", || place.number(TOTAL) == 100 && place.manifests().last() != before.last());
        fails_and_goes_on(said, 650);
    });
    assert_eq!(place.number(TOTAL), 200);
}

/// Also what was said of epochs of the run before, which it repeats.
#[test]
fn what_was_said_of_changed_and_gone_queries_holds_when_their_run_is_tried_again() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS), ("pages.sql", PAGES)]);
    place.run(&[]);
    assert!(place.number(VIEWS) > 0);
    place.produce(300, 100);
    place.killed(&["--checkpoint-interval", "0"], || place.logged() > 5);
    std::fs::remove_file(place.at("job/pages.sql")).unwrap();
    place.write("counts.sql", &ALL.replace("COUNT(*)", "COUNT(*) * 10"));
    place.in_sqlite("DELETE FROM counts");
    place.breaks();
    let said = place.run_meanwhile("1h", &["--drop-state", "pages", "--reset", "counts"], |said| {
        wait("its sink fails twice", || said().matches("failed (").count() >= 2);
        place.mends();
        wait("it goes on", || place.number("SELECT COALESCE(SUM(events), 0) FROM counts") == 1_000);
    });
    assert!(!said.contains("error:"), "{said}");
    place.produce(400, 10);
    place.run(&[]);
    assert_eq!(place.number(TOTAL), 1_100);
}
