//! Conditions with parts that fail for some rows.

use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::arrow::array::{ArrayRef, Int64Array};
use datafusion::physical_expr::expressions::{col, lit};

use super::*;

fn rows() -> RecordBatch {
    let numbers: ArrayRef = Arc::new((0..10).map(|n| (n != 7).then_some(n)).collect::<Int64Array>());
    RecordBatch::try_from_iter([("n", numbers)]).expect("a batch")
}

fn binary(left: Expression, operator: Operator, right: Expression) -> Expression {
    Arc::new(BinaryExpr::new(left, operator, right))
}

fn number() -> Expression {
    col("n", &rows().schema()).expect("a column")
}

/// True for all numbers, but fails for one.
fn failing(number_of: i64) -> Expression {
    let divided = binary(lit(100_i64), Operator::Divide, binary(number(), Operator::Minus, lit(number_of)));
    binary(divided, Operator::NotEq, lit(1_000_i64))
}

fn is_not(value: i64) -> Expression {
    binary(number(), Operator::NotEq, lit(value))
}

fn is(value: i64) -> Expression {
    binary(number(), Operator::Eq, lit(value))
}

fn and(left: Expression, right: Expression) -> Expression {
    binary(left, Operator::And, right)
}

fn or(left: Expression, right: Expression) -> Expression {
    binary(left, Operator::Or, right)
}

fn answer(condition: &Expression) -> Result<Vec<Option<bool>>> {
    let guarded = guard(condition)?;
    assert!(guarded.downcast_ref::<Guarded>().is_some(), "{guarded}");
    Ok(asked(&guarded, &rows())?.iter().collect())
}

fn of_each(value: impl Fn(i64) -> bool) -> Vec<Option<bool>> {
    (0..10).map(|n| (n != 7).then(|| value(n))).collect()
}

#[test]
fn a_row_fails_only_where_no_other_part_of_the_condition_decides_it() {
    asked(&and(is_not(3), failing(3)), &rows()).expect_err("else nothing is tested here");
    let all_but_3 = of_each(|n| n != 3);
    for condition in [
        and(is_not(3), failing(3)),
        and(failing(3), is_not(3)),
        and(and(failing(3), is_not(3)), failing(3)),
        and(failing(3), and(failing(3), is_not(3))),
    ] {
        assert_eq!(answer(&condition).expect("it runs"), all_but_3, "{condition}");
    }
    for condition in [or(is(3), failing(3)), or(failing(3), is(3))] {
        assert_eq!(answer(&condition).expect("it runs"), of_each(|_| true), "{condition}");
    }
    // Each fails for a row that the other leaves out: no order of the two would do.
    let crossed = and(and(is_not(3), failing(4)), and(is_not(4), failing(3)));
    assert_eq!(answer(&crossed).expect("it runs"), of_each(|n| n != 3 && n != 4));
    // Below something else, too.
    let inverted: Expression = Arc::new(NotExpr::new(and(is_not(3), failing(3))));
    let guarded = guard(&inverted).expect("guarded");
    let values: Vec<Option<bool>> = asked(&guarded, &rows()).expect("it runs").iter().collect();
    assert_eq!(values, of_each(|n| n == 3));
}

#[test]
fn what_nothing_else_decides_fails() {
    for condition in [and(is_not(4), failing(3)), or(is(4), failing(3)), and(failing(3), failing(3))] {
        let error = answer(&condition).expect_err("it fails").to_string();
        assert!(error.to_lowercase().contains("zero"), "{error}");
    }
}

/// Divides by a number, and counts how often it is asked.
#[derive(Debug)]
struct Counted {
    of: Expression,
    asked: AtomicUsize,
}

impl PartialEq for Counted {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Counted {}

impl Hash for Counted {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.of.hash(state);
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.of.fmt(f)
    }
}

impl PhysicalExpr for Counted {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.of.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.of.nullable(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.of.evaluate(batch)
    }

    fn children(&self) -> Vec<&Expression> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Expression>) -> Result<Expression> {
        Ok(self)
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.of.fmt_sql(f)
    }
}

/// It was asked twice as often for each part more, before.
#[test]
fn each_part_is_asked_a_few_times_however_many_there_are() {
    let counted = |of: Expression| Arc::new(Counted { of, asked: AtomicUsize::new(0) });
    let parts: Vec<Arc<Counted>> = (0..40).map(|_| counted(failing(3))).collect();
    let all = parts.iter().fold(is_not(4), |all, part| and(all, Arc::clone(part) as Expression));
    let condition = and(all, is_not(3));
    assert_eq!(answer(&condition).expect("it runs"), of_each(|n| n != 3 && n != 4));
    let most = parts.iter().map(|part| part.asked.load(Ordering::Relaxed)).max();
    assert!(most <= Some(3), "{most:?}");
}

#[test]
fn what_is_unknown_decides_nothing() {
    let null: Expression = lit(datafusion::common::ScalarValue::Boolean(None));
    // NULL AND what fails: only a false one would decide.
    answer(&and(Arc::clone(&null), failing(3))).expect_err("nothing decides it");
    let known = answer(&and(and(null, failing(3)), is_not(3))).expect("it runs");
    assert_eq!(known, (0..10).map(|n| (n == 3).then_some(false)).collect::<Vec<_>>());
    // A part that has no column fails for every row that is left to it, and for none where none is.
    let never = binary(binary(lit(1_i64), Operator::Divide, lit(0_i64)), Operator::Gt, lit(0_i64));
    let nobody = binary(number(), Operator::Lt, lit(-1_i64));
    let some = or(nobody, Arc::new(IsNullExpr::new(number())));
    answer(&and(Arc::clone(&never), some)).expect_err("one row is left");
    let nobody = and(binary(number(), Operator::Lt, lit(-1_i64)), Arc::new(IsNotNullExpr::new(number())));
    assert_eq!(answer(&and(never, nobody)).expect("it runs"), vec![Some(false); 10]);
}

#[test]
fn what_cannot_fail_is_left_as_it_is() {
    let condition = and(is_not(3), or(is(4), Arc::new(IsNullExpr::new(number()))));
    assert!(Arc::ptr_eq(&guard(&condition).expect("guarded"), &condition));
}
