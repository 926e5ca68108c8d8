//! Checks of tables against what their connectors say of themselves.

use std::collections::BTreeSet;

use datafusion::arrow::compute::can_cast_types;

use super::catalog::{Catalog, Table, nearest, relations, with_nearest};
use super::statement::ColumnKind;
use super::text::HINT_MARK;
use super::types::flink_name;
use crate::connectors::describe::{Role, Updates, connector, names};
use crate::connectors::options::Severity;
use crate::connectors::validate_options;
use crate::contracts::Error;

/// Checks connectors, options, formats and metadata columns of all tables that are used.
pub(crate) fn check_tables(catalog: &Catalog, warnings: &mut Vec<String>, errors: &mut Vec<Error>) {
    let queries = catalog.inserts.iter().map(|i| i.insert.query.as_ref());
    let queries = queries.chain(catalog.views.values().map(|v| v.query.as_ref()));
    let base = |name: String| name.split(HINT_MARK).next().unwrap_or_default().to_owned();
    let read: BTreeSet<String> = queries.flat_map(relations).map(base).collect();
    let written: BTreeSet<String> = catalog.inserts.iter().map(|i| base(i.insert.table.value.clone())).collect();
    for table in catalog.tables.values() {
        let roles = [(Role::Source, read.contains(&table.name)), (Role::Sink, written.contains(&table.name))];
        let roles: Vec<Role> = roles.into_iter().filter_map(|(role, used)| used.then_some(role)).collect();
        check_table(table, &roles, warnings, errors);
    }
    for name in catalog.hinted_names() {
        let (Some(table), Some(place)) = (catalog.table(&name), catalog.hint_place(&name)) else { continue };
        let own = catalog.tables.get(&base(name));
        for problem in validate_options(&table.connector, &table.options, Role::Source) {
            let is_new = own.is_none_or(|own| own.option(&problem.key) != table.option(&problem.key));
            if problem.severity == Severity::Note || !is_new {
                continue;
            }
            let error = Error::sql(problem.message).at(place.clone());
            errors.push(match problem.hint {
                Some(hint) => error.hint(hint),
                None => error,
            });
        }
    }
}

fn check_table(table: &Table, roles: &[Role], warnings: &mut Vec<String>, errors: &mut Vec<Error>) {
    let Some(description) = connector(&table.connector) else {
        let error = Error::sql(format!("there is no connector '{}'", table.connector))
            .at(table.option_place("connector", true));
        errors.push(match nearest(&table.connector, names()) {
            Some(near) => error.hint(format!("did you mean '{near}'?")),
            None => error.hint(format!("there are {}", names().collect::<Vec<_>>().join(", "))),
        });
        return;
    };
    for role in roles {
        let (can, what) = match role {
            Role::Source => (description.can_read, "read"),
            Role::Sink => (description.can_write, "written"),
        };
        if !can {
            let error =
                Error::sql(format!("'{}' is a table of '{}', which cannot be {what}", table.name, table.connector));
            errors.push(error.at(table.option_place("connector", true)));
        }
    }
    if table.connector == "dynamodb" && table.primary_key.len() > 2 {
        let what = format!(
            "table '{}' has {} key columns; DynamoDB has a hash key and at most one range key",
            table.name,
            table.primary_key.len()
        );
        let error = Error::sql(what).at(table.statement.at(table.name_span));
        errors.push(error.hint("join several columns into one: CONCAT(a, '#', b)"));
    }
    let mut seen = BTreeSet::new();
    let checked = if roles.is_empty() { &[Role::Source][..] } else { roles };
    for role in checked {
        for problem in validate_options(&table.connector, &table.options, *role) {
            let is_note = problem.severity == Severity::Note;
            // An option of the other role is no news where the table has both.
            if !seen.insert((problem.key.clone(), is_note)) || (is_note && roles.len() != 1) {
                continue;
            }
            if is_note {
                warnings.push(format!("table '{}': {}", table.name, problem.message));
                continue;
            }
            let is_value = problem.message.starts_with("option '") || problem.key == "format";
            let error = Error::sql(format!("table '{}': {}", table.name, problem.message));
            let error = error.at(table.option_place(&problem.key, is_value));
            errors.push(match problem.hint {
                Some(hint) => error.hint(hint),
                None => error,
            });
        }
    }
    for column in &table.columns {
        if let ColumnKind::Physical { data_type, .. } = &column.kind
            && table.option("format") == Some("csv")
            && data_type.is_nested()
        {
            let what = format!("'{}' is {}, which the format csv cannot hold", column.name, flink_name(data_type));
            let error = Error::sql(what).at(table.statement.at(column.span));
            errors.push(error.hint("use 'format' = 'json', or a STRING"));
        }
        let ColumnKind::Metadata { key, data_type, nullable, .. } = &column.kind else { continue };
        let is_time = table.watermark.as_ref().is_some_and(|watermark| watermark.column.value == column.name);
        if key == "watermark" && (!nullable || is_time) {
            let not = if is_time { "the time column" } else { "NOT NULL" };
            let what = format!("'{}' cannot be {not}: before its first record a split has no watermark", column.name);
            errors.push(
                Error::sql(what)
                    .at(table.statement.at(column.span))
                    .hint("declare it without NOT NULL, beside a time column"),
            );
        }
        if let Some(known) = description.metadata.iter().find(|m| m.key == key)
            && let known = (known.data_type)()
            && (data_type.is_nested() != known.is_nested() || !can_cast_types(&known, data_type))
        {
            let what = format!("metadata '{key}' is {}, not {}", flink_name(&known), flink_name(data_type));
            errors.push(Error::sql(what).at(table.statement.at(column.span)));
        }
        if !description.metadata.iter().any(|m| m.key == key) {
            let error = Error::sql(format!("connector '{}' has no metadata '{key}'", table.connector));
            let error = error.at(table.statement.at(column.span));
            let keys = description.metadata.iter().map(|m| m.key);
            errors.push(match description.metadata {
                [] => error,
                _ if nearest(key, keys.clone()).is_some() => with_nearest(error, key, keys),
                _ => error.hint(format!("it has {}", keys.collect::<Vec<_>>().join(", "))),
            });
        }
    }
}

/// Whether the sink takes update streams without a key.
pub(crate) fn takes_anything(name: &str) -> bool {
    connector(name).is_some_and(|c| c.updates == Updates::Any)
}

/// Whether the sink takes final rows only, key or not.
pub(crate) fn append_only(name: &str) -> bool {
    connector(name).is_some_and(|c| c.updates == Updates::AppendOnly)
}
