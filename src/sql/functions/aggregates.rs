//! SUM and AVG with Flink's types.
//!
//! SUM of DECIMAL(p, s) is DECIMAL(38, s), of FLOAT a FLOAT; of any integer it is BIGINT, where Flink keeps the
//! argument's type and wraps (a deliberate difference). AVG of an integer is an integer, cut towards zero; of
//! DECIMAL(p, s) it is DECIMAL(38, max(s, 6)), half up.
//!
//! | | INT, BIGINT | DECIMAL(p, s) | FLOAT | DOUBLE |
//! |---|---|---|---|---|
//! | SUM | BIGINT | DECIMAL(38, s) | FLOAT, summed as DOUBLE | DOUBLE |
//! | AVG | as the argument | DECIMAL(38, max(s, 6)) | FLOAT, summed as DOUBLE | DOUBLE |
//!
//! Both are put together of a SUM and a COUNT, grouped, sliding and distinct ones. These are DataFusion's, so their speed and their
//! mergeable states are; only the sums of decimals are our own (`decimal_sum`), which tell when they do not fit: NULL, as in Flink. SUM of
//! integers wraps, as in Flink. AVG's state is (sum, count).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Float64Type, Int64Type, i256};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, Signature, Volatility,
};

use super::decimal::{divide_half_up, power_of_ten};
use super::decimal_sum::{DistinctSum, GroupSums, OneSum, fitting};

/// The aggregates that replace DataFusion's.
pub(crate) fn udafs() -> Vec<AggregateUDF> {
    [false, true]
        .map(|average| {
            AggregateUDF::new_from_impl(Sum {
                average,
                is_part: false,
                signature: Signature::user_defined(Volatility::Immutable),
            })
        })
        .into()
}

/// A SUM that another one adds up: of FLOAT it is a DOUBLE, and what has more than 38 digits is no NULL yet, which would be passed over.
pub(crate) fn sum_of_a_part() -> Arc<AggregateUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    Arc::new(AggregateUDF::new_from_impl(Sum { average: false, is_part: true, signature }))
}

/// SUM, or AVG as SUM and COUNT.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Sum {
    average: bool,
    /// See [`sum_of_a_part`].
    is_part: bool,
    signature: Signature,
}

/// The type that values of a type are summed up as.
fn sum_type(argument: &DataType) -> Result<DataType> {
    Ok(match argument {
        DataType::Decimal128(_, scale) => DataType::Decimal128(38, *scale),
        DataType::Float32 | DataType::Float64 => DataType::Float64,
        other if other.is_signed_integer() => DataType::Int64,
        other => other.clone(),
    })
}

/// What the parts are fed: decimals keep their type, for DataFusion's SUM adds their unscaled values.
fn fed_type(argument: &DataType) -> Result<DataType> {
    match argument {
        DataType::Decimal128(..) => Ok(argument.clone()),
        other => sum_type(other),
    }
}

fn field(name: &str, data_type: DataType) -> FieldRef {
    Arc::new(Field::new(name, data_type, true))
}

impl Sum {
    fn parts(&self) -> Vec<Arc<AggregateUDF>> {
        if self.average { vec![sum_udaf(), count_udaf()] } else { vec![sum_udaf()] }
    }

    /// The arguments of a part, with the types that it works on.
    fn with_part<T>(
        &self,
        part: &AggregateUDF,
        args: &AccumulatorArgs,
        make: impl FnOnce(AccumulatorArgs) -> Result<T>,
    ) -> Result<T> {
        let argument = args.expr_fields[0].data_type();
        let fields = [field("value", fed_type(argument)?)];
        let result = if part.name() == "sum" { sum_type(argument)? } else { DataType::Int64 };
        make(AccumulatorArgs {
            return_field: field(args.name, result),
            schema: args.schema,
            ignore_nulls: args.ignore_nulls,
            order_bys: args.order_bys,
            is_reversed: args.is_reversed,
            name: args.name,
            is_distinct: args.is_distinct,
            exprs: args.exprs,
            expr_fields: &fields,
        })
    }

