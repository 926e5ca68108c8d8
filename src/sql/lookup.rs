//! Lookup joins: `FROM o JOIN t FOR SYSTEM_TIME AS OF o.proc_time AS d ON d.key = o.key`.
//!
//! The table is asked for the rows of keys, epoch by epoch, and never read as a whole. DataFusion plans the statement as an
//! ordinary join and drops the `FOR SYSTEM_TIME AS OF`, so [`check`] looks at the syntax before: which tables may stand
//! there, and that the time is the row's processing time. The compile pass then makes of the join
//!
//! ```text
//!   Projection   columns of both sides; of a left join, NULL where the condition does not hold
//!     (Filter)   of an inner join: found, and the rest of ON
//!       Lookup   the stream's rows, the table's columns, and whether there is a row
//!         …      the stream
//! ```

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DFSchemaRef, JoinType, Result, TableReference, internal_err};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Extension, Filter, Join, LogicalPlan, Operator, Projection,
    UserDefinedLogicalNodeCore, when,
};
use datafusion::prelude::{cast, lit};
use sqlparser::ast::{Expr as SqlExpr, Query, TableFactor, TableVersion, Visit, Visitor};

use super::catalog::Catalog;
use super::compile::{Compiler, Kind, Piece, hidden_columns, visible_columns};
use super::errors::PlanError;
use super::statement::{ColumnKind, Statement};
use crate::contracts::Error;
use crate::operators::LookupTable;

/// Beginning of the names of what a lookup adds to its rows.
const ADDED: &str = "__tm_lookup";

/// A node of the logical plan: its input, the table's columns, and whether a row was found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct LookupNode {
    pub(crate) input: LogicalPlan,
    pub(crate) keys: Vec<Expr>,
    pub(crate) table: TableHandle,
    /// Tells the lookups of a query apart.
    number: usize,
    schema: DFSchemaRef,
}

/// The table; two lookups in one table are told apart by their numbers.
#[derive(Debug, Clone)]
pub(crate) struct TableHandle(pub(crate) Arc<LookupTable>);

impl PartialEq for TableHandle {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name()
    }
}

impl Eq for TableHandle {}

impl Hash for TableHandle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name().hash(state);
    }
}

impl PartialOrd for LookupNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.number.partial_cmp(&other.number)
    }
}

/// Name of a table's column behind lookup `number`.
fn added(number: usize, column: &str) -> String {
    format!("{ADDED}{number}_{column}")
}

/// Name of the column that says whether there was a row.
fn found(number: usize) -> String {
    format!("{ADDED}{number}")
}

impl LookupNode {
    fn try_new(input: LogicalPlan, keys: Vec<Expr>, table: TableHandle, number: usize) -> Result<Self> {
        let mut fields: Vec<(Option<TableReference>, Arc<Field>)> =
            input.schema().iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect();
        for field in table.0.schema().fields() {
            fields.push((None, Arc::new(Field::new(added(number, field.name()), field.data_type().clone(), true))));
        }
        fields.push((None, Arc::new(Field::new(found(number), DataType::Boolean, false))));
        let schema = Arc::new(DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?);
        Ok(Self { input, keys, table, number, schema })
    }
}

impl UserDefinedLogicalNodeCore for LookupNode {
    fn name(&self) -> &str {
        "Lookup"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.keys.clone()
    }

