//! The N most frequent of each window: rows a second on one core.
//!
//! ```text
//! cargo bench --bench top_n
//! ```
//!
//! `bare` ranks the rows themselves, so that all rows of a window are held until it closes: the slow case.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::{Rows, measure, runtime};

#[path = "support/mod.rs"]
mod support;

const SHAPE: Rows = Rows { rows: 262_144, rows_per_epoch: 16_384, users: 20_000, pages: 2_000, per_second: 1_000 };

const COUNTED: &str = "
CREATE TABLE results (window_start TIMESTAMP(3), place BIGINT, page STRING, views BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO results SELECT window_start, place, page, views FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY views DESC, page) AS place FROM (
    SELECT window_start, window_end, page, COUNT(*) AS views
    FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, page))
WHERE place <= 10;";

const BARE: &str = "
CREATE TABLE results (window_start TIMESTAMP(3), place BIGINT, user_id STRING, amount BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO results SELECT window_start, place, user_id, amount FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY amount DESC, user_id) AS place
  FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE)))
WHERE place <= 10;";

fn top_n(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("top_n");
    group.throughput(Throughput::Elements(SHAPE.rows as u64));
    for (name, sql) in [("counted", COUNTED), ("bare", BARE)] {
        measure(&mut group, &runtime, name, sql, SHAPE);
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = top_n
}
criterion_main!(benches);
