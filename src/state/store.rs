//! A folder of saved states: `<n>.json` says where reading stands, `<n>-<query>-<operator>.arrow` holds the
//! state rows of an operator as an Arrow IPC file.
//!
//! A state is whole or not there: its Arrow files are written first, then the manifest under a temporary
//! name, which is renamed when it is on disk. The newest manifest is the state. The manifest has the checksum of each
//! Arrow file, and one of itself in its last line, so that no damage goes unnoticed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use serde::{Deserialize, Serialize};

use super::checksum::{Summing, hex_digest, hex_digest_of};
use super::epoch_log::{self, FileEpochLog};
use crate::contracts::{Error, LogEntry, Position, Result, SourceProgress, SplitId, SplitProgress, Watermark};

/// Version of the layout; a newer one is refused.
const VERSION: u32 = 2;
/// What stands before and behind the manifest's own checksum, which covers everything before.
const CHECKSUM: (&str, &str) = (",\n  \"checksum\": \"", "\"\n}\n");

/// State of a job between two runs.
#[derive(Debug, Clone, Default)]
pub struct SavedJob {
    /// The last epoch.
    pub epoch: u64,
    /// By source table.
    pub tables: BTreeMap<String, SavedTable>,
    /// Fingerprint, watermark and state rows of each operator, by query.
    pub queries: BTreeMap<String, Vec<OperatorState>>,
}

/// State of one operator.
#[derive(Debug, Clone)]
pub struct OperatorState {
    /// What the operator computes; another one cannot take this state.
    pub fingerprint: String,
    /// Its event time.
    pub watermark: Watermark,
    /// Its rows.
    pub rows: Vec<RecordBatch>,
}

/// Positions and time of a source table.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SavedTable {
    /// By split.
    pub splits: BTreeMap<String, SavedSplit>,
    /// Windows up to here have fired whatever the splits say, in milliseconds.
    pub floor: i64,
    /// What the source itself wants to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl SavedTable {
    /// The same as the source knows it.
    pub fn progress(&self) -> SourceProgress {
        let split = |(id, saved): (&String, &SavedSplit)| {
            let progress = SplitProgress { after_exclusive: saved.position(), finished: saved.finished };
            (SplitId(id.as_str().into()), progress)
        };
        SourceProgress { splits: self.splits.iter().map(split).collect(), state: self.source.clone() }
    }
}

/// Where reading stands in a split.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedSplit {
    /// Name of the last record that counted; reading resumes after it.
    pub after_exclusive: Option<String>,
    /// The split's watermark, in milliseconds.
    pub watermark_ms: i64,
    /// Whether the split has ended.
    pub finished: bool,
}

