//! `tidemill iam` against what a run really asks for: every request is allowed by the policy, and nothing in the policy
//! was left unused.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::emulator::seaweed;
use crate::job::SQL;
use crate::proxy::{Fault, Proxy, Seen};

/// The IAM actions of a request, its ARN, and the prefix that it lists.
fn needed(seen: &Seen) -> Vec<(&'static str, String, Option<String>)> {
    let has = |name: &str| seen.query.split('&').any(|p| p.split('=').next() == Some(name));
    let value = |name: &str| {
        let pair = seen.query.split('&').find_map(|p| p.strip_prefix(&format!("{name}=")));
        pair.map(|text| text.replace("%2F", "/"))
    };
    let action = match seen.method.as_str() {
        "GET" if has("list-type") => "s3:ListBucket",
        "GET" if has("uploads") => "s3:ListBucketMultipartUploads",
        "GET" | "HEAD" => "s3:GetObject",
        "PUT" | "POST" => "s3:PutObject",
        "DELETE" if has("uploadId") => "s3:AbortMultipartUpload",
        other => panic!("{other} {} ?{}", seen.path, seen.query),
    };
    let path = seen.path.trim_matches('/').replace("%3D", "=");
    let listed = value("prefix").or_else(|| Some(String::new())).filter(|_| has("list-type"));
    // For If-Match, S3 wants to know whether the sender may know what is there.
    let second = seen.if_match.then_some("s3:GetObject");
    let actions = std::iter::once(action).chain(second);
    actions.map(|action| (action, format!("arn:aws:s3:::{path}"), listed.clone())).collect()
}

/// `*` at the end only, as our policies have it.
fn matches(pattern: &str, text: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == text, |start| text.starts_with(start))
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_asks_for_what_its_policy_allows_and_for_all_of_it() {
    let Some(emulator) = seaweed().await else { return };
    let bucket = emulator.bucket("job-bucket").await;
    bucket.put("in/a.json", "{\"id\":1,\"product\":\"p\",\"day\":\"a\"}\nbroken\n").await;
    // Refused when the error output has put what was refused before, so that its object is put again.
    bucket.put("in/b.json", "{\"id\":2,\"product\":\"p\",\"day\":\"a\"}\nbroken, too\n").await;
    bucket.put("reference/products.csv", "p,shoes\n").await;
    // Of a run that died, so that there is something to abort.
    let left = bucket.client.create_multipart_upload().bucket("job-bucket").key("out/part-job-1-0.jsonl");
    left.send().await.unwrap();
    let proxy = Proxy::before(&emulator.endpoint).await;
    proxy.next(1, "GET", "in/b.json", Fault::HoldUntil("PUT", "/errors/"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("job.sql"), SQL).unwrap();
    let tidemill = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(args).current_dir(dir.path()).envs(emulator.environment());
        let done = command.env("AWS_ENDPOINT_URL_S3", &proxy.endpoint).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    };
    tidemill(&["run", "job.sql", "--drain", "--epoch-rows", "1"]);
    assert_eq!(proxy.left(), 0, "the second file was read");
    let policy: Value = serde_json::from_slice(&tidemill(&["iam", "job.sql"])).unwrap();
    let statements = policy["Statement"].as_array().unwrap();
    let mut used = BTreeSet::new();
    for (action, arn, listed) in proxy.seen().iter().flat_map(needed) {
        let allowed = statements.iter().position(|statement| {
            let prefixes = statement.get("Condition").map(|c| texts(&c["StringLike"]["s3:prefix"]));
            texts(&statement["Action"]).contains(&action)
                && texts(&statement["Resource"]).iter().any(|r| matches(r, &arn))
                && prefixes.is_none_or(|p| listed.as_deref().is_some_and(|l| p.iter().any(|p| matches(p, l))))
        });
        let allowed = allowed.unwrap_or_else(|| panic!("{action} on {arn} (prefix {listed:?}) is not in {policy:#}"));
        used.insert((allowed, action));
    }
    let granted: BTreeSet<(usize, &str)> =
        statements.iter().enumerate().flat_map(|(i, s)| texts(&s["Action"]).into_iter().map(move |a| (i, a))).collect();
    assert_eq!(used, granted, "the policy allows no more than the run used: {policy:#}");
}
