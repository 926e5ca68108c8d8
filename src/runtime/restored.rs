//! Queries are given the states that a run goes on from, side by side.

use super::crew::Crew;
use super::worker::QuerySpec;
use crate::contracts::{Error, Result};
use crate::operators::{Compute, RestoreRoom};
use crate::state::{SavedJob, SavedQuery};

/// A query that has its state.
pub(super) struct RestoredQuery {
    pub(super) query: QuerySpec,
    /// What its writer is to have of what was saved: without the states of operators.
    pub(super) saved: Option<SavedQuery>,
}

/// Gives queries their states.
///
/// # Errors
/// The first one in their order.
pub(super) async fn restore_queries(
    queries: Vec<QuerySpec>,
    saved: &mut SavedJob,
    compute: &Compute,
    crew: &Crew,
) -> Result<Vec<RestoredQuery>> {
    let room = compute.limit.clone().map(RestoreRoom::new);
    let restore = |query: QuerySpec| {
        let saved = saved.queries.remove(&query.name);
        crew.spawn(restore_query(query, saved, room.clone(), compute.clone()))
    };
    let tasks: Vec<_> = queries.into_iter().map(restore).collect();
    let mut restored = Vec::with_capacity(tasks.len());
    for task in tasks {
        restored.push(task.await.map_err(|e| Error::internal("a query's task ended early").caused_by(e))??);
    }
    Ok(restored)
}

async fn restore_query(
    mut query: QuerySpec,
    mut saved: Option<SavedQuery>,
    room: Option<RestoreRoom>,
    compute: Compute,
) -> Result<RestoredQuery> {
    if let Some(saved) = &mut saved {
        let operators = std::mem::take(&mut saved.operators);
        let restored = query.graph.restore(operators, room.as_ref(), &compute).await;
        restored.map_err(|e| e.context(format!("query '{}'", query.name)))?;
    }
    Ok(RestoredQuery { query, saved })
}
