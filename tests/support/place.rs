//! A job in a folder, run by the program itself on the stand-ins of `--local`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Arguments that run what is there.
pub(crate) const RUN: [&str; 5] = ["run", "job", "--local", "local", "--once"];

/// Its files are in the folder `job`, its stream, results and checkpoints below `local`.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    /// A job of these files.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.at("job")).unwrap();
        files.iter().for_each(|(name, text)| place.write(name, text));
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.path().join(path)
    }

    /// Writes a file of the job.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.at("job").join(name), text).unwrap();
    }

    /// Puts these lines into the stream `clicks`.
    #[track_caller]
    pub(crate) fn put(&self, lines: &str) {
        std::fs::write(self.at("new.jsonl"), lines).unwrap();
        self.done(&["produce", "clicks", "--local", "local", "--from", "new.jsonl"]);
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Whether it succeeds, and what it says.
    pub(crate) fn said(&self, args: &[&str]) -> (bool, String) {
        let output = self.command(args).output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    #[track_caller]
    pub(crate) fn done(&self, args: &[&str]) -> String {
        let (success, text) = self.said(args);
        assert!(success, "tidemill {args:?}: {text}");
        text
    }

    #[track_caller]
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let (success, text) = self.said(args);
        assert!(!success, "tidemill {args:?}: {text}");
        text
    }

    /// Name of the newest checkpoint, if one is kept in its folder.
    pub(crate) fn newest_checkpoint(&self) -> Option<String> {
        let files = std::fs::read_dir(self.at("local/checkpoints/job/manifests")).into_iter().flatten();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        // One that is being written has a hidden name.
        names.filter(|name| !name.starts_with('.')).max()
    }

    /// The newest checkpoint, if it can be read.
    pub(crate) fn newest_manifest(&self) -> Option<serde_json::Value> {
        let path = self.at("local/checkpoints/job/manifests").join(self.newest_checkpoint()?);
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// The last epoch that the log has. Each one that was counted is there until a checkpoint has it: a newest one that is read after this, and
    /// is not before it, has all.
    pub(crate) fn last_logged(&self) -> Option<u64> {
        let log = std::fs::read_to_string(self.at("local/checkpoints/job/epochs.log")).unwrap_or_default();
        let entry = |line: &str| serde_json::from_str::<serde_json::Value>(&line[line.find('{')?..]).ok();
        log.lines().filter_map(entry).filter_map(|entry| entry["cut"]["epoch"].as_u64()).max()
    }

    /// Runs what is there.
    #[track_caller]
    pub(crate) fn run(&self, more: &[&str]) -> String {
        self.done(&[&RUN[..], more].concat())
    }
}

/// What a machine may take that has other work, or whose disk stands still for a while.
const LONGEST: Duration = Duration::from_secs(120);

/// Waits until something has happened.
#[track_caller]
pub(crate) fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LONGEST, "not within {LONGEST:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
