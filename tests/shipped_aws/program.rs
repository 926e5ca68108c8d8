//! The program as people run it.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use crate::emulators_of_aws::{KEY_ID, SECRET};
use crate::services::{BUCKET, Services};
use crate::stream::{STREAM, Stream};

const SIGABRT: i32 = 6;
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// How the stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    Polling,
    FanOut,
}

fn tidemill(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    // Of this machine's own access to AWS, nothing must be used.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.current_dir(folder).env("HOME", folder).stdin(Stdio::null());
    command.envs([("AWS_REGION", "eu-west-1"), ("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET)]);
    command
}

fn data(file: &str) -> PathBuf {
    Path::new(ROOT).join("tests/data").join(format!("{file}.jsonl"))
}

/// The lines of a file of events.
pub(crate) fn events(file: &str) -> String {
    std::fs::read_to_string(data(file)).unwrap()
}

/// Puts a file's events into the stream, so many a second, by `tidemill produce`; answers how many there are.
pub(crate) async fn produce(endpoint: String, file: &'static str, rate: u32) -> usize {
    produce_file(endpoint, data(file), Some(rate)).await
}

pub(crate) async fn produce_file(endpoint: String, path: PathBuf, rate: Option<u32>) -> usize {
    let count = std::fs::read_to_string(&path).unwrap().lines().count();
    let folder = tempfile::tempdir().unwrap();
    let mut command = tidemill(folder.path());
    command.args(["produce", STREAM, "--partition-key", "data.user_id", "--from"]).arg(path);
    if let Some(rate) = rate {
        command.args(["--rate", &format!("{rate}/s")]);
    }
    command.env("AWS_ENDPOINT_URL_KINESIS", endpoint);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains(&format!("{count} records")), "{said}");
    count
}

/// A run of the shipped job.
pub(crate) struct Job {
    child: Mutex<Child>,
    folder: tempfile::TempDir,
}

impl Drop for Job {
    fn drop(&mut self) {
        // Only where a test has failed is it still there.
        let _ = self.child.lock().unwrap().kill();
        let _ = self.child.lock().unwrap().wait();
    }
}

/// Starts the job on `queries/`, as it is shipped; by fan-out, the stream's table has the two options for it.
pub(crate) fn start(stream: &Stream, services: &Services, reading: Reading, arguments: &[&str]) -> Job {
    let mut changes = Vec::new();
    let connector = "'connector' = 'kinesis',";
    let with = format!("{connector} 'source.reader.type' = 'EFO', 'source.efo.consumer.name' = 'shipped',");
    if reading == Reading::FanOut {
        changes.push((connector, with.as_str()));
    }
    let folder = tempfile::tempdir().unwrap();
    let queries = shipped(folder.path(), &changes);
    let bucket = format!("ARCHIVE_BUCKET={BUCKET}");
    let parameters = ["--param", &bucket, "--param", "ARCHIVE_RAW=TRUE", "--epoch-interval", "400ms"];
    let environment = services.environment().map(|(name, value)| (name.to_owned(), value));
    start_job(folder, &queries, &stream.endpoint(), &[&parameters[..], arguments].concat(), &environment)
}

/// A copy of the shipped queries with parts of their texts replaced.
pub(crate) fn shipped(folder: &Path, changes: &[(&str, &str)]) -> PathBuf {
    let copy = folder.join("queries");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(Path::new(ROOT).join("queries")).unwrap() {
        let path = entry.unwrap().path();
        let mut text = std::fs::read_to_string(&path).unwrap();
        for (from, to) in changes {
            text = text.replace(from, to);
        }
        std::fs::write(copy.join(path.file_name().unwrap()), text).unwrap();
    }
    copy
}

/// Starts a job; `folder` is its own, and goes with it.
pub(crate) fn start_job(
    folder: tempfile::TempDir,
    queries: &Path,
    kinesis: &str,
    arguments: &[&str],
    environment: &[(String, String)],
) -> Job {
    let mut command = tidemill(folder.path());
    command.arg("run").arg(queries).args(arguments);
    command.env("AWS_ENDPOINT_URL_KINESIS", kinesis).envs(environment.iter().cloned());
    let said = std::fs::File::create(folder.path().join("said")).unwrap();
    let child = command.stdout(said.try_clone().unwrap()).stderr(said).spawn().unwrap();
    Job { child: Mutex::new(child), folder }
}

impl Job {
    /// What it has printed so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("said")).unwrap_or_default()
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.lock().unwrap().try_wait().unwrap().is_none()
    }

    /// Whether it has aborted, as it does at a place where it is to die; not when it has ended with an error.
    pub(crate) fn has_aborted(&self) -> bool {
        let status = self.child.lock().unwrap().try_wait().unwrap();
        status.is_some_and(|status| status.signal() == Some(SIGABRT))
    }

    /// Ends it without a word to it.
    pub(crate) fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
    }

    /// Asks for an orderly end, as a service manager does; answers what it has printed.
    pub(crate) async fn stop(&self) -> String {
        let process = self.child.lock().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-TERM", &process]).status().unwrap().success());
        self.ended().await
    }

    /// Waits for its end, which must be a good one.
    pub(crate) async fn ended(&self) -> String {
        for _ in 0..1_200 {
            if let Some(status) = self.child.lock().unwrap().try_wait().unwrap() {
                assert!(status.success(), "{}", self.said());
                return self.said();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("it does not end: {}", self.said());
    }
}
