//! SUM of decimals. A sum that does not fit into 38 digits is NULL, as in Flink, and never another number.
//!
//! A state is one decimal. One that has left the range of 128 bits, which hold a little more than 38 digits, stays [`LOST`], whatever is
//! added. So a sum that is given is exact. One that is part of another gives its state, so that what does not fit in the end is known. (Flink begins anew with the row after such a sum: what that gives depends on the order of rows.)

use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Decimal128Type, i256};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

/// A sum that nobody knows any more. No decimal of 38 digits is near it.
const LOST: i128 = i128::MIN;
/// The least that has 39 digits.
const TOO_LARGE: u128 = 10_u128.pow(38);

fn add(sum: i128, value: i128) -> i128 {
    if sum == LOST || value == LOST { LOST } else { sum.checked_add(value).unwrap_or(LOST) }
}

/// What has more than 38 digits becomes NULL.
pub(super) fn fitting(decimals: &Decimal128Array) -> Decimal128Array {
    let fits = |value: i128| value.unsigned_abs() < TOO_LARGE;
    if decimals.iter().flatten().all(fits) {
        return decimals.clone();
    }
    let kept: Decimal128Array = decimals.iter().map(|value| value.filter(|value| fits(*value))).collect();
    kept.with_data_type(decimals.data_type().clone())
}

/// Sums of groups.
#[derive(Debug)]
pub(super) struct GroupSums {
    sums: Vec<i128>,
    /// Whether a group has had a value.
    seen: Vec<bool>,
    data_type: DataType,
    is_part: bool,
}

impl GroupSums {
    /// Sums of `data_type`.
    pub(super) fn new(data_type: DataType, is_part: bool) -> Self {
        Self { sums: Vec::new(), seen: Vec::new(), data_type, is_part }
    }

    fn take(&mut self, emit_to: EmitTo) -> Decimal128Array {
        let sums = emit_to.take_needed(&mut self.sums);
        let seen = emit_to.take_needed(&mut self.seen);
        let nulls = Some(NullBuffer::from(seen)).filter(|nulls| nulls.null_count() > 0);
        Decimal128Array::new(sums.into(), nulls).with_data_type(self.data_type.clone())
    }
}

impl GroupsAccumulator for GroupSums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        let values = values[0].as_primitive::<Decimal128Type>();
        self.sums.resize(total, 0);
        self.seen.resize(total, false);
        let (sums, seen) = (&mut self.sums, &mut self.seen);
        let mut count = |row: usize, group: usize| {
            sums[group] = add(sums[group], values.value(row));
            seen[group] = true;
        };
        let rows = groups.iter().copied().enumerate();
        if values.null_count() == 0 && filter.is_none() {
            rows.for_each(|(row, group)| count(row, group));
            return Ok(());
        }
        let passes = |row: usize| filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        rows.filter(|(row, _)| values.is_valid(*row) && passes(*row)).for_each(|(row, group)| count(row, group));
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = self.take(emit_to);
        Ok(Arc::new(if self.is_part { sums } else { fitting(&sums) }))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![Arc::new(self.take(emit_to))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.update_batch(states, groups, None, total)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let values = values[0].as_primitive::<Decimal128Type>();
        let passing = filter.map(|filter| {
            let passes = filter.values().clone();
            NullBuffer::new(filter.nulls().map_or(passes.clone(), |nulls| &passes & nulls.inner()))
        });
        let nulls = NullBuffer::union(values.nulls(), passing.as_ref());
        let states = Decimal128Array::new(values.values().clone(), nulls).with_data_type(self.data_type.clone());
        Ok(vec![Arc::new(states)])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<i128>() + self.seen.capacity()
    }
}

/// One sum, from which values can be taken back.
#[derive(Debug)]
pub(super) struct OneSum {
    sum: i256,
    values: i64,
    is_lost: bool,
    data_type: DataType,
    is_part: bool,
}

impl OneSum {
    /// A sum of `data_type`.
    pub(super) fn new(data_type: DataType, is_part: bool) -> Self {
        Self { sum: i256::ZERO, values: 0, is_lost: false, data_type, is_part }
    }

