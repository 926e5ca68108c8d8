//! Rows of an archive that make a batch fail: found by halving, as those of an epoch (`operators::bisect`), and left out.
//! As there, a trial runs only what rows come through by themselves (`operators::by_themselves`).
//!
//! What is halved are stretches of rows of the files, which each trial reads again: nothing of the archive need be in memory.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use object_store::local::LocalFileSystem;
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::contracts::{Error, ErrorKind, RejectReason, RejectedRecord, Result, off_the_runtime};
use crate::operators::{
    Compute, QueryGraph, TOO_MANY_FAIL, by_themselves, reference_sides, run_partitions, run_through,
};
use crate::runtime::{rejected_row, row_json};

/// What a batch gives of the rows that do not make it fail.
pub(super) struct Sound {
    pub(super) rows: Vec<RecordBatch>,
    /// The others, for the error output.
    pub(super) failed: Vec<RejectedRecord>,
}

/// Rows of a file, as one of a plan's scans of the archive reads it.
#[derive(Debug, Clone)]
struct Stretch {
    /// Which scan, in the order of the plan.
    scan: usize,
    file: PartitionedFile,
    path: PathBuf,
    rows_of_file: usize,
    from: usize,
    len: usize,
}

/// Runs the batch of `query`, which has failed by `error`, without the rows that make it fail.
///
/// # Errors
/// `error`, where no single row is to blame; `data` when too many are.
pub(super) async fn run_sound(query: &str, graph: &QueryGraph, compute: &Compute, error: Error) -> Result<Sound> {
    let plan = &graph.root.plan;
    if error.kind() != ErrorKind::Data || !graph.poison.bisects {
        return Err(error);
    }
    // What fails there fails with each row, and is none's fault.
    for side in reference_sides(plan) {
        if run_through(&side, compute).await.is_err() {
            return Err(error);
        }
    }
    let (mut good, mut failed) = (Vec::new(), Vec::new());
    let mut open = halves(stretches(plan).await?);
    while let Some(part) = open.pop() {
        let tried = tried(plan, &part, compute).await;
        // What a trial reports does not count.
        graph.gates.take();
        match tried {
            Ok(()) => good.extend(part),
            Err(error) if error.kind() != ErrorKind::Data => return Err(error),
            Err(error) if rows(&part) == 1 => {
                failed.push(refused(query, plan, &part, compute, &error).await?);
                if failed.len() > graph.poison.most_rows {
                    let context = format!("more than {} rows make it fail", graph.poison.most_rows);
                    return Err(error.context(context).hint(TOO_MANY_FAIL));
                }
            }
            Err(_) => open.extend(halves(part)),
        }
    }
    if failed.is_empty() {
        return Err(error);
    }
    let rows = run_partitions(&over(plan, &good)?, compute).await?;
    Ok(Sound { rows, failed })
}

