//! `UNION ALL`: the rows of several sub-plans with the same columns.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, Union};
use datafusion::prelude::lit;

use super::compile::{Compiler, HIDDEN, Kind, Mode, Piece, column, has_hidden, visible_columns};
use super::errors::PlanError;
use crate::operators::{WATERMARK_COLUMN, WEIGHT_COLUMN};

impl Compiler<'_> {
    pub(super) async fn union(&mut self, union: &Union, deltas: bool) -> Result<Piece> {
        let mut pieces = Vec::new();
        for input in &union.inputs {
            pieces.push(Box::pin(self.compile(input, deltas)).await?);
        }
        let still = pieces.iter().filter(|p| p.kind == Kind::Still).count();
        if still > 0 && still < pieces.len() && self.mode == Mode::Stream {
            return Err(PlanError::new("a UNION of constant rows with those of a stream is not supported yet")
                .word("UNION")
                .hint("give the constant rows with an INSERT of their own (INSERT INTO … VALUES …); below an aggregation they must come with the records of a source")
                .into());
        }
        let updates = pieces.iter().any(|p| matches!(p.kind, Kind::Update { .. }));
        let weighed = pieces.iter().any(|p| p.kind == Kind::Update { deltas: true });
        let watermarked = pieces.iter().any(|p| has_hidden(&p.plan, WATERMARK_COLUMN));
        // All inputs must have the same columns: hidden ones that only some have are dropped, but for the weight, which rows that are final
        // have implicitly, and the watermark: rows of closed windows come as event time passes them, and are never late.
        let common: Vec<&str> = HIDDEN
            .iter()
            .copied()
            .filter(|name| ![WATERMARK_COLUMN, WEIGHT_COLUMN].contains(name))
            .filter(|name| pieces.iter().all(|p| has_hidden(&p.plan, name)))
            .collect();
        let mut inputs = Vec::new();
        let mut slots = Vec::new();
        for piece in pieces {
            let own_or = |name: &str, other: Expr| match has_hidden(&piece.plan, name) {
                true => column(&piece.plan, name),
                false => other.alias(name),
            };
            let mut exprs = visible_columns(&piece.plan);
            exprs.extend(watermarked.then(|| own_or(WATERMARK_COLUMN, lit(i64::MIN))));
            exprs.extend(common.iter().map(|name| column(&piece.plan, name)));
            exprs.extend(weighed.then(|| own_or(WEIGHT_COLUMN, lit(1i8))));
            inputs.push(Arc::new(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(piece.plan))?)));
            slots.extend(piece.inputs);
        }
        let plan = LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?);
        let kind = match updates {
            true => Kind::Update { deltas: weighed },
            // All of them: once, as VALUES are.
            false if still == union.inputs.len() => Kind::Still,
            false => Kind::Append { closed: BTreeSet::new() },
        };
        Ok(Piece { plan, inputs: slots, kind })
    }
}
