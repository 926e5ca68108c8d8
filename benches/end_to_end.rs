//! A whole job in process: JSON lines of files to results in files, events a second on all cores of the machine.
//!
//! ```text
//! cargo bench --bench end_to_end
//! ```
//!
//! Only the run is timed: planning, opening and removing what it wrote are not.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::{Random, options};
use tidemill::contracts::{Clock, SystemClock};
use tidemill::runtime::{Progress, Worker};

#[path = "support/mod.rs"]
mod support;

const EVENTS: u64 = 500_000;

const JOB: &str = "
CREATE TABLE events (
  event_id STRING, event_type STRING, `timestamp` TIMESTAMP_LTZ(3),
  data ROW<user_id STRING, page STRING, amount DECIMAL(12, 2)>,
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}', 'format' = 'json');
";
const COUNTED: &str = "
CREATE TABLE counted (window_start TIMESTAMP(3), page STRING, views BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}', 'format' = 'json');
INSERT INTO counted SELECT window_start, data.page, COUNT(*)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`timestamp`), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, data.page;";
const ONE_KIND: &str = "
CREATE TABLE revenue (window_start TIMESTAMP(3), total DECIMAL(38, 2))
WITH ('connector' = 'filesystem', 'path' = '${OUT}', 'format' = 'json');
INSERT INTO revenue SELECT window_start, SUM(data.amount)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`timestamp`), INTERVAL '1' MINUTE))
WHERE event_type = 'purchase' GROUP BY window_start, window_end;";
const ARCHIVE: &str = "
CREATE TABLE archive (event_id STRING, event_type STRING, `timestamp` TIMESTAMP_LTZ(3), user_id STRING, page STRING, amount DECIMAL(12, 2))
WITH ('connector' = 'filesystem', 'path' = '${OUT}', 'format' = 'parquet');
INSERT INTO archive SELECT event_id, event_type, `timestamp`, data.user_id, data.page, data.amount FROM events;";

/// Two files of events, about 210 bytes each.
fn events(folder: &Path) -> u64 {
    std::fs::create_dir_all(folder).expect("a folder");
    let mut random = Random(7);
    let mut bytes = 0;
    for part in 0..2 {
        let file = std::fs::File::create(folder.join(format!("{part}.jsonl"))).expect("a file");
        let mut file = std::io::BufWriter::new(file);
        for n in 0..EVENTS / 2 {
            let ms = n * 2;
            let (minute, second, milli) = (ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000);
            let (user, page) = (random.below(50_000), random.below(200).min(random.below(200)));
            let kind = if random.below(100) < 5 { "purchase" } else { "page_view" };
            let line = format!(
                "{{\"event_id\":\"{:016x}-{part}-{n:012}\",\"event_type\":\"{kind}\",\"timestamp\":\"2026-01-01T{:02}:{minute:02}:{second:02}.{milli:03}Z\",\"data\":{{\"user_id\":\"user-{user}\",\"page\":\"/page/{page}\",\"amount\":{}.{:02},\"referrer\":\"https://example.com/\"}}}}\n",
                random.below(u64::MAX),
                ms / 3_600_000,
                random.below(900),
                random.below(100)
            );
            bytes += line.len() as u64;
            file.write_all(line.as_bytes()).expect("written");
        }
    }
    bytes
}

fn end_to_end(criterion: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let input = folder.path().join("in");
    let bytes = events(&input);
    println!("{EVENTS} events of {} bytes", bytes / EVENTS);
    let mut group = criterion.benchmark_group("end_to_end");
    group.throughput(Throughput::Elements(EVENTS));
    for (name, query) in [("counts by page", COUNTED), ("one event type", ONE_KIND), ("archive", ARCHIVE)] {
        let file = folder.path().join("job.sql");
        std::fs::write(&file, format!("{JOB}{query}")).expect("written");
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let mut taken = Duration::ZERO;
                for _ in 0..iterations {
                    let place = tempfile::tempdir_in(folder.path()).expect("a folder");
                    let text = |path: &Path| path.to_string_lossy().into_owned();
                    let parameters = BTreeMap::from([
                        ("IN".to_owned(), text(&input)),
                        ("OUT".to_owned(), text(&place.path().join("out"))),
                    ]);
                    let options = options(file.clone(), place.path().join("local"), parameters, threads);
                    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
                    taken += runtime.block_on(async {
                        let prepared = tidemill::job::prepare(&options, Arc::clone(&clock)).await;
                        let prepared = prepared.unwrap_or_else(|errors| panic!("{}", errors[0]));
                        let (_stop, stopped) = tokio::sync::watch::channel(false);
                        let started = clock.elapsed();
                        let summary =
                            Worker::run(prepared.job, stopped, Arc::new(Progress::default())).await.expect("it runs");
                        assert_eq!(summary.records(), EVENTS);
                        clock.elapsed().saturating_sub(started)
                    });
                }
                taken
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = end_to_end
}
criterion_main!(benches);
