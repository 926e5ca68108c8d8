//! Checks of tables against what their connectors say of themselves.

use super::catalog::Catalog;
use crate::contracts::Error;

/// Checks connectors, options, formats and metadata columns.
pub(crate) fn check_tables(_catalog: &Catalog, _warnings: &mut Vec<String>, _errors: &mut Vec<Error>) {}

/// Whether the sink takes update streams without a key.
pub(crate) fn takes_anything(connector: &str) -> bool {
    matches!(connector, "print" | "blackhole")
}

/// Whether the sink takes final rows only, key or not.
pub(crate) fn append_only(connector: &str) -> bool {
    matches!(connector, "kinesis" | "firehose" | "sns")
}
