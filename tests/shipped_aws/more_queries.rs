//! The shipped job with a ledger for its alerts and three queries more: one fills a FIFO topic, one adds to its counters, one has rows
//! that are refused. And what must be there when it is done.

use std::collections::BTreeMap;

use crate::buckets::Bucket;
use crate::evidence::{Doubles, Happening, doubles};
use crate::expected::{alerts_difference, expected, table_difference};
use crate::program::{Job, events, shipped, start_job};
use crate::results::scanned;
use crate::services::{BUCKET, Services, Topic};
use crate::stream::Stream;

pub(crate) const FILE: &str = "shop";
pub(crate) const LEDGER: &str = "alert-ledger";
pub(crate) const ADDED: &str = "page-views-added";
pub(crate) const KEYS: [(&str, &str); 2] = [("metric_key", "S"), ("sort_key", "S")];

const ONCE: &str = "
CREATE TABLE orders_once (subject STRING, message STRING) WITH ('connector' = 'sns', 'topic' = 'large-orders.fifo');
INSERT INTO orders_once
SELECT 'High-Value Order Detected', JSON_OBJECT(
    KEY 'order_amount' VALUE data.amount, KEY 'user_id' VALUE data.user_id, KEY 'product_id' VALUE data.product_id,
    KEY 'timestamp' VALUE DATE_FORMAT(`timestamp`, 'yyyy-MM-dd''T''HH:mm:ss.SSS''Z'''))
FROM events WHERE event_type = 'purchase' AND data.amount > 500;
";

/// The page views of the metrics once more, as sums to which each epoch adds.
const ADDS: &str = "
CREATE TABLE views_added (metric_key STRING, sort_key STRING, view_count BIGINT, PRIMARY KEY (metric_key, sort_key) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'page-views-added', 'sink.write-mode' = 'add');
INSERT INTO views_added
SELECT 'pageviews#' || DATE_FORMAT(`timestamp`, 'yyyy-MM-dd'), COALESCE(NULLIF(data.page, ''), '(none)'), COUNT(*)
FROM events WHERE event_type = 'page_view'
GROUP BY DATE_FORMAT(`timestamp`, 'yyyy-MM-dd'), COALESCE(NULLIF(data.page, ''), '(none)');
";

/// Errors whose id ends with a 7 make it fail, those with a 3 are refused by it; of the others it has nothing to say.
const REFUSES: &str = "
CREATE TABLE checked (id STRING) WITH ('connector' = 'blackhole');
INSERT INTO checked
SELECT CASE WHEN event_id LIKE '%7' THEN CAST(CAST(event_id AS INT) AS STRING) ELSE event_id END
FROM events WHERE event_type = 'error' AND REQUIRE(event_id NOT LIKE '%3', 'it ends with a three');
";

/// What that query refuses, by reason.
pub(crate) fn refused_more() -> BTreeMap<String, usize> {
    let events = events(FILE);
    let errors: Vec<serde_json::Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ends = |end: &str| {
        let hit = |event: &&serde_json::Value| {
            event["event_type"] == "error" && event["event_id"].as_str().unwrap().ends_with(end)
        };
        errors.iter().filter(hit).count()
    };
    let wanted = [("query_failed", ends("7")), ("require:it ends with a three", ends("3"))];
    assert!(wanted.iter().all(|(_, count)| *count > 50), "{wanted:?}");
    wanted.map(|(reason, count)| (reason.to_owned(), count)).into()
}

/// Makes what the queries need beside the shipped job's: the bucket of checkpoints, and the FIFO topic.
pub(crate) async fn prepare(services: &Services) -> (Bucket, Topic) {
    let state = services.another_bucket("shipped-state").await;
    services.another_table(LEDGER, &[("entry", "S")]).await;
    services.another_table(ADDED, &KEYS).await;
    (state, services.another_topic("large-orders.fifo").await)
}

/// Starts it; files are rolled after `rollover`.
pub(crate) fn start(
    stream: &Stream,
    services: &Services,
    rollover: &str,
    more: &[&str],
    environment: &[(String, String)],
) -> Job {
    let folder = tempfile::tempdir().unwrap();
    let topic = "'topic'     = '${ALERTS_TOPIC:-analytics-alerts}'";
    let ledger = format!("{topic}, 'sink.ledger.table' = '{LEDGER}'");
    let queries = shipped(folder.path(), &[("'300 s'", &format!("'{rollover}'")), (topic, &ledger)]);
    for (file, text) in [("orders_once.sql", ONCE), ("views_added.sql", ADDS), ("checked.sql", REFUSES)] {
        std::fs::write(queries.join(file), text).unwrap();
    }
    let bucket = format!("ARCHIVE_BUCKET={BUCKET}");
    let arguments = [
        &["--param", &bucket, "--param", "ARCHIVE_RAW=TRUE", "--from", "trim_horizon", "--epoch-interval", "300ms"][..],
        &["--checkpoints", "s3://shipped-state/kept", "--checkpoint-interval", "600ms"],
        more,
    ];
    let own = services.environment().into_iter().map(|(name, value)| (name.to_owned(), value));
    let environment: Vec<(String, String)> = own.chain(environment.iter().cloned()).collect();
    start_job(folder, &queries, &stream.endpoint(), &arguments.concat(), &environment)
}

/// What is wrong with the counters to which epochs add: they are the same as those that are set.
pub(crate) async fn added_difference(services: &Services) -> Option<String> {
    let mut expected = expected(FILE);
    let metrics = expected["analytics-metrics"].as_array_mut().unwrap();
    metrics.retain(|item| item["view_count"].is_number());
    for item in metrics.iter_mut() {
        item.as_object_mut().unwrap().retain(|name, _| name == "view_count" || KEYS.iter().any(|(key, _)| key == name));
    }
    assert!(metrics.len() > 10, "{metrics:?}");
    expected[ADDED] = std::mem::take(&mut expected["analytics-metrics"]);
    table_difference(ADDED, &expected, scanned(&services.dynamodb(), ADDED).await)
}

/// What is wrong with the alerts (id and text of each that came): each is there, elsewhere than on the FIFO topic again only with a
/// reason.
pub(crate) fn alerts_differences(
    alerts: &[(String, String)],
    orders: &[(String, String)],
    happenings: &[Happening],
) -> (Vec<String>, Doubles) {
    let expected = expected(FILE);
    let mut copies: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (id, message) in alerts {
        copies.entry(id).or_default().push(message.clone());
    }
    let doubles = doubles(happenings);
    let mut wrong = doubles.unexplained.clone();
    for (id, messages) in &copies {
        let is_of = |h: &&Happening| matches!(h, Happening::Published { id: own, .. } if own == id);
        let published = happenings.iter().filter(is_of).count();
        if messages.len() != published {
            wrong.push(format!("'{id}' came {} times, and was published {published} times", messages.len()));
        }
        if messages.iter().any(|m| *m != messages[0]) {
            wrong.push(format!("'{id}' has several texts: {messages:?}"));
        }
    }
    let each: Vec<String> = copies.into_values().map(|mut m| m.swap_remove(0)).collect();
    wrong.extend(alerts_difference(&expected, &each));
    // Of the large orders' topic: exactly the alerts of that type.
    let mut of_orders = expected;
    of_orders["alerts"].as_array_mut().unwrap().retain(|alert| alert["message"]["order_amount"].is_number());
    let found: Vec<String> = orders.iter().map(|(_, message)| message.clone()).collect();
    wrong.extend(alerts_difference(&of_orders, &found).map(|text| format!("FIFO {text}")));
    (wrong, doubles)
}
