//! S3 behind TLS, with a certificate of an authority that only `AWS_CA_BUNDLE` names: both clients, the SDK's and the object
//! store's, trust it.

use std::path::Path;
use std::process::Command;

use crate::certificates::certify;
use crate::emulator::{Emulator, ministack};
use crate::emulators_of_aws::nghttpx;

const COPY: &str = "
CREATE TABLE numbers (n BIGINT) WITH ('connector' = 's3', 'path' = 's3://behind-tls/in', 'format' = 'json');
CREATE TABLE copies (n BIGINT) WITH ('connector' = 's3', 'path' = 's3://behind-tls/out', 'format' = 'json');
INSERT INTO copies SELECT n FROM numbers;
";

/// Runs the job; whether it succeeds, and what it says.
fn copied(emulator: &Emulator, endpoint: &str, folder: &Path, bundle: Option<&str>) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(["run", "job.sql", "--drain"]).current_dir(folder).envs(emulator.environment());
    command.env("AWS_ENDPOINT_URL_S3", endpoint).env_remove("AWS_CA_BUNDLE").env_remove("SSL_CERT_FILE");
    if let Some(bundle) = bundle {
        command.env("AWS_CA_BUNDLE", folder.join(bundle));
    }
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_clients_trust_the_bundle_of_the_cli() {
    let Some(emulator) = ministack().await else { return };
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let Some(front) = nghttpx(emulator.port, folder.path()).await else { return };
    let bucket = emulator.bucket("behind-tls").await;
    bucket.put("in/a.json", "{\"n\":1}\n{\"n\":2}\n").await;
    std::fs::write(folder.path().join("job.sql"), COPY).unwrap();
    let (succeeded, said) = copied(&emulator, &front.endpoint, folder.path(), None);
    assert!(!succeeded && said.contains("invalid peer certificate") && said.contains("in AWS_CA_BUNDLE"), "{said}");
    std::fs::write(folder.path().join("empty.pem"), "").unwrap();
    let (succeeded, said) = copied(&emulator, &front.endpoint, folder.path(), Some("empty.pem"));
    assert!(!succeeded && said.contains("empty.pem', which has no certificate"), "{said}");
    let (succeeded, said) = copied(&emulator, &front.endpoint, folder.path(), Some("ca.pem"));
    assert!(succeeded, "{said}");
    let keys = bucket.keys().await;
    let out: Vec<&String> = keys.iter().filter(|key| key.starts_with("out/")).collect();
    assert_eq!(out.len(), 1, "{keys:?}");
    assert_eq!(bucket.get(out[0]).await, b"{\"n\":1}\n{\"n\":2}\n");
}
