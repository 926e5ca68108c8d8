//! At most once: claims of alerts that are not out do not outlast the flush that made them, however it ends.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::DataType;
use tidemill::contracts::{Changes, Clock, EpochNumber, Sink, TableSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::forward::WholeRequest;
use crate::stub::{Fault, Running, calm};
use crate::support::*;

async fn start() -> Running {
    let running = Running::start(calm()).await;
    running.tables.create("published", &[("id", "S")]);
    running
}

fn alerts(running: &Running, inflight: &str) -> TableSpec {
    let options = [
        ("topic", "alerts"),
        ("sink.ledger.table", "published"),
        ("sink.delivery", "at-most-once"),
        ("sink.requests.max-inflight", inflight),
    ];
    spec(&running.url(), "alerts", &schema(&[("message", DataType::Utf8)]), &options)
}

fn messages(table: &TableSpec, count: usize) -> Changes {
    let bodies: Vec<String> = (0..count).map(|n| format!("m{n}")).collect();
    rows(&table.schema, vec![texts(&bodies.iter().map(|body| Some(body.as_str())).collect::<Vec<_>>())])
}

async fn opened(table: &TableSpec) -> Box<dyn Sink> {
    let mut sink = connectors_of("job", Arc::new(Hurried::default())).sink(table, "sns").unwrap();
    sink.open().await.unwrap();
    sink
}

/// Begins to flush `count` messages, and drops that when `until` holds: a stop that does not wait any longer, or another sink's failure.
async fn flush_until(table: &TableSpec, count: usize, until: impl Fn() -> bool) {
    let mut sink = opened(table).await;
    sink.write(EpochNumber(1), messages(table, count)).await.unwrap();
    tokio::select! {
        _ = sink.flush(EpochNumber(1), 0) => unreachable!("it waits"),
        () = async { while !until() { tokio::task::yield_now().await } } => {}
    }
}

/// The next run: how many messages are out then, and how many it tells of.
async fn next_run(running: &Running, table: &TableSpec, count: usize) -> (usize, usize) {
    running.follow(calm());
    let outcome = write_epoch(opened(table).await.as_mut(), 1, messages(table, count)).await.unwrap();
    assert!(reasons(&outcome).iter().all(|reason| *reason == "delivery_unknown"), "{:?}", reasons(&outcome));
    let told: Vec<_> = outcome.refused.iter().filter_map(|row| row.record.as_ref()).collect();
    assert!(
        told.iter().all(|record| String::from_utf8_lossy(record).contains(r#""message":"m"#)),
        "the alerts themselves are told"
    );
    assert_eq!(told.len(), outcome.refused.len());
    (running.topics.published.lock().unwrap().len(), outcome.refused.len())
}

#[tokio::test]
async fn a_flush_that_is_dropped_releases_what_sns_has_not_taken() {
    let running = start().await;
    let table = alerts(&running, "1");
    running.follow(Box::new(|operation| if operation == "PublishBatch" { Fault::Throttle } else { Fault::None }));
    flush_until(&table, 100, || running.count("PutItem") >= 60 && claimed(&running) >= 60).await;
    // One batch was on its way.
    released(&running, 10).await;
    let (published, told) = next_run(&running, &table, 100).await;
    assert!(told <= 10, "{told} are told of");
    assert_eq!(published + told, 100);
}

#[tokio::test]
async fn claims_whose_answers_nobody_heard_are_released_too() {
    let running = start().await;
    let table = alerts(&running, "8");
    running.gate.send_replace(false);
    let mut claims = 0;
    running.follow(Box::new(move |operation| {
        claims += usize::from(operation == "PutItem");
        if operation == "PutItem" && claims == 5 { Fault::Held } else { Fault::None }
    }));
    flush_until(&table, 10, || claimed(&running) == 9).await;
    released(&running, 0).await;
    assert_eq!(next_run(&running, &table, 10).await, (10, 0));
}

#[tokio::test]
async fn one_claim_that_cannot_be_released_keeps_no_other_from_it() {
    let running = start().await;
    let table = alerts(&running, "8");
    let mut releases = 0;
    running.follow(Box::new(move |operation| {
        releases += usize::from(operation == "DeleteItem");
        match (operation, releases) {
            ("PublishBatch", _) | ("DeleteItem", 2) => Fault::Denied,
            ("DeleteItem", 1) => Fault::Throttle,
            _ => Fault::None,
        }
    }));
    let error = write_epoch(opened(&table).await.as_mut(), 1, messages(&table, 10)).await.expect_err("it is denied");
    assert!(error.to_string().contains("sns:PublishBatch"), "{error}");
    assert_eq!(claimed(&running), 1);
    assert_eq!(next_run(&running, &table, 10).await, (9, 1));
}

/// Hands requests on to the stub, each over a connection of its own; nobody listens any more when one of this operation has come.
async fn hand_on(listener: TcpListener, stub: String, until: Option<&str>) {
    let mut listener = Some(listener);
    while let Some(open) = &listener {
        let (mut client, _) = open.accept().await.unwrap();
        let Some(request) = WholeRequest::read(&mut client).await else { continue };
        if until.is_some() && request.headers.get("x-amz-target").and_then(|target| target.split('.').nth(1)) == until {
            listener = None;
        }
        let mut server = TcpStream::connect(&stub).await.unwrap();
        server.write_all(&request.bytes).await.unwrap();
        server.shutdown().await.unwrap();
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).await.unwrap();
        let first_line = answer.iter().position(|b| *b == b'\n').unwrap() + 1;
        let (first_line, rest) = answer.split_at(first_line);
        client.write_all(&[first_line, b"connection: close\r\n", rest].concat()).await.unwrap();
    }
}

/// What was claimed and could not be sent, for there was no connection, is known not to be out: SNS is waited for, as by any other sink.
#[tokio::test]
async fn alerts_wait_for_a_service_that_cannot_be_reached() {
    let running = start().await;
    let stub = running.url().trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let table = alerts(&running, "1").with_option("aws.endpoint", format!("http://{address}"));
    let clock = Arc::new(Hurried::default());
    let mut sink = connectors_of("job", clock.clone()).sink(&table, "sns").unwrap();
    let handed_on = tokio::spawn(hand_on(listener, stub.clone(), Some("PutItem")));
    sink.open().await.unwrap();
    sink.write(EpochNumber(1), messages(&table, 1)).await.unwrap();
    let comes_back = async {
        handed_on.await.unwrap();
        let away = clock.elapsed();
        while clock.elapsed() < away + Duration::from_secs(10) {
            tokio::task::yield_now().await;
        }
        assert_eq!((claimed(&running), running.count("PublishBatch")), (1, 0), "it waits");
        hand_on(TcpListener::bind(address).await.unwrap(), stub, None).await;
    };
    let outcome = tokio::select! {
        outcome = sink.flush(EpochNumber(1), 0) => outcome.unwrap(),
        () = comes_back => unreachable!("it hands on for ever"),
    };
    assert_eq!(reasons(&outcome), [""; 0]);
    assert_eq!((claimed(&running), running.count("PublishBatch")), (0, 1));
}
