//! The shipped job's own SQL, run by the program without `--local`: every counter, window and alert in the services is
//! what `independent/clickstream.py` computes without it, while calls are throttled, cut, and answered into the void.
//!
//! Events come from a file here, so `events.sql` names it, and `archive.sql`, which needs columns that only Kinesis has, is
//! left out.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::expected::{TABLES, alerts_difference, expected, table_difference};
use crate::stub::{Fault, Running};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A folder with the job, over the events of `file`.
fn job(file: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(Path::new(ROOT).join("queries")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut text = std::fs::read_to_string(&path).unwrap();
        if name == "archive.sql" {
            continue;
        }
        if name == "events.sql" {
            let data = PathBuf::from(ROOT).join("tests/data").join(file);
            let lines = text.lines().filter(|line| !line.contains("METADATA FROM")).collect::<Vec<_>>().join("\n");
            let stream = "'stream'    = '${EVENTS_STREAM:-analytics-events}'";
            assert!(lines.contains(stream) && lines.contains("'connector' = 'kinesis'"));
            let lines = lines.replace(stream, &format!("'path' = '{}'", data.display()));
            text = lines.replace("'connector' = 'kinesis'", "'connector' = 'filesystem'");
        }
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// Runs the program over all events; `endpoints` are services with their addresses.
async fn run(file: &str, endpoints: &[(&str, String)], epoch_rows: &str) {
    let folder = job(file);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(["run", ".", "--drain", "--epoch-rows", epoch_rows]).current_dir(folder.path());
    // Of this machine's own access to AWS, nothing must be used.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("HOME", folder.path());
    command.envs([("AWS_REGION", "eu-west-1"), ("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")]);
    for (service, url) in endpoints {
        command.env(format!("AWS_ENDPOINT_URL_{service}"), url);
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_job_is_exact_while_the_services_fail() {
    let mut count = 0;
    let storm = [
        Fault::Throttle,
        Fault::Conflict,
        Fault::ServerError,
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::ServerErrorAfter,
    ];
    let running = Running::start(Box::new(move |operation| {
        count += 1;
        // Alerts on a standard topic may come twice after a lost reply: what is counted exactly here has none.
        match operation {
            "PublishBatch" if count % 2 == 0 => Fault::Partial,
            "UpdateItem" if count % 20 == 0 => storm[(count / 20) % storm.len()],
            _ => Fault::None,
        }
    }))
    .await;
    for (table, keys) in TABLES {
        running.tables.create(table, &keys);
    }
    run("shop.jsonl", &[("DYNAMODB", running.url()), ("SNS", running.url())], "3000").await;
    let expected = expected("shop");
    for (table, _) in TABLES {
        assert_eq!(table_difference(table, &expected, running.tables.items(table)), None);
    }
    let published = running.topics.published.lock().unwrap().clone();
    let messages: Vec<String> = published.iter().map(|p| p.message.clone()).collect();
    assert_eq!(alerts_difference(&expected, &messages), None);
    assert!(published.iter().all(|p| p.attributes.contains_key("alert_id") && p.attributes.contains_key("alert_type")));
}
