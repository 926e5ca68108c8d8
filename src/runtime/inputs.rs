//! What queries get of an epoch: rows of tables, shared by all that read them.
//!
//! After `--drain`, a query whose windows have closed far ahead of its last rows (a day's) takes what comes for them as late, and another
//! one of the same table, with windows of a minute, does not. Lateness is decided by a column of the rows, which is raised to the
//! query's floor for the table then; queries with the same floors share the rows. That ends by itself when the rows' own watermarks have
//! passed it. So it is with a table that was quiet while windows over it and another closed ([`TableStanding`]).
//!
//! [`TableStanding`]: crate::operators::TableStanding

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::compute::min;
use datafusion::arrow::datatypes::Int64Type;

use super::epoch::{Epoch, with_floor};
use super::queries::RunningQuery;
use crate::contracts::{Result, Watermark};
use crate::operators::{EpochInputs, EqualityTest, TableRows, WATERMARK_COLUMN};

/// By table, up to where windows of a query have closed.
pub(super) type Floors = BTreeMap<usize, Watermark>;

/// See the module's description.
pub(super) struct Inputs<'t> {
    all: Arc<EpochInputs>,
    /// Those of each table under which its rows are read.
    tests: &'t [Vec<EqualityTest>],
    /// By the floors that some row is below.
    raised: BTreeMap<Floors, Arc<EpochInputs>>,
    /// The least watermark before a row of each table that some query has a floor for.
    least: Vec<Watermark>,
}

impl<'t> Inputs<'t> {
    /// The inputs of an epoch that `closes` all windows or not, for queries with these floors.
    pub(super) fn new<'q>(
        epoch: &Epoch,
        tests: &'t [Vec<EqualityTest>],
        references: Vec<Option<RecordBatch>>,
        closes: bool,
        queries: impl Iterator<Item = &'q Floors> + Clone,
    ) -> Result<Self> {
        let tables = epoch.rows.iter().zip(tests).map(|(rows, tests)| TableRows::new(rows, tests)).collect();
        let (watermarks, standings) = (epoch.watermarks.clone(), epoch.standings.clone());
        let all = Arc::new(EpochInputs { tables, watermarks, standings, closes, references });
        // Mostly no query has a floor, and none is looked for.
        let has_floor = |table: usize| queries.clone().any(|floors| floors.contains_key(&table));
        let least = |(table, rows): (usize, &Vec<RecordBatch>)| match has_floor(table) {
            true => rows.iter().filter_map(least_watermark).min().map_or(Watermark::MAX, Watermark),
            false => Watermark::MAX,
        };
        let least = epoch.rows.iter().enumerate().map(least).collect();
        let mut inputs = Self { all, tests, raised: BTreeMap::new(), least };
        for floors in queries {
            let floors = inputs.that_raise(floors);
            if floors.is_empty() || inputs.raised.contains_key(&floors) {
                continue;
            }
            let mut tables = inputs.all.tables.clone();
            for (table, floor) in &floors {
                let rows = epoch.rows[*table].iter().map(|batch| with_floor(batch, floor.0));
                tables[*table] = TableRows::new(&rows.collect::<Result<Vec<_>>>()?, &tests[*table]);
            }
            let raised = Arc::new(inputs.with(tables));
            inputs.raised.insert(floors, raised);
        }
        Ok(inputs)
    }

    fn that_raise(&self, floors: &Floors) -> Floors {
        floors.iter().filter(|(table, floor)| self.least[**table] < **floor).map(|(t, f)| (*t, *f)).collect()
    }

    /// Those of a query with these floors.
    pub(super) fn above(&self, floors: &Floors) -> &Arc<EpochInputs> {
        self.raised.get(&self.that_raise(floors)).unwrap_or(&self.all)
    }

    /// Those of a query that is to go on without the epoch's records: time goes on as it does with them.
    pub(super) fn without_rows(&self) -> EpochInputs {
        self.with(self.tests.iter().map(|tests| TableRows::new(&[], tests)).collect())
    }

    /// The epoch with other rows.
    fn with(&self, tables: Vec<TableRows>) -> EpochInputs {
        let EpochInputs { watermarks, standings, closes, references, .. } = &*self.all;
        let (watermarks, standings, references) = (watermarks.clone(), standings.clone(), references.clone());
        EpochInputs { tables, watermarks, standings, closes: *closes, references }
    }
}

/// The least watermark before a row of a batch; `None` where its table has none.
fn least_watermark(batch: &RecordBatch) -> Option<i64> {
    let index = batch.schema_ref().index_of(WATERMARK_COLUMN).ok()?;
    min(batch.column(index).as_primitive::<Int64Type>())
}

/// The tests under which queries read each table, each once.
pub(super) fn tests_of(queries: &[RunningQuery], tables: usize) -> Vec<Vec<EqualityTest>> {
    let mut tests: Vec<Vec<EqualityTest>> = vec![Vec::new(); tables];
    for (table, test) in queries.iter().flat_map(|query| query.graph.tests()) {
        if !tests[table].contains(test) {
            tests[table].push(test.clone());
        }
    }
    tests
}