impl SavedSplit {
    /// The position as the source knows it.
    pub fn position(&self) -> Option<Position> {
        self.after_exclusive.as_deref().map(|text| Position(text.into()))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    program: String,
    epoch: u64,
    tables: BTreeMap<String, SavedTable>,
    queries: BTreeMap<String, Vec<SavedOperator>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedOperator {
    fingerprint: String,
    watermark_ms: i64,
    /// Name of the Arrow file; none when there are no rows.
    file: Option<String>,
    /// SHA-256 of that file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
    rows: u64,
}

/// The saved states of one job.
#[derive(Debug)]
pub struct StateStore {
    folder: PathBuf,
}

impl StateStore {
    /// States in `folder`, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Numbers of the saved states, growing.
    pub fn numbers(&self) -> Result<Vec<u64>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failed("list", &self.folder, error)),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| self.failed("list", &self.folder, e))?;
            let name = entry.file_name();
            numbers.extend(name.to_string_lossy().strip_suffix(".json").and_then(|n| n.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The newest state.
    pub fn latest(&self) -> Result<Option<SavedJob>> {
        let Some(number) = self.numbers()?.pop() else { return Ok(None) };
        let path = self.folder.join(format!("{number}.json"));
        let text = fs::read(&path).map_err(|e| self.failed("read", &path, e))?;
        let manifest = parse_manifest(&text, &path)?;
        let mut queries = BTreeMap::new();
        for (name, operators) in manifest.queries {
            let mut states = Vec::new();
            for operator in operators {
                let rows = match &operator.file {
                    Some(file) => self.read_rows(&self.folder.join(file), operator.checksum.as_deref())?,
                    None => Vec::new(),
                };
                let found: u64 = rows.iter().map(|b| b.num_rows() as u64).sum();
                if found != operator.rows {
                    return Err(Error::corrupt(format!(
                        "state of query '{name}' has {found} rows, its manifest says {}",
                        operator.rows
                    ))
                    .hint("run with --fresh"));
                }
                states.push(OperatorState {
                    fingerprint: operator.fingerprint,
                    watermark: Watermark(operator.watermark_ms),
                    rows,
                });
            }
            queries.insert(name, states);
        }
        Ok(Some(SavedJob { epoch: manifest.epoch, tables: manifest.tables, queries }))
    }

    /// Saves a state under the next number, and removes older ones and what the epoch log says of epochs up to it.
    pub fn save(&self, job: &SavedJob) -> Result<u64> {
        fs::create_dir_all(&self.folder).map_err(|e| self.failed("create", &self.folder, e))?;
        let number = self.numbers()?.pop().unwrap_or(0) + 1;
        let mut queries = BTreeMap::new();
        for (query, states) in &job.queries {
            let mut operators = Vec::new();
            for (index, state) in states.iter().enumerate() {
                let rows: u64 = state.rows.iter().map(|b| b.num_rows() as u64).sum();
                let safe: String =
                    query.chars().map(|c| if c.is_alphanumeric() || c == '_' { c } else { '-' }).collect();
                let file = (rows > 0).then(|| format!("{number}-{safe}-{index}.arrow"));
                let checksum = match &file {
                    Some(file) => Some(self.write_rows(&self.folder.join(file), &state.rows)?),
                    None => None,
                };
                let (fingerprint, watermark_ms) = (state.fingerprint.clone(), state.watermark.0);
                operators.push(SavedOperator { fingerprint, watermark_ms, file, checksum, rows });
            }
            queries.insert(query.clone(), operators);
        }
        let program = format!("tidemill {}", env!("CARGO_PKG_VERSION"));
        let manifest = Manifest { version: VERSION, program, epoch: job.epoch, tables: job.tables.clone(), queries };
        let text = manifest_text(&manifest)?;
        let (temporary, path) = (self.folder.join(".next"), self.folder.join(format!("{number}.json")));
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|e| self.failed("write", &path, e))?;
        self.remove_before(number)?;
        epoch_log::forget(&self.folder, job.epoch)?;
        Ok(number)
    }

    /// Whether there is an epoch log with entries.
    pub fn has_log(&self) -> bool {
        epoch_log::has_entries(&self.folder)
    }

    /// The epoch log of the job, for one run at a time, and what is in it.
    pub fn open_log(&self) -> Result<(FileEpochLog, Vec<LogEntry>)> {
        FileEpochLog::open(&self.folder)
    }

    /// Forgets all states and the log.
    pub fn clear(&self) -> Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(self.failed("remove", &self.folder, error))
            }
            _ => Ok(()),
        }
    }

    fn remove_before(&self, number: u64) -> Result<()> {
        let entries = fs::read_dir(&self.folder).map_err(|e| self.failed("list", &self.folder, e))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let own = name.to_string_lossy().split(['.', '-']).next().and_then(|n| n.parse::<u64>().ok());
            if own.is_some_and(|n| n < number) {
                fs::remove_file(entry.path()).map_err(|e| self.failed("remove", &entry.path(), e))?;
            }
        }
        Ok(())
    }

    /// Writes an Arrow file and answers its checksum.
    fn write_rows(&self, path: &Path, rows: &[RecordBatch]) -> Result<String> {
        let Some(first) = rows.first() else { return Err(Error::internal("a state without rows has no file")) };
        let failed = |e| self.failed("write", path, e);
        let file = File::create(path).map_err(failed)?;
        let mut writer = FileWriter::try_new(BufWriter::new(Summing::new(file)), &first.schema())?;
        for batch in rows {
            writer.write(batch)?;
        }
        writer.finish()?;
        let summing = writer.into_inner()?.into_inner().map_err(|e| failed(e.into_error()))?;
        let (file, checksum) = summing.finish();
        file.sync_all().map_err(failed)?;
        Ok(checksum)
    }

    fn read_rows(&self, path: &Path, checksum: Option<&str>) -> Result<Vec<RecordBatch>> {
        let damaged = |what: &str| {
            Error::corrupt(format!("state file '{}' {what}", path.display()))
                .hint("restore the file from a copy, or run with --fresh to read everything again")
        };
        let open = || File::open(path).map(BufReader::new);
        let file = match open() {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(damaged("is missing")),
            Err(e) => return Err(self.failed("read", path, e)),
        };
        let found = hex_digest_of(file).map_err(|e| self.failed("read", path, e))?;
        if Some(found.as_str()) != checksum {
            return Err(damaged("is damaged: its checksum is not the one in its manifest"));
        }
        let file = open().map_err(|e| self.failed("read", path, e))?;
        let read = FileReader::try_new(file, None).and_then(Iterator::collect::<std::result::Result<_, _>>);
        read.map_err(|e| damaged("cannot be read").caused_by(e))
    }

    fn failed(&self, what: &str, path: &Path, error: std::io::Error) -> Error {
        Error::unavailable(format!("cannot {what} '{}'", path.display())).caused_by(error)
    }
}

/// The manifest with its checksum in the last line.
fn manifest_text(manifest: &Manifest) -> Result<Vec<u8>> {
    let json = serde_json::to_string_pretty(manifest);
    let json = json.map_err(|e| Error::internal("the saved state cannot be written as JSON").caused_by(e))?;
    let content = json.strip_suffix("\n}").unwrap_or(&json);
    Ok(format!("{content}{}{}{}", CHECKSUM.0, hex_digest(content.as_bytes()), CHECKSUM.1).into_bytes())
}

fn parse_manifest(text: &[u8], path: &Path) -> Result<Manifest> {
    let damaged = |what: &str| {
        Error::corrupt(format!("saved state '{}' {what}", path.display()))
            .hint("restore the file from a copy, or run with --fresh to read everything again")
    };
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    // A layout of another version may have its checksum elsewhere.
    if let Ok(Versioned { version }) = serde_json::from_slice(text)
        && version < VERSION
    {
        return Err(Error::corrupt(format!(
            "saved state '{}' has version {version}, this program reads {VERSION}",
            path.display()
        ))
        .hint("end it with the program that wrote it, or start anew with --fresh"));
    }
    let whole = std::str::from_utf8(text).ok().and_then(|text| {
        let (content, checksum) = text.strip_suffix(CHECKSUM.1)?.rsplit_once(CHECKSUM.0)?;
        (checksum == hex_digest(content.as_bytes())).then(|| format!("{content}\n}}"))
    });
    let json = whole.ok_or_else(|| damaged("is damaged"))?;
    let manifest: Manifest = serde_json::from_str(&json).map_err(|e| damaged("cannot be read").caused_by(e))?;
    if manifest.version != VERSION {
        return Err(Error::corrupt(format!(
            "saved state '{}' has version {}, this program reads {VERSION}",
            path.display(),
            manifest.version
        ))
        .hint("run the program that wrote it, or start anew with --fresh"));
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests;
