//! Checks of tables against what their connectors say of themselves.

use std::collections::BTreeSet;

use super::catalog::{Catalog, Table, nearest, relations, with_nearest};
use super::statement::ColumnKind;
use super::text::HINT_MARK;
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
        let ColumnKind::Metadata { key, .. } = &column.kind else { continue };
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
