//! A cache before a table that is looked up: bounded by keys and by age, shared by all queries of a job.
//!
//! The oldest answers go first, whether they are still asked for or not: so no answer is older than its age says, and a table
//! that changes is seen to have changed at a known time. Answers are parts of the batches that they came in, which stay as
//! long as one of their rows does.
//!
//! It is not a lock: two tasks that miss the same key at the same moment both ask.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{interleave_record_batch, take_record_batch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::row::{RowConverter, SortField};

use crate::contracts::{Clock, Lookup, LookupCache, Result};

/// See the module's description.
pub struct CachedLookup {
    inner: Arc<dyn Lookup>,
    clock: Arc<dyn Clock>,
    bounds: LookupCache,
    schema: SchemaRef,
    /// Places of the key's columns.
    key: Vec<usize>,
    converter: RowConverter,
    answers: Mutex<Answers>,
}

type Key = Box<[u8]>;
/// A row of an answer, or that there is none.
type Row = Option<(Arc<RecordBatch>, usize)>;

#[derive(Default)]
struct Answers {
    /// When it was asked for, and what came.
    by_key: HashMap<Key, (Duration, Row)>,
    /// In the order of their times.
    order: VecDeque<(Duration, Key)>,
}

impl fmt::Debug for CachedLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedLookup").field("inner", &self.inner).field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl CachedLookup {
    /// A cache before `inner`, whose rows have `schema`; `key` are the places of its key.
    pub fn try_new(
        inner: Arc<dyn Lookup>,
        clock: Arc<dyn Clock>,
        bounds: LookupCache,
        schema: SchemaRef,
        key: Vec<usize>,
    ) -> Result<Self> {
        let types = key.iter().map(|place| SortField::new(schema.field(*place).data_type().clone()));
        let converter = RowConverter::new(types.collect())?;
        Ok(Self { inner, clock, bounds, schema, key, converter, answers: Mutex::default() })
    }

    /// Keys that are kept now.
    pub fn len(&self) -> usize {
        self.lock().by_key.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the keys of these rows, remembers what came, and adds it to `found`.
    async fn ask(&self, keys: &RecordBatch, missing: Vec<(u32, Key)>, found: &mut Vec<Row>) -> Result<()> {
        // The answer may be as old as the question.
        let asked = self.clock.elapsed();
        let rows: UInt32Array = missing.iter().map(|(row, _)| Some(*row)).collect();
        let answer = Arc::new(self.inner.get(&take_record_batch(keys, &rows)?).await?);
        let own: Vec<ArrayRef> = self.key.iter().map(|place| Arc::clone(answer.column(*place))).collect();
        let own = self.converter.convert_columns(&own)?;
        let mut places: HashMap<&[u8], usize> = HashMap::with_capacity(answer.num_rows());
        let bytes: Vec<Key> = (0..answer.num_rows()).map(|row| own.row(row).as_ref().into()).collect();
        places.extend(bytes.iter().enumerate().map(|(row, bytes)| (bytes.as_ref(), row)));
        let mut answers = self.lock();
        for (_, key) in missing {
            let row: Row = places.get(key.as_ref()).map(|row| (Arc::clone(&answer), *row));
            found.push(row.clone());
            if row.is_some() || self.bounds.cache_missing_key {
                answers.order.push_back((asked, key.clone()));
                answers.by_key.insert(key, (asked, row));
            }
        }
        answers.shrink_to(self.bounds.max_rows);
        Ok(())
    }
}

impl Answers {
    /// Drops the oldest until there are no more than `most`.
    fn shrink_to(&mut self, most: usize) {
        while self.by_key.len() > most && self.drop_oldest() {}
    }

    fn expire(&mut self, now: Duration, age: Duration) {
        while self.order.front().is_some_and(|(asked, _)| now.saturating_sub(*asked) >= age) {
            self.drop_oldest();
        }
    }

    /// `false` when there is none.
    fn drop_oldest(&mut self) -> bool {
        let Some((asked, key)) = self.order.pop_front() else { return false };
        // Another task may have asked for it again since.
        if self.by_key.get(&key).is_some_and(|(at, _)| *at == asked) {
            self.by_key.remove(&key);
        }
        true
    }
}

#[async_trait]
impl Lookup for CachedLookup {
    async fn open(&self) -> Result<()> {
        self.inner.open().await
    }