    fn combined<P>(
        &self,
        args: &AccumulatorArgs,
        make: impl Fn(&AggregateUDF, AccumulatorArgs) -> Result<P>,
    ) -> Result<Combined<P>> {
        let parts = self.parts();
        let parts = parts.iter().map(|part| self.with_part(part, args, |args| make(part, args)));
        Ok(Combined {
            parts: parts.collect::<Result<_>>()?,
            fed: fed_type(args.expr_fields[0].data_type())?,
            result: args.return_type().clone(),
        })
    }
}

impl AggregateUDFImpl for Sum {
    fn name(&self) -> &str {
        if self.average { "avg" } else { "sum" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.name();
        let [argument] = arguments else { return plan_err!("{name} takes one argument, not {}", arguments.len()) };
        Ok(vec![match argument {
            DataType::Null => DataType::Int32,
            DataType::Decimal128(..) | DataType::Float32 | DataType::Float64 => argument.clone(),
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => DataType::Int64,
            other if other.is_signed_integer() => other.clone(),
            DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
            DataType::Interval(_) | DataType::Duration(_) if !self.average => argument.clone(),
            other => return plan_err!("{name} takes a number, not {}; cast it first", super::types::type_text(other)),
        }])
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(match &arguments[0] {
            DataType::Decimal128(_, scale) if self.average => DataType::Decimal128(38, (*scale).max(6)),
            DataType::Float32 if !self.is_part => DataType::Float32,
            other if other.is_signed_integer() && self.average => other.clone(),
            other => sum_type(other)?,
        })
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let make = |part: &AggregateUDF, args: AccumulatorArgs| -> Result<Box<dyn Accumulator>> {
            Ok(match decimal_sum(part, &args) {
                Some(data_type) if args.is_distinct => {
                    Box::new(DistinctSum { set: part.accumulator(args)?, data_type })
                }
                Some(data_type) => Box::new(OneSum::new(data_type, self.is_part)),
                None => part.accumulator(args)?,
            })
        };
        Ok(Box::new(self.combined(&args, make)?))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let make = |part: &AggregateUDF, args: AccumulatorArgs| -> Result<Box<dyn Accumulator>> {
            Ok(match decimal_sum(part, &args) {
                Some(data_type) if !args.is_distinct => Box::new(OneSum::new(data_type, self.is_part)),
                _ => part.create_sliding_accumulator(args)?,
            })
        };
        Ok(Box::new(self.combined(&args, make)?))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let argument = args.input_fields[0].data_type();
        let inputs = [field("value", fed_type(argument)?)];
        let mut states = vec![];
        for part in self.parts() {
            let result = if part.name() == "sum" { sum_type(argument)? } else { DataType::Int64 };
            states.extend(part.state_fields(StateFieldsArgs {
                name: args.name,
                input_fields: &inputs,
                return_field: field(args.name, result),
                ordering_fields: args.ordering_fields,
                is_distinct: args.is_distinct,
            })?);
        }
        Ok(states)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let make = |part: &AggregateUDF, args: AccumulatorArgs| -> Result<Box<dyn GroupsAccumulator>> {
            Ok(match decimal_sum(part, &args) {
                Some(data_type) => Box::new(GroupSums::new(data_type, self.is_part)),
                None => part.create_groups_accumulator(args)?,
            })
        };
        Ok(Box::new(self.combined(&args, make)?))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }
}

/// The type of a part's sum, where that is one of decimals.
fn decimal_sum(part: &AggregateUDF, args: &AccumulatorArgs) -> Option<DataType> {
    let data_type = args.return_field.data_type();
    (part.name() == "sum" && matches!(data_type, DataType::Decimal128(..))).then(|| data_type.clone())
}

/// SUM alone, or SUM and COUNT, over the same values. Each part has one column of state.
#[derive(Debug)]
struct Combined<P> {
    parts: Vec<P>,
    /// What the values are cast to on their way in.
    fed: DataType,
    result: DataType,
}

impl<P> Combined<P> {
    fn feed(&self, values: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        Ok(vec![if *values[0].data_type() == self.fed { Arc::clone(&values[0]) } else { cast(&values[0], &self.fed)? }])
    }

