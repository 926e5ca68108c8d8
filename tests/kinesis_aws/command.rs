//! The program itself, as people run it, against the stub.

use std::path::Path;
use std::process::{Command, Output};

use crate::aws_stub::{AwsStub, Fault};
use crate::feed::Feed;

const JOB: &str = "
CREATE TABLE clicks (
  page STRING, n BIGINT,
  shard STRING METADATA FROM 'shard-id' VIRTUAL,
  stream STRING METADATA VIRTUAL,
  pk STRING METADATA FROM 'partition-key' VIRTUAL
) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json'OPTIONS);
CREATE TABLE out (page STRING, n BIGINT, shard STRING, stream STRING, pk STRING)
WITH ('connector' = 'kinesis', 'stream' = 'copies', 'format' = 'json');
INSERT INTO out SELECT page, n, shard, stream, pk FROM clicks;
";

fn tidemill(stub: &AwsStub, dir: &Path, arguments: &[&str]) -> Output {
    command(stub, dir, arguments).output().unwrap()
}

pub(crate) fn command(stub: &AwsStub, dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command
        .args(arguments)
        .current_dir(dir)
        .env_remove("AWS_PROFILE")
        .env("AWS_ENDPOINT_URL", stub.endpoint())
        .env("AWS_REGION", "eu-west-1")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
    command
}

fn succeeded(output: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

fn copies(stub: &AwsStub) -> Vec<serde_json::Value> {
    stub.with("copies", |s| {
        let records = s.shards.values().flat_map(|s| &s.records);
        records.map(|r| serde_json::from_slice(&r.data).unwrap()).collect()
    })
}

const REFUSING: &str = "
SET 'tidemill.errors.path' = 'errors';
CREATE TABLE clicks (page STRING, n BIGINT) WITH ('connector' = 'kinesis', 'format' = 'json', STREAMS);
CREATE TABLE out (page BIGINT) WITH ('connector' = 'kinesis', 'stream' = 'copies', 'format' = 'json');
INSERT INTO out SELECT CAST(page AS BIGINT) FROM clicks WHERE REQUIRE(n > 0, 'negative');
";

/// Whoever refuses a record, decoder or query, the error output names the stream that it is in: a table may have several, or an ARN.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_records_are_told_with_their_stream() {
    for streams in [
        "'stream' = 'clicks; others'",
        "'stream.pattern' = '(clicks|oth).*'",
        "'stream.arn' = 'arn:aws:kinesis:eu-west-1:123456789012:stream/clicks'",
    ] {
        let (stub, dir) = (AwsStub::start().await, tempfile::tempdir().unwrap());
        ["clicks", "others", "copies"].iter().for_each(|name| stub.create(name, 1));
        for record in [r#"{"page":"1","n":1}"#, r#"{"page":"x","n":2}"#, r#"{"page":"3","n":-1}"#, "{"] {
            stub.put("clicks", "k", record);
        }
        std::fs::write(dir.path().join("job.sql"), REFUSING.replace("STREAMS", streams)).unwrap();
        succeeded(&tidemill(&stub, dir.path(), &["run", "job.sql", "--drain"]));
        assert_eq!(copies(&stub).len(), 1);
        let mut told = Vec::new();
        for file in std::fs::read_dir(dir.path().join("errors")).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            told.extend(text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()));
        }
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told.iter().all(|refused| refused["stream"] == "clicks"), "{streams}: {told:?}");
    }
}

