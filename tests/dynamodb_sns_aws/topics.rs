//! The topic sink on the stub.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::*;
use arrow::datatypes::{DataType, TimeUnit};
use tidemill::contracts::{Changes, EpochNumber, Result, Sink, TableSpec};

use crate::stub::topics::{ARN, Published};
use crate::stub::{Fault, Running, Script, calm};
use crate::support::*;

fn alerts(running: &Running, options: &[(&str, &str)]) -> TableSpec {
    let columns = schema(&[("subject", DataType::Utf8), ("message", DataType::Utf8), ("kind", DataType::Utf8)]);
    let topic = options.iter().find(|(key, _)| *key == "topic").map_or("alerts", |(_, topic)| topic);
    spec(&running.url(), "alerts", &columns, options).with_option("topic", topic)
}

fn messages(table: &TableSpec, bodies: &[&str]) -> Changes {
    let bodies: Vec<Option<&str>> = bodies.iter().map(|b| Some(*b)).collect();
    let all = |text| texts(&vec![Some(text); bodies.len()]);
    rows(&table.schema, vec![all("High"), texts(&bodies), all("order")])
}

async fn opened(table: &TableSpec) -> Result<Box<dyn Sink>> {
    let mut sink = connectors_of("job", Arc::new(Hurried::default())).sink(table, "sns")?;
    sink.open().await.map(|()| sink)
}

fn bodies(running: &Running) -> Vec<String> {
    running.topics.published.lock().unwrap().iter().map(|p| p.message.clone()).collect()
}

fn counted(running: &Running) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    bodies(running).into_iter().for_each(|body| *counts.entry(body).or_default() += 1);
    counts
}

/// The first `times` publishes meet `fault`.
fn at_first(times: usize, fault: Fault) -> Script {
    let mut left = times;
    Box::new(move |operation| match operation {
        "PublishBatch" if left > 0 => {
            left -= 1;
            fault
        }
        _ => Fault::None,
    })
}

