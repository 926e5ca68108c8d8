//! The same job, started from another folder or by another path: it is the same job, and its files are the same files.

use tidemill::state::Manifest;

use super::*;

const FILES: usize = 5;
const ROWS: usize = 20;

/// Files below `path`, counted and copied.
fn job(path: &str) -> String {
    format!(
        "CREATE TABLE events (id BIGINT) WITH ('connector' = 'filesystem', 'path' = '{path}', 'format' = 'json');
CREATE TABLE counts (k STRING, events BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
CREATE TABLE copies (id BIGINT)
WITH ('connector' = 'filesystem', 'path' = '../out', 'format' = 'json', 'sink.rolling-policy.row-count' = '7');
INSERT INTO counts SELECT 'all', COUNT(*) FROM events;
INSERT INTO copies SELECT id FROM events;
"
    )
}

impl Place {
    fn of_files(path: &str, folder: &str) -> Self {
        let place = Self::of(&[("job.sql", &job(path))]);
        std::fs::create_dir_all(place.at(folder)).unwrap();
        // What is in a bucket without checkpoints beside it is taken for results of a run that is not known.
        std::fs::create_dir_all(place.at("local/checkpoints")).unwrap();
        (0..FILES).for_each(|number| place.file(folder, number));
        place
    }

    fn file(&self, folder: &str, number: usize) {
        let row = |row: usize| format!("{{\"id\":{}}}\n", number * ROWS + row);
        std::fs::write(self.at(folder).join(format!("{number}.json")), (0..ROWS).map(row).collect::<String>()).unwrap();
    }

    /// Runs in a folder what is there, or until it is killed at a named place.
    #[track_caller]
    fn run_in(&self, folder: &str, job: &str, local: &str, dies_at: Option<&str>) -> String {
        self.run_with(folder, job, local, dies_at, &["--epoch-rows", "10"])
    }

    #[track_caller]
    fn run_with(&self, folder: &str, job: &str, local: &str, dies_at: Option<&str>, more: &[&str]) -> String {
        std::fs::create_dir_all(self.at(folder)).unwrap();
        let args = ["run", job, "--local", local, "--once"];
        let mut command = self.command(&[&args[..], more].concat());
        command.current_dir(self.at(folder)).envs(dies_at.map(|at| ("TIDEMILL_CRASH_AT", at)));
        let output = command.output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(
            (output.status.success(), output.status.code().is_none()),
            (dies_at.is_none(), dies_at.is_some()),
            "{text}"
        );
        text
    }

    /// Every row of so many files has been counted and copied once.
    #[track_caller]
    fn assert_once(&self, files: usize) {
        assert_eq!(self.number(TOTAL), i64::try_from(files * ROWS).unwrap());
        let mut lines = Vec::new();
        for entry in std::fs::read_dir(self.at("out")).unwrap().map(|entry| entry.unwrap()) {
            if !entry.file_name().to_string_lossy().starts_with('.') {
                lines.extend(std::fs::read_to_string(entry.path()).unwrap().lines().map(str::to_owned));
            }
        }
        lines.sort();
        let mut wanted: Vec<String> = (0..files * ROWS).map(|id| format!("{{\"id\":{id}}}")).collect();
        wanted.sort();
        assert_eq!(lines, wanted);
    }

    /// Where it is started, the job, and its `--local`.
    fn spellings(&self) -> [(&'static str, String, String); 5] {
        let absolute = |path: &str| self.at(path).to_str().unwrap().to_owned();
        [
            ("", "job".to_owned(), "local".to_owned()),
            ("", absolute("job"), absolute("local")),
            ("job", ".".to_owned(), "../local".to_owned()),
            ("", "./job".to_owned(), "./local".to_owned()),
            ("other", "../job".to_owned(), absolute("local")),
        ]
    }
}

#[test]
fn a_job_that_is_started_from_another_folder_reads_nothing_again() {
    for (path, folder) in [("../in", "in"), ("s3://in/files", "local/s3/in/files")] {
        let place = Place::of_files(path, folder);
        for (number, (from, job, local)) in place.spellings().iter().enumerate() {
            let said = place.run_in(from, job, local, None);
            let records = if number == 0 { "100 records" } else { "0 records" };
            assert!(said.starts_with(records), "{path}, {from}: {said}");
            place.assert_once(FILES);
        }
        // A file that is new is.
        place.file(folder, FILES);
        assert!(place.run_in("job", ".", "../local", None).starts_with("20 records"));
        place.assert_once(FILES + 1);
    }
}

/// Others of the table are there. What was read of it is known when it is back; so is that it was read in part.
#[test]
fn a_file_that_is_away_for_a_while_is_not_read_again() {
    let place = Place::of_files("../in", "in");
    let (here, away) = (place.at("in/1.json"), place.at("1.json"));
    // Killed within it.
    place.run_in("", "job", "local", Some("cut.after:3"));
    place.run_in("", "job", "local", None);
    place.assert_once(FILES);
    for more in 0..2 {
        std::fs::rename(&here, &away).unwrap();
        place.file("in", FILES + more);
        for _ in 0..2 {
            place.run_in("", "job", "local", None);
        }
        std::fs::rename(&away, &here).unwrap();
        assert!(place.run_in("", "job", "local", None).starts_with("0 records"));
        place.assert_once(FILES + more + 1);
    }
}

#[test]
fn a_killed_run_is_followed_by_one_from_another_folder() {
    for dies_at in ["cut.after:4", "staged:1", "committable.logged:2", "committed:1"] {
        let place = Place::of_files("../in", "in");
        let [(from, job, local), .., (from_then, job_then, local_then)] = place.spellings();
        place.run_in(from, &job, &local, Some(dies_at));
        let said = place.run_in(from_then, &job_then, &local_then, None);
        assert!(said.contains(" records"), "{dies_at}: {said}");
        place.assert_once(FILES);
    }
}

/// Earlier versions called files by the path that the command line gave.
#[test]
fn names_of_an_earlier_version_are_known() {
    let place = Place::of_files("../in", "in");
    place.run_in("", "job", "local", None);
    let path = place.manifests().pop().unwrap();
    let mut manifest = Manifest::parse(&std::fs::read(&path).unwrap(), "it").unwrap();
    let splits = &mut manifest.tables.get_mut("events").unwrap().splits;
    let top = format!("{}/in", place.path().canonicalize().unwrap().display());
    let absolute: Vec<String> = splits.keys().cloned().collect();
    *splits = std::mem::take(splits).into_iter().map(|(id, split)| (id.replace(&top, "job/../in"), split)).collect();
    assert!(splits.keys().all(|id| id.starts_with("job/../in/")), "{splits:?}");
    std::fs::write(&path, manifest.text().unwrap()).unwrap();
    place.file("in", FILES);
    assert!(place.run_in("", "job", "local", None).starts_with("20 records"));
    // From then on they have the names of this version, so that it does not matter any more where the job is started.
    let shown = place.done(&["state", "show", "local"]);
    assert!(absolute.iter().all(|id| shown.contains(id)) && !shown.contains("job/../in"), "{shown}");
    assert!(place.run_in("job", ".", "../local", None).starts_with("0 records"));
    place.assert_once(FILES + 1);
}

/// A file that came after the checkpoint has its name in the log alone.
#[test]
fn a_file_that_only_the_log_knows_is_found_by_another_path() {
    let place = Place::of_files("../in", "in");
    place.run_in("", "job", "local", None);
    std::os::unix::fs::symlink(place.path(), place.at("link")).unwrap();
    for (number, dies_at) in ["cut.after:1", "staged:1", "cut.after:2"].into_iter().enumerate() {
        place.file("in", FILES + number);
        let (job, then) = if number % 2 == 0 { ("job", "link/job") } else { ("link/job", "job") };
        let never = ["--epoch-rows", "10", "--checkpoint-interval", "0"];
        place.run_with("", job, "local", Some(dies_at), &never);
        let said = place.run_in("", then, "local", None);
        assert!(!said.contains("none of the"), "{dies_at}: {said}");
        place.assert_once(FILES + number + 1);
    }
}

/// Names in a checkpoint: of how an earlier version called files, in what queries with state have read and in what is read again first.
#[test]
fn a_job_that_goes_back_knows_its_files_by_their_names_of_now() {
    let open = job("../in")
        .replace("'sink.rolling-policy.row-count' = '7'", "'sink.rolling-policy.rollover-interval' = '1 h'");
    for (tables, reread) in [(true, true), (false, true), (true, false)] {
        let killed = || {
            let place = Place::of_files("../in", "in");
            std::fs::write(place.at("job/job.sql"), &open).unwrap();
            let often = ["--epoch-rows", "1", "--checkpoint-interval", "1ms"];
            let mut run = place.command(&[&RUN[..], &often].concat());
            let output = run.env("TIDEMILL_CRASH_AT", "manifest.after:3").output().unwrap();
            // A busy machine may make it when the run has ended, and its files are there.
            let mut files = std::fs::read_dir(place.at("out")).into_iter().flatten().flatten();
            let open = files.all(|file| file.file_name().to_string_lossy().starts_with('.'));
            (output.status.code().is_none() && open).then_some(place)
        };
        let place = (0..10).find_map(|_| killed()).expect("ten times, the run had ended at its third checkpoint");
        let path = place.manifests().pop().unwrap();
        let mut manifest = Manifest::parse(&std::fs::read(&path).unwrap(), "it").unwrap();
        let top = format!("{}/in", place.path().canonicalize().unwrap().display());
        let earlier = |table: Option<&mut tidemill::state::SavedTable>| {
            let splits = &mut table.expect("it was read").splits;
            *splits =
                std::mem::take(splits).into_iter().map(|(id, split)| (id.replace(&top, "job/../in"), split)).collect();
            assert!(splits.keys().all(|id| id.starts_with("job/../in/")), "{splits:?}");
        };
        if tables {
            earlier(manifest.tables.get_mut("events"));
        }
        let again = manifest.reread.as_mut().expect("a file is open");
        if reread {
            earlier(again.tables.get_mut("events"));
        }
        std::fs::write(&path, manifest.text().unwrap()).unwrap();
        place.done(&["state", "rewind", "local", "latest"]);
        let said = place.run_in("", "job", "local", None);
        assert!(!said.contains("it is gone"), "{said}");
        place.assert_once(FILES);
    }
}

/// What it has staged lies where the folder is now.
#[test]
fn a_killed_run_goes_on_where_everything_was_moved_to() {
    let place = Place::of_files("../in", "in");
    place.run_in("", "job", "local", Some("committable.logged:2"));
    let moved = Place::of_files("../in", "in");
    for folder in ["job", "in", "out", "local"] {
        let _ = std::fs::remove_dir_all(moved.at(folder));
        std::fs::rename(place.at(folder), moved.at(folder)).unwrap();
    }
    // The files that it reads are known by where they were.
    std::fs::create_dir_all(place.path()).unwrap();
    std::os::unix::fs::symlink(moved.at("in"), place.at("in")).unwrap();
    moved.run_in("", "job", "local", None);
    moved.assert_once(FILES);
}

#[test]
fn files_of_a_folder_that_was_moved_are_told_and_a_link_makes_them_the_same() {
    let place = Place::of_files("../in", "in");
    place.run_in("", "job", "local", None);
    std::fs::create_dir(place.at("moved")).unwrap();
    for folder in ["job", "in"] {
        std::fs::rename(place.at(folder), place.at("moved").join(folder)).unwrap();
    }
    std::os::unix::fs::symlink(place.at("moved/in"), place.at("in")).unwrap();
    let said = place.run_in("", "moved/job", "local", None);
    assert!(said.starts_with("0 records") && !said.contains("none of the"), "{said}");
    std::fs::remove_file(place.at("in")).unwrap();
    // What it has read by now goes by the new path.
    assert!(place.run_in("", "moved/job", "local", None).starts_with("0 records"));
    std::fs::rename(place.at("moved"), place.at("again")).unwrap();
    let said = place.run_in("", "again/job", "local", None);
    let told = "table 'events': none of the 5 file(s) that were read before lie in ";
    assert!(said.starts_with("100 records") && said.contains(told), "{said}");
}