/// Everything that the plan reads of the archive.
async fn stretches(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<Stretch>> {
    let mut files = Vec::new();
    let (mut scans, mut seen) = (0, BTreeSet::new());
    plan.apply(|node| {
        if let Some(scan) = scan_of(node) {
            for file in scan.file_groups.iter().flat_map(FileGroup::iter) {
                // Large ones are read in several parts.
                if seen.insert((scans, file.object_meta.location.clone())) {
                    files.push((scans, PartitionedFile { range: None, ..file.clone() }));
                }
            }
            scans += 1;
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(changed)?;
    let counted = move || {
        let store = LocalFileSystem::new();
        let stretch = |(scan, file): (usize, PartitionedFile)| {
            let location = &file.object_meta.location;
            let unreadable = |why: String| Error::unavailable(format!("cannot read '/{location}': {why}"));
            let path = store.path_to_filesystem(location).map_err(|e| unreadable(e.to_string()))?;
            let opened = std::fs::File::open(&path).map_err(|e| unreadable(e.to_string()))?;
            let reader = SerializedFileReader::new(opened).map_err(|e| unreadable(e.to_string()))?;
            let rows = usize::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or(0);
            Ok(Stretch { scan, file, path, rows_of_file: rows, from: 0, len: rows })
        };
        files.into_iter().map(stretch).collect::<Result<Vec<_>>>()
    };
    off_the_runtime(counted).await?
}

/// The files that a leaf reads.
fn scan_of(node: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    node.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<FileScanConfig>()
}

fn changed(error: datafusion::common::DataFusionError) -> Error {
    Error::internal("a plan could not be changed").caused_by(error)
}

/// The plan over these rows alone.
fn over(plan: &Arc<dyn ExecutionPlan>, part: &[Stretch]) -> Result<Arc<dyn ExecutionPlan>> {
    let mut scans = 0;
    let over = Arc::clone(plan).transform_up(|node| {
        let Some(scan) = scan_of(&node) else { return Ok(Transformed::no(node)) };
        // As many as before: so many partitions have the nodes above.
        let mut groups = vec![Vec::new(); scan.file_groups.len().max(1)];
        let count = groups.len();
        let own = part.iter().filter(|stretch| stretch.scan == scans && stretch.len > 0);
        own.enumerate().for_each(|(number, stretch)| groups[number % count].push(stretch.selected()));
        scans += 1;
        let groups = groups.into_iter().map(FileGroup::new).collect();
        let scan = FileScanConfigBuilder::from(scan.clone()).with_file_groups(groups).build();
        Ok(Transformed::yes(DataSourceExec::from_data_source(scan) as Arc<dyn ExecutionPlan>))
    });
    over.and_then(|over| reset_plan_states(over.data)).map_err(changed)
}

impl Stretch {
    fn selected(&self) -> PartitionedFile {
        let selectors = [
            RowSelector::skip(self.from),
            RowSelector::select(self.len),
            RowSelector::skip(self.rows_of_file - self.from - self.len),
        ];
        let selection = RowSelection::from(selectors.into_iter().filter(|s| s.row_count > 0).collect::<Vec<_>>());
        self.file.clone().with_extension(ParquetRowSelection::new(selection))
    }
}

/// Runs these rows through what each comes through by itself.
async fn tried(plan: &Arc<dyn ExecutionPlan>, part: &[Stretch], compute: &Compute) -> Result<()> {
    for stage in by_themselves(&over(plan, part)?) {
        run_through(&stage, compute).await?;
    }
    Ok(())
}

fn rows(part: &[Stretch]) -> usize {
    part.iter().map(|stretch| stretch.len).sum()
}

/// Rows cut in two; the first half is the last of the list. A single one stays whole, and of none there are no halves.
fn halves(part: Vec<Stretch>) -> Vec<Vec<Stretch>> {
    let all = rows(&part);
    if all <= 1 {
        return if all == 0 { Vec::new() } else { vec![part] };
    }
    let (mut first, mut second, mut left) = (Vec::new(), Vec::new(), all / 2);
    for stretch in part {
        let here = stretch.len.min(left);
        left -= here;
        if here < stretch.len {
            second.push(Stretch { from: stretch.from + here, len: stretch.len - here, ..stretch.clone() });
        }
        if here > 0 {
            first.push(Stretch { len: here, ..stretch });
        }
    }
    vec![second, first]
}

/// A single row for the error output, with the columns that the query reads.
async fn refused(
    query: &str,
    plan: &Arc<dyn ExecutionPlan>,
    part: &[Stretch],
    compute: &Compute,
    error: &Error,
) -> Result<RejectedRecord> {
    let mut scans = Vec::new();
    over(plan, part)?
        .apply(|node| {
            let reads = scan_of(node).is_some_and(|scan| scan.file_groups.iter().any(|group| !group.is_empty()));
            scans.extend(reads.then(|| Arc::clone(node)));
            Ok(TreeNodeRecursion::Continue)
        })
        .map_err(changed)?;
    let mut record = Vec::new();
    for scan in &scans {
        record = run_partitions(scan, compute).await?.first().map(|row| row_json(row, 0)).unwrap_or_default();
    }
    let refused = rejected_row(query, RejectReason::QueryFailed, None, error.message().to_owned(), record);
    let Some(Stretch { path, from, .. }) = part.iter().find(|stretch| stretch.len == 1) else { return Ok(refused) };
    Ok(RejectedRecord { split: path.display().to_string(), sequence_number: from.to_string(), ..refused })
}
