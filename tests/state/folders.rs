//! What else lies in a folder of checkpoints, and what of the checkpoints may be damaged.

use super::*;

#[test]
fn checkpoints_are_not_kept_beside_the_files_of_the_job() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    let foreign = ["job/.gitignore", "job/.env", "job/data.json", "job/state/.notes", "job/7.json"];
    std::fs::create_dir(place.at("job/state")).unwrap();
    foreign.iter().for_each(|name| std::fs::write(place.at(name), name).unwrap());
    for more in [&["--checkpoints", "."][..], &["--checkpoints", ".", "--fresh"]] {
        let refused = place.refused(&[&RUN[..], more].concat());
        assert!(refused.contains("checkpoints cannot be kept in './job', where 'job/counts.sql' lies"), "{refused}");
        assert!(refused.contains("name another folder"), "{refused}");
    }
    place.run(&[]);
    let refused = place.refused(&["state", "restore", "local", "latest", "--to", "job"]);
    assert!(refused.contains("checkpoints cannot be kept in 'job'"), "{refused}");
    for name in foreign {
        assert_eq!(std::fs::read_to_string(place.at(name)).unwrap(), name);
    }
    assert!(!place.at("job/epochs.log").exists() && !place.at("job/manifests").exists());
}

/// Flips a bit in the midst of the log.
fn damage(place: &Place) {
    let path = place.at("local/checkpoints/job/epochs.log");
    let mut log = std::fs::read(&path).unwrap();
    let middle = log.len() / 2;
    log[middle] ^= 1;
    std::fs::write(path, log).unwrap();
}

#[test]
fn a_damaged_log_is_told_and_can_be_gone_on_without() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    place.done(&["state", "save", "local", "first"]);
    let ways: [(&[&str], &[&str]); 3] =
        [(&["state", "rewind", "local", "latest"], &[]), (&[], &["--from-savepoint", "first"]), (&[], &["--fresh"])];
    for (number, (tool, more)) in ways.into_iter().enumerate() {
        place.produce(300 + number * 100, 100);
        place.killed(&["--checkpoint-interval", "0"], || place.logged() >= 8);
        damage(&place);
        for with in [&[][..], &["--previous-checkpoint"]] {
            let refused = place.refused(&[&RUN[..], with].concat());
            assert!(refused.contains("of the epoch log ") && refused.contains("is damaged"), "{refused}");
            assert!(refused.contains("hint: `tidemill state rewind STORE latest` goes on"), "{refused}");
        }
        // Looking, and copying, is still possible.
        let copy = format!("copy{number}/job");
        place.done(&["state", "restore", "local", "latest", "--to", &copy]);
        assert!(place.epoch(&copy) > 1_000_000, "the log has had epochs that nobody knows");
        if !tool.is_empty() {
            place.done(tool);
        }
        place.run(more);
        assert_eq!(place.number(TOTAL), 400 + 100 * i64::try_from(number).unwrap(), "{tool:?} {more:?}");
        assert!(place.epoch("local") > 1_000_000, "epochs are counted on");
        assert!(place.run(&[]).starts_with("0 records"), "the log is whole again");
    }
}

/// One that is empty is what a checkpoint leaves. One that is not there has been removed, with what would have been repeated.
#[test]
fn a_log_that_is_not_there_is_missed() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    place.produce(300, 100);
    place.killed(&["--checkpoint-interval", "0"], || place.logged() >= 5);
    std::fs::remove_file(place.at("local/checkpoints/job/epochs.log")).unwrap();
    for _ in 0..2 {
        let refused = place.refused(&RUN);
        let parts = ["epochs.log' is gone, though there are checkpoints", "tidemill state rewind"];
        assert!(parts.iter().all(|part| refused.contains(part)), "{refused}");
    }
    place.done(&["state", "rewind", "local", "latest"]);
    place.run(&[]);
    assert_eq!(place.number(TOTAL), 400);
    place.produce(400, 100);
    place.run(&[]);
    assert_eq!(place.number(TOTAL), 500);
}

/// A folder that cannot be written must be as good: nothing is made in it, locked or tidied up.
#[test]
fn a_store_that_is_copied_from_stays_as_it_is() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    let store = place.at("local/checkpoints/job");
    std::fs::remove_file(store.join("epochs.log")).unwrap();
    std::fs::write(store.join("manifests/.0000000002.json.1-0"), "half of one").unwrap();
    place.done(&["state", "restore", "local", "latest", "--to", "elsewhere/job"]);
    assert!(!store.join("epochs.log").exists() && store.join("manifests/.0000000002.json.1-0").exists());
    place.produce(300, 100);
    assert!(place.run(&["--checkpoints", "elsewhere"]).contains("100 records"));
    assert_eq!(place.number(TOTAL), 400);
}

#[test]
fn a_savepoint_that_cannot_be_read_stops_clean_up_until_it_is_dropped() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    place.done(&["state", "save", "local", "first"]);
    let store = place.at("local/checkpoints/job");
    let savepoint = store.join("savepoints/first.json");
    let mut text = std::fs::read(&savepoint).unwrap();
    text[20] ^= 1;
    std::fs::write(&savepoint, text).unwrap();
    std::fs::write(store.join("savepoints/notes.json"), "{}").unwrap();
    let files = || std::fs::read_dir(store.join("state")).unwrap().count();
    for from in 0..6 {
        place.produce(300 + from * 10, 10);
        let said = place.run(&[]);
        let told = "local/checkpoints/job/savepoints/first.json' cannot be read, so it is not known which state files it needs";
        assert!(said.contains(told) && said.contains("tidemill state drop local/checkpoints/job first"), "{said}");
        assert_eq!(said.matches("cannot be read").count(), 1, "{said}");
    }
    let kept = files();
    assert!(place.refused(&["state", "drop", "local", "../manifests/0000000004"]).contains("there is no savepoint"));
    place.done(&["state", "drop", "local", "first"]);
    assert!(place.run(&[]).contains("savepoints/notes.json' cannot be read"));
    place.done(&["state", "drop", "local", "notes"]);
    assert!(!place.run(&[]).contains("cannot be read"));
    assert!(files() < kept, "{} of {kept}", files());
}