    fn count(&mut self, values: &ArrayRef, sign: i64) {
        for value in values.as_primitive::<Decimal128Type>().iter().flatten() {
            self.is_lost |= value == LOST;
            let value = i256::from_i128(value);
            // 2^128 values of 2^127 fit.
            self.sum = if sign < 0 { self.sum.wrapping_sub(value) } else { self.sum.wrapping_add(value) };
            self.values += sign;
        }
    }

    fn scalar(&self, value: Option<i128>) -> Result<ScalarValue> {
        let array = Decimal128Array::from(vec![value]).with_data_type(self.data_type.clone());
        ScalarValue::try_from_array(&array, 0)
    }

    /// The sum, [`LOST`] where it does not fit.
    fn sum(&self) -> Option<i128> {
        let sum = if self.is_lost { LOST } else { self.sum.to_i128().unwrap_or(LOST) };
        (self.values > 0).then_some(sum)
    }
}

impl Accumulator for OneSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.count(&values[0], 1);
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.count(&values[0], -1);
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.scalar(self.sum().filter(|sum| self.is_part || sum.unsigned_abs() < TOO_LARGE))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.scalar(self.sum())?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The sum of different values: DataFusion's set of them, added up here.
#[derive(Debug)]
pub(super) struct DistinctSum {
    /// DataFusion's accumulator. Its state is a list of the values.
    pub(super) set: Box<dyn Accumulator>,
    /// Of the sum.
    pub(super) data_type: DataType,
}

