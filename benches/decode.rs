//! JSON decoding: events a second on one core, against arrow-json on the same bytes.
//!
//! ```text
//! cargo bench --bench decode
//! ```
//!
//! Times are the thread's CPU time where the kernel tells it (Linux), so that a busy machine disturbs less;
//! elsewhere wall time. Events are those of `peers/generate.py`, made here from a seed; `odd` is the case
//! where the decoder is slow: shuffled keys, white space, escapes, text that is not ASCII.
#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidemill::contracts::RecordRange;
use tidemill::formats::json::{JsonDecoder, JsonOptions, Prefilter};

const RECORDS: usize = 65_536;
/// About what one fetch of a busy shard brings, and what fits the second-level cache.
const RECORDS_PER_CHUNK: usize = 4_096;

/// The CPU time of this thread.
struct CpuTime;

fn thread_cpu_time() -> Duration {
    // The kernel brings the figure up to date when the thread yields.
    std::thread::yield_now();
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    match stat.and_then(|text| text.split(' ').next()?.parse().ok()) {
        Some(nanos) => Duration::from_nanos(nanos),
        None => {
            static START: OnceLock<Instant> = OnceLock::new();
            #[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
            START.get_or_init(Instant::now).elapsed()
        }
    }
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        thread_cpu_time()
    }

    fn end(&self, start: Duration) -> Duration {
        thread_cpu_time().saturating_sub(start)
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// SplitMix64: the same events on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// An event's members, and those of its `data`.
fn event(random: &mut Random, number: usize) -> (Vec<String>, Vec<String>) {
    let kind = match random.below(100) {
        0..80 => "page_view",
        80..92 => "purchase",
        _ => "error",
    };
    let (a, b) = (random.next(), random.next());
    let head = vec![
        format!("\"event_id\":\"{:08x}-{:04x}-{:04x}-{:04x}-{:012x}\"", a as u32, b as u16, a >> 48, 0, number),
        format!("\"event_type\":\"{kind}\""),
        format!("\"timestamp\":\"2026-02-12T10:{:02}:{:02}.{:03}Z\"", number * 60 / RECORDS, number % 60, a % 1_000),
    ];
    let user = random.below(100_000);
    let data = match kind {
        "page_view" => vec![
            format!("\"user_id\":\"user-{user:06}\""),
            format!("\"page\":\"/shop/page-{:04}.html\"", random.below(1_000)),
            format!(
                "\"referrer\":\"{}\"",
                random.pick(&[
                    "https://www.google.com/",
                    "https://news.example.org/",
                    "direct",
                    "https://t.example/",
                    "newsletter"
                ])
            ),
            format!("\"device\":\"{}\"", random.pick(&["mobile", "desktop", "tablet"])),
        ],
        "purchase" => vec![
            format!("\"user_id\":\"user-{user:06}\""),
            format!("\"product_id\":\"product-{:05}\"", random.below(5_000)),
            format!("\"amount\":{}.{:02}", random.below(900), random.below(100)),
            format!("\"currency\":\"{}\"", random.pick(&["USD", "EUR", "GBP"])),
        ],
        _ => vec![
            format!("\"error_code\":\"{}\"", random.pick(&["400", "404", "429", "500", "503"])),
            format!(
                "\"message\":\"internal error in checkout (host-{:02}, request {:08x})\"",
                random.below(50),
                a as u32
            ),
        ],
    };
    (head, data)
}

struct Chunk {
    bytes: Buffer,
    records: Vec<RecordRange>,
}

fn chunks(odd: bool) -> Vec<Chunk> {
    let mut random = Random(459);
    let records: Vec<String> = (0..RECORDS)
        .map(|number| {
            let (mut head, mut data) = event(&mut random, number);
            if odd {
                let (i, j) = (random.below(3) as usize, random.below(data.len() as u64) as usize);
                head.swap(0, i);
                data.swap(0, j);
                data.push("\"note\":\"caf\\u00e9 \\\"été\\\"\"".to_string());
                return format!("{{ {}, \"data\": {{ {} }} }}", head.join(", "), data.join(", ").replace("-", "é"));
            }
            format!("{{{},\"data\":{{{}}}}}", head.join(","), data.join(","))
        })
        .collect();
    let chunk = |records: &[String]| {
        let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
        for record in records {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(record.as_bytes());
            ranges.push(RecordRange { start, end: bytes.len() as u32 });
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(&[0; 64]);
        Chunk { bytes: Buffer::from_vec(bytes), records: ranges }
    };
    records.chunks(RECORDS_PER_CHUNK).map(chunk).collect()
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8View, true)
}

fn schema(head: &[&str], data: Vec<Field>) -> SchemaRef {
    let time = Field::new("timestamp", DataType::Timestamp(TimeUnit::Millisecond, Some("+00:00".into())), true);
    let mut fields: Vec<Field> = head.iter().map(|name| text(name)).collect();
    fields.push(time);
    fields.push(Field::new("data", DataType::Struct(Fields::from(data)), true));
    Arc::new(Schema::new(fields))
}

fn full() -> SchemaRef {
    let mut data: Vec<Field> =
        ["user_id", "page", "referrer", "device", "product_id", "currency", "error_code", "message"].map(text).into();
    data.push(Field::new("amount", DataType::Decimal128(12, 2), true));
    schema(&["event_id", "event_type"], data)
}

fn four() -> SchemaRef {
    schema(&["event_type"], vec![text("user_id"), text("page")])
}

fn decode(criterion: &mut Criterion<CpuTime>) {
    let events = chunks(false);
    let odd = chunks(true);
    let bytes: usize = events.iter().flat_map(|chunk| &chunk.records).map(|r| (r.end - r.start) as usize).sum();
    println!("{RECORDS} events of {} bytes", bytes / RECORDS);
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(RECORDS as u64));

    let portable = || JsonOptions { portable: true, ..JsonOptions::default() };
    let purchase = |time: bool| JsonOptions {
        prefilter: Some(Prefilter {
            literal: b"\"purchase\"".to_vec(),
            time_path: time.then(|| vec!["timestamp".to_string()]),
        }),
        ..JsonOptions::default()
    };
    let cases = [
        ("full", full(), JsonOptions::default(), &events),
        ("four", four(), JsonOptions::default(), &events),
        ("none", Arc::new(Schema::empty()), JsonOptions::default(), &events),
        ("full/portable", full(), portable(), &events),
        ("four/portable", four(), portable(), &events),
        ("four/purchase", four(), purchase(false), &events),
        ("four/purchase with times", four(), purchase(true), &events),
        ("full/odd", full(), JsonOptions::default(), &odd),
    ];
    for (name, schema, options, chunks) in cases {
        let mut decoder = JsonDecoder::try_new(schema, options).expect("a schema of known types");
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for chunk in chunks {
                    let decoded = decoder.decode(&chunk.bytes, &chunk.records);
                    assert!(decoded.rejects.is_empty());
                    black_box(decoded);
                }
            });
        });
    }
    for (name, schema) in [("full/arrow-json", full()), ("four/arrow-json", four())] {
        let builder = arrow::json::ReaderBuilder::new(schema).with_batch_size(RECORDS_PER_CHUNK);
        let mut decoder = builder.build_decoder().expect("a schema of known types");
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for chunk in &events {
                    let end = chunk.records.last().map_or(0, |record| record.end as usize);
                    decoder.decode(&chunk.bytes[..end]).expect("records are JSON");
                    black_box(decoder.flush().expect("records suit the schema"));
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime).sample_size(20);
    targets = decode
}
criterion_main!(benches);
