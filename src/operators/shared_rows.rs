//! Rows that several queries read, and what they have in common.
//!
//! Ten queries over one stream mostly begin alike: nine of them ask `event_type` for one of three texts, and take the
//! same few columns of the rows that have it. So a batch is not filtered by each query for itself. It is shared under a
//! *test* (a column equals a text, [`EqualityTest`]), and each column is filtered the first time that a query reads it,
//! once for all. The planner takes the condition out of the query's WHERE, so a slot with a test must get tested rows.
//!
//! What it is not: a cache between epochs. Batches and their filtered columns go when the epoch does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringViewArray};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::kernels::cmp::eq;
use datafusion::arrow::compute::{FilterBuilder, FilterPredicate};
use datafusion::arrow::datatypes::{DataType, Schema};

use super::stored_rows::StoredRows;
use crate::contracts::Result;

/// A column of a batch, or a field below it: indexes from the batch down.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ColumnPath(pub Vec<usize>);

impl ColumnPath {
    /// A column by itself.
    pub fn column(index: usize) -> Self {
        Self(vec![index])
    }

    /// The path that `names` lead, if each is a column or a field of a struct.
    pub fn find(schema: &Schema, names: &[String]) -> Option<Self> {
        let (first, rest) = names.split_first()?;
        let mut path = vec![schema.index_of(first).ok()?];
        let mut data_type = schema.field(path[0]).data_type();
        for name in rest {
            let DataType::Struct(fields) = data_type else { return None };
            let (index, field) = fields.find(name)?;
            path.push(index);
            data_type = field.data_type();
        }
        Some(Self(path))
    }

    /// The type of what the path leads to.
    pub fn data_type<'s>(&self, schema: &'s Schema) -> Option<&'s DataType> {
        let (first, rest) = self.0.split_first()?;
        let mut data_type = schema.fields().get(*first)?.data_type();
        for index in rest {
            let DataType::Struct(fields) = data_type else { return None };
            data_type = fields.get(*index)?.data_type();
        }
        Some(data_type)
    }

    /// The column, as DataFusion's `get_field` gives it: a field keeps the nulls that it has itself.
    fn of(&self, batch: &RecordBatch) -> ArrayRef {
        let mut column = Arc::clone(batch.column(self.0[0]));
        for index in &self.0[1..] {
            column = Arc::clone(column.as_struct().column(*index));
        }
        column
    }
}

/// `column = 'text'` on a STRING: what a WHERE demands of every row of a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EqualityTest {
    column: ColumnPath,
    text: Arc<str>,
}

impl EqualityTest {
    /// A test of a column of `schema`; `None` where it is not of the type in which texts are decoded.
    pub fn try_new(schema: &Schema, column: ColumnPath, text: &str) -> Option<Self> {
        (column.data_type(schema)? == &DataType::Utf8View).then(|| Self { column, text: text.into() })
    }

    /// Which rows have the text.
    fn rows(&self, batch: &RecordBatch) -> BooleanArray {
        let column = self.column.of(batch);
        let column = column.as_string_view();
        let wanted = StringViewArray::from(vec![&*self.text]);
        if self.text.len() > SHORT {
            let found = eq(column, &StringViewArray::new_scalar(&*self.text)).expect("both sides are Utf8View");
            return found;
        }
        // A short text lies in its view as a whole: equal texts are equal views.
        let (views, wanted) = (column.views(), wanted.views()[0]);
        let equal = BooleanBuffer::collect_bool(views.len(), |row| views[row] == wanted);
        BooleanArray::new(equal, column.nulls().cloned())
    }
}

/// Longest text that lies in its view ("Variable-size Binary View Layout" of the Arrow format).
const SHORT: usize = 12;

/// All rows of a batch, or those for which a test holds; or a block of rows on disk.
#[derive(Debug)]
pub struct SharedRows {
    rows: StoredRows,
    test: Option<EqualityTest>,
    selection: OnceLock<Selection>,
    filtered: Mutex<HashMap<ColumnPath, ArrayRef>>,
}

#[derive(Debug)]
enum Selection {
    All,
    Some(FilterPredicate),
}

impl SharedRows {
    /// All rows.
    pub fn all(batch: RecordBatch) -> Arc<Self> {
        Self::stored(StoredRows::held(batch))
    }

    /// All rows, wherever they are. Those on disk are read each time that [`Self::opened`] or [`Self::column`] is called.
    pub fn stored(rows: StoredRows) -> Arc<Self> {
        Arc::new(Self { rows, test: None, selection: OnceLock::new(), filtered: Mutex::default() })
    }

