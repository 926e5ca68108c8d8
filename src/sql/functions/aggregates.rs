//! stub
pub(crate) fn udafs() -> Vec<datafusion::logical_expr::AggregateUDF> { vec![] }
