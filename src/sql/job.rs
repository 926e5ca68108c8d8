//! Planning a job in two passes: the first learns which columns are in use, the second plans over those.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::logical_expr::LogicalPlan;

use super::catalog::{Catalog, Table};
use super::insert::named_apart;
use super::plan::{Batch, JobPlan, PlanOptions};
use super::planner::Planner;
use super::prefilter::common_equality;
use super::require::has_require;
use super::required::{Required, all_fields};
use super::second_pass::JobBuilder;
use super::settings::Settings;
use super::statement::{ColumnKind, parse_file};
use super::text::{Hints, Parameters, SqlText};
use crate::contracts::Error;

/// Parses and plans files. All errors are given at once.
pub async fn plan_job(
    files: &[Arc<SqlText>],
    parameters: &Parameters,
    options: &PlanOptions,
    batch: Option<Batch<'_>>,
) -> std::result::Result<JobPlan, Vec<Error>> {
    let (mut errors, mut warnings, mut hints) = (Vec::new(), Vec::new(), Hints::default());
    let parsed = files.iter().map(|file| parse_file(file, parameters, &mut hints)).collect();
    let catalog = Catalog::build(parsed, hints, &mut errors);
    if catalog.inserts.is_empty() && errors.is_empty() {
        let mut error = Error::sql("there is no INSERT INTO, so the job would do nothing");
        if let Some(file) = files.first() {
            error = error.at(file.start());
        }
        errors.push(error.hint("add INSERT INTO a_table SELECT … FROM another_table"));
    }
    let settings = Settings::read(&catalog.settings, &mut warnings, &mut errors);
    super::validate::check_tables(&catalog, &mut warnings, &mut errors);
    let before = errors.len();
    super::bounds::check_sizes(&catalog, &mut errors);
    if errors.len() > before {
        return Err(errors);
    }

    // First pass: which columns does the job use?
    let first = Planner::new(&catalog, &settings, None, options, &mut errors).await;
    let (mut required, mut named) = (Required::new(), Required::new());
    let mut uses: Vec<LogicalPlan> = Vec::new();
    let own_queries: Vec<_> = catalog.inserts.iter().map(|i| named_apart(&i.insert.query)).collect();
    for (insert, own_query) in catalog.inserts.iter().zip(&own_queries) {
        errors.extend(catalog.target(insert).err());
        match first.query(own_query, &insert.statement).await {
            Ok(plan) => {
                let use_of = first.require(&plan, &mut required).and_then(|optimized| {
                    first.named(&plan, &mut named)?;
                    // The optimizer makes one condition of a view's and of that above it; REQUIRE speaks of the rows of its own.
                    Ok(if has_require(&plan)? { plan } else { optimized })
                });
                match use_of {
                    Ok(plan) => uses.push(plan),
                    Err(error) => errors.push(first.explain(&error, &insert.statement)),
                }
            }
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(without_consequences(errors, files));
    }
    for table in first.tables.values() {
        let used = required.get_mut(&Planner::plan_name(&table.name));
        let Some(used) = used else { continue };
        keep_time(table, used);
    }
    let is_in_records =
        |plan_name: &str, column: &str| first.table_of(plan_name).is_some_and(|table| table.is_in_records(column));
    let literals = common_equality(&uses, is_in_records);

    // Second pass: over tables with those columns.
    let built = async |required: &Required| {
        let mut errors = Vec::new();
        let pruned = options.pruned.then_some((required, &named, &first.full));
        let planner = Planner::new(&catalog, &settings, pruned, options, &mut errors).await;
        let mut job = JobBuilder {
            planner: &planner,
            catalog: &catalog,
            settings: &settings,
            options,
            required,
            literals: literals.clone(),
            warnings: warnings.clone(),
            range: batch.map(|batch| batch.range).unwrap_or_default(),
        };
        let plan = job.build(batch.map(|batch| batch.tables), &mut errors).await;
        plan.filter(|_| errors.is_empty()).ok_or(errors)
    };
    match built(&required).await {
        // ROWs of which only some fields are read may not fit each other any more, nor a view that no INSERT reads. As they are declared, they
        // did in the first pass.
        Err(_) if options.pruned => built(&all_fields(&required)).await,
        built => built,
    }
}

/// A table or view that is declared wrongly is not found either: that says nothing new.
fn without_consequences(errors: Vec<Error>, files: &[Arc<SqlText>]) -> Vec<Error> {
    let declared: BTreeSet<String> = files.iter().flat_map(|file| declared_names(file.text())).collect();
    let is_consequence = |error: &Error| {
        let message = error.message();
        let name = message.strip_prefix("table or view '").or_else(|| message.strip_prefix("table '"));
        let name = name.and_then(|rest| rest.strip_suffix("' not found"));
        name.is_some_and(|name| declared.contains(name))
    };
    let (consequences, causes): (Vec<Error>, Vec<Error>) = errors.into_iter().partition(is_consequence);
    if causes.is_empty() { consequences } else { causes }
}

/// Names behind CREATE TABLE and CREATE VIEW.
fn declared_names(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '$'))).filter(|w| !w.is_empty());
    let words: Vec<&str> = words.collect();
    let is = |at: usize, word: &str| words.get(at).is_some_and(|w| w.eq_ignore_ascii_case(word));
    let mut names = Vec::new();
    for at in (0..words.len()).filter(|at| is(*at, "CREATE")) {
        let mut next = at + 1 + usize::from(is(at + 1, "TEMPORARY"));
        if !is(next, "TABLE") && !is(next, "VIEW") {
            continue;
        }
        next += 1;
        if is(next, "IF") {
            next += 3;
        }
        names.extend(words.get(next).map(|name| (*name).to_owned()));
    }
    names
}

/// The watermark's columns are always read, also what computed ones among them are made of.
fn keep_time(table: &Table, used: &mut BTreeMap<String, super::required::Paths>) {
    let Some(watermark) = &table.watermark else { return };
    let mut expressions =
        vec![watermark.expression.clone(), sqlparser::ast::Expr::Identifier(watermark.column.clone())];
    // (A computed column is made of others, and of no computed ones.)
    while let Some(expression) = expressions.pop() {
        let _ = sqlparser::ast::visit_expressions(&expression, |e| {
            let name = match e {
                sqlparser::ast::Expr::Identifier(name) => Some(&name.value),
                sqlparser::ast::Expr::CompoundIdentifier(parts) => parts.first().map(|p| &p.value),
                _ => None,
            };
            if let Some(column) = name.and_then(|n| table.columns.iter().find(|c| c.name == *n)) {
                match &column.kind {
                    ColumnKind::Computed(expr) => expressions.push(expr.as_ref().clone()),
                    _ => drop(used.entry(column.name.clone()).or_default().insert(Vec::new())),
                }
            }
            std::ops::ControlFlow::<()>::Continue(())
        });
    }
}
