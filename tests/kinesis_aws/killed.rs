//! The program is killed before its first checkpoint, and is started again while the service or the stream is not as it was.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use tidemill::contracts::{Clock, SystemClock};

use crate::aws_stub::{AwsStub, Fault};
use crate::command::command;
use crate::faults::pause;

const JOB: &str = "
SET 'state.checkpoints.dir' = 'state';
CREATE TABLE clicks (n BIGINT) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json'OPTIONS);
CREATE TABLE copies (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'copies', 'format' = 'json');
INSERT INTO copies SELECT n FROM clicks;
";
pub(crate) const WAYS: [&str; 2] = ["", ", 'source.reader.type' = 'EFO', 'source.efo.consumer.name' = 'job'"];

pub(crate) struct Place {
    pub(crate) stub: AwsStub,
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) async fn new(options: &str) -> Self {
        let (stub, folder) = (AwsStub::start().await, tempfile::tempdir().unwrap());
        stub.create("clicks", 1);
        std::fs::write(folder.path().join("job.sql"), JOB.replace("OPTIONS", options)).unwrap();
        Self { stub, folder }
    }

    pub(crate) fn put(&self, numbers: std::ops::Range<i64>) {
        for n in numbers {
            self.stub.put("clicks", &format!("key {n}"), &format!("{{\"n\":{n}}}"));
        }
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.stub, self.folder.path(), &[&["run", "job.sql"], arguments].concat());
        command.stdout(std::fs::File::create(self.at("out.txt")).unwrap());
        command.stderr(std::fs::File::create(self.at("err.txt")).unwrap());
        command
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits for the end of a run; one that takes longer is killed.
    pub(crate) async fn end(&self, mut child: Child, longest: Duration) -> Option<ExitStatus> {
        let clock = SystemClock::new();
        while clock.elapsed() < longest {
            if let Some(status) = child.try_wait().unwrap() {
                return Some(status);
            }
            pause(20).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        None
    }

    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.at("err.txt")).unwrap()
    }

    /// Runs until the first cut has been logged.
    async fn killed(&self, start: &str) {
        let mut command = self.run(&["--from", start]);
        let child = command.env("TIDEMILL_CRASH_AT", "cut.after:1").spawn().unwrap();
        let status = self.end(child, Duration::from_secs(60)).await.expect("it dies");
        assert!(status.code().is_none(), "it ended by itself: {}", self.said());
    }

    pub(crate) fn copied(&self) -> Vec<i64> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(self.at("copies")).unwrap() {
            let path: &Path = &entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "json" || e == "jsonl") {
                let text = std::fs::read_to_string(path).unwrap();
                let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["n"].as_i64();
                numbers.extend(text.lines().filter_map(number));
            }
        }
        numbers.sort_unstable();
        numbers
    }
}

/// LATEST was resolved by a run that has left only its log. A shard that ends before the next start is read to its end all the same,
/// and then its children are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resharded_before_the_first_checkpoint() {
    for options in WAYS {
        let place = Place::new(options).await;
        place.put(0..10);
        // Times of the service are told in seconds.
        pause(1_100).await;
        place.killed("latest").await;
        place.put(10..30);
        place.stub.split("clicks", "shardId-000000000000");
        place.put(30..50);
        place.stub.with("clicks", |s| s.subscriptions.clear());
        pause(1_100).await;
        let child = place.run(&["--from", "latest", "--once"]).spawn().unwrap();
        let status = place.end(child, Duration::from_secs(60)).await.expect("it ends");
        assert!(status.success(), "{options}: {}", place.said());
        assert_eq!(place.copied(), (10..50).collect::<Vec<_>>(), "{options}");
    }
}

/// A run that waits for the service, to repeat an epoch, ends when it is told to. What it has not repeated the next one does.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_while_logged_epochs_wait_for_the_service() {
    let place = Place::new("").await;
    place.put(0..30);
    place.killed("trim_horizon").await;
    place.stub.fail_for("GetRecords", Duration::from_secs(600), Fault::Error(500, "InternalFailure"));
    let calls = place.stub.calls("GetRecords");
    let child = place.run(&[]).spawn().unwrap();
    while place.stub.calls("GetRecords") < calls + 2 {
        pause(20).await;
    }
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let status = place.end(child, Duration::from_secs(60)).await;
    assert!(status.is_some_and(|status| status.success()), "{status:?}: {}", place.said());
    place.stub.mend();
    place.put(30..40);
    let child = place.run(&["--once"]).spawn().unwrap();
    let status = place.end(child, Duration::from_secs(60)).await.expect("it ends");
    assert!(status.success(), "{}", place.said());
    assert_eq!(place.copied(), (0..40).collect::<Vec<_>>());
}
