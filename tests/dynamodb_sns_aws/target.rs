//! The table that a test writes: in the stub, or in an emulator behind it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Mutex;

use arrow::datatypes::SchemaRef;
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::json;
use tidemill::contracts::TableSpec;

use crate::stub::tables::Item;
use crate::stub::{Running, calm};
use crate::support::{spec, with_key};

const TABLE: &str = "counters";

/// A table with the key `k`, a string.
pub(crate) struct Target {
    pub(crate) running: Running,
    /// Straight to the emulator, past the faults.
    emulator: Option<aws_sdk_dynamodb::Client>,
}

impl Target {
    pub(crate) async fn stub() -> Self {
        Self { running: Running::start(calm()).await, emulator: None }
    }

    pub(crate) async fn emulator(port: u16) -> Self {
        let running = Running::before(port, calm()).await;
        Self { running, emulator: Some(client(&format!("http://127.0.0.1:{port}"))) }
    }

    /// A new, empty table.
    pub(crate) async fn empty(&self) {
        match &self.emulator {
            None => self.running.tables.create(TABLE, &[("k", "S")]),
            Some(client) => {
                let _ = client.delete_table().table_name(TABLE).send().await;
                create_table(client, TABLE, &[("k", "S")]).await;
            }
        }
    }

    pub(crate) fn spec(&self, name: &str, schema: &SchemaRef, options: &[(&str, &str)]) -> TableSpec {
        with_key(spec(&self.running.url(), name, schema, options).with_option("table-name", TABLE), &["k"])
    }

    pub(crate) async fn items(&self) -> Vec<Item> {
        match &self.emulator {
            None => self.running.tables.items(TABLE),
            Some(client) => {
                let output = client.scan().table_name(TABLE).consistent_read(true).send().await.unwrap();
                output.items().iter().map(|item| item.iter().map(|(k, v)| (k.clone(), plain(v))).collect()).collect()
            }
        }
    }

    /// Runs something, and answers the states of items that a reader could see meanwhile: in the stub, all of them.
    pub(crate) async fn watched<T>(&self, work: impl Future<Output = T>) -> (Vec<Item>, T) {
        if self.emulator.is_none() {
            let before = self.running.tables.history(TABLE).len();
            let done = work.await;
            self.running.raise_all().await;
            let history = self.running.tables.history(TABLE).split_off(before);
            return (history.into_iter().filter_map(|(_, item)| item).collect(), done);
        }
        let seen = Mutex::new(Vec::new());
        let poll = async {
            loop {
                let items = self.items().await;
                seen.lock().unwrap().extend(items);
            }
        };
        tokio::select! {
            done = work => (seen.into_inner().unwrap(), done),
            () = poll => unreachable!("a poller does not end"),
        }
    }
}

/// A client of an emulator.
pub(crate) fn client(url: &str) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
        .region(aws_sdk_dynamodb::config::Region::new("eu-west-1"))
        .endpoint_url(url)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .credentials_provider(aws_credential_types::Credentials::new("test", "test", None, None, "test"));
    aws_sdk_dynamodb::Client::from_conf(config.build())
}

/// Makes a table and waits for it; `keys` are names and types.
pub(crate) async fn create_table(client: &aws_sdk_dynamodb::Client, name: &str, keys: &[(&str, &str)]) {
    use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
    let mut create = client.create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
    for ((name, kind), role) in keys.iter().zip([KeyType::Hash, KeyType::Range]) {
        create = create
            .attribute_definitions(
                AttributeDefinition::builder()
                    .attribute_name(*name)
                    .attribute_type(ScalarAttributeType::from(*kind))
                    .build()
                    .unwrap(),
            )
            .key_schema(KeySchemaElement::builder().attribute_name(*name).key_type(role).build().unwrap());
    }
    create.send().await.unwrap();
}

/// An attribute in the form of the wire.
pub(crate) fn plain(value: &AttributeValue) -> serde_json::Value {
    match value {
        AttributeValue::S(text) => json!({ "S": text }),
        AttributeValue::N(number) => json!({ "N": number }),
        AttributeValue::Bool(value) => json!({ "BOOL": value }),
        AttributeValue::Null(value) => json!({ "NULL": value }),
        AttributeValue::Ss(list) => json!({ "SS": list }),
        AttributeValue::Ns(list) => json!({ "NS": list }),
        AttributeValue::L(list) => json!({ "L": list.iter().map(plain).collect::<Vec<_>>() }),
        AttributeValue::M(map) => {
            json!({ "M": map.iter().map(|(k, v)| (k.clone(), plain(v))).collect::<BTreeMap<_, _>>() })
        }
        AttributeValue::B(bytes) => json!({ "B": String::from_utf8_lossy(bytes.as_ref()) }),
        other => panic!("a value that no test writes: {other:?}"),
    }
}
