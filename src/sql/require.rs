//! `REQUIRE(condition, 'reason')`: a condition whose failures are reported, not dropped.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::errors::PlanError;

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
