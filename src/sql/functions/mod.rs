//! Flink's functions for DataFusion: the same SQL expression gives the answer that Flink gives.
//!
//! What they must do is in `FLINK_SQL.md` (sections 4, 9 to 11); what Flink really answers to some 400
//! expressions is in `tests/expressions/expressions.tsv`, which is the judge, and where we differ on purpose
//! is in `tests/expressions/differences.tsv`, each line with its reason. Not here: windows, table functions,
//! anything with state between epochs.
//!
//! An expression passes through four stations:
//!
//! 1. `syntax`: sqlparser's hooks read what it does not know (`CAST(x AS ROW<…>)`, `JSON_VALUE(… RETURNING …)`).
//! 2. [`rewrite`]: on the syntax tree, forms whose meaning differs become calls of our functions.
//! 3. [`expr_planners`]: operators whose result depends on types (decimal division) while DataFusion plans, and
//!    [`analyzer_rules`]: what it converts by itself between the wall clock and instants.
//! 4. The functions: [`register`] puts them over DataFusion's own, which stay callable under other names.
//!
//! Invariant: no function reads a clock or an unseeded generator. "Now" is the epoch's time, from
//! [`FunctionOptions::epoch_time_ms`]; such functions are volatile, so a plan made once and run for each epoch
//! sees each epoch's time.

mod aggregates;
mod calendar;
mod call;
mod cast_number;
mod cast_text;
mod casts;
mod coalesce;
mod collections;
mod conditional;
mod constants;
mod decimal;
mod decimal_sum;
mod encoding;
mod function;
mod hash;
mod interval;
mod java_regex;
mod json_build;
mod json_functions;
mod json_path;
mod json_syntax;
mod json_text;
mod json_walk;
mod literals;
mod local_times;
mod map_functions;
mod now;
mod numeric;
mod operators;
mod printf;
mod regex;
mod rewrite;
mod strings;
mod syntax;
mod time_arith;
mod time_parse;
mod time_pattern;
mod time_text;
mod times;
mod types;
mod url;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use datafusion::common::Result;
use datafusion::config::ConfigOptions;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::ScalarUDF;
use datafusion::logical_expr::planner::ExprPlanner;
use datafusion::optimizer::AnalyzerRule;

use function::{Context, Definition};

pub(crate) use aggregates::sum_of_a_part;
pub(crate) use constants::check_constants;
pub use rewrite::{rewrite, rewrite_expr, rewrite_query};
pub use syntax::{parse_infix, parse_prefix};
pub use types::{Length, TypeSpec, parse_type, timestamp_unit, type_text};

/// Everything the functions need from the job.
#[derive(Debug, Clone)]
pub struct FunctionOptions {
    /// `table.local-time-zone`; UTC by default.
    pub time_zone: chrono_tz::Tz,
    /// The time of the epoch being evaluated, in milliseconds since 1970. The runtime stores it before it runs
    /// an epoch's plans; functions only read it.
    pub epoch_time_ms: Arc<AtomicI64>,
}

impl Default for FunctionOptions {
    fn default() -> Self {
        FunctionOptions { time_zone: chrono_tz::Tz::UTC, epoch_time_ms: Arc::default() }
    }
}

impl FunctionOptions {
    fn context(&self) -> Arc<Context> {
        Arc::new(Context {
            time_zone: self.time_zone,
            epoch_time_ms: Arc::clone(&self.epoch_time_ms),
            calls_epoch: AtomicI64::new(i64::MIN),
            calls: AtomicU64::new(0),
        })
    }
}

/// Settings of DataFusion's planner that the functions rely on: names keep their case, `1.5` is a decimal.
pub fn configure(options: &mut ConfigOptions) {
    options.sql_parser.enable_ident_normalization = false;
    options.sql_parser.parse_float_as_decimal = true;
    options.sql_parser.support_varchar_with_length = true;
    options.sql_parser.map_string_types_to_utf8view = true;
}

/// The tables of definitions that are the same for each evaluation.
const IMMUTABLE: &[&[Definition]] = &[
    collections::DEFINITIONS,
    decimal::DEFINITIONS,
    encoding::DEFINITIONS,
    hash::DEFINITIONS,
    json_build::DEFINITIONS,
    json_functions::DEFINITIONS,
    map_functions::DEFINITIONS,
    numeric::DEFINITIONS,
    numeric::DOUBLES,
    regex::DEFINITIONS,
    strings::DEFINITIONS,
    time_arith::DEFINITIONS,
    time_text::DEFINITIONS,
    url::DEFINITIONS,
    &[conditional::LIKE_PATTERN, printf::PRINTF],
];

/// Registers Flink's functions over DataFusion's own, replacing those whose meaning differs, with the
/// planners of operators.
pub fn register(registry: &mut dyn FunctionRegistry, options: &FunctionOptions) -> Result<()> {
    for udf in scalar_functions(options) {
        registry.register_udf(Arc::new(udf))?;
    }
    for udaf in aggregates::udafs() {
        registry.register_udaf(Arc::new(udaf))?;
    }
    for planner in expr_planners(options) {
        registry.register_expr_planner(planner)?;
    }
    Ok(())
}

fn scalar_functions(options: &FunctionOptions) -> Vec<ScalarUDF> {
    let context = options.context();
    let mut udfs: Vec<ScalarUDF> =
        IMMUTABLE.iter().copied().flatten().map(|definition| definition.udf(&context)).collect();
    udfs.extend(now::DEFINITIONS.iter().map(|definition| definition.volatile(&context)));
    udfs.push(time_text::UNIX_TIMESTAMP.volatile(&context));
    udfs.extend(casts::udfs(&context));
    udfs.extend(conditional::udfs());
    udfs.push(coalesce::udf());
    udfs
}

/// Planners of operators; [`register`] has registered them already.
pub fn expr_planners(options: &FunctionOptions) -> Vec<Arc<dyn ExprPlanner>> {
    let context = options.context();
    let definitions: &[Definition; 5] =
        decimal::DEFINITIONS.first_chunk().expect("decimal has a function for each of five operations");
    let decimal = definitions.map(|definition| Arc::new(definition.udf(&context)));
    let interval = Arc::new(operators::TIMES_INTERVAL.udf(&context));
    let mut texts = strings::DEFINITIONS.iter();
    let concat = texts.find(|definition| definition.name == "concat").expect("CONCAT is one of them");
    let concat = Arc::new(concat.udf(&context));
    vec![Arc::new(operators::Operators { decimal, interval, concat })]
}

/// The rule that a session needs whose zone is not UTC, behind DataFusion's own.
pub fn analyzer_rules(options: &FunctionOptions) -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let [cast_to, _] = casts::udfs(&options.context());
    match options.time_zone {
        chrono_tz::Tz::UTC => vec![],
        _ => vec![Arc::new(local_times::LocalTimes { cast_to: Arc::new(cast_to) })],
    }
}