impl Accumulator for DistinctSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.set.update_batch(values)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut sum = OneSum::new(self.data_type.clone(), false);
        for list in self.set.state()? {
            if let ScalarValue::List(list) = list {
                sum.update_batch(&[list.value(0)])?;
            }
        }
        sum.evaluate()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.set.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.set.merge_batch(states)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.set.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUGE: i128 = 90_000_000_000_000_000_000_000_000_000_000_000_000;

    fn decimals(values: &[Option<i128>]) -> ArrayRef {
        Arc::new(values.iter().copied().collect::<Decimal128Array>().with_data_type(DataType::Decimal128(38, 0)))
    }

    fn given(array: &ArrayRef) -> Vec<Option<i128>> {
        array.as_primitive::<Decimal128Type>().iter().collect()
    }

    fn sums() -> GroupSums {
        GroupSums::new(DataType::Decimal128(38, 0), false)
    }

    #[test]
    fn a_sum_of_more_than_38_digits_is_null_and_others_are_exact() -> Result<()> {
        let mut own = sums();
        let rows = [(0, HUGE), (0, HUGE), (1, HUGE), (1, HUGE / 9), (2, HUGE), (2, HUGE / 90), (3, -HUGE), (3, -HUGE)];
        let groups: Vec<usize> = rows.iter().map(|(group, _)| *group).collect();
        let values: Vec<Option<i128>> = rows.iter().map(|(_, value)| Some(*value)).collect();
        own.update_batch(&[decimals(&values)], &groups, None, 5)?;
        // 1.8e38 is beyond 128 bits, 1.0e38 within them.
        let answer = own.evaluate(EmitTo::All)?;
        assert_eq!(given(&answer), [None, None, Some(HUGE + HUGE / 90), None, None]);
        assert_eq!(answer.data_type(), &DataType::Decimal128(38, 0));
        Ok(())
    }

    #[test]
    fn what_is_lost_stays_lost_and_what_is_too_large_for_a_while_does_not() -> Result<()> {
        let mut first = sums();
        first.update_batch(
            &[decimals(&[Some(HUGE), Some(HUGE), Some(HUGE), Some(HUGE / 2)])],
            &[0, 0, 1, 1],
            None,
            2,
        )?;
        let states = first.state(EmitTo::All)?;
        let mut second = sums();
        second.merge_batch(&states, &[0, 1], 2)?;
        second.update_batch(&[decimals(&[Some(-HUGE), Some(-HUGE)])], &[0, 1], None, 2)?;
        assert_eq!(given(&second.evaluate(EmitTo::All)?), [None, Some(HUGE / 2)]);
        let mut one = OneSum::new(DataType::Decimal128(38, 0), false);
        one.merge_batch(&states)?;
        assert!(one.evaluate()?.is_null());
        Ok(())
    }

    #[test]
    fn parts_of_a_sum_say_what_does_not_fit() -> Result<()> {
        let data_type = DataType::Decimal128(38, 0);
        let mut part = GroupSums::new(data_type.clone(), true);
        let rows = [(0, HUGE), (0, HUGE), (1, HUGE), (1, HUGE / 2), (2, -HUGE), (2, -HUGE)];
        let groups: Vec<usize> = rows.iter().map(|(group, _)| *group).collect();
        let values: Vec<Option<i128>> = rows.iter().map(|(_, value)| Some(*value)).collect();
        part.update_batch(&[decimals(&values)], &groups, None, 4)?;
        let parts = part.evaluate(EmitTo::All)?;
        assert_eq!(given(&parts), [Some(LOST), Some(HUGE / 2 * 3), Some(LOST), None]);
        let mut one = OneSum::new(data_type.clone(), true);
        one.update_batch(&[decimals(&[Some(HUGE), Some(HUGE / 2)])])?;
        assert_eq!(one.evaluate()?, ScalarValue::Decimal128(Some(HUGE / 2 * 3), 38, 0));
        let mut whole = sums();
        whole.update_batch(&[parts], &[0, 1, 1, 2], None, 3)?;
        assert_eq!(given(&whole.evaluate(EmitTo::All)?), [None, None, None]);
        // 39 digits for a while.
        let mut whole = sums();
        whole.update_batch(&[decimals(&[Some(HUGE / 2 * 3), Some(-HUGE)])], &[0, 0], None, 1)?;
        assert_eq!(given(&whole.evaluate(EmitTo::All)?), [Some(HUGE / 2)]);
        Ok(())
    }

    #[test]
    fn one_sum_takes_values_back_beyond_its_range() -> Result<()> {
        let mut one = OneSum::new(DataType::Decimal128(38, 0), false);
        assert!(one.evaluate()?.is_null());
        one.update_batch(&[decimals(&[Some(HUGE), None, Some(HUGE), Some(7)])])?;
        assert!(one.evaluate()?.is_null());
        one.retract_batch(&[decimals(&[Some(HUGE)])])?;
        assert_eq!(one.evaluate()?, ScalarValue::Decimal128(Some(HUGE + 7), 38, 0));
        one.retract_batch(&[decimals(&[Some(HUGE), Some(7)])])?;
        assert!(one.evaluate()?.is_null());
        Ok(())
    }

    #[test]
    fn rows_that_a_filter_leaves_out_or_that_are_null_do_not_count() -> Result<()> {
        let filter = BooleanArray::from(vec![Some(true), Some(false), None, Some(true)]);
        let values = decimals(&[Some(1), Some(2), Some(4), None]);
        let mut own = sums();
        own.update_batch(&[Arc::clone(&values)], &[0, 0, 0, 1], Some(&filter), 2)?;
        assert_eq!(given(&own.evaluate(EmitTo::All)?), [Some(1), None]);
        let states = own.convert_to_state(&[values], Some(&filter))?;
        assert_eq!(given(&states[0]), [Some(1), None, None, None]);
        Ok(())
    }

    #[test]
    fn groups_are_given_a_few_at_a_time() -> Result<()> {
        let mut own = sums();
        own.update_batch(&[decimals(&[Some(1), Some(2), Some(3)])], &[0, 1, 2], None, 3)?;
        assert_eq!(given(&own.evaluate(EmitTo::First(2))?), [Some(1), Some(2)]);
        own.update_batch(&[decimals(&[Some(4)])], &[0], None, 1)?;
        assert_eq!(given(&own.evaluate(EmitTo::All)?), [Some(7)]);
        Ok(())
    }
}