/// A run without one of the streams keeps where that was left: put back, it is not counted again. If it was made again meanwhile, it is a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_left_out_and_put_back_goes_on() {
    let (stub, dir) = (AwsStub::start().await, tempfile::tempdir().unwrap());
    ["clicks", "others", "copies"].iter().for_each(|name| stub.create(name, 1));
    stub.with("others", |others| others.created_ms -= 3_600_000);
    let runs = [
        ("clicks; others", false, &["clicks 0", "others 0"][..]),
        ("clicks", false, &["clicks 1"]),
        ("clicks", false, &["clicks 2"]),
        ("clicks; others", false, &["clicks 3", "others 1", "others 2", "others 3"]),
        ("clicks", false, &["clicks 4"]),
        ("clicks; others", true, &["clicks 5", "others 5"]),
        ("clicks; others", false, &["clicks 6", "others 6"]),
    ];
    for (n, (streams, is_made_anew, wanted)) in runs.into_iter().enumerate() {
        if is_made_anew {
            stub.create("others", 1);
        }
        for stream in ["clicks", "others"] {
            stub.put(stream, "k", &format!("{{\"page\":\"{stream} {n}\"}}"));
        }
        let job = JOB.replace("'stream' = 'clicks'", &format!("'stream' = '{streams}'")).replace("OPTIONS", "");
        std::fs::write(dir.path().join("job.sql"), job).unwrap();
        stub.with("copies", |copies| copies.shards.values_mut().for_each(|shard| shard.records.clear()));
        let told = succeeded(&tidemill(&stub, dir.path(), &["run", "job.sql", "--once", "--checkpoints", "state"]));
        let mut pages: Vec<String> = copies(&stub).iter().map(|c| c["page"].as_str().unwrap().to_owned()).collect();
        pages.sort_unstable();
        assert_eq!(pages, wanted, "run {n}: {told}");
    }
}

/// Two tables that cannot be read together would take each subscription of their consumer from each other for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_readers_with_one_consumer_are_refused() {
    let (stub, dir) = (AwsStub::start().await, tempfile::tempdir().unwrap());
    ["clicks", "copies"].iter().for_each(|name| stub.create(name, 1));
    let by = |consumer: &str| {
        let fan_out = format!(", 'source.reader.type' = 'EFO', 'source.efo.consumer.name' = '{consumer}'");
        let other = format!(
            "CREATE TABLE again (page STRING) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json', \
             'source.init.position' = 'TRIM_HORIZON'{fan_out});
             INSERT INTO out (page) SELECT page FROM again;"
        );
        JOB.replace("OPTIONS", &fan_out.replace(consumer, "job")) + &other
    };
    std::fs::write(dir.path().join("job.sql"), by("job")).unwrap();
    let output = tidemill(&stub, dir.path(), &["run", "job.sql", "--once"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in ["'again' and 'clicks'", "consumer 'job'", "source.efo.consumer.name"] {
        assert!(text.contains(part), "'{part}' in {text}");
    }
    assert_eq!(stub.calls("RegisterStreamConsumer"), 0);
    std::fs::write(dir.path().join("job.sql"), by("another")).unwrap();
    succeeded(&tidemill(&stub, dir.path(), &["run", "job.sql", "--once"]));
}

/// `produce`, then a job from stream to stream, polling and by fan-out, with a split in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_produce_to_a_job() {
    let dir = tempfile::tempdir().unwrap();
    let lines: String = (0..700).map(|n| format!("{{\"page\":\"/{}\",\"n\":{n}}}\n", n % 5)).collect();
    std::fs::write(dir.path().join("in.jsonl"), &lines).unwrap();
    for options in ["", ", 'source.reader.type' = 'EFO', 'source.efo.consumer.name' = 'job'"] {
        let stub = AwsStub::start().await;
        stub.create("clicks", 2);
        stub.create("copies", 2);
        std::fs::write(dir.path().join("job.sql"), JOB.replace("OPTIONS", options)).unwrap();
        stub.state().failing_puts = ["ProvisionedThroughputExceededException"; 20].into();
        let produce = ["produce", "clicks", "--from", "in.jsonl", "--partition-key", "page"];
        let produced = succeeded(&tidemill(&stub, dir.path(), &produce));
        assert!(produced.contains("700 records") && produced.contains("20 retried"), "{produced}");
        stub.split("clicks", "shardId-000000000000");
        succeeded(&tidemill(&stub, dir.path(), &produce));
        succeeded(&tidemill(&stub, dir.path(), &["run", "job.sql", "--drain"]));
        let copies = copies(&stub);
        assert_eq!(copies.len(), 1_400);
        let mut numbers: Vec<_> = copies.iter().map(|c| c["n"].as_i64().unwrap()).collect();
        numbers.sort_unstable();
        assert!(numbers.chunks(2).enumerate().all(|(i, pair)| pair == [i as i64; 2]));
        assert!(copies.iter().all(|c| c["stream"] == "clicks" && c["pk"] == c["page"]));
        assert!(copies.iter().any(|c| c["shard"] == "shardId-000000000002"));
    }
}

