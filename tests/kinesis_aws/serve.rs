//! The stub as a server for programs that are no tests: `benches/kcl/compare.py` reads a stream of it with Tidemill and with
//! the Kinesis Client Library.

use std::io::{BufRead, Read, Write};

use crate::aws_stub::AwsStub;

/// Partition keys, so that shards get about as much each.
const KEYS: usize = 1_000;

/// Serves the stream `events` of `TIDEMILL_STUB_SHARDS` shards (8), with the lines of the file `TIDEMILL_STUB_LINES`, until
/// standard input ends. Its first line on standard error says where.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a server for benches/kcl/compare.py"]
async fn a_stub_for_other_programs() {
    let stub = AwsStub::start().await;
    let shards = std::env::var("TIDEMILL_STUB_SHARDS").map_or(8, |n| n.parse().unwrap());
    stub.create("events", shards);
    if let Ok(path) = std::env::var("TIDEMILL_STUB_LINES") {
        let lines = std::io::BufReader::new(std::fs::File::open(path).unwrap()).lines();
        let now = stub.now_ms();
        stub.with("events", |stream| {
            for (number, line) in lines.enumerate() {
                stream.put(&format!("key-{}", number % KEYS), None, line.unwrap().as_bytes(), now);
            }
        });
    }
    writeln!(std::io::stderr(), "stub {}", stub.endpoint()).unwrap();
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await.unwrap().unwrap();
}
