//! The connector `print`: a line for each change, as Flink prints it: `+I[1, hello]`.
//!
//! The first row of a key in an update stream is `+I`, later ones are `+U`; Flink's `-U` before a `+U` is
//! not printed, since the sink is not told the old row.
//!
//! Where nobody reads the output any more, the job ends. Where somebody reads slowly (`| less`), it waits.

mod values;

use std::collections::HashSet;
use std::io::{ErrorKind, Write, stderr, stdout};

use arrow::row::{RowConverter, SortField};
use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::contracts::{ChangeKind, Changes, EpochNumber, Error, Result, Sink, TableSpec, WriteOutcome};

use super::options::Options;
use values::PrintColumn;

/// Keys that are remembered to tell `+I` from `+U`; beyond it every change is `+U`.
const REMEMBERED_KEYS: usize = 1 << 20;

/// Prints rows.
pub(super) struct Print {
    prefix: String,
    to_stderr: bool,
    keys: Vec<usize>,
    seen: HashSet<Box<[u8]>>,
}

impl Print {
    pub(super) fn try_new(spec: &TableSpec) -> Result<Self> {
        let prefix = match spec.option("print-identifier") {
            Some(name) if !name.is_empty() => format!("{name}> "),
            _ => String::new(),
        };
        let keys = spec.primary_key.iter().filter_map(|k| spec.schema.index_of(k).ok()).collect();
        Ok(Self { prefix, to_stderr: Options(spec).bool("standard-error", false)?, keys, seen: HashSet::new() })
    }

    /// `+I`, `+U` or `-D` for each row.
    fn kinds(&mut self, changes: &Changes) -> Result<Vec<&'static str>> {
        let rows = changes.batch.num_rows();
        let Some(kinds) = &changes.kinds else { return Ok(vec!["+I"; rows]) };
        if self.keys.is_empty() {
            return Ok(kinds.iter().map(|k| if *k == ChangeKind::Delete { "-D" } else { "+U" }).collect());
        }
        let columns: Vec<_> = self.keys.iter().map(|k| changes.batch.column(*k).clone()).collect();
        let types = columns.iter().map(|c| SortField::new(c.data_type().clone())).collect();
        let keys = RowConverter::new(types)?.convert_columns(&columns)?;
        let kind = |(row, kind): (usize, &ChangeKind)| {
            let key = keys.row(row);
            let key: &[u8] = key.as_ref();
            if *kind == ChangeKind::Delete {
                self.seen.remove(key);
                return "-D";
            }
            let known = self.seen.contains(key) || self.seen.len() >= REMEMBERED_KEYS;
            if known {
                return "+U";
            }
            self.seen.insert(key.into());
            "+I"
        };
        Ok(kinds.iter().enumerate().map(kind).collect())
    }
}

#[async_trait]
impl Sink for Print {
    async fn write(&mut self, _epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        let kinds = self.kinds(&changes)?;
        let columns = changes.batch.columns().iter().map(PrintColumn::try_new).collect::<Result<Vec<_>>>()?;
        let mut out = String::new();
        for (row, kind) in kinds.into_iter().enumerate() {
            out.push_str(&self.prefix);
            out.push_str(kind);
            out.push('[');
            for (at, column) in columns.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                column.write(row, &mut out);
            }
            out.push_str("]\n");
        }
        write(self.to_stderr, out).await?;
        Ok(WriteOutcome { written: changes.batch.num_rows() as u64, refused: Vec::new() })
    }

    async fn flush(&mut self, _epoch: EpochNumber, _now_ms: i64) -> Result<WriteOutcome> {
        Ok(WriteOutcome::default())
    }
}

/// Writes to standard output, or to standard error, and flushes it.
///
/// On a thread of its own: a reader that stands still must hold up neither other work of the runtime's threads nor, as the runtime's pool for
/// work that blocks would, its end.
///
/// # Errors
/// `config` with a broken pipe as its cause where there is no reader any more: trying again would not bring it back.
async fn write(to_stderr: bool, text: String) -> Result<()> {
    let (done, written) = oneshot::channel();
    let work = move || {
        let written = match to_stderr {
            true => stderr().lock().write_all(text.as_bytes()),
            false => {
                let mut out = stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush())
            }
        };
        // Whoever does not wait any more has ended the run.
        let _ = done.send(written);
    };
    let thread = std::thread::Builder::new().name("print".to_owned()).spawn(work);
    thread.map_err(|e| Error::unavailable("cannot start a thread").caused_by(e))?;
    let written = written.await.map_err(|e| Error::internal("a thread that prints died").caused_by(e))?;
    written.map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Error::config("nobody reads the output any more").caused_by(e),
        _ => Error::unavailable("the output could not be written").caused_by(e),
    })
}
