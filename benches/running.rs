//! Running aggregates: rows a second on one core; and that an epoch costs what it changes, not what is stored.
//!
//! ```text
//! cargo bench --bench running
//! ```
//!
//! `small epoch` is one of 1,000 rows over a state of 1,000, 30,000 and 1,000,000 keys: the times should be alike.
//! `having` also withdraws old values, the slow case.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{Epoch, Rows, compute, epochs, inputs, measure, planned, runtime};

#[path = "support/mod.rs"]
mod support;

const SHAPE: Rows = Rows { rows: 262_144, rows_per_epoch: 16_384, users: 20_000, pages: 200, per_second: 1_000 };

fn query(key: &str, having: &str) -> String {
    format!(
        "CREATE TABLE results (k STRING, n BIGINT, total BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'blackhole');
         INSERT INTO results SELECT {key}, COUNT(*), SUM(amount) FROM events GROUP BY {key}{having};"
    )
}

fn running(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("running");
    group.throughput(Throughput::Elements(SHAPE.rows as u64));
    for (name, sql) in [
        ("few keys", query("page", "")),
        ("many keys", query("user_id", "")),
        ("having", query("user_id", " HAVING COUNT(*) > 3")),
    ] {
        measure(&mut group, &runtime, name, &sql, SHAPE);
    }
    const CHANGED: usize = 1_000;
    group.throughput(Throughput::Elements(CHANGED as u64));
    for keys in [1_000_u64, 30_000, 1_000_000] {
        let sql = query("user_id", "");
        let mut state = runtime.block_on(planned(&sql));
        let stored = Rows { rows: 2 * keys as usize, rows_per_epoch: 65_536, users: keys, ..SHAPE };
        let small = Rows { rows: CHANGED * 64, rows_per_epoch: CHANGED, users: keys, ..SHAPE };
        let open = |shape| -> Vec<Epoch> {
            let mut epochs = epochs(&state.schema, shape);
            epochs.pop();
            epochs
        };
        let (filling, small) = (open(stored), open(small));
        let compute = compute();
        for epoch in &filling {
            runtime.block_on(state.graph.process(&inputs(epoch), &compute)).expect("the query runs");
        }
        let mut next = small.iter().cycle();
        group.bench_function(BenchmarkId::new("small epoch", keys), |bencher| {
            bencher.iter(|| {
                let epoch = next.next().expect("they go round");
                black_box(runtime.block_on(state.graph.process(&inputs(epoch), &compute)).expect("the query runs"));
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = running
}
criterion_main!(benches);