    fn prevent_predicate_push_down_columns(&self) -> std::collections::HashSet<String> {
        // Conditions on the stream's own columns go below: fewer keys are asked for.
        let own = self.schema.fields().iter().map(|field| field.name());
        own.filter(|name| name.starts_with(ADDED)).cloned().collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        write!(f, "Lookup: {} by {}", self.table.0.name(), keys.join(", "))
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        Self::try_new(inputs.swap_remove(0), exprs, self.table.clone(), self.number)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let input = self.input.schema();
        let mut needed: Vec<usize> =
            output_columns.iter().copied().filter(|index| *index < input.fields().len()).collect();
        for column in self.keys.iter().flat_map(Expr::column_refs) {
            needed.extend(input.maybe_index_of_column(column));
        }
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// The side of a join that is looked up: its table, and its columns as expressions over the table's.
struct Side {
    table: usize,
    outputs: Vec<Expr>,
}

impl Compiler<'_> {
    /// The join, if its right side is a table that is looked up.
    pub(crate) async fn lookup_join(&mut self, join: &Join) -> Result<Option<Piece>> {
        let Some(side) = self.side(&join.right) else {
            return match self.hidden_lookup(&join.right) {
                Some(table) => Err(only_looked_up(table.name()).into()),
                None => Ok(None),
            };
        };
        let Some(table) = self.tables[side.table].lookup.clone() else { return Ok(None) };
        if !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
            let what = format!("a {} join with a table that is looked up is not supported", join.join_type);
            return Err(PlanError::new(what).word("JOIN").hint("INNER JOIN, or LEFT JOIN").into());
        }
        let number = self.lookups.len();
        self.lookups.push(side.table);
        let (keys, rest) = conditions(join, &side, &table)?;
        let piece = Box::pin(self.compile(&join.left, true)).await?;
        if let Kind::Update { .. } = piece.kind {
            return Err(PlanError::new("a lookup join of an update stream is not supported yet")
                .word("JOIN")
                .hint("join first, then aggregate")
                .into());
        }
        let (visible, hidden) = (visible_columns(&piece.plan), hidden_columns(&piece.plan));
        let node = LookupNode::try_new(piece.plan, keys, TableHandle(table), number)?;
        let mut plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        // Columns of the right side become expressions over what the lookup adds.
        let outputs: Vec<Expr> = side.outputs.iter().map(|e| over_added(e, number)).collect::<Result<_>>()?;
        let right = join.right.schema();
        let output = |column: &Column| Some(outputs[right.maybe_index_of_column(column)?].clone());
        let rest: Vec<Expr> = rest.into_iter().map(|e| over_columns(e, output)).collect::<Result<_>>()?;
        let plain = rest.is_empty();
        let is_found = Expr::Column(Column::new_unqualified(found(number)));
        let holds = conjunction(std::iter::once(is_found).chain(rest)).unwrap_or_else(|| lit(true));
        let is_inner = join.join_type == JoinType::Inner;
        if is_inner {
            plan = LogicalPlan::Filter(Filter::try_new(holds.clone(), Arc::new(plan))?);
        }
        let mut exprs = visible;
        for ((qualifier, field), output) in right.iter().zip(&outputs) {
            let value = match output {
                // A column of no row is NULL by itself.
                Expr::Column(_) if plain => output.clone(),
                _ if is_inner => output.clone(),
                _ => when(holds.clone(), output.clone()).end()?,
            };
            exprs.push(value.alias_qualified(qualifier.cloned(), field.name()));
        }
        exprs.extend(hidden);
        let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?);
        Ok(Some(Piece { plan, ..piece }))
    }

    /// A table that is looked up somewhere within the plan.
    fn hidden_lookup(&self, plan: &LogicalPlan) -> Option<&LookupTable> {
        if let LogicalPlan::TableScan(scan) = plan {
            let table = self.tables.iter().find(|t| t.name == scan.table_name.table())?;
            return table.lookup.as_deref();
        }
        plan.inputs().into_iter().find_map(|input| self.hidden_lookup(input))
    }

    /// What the plan is, if it is a table that is looked up, under whatever name and with computed columns.
    fn side(&self, plan: &LogicalPlan) -> Option<Side> {
        match plan {
            LogicalPlan::TableScan(scan) => {
                let name = scan.table_name.table();
                let table = self.tables.iter().position(|t| t.name == name && t.lookup.is_some())?;
                let fields = scan.projected_schema.fields().iter();
                let outputs = fields.map(|field| Expr::Column(Column::new_unqualified(field.name()))).collect();
                Some(Side { table, outputs })
            }
            LogicalPlan::SubqueryAlias(alias) => self.side(&alias.input),
            LogicalPlan::Projection(projection) => {
                let below = self.side(&projection.input)?;
                let schema = projection.input.schema();
                let column = |column: &Column| Some(below.outputs[schema.maybe_index_of_column(column)?].clone());
                let output = |expr: &Expr| over_columns(expr.clone(), column).ok().map(Expr::unalias);
                let outputs = projection.expr.iter().map(output).collect::<Option<Vec<_>>>()?;
                Some(Side { table: below.table, outputs })
            }
            _ => None,
        }
    }
}

