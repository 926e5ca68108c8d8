//! The same over TLS and HTTP/2, which AWS has and emulators have not: nghttpx stands before the stub, with a certificate of an
//! authority that only the client under test is told of.
//!
//! The cases are those of this program: it runs itself again, with the stub behind the front.

use std::path::Path;
use std::process::Command;

use crate::aws_stub::BEHIND_TLS;
use crate::certificates::certify;
use crate::emulators_of_aws::nghttpx_is_there;

/// What runs again. The rest makes calls of its own, to the stub or to emulators, or is about numbers of calls and time.
const CASES: [&str; 12] = [
    "fan_out::",
    "resharding::",
    "several::",
    "faults::everything_fails_now_and_then",
    "faults::no_permission",
    "payloads::aggregates_are_taken_apart",
    "payloads::metadata",
    "positions::latest",
    "positions::resume_is_exclusive",
    "positions::older_than_retention",
    "positions::ten_minutes_behind",
    "command::from_produce",
];

/// This program, with its stubs behind TLS; what it says, and whether it succeeds.
fn again(folder: &Path, (variable, authority): (&str, &str), cases: &[&str]) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(cases).args(["--test-threads", "8"]).env(BEHIND_TLS, folder).env(variable, folder.join(authority));
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn every_case_over_http2_and_tls() {
    if !nghttpx_is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let (succeeded, said) = again(folder.path(), ("SSL_CERT_FILE", "ca.pem"), &CASES);
    assert!(succeeded, "{said}");
    let passed = said.matches(" ... ok").count();
    assert!(passed >= 40, "{passed} cases: {said}");
    // All of it was HTTP/2, by the front's own notes: `h2 POST / HTTP/2 200`.
    let (mut calls, mut subscriptions) = (0, 0);
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "log") {
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                assert!(line.starts_with("h2 POST / HTTP/2"), "{line}");
                calls += 1;
                subscriptions += usize::from(line.contains("SubscribeToShard"));
            }
        }
    }
    assert!(calls > 1_000 && subscriptions > 50, "{calls} calls, {subscriptions} subscriptions");
}

/// What HTTP/2 lets the service send ahead on each stream is memory too.
#[test]
fn a_backlog_of_120_shards_in_bounded_memory() {
    if !nghttpx_is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let cases = ["command::a_backlog_of_120_shards", "--nocapture"];
    let (succeeded, said) = again(folder.path(), ("SSL_CERT_FILE", "ca.pem"), &cases);
    assert!(succeeded && said.matches(" ... ok").count() == 2, "{said}");
    said.lines().filter(|line| line.contains("at most")).for_each(|line| eprintln!("{line}"));
}

/// A certificate of an authority that the system does not know is no certificate.
#[test]
fn an_unknown_authority_is_refused() {
    if !nghttpx_is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    // Another one of the same name.
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    certify(&other);
    let case = ["--exact", "command::produce_names_a_stream_that_is_not_there"];
    for variable in ["SSL_CERT_FILE", "AWS_CA_BUNDLE"] {
        let (succeeded, said) = again(folder.path(), (variable, "other/ca.pem"), &case);
        assert!(!succeeded && said.contains("invalid peer certificate") && said.contains("in AWS_CA_BUNDLE"), "{said}");
    }
}

/// The variable of the AWS CLI serves as well, for calls, for connections of their own, and in the program.
#[test]
fn the_bundle_of_the_cli_is_read() {
    if !nghttpx_is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let cases = ["several::", "positions::resume_is_exclusive", "command::from_produce"];
    let (succeeded, said) = again(folder.path(), ("AWS_CA_BUNDLE", "ca.pem"), &cases);
    assert!(succeeded, "{said}");
    let passed = said.matches(" ... ok").count();
    assert!(passed >= 5, "{passed} cases: {said}");
    std::fs::write(folder.path().join("none.pem"), "nothing\n").unwrap();
    let case = ["--exact", "command::produce_names_a_stream_that_is_not_there"];
    let (succeeded, said) = again(folder.path(), ("AWS_CA_BUNDLE", "none.pem"), &case);
    assert!(!succeeded && said.contains("none.pem', which has no certificate"), "{said}");
}
