//! Windowed aggregates: rows a second on one core, from rows to final results.
//!
//! ```text
//! cargo bench --bench windows
//! ```
//!
//! `many` is the slow case: nearly every row has a key of its own.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::{Rows, measure, runtime};

#[path = "support/mod.rs"]
mod support;

const SHAPE: Rows = Rows { rows: 262_144, rows_per_epoch: 16_384, users: 20_000, pages: 200, per_second: 1_000 };

fn windows(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("windows");
    group.throughput(Throughput::Elements(SHAPE.rows as u64));
    let tumble = "TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE)";
    let hop = "HOP(TABLE events, DESCRIPTOR(ts), INTERVAL '10' SECOND, INTERVAL '1' MINUTE)";
    for (name, window, key, aggregates) in [
        ("tumble/count", tumble, "page", "COUNT(*)"),
        ("tumble/count, sum, max", tumble, "page", "COUNT(*), SUM(amount), MAX(amount)"),
        ("tumble/count distinct", tumble, "page", "COUNT(DISTINCT user_id)"),
        ("tumble/many", tumble, "user_id", "COUNT(*)"),
        ("hop/count", hop, "page", "COUNT(*)"),
        ("hop/many", hop, "user_id", "COUNT(*)"),
    ] {
        let count = aggregates.split("), ").count();
        let columns: String = (0..count).map(|n| format!(", a{n} BIGINT")).collect();
        let sql = format!(
            "CREATE TABLE results (window_start TIMESTAMP(3), k STRING{columns}) WITH ('connector' = 'blackhole');
             INSERT INTO results SELECT window_start, {key}, {aggregates} FROM TABLE({window})
             GROUP BY window_start, window_end, {key};"
        );
        measure(&mut group, &runtime, name, &sql, SHAPE);
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = windows
}
criterion_main!(benches);