/// An explicit hash decides the shard; the partition key stays what it is; a line without a hash goes where its key says, and
/// one with a bad hash is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explicit_hash_keys_decide_the_shard() {
    let stub = AwsStub::start().await;
    stub.create("clicks", 4);
    let dir = tempfile::tempdir().unwrap();
    let quarter = u128::MAX / 4 + 1;
    let line =
        |shard: u128, at: u128| format!("{{\"page\":\"same\",\"to\":{{\"hash\":\"{}\"}}}}\n", shard * quarter + at);
    let mut lines: Vec<String> = (0..40).map(|n| line(n % 4, n)).collect();
    lines.push("{\"page\":\"same\",\"to\":{\"hash\":340282366920938463463374607431768211455}}\n".to_owned());
    lines.push("{\"page\":\"same\"}\n".to_owned());
    std::fs::write(dir.path().join("in.jsonl"), lines.concat()).unwrap();
    let produce = |from: &str| {
        let by = ["--partition-key", "page", "--explicit-hash-key", "to.hash"];
        tidemill(&stub, dir.path(), &[&["produce", "clicks", "--from", from], &by[..]].concat())
    };
    succeeded(&produce("in.jsonl"));
    let found: Vec<(usize, bool)> = stub.with("clicks", |s| {
        s.shards.values().map(|s| (s.records.len(), s.records.iter().all(|r| r.key == "same"))).collect()
    });
    // md5("same") = 51037a4a37730f52c8732586d3aaa316: the second quarter.
    assert_eq!(found, [(10, true), (11, true), (10, true), (11, true)]);
    lines.insert(2, "{\"to\":{\"hash\":\"-7\"}}\n".to_owned());
    std::fs::write(dir.path().join("bad.jsonl"), lines.concat()).unwrap();
    let output = produce("bad.jsonl");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success() && text.contains("42 records") && text.contains("1 refused"), "{text}");
    assert!(text.contains("line 3: '-7' is no explicit hash key"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn produce_names_a_stream_that_is_not_there() {
    let stub = AwsStub::start().await;
    let dir = tempfile::tempdir().unwrap();
    let output = tidemill(&stub, dir.path(), &["produce", "nowhere"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("'nowhere'") && text.contains("check its name"), "{text}");
}

/// Who forgot to log in learns it now, not after a minute of trying.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_without_credentials_says_so_at_once() {
    let stub = AwsStub::start().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("job.sql"), JOB.replace("OPTIONS", "")).unwrap();
    let began = std::time::Duration::from_millis(stub.now_ms() as u64);
    let output = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .args(["run", "job.sql", "--drain"])
        .current_dir(dir.path())
        .env_clear()
        .env("AWS_ENDPOINT_URL", stub.endpoint())
        .env("AWS_REGION", "eu-west-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("credentials are missing"), "{text}");
    let took = std::time::Duration::from_millis(stub.now_ms() as u64) - began;
    assert!(took < std::time::Duration::from_secs(50), "{took:?}");
}

/// What was lost by the option that allows it is said to whoever runs the program, unless they want to hear nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warnings_are_on_standard_error() {
    let stub = AwsStub::start().await;
    stub.create("clicks", 1);
    stub.create("copies", 1);
    stub.put("clicks", "k", "{\"page\":\"/\",\"n\":1}");
    // Older than the 24 hours that it keeps, so something may have been in it.
    stub.with("clicks", |s| s.created_ms -= 100 * 3_600_000);
    let dir = tempfile::tempdir().unwrap();
    let at = chrono::DateTime::from_timestamp_millis(stub.now_ms() - 30 * 3_600_000).unwrap();
    let options = format!(
        ", 'source.init.position' = 'AT_TIMESTAMP', 'source.init.timestamp' = '{}', 'source.on-expired-position' = 'oldest'",
        at.format("%Y-%m-%dT%H:%M:%SZ")
    );
    std::fs::write(dir.path().join("job.sql"), JOB.replace("OPTIONS", &options)).unwrap();
    let run = |level: &str| {
        let mut command = command(&stub, dir.path(), &["run", "job.sql", "--drain"]);
        command.env("TIDEMILL_LOG", level).output().unwrap()
    };
    let said = succeeded(&run(""));
    assert!(said.contains("WARN") && said.contains("going on with the oldest records that are left"), "{said}");
    assert!(!succeeded(&run("off")).contains("WARN"));
    let output = run("loud");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("TIDEMILL_LOG: 'loud' is no level"), "{text}");
}

