//! Services that cannot be reached, at the start and in mid-run: it is said, and whoever stops the job is heard.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::datatypes::DataType;
use async_trait::async_trait;
use tidemill::contracts::{Clock, ErrorKind, StartPosition, SystemClock};
use tidemill::job::{JobOptions, StateOptions, prepare};
use tidemill::runtime::{Ending, Progress, Worker};
use tokio::sync::watch;

use crate::replica::{Replica, wait};
use crate::stub::{Fault, Running, calm};
use crate::support::*;

/// Where nothing listens.
fn closed() -> String {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

async fn within<T>(seconds: u64, what: &str, work: impl Future<Output = T>) -> T {
    let Ok(done) = tokio::time::timeout(Duration::from_secs(seconds), work).await else { panic!("{what}: it hangs") };
    done
}

#[tokio::test]
async fn a_sink_that_cannot_be_reached_says_so_within_a_minute() {
    let columns = schema(&[("k", DataType::Utf8), ("n", DataType::Int64)]);
    for (connector, options) in [
        ("dynamodb", &[("table-name", "m")][..]),
        ("sns", &[("topic", "alerts")]),
        ("sns", &[("topic", "arn:aws:sns:eu-west-1:000000000000:alerts")]),
        ("firehose", &[("delivery-stream", "s"), ("format", "json")]),
    ] {
        let clock = Arc::new(Hurried::default());
        let spec = with_key(spec(&closed(), "t", &columns, options), &["k"]);
        let mut sink = connectors_of("job", clock.clone()).sink(&spec, connector).unwrap();
        let error = within(30, connector, sink.open()).await.expect_err("nothing is there");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let text = error.to_string();
        assert!(text.contains("check the network, the region and the endpoint"), "{text}");
        let waited = clock.elapsed().as_secs();
        assert!((60..=70).contains(&waited), "{connector}: {waited} s");
    }
}

const SQL: &str = "
SET 'tidemill.maximum-retry-attempts' = '0';
SET 'tidemill.epoch.interval' = '50 ms';
SET 'state.checkpoints.dir' = 'kept';
SET 'tidemill.errors.path' = 'errors';
CREATE TABLE events (k STRING, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${IN:-in}', 'format' = 'json', 'source.monitor-interval' = '50 ms');
CREATE TABLE stored (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'stored');
INSERT INTO stored SELECT k, n FROM events;
";

fn write_job(folder: &Path) {
    std::fs::create_dir(folder.join("in")).unwrap();
    std::fs::write(folder.join("in/a.jsonl"), "{\"k\":\"a\",\"n\":1}\n").unwrap();
    std::fs::write(folder.join("job.sql"), SQL).unwrap();
}

/// The program, in an environment without credentials.
fn start(folder: &Path, environment: &[(&str, &str)]) -> Replica {
    write_job(folder);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(["run", "job.sql", "--from", "trim_horizon"]).current_dir(folder);
    command.env_clear().envs([("HOME", folder.to_str().unwrap()), ("AWS_REGION", "eu-west-1")]);
    command.env("AWS_EC2_METADATA_DISABLED", "true").envs(environment.iter().copied());
    Replica::spawn(command, folder, "one")
}

#[tokio::test]
async fn without_credentials_a_job_says_so_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = start(folder.path(), &[("AWS_ENDPOINT_URL", &closed())]);
    wait("it ends", 20_000, async || run.child.try_wait().unwrap().is_some()).await;
    assert_eq!(run.child.wait().unwrap().code(), Some(75));
    assert!(run.text().contains("the AWS credentials are missing"), "{}", run.text());
}

#[tokio::test]
async fn a_job_whose_sink_cannot_be_reached_says_so_and_hears_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let keys = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
    let endpoint = closed();
    let mut run = start(folder.path(), &[keys[0], keys[1], ("AWS_ENDPOINT_URL", &endpoint)]);
    wait("it is said", 40_000, async || run.text().contains("dynamodb:DescribeTable on 'stored' failed")).await;
    run.signal("-TERM");
    wait("it ends", 5_000, async || run.child.try_wait().unwrap().is_some()).await;
    assert_eq!(run.child.wait().unwrap().code(), Some(0), "{}", run.text());
    assert!(!folder.path().join("kept/job/manifests").exists(), "there is nothing to keep");
}

/// The machine's clock, a hundred times as fast.
#[derive(Debug, Default)]
struct Fast(SystemClock);

const FASTER: u32 = 100;

#[async_trait]
impl Clock for Fast {
    fn now_ms(&self) -> i64 {
        1_770_890_400_000 + i64::try_from(self.elapsed().as_millis()).unwrap()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed() * FASTER
    }

    async fn sleep(&self, duration: Duration) {
        self.0.sleep(duration / FASTER).await;
    }
}

