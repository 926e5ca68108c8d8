//! S3 emulators, and a bucket as a test sees it.

use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use tidemill::contracts::TableSpec;

use crate::emulators_of_aws::{self as emulators, KEY_ID, SECRET};

/// A running emulator that answers.
pub(crate) struct Emulator(emulators::Emulator);

impl Deref for Emulator {
    type Target = emulators::Emulator;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// SeaweedFS: real signatures, uploads that outlive a crash.
pub(crate) async fn seaweed() -> Option<Emulator> {
    answering(emulators::seaweed().await?).await
}

/// ministack: another mind about the same protocol; it checks no signature.
pub(crate) async fn ministack() -> Option<Emulator> {
    answering(emulators::ministack().await?).await
}

/// All that are installed.
pub(crate) async fn both() -> Vec<Emulator> {
    [seaweed().await, ministack().await].into_iter().flatten().collect()
}

async fn answering(process: emulators::Emulator) -> Option<Emulator> {
    let emulator = Emulator(process);
    let client = emulator.client();
    for _ in 0..300 {
        if client.list_buckets().send().await.is_ok() {
            return Some(emulator);
        }
        pause(100).await;
    }
    panic!("{} does not answer after 30 s:\n{}", emulator.name, emulator.log());
}

#[expect(clippy::disallowed_methods, reason = "a test waits for another process")]
pub(crate) async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

impl Emulator {
    pub(crate) fn client(&self) -> aws_sdk_s3::Client {
        let http = aws_smithy_http_client::Builder::new().build_http();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new("eu-west-1"))
            .endpoint_url(&self.endpoint)
            .force_path_style(true)
            .credentials_provider(Credentials::new(KEY_ID, SECRET, None, None, "test"));
        aws_sdk_s3::Client::from_conf(config.build())
    }

    /// A bucket, empty at first.
    pub(crate) async fn bucket(&self, name: &str) -> Bucket {
        // As AWS wants it everywhere but in us-east-1.
        let place = aws_sdk_s3::types::BucketLocationConstraint::from("eu-west-1");
        let place = aws_sdk_s3::types::CreateBucketConfiguration::builder().location_constraint(place).build();
        self.client().create_bucket().bucket(name).create_bucket_configuration(place).send().await.unwrap();
        // SeaweedFS sends its new volume about.
        let bucket = Bucket { client: self.client(), name: name.to_owned() };
        for _ in 0..100 {
            if bucket.client.put_object().bucket(name).key("ready").send().await.is_ok() {
                break;
            }
            pause(100).await;
        }
        bucket.delete("ready").await;
        bucket
    }

    /// A table at `path`, reached through this emulator.
    pub(crate) fn table(&self, path: &str, schema: SchemaRef, options: &[(&str, &str)]) -> TableSpec {
        let spec = TableSpec::new("t", schema)
            .with_option("path", path)
            .with_option("aws.endpoint", &self.endpoint)
            .with_option("aws.region", "eu-west-1")
            .with_option("aws.credentials.provider", "BASIC")
            .with_option("aws.credentials.basic.accesskeyid", KEY_ID)
            .with_option("aws.credentials.basic.secretkey", SECRET);
        options.iter().fold(spec, |spec, (key, value)| spec.with_option(key, *value))
    }

    /// What the environment of a program must say to reach it.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL_S3", self.endpoint.clone()),
            ("AWS_REGION", "eu-west-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY_ID.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ]
    }
}

/// A bucket, seen by the test itself.
pub(crate) struct Bucket {
    pub(crate) client: aws_sdk_s3::Client,
    pub(crate) name: String,
}

impl Bucket {
    pub(crate) async fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        let mut token = None;
        loop {
            let listed = self.client.list_objects_v2().bucket(&self.name).set_continuation_token(token);
            let page = listed.send().await.unwrap();
            keys.extend(page.contents().iter().filter_map(|o| o.key().map(str::to_owned)));
            token = page.next_continuation_token().map(str::to_owned);
            if token.is_none() {
                keys.sort();
                return keys;
            }
        }
    }

    /// Keys of unfinished uploads.
    pub(crate) async fn uploads(&self) -> Vec<String> {
        let listed = self.client.list_multipart_uploads().bucket(&self.name).send().await.unwrap();
        let mut keys: Vec<String> = listed.uploads().iter().filter_map(|u| u.key().map(str::to_owned)).collect();
        keys.sort();
        keys
    }

    pub(crate) async fn put(&self, key: &str, content: impl Into<Vec<u8>>) {
        let body = ByteStream::from(content.into());
        self.client.put_object().bucket(&self.name).key(key).body(body).send().await.unwrap();
    }

    pub(crate) async fn get(&self, key: &str) -> Vec<u8> {
        let got = self.client.get_object().bucket(&self.name).key(key).send().await.unwrap();
        got.body.collect().await.unwrap().to_vec()
    }

    pub(crate) async fn delete(&self, key: &str) {
        self.client.delete_object().bucket(&self.name).key(key).send().await.unwrap();
    }
}

/// Most memory that this process has had, in KiB.
pub(crate) fn peak_kib() -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
