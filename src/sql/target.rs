//! What an INSERT writes: the table, and which of its columns.

use datafusion::arrow::datatypes::Field;

use super::catalog::{Catalog, InsertQuery, Table};
use crate::contracts::{Error, Result};

impl Catalog {
    /// The sink's table and the columns that the INSERT writes.
    pub(crate) fn target(&self, insert: &InsertQuery) -> Result<(Table, Vec<Field>)> {
        let statement = &insert.statement;
        let name = &insert.insert.table.value;
        let place = || statement.at(insert.insert.table.span);
        if let Some(view) = self.views.get(name) {
            return Err(Error::sql(format!("'{name}' is a view; rows go into tables"))
                .at(place())
                .at(view.statement.at(view.name_span)));
        }
        let Some(table) = self.table(name) else {
            let error = Error::sql(format!("table '{name}' not found")).at(place());
            return Err(super::catalog::with_nearest(error, name, self.tables.keys().map(String::as_str)));
        };
        let writable = table.writable();
        if insert.insert.columns.is_empty() {
            return Ok((table, writable));
        }
        let mut columns = Vec::new();
        for column in &insert.insert.columns {
            if columns.iter().any(|f: &Field| *f.name() == column.value) {
                let error = Error::sql(format!("the INSERT names the column '{}' twice", column.value));
                return Err(error.at(statement.at(column.span)));
            }
            let Some(field) = writable.iter().find(|f| *f.name() == column.value) else {
                let error = Error::sql(format!("'{name}' has no column '{}' to write", column.value));
                let error = error.at(statement.at(column.span));
                return Err(super::catalog::with_nearest(
                    error,
                    &column.value,
                    writable.iter().map(|f| f.name().as_str()),
                ));
            };
            columns.push(field.clone());
        }
        for (column, _) in &insert.insert.partition {
            if let Some(field) = writable.iter().find(|f| *f.name() == column.value)
                && !columns.iter().any(|c| c.name() == field.name())
            {
                columns.push(field.clone());
            }
        }
        Ok((table, columns))
    }
}
