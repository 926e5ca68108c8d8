//! Window functions over rows that do not fit give what DataFusion gives of rows that do.

use datafusion::arrow::array::{AsArray, Int64Array, StringViewArray};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::super::compute::{Compute, run_partitions};
use super::super::large_plans::adapted;
use super::*;
use crate::contracts::ErrorKind;
use crate::state::SpillFolder;

/// Partitions of very different sizes, one of them without a key.
fn rows() -> Vec<RecordBatch> {
    let sizes = [(None, 700), (Some("a"), 1), (Some("b"), 30), (Some("c"), 5_000), (Some("d"), 2), (Some("e"), 900)];
    let keys = sizes.iter().flat_map(|(key, size)| std::iter::repeat_n(*key, *size));
    let all: Vec<(Option<&str>, i64)> = keys.zip(0..).map(|(key, n)| (key, n * 7_919 % 6_633)).collect();
    // In an order that is none.
    let mut all: Vec<_> = all.into_iter().enumerate().collect();
    all.sort_by_key(|(n, _)| n * 2_654_435_761 % 6_637);
    let batch = |rows: &[(usize, (Option<&str>, i64))]| {
        let keys: StringViewArray = rows.iter().map(|(_, (key, _))| *key).collect();
        let numbers: Int64Array = rows.iter().map(|(_, (_, n))| (n % 11 != 0).then_some(*n)).collect();
        let columns: [(&str, ArrayRef); 2] = [("k", Arc::new(keys)), ("n", Arc::new(numbers))];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, c)| (name, c, true))).expect("a batch")
    };
    all.chunks(512).map(batch).collect()
}

async fn plan(functions: &str, condition: &str) -> Arc<dyn ExecutionPlan> {
    let config = SessionConfig::new().with_target_partitions(1).with_batch_size(512);
    let context = SessionContext::new_with_config(config);
    let rows = rows();
    let table = MemTable::try_new(rows[0].schema(), vec![rows]).expect("a table");
    context.register_table("t", Arc::new(table)).expect("registered");
    let query = context.sql(&format!("SELECT k, n, {functions} FROM t WHERE {condition}")).await.expect("it plans");
    query.create_physical_plan().await.expect("it plans")
}

fn limited(output_bytes: usize) -> (tempfile::TempDir, Compute) {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = SpillFolder::create(parent.path(), 32 << 20).expect("created");
    let limit = StateLimit::new(folder, 1 << 30, output_bytes, 1 << 30);
    let config = SessionConfig::new().with_batch_size(64);
    let context = Arc::new(TaskContext::default().with_session_config(config));
    (parent, Compute { limit: Some(limit), context, ..Compute::new(1) })
}

