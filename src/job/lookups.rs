//! Tables that are looked up: connected before a plan runs.

use std::sync::Arc;

use crate::connectors::{Connectors, lookup_cache};
use crate::contracts::{Error, Lookup, Result};
use crate::runtime::CachedLookup;
use crate::sql::{JobPlan, LookupPlan, QueryPlan};

/// Reaches each table and puts it in place, behind its cache if it has one.
pub(super) async fn connect(lookups: &[LookupPlan], connectors: &Connectors) -> Result<()> {
    for plan in lookups {
        let mut lookup: Arc<dyn Lookup> = connectors.lookup(&plan.spec, &plan.connector)?;
        lookup.open().await.map_err(|e: Error| e.context(format!("table '{}'", plan.spec.name)))?;
        if let Some(bounds) = lookup_cache(&plan.spec)? {
            let (schema, key) = (Arc::clone(plan.table.schema()), plan.table.key().to_vec());
            lookup = Arc::new(CachedLookup::try_new(lookup, connectors.clock(), bounds, schema, key)?);
        }
        plan.table.connect(lookup);
    }
    Ok(())
}

/// A line for each table that the query looks up.
pub(super) fn explain(plan: &JobPlan, query: &QueryPlan) -> Vec<String> {
    let line = |index: &usize| {
        let LookupPlan { spec, connector, table, .. } = plan.lookups.iter().find(|lookup| lookup.index == *index)?;
        let cached = match lookup_cache(spec) {
            Ok(Some(bounds)) => {
                format!("up to {} keys are kept for {} s", bounds.max_rows, bounds.expire_after_write.as_secs_f64())
            }
            _ => "asked for each key once an epoch, nothing is kept".to_owned(),
        };
        Some(format!("{} ({connector}) by {}: {cached}", spec.name, table.key_names().join(", ")))
    };
    query.lookups.iter().filter_map(line).collect()
}
