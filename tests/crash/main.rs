//! A run is killed at moments that nobody chose; the next one repeats the epochs that had been cut, as they were, and
//! goes on: tables, alerts, archive and what was refused are those of a run that nothing has disturbed. So it is for the events of a
//! shop, and for two shards in which rows are late, out of order and wrong.
//!
//! Each seed is another job: files that stay open for a moment or over many checkpoints; and each run another interval
//! between checkpoints, or none. `CRASH_SEED=N` repeats a run of the test; `CRASH_ROUNDS=N` makes it longer.

#![expect(clippy::disallowed_methods, reason = "the program under test lives in real time")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use random::{Random, asked};
use undisturbed::{Input, Undisturbed, copy, queries};

#[path = "../support/random.rs"]
mod random;

mod begun_anew;
#[path = "../support/left.rs"]
mod left;
mod undisturbed;

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program runs")
}

/// Runs the program to the place where it dies, the n-th time that it comes there (`committed:2`).
#[track_caller]
fn dies_at(place: &str, arguments: &[&str]) {
    if let Some(said) = ends_before(place, arguments) {
        panic!("{place} was not reached: {said}");
    }
}

/// The same; what it has said where it came to its end before.
#[track_caller]
fn ends_before(place: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(arguments).env("TIDEMILL_CRASH_AT", place).stdin(Stdio::null());
    let output = command.output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code().is_none_or(|code| code == 0), "{place}: {said}");
    output.status.code().map(|_| said)
}

fn tidemill(arguments: &[&str]) -> String {
    let output = start(arguments).wait_with_output().expect("it ends");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "tidemill {arguments:?}\n{out}\n{err}");
    out.into_owned()
}

/// How long a file stays open at most, by seed: some are complete when the kill comes, some are not, some never are.
const ROLLOVERS: [&str; 3] = ["150 ms", "600 ms", "300 s"];
/// Between checkpoints; 0 is only at the end of a run.
const INTERVALS: [&str; 4] = ["0", "40ms", "150ms", "400ms"];

/// Number of the newest checkpoint.
fn checkpoint(local: &Path) -> u64 {
    let manifests = std::fs::read_dir(local.join("checkpoints/queries/manifests")).into_iter().flatten().flatten();
    let number = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().strip_suffix(".json")?.parse().ok();
    manifests.filter_map(number).max().unwrap_or(0)
}

fn log_text(local: &Path) -> String {
    std::fs::read_to_string(local.join("checkpoints/queries/epochs.log")).unwrap_or_default()
}

/// Epochs in the log of the job.
fn logged(local: &Path) -> usize {
    log_text(local).lines().filter(|line| line.contains("\"cut\"")).count()
}

#[test]
fn a_killed_run_is_repeated_exactly_and_goes_on() {
    killed_again_and_again(Input::Shop);
}

#[test]
fn late_wrong_and_odd_events_are_repeated_exactly_after_kills() {
    killed_again_and_again(Input::Edge);
}

fn killed_again_and_again(input: Input) {
    let seed = asked("CRASH_SEED").unwrap_or(20_260_301);
    let rounds = asked("CRASH_ROUNDS").unwrap_or(3);
    let folder = tempfile::tempdir().expect("a folder");
    let undisturbed = Undisturbed::new(folder.path(), input);
    for seed in seed..seed + rounds {
        let mut random = Random::new(seed);
        let local = folder.path().join(format!("killed-{seed}"));
        copy(&undisturbed.stream, &local);
        let rollover = ROLLOVERS[(seed % 3) as usize];
        let queries = queries(&folder.path().join(format!("job-{seed}")), rollover);
        let run = ["run", text(&queries), "--local", text(&local), "--epoch-interval", "30ms"];
        let run = [&run[..], &["--epoch-rows", input.epoch_rows()]].concat();
        let (mut kills_in_midst, mut stopped) = (0, 0);
        for number in 0..6 {
            let interval = INTERVALS[random.below(4) as usize];
            // However slow the machine is, the last runs go on from a checkpoint.
            let (interval, least) = if number == 3 { ("40ms", 1) } else { (interval, 0) };
            let mut child = start(&[&run[..], &["--checkpoint-interval", interval]].concat());
            let orderly = random.below(5) == 0;
            // However slow the machine is, the run has begun; and then any moment will do.
            let before = log_text(&local);
            for _ in 0..1_000 {
                if log_text(&local) != before || child.try_wait().expect("a child").is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            for _ in 0..6_000 {
                if checkpoint(&local) >= least || child.try_wait().expect("a child").is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            std::thread::sleep(Duration::from_millis(random.below(1_000)));
            if orderly {
                // A signal in the midst of repeating: what is left is repeated by the next run.
                let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
                assert!(sent.success());
                stopped += 1;
            } else {
                child.kill().expect("it was there");
            }
            let output = child.wait_with_output().expect("it has ended");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!said.lines().any(|line| line.starts_with("error")), "CRASH_SEED={seed}: {said}");
            kills_in_midst += usize::from(logged(&local) > 0);
        }
        assert!(
            kills_in_midst > 0,
            "CRASH_SEED={seed}: no run was killed before it had saved ({stopped} were stopped)"
        );
        assert!(checkpoint(&local) > 0, "CRASH_SEED={seed}: no run was killed behind a checkpoint");
        tidemill(&["run", text(&queries), "--local", text(&local), "--drain"]);
        undisturbed.assert_same(seed, &local);
        assert_eq!(logged(&local), 0, "a saved state needs no log");
        let manifests = std::fs::read_dir(local.join("checkpoints/queries/manifests")).expect("checkpoints").count();
        assert!(manifests <= 3, "CRASH_SEED={seed}: {manifests} checkpoints are kept");
    }
}

#[test]
fn a_run_that_dies_at_any_named_place_is_repeated_exactly() {
    let folder = tempfile::tempdir().expect("a folder");
    let undisturbed = Undisturbed::new(folder.path(), Input::Shop);
    for (number, point) in tidemill::contracts::CRASH_POINTS.into_iter().enumerate() {
        let job = queries(&folder.path().join(format!("job-{number}")), ROLLOVERS[0]);
        // A checkpoint is made beside the epochs: where it takes as long as all of these, there are no three. Then, with more of them.
        let mut wanted = false;
        for (attempt, rows) in ["300", "300", "100", "30"].into_iter().enumerate() {
            let local = folder.path().join(format!("killed-{number}-{attempt}"));
            copy(&undisturbed.stream, &local);
            let run = ["run", text(&job), "--local", text(&local), "--drain", "--checkpoint-interval", "50ms"];
            // Early, and when there are checkpoints to go on from.
            let small = [&run[..], &["--epoch-rows", rows]].concat();
            dies_at(&format!("{point}:1"), &small);
            wanted = ends_before(&format!("{point}:3"), &small).is_none();
            tidemill(&run);
            undisturbed.assert_same(number as u64, &local);
            assert_eq!(logged(&local), 0, "{point}: a saved state needs no log");
            if wanted {
                break;
            }
        }
        assert!(wanted, "{point} was never reached for the third time");
    }
}
