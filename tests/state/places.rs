//! Where state is kept: places that cannot be written, those that a run does not look at, and names.

use super::{COUNTS, Place, RUN, SOURCE, TOTAL};

/// Of a job from files to files, which needs nothing but its place.
fn copies(settings: &str, sink: &str) -> String {
    format!(
        "{settings}CREATE TABLE lines (event_type STRING) WITH ('connector' = 'filesystem', 'path' = '../in', 'format' = 'json');
CREATE TABLE kept (event_type STRING) WITH ('connector' = 'filesystem', 'path' = '{sink}', 'format' = 'json');
INSERT INTO kept SELECT event_type FROM lines;
"
    )
}

fn of_files(settings: &str, sink: &str) -> Place {
    let place = Place::of(&[("a.sql", &copies(settings, sink))]);
    std::fs::create_dir(place.at("in")).unwrap();
    std::fs::write(place.at("in/1.jsonl"), "{\"event_type\":\"a\"}\n{\"event_type\":\"b\"}\n").unwrap();
    place
}

/// Exit code, and what is said.
fn ended(place: &Place, args: &[&str]) -> (Option<i32>, String) {
    let output = place.command(args).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// Somebody must mend it: nobody is told to try again. (Whoever runs the tests may be allowed everything, so a file is in the way.)
#[test]
fn a_place_that_cannot_be_written_is_no_outage() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    std::fs::write(place.at("file"), "").unwrap();
    let long = "x".repeat(300);
    for (args, wanted) in [
        (&["run", "job", "--local", "new", "--checkpoints", "file"][..], "a file is where a folder must be"),
        (&["run", "job", "--local", "new", "--checkpoints", "file", "--lease", "checkpoints"], "a file is where"),
        (&["run", "job", "--local", "new", "--checkpoints", &long], "the name is too long"),
        (&["run", "job", "--local", "new", "--spill-dir", "file"], "--spill-dir"),
        (&["state", "export", "local", "--to", "file"], "a file is where a folder must be"),
    ] {
        let (code, text) = ended(&place, args);
        assert!(code == Some(1) && text.contains("error: ") && text.contains(wanted), "{args:?}: {code:?} {text}");
    }
    for path in ["", "s3:/bucket/kept"] {
        let (code, text) = ended(&place, &["run", "job", "--local", "new", "--checkpoints", path]);
        assert!(code == Some(2) && text.contains("--checkpoints"), "{text}");
    }
}

#[test]
fn a_setting_that_has_no_effect_is_told() {
    let place = of_files("SET 'state.checkpoints.dir' = 'kept-by-setting';\n", "../out");
    let said = place.run(&[]);
    assert!(
        said.contains("'state.checkpoints.dir' = 'kept-by-setting' has no effect with --local: checkpoints are below local/checkpoints"),
        "{said}"
    );
    assert!(!place.at("kept-by-setting").exists());
    for args in [
        &["run", "job", "--once"][..],
        &["run", "job", "--once", "--local", "other", "--checkpoints", "there", "--from", "latest"],
    ] {
        let said = place.done(args);
        assert!(!said.contains("has no effect"), "{args:?}: {said}");
    }
}

/// Rows would be there twice.
#[test]
fn files_of_a_job_whose_state_is_gone_are_not_written_beside() {
    for (sink, folder) in [("s3://bucket/kept", "local/s3/bucket/kept"), ("../out", "out")] {
        let place = of_files("", sink);
        place.run(&[]);
        // Another job in the same folder has a state of its own.
        std::fs::create_dir(place.at("second")).unwrap();
        std::fs::write(place.at("second/a.sql"), copies("", &format!("{sink}-of-second"))).unwrap();
        place.done(&["run", "second", "--local", "local", "--once"]);
        std::fs::remove_dir_all(place.at("local/checkpoints/job")).unwrap();
        let files = || std::fs::read_dir(place.at(folder)).unwrap().count();
        for _ in 0..2 {
            let refused = place.refused(&RUN);
            assert!(refused.contains("was written by an earlier run of this job into 'kept'"), "{refused}");
            assert!(refused.contains("--fresh") && refused.contains(folder), "{refused}");
            assert_eq!(files(), 1, "nothing was written");
        }
        let fresh = place.run(&["--fresh"]);
        assert!(fresh.contains("2 records") && fresh.contains("were moved from"), "{fresh}");
        assert_eq!(files(), 1);
    }
}

/// Not only the first time.
#[test]
fn results_without_state_are_refused_however_often_it_is_tried() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    std::fs::remove_dir_all(place.at("local/checkpoints")).unwrap();
    for _ in 0..2 {
        assert!(place.refused(&RUN).contains("has results, but no saved state to go on from"));
    }
    place.run(&["--fresh"]);
    assert_eq!(place.number(TOTAL), 300);
}