/// The error of a table that is looked up where it would be read.
pub(crate) fn only_looked_up(table: &str) -> PlanError {
    PlanError::new(format!("'{table}' can only be looked up: it stands on the right of a join, by itself"))
        .word(table)
        .hint("put conditions into the ON of the join")
}

/// An expression over a table's columns as one over what the lookup adds.
fn over_added(expr: &Expr, number: usize) -> Result<Expr> {
    over_columns(expr.clone(), |column| Some(Expr::Column(Column::new_unqualified(added(number, &column.name)))))
}

/// An expression with others in place of its columns, where there are such.
fn over_columns(expr: Expr, other: impl Fn(&Column) -> Option<Expr>) -> Result<Expr> {
    let replaced = expr.transform_up(|e| {
        let found = if let Expr::Column(column) = &e { other(column) } else { None };
        Ok(found.map_or_else(|| Transformed::no(e), Transformed::yes))
    })?;
    Ok(replaced.data)
}

/// The key's columns as expressions over the left side, in the key's order, and the conditions beside them.
fn conditions(join: &Join, side: &Side, table: &LookupTable) -> Result<(Vec<Expr>, Vec<Expr>)> {
    let (left, right) = (join.left.schema(), join.right.schema());
    let pairs = join
        .on
        .iter()
        .map(|(l, r)| Expr::BinaryExpr(BinaryExpr::new(l.clone().into(), Operator::Eq, r.clone().into())));
    let conjuncts = pairs.chain(join.filter.iter().cloned().flat_map(split_conjunction_owned));
    let fields = table.schema().fields();
    if table.key_names().is_empty() {
        let what = format!("table '{}' has no key to look rows up by", table.name());
        return Err(PlanError::new(what).word(table.name()).hint("declare PRIMARY KEY (…) NOT ENFORCED").into());
    }
    let mut keys: Vec<Option<Expr>> = vec![None; table.key_names().len()];
    let mut rest = Vec::new();
    // The key's column that an expression is, under a cast or not.
    let key_of = |expr: &Expr| -> Option<(usize, bool)> {
        let (column, is_cast) = match expr {
            Expr::Column(column) => (column, false),
            Expr::Cast(c) => (if let Expr::Column(column) = c.expr.as_ref() { column } else { return None }, true),
            _ => return None,
        };
        let Expr::Column(base) = &side.outputs[right.maybe_index_of_column(column)?] else { return None };
        let place = table.key_names().iter().position(|name| *name == base.name)?;
        Some((place, is_cast))
    };
    let of_left = |expr: &Expr| {
        let columns = expr.column_refs();
        columns.iter().all(|c| left.maybe_index_of_column(c).is_some() && right.maybe_index_of_column(c).is_none())
    };
    for conjunct in conjuncts {
        let sides = match &conjunct {
            Expr::BinaryExpr(BinaryExpr { left: a, op: Operator::Eq, right: b }) => {
                [(a, b), (b, a)].into_iter().find_map(|(key, value)| Some((key_of(key)?, value)))
            }
            _ => None,
        };
        match sides {
            Some(((place, is_cast), value)) if keys[place].is_none() && of_left(value) => {
                let Some((_, field)) = fields.find(&table.key_names()[place]) else {
                    return internal_err!("a key's column without a type");
                };
                if is_cast {
                    let what = format!(
                        "'{}' is {}, and is compared with another type",
                        field.name(),
                        super::types::flink_name(field.data_type())
                    );
                    let hint = format!("CAST the other side AS {}", super::types::flink_name(field.data_type()));
                    return Err(PlanError::new(what).word(field.name()).hint(hint).into());
                }
                let same = value.get_type(left)? == *field.data_type();
                let value = value.as_ref().clone();
                keys[place] = Some(if same { value } else { cast(value, field.data_type().clone()) });
            }
            _ => rest.push(conjunct),
        }
    }
    if let Some(missing) = keys.iter().position(Option::is_none) {
        let names = table.key_names();
        let what = format!("the join does not say which '{}' of '{}' it wants", names[missing], table.name());
        return Err(PlanError::new(what)
            .word(table.name())
            .hint(format!("rows are looked up by their whole key: ON d.{} = …", names.join(" = … AND d.")))
            .into());
    }
    Ok((keys.into_iter().flatten().collect(), rest))
}

