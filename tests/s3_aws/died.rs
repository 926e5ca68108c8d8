//! Runs that die at named places, with checkpoints in a bucket: while they begin anew, and between the promise of an object and its
//! appearance.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use crate::emulator::{Bucket, Emulator, seaweed};

const EVENTS: &str = "
CREATE TABLE events (n BIGINT) WITH ('connector' = 's3', 'path' = 's3://died/in/', 'format' = 'json');
CREATE TABLE files (n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/files', 'format' = 'json', 'sink.rolling-policy.row-count' = '100');
INSERT INTO files SELECT n FROM events;
";
const OBJECTS: &str = "
CREATE TABLE objects (n BIGINT)
WITH ('connector' = 's3', 'path' = 's3://died/out/', 'format' = 'json', 'sink.rolling-policy.row-count' = '100');
INSERT INTO objects SELECT n FROM events;
";
const NUMBERS: std::ops::Range<u64> = 0..1_000;

struct Place {
    emulator: Emulator,
    bucket: Bucket,
    folder: tempfile::TempDir,
}

impl Place {
    async fn new() -> Option<Self> {
        let emulator = seaweed().await?;
        let bucket = emulator.bucket("died").await;
        bucket.put("in/a.json", NUMBERS.map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>()).await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("job")).unwrap();
        std::fs::write(folder.path().join("job/files.sql"), EVENTS).unwrap();
        Some(Self { emulator, bucket, folder })
    }

    /// Runs what is there, up to a place where it dies if one is given. Answers how it ended, and what it said.
    fn run(&self, dies_at: Option<&str>, more: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(["run", "job", "--once", "--epoch-rows", "100", "--checkpoints", "s3://died/kept"]).args(more);
        command.arg("--param").arg(format!("DIR={}", self.folder.path().display()));
        command.current_dir(self.folder.path()).envs(self.emulator.environment()).stdin(Stdio::null());
        command.envs(dies_at.map(|place| ("TIDEMILL_CRASH_AT", place)));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    #[track_caller]
    fn done(&self, more: &[&str]) {
        let (code, said) = self.run(None, more);
        assert_eq!(code, Some(0), "{said}");
    }

    #[track_caller]
    fn dies_at(&self, place: &str, more: &[&str]) {
        let (code, said) = self.run(Some(place), more);
        assert_eq!(code, None, "{place} was not reached: {said}");
    }

    /// Number of the newest checkpoint.
    async fn checkpoint(&self) -> u64 {
        let keys = self.bucket.keys().await;
        let number = |key: &String| key.strip_prefix("kept/job/manifests/")?.strip_suffix(".json")?.parse::<u64>().ok();
        keys.iter().filter_map(number).max().unwrap()
    }

    /// Removes what the query has let appear, and answers names and numbers, in the order of the names' ends (their epochs).
    async fn take_all(&self, in_bucket: bool) -> Vec<(String, Vec<u64>)> {
        let mut taken = Vec::new();
        if in_bucket {
            for key in self.bucket.keys().await.into_iter().filter(|key| key.starts_with("out/")) {
                taken.push((key.clone(), numbers(std::str::from_utf8(&self.bucket.get(&key).await).unwrap())));
                self.bucket.delete(&key).await;
            }
        } else {
            for entry in std::fs::read_dir(self.folder.path().join("files")).unwrap().map(|entry| entry.unwrap()) {
                let name = entry.file_name().into_string().unwrap();
                if !name.starts_with('.') {
                    taken.push((name, numbers(&std::fs::read_to_string(entry.path()).unwrap())));
                    std::fs::remove_file(entry.path()).unwrap();
                }
            }
        }
        taken.sort_by_key(|(_, numbers)| numbers.first().copied());
        taken
    }

    /// Names of the files, and the numbers in them, in order.
    fn files(&self) -> (BTreeSet<String>, Vec<u64>) {
        let (mut names, mut all) = (BTreeSet::new(), Vec::new());
        for entry in std::fs::read_dir(self.folder.path().join("files")).unwrap() {
            let entry = entry.unwrap();
            names.insert(entry.file_name().into_string().unwrap());
            all.extend(numbers(&std::fs::read_to_string(entry.path()).unwrap()));
        }
        all.sort_unstable();
        (names, all)
    }
}

fn numbers(lines: &str) -> Vec<u64> {
    let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["n"].as_u64().unwrap();
    lines.lines().map(number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_dies_while_it_begins_anew_begins_anew_again() {
    let deaths: [&[&str]; 5] = [
        &["fresh.cleared:1"],
        &["fresh.midst:2", "fresh.midst:3"],
        &["fresh.aside:1"],
        &["cut.before:1"],
        &["manifest.after:1", "fresh.cleared:1"],
    ];
    let Some(place) = Place::new().await else { return };
    place.done(&[]);
    for deaths in deaths {
        let ((old, all), checkpoint) = (place.files(), place.checkpoint().await);
        assert!(all.into_iter().eq(NUMBERS), "before {deaths:?}");
        for (number, death) in deaths.iter().enumerate() {
            place.dies_at(death, if number == 0 { &["--fresh"] } else { &[] });
        }
        place.done(&[]);
        let (new, all) = place.files();
        assert!(all.iter().copied().eq(NUMBERS), "{deaths:?}: each once, not {all:?}");
        assert!(new.is_disjoint(&old), "{deaths:?}");
        // The run of the files' names: part-job-<run>-…
        let run = |names: &BTreeSet<String>| -> u64 {
            names.iter().map(|name| name.split('-').nth(2).unwrap().parse().unwrap()).max().unwrap()
        };
        assert!(run(&new) > run(&old) + deaths.len() as u64, "{deaths:?}: {new:?} after {old:?}");
        assert!(place.checkpoint().await > checkpoint, "{deaths:?}: numbers of checkpoints are counted on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_promised_appears_before_its_query_leaves_the_job() {
    let Some(place) = Place::new().await else { return };
    // Files are promised at the end, so the fifth promise is that of an object.
    std::fs::write(place.folder.path().join("job/files.sql"), EVENTS.replace("'100'", "'10000'")).unwrap();
    let query = place.folder.path().join("job/objects.sql");
    std::fs::write(&query, OBJECTS).unwrap();
    place.dies_at("committable.logged:5", &["--checkpoint-interval", "0"]);
    std::fs::remove_file(&query).unwrap();
    for more in [&[][..], &["--drop-state", "objects"]] {
        let (code, said) = place.run(None, more);
        assert_eq!(code, Some(1), "{said}");
        for part in ["'objects:objects' is not in the job any more", "has promised", "--once"] {
            assert!(said.contains(part), "'{part}' in {said}");
        }
    }
    assert!(!place.bucket.uploads().await.is_empty(), "nobody has touched it");
    // As it is advised.
    std::fs::write(&query, OBJECTS).unwrap();
    place.done(&[]);
    std::fs::remove_file(&query).unwrap();
    place.done(&[]);
    assert_eq!(place.bucket.uploads().await, Vec::<String>::new());
    let mut all = place.files().1;
    assert!(all.iter().copied().eq(NUMBERS), "{all:?}");
    all.clear();
    for key in place.bucket.keys().await.iter().filter(|key| key.starts_with("out/")) {
        all.extend(numbers(std::str::from_utf8(&place.bucket.get(key).await).unwrap()));
    }
    all.sort_unstable();
    assert!(all.iter().copied().eq(NUMBERS), "each once, not {all:?}");
}

/// Whoever reads files may move or remove them as soon as they are there. The run that follows a kill does not miss those of which the log
/// says that they had appeared.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_appeared_may_be_taken_away_before_the_next_run() {
    for in_bucket in [false, true] {
        let Some(place) = Place::new().await else { return };
        if in_bucket {
            let sql = EVENTS.replace("'filesystem', 'path' = '${DIR}/files'", "'s3', 'path' = 's3://died/out/'");
            std::fs::write(place.folder.path().join("job/files.sql"), sql).unwrap();
        }
        // Without a checkpoint, so all of it is repeated; the files are named by their first epochs.
        place.dies_at("committed:4", &["--checkpoint-interval", "0"]);
        let taken = place.take_all(in_bucket).await;
        assert!(taken.iter().map(|(_, numbers)| numbers.len()).eq([100; 4]), "{taken:?}");
        // Of the last one, nothing is known but that it was to appear.
        let (code, said) = place.run(None, &[]);
        assert_eq!(code, Some(1), "{said}");
        for part in [&taken[3].0, "put it back", "state rewind"] {
            assert!(said.contains(part), "'{part}' in {said}");
        }
        assert!(taken[..3].iter().all(|(name, _)| !said.contains(name)), "{said}");
        // As it is advised.
        if in_bucket {
            place
                .bucket
                .put(&taken[3].0, taken[3].1.iter().map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>())
                .await;
        } else {
            std::fs::write(place.folder.path().join("files").join(&taken[3].0), "").unwrap();
        }
        place.done(&[]);
        let (mut all, rest) = (Vec::<u64>::new(), place.take_all(in_bucket).await);
        // The object that was put back is there still.
        let again = |name: &String| in_bucket && rest.iter().any(|(other, _)| other == name);
        for (_, numbers) in taken.iter().filter(|(name, _)| !again(name)).chain(&rest) {
            all.extend(numbers);
        }
        all.sort_unstable();
        assert!(all.iter().copied().eq(NUMBERS), "each once, not {all:?}");
    }
}

/// `--from` says that what is in a bucket is not to be written again. A run that goes on where that one was killed has not been told.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_goes_on_with_beginning_anew_writes_nothing_beside_objects() {
    let Some(place) = Place::new().await else { return };
    std::fs::write(place.folder.path().join("job/objects.sql"), OBJECTS).unwrap();
    place.done(&[]);
    place.dies_at("fresh.midst:2", &["--fresh", "--from", "trim_horizon"]);
    let objects = async || place.bucket.keys().await.into_iter().filter(|key| key.starts_with("out/")).count();
    let before = objects().await;
    for _ in 0..2 {
        let (code, said) = place.run(None, &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("--fresh would write everything again beside 's3://died/out/part-job-"), "{said}");
        assert!(said.contains("--from latest"), "{said}");
    }
    assert_eq!(objects().await, before);
    place.done(&["--from", "trim_horizon"]);
    assert_eq!(objects().await, 2 * before);
    let (_, all) = place.files();
    assert!(all.iter().copied().eq(NUMBERS), "each once, not {all:?}");
}
