//! Reference tables of a run: what each epoch joins with.
//!
//! ```text
//!  new epoch        the table as it is ─► kept beside the checkpoints, under a digest ─► the cut names it
//!  repeated epoch   the cut names a digest ─► the rows that were kept; the table as it is does not matter
//! ```
//!
//! The first new epoch after repeated ones looks at the table again. A digest is made when rows have been loaded, not for each epoch.
//! Where nothing outlives the run, nothing is kept.
//!
//! A table that is away while queries have rows of it stays as they have it, until it is there again: whoever replaces files has moments, or
//! minutes, without any. Queries that have none yet get an error: to join with nothing would be wrong for good.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

use crate::contracts::{Clock, EpochCut, Error, Outage, Polled, ReferenceLoader, Result};
use crate::state::ReferenceVersions;

/// A reference table.
pub struct ReferenceSpecification {
    /// Its name in SQL: what cuts and manifests call it.
    pub name: String,
    /// Columns that queries use.
    pub schema: SchemaRef,
    /// Bytes of columns that it may have; `None` is without a bound.
    pub most_bytes: Option<usize>,
    /// Loads it.
    pub loader: Box<dyn ReferenceLoader>,
}

/// The reference tables of a run.
pub(super) struct References {
    tables: Vec<Table>,
    /// Where versions are kept.
    versions: Option<Arc<ReferenceVersions>>,
    clock: Arc<dyn Clock>,
}

struct Table {
    specification: ReferenceSpecification,
    /// Digest of what the queries have, where it is kept.
    version: Option<String>,
    /// Whether the queries have rows of it.
    is_in_use: bool,
    /// It is away.
    away: Option<Outage>,
}

impl References {
    pub(super) fn new(
        tables: Vec<ReferenceSpecification>,
        versions: Option<Arc<ReferenceVersions>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let table = |specification| Table { specification, version: None, is_in_use: false, away: None };
        Self { tables: tables.into_iter().map(table).collect(), versions, clock }
    }

    /// Rows of each table, where they are others than those of the epoch before. For an epoch that is repeated, `logged` is its cut.
    ///
    /// # Errors
    /// A table that cannot be loaded, or is away at a start; a version that cannot be kept; `corrupt` when rows that a repeated epoch had are not there any more.
    pub(super) async fn of_epoch(&mut self, logged: Option<&EpochCut>) -> Result<Vec<Option<RecordBatch>>> {
        let mut changed = Vec::with_capacity(self.tables.len());
        for table in &mut self.tables {
            let named = logged.and_then(|cut| Some((cut.epoch, cut.references.get(&table.specification.name)?)));
            changed.push(match (named, &self.versions) {
                (Some((epoch, digest)), Some(versions)) => table.as_logged(epoch, digest, versions).await?,
                (_, versions) => table.as_it_is(versions.as_deref(), self.clock.elapsed()).await?,
            });
            table.is_in_use = true;
        }
        Ok(changed)
    }

    /// Digests of what the queries have, for the cut of a new epoch.
    pub(super) fn noted(&self, epoch: u64) -> BTreeMap<String, String> {
        let Some(versions) = &self.versions else { return BTreeMap::new() };
        let named = |table: &Table| Some((table.specification.name.clone(), table.version.clone()?));
        let named = self.tables.iter().filter_map(named).collect();
        versions.note(epoch, &named);
        named
    }
}

impl Table {
    /// The rows that are there now, if the queries have not got them.
    async fn as_it_is(&mut self, versions: Option<&ReferenceVersions>, now: Duration) -> Result<Option<RecordBatch>> {
        let polled = self.specification.loader.poll().await?;
        if let Polled::Away(error) = polled {
            return if self.is_in_use { Ok(self.stays(&error, now)) } else { Err(error) };
        }
        if self.away.take().is_some() {
            tracing::info!("reference table '{}' is there again", self.specification.name);
        }
        let Polled::Changed(rows) = polled else { return Ok(None) };
        let Some(versions) = versions else { return Ok(Some(rows)) };
        let name = &self.specification.name;
        let digest = versions.keep(name, &rows).await.map_err(|e| of_table(name, e))?;
        let is_new = self.version.as_ref() != Some(&digest);
        self.version = Some(digest);
        Ok(is_new.then_some(rows))
    }

    /// The queries go on with the rows that they have.
    fn stays(&mut self, error: &Error, now: Duration) -> Option<RecordBatch> {
        let away = self.away.get_or_insert(Outage::new(now, Duration::ZERO));
        if away.to_tell(now).is_some() {
            tracing::warn!("its rows of before stay in use until there are others: {error}");
        }
        None
    }

    /// The rows that an epoch had, if the queries have not got them.
    async fn as_logged(
        &mut self,
        epoch: u64,
        digest: &str,
        versions: &ReferenceVersions,
    ) -> Result<Option<RecordBatch>> {
        if self.version.as_deref() == Some(digest) {
            return Ok(None);
        }
        let ReferenceSpecification { name, schema, most_bytes, loader } = &mut self.specification;
        let context = |error: Error| of_table(name, error).context(format!("epoch {epoch} is repeated"));
        match versions.load(digest, schema, *most_bytes).await.map_err(context)? {
            Ok(rows) => {
                loader.forget();
                self.version = Some(digest.to_owned());
                Ok(Some(rows))
            }
            // What is there may be the same: then nothing is lost.
            Err(lost) => {
                let Ok(Polled::Changed(rows)) = loader.poll().await else { return Err(context(lost)) };
                if ReferenceVersions::digest(&rows).await? != digest {
                    return Err(context(lost));
                }
                self.version = Some(versions.keep(name, &rows).await.map_err(context)?);
                Ok(Some(rows))
            }
        }
    }
}

fn of_table(name: &str, error: Error) -> Error {
    error.context(format!("reference table '{name}'"))
}