/// Secrets of the options and of the environment are in nothing that the program says or writes, however much it is to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_nowhere() {
    const SECRETS: [&str; 3] = ["secret-in-sql-9f3c", "secret-in-environment-71cd", "token-in-environment-52de"];
    let stub = AwsStub::start().await;
    stub.create("clicks", 1);
    stub.create("copies", 1);
    stub.put("clicks", "k", "{\"page\":\"/\",\"n\":1}");
    stub.put("clicks", "k", "broken");
    let dir = tempfile::tempdir().unwrap();
    let own = format!(
        ", 'aws.credentials.provider' = 'BASIC', 'aws.credentials.basic.accesskeyid' = 'id', 'aws.credentials.basic.secretkey' = '{}'",
        SECRETS[0]
    );
    let job = format!("SET 'state.checkpoints.dir' = 'state';\n{}", JOB.replace("OPTIONS", &own));
    std::fs::write(dir.path().join("job.sql"), job).unwrap();
    std::fs::write(dir.path().join("in.jsonl"), "{\"page\":\"/\",\"n\":2}\n").unwrap();
    let mut said = String::new();
    let mut run = |arguments: &[&str]| {
        let mut command = command(&stub, dir.path(), arguments);
        command.env("AWS_SECRET_ACCESS_KEY", SECRETS[1]).env("AWS_SESSION_TOKEN", SECRETS[2]);
        let output = command.env("TIDEMILL_LOG", "trace").env("RUST_LOG", "trace").output().unwrap();
        said.push_str(&String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
        output.status.success()
    };
    for arguments in [
        &["check", "job.sql"][..],
        &["check", "job.sql", "--aws"],
        &["explain", "job.sql", "--physical"],
        &["explain", "job.sql", "--format", "json"],
        &["iam", "job.sql"],
        &["provision", "job.sql", "--dry-run"],
        &["provision", "job.sql", "--format", "terraform"],
        &["produce", "clicks", "--from", "in.jsonl"],
        &["run", "job.sql", "--drain"],
        &["state", "show", "state"],
    ] {
        stub.fail("PutRecords", 1, Fault::CutAnswer);
        assert!(run(arguments), "{arguments:?}: {said}");
    }
    stub.fail("GetShardIterator", 1, Fault::Error(400, "AccessDeniedException"));
    assert!(!run(&["run", "job.sql", "--drain"]));
    stub.fail("DescribeStreamSummary", 9, Fault::Error(400, "InvalidSignatureException"));
    assert!(!run(&["run", "job.sql", "--drain"]));
    // What is wrong stands on the line of a secret, or in its place.
    let job = std::fs::read_to_string(dir.path().join("job.sql")).unwrap();
    let (key, value) = ("'aws.credentials.basic.secretkey'", format!("'{}'", SECRETS[0]));
    for (wrong, told) in [
        (job.replace(&value, &format!("{value}, 'sink.unknown' = 'x'")), "has no option 'sink.unknown'"),
        (job.replace(key, &format!("{key}\n ")).replace(&value, &format!("{value}, 'sink.odd' = 'x'")), "'sink.odd'"),
        (job.replace(&format!("{key} ="), key), "found: a secret"),
        (job.replace("secretkey'", "secretky' = 'x', 'my.token'"), "did you mean 'aws.credentials.basic.secretkey'?"),
    ] {
        std::fs::write(dir.path().join("wrong.sql"), wrong).unwrap();
        let output = tidemill(&stub, dir.path(), &["check", "wrong.sql"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(told) && text.contains("'******"), "{told}: {text}");
        said.push_str(&text);
    }
    std::fs::remove_file(dir.path().join("wrong.sql")).unwrap();
    let mut folders = vec![dir.path().to_owned()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() != "job.sql" {
                files += 1;
                said.push_str(&String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()));
            }
        }
    }
    assert!(files >= 3 && said.contains("broken") && said.contains("AccessDenied") && said.contains("DEBUG"), "{said}");
    for secret in SECRETS {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
}

