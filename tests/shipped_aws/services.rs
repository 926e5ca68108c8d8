//! DynamoDB, SNS with a queue behind it, and S3: emulators, each behind a proxy that does what networks do.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sns::types::MessageAttributeValue;

use crate::buckets::{self, Bucket};
use crate::emulators_of_aws::{Emulator, dynoxide, ministack};
use crate::expected::TABLES;
use crate::faults;
use crate::more_queries::KEYS;
use crate::proxy::Proxy;
use crate::queues;
use crate::stub::{Fault, Running, calm};
use crate::tables::{client, create_table};

pub(crate) const BUCKET: &str = "shipped-archive";

/// A topic, and the queue behind it.
pub(crate) struct Topic {
    arn: String,
    pub(crate) queue: String,
}

/// All that the job writes to.
pub(crate) struct Services {
    dynamodb: Emulator,
    /// Before DynamoDB.
    pub(crate) tables: Running,
    sns: Emulator,
    /// Before SNS.
    pub(crate) topics: Running,
    pub(crate) alerts_topic: Topic,
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
        let (arn, queue) = queues::topic(sns.port, "analytics-alerts").await;
        let bucket = s3.bucket(BUCKET).await;
        Some(Self {
            tables: Running::before(dynamodb.port, calm()).await,
            topics: Running::before(sns.port, calm()).await,
            files: Proxy::before(&s3.endpoint).await,
            dynamodb,
            sns,
            alerts_topic: Topic { arn, queue },
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

    pub(crate) async fn another_topic(&self, name: &str) -> Topic {
        let (arn, queue) = queues::topic(self.sns.port, name).await;
        Topic { arn, queue }
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

    /// So has every kind that publishing alerts and their ledger can meet.
    pub(crate) fn check_faults_of_alerts(&self) {
        faults::check_all_met(&self.topics, "PublishBatch");
        for operation in ["BatchGetItem", "BatchWriteItem"] {
            faults::check_all_met(&self.tables, operation);
        }
    }

    pub(crate) fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        client(&self.dynamodb.endpoint)
    }

    /// What the queue holds: id and message. It is empty afterwards.
    pub(crate) async fn alerts(&self) -> Vec<(String, String)> {
        queues::received(self.sns.port, &self.alerts_topic.queue).await
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
        let alert = self.alerts().await.pop().expect("the job has an alert");
        // `alerts` has taken the first.
        for _ in 0..2 {
            self.publish(&self.alerts_topic, &alert, None).await;
        }
    }

    /// Publishes an alert (id and text) past the job; on a FIFO topic under an id of deduplication.
    pub(crate) async fn publish(&self, topic: &Topic, (id, message): &(String, String), deduplication: Option<&str>) {
        let attribute = MessageAttributeValue::builder().data_type("String").string_value(id).build().unwrap();
        let publish = queues::sns_client(&self.sns.endpoint).publish().topic_arn(&topic.arn).message(message);
        let publish = publish.set_message_deduplication_id(deduplication.map(str::to_owned));
        let publish = publish.set_message_group_id(deduplication.map(|_| "all".to_owned()));
        publish.message_attributes("alert_id", attribute).send().await.unwrap();
    }

    /// The key of an item of a table for something else than results.
    pub(crate) async fn item(&self, table: &str) -> HashMap<String, AttributeValue> {
        let found = self.dynamodb().scan().table_name(table).limit(1).send().await.unwrap();
        let mut item = found.items.unwrap().pop().expect("an item");
        item.retain(|name, _| KEYS.iter().any(|(key, _)| key == name));
        item
    }
}
