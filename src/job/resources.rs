//! Which resources of AWS a job uses: what its tables need, merged.

use crate::connectors::describe::Role;
use crate::connectors::resources::{self, Resource};
use crate::contracts::{Error, LeasePlace, Result};
use crate::sql::JobPlan;

use super::replica::lease_place;
use super::run::{JobOptions, errors_place, job_name, plan, sink_tables};

/// Plans the job and says what it uses, in the order stream, table, topic, bucket.
///
/// # Errors
/// All errors of the SQL; tables that contradict each other.
pub async fn job_resources(options: &JobOptions) -> std::result::Result<(JobPlan, Vec<Resource>), Vec<Error>> {
    let plan = plan(options, &std::sync::Arc::default()).await?;
    let resources = of_plan(&plan, options).map_err(|e| vec![e])?;
    Ok((plan, resources))
}

fn of_plan(plan: &JobPlan, options: &JobOptions) -> Result<Vec<Resource>> {
    let mut all = Vec::new();
    for source in &plan.sources {
        all.extend(resources::needs(&source.spec, &source.connector, Role::Source)?);
    }
    for reference in &plan.references {
        all.extend(resources::needs(&reference.spec, &reference.connector, Role::Source)?);
    }
    for lookup in &plan.lookups {
        all.extend(resources::needs(&lookup.spec, &lookup.connector, Role::Source)?);
    }
    for query in &plan.queries {
        all.extend(resources::needs(&query.sink.spec, &query.sink.connector, Role::Sink)?);
    }
    let name = job_name(&plan.settings, &options.paths);
    let sinks = sink_tables(&plan.queries);
    let errors = errors_place(&plan.settings.errors_path, None, &name, &sinks);
    if let Some(spec) = errors.beside.or_else(|| plan.queries.first().map(|q| &q.sink.spec)) {
        all.extend(resources::error_output(&errors.path, spec)?);
    }
    let any = plan.queries.first().map(|query| &query.sink.spec);
    if let (Some(path), Some(spec)) = (&plan.settings.checkpoints_path, any) {
        all.extend(resources::checkpoints(&format!("{}/{name}", path.trim_end_matches('/')), spec)?);
    }
    if let (Some(LeasePlace::DynamoDb(table)), Some(spec)) = (lease_place(options, &plan.settings), any) {
        all.push(resources::lease(&table, spec));
    }
    resources::merge(all)
}

/// `CREATE EXTERNAL TABLE` for each table of files on S3 that the job writes, and why others have none.
///
/// # Errors
/// All errors of the SQL.
pub async fn athena(options: &JobOptions) -> std::result::Result<(Vec<String>, Vec<String>), Vec<Error>> {
    let plan = plan(options, &std::sync::Arc::default()).await?;
    let (mut statements, mut notes): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for query in &plan.queries {
        match resources::athena::ddl(&query.sink.spec, &query.sink.connector) {
            Ok(Some(statement)) if !statements.contains(&statement) => statements.push(statement),
            Ok(_) => {}
            Err(error) => notes.push(error.to_string()),
        }
    }
    Ok((statements, notes))
}