fn options(folder: &Path, url: &str, sql: &str) -> JobOptions {
    let sql = sql.replace("'table-name' = 'stored'", &format!(
        "'table-name' = 'stored', 'aws.endpoint' = '{url}', 'aws.region' = 'eu-west-1', 'aws.credentials.provider' = 'BASIC',
         'aws.credentials.basic.accesskeyid' = 'test', 'aws.credentials.basic.secretkey' = 'test'"
    ));
    let sql = sql.replace("'kept'", &format!("'{}'", folder.join("kept").display()));
    let sql = sql.replace("'errors'", &format!("'{}'", folder.join("errors").display()));
    std::fs::write(folder.join("job.sql"), sql).unwrap();
    JobOptions {
        paths: vec![folder.join("job.sql")],
        local: None,
        ending: Ending::Run,
        from: Some(StartPosition::TrimHorizon),
        parameters: [("IN".to_owned(), folder.join("in").display().to_string())].into(),
        fresh: false,
        state: StateOptions::default(),
        threads: 1,
        epoch_interval: None,
        epoch_rows: None,
        memory: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_ever_for_a_table_that_throttles() {
    let running = Running::start(calm()).await;
    running.tables.create("stored", &[("k", "S")]);
    let folder = tempfile::tempdir().unwrap();
    write_job(folder.path());
    let options = options(folder.path(), &running.url(), SQL);
    running.follow(Box::new(|operation| if operation == "UpdateItem" { Fault::Throttle } else { Fault::None }));
    let clock: Arc<dyn Clock> = Arc::new(Fast::default());
    let (stop, stopped) = watch::channel(false);
    let progress = Arc::new(Progress::default());
    let prepared = prepare(&options, Arc::clone(&clock)).await.unwrap_or_else(|e| panic!("{e:?}"));
    let run = tokio::spawn(Worker::run(prepared.job, stopped, Arc::clone(&progress)));
    wait("it is throttled", 20_000, async || running.count("UpdateItem") >= 8).await;
    let asked = clock.elapsed();
    stop.send_replace(true);
    let error = within(120, "a stop", run).await.unwrap().expect_err("the epoch is not in the table");
    // Not before; how much later is this machine's affair, of which each second counts a hundred times.
    let waited = (clock.elapsed() - asked).as_secs();
    assert!(waited >= 30, "{waited} s");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    assert!(text.contains("job:stored") && text.contains("30 s") && text.contains("the next run"), "{text}");
    // It has ended as by a kill: the next run repeats the epoch, and all is there. (On the machine's own clock: a stop is patient for 30 s.)
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    running.follow(calm());
    std::fs::write(folder.path().join("in/b.jsonl"), "{\"k\":\"b\",\"n\":2}\n").unwrap();
    let prepared = prepare(&options, clock).await.unwrap_or_else(|e| panic!("{e:?}"));
    let (stop, stopped) = watch::channel(false);
    let run = tokio::spawn(Worker::run(prepared.job, stopped, Arc::clone(&progress)));
    wait("both rows come", 20_000, async || running.tables.items("stored").len() == 2).await;
    stop.send_replace(true);
    let summary = within(60, "a stop", run).await.unwrap().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(summary.queries[0].rows_out, 2);
    assert!(progress.epochs.load(Ordering::Relaxed) > 0);
}

const LOOKED_UP: &str = "
SET 'tidemill.epoch.interval' = '50 ms';
SET 'state.checkpoints.dir' = 'kept';
SET 'tidemill.errors.path' = 'errors';
CREATE TABLE events (k STRING, n BIGINT, proc_time AS PROCTIME())
WITH ('connector' = 'filesystem', 'path' = '${IN}', 'format' = 'json', 'source.monitor-interval' = '50 ms');
CREATE TABLE dim (k STRING, d BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'stored');
CREATE TABLE nowhere (k STRING, d BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO nowhere SELECT e.k, d.d FROM events AS e LEFT JOIN dim FOR SYSTEM_TIME AS OF e.proc_time AS d ON d.k = e.k;
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_ever_for_a_table_that_is_looked_up() {
    let running = Running::start(calm()).await;
    running.tables.create("stored", &[("k", "S")]);
    let folder = tempfile::tempdir().unwrap();
    write_job(folder.path());
    let options = options(folder.path(), &running.url(), LOOKED_UP);
    running.follow(Box::new(|operation| if operation == "BatchGetItem" { Fault::Throttle } else { Fault::None }));
    let clock: Arc<dyn Clock> = Arc::new(Fast::default());
    let (stop, stopped) = watch::channel(false);
    let prepared = prepare(&options, Arc::clone(&clock)).await.unwrap_or_else(|e| panic!("{e:?}"));
    let run = tokio::spawn(Worker::run(prepared.job, stopped, Arc::default()));
    wait("it is throttled", 20_000, async || running.count("BatchGetItem") >= 8).await;
    stop.send_replace(true);
    let error = within(120, "a stop", run).await.unwrap().expect_err("the epoch is not computed");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("an epoch was not done within 300 s of the stop"), "{error}");
}