/// Refuses tables that are looked up where they would be read, times that are no processing time, and samples: DataFusion drops both words.
pub(crate) fn check(query: &Query, catalog: &Catalog, statement: &Statement) -> crate::contracts::Result<()> {
    match query.visit(&mut Factors { catalog, statement }) {
        ControlFlow::Break(error) => Err(*error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Factors<'a> {
    catalog: &'a Catalog,
    statement: &'a Statement,
}

impl Visitor for Factors<'_> {
    type Break = Box<Error>;

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        if let TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } = factor {
            let place = super::errors::find(self.statement, "TABLESAMPLE", None);
            return ControlFlow::Break(Box::new(
                Error::sql("TABLESAMPLE is not supported")
                    .at(place)
                    .hint("choose rows by what they are: WHERE MOD(id, 10) = 0"),
            ));
        }
        let TableFactor::Table { name, version, .. } = factor else { return ControlFlow::Continue(()) };
        let Some(ident) = name.0.last().and_then(|part| part.as_ident()) else { return ControlFlow::Continue(()) };
        let Some(table) = self.catalog.table(&ident.value) else { return ControlFlow::Continue(()) };
        let error = match version {
            None if table.is_looked_up() => {
                let shown = ident.value.split(super::text::HINT_MARK).next().unwrap_or_default();
                Error::sql(format!("'{shown}' is a table of '{}': it is looked up by its key, not read", table.connector))
                    .at(self.statement.at(ident.span))
                    .hint(format!(
                        "JOIN {shown} FOR SYSTEM_TIME AS OF o.proc_time AS d ON d.key = o.key, where o has proc_time AS PROCTIME()"
                    ))
            }
            Some(TableVersion::ForSystemTimeAsOf(time)) if table.is_looked_up() && !self.is_processing_time(time) => {
                Error::sql(format!("a lookup join takes the processing time of the row, and '{time}' is none"))
                    .at(self.statement.at(ident.span))
                    .hint(
                        "declare proc_time AS PROCTIME() in CREATE TABLE, and write FOR SYSTEM_TIME AS OF o.proc_time",
                    )
            }
            Some(TableVersion::ForSystemTimeAsOf(time))
                if table.can_be_reference() && !self.is_processing_time(time) =>
            {
                let shown = ident.value.split(super::text::HINT_MARK).next().unwrap_or_default();
                Error::sql(format!("a join has the rows that '{shown}' has now, and not those of '{time}'"))
                    .at(self.statement.at(ident.span))
                    .hint(format!("JOIN {shown} without FOR SYSTEM_TIME AS OF, if those of now will do"))
            }
            _ => return ControlFlow::Continue(()),
        };
        ControlFlow::Break(Box::new(error))
    }
}

impl Factors<'_> {
    /// `PROCTIME()`, or a column that some table declares so, or that no table declares (a view may give it).
    fn is_processing_time(&self, time: &SqlExpr) -> bool {
        let name = match time {
            SqlExpr::Identifier(name) => name,
            SqlExpr::CompoundIdentifier(parts) => match parts.last() {
                Some(name) => name,
                None => return false,
            },
            other => return is_proctime(other),
        };
        let columns = self.catalog.tables.values().flat_map(|table| &table.columns);
        let mut named = columns.filter(|column| column.name == name.value).peekable();
        named.peek().is_none()
            || named.any(|column| matches!(&column.kind, ColumnKind::Computed(expr) if is_proctime(expr)))
    }
}

fn is_proctime(expr: &SqlExpr) -> bool {
    matches!(expr, SqlExpr::Function(call) if call.name.to_string().eq_ignore_ascii_case("PROCTIME"))
}