    async fn get(&self, keys: &RecordBatch) -> Result<RecordBatch> {
        let rows = self.converter.convert_columns(keys.columns())?;
        let (mut found, mut missing): (Vec<Row>, Vec<(u32, Key)>) = (Vec::new(), Vec::new());
        {
            let mut answers = self.lock();
            answers.expire(self.clock.elapsed(), self.bounds.expire_after_write);
            for row in 0..keys.num_rows() {
                let key = rows.row(row);
                match answers.by_key.get(key.as_ref()) {
                    Some((_, answer)) => found.push(answer.clone()),
                    None => missing.push((row as u32, key.as_ref().into())),
                }
            }
        }
        if !missing.is_empty() {
            self.ask(keys, missing, &mut found).await?;
        }
        // Answers of one batch stand together.
        let mut batches: Vec<Arc<RecordBatch>> = Vec::new();
        let mut numbers: HashMap<*const RecordBatch, usize> = HashMap::new();
        let mut places = Vec::with_capacity(found.len());
        for (batch, row) in found.into_iter().flatten() {
            let number = *numbers.entry(Arc::as_ptr(&batch)).or_insert_with(|| {
                batches.push(batch);
                batches.len() - 1
            });
            places.push((number, row));
        }
        if places.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.schema)));
        }
        let batches: Vec<&RecordBatch> = batches.iter().map(Arc::as_ref).collect();
        Ok(interleave_record_batch(&batches, &places)?)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{AsArray, Int64Array};
    use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;
    use crate::contracts::ManualClock;

    /// Even numbers have a row: the number, and how often anything was asked before. Notes what it is asked for.
    #[derive(Debug, Default)]
    struct Even(Mutex<Vec<Vec<i64>>>);

    fn schema() -> SchemaRef {
        let field = |name: &str| Field::new(name, DataType::Int64, true);
        Arc::new(Schema::new(vec![field("k"), field("asked")]))
    }

    #[async_trait]
    impl Lookup for Even {
        async fn open(&self) -> Result<()> {
            Ok(())
        }

        async fn get(&self, keys: &RecordBatch) -> Result<RecordBatch> {
            let keys = keys.column(0).as_primitive::<Int64Type>().values().to_vec();
            let mut asked = self.0.lock().unwrap();
            let even: Vec<i64> = keys.iter().copied().filter(|k| k % 2 == 0).collect();
            let times = Int64Array::from(vec![asked.len() as i64; even.len()]);
            asked.push(keys);
            Ok(RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(even)), Arc::new(times)])?)
        }
    }

    struct Scene {
        clock: Arc<ManualClock>,
        even: Arc<Even>,
        cache: CachedLookup,
    }

    fn scene(max_rows: usize, cache_missing_key: bool) -> Scene {
        let (clock, even) = (Arc::new(ManualClock::new(0)), Arc::new(Even::default()));
        let bounds = LookupCache { max_rows, expire_after_write: Duration::from_secs(60), cache_missing_key };
        let inner: Arc<dyn Lookup> = Arc::clone(&even) as _;
        let cache = CachedLookup::try_new(inner, Arc::clone(&clock) as _, bounds, schema(), vec![0]).unwrap();
        Scene { clock, even, cache }
    }

    impl Scene {
        /// Rows of these keys, and which keys were asked for.
        async fn get(&self, keys: &[i64]) -> (Vec<(i64, i64)>, Vec<i64>) {
            let before = self.even.0.lock().unwrap().len();
            let batch = RecordBatch::try_new(
                Arc::new(schema().project(&[0]).unwrap()),
                vec![Arc::new(Int64Array::from(keys.to_vec()))],
            );
            let rows = self.cache.get(&batch.unwrap()).await.unwrap();
            let column = |at: usize| rows.column(at).as_primitive::<Int64Type>().values().to_vec();
            let mut rows: Vec<(i64, i64)> = column(0).into_iter().zip(column(1)).collect();
            rows.sort_unstable();
            (rows, self.even.0.lock().unwrap()[before..].concat())
        }
    }

    #[tokio::test]
    async fn only_what_is_not_known_is_asked_for_until_it_is_too_old() {
        let scene = scene(100, true);
        assert_eq!(scene.get(&[1, 2, 3, 4]).await, (vec![(2, 0), (4, 0)], vec![1, 2, 3, 4]));
        scene.clock.advance(Duration::from_secs(30));
        assert_eq!(scene.get(&[4, 5, 6, 1]).await, (vec![(4, 0), (6, 1)], vec![5, 6]));
        scene.clock.advance(Duration::from_secs(30));
        // The first answers are a minute old now, those of the second question are not.
        assert_eq!(scene.get(&[2, 6, 1]).await, (vec![(2, 2), (6, 1)], vec![2, 1]));
        assert_eq!(scene.cache.len(), 4);
    }

    #[tokio::test]
    async fn the_oldest_go_first_and_more_than_fits_is_answered_all_the_same() {
        let scene = scene(3, true);
        scene.get(&[2, 4]).await;
        scene.get(&[6, 8]).await;
        assert_eq!(scene.cache.len(), 3);
        assert_eq!(scene.get(&[4, 6, 8, 2]).await, (vec![(2, 2), (4, 0), (6, 1), (8, 1)], vec![2]));
        let all: Vec<i64> = (0..20).collect();
        assert_eq!(scene.get(&all).await.0.len(), 10);
        assert_eq!(scene.cache.len(), 3);
    }

    #[tokio::test]
    async fn that_a_key_has_no_row_is_kept_or_not() {
        let scene = scene(100, false);
        assert_eq!(scene.get(&[1, 2]).await.1, [1, 2]);
        assert_eq!(scene.get(&[1, 2]).await, (vec![(2, 0)], vec![1]));
        assert_eq!(scene.get(&[1]).await, (vec![], vec![1]));
    }
}
