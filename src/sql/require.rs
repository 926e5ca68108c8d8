//! `REQUIRE(condition, 'reason')`: a condition whose failures are reported, not dropped.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, Projection, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::compile::Compiler;
use super::errors::PlanError;
use super::required::path_of;
use crate::operators::GateKind;

/// The function as the planner knows it; the compiler turns it into a gate, so it is never called.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Require {
    signature: Signature,
}

impl Require {
    pub(crate) fn new() -> Self {
        let types = vec![DataType::Boolean, DataType::Utf8View];
        // Volatile, so that no rule moves or doubles it.
        Self { signature: Signature::exact(types, Volatility::Volatile) }
    }
}

impl ScalarUDFImpl for Require {
    fn name(&self) -> &str {
        "require"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("REQUIRE stands only as a condition of WHERE, joined to others by AND")
    }
}

/// Condition and reason, if `conjunct` is a call of REQUIRE. One deeper in an expression is an error.
pub(crate) fn is_require(conjunct: &Expr) -> Result<Option<(Expr, String)>> {
    if let Expr::ScalarFunction(ScalarFunction { func, args }) = conjunct
        && func.name() == "require"
    {
        let reason = match &args[1] {
            Expr::Literal(value, _) => value.try_as_str().flatten().map(str::to_owned),
            Expr::Cast(cast) => match cast.expr.as_ref() {
                Expr::Literal(value, _) => value.try_as_str().flatten().map(str::to_owned),
                _ => None,
            },
            _ => None,
        };
        let Some(reason) = reason else {
            return Err(PlanError::new("the reason of REQUIRE must be a text in quotes").word("REQUIRE").into());
        };
        return Ok(Some((args[0].clone(), reason)));
    }
    refuse_require(conjunct)?;
    Ok(None)
}

/// Whether a WHERE of the plan has a REQUIRE.
pub(crate) fn has_require(plan: &LogicalPlan) -> Result<bool> {
    plan.exists(|node| {
        let LogicalPlan::Filter(filter) = node else { return Ok(false) };
        Ok(split_conjunction(&filter.predicate).into_iter().any(|e| !matches!(is_require(e), Ok(None))))
    })
}

/// REQUIRE means something only as a condition of its own.
pub(crate) fn refuse_require(expr: &Expr) -> Result<()> {
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
    let mut found = false;
    expr.apply(|e| {
        found |= matches!(e, Expr::ScalarFunction(f) if f.func.name() == "require");
        Ok(TreeNodeRecursion::Continue)
    })?;
    if found {
        return Err(PlanError::new("REQUIRE stands only as a condition of WHERE, joined to others by AND")
            .word("REQUIRE")
            .hint("WHERE other_conditions AND REQUIRE(condition, 'reason')")
            .into());
    }
    Ok(())
}

/// Begins the names of fields that the condition of a gate reads.
const GATE_FIELD: &str = "__tm_gate_";

impl Compiler<'_> {
    /// A gate whose condition reads the fields that it names, not the whole of the columns they are in: nothing would
    /// push that reading through a gate, and all of a wide ROW would have to come up to it.
    pub(super) fn require(&mut self, input: LogicalPlan, condition: Expr, reason: String) -> Result<LogicalPlan> {
        let own: Vec<Expr> =
            input.schema().iter().map(|(q, f)| Expr::Column(Column::new(q.cloned(), f.name()))).collect();
        let mut fields: Vec<Expr> = Vec::new();
        let condition = condition.transform_down(|expr| match path_of(&expr, input.schema()) {
            Some((_, path)) if !path.is_empty() => {
                let at = fields.iter().position(|field| *field == expr).unwrap_or_else(|| {
                    fields.push(expr);
                    fields.len() - 1
                });
                let column = Expr::Column(Column::from_name(format!("{GATE_FIELD}{at}")));
                Ok(Transformed::new(column, true, TreeNodeRecursion::Jump))
            }
            _ => Ok(Transformed::no(expr)),
        })?;
        if fields.is_empty() {
            return Ok(self.gate(input, condition.data, GateKind::Require(reason)));
        }
        let named = fields.into_iter().enumerate().map(|(at, field)| field.alias(format!("{GATE_FIELD}{at}")));
        let exprs = own.iter().cloned().chain(named).collect();
        let below = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?);
        let gate = self.gate(below, condition.data, GateKind::Require(reason));
        Ok(LogicalPlan::Projection(Projection::try_new(own, Arc::new(gate))?))
    }
}
