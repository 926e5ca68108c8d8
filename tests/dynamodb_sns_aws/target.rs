//! The table that a test writes: in the stub, or in an emulator behind it.

use std::future::Future;
use std::sync::Mutex;

use arrow::datatypes::SchemaRef;
use tidemill::contracts::TableSpec;

use crate::stub::tables::Item;
use crate::stub::{Running, calm};
use crate::support::{spec, with_key};
use crate::tables::{client, create_table, plain};

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