/// Nor where a copy of its state was tried in between, and could not be read, or not be written.
#[test]
fn a_copy_that_comes_to_nothing_leaves_nothing_to_go_on_from() {
    let place = Place::new(&[("events.sql", SOURCE), ("counts.sql", COUNTS)]);
    place.run(&[]);
    place.done(&["state", "restore", "local", "--to", "copy/job"]);
    let own = place.at("local/checkpoints/job");
    std::fs::remove_dir_all(&own).unwrap();
    let mut files = std::fs::read_dir(place.at("copy/job/state")).unwrap();
    let (file, aside) = (files.next().unwrap().unwrap().path(), place.at("aside"));
    let restore = ["state", "restore", "copy/job", "--to", "local/checkpoints/job"];
    let beside_results = || {
        let refused = place.refused(&RUN);
        assert!(refused.contains("has results, but no saved state to go on from"), "{refused}");
    };
    std::fs::rename(&file, &aside).unwrap();
    assert!(place.refused(&restore).contains("is missing"));
    beside_results();
    std::fs::rename(&aside, &file).unwrap();
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("state"), "in the way").unwrap();
    place.refused(&restore);
    std::fs::remove_file(own.join("state")).unwrap();
    beside_results();
    place.done(&restore);
    place.produce(300, 200);
    assert!(place.run(&[]).contains("200 records"));
    assert_eq!(place.number(TOTAL), 500);
}

/// `clicks.v1` and `clicks.v2` were both called `clicks` once.
#[test]
fn folders_that_differ_behind_a_dot_are_two_jobs() {
    let place = Place::of(&[]);
    std::fs::create_dir(place.at("in")).unwrap();
    std::fs::write(place.at("in/1.jsonl"), "{\"event_type\":\"a\"}\n").unwrap();
    for job in ["clicks.v1", "clicks.v2"] {
        std::fs::create_dir(place.at(job)).unwrap();
        std::fs::write(place.at(job).join("a.sql"), copies("", &format!("../out.{job}"))).unwrap();
        let said = place.done(&["run", job, "--local", "local", "--once"]);
        assert!(said.contains("1 records") && place.at("local/checkpoints").join(job).is_dir(), "{said}");
    }
    // As an earlier version has left it.
    let (own, earlier) = (place.at("local/checkpoints/clicks.v1"), place.at("local/checkpoints/clicks"));
    std::fs::rename(&own, &earlier).unwrap();
    let run = ["run", "clicks.v1", "--local", "local", "--once"];
    for _ in 0..2 {
        let refused = place.refused(&run);
        assert!(refused.contains("no saved state of 'clicks.v1', but one of 'clicks'"), "{refused}");
        assert!(refused.contains("SET 'pipeline.name' = 'clicks'"), "{refused}");
    }
    let sql = copies("SET 'pipeline.name' = 'clicks';\n", "../out.clicks.v1");
    std::fs::write(place.at("clicks.v1/a.sql"), sql).unwrap();
    let goes_on = place.done(&run);
    assert!(goes_on.contains("goes on from the newest checkpoint in local/checkpoints/clicks: "), "{goes_on}");
    // The other one has its own.
    let other = place.done(&["run", "clicks.v2", "--local", "local", "--once"]);
    assert!(other.starts_with("0 records"), "{other}");
}

#[test]
fn an_error_output_that_cannot_be_made_is_told_at_the_start() {
    let place = of_files("SET 'tidemill.errors.path' = 'file/refused';\n", "../out");
    std::fs::write(place.at("file"), "").unwrap();
    let refused = place.refused(&RUN);
    let file = place.at("file").canonicalize().unwrap().display().to_string();
    assert!(
        refused.contains(&format!("error output: '{file}/refused' cannot be made: '{file}' is a file")),
        "{refused}"
    );
    // One that fails later says what it is.
    let place = of_files("SET 'tidemill.errors.path' = 'refused';\n", "../out");
    std::fs::write(place.at("in/2.jsonl"), "broken\n").unwrap();
    std::os::unix::fs::symlink("/proc/nowhere", place.at("refused")).unwrap();
    let refused = place.refused(&RUN);
    assert!(refused.contains("error output: '") && refused.contains("/refused' could not be made"), "{refused}");
}

#[test]
fn more_threads_than_any_machine_has_are_refused_at_once() {
    let place = of_files("", "../out");
    let (code, text) = ended(&place, &[&RUN[..], &["--threads", "100000"]].concat());
    assert!(code == Some(2) && text.contains("there are 1024 at most"), "{text}");
}
