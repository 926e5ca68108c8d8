//! DynamoDB, SNS with a queue behind it, and S3: emulators, each behind a proxy that does what networks do.

use aws_sdk_sns::types::MessageAttributeValue;

use crate::buckets::{self, Bucket};
use crate::emulators_of_aws::{Emulator, dynoxide, ministack};
use crate::expected::TABLES;
use crate::faults;
use crate::proxy::Proxy;
use crate::queues;
use crate::stub::{Fault, Running, calm};
use crate::tables::{client, create_table};

pub(crate) const BUCKET: &str = "shipped-archive";

/// All that the job writes to.
pub(crate) struct Services {
    dynamodb: Emulator,
    /// Before DynamoDB.
    pub(crate) tables: Running,
    sns: Emulator,
    /// Before SNS.
    pub(crate) topics: Running,
    topic_arn: String,
    queue: String,
    s3: buckets::Emulator,
    /// Before S3.
    pub(crate) files: Proxy,
    pub(crate) bucket: Bucket,
}

impl Services {
    /// `None` where an emulator is not installed.
    pub(crate) async fn start() -> Option<Self> {
        let (dynamodb, sns, s3) = (dynoxide().await?, ministack().await?, buckets::seaweed().await?);
        let direct = client(&dynamodb.endpoint);
        for (table, keys) in TABLES {
            create_table(&direct, table, &keys).await;
        }
        let (topic_arn, queue) = queues::topic(sns.port, "analytics-alerts").await;
        let bucket = s3.bucket(BUCKET).await;
        Some(Self {
            tables: Running::before(dynamodb.port, calm()).await,
            topics: Running::before(sns.port, calm()).await,
            files: Proxy::before(&s3.endpoint).await,
            dynamodb,
            sns,
            topic_arn,
            queue,
            s3,
            bucket,
        })
    }

    pub(crate) fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("AWS_ENDPOINT_URL_DYNAMODB", self.tables.url()),
            ("AWS_ENDPOINT_URL_SNS", self.topics.url()),
            ("AWS_ENDPOINT_URL_S3", self.files.endpoint.clone()),
        ]
    }

    pub(crate) fn fail_now_and_then(&self) {
        self.tables.follow(faults::of_dynamodb());
        self.topics.follow(faults::of_sns());
        faults::of_s3(&self.files);
    }

    /// A table for something else than results.
    pub(crate) async fn another_table(&self, name: &str, keys: &[(&str, &str)]) {
        create_table(&client(&self.dynamodb.endpoint), name, keys).await;
    }

    /// Another topic; answers the queue behind it.
    pub(crate) async fn another_topic(&self, name: &str) -> String {
        queues::topic(self.sns.port, name).await.1
    }

    /// What another topic's queue holds: id and message. It is empty afterwards.
    pub(crate) async fn received(&self, queue: &str) -> Vec<(String, String)> {
        queues::received(self.sns.port, queue).await
    }

    /// A bucket for something else than results.
    pub(crate) async fn another_bucket(&self, name: &str) -> Bucket {
        self.s3.bucket(name).await
    }

    /// Every kind of fault has been met.
    pub(crate) fn check_faults(&self) {
        faults::check_met(&self.tables, "UpdateItem");
        faults::check_met(&self.topics, "PublishBatch");
        assert_eq!(self.files.left(), 0, "faults of S3 that were not met");
    }

    pub(crate) fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        client(&self.dynamodb.endpoint)
    }

    /// What the queue holds: id and message. It is empty afterwards.
    pub(crate) async fn alerts(&self) -> Vec<(String, String)> {
        queues::received(self.sns.port, &self.queue).await
    }

    /// The first update of a counter of errors is answered, and not made; it is the only one of its key.
    pub(crate) fn swallow_one_update_of_errors(&self) {
        let mut done = false;
        self.tables.follow_requests(Box::new(move |operation, request| {
            let key = &request.json()["Key"]["metric_key"]["S"];
            let hit = !done && operation == "UpdateItem" && key == "errors#2015-05-17#10";
            done |= hit;
            if hit { Fault::Swallowed } else { Fault::None }
        }));
    }

    /// A second copy of an alert, whose first was heard of.
    pub(crate) async fn publish_an_alert_again(&self) {
        let (id, message) = self.alerts().await.pop().expect("the job has an alert");
        let attribute = MessageAttributeValue::builder().data_type("String").string_value(id).build().unwrap();
        let client = queues::sns_client(&self.sns.endpoint);
        // `alerts` has taken the first.
        for _ in 0..2 {
            let publish = client.publish().topic_arn(&self.topic_arn).message(&message);
            publish.message_attributes("alert_id", attribute.clone()).send().await.unwrap();
        }
    }
}