#[tokio::test]
async fn messages_carry_their_columns_and_the_same_id_as_without_aws() {
    let running = Running::start(calm()).await;
    let columns = schema(&[
        ("subject", DataType::Utf8),
        ("message", DataType::Utf8),
        ("amount", DataType::Decimal128(10, 2)),
        ("at", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))),
        ("note", DataType::Utf8),
    ]);
    let table = spec(&running.url(), "alerts", &columns, &[("topic", "alerts")]);
    let row = rows(
        &columns,
        vec![
            texts(&[Some("High & <low>")]),
            texts(&[Some("{\"a\": 1}")]),
            Arc::new(Decimal128Array::from(vec![51_723]).with_precision_and_scale(10, 2).unwrap()),
            Arc::new(TimestampMillisecondArray::from(vec![1]).with_timezone("UTC")),
            texts(&[None]),
        ],
    );
    write_epoch(opened(&table).await.unwrap().as_mut(), 1, row.clone()).await.unwrap();
    let published = running.topics.published.lock().unwrap().clone();
    let Published { subject, message, attributes, group, deduplication } = &published[0];
    assert_eq!((subject.as_deref(), message.as_str()), (Some("High & <low>"), "{\"a\": 1}"));
    assert_eq!((group, deduplication), (&None, &None));
    let of = |name: &str| attributes.get(name).map(|(kind, value)| (kind.as_str(), value.as_str()));
    assert_eq!(of("amount"), Some(("Number", "517.23")));
    assert_eq!(of("at"), Some(("String", "1970-01-01T00:00:00.001Z")));
    assert_eq!(attributes.len(), 3, "a NULL is no attribute: {attributes:?}");
    let dir = tempfile::tempdir().unwrap();
    let job = tidemill::connectors::JobContext { job: "job".to_owned(), generation: 1 };
    let local = tidemill::connectors::Connectors::new(Some(dir.path().to_owned()), Arc::new(Hurried::default()), job);
    write_epoch(local.sink(&table, "sns").unwrap().as_mut(), 1, row).await.unwrap();
    let line = std::fs::read_to_string(dir.path().join("sns/alerts.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(of("alert_id"), Some(("String", line["message_id"].as_str().unwrap())));
}

#[tokio::test]
async fn batches_are_published_whole_whatever_fails_of_them() {
    let running = Running::start(calm()).await;
    let table = alerts(&running, &[]);
    let names: Vec<String> = (0..25).map(|i| format!("m{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (fault, twice) in [
        (Fault::Partial, false),
        (Fault::Throttle, false),
        (Fault::ServerError, false),
        (Fault::CutBefore, false),
        (Fault::CutAfter, true),
        (Fault::ServerErrorAfter, true),
    ] {
        running.topics.published.lock().unwrap().clear();
        running.follow(at_first(2, fault));
        let mut sink = opened(&table).await.unwrap();
        write_epoch(sink.as_mut(), 1, messages(&table, &names)).await.unwrap();
        let counts = counted(&running);
        assert_eq!(counts.len(), 25, "{fault:?}");
        // At least once: more than once only where a reply was lost.
        assert_eq!(counts.values().any(|n| *n > 1), twice, "{fault:?}: {counts:?}");
    }
}

#[tokio::test]
async fn a_ledger_publishes_a_replay_once() {
    let running = Running::start(calm()).await;
    running.tables.create("published", &[("id", "S")]);
    let table = alerts(&running, &[("sink.ledger.table", "published")]);
    for _ in 0..3 {
        let mut sink = opened(&table).await.unwrap();
        write_epoch(sink.as_mut(), 1, messages(&table, &["a", "a", "b"])).await.unwrap();
    }
    assert_eq!(bodies(&running), ["a", "a", "b"], "equal rows are messages of their own, and each is published once");
    let mut sink = opened(&table).await.unwrap();
    write_epoch(sink.as_mut(), 2, messages(&table, &["a"])).await.unwrap();
    assert_eq!(bodies(&running).len(), 4, "an equal row of a later epoch is a new one");
    // A kill between publish and mark: the message comes again, and no other.
    running.follow(Box::new(|operation| if operation == "BatchWriteItem" { Fault::CutBefore } else { Fault::None }));
    let mut sink = opened(&table).await.unwrap();
    sink.write(EpochNumber(3), messages(&table, &["c"])).await.unwrap();
    let marks = running.count("BatchWriteItem");
    tokio::select! {
        _ = sink.flush(EpochNumber(3), 0) => unreachable!("it cannot mark"),
        () = async { while running.count("BatchWriteItem") < marks + 3 { tokio::task::yield_now().await } } => {}
    }
    running.follow(calm());
    write_epoch(opened(&table).await.unwrap().as_mut(), 3, messages(&table, &["c"])).await.unwrap();
    assert_eq!(counted(&running)["c"], 2);
}

#[tokio::test]
async fn at_most_once_never_publishes_twice() {
    let running = Running::start(calm()).await;
    running.tables.create("published", &[("id", "S")]);
    let options = [("sink.ledger.table", "published"), ("sink.delivery", "at-most-once")];
    let table = alerts(&running, &options);
    // The replies to claims are lost; the claims are its own all the same.
    let mut lost = 5;
    running.follow(Box::new(move |operation| match operation {
        "PutItem" if lost > 0 => {
            lost -= 1;
            Fault::CutAfter
        }
        _ => Fault::None,
    }));
    for _ in 0..2 {
        write_epoch(opened(&table).await.unwrap().as_mut(), 1, messages(&table, &["a", "b", "c"])).await.unwrap();
    }
    assert_eq!(counted(&running).into_iter().collect::<Vec<_>>(), [("a".into(), 1), ("b".into(), 1), ("c".into(), 1)]);
    // A publish without an answer is not repeated, and it is said.
    for fault in [Fault::CutAfter, Fault::CutBefore, Fault::ServerErrorAfter] {
        running.topics.published.lock().unwrap().clear();
        running.follow(at_first(1, fault));
        let epoch = 10
            + match fault {
                Fault::CutAfter => 0,
                Fault::CutBefore => 1,
                _ => 2,
            };
        let outcome =
            write_epoch(opened(&table).await.unwrap().as_mut(), epoch, messages(&table, &["d"])).await.unwrap();
        assert_eq!(reasons(&outcome), ["delivery_unknown"], "{fault:?}");
        write_epoch(opened(&table).await.unwrap().as_mut(), epoch, messages(&table, &["d"])).await.unwrap();
        assert_eq!(bodies(&running).len(), usize::from(fault != Fault::CutBefore), "{fault:?}");
    }
    // Throttling is an answer: nothing was published.
    running.topics.published.lock().unwrap().clear();
    running.follow(at_first(3, Fault::Throttle));
    write_epoch(opened(&table).await.unwrap().as_mut(), 20, messages(&table, &["e"])).await.unwrap();
    assert_eq!(bodies(&running), ["e"]);
}

/// Entries of one epoch, each of which has to be heard of.
const MANY: usize = 205;

/// Bodies that were published, and how many the error output was told of.
async fn heard_of(running: &Running, table: &TableSpec, names: &[&str]) -> (Vec<String>, usize) {
    let outcome = write_epoch(opened(table).await.unwrap().as_mut(), 1, messages(table, names)).await.unwrap();
    assert!(reasons(&outcome).iter().all(|reason| *reason == "delivery_unknown"), "{:?}", reasons(&outcome));
    let published = bodies(running);
    assert!(counted(running).values().all(|times| *times == 1), "at most once");
    (published, outcome.refused.len())
}

#[tokio::test]
async fn at_most_once_loses_nothing_untold_when_a_publish_is_denied() {
    let running = Running::start(calm()).await;
    running.tables.create("published", &[("id", "S")]);
    let options = [("sink.ledger.table", "published"), ("sink.delivery", "at-most-once")];
    let table = alerts(&running, &options).with_option("sink.requests.max-inflight", "3");
    let names: Vec<String> = (0..MANY).map(|i| format!("m{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    // One after another: nothing is on its way when the run fails, so everything can still be published.
    for (inflight, told_at_most) in [("1", 0), ("3", 2 * 10)] {
        running.topics.published.lock().unwrap().clear();
        running.tables.create("published", &[("id", "S")]);
        let table = table.clone().with_option("sink.requests.max-inflight", inflight);
        let mut count = 0;
        running.follow(Box::new(move |operation| {
            count += usize::from(operation == "PublishBatch");
            match (operation, count) {
                ("PublishBatch", 2) => Fault::Throttle,
                ("PublishBatch", 4) => Fault::Denied,
                _ => Fault::None,
            }
        }));
        let mut sink = opened(&table).await.unwrap();
        let error = write_epoch(sink.as_mut(), 1, messages(&table, &names)).await.expect_err("it is denied");
        assert!(error.to_string().contains("AuthorizationError"), "{error}");
        drop(sink);
        let before = bodies(&running).len();
        assert!((10..MANY).contains(&before), "{before}");
        running.follow(calm());
        let (published, told) = heard_of(&running, &table, &names).await;
        assert!(published.len() + told >= MANY, "{} published, {told} told of", published.len());
        assert!(told <= told_at_most, "{told}");
    }
}

#[tokio::test]
async fn at_most_once_tells_of_what_a_run_that_ended_had_claimed() {
    let running = Running::start(calm()).await;
    running.tables.create("published", &[("id", "S")]);
    let options = [("sink.ledger.table", "published"), ("sink.delivery", "at-most-once")];
    let table = alerts(&running, &options);
    let names: Vec<String> = (0..MANY).map(|i| format!("m{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    // Another sink's failure ends the run while a publish of this one is on its way, which does not arrive.
    let mut count = 0;
    running.gate.send_replace(false);
    running.follow(Box::new(move |operation| {
        count += usize::from(operation == "PublishBatch");
        if operation == "PublishBatch" && count > 3 { Fault::Held } else { Fault::None }
    }));
    let mut sink = opened(&table).await.unwrap();
    sink.write(EpochNumber(1), messages(&table, &names)).await.unwrap();
    tokio::select! {
        _ = sink.flush(EpochNumber(1), 0) => unreachable!("it waits"),
        () = async { while running.count("PublishBatch") < 8 { tokio::task::yield_now().await } } => {}
    }
    drop(sink);
    // What was not on its way is released first: the next run of a job waits for that.
    let on_their_way = running.calls.lock().unwrap().iter().filter(|call| call.1 == Fault::Held).count();
    released(&running, 10 * on_their_way).await;
    running.follow(calm());
    let (published, told) = heard_of(&running, &table, &names).await;
    assert_eq!(published.len() + told, MANY);
    assert!(told >= 10, "what was on its way is told of, not published: {told}");
    // What is settled is settled: the next replay publishes nothing, and tells of nothing but what is unknown.
    let (again, told_again) = heard_of(&running, &table, &names).await;
    assert_eq!((again.len(), told_again), (published.len(), told));
}

#[tokio::test]
async fn an_empty_subject_is_none() {
    let running = Running::start(calm()).await;
    let table = alerts(&running, &[]);
    let row = rows(&table.schema, vec![texts(&[Some("")]), texts(&[Some("m")]), texts(&[None])]);
    write_epoch(opened(&table).await.unwrap().as_mut(), 1, row).await.unwrap();
    assert_eq!(running.topics.published.lock().unwrap()[0].subject, None);
}

#[tokio::test]
async fn fifo_topics_have_groups_in_order_and_an_id_to_deduplicate_by() {
    let running = Running::start(calm()).await;
    let topic = format!("{ARN}alerts.fifo");
    let table = alerts(&running, &[("topic", &topic), ("sink.fifo.group.column", "kind")]);
    let kinds = ["a", "b", "a", "a", "b", "c"].map(Some);
    let row = |bad: bool| {
        let mut kinds = kinds;
        kinds[5] = (!bad).then_some("c");
        let bodies = ["1", "2", "3", "4", "5", "6"].map(Some);
        rows(&table.schema, vec![texts(&[None; 6]), texts(&bodies), texts(&kinds)])
    };
    running.follow(at_first(2, Fault::Partial));
    let outcome = write_epoch(opened(&table).await.unwrap().as_mut(), 1, row(true)).await.unwrap();
    assert_eq!(reasons(&outcome), ["bad_message_group"]);
    let published = running.topics.published.lock().unwrap().clone();
    let of = |group: &str| -> Vec<String> {
        published.iter().filter(|p| p.group.as_deref() == Some(group)).map(|p| p.message.clone()).collect()
    };
    assert_eq!((of("a"), of("b")), (vec!["1".into(), "3".into(), "4".into()], vec!["2".into(), "5".into()]));
    assert!(published.iter().all(|p| p.deduplication.as_ref() == p.attributes.get("alert_id").map(|(_, id)| id)));
}

/// SNS itself forgets what a FIFO topic has got after five minutes; the ledger does not.
#[tokio::test]
async fn a_fifo_topic_with_a_ledger_has_a_replay_once_however_late() {
    let running = Running::start(calm()).await;
    running.tables.create("published", &[("id", "S")]);
    let topic = format!("{ARN}alerts.fifo");
    let plain = alerts(&running, &[("topic", &topic)]);
    let kept = alerts(&running, &[("topic", &topic), ("sink.ledger.table", "published")]);
    let publish = async |table: &TableSpec, epoch: u64, texts: &[&str]| {
        write_epoch(opened(table).await.unwrap().as_mut(), epoch, messages(table, texts)).await.unwrap();
        bodies(&running).len()
    };
    let pass = |minutes: u64| running.topics.seconds.fetch_add(minutes * 60, Ordering::SeqCst);
    // Without one: SNS leaves the replay out, and forgets.
    assert_eq!(publish(&plain, 1, &["a", "too"]).await, 2);
    pass(4);
    assert_eq!(publish(&plain, 1, &["a", "too"]).await, 2, "four minutes later");
    pass(2);
    assert_eq!(publish(&plain, 1, &["a", "too"]).await, 4, "six minutes later: what the ledger is for");
    // With one: nothing comes again, after minutes or days.
    pass(6);
    assert_eq!(publish(&kept, 2, &["b", "too"]).await, 6);
    for minutes in [1, 6, 60, 3 * 24 * 60] {
        pass(minutes);
        assert_eq!(publish(&kept, 2, &["b", "too"]).await, 6, "{minutes} minutes later");
    }
    assert_eq!(publish(&kept, 3, &["b", "too"]).await, 8, "equal rows of a later epoch are new ones");
    // A kill between publish and mark: SNS leaves the replay out for five minutes; then nobody knows.
    for (minutes, wanted) in [(4, 9), (6, 11)] {
        pass(6);
        let (epoch, marks) = (EpochNumber(10 + minutes), running.count("BatchWriteItem"));
        running.follow(Box::new(|name| if name == "BatchWriteItem" { Fault::CutBefore } else { Fault::None }));
        let mut sink = opened(&kept).await.unwrap();
        sink.write(epoch, messages(&kept, &["c"])).await.unwrap();
        tokio::select! {
            _ = sink.flush(epoch, 0) => unreachable!("it cannot mark"),
            () = async { while running.count("BatchWriteItem") < marks + 3 { tokio::task::yield_now().await } } => {}
        }
        running.follow(calm());
        pass(minutes);
        assert_eq!(publish(&kept, epoch.0, &["c"]).await, wanted, "{minutes} minutes later");
        pass(60);
        assert_eq!(publish(&kept, epoch.0, &["c"]).await, wanted, "it is marked by now");
    }
}

#[tokio::test]
async fn a_cooldown_lets_one_alert_of_a_key_through() {
    let running = Running::start(calm()).await;
    let options = [("sink.cooldown", "5 s"), ("sink.cooldown.key", "kind,message"), ("sink.cooldown.summary", "true")];
    let table = alerts(&running, &options);
    let mut sink = opened(&table).await.unwrap();
    // The epoch's time is its number of seconds.
    for epoch in 1..=8 {
        write_epoch(sink.as_mut(), epoch, messages(&table, &["a", if epoch == 8 { "b" } else { "a" }])).await.unwrap();
    }
    sink.finish(EpochNumber(8)).await.unwrap();
    let published = running.topics.published.lock().unwrap().clone();
    let all: Vec<&str> = published.iter().map(|p| p.message.as_str()).collect();
    assert_eq!(all.iter().filter(|m| **m == "a").count(), 2, "at 1 s and at 6 s: {all:?}");
    assert_eq!(all.iter().filter(|m| **m == "b").count(), 1);
    let summaries: Vec<&str> =
        published.iter().filter_map(|p| p.attributes.get("suppressed")).map(|(_, n)| n.as_str()).collect();
    assert_eq!(summaries, ["9", "4"], "each suppressed alert is told once");
    assert!(published.iter().any(|p| p.subject.as_deref() == Some("9 alerts were suppressed")));
}

#[tokio::test]
async fn a_cooldown_may_go_by_the_alerts_own_time() {
    let running = Running::start(calm()).await;
    let columns = schema(&[("message", DataType::Utf8), ("at", DataType::Utf8)]);
    let options = [("sink.cooldown", "1 min"), ("sink.cooldown.key", "message"), ("sink.cooldown.time", "at")];
    let table = spec(&running.url(), "alerts", &columns, &options).with_option("topic", "alerts");
    let at = ["10:00:00", "10:00:59", "10:01:00", "09:59:30", "09:58:00", "10:02:30"];
    let at: Vec<String> = at.iter().map(|time| format!("2026-02-12T{time}Z")).collect();
    let at: Vec<Option<&str>> = at.iter().map(|time| Some(time.as_str())).collect();
    let row = rows(&columns, vec![texts(&[Some("m"); 6]), texts(&at)]);
    write_epoch(opened(&table).await.unwrap().as_mut(), 1, row).await.unwrap();
    let published = running.topics.published.lock().unwrap().clone();
    let times: Vec<&str> = published.iter().map(|p| &p.attributes["at"].1[11..19]).collect();
    assert_eq!(times, ["10:00:00", "10:01:00", "09:58:00", "10:02:30"], "a late alert of a time of its own counts");
}

#[tokio::test]
async fn what_sns_would_refuse_and_what_the_options_find() {
    let running = Running::start(calm()).await;
    let table = alerts(&running, &[]);
    let (long, large) = ("é".repeat(101), "m".repeat(262_140));
    let subjects = [Some(long.as_str()), Some("a\nb"), None, None];
    let bodies = [Some("m"), Some("m"), Some(""), Some(large.as_str())];
    let row = rows(&table.schema, vec![texts(&subjects), texts(&bodies), texts(&[Some("kind"); 4])]);
    let outcome = write_epoch(opened(&table).await.unwrap().as_mut(), 1, row).await.unwrap();
    assert_eq!(reasons(&outcome), ["subject_too_long", "subject_not_plain", "empty_message", "message_too_large"]);
    for (options, expected) in [
        (&[("topic", "nowhere")][..], "there is no SNS topic 'nowhere'"),
        (&[("topic", "no name")], "no name for an SNS topic"),
        (&[("sink.delivery", "at-most-once")], "needs a ledger"),
        (&[("sink.ledger.table", "missing")], "tidemill provision"),
        (&[("sink.ledger.table", "ranged")], "no range key"),
        (&[("sink.fifo.group", "g")], "FIFO topics"),
        (
            &[("topic", "alerts.fifo"), ("sink.fifo.group", "alle Größen")],
            "'sink.fifo.group' is 'alle Größen': a group has 1 to 128",
        ),
        (&[("sink.cooldown", "1 min")], "needs 'sink.cooldown.key'"),
        (&[("sink.cooldown", "1 min"), ("sink.cooldown.key", "who")], "no column that the INSERT writes"),
    ] {
        running.tables.create("ranged", &[("id", "S"), ("at", "N")]);
        let error = opened(&alerts(&running, options)).await.err().unwrap().to_string();
        assert!(error.contains(expected), "{options:?}: {error}");
    }
}

/// What no message of a table could be made of is found before the first one.
#[tokio::test]
async fn a_table_that_no_message_can_be_made_of_is_refused_at_once() {
    let running = Running::start(calm()).await;
    // The group is the table's name, by default.
    let mut table = alerts(&running, &[("topic", "alerts.fifo")]);
    table.name = "Hinweise für alle".to_owned();
    let error = opened(&table).await.err().unwrap().to_string();
    assert!(error.contains("'sink.fifo.group' = '…'") && error.contains("ASCII"), "{error}");
    table.name = "alerts".to_owned();
    opened(&table.with_option("topic", format!("{ARN}alerts.fifo"))).await.unwrap();
    let nested = DataType::Struct(vec![arrow::datatypes::Field::new("x", DataType::Utf8, true)].into());
    let dir = tempfile::tempdir().unwrap();
    let job = tidemill::connectors::JobContext { job: "job".to_owned(), generation: 1 };
    let local = tidemill::connectors::Connectors::new(Some(dir.path().to_owned()), Arc::new(Hurried::default()), job);
    for (name, fits) in [("message", false), ("subject", false), ("alert_id", false), ("other", true)] {
        let table = spec(&running.url(), "alerts", &schema(&[(name, nested.clone())]), &[("topic", "alerts")]);
        for sink in [opened(&table).await, local.sink(&table, "sns")] {
            let error = sink.err().map(|error| error.to_string());
            let named = error.as_ref().is_some_and(|e| e.contains(&format!("column '{name}'")) && e.contains("hint"));
            assert_eq!((error.is_none(), named), (fits, !fits), "{name}: {error:?}");
        }
    }
}