/// 120 shards with a backlog of 240 MB stay in bounded memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg(target_os = "linux")]
async fn a_backlog_of_120_shards_in_bounded_memory() {
    read_backlog("", 2_400).await;
}

/// The same by fan-out, where the service pushes; three times as much, which would not fit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg(target_os = "linux")]
async fn a_backlog_of_120_shards_by_fan_out_in_bounded_memory() {
    read_backlog(", 'source.reader.type' = 'EFO', 'source.efo.consumer.name' = 'job'", 7_200).await;
}

#[cfg(target_os = "linux")]
async fn read_backlog(options: &str, records: u128) {
    let stub = AwsStub::start().await;
    stub.create("clicks", 120);
    stub.create("copies", 1);
    let mut feed = Feed::new(&stub, "clicks", 1_000);
    feed.put(1_000);
    let filler = "x".repeat(100_000);
    let now = stub.now_ms();
    stub.with("clicks", |s| {
        for shard in s.shards.values_mut() {
            shard.records.clear();
        }
        for n in 0..records {
            let hash = (n % 120) * (u128::MAX / 120) + 5;
            let data = format!("{{\"page\":\"{filler}\",\"n\":{n}}}");
            s.put("k", Some(hash), data.as_bytes(), now);
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let job = JOB.replace("OPTIONS", options).replace(
        "INSERT INTO out SELECT page, n, shard, stream, pk FROM clicks;",
        "INSERT INTO out SELECT CAST(CHAR_LENGTH(page) AS STRING), n, shard, stream, pk FROM clicks;",
    );
    std::fs::write(dir.path().join("job.sql"), job).unwrap();
    let mut command = Command::new("/usr/bin/env");
    command
        .args(["bash", "-c", "\"$0\" run job.sql --drain & wait $!; exit $?", env!("CARGO_BIN_EXE_tidemill")])
        .current_dir(dir.path())
        .env("AWS_ENDPOINT_URL", stub.endpoint())
        .env("AWS_REGION", "eu-west-1")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test");
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let watcher = tokio::task::spawn_blocking(move || {
        let child = command.spawn().unwrap();
        sender.send(child.id()).unwrap();
        child.wait_with_output().unwrap().status.success()
    });
    let shell = receiver.recv().unwrap();
    let mut most = 0;
    while !watcher.is_finished() {
        // The program is the shell's only child.
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap_or_default();
        for child in children.split_whitespace() {
            // Without the program's own file, of which a build without optimisation has a hundred MiB in memory.
            let status = std::fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
            let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
            most = most.max(own.and_then(|p| p.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0));
        }
        crate::faults::pause(20).await;
    }
    assert!(watcher.await.unwrap());
    assert_eq!(copies(&stub).len() as u128, records);
    assert_eq!(stub.state().violations, 0);
    eprintln!("at most {most} kB");
    // Over HTTP/2 (`tls.rs`) a service may send 5 MB ahead on each of the 40 connections. The more is waiting there the slower this machine
    // reads: 370 MiB when it has nothing else to do, 514 beside a build. It is less than the backlog all the same.
    let limit = if std::env::var_os("SSL_CERT_FILE").is_some() { 640 } else { 512 };
    assert!(most > 10_000 && most < limit << 10, "{most} kB");
}