    /// The rows for which `test` holds; it is asked when somebody wants to know.
    pub fn tested(batch: RecordBatch, test: EqualityTest) -> Arc<Self> {
        let rows = StoredRows::held(batch);
        Arc::new(Self { rows, test: Some(test), selection: OnceLock::new(), filtered: Mutex::default() })
    }

    /// Whether they are on disk.
    pub fn is_spilled(&self) -> bool {
        self.rows.is_spilled()
    }

    /// Rows of which several columns can be read; `None` where these can.
    ///
    /// # Errors
    /// The disk's, where they are there.
    pub fn opened(&self) -> Result<Option<Arc<Self>>> {
        match &self.rows {
            StoredRows::Held(..) => Ok(None),
            StoredRows::Spilled(rows) => Ok(Some(Self::all(rows.load()?))),
        }
    }

    fn selection(&self) -> &Selection {
        self.selection.get_or_init(|| match (&self.test, &self.rows) {
            // Only rows in memory are tested.
            (None, _) | (_, StoredRows::Spilled(_)) => Selection::All,
            (Some(test), StoredRows::Held(batch, _)) => {
                let rows = test.rows(batch);
                if rows.true_count() == rows.len() {
                    return Selection::All;
                }
                Selection::Some(FilterBuilder::new(&rows).optimize().build())
            }
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match self.selection() {
            Selection::All => self.rows.len(),
            Selection::Some(predicate) => predicate.count(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values of one column.
    ///
    /// # Errors
    /// Arrow cannot filter the column's type; the disk's, where they are there.
    pub fn column(&self, path: &ColumnPath) -> Result<ArrayRef> {
        let batch = match &self.rows {
            StoredRows::Held(batch, _) => batch,
            StoredRows::Spilled(rows) => &rows.load()?,
        };
        let Selection::Some(predicate) = self.selection() else { return Ok(path.of(batch)) };
        // Held while filtering, so that two queries that want the same column do not both do the work.
        let mut filtered = self.filtered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(column) = filtered.get(path) {
            return Ok(Arc::clone(column));
        }
        let column = predicate.filter(&path.of(batch))?;
        filtered.insert(path.clone(), Arc::clone(&column));
        Ok(column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{Int64Array, StructArray};
    use datafusion::arrow::datatypes::{Field, Fields};

    fn batch() -> RecordBatch {
        let texts = |values: Vec<Option<&str>>| -> ArrayRef { Arc::new(StringViewArray::from(values)) };
        let kinds = texts(vec![Some("a"), Some("b"), None, Some("a"), Some("a text that is longer than twelve")]);
        let inner = texts(vec![Some("1"), Some("2"), Some("3"), None, Some("5")]);
        let fields = Fields::from(vec![Field::new("inner", DataType::Utf8View, true)]);
        let data = Arc::new(StructArray::new(fields, vec![inner], None));
        let numbers = Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5]));
        RecordBatch::try_from_iter([("kind", kinds), ("data", data as ArrayRef), ("n", numbers as ArrayRef)]).unwrap()
    }

    fn rows_with(names: &[&str], text: &str) -> Vec<i64> {
        let batch = batch();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let path = ColumnPath::find(batch.schema_ref(), &names).unwrap();
        let test = EqualityTest::try_new(batch.schema_ref(), path, text).unwrap();
        let rows = SharedRows::tested(batch, test);
        let numbers = rows.column(&ColumnPath::column(2)).unwrap();
        assert_eq!(numbers.len(), rows.len());
        // Asked again, it is the same array.
        assert!(Arc::ptr_eq(&numbers, &rows.column(&ColumnPath::column(2)).unwrap()) || rows.len() == 5);
        numbers.as_primitive::<datafusion::arrow::datatypes::Int64Type>().values().to_vec()
    }

    #[test]
    fn a_test_keeps_the_rows_with_its_text() {
        assert_eq!(rows_with(&["kind"], "a"), [1, 4]);
        assert_eq!(rows_with(&["kind"], "a text that is longer than twelve"), [5]);
        assert_eq!(rows_with(&["kind"], ""), [0; 0]);
        assert_eq!(rows_with(&["data", "inner"], "3"), [3]);
    }

    #[test]
    fn only_texts_are_tested() {
        let batch = batch();
        let schema = batch.schema_ref();
        assert_eq!(EqualityTest::try_new(schema, ColumnPath::column(2), "1"), None);
        assert_eq!(ColumnPath::find(schema, &["data".to_owned(), "no".to_owned()]), None);
    }
}