/// Rows as text. Which of equal ones is first is left open.
fn lines(rows: &[RecordBatch]) -> Vec<String> {
    let text = datafusion::arrow::util::pretty::pretty_format_batches(rows).expect("a table").to_string();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn chunks_and_large_partitions_give_what_the_whole_gives() {
    let of_partition = "SUM(n) OVER (PARTITION BY k) AS s, COUNT(*) OVER (PARTITION BY k) AS c,
        MIN(n) OVER (PARTITION BY k) AS least, COUNT(DISTINCT n % 7) OVER (PARTITION BY k) AS d";
    let others = "NTILE(4) OVER (PARTITION BY k ORDER BY n) AS q, SUM(n) OVER (PARTITION BY k) AS s,
        PERCENT_RANK() OVER (PARTITION BY k ORDER BY n) AS p,
        LAST_VALUE(n) OVER (PARTITION BY k ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS l";
    let everything = "SUM(n) OVER () AS s, COUNT(*) OVER () AS c";
    let largest = 1 << 20;
    for (functions, condition, sizes) in [
        (of_partition, "true", vec![1, 20_000, 400_000, 8 * largest]),
        // Here no partition is larger than a chunk of 30,000 bytes.
        (others, "k <> 'c' OR k IS NULL", vec![240_000, 8 * largest]),
        (everything, "true", vec![1, 20_000, 8 * largest]),
    ] {
        let plan = plan(functions, condition).await;
        let expected = lines(&run_partitions(&plan, &Compute::new(1)).await.expect("it runs"));
        for size in sizes {
            let (_parent, compute) = limited(size);
            let large = adapted(&plan, compute.limit.as_ref().expect("a limit")).expect("adapted");
            let shown = datafusion::physical_plan::displayable(large.as_ref()).indent(false).to_string();
            assert!(shown.contains("LargeWindowAggExec"), "{shown}");
            for _ in 0..2 {
                let found = run_partitions(&large, &compute).await.expect("it runs");
                assert!(found.iter().all(|batch| batch.num_rows() <= BATCH_ROWS));
                assert!(lines(&found) == expected, "{functions} in {size}");
            }
            let (written, left) = compute.limit.expect("a limit").folder.bytes();
            assert_eq!((written > 0, left), (size < 8 * largest && condition == "true", 0), "{functions} in {size}");
        }
    }
}

#[tokio::test]
async fn what_needs_all_rows_of_a_large_partition_is_told() {
    for (function, name) in [
        ("NTILE(4) OVER (PARTITION BY k ORDER BY n) AS q", "NTILE"),
        ("SUM(n) FILTER (WHERE n > 5) OVER (PARTITION BY k) AS q", "SUM"),
    ] {
        let plan = plan(function, "true").await;
        let (_parent, compute) = limited(20_000);
        let large = adapted(&plan, compute.limit.as_ref().expect("a limit")).expect("adapted");
        let error = run_partitions(&large, &compute).await.expect_err("too much");
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{text}");
        assert!(error.is_of_this_machine(), "{text}");
        assert!(text.contains(&format!("{name} OVER has a partition of more than 0 MiB")), "{text}");
        assert!(text.contains("--memory"), "{text}");
    }
}

/// Rows of two widths, in order: a large partition, then many small ones that are together more than a chunk.
#[tokio::test]
async fn partitions_come_in_their_order_however_wide_their_rows_are() {
    let batch = |rows: &[(String, i64, String)]| {
        let columns: [(&str, ArrayRef); 3] = [
            ("k", Arc::new(rows.iter().map(|row| Some(row.0.as_str())).collect::<StringViewArray>())),
            ("n", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)))),
            ("t", Arc::new(rows.iter().map(|row| Some(row.2.as_str())).collect::<StringViewArray>())),
        ];
        RecordBatch::try_from_iter(columns).expect("a batch")
    };
    let narrow: Vec<_> = (0..8_192).map(|n| ("a".to_owned(), n, String::new())).collect();
    let wide: Vec<_> = (0..200).map(|n| (format!("b{n:03}"), n, "x".repeat(50_000))).collect();
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let rows = vec![batch(&narrow), batch(&wide)];
    let table = MemTable::try_new(rows[0].schema(), vec![rows]).expect("a table");
    context.register_table("t", Arc::new(table)).expect("registered");
    let query = "SELECT k, n, SUM(n) OVER (PARTITION BY k) AS s, t FROM t";
    let plan = context.sql(query).await.expect("it plans").create_physical_plan().await.expect("it plans");
    for size in [400_000, 1 << 30] {
        let (_parent, compute) = limited(size);
        let large = adapted(&plan, compute.limit.as_ref().expect("a limit")).expect("adapted");
        let found = run_partitions(&large, &compute).await.expect("it runs");
        let mut keys = Vec::new();
        for batch in &found {
            keys.extend(batch.column(0).as_string_view().iter().flatten().map(str::to_owned));
        }
        assert!(keys.len() == 8_392 && keys.is_sorted(), "within {size}: rows of a partition do not come together");
        let sums: i64 = found.iter().flat_map(|b| b.column(2).as_primitive::<Int64Type>().values().to_vec()).sum();
        assert_eq!(sums, 8_192 * (8_192 * 8_191 / 2) + 200 * 199 / 2, "within {size}");
    }
}

/// What others have in memory does not put a partition on disk that is needed as a whole, and could not be taken from there.
#[tokio::test]
async fn rows_of_functions_that_need_whole_partitions_stay_in_memory_beside_others() {
    for (function, stays) in
        [("NTILE(4) OVER (PARTITION BY k ORDER BY n) AS q", true), ("SUM(n) OVER (PARTITION BY k) AS q", false)]
    {
        let plan = plan(function, "true").await;
        let (_parent, compute) = limited(1 << 20);
        let limit = compute.limit.expect("a limit");
        let mut others = limit.given.part();
        others.set(1 << 20);
        let mut given = Output::within(Some(limit.clone()), Some(&plan));
        given.extend(rows()).expect("taken");
        let given = given.finish().expect("taken");
        assert_eq!(given.iter().all(|rows| !rows.is_spilled()), stays, "{function}");
        assert_eq!(given.iter().map(StoredRows::len).sum::<usize>(), 6_633);
        // More than all may have goes to disk whoever reads it.
        let mut given = Output::within(Some(StateLimit { output_bytes: 50_000, ..limit }), Some(&plan));
        given.extend(rows()).expect("taken");
        assert!(given.finish().expect("taken").iter().any(StoredRows::is_spilled), "{function}");
    }
}