    /// The result of what the parts gave.
    fn finish(&self, answers: &[ArrayRef]) -> Result<ArrayRef> {
        let sum = &answers[0];
        let Some(counts) = answers.get(1) else {
            return if *sum.data_type() == self.result { Ok(Arc::clone(sum)) } else { Ok(cast(sum, &self.result)?) };
        };
        let counts = counts.as_primitive::<Int64Type>();
        let rows = 0..sum.len();
        let pair = |row: usize| (sum.is_valid(row) && counts.value(row) != 0).then(|| counts.value(row));
        let average: ArrayRef = match (sum.data_type(), &self.result) {
            (DataType::Decimal128(_, from), DataType::Decimal128(p, s)) => {
                let sums = sum.as_primitive::<Decimal128Type>();
                let factor = power_of_ten((s - from).unsigned_abs().into());
                let divided = rows.map(|row| {
                    let count = pair(row)?;
                    divide_half_up(i256::from_i128(sums.value(row)).wrapping_mul(factor), i256::from_i128(count.into()))
                        .to_i128()
                });
                Arc::new(fitting(&divided.collect::<Decimal128Array>().with_precision_and_scale(*p, *s)?))
            }
            (DataType::Int64, _) => {
                let sums = sum.as_primitive::<Int64Type>();
                Arc::new(rows.map(|row| Some(sums.value(row) / pair(row)?)).collect::<Int64Array>())
            }
            _ => {
                let sums = sum.as_primitive::<Float64Type>();
                Arc::new(rows.map(|row| Some(sums.value(row) / pair(row)? as f64)).collect::<Float64Array>())
            }
        };
        Ok(if *average.data_type() == self.result { average } else { cast(&average, &self.result)? })
    }
}

impl Accumulator for Combined<Box<dyn Accumulator>> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = self.feed(values)?;
        self.parts.iter_mut().try_for_each(|part| part.update_batch(&values))
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = self.feed(values)?;
        self.parts.iter_mut().try_for_each(|part| part.retract_batch(&values))
    }

    fn supports_retract_batch(&self) -> bool {
        self.parts.iter().all(|part| part.supports_retract_batch())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let answers = self.parts.iter_mut().map(|part| part.evaluate()?.to_array()).collect::<Result<Vec<_>>>()?;
        ScalarValue::try_from_array(&self.finish(&answers)?, 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let states = self.parts.iter_mut().map(|part| part.state()).collect::<Result<Vec<_>>>()?;
        Ok(states.into_iter().flatten().collect())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.parts.iter_mut().zip(states.chunks(1)).try_for_each(|(part, state)| part.merge_batch(state))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.parts.iter().map(|part| part.size()).sum::<usize>()
    }
}

impl GroupsAccumulator for Combined<Box<dyn GroupsAccumulator>> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        let values = self.feed(values)?;
        self.parts.iter_mut().try_for_each(|part| part.update_batch(&values, groups, filter, total))
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let answers = self.parts.iter_mut().map(|part| part.evaluate(emit_to)).collect::<Result<Vec<_>>>()?;
        self.finish(&answers)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let states = self.parts.iter_mut().map(|part| part.state(emit_to)).collect::<Result<Vec<_>>>()?;
        Ok(states.into_iter().flatten().collect())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.parts.iter_mut().zip(states.chunks(1)).try_for_each(|(part, state)| part.merge_batch(state, groups, total))
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let values = self.feed(values)?;
        let states =
            self.parts.iter().map(|part| part.convert_to_state(&values, filter)).collect::<Result<Vec<_>>>()?;
        Ok(states.into_iter().flatten().collect())
    }

    fn size(&self) -> usize {
        self.parts.iter().map(|part| part.size()).sum()
    }
}
