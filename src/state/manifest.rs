//! The manifest of a checkpoint: everything of it but the state rows, and the names and checksums of the files that hold
//! those. JSON, so that people can read it; its own checksum stands in the last line.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::checksum::hex_digest;
use super::ranges::Ranges;
use super::saved::{Reread, SavedTable};
use crate::contracts::{Error, Result};

/// Version of the layout. 1 and 2 were states of whole runs, in one folder without sub-folders; in 3, state files were not packed.
pub const MANIFEST_VERSION: u32 = 4;
/// Version of a manifest where some queries catch up with others: a program that did not know of it would give these the same records twice.
pub const CATCH_UP_VERSION: u32 = 5;
/// Versions that this program reads.
pub const MANIFEST_VERSIONS: RangeInclusive<u32> = 3..=CATCH_UP_VERSION;
/// What stands before and behind the manifest's own checksum, which covers everything before.
const CHECKSUM: (&str, &str) = (",\n  \"checksum\": \"", "\"\n}\n");

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`], or [`CATCH_UP_VERSION`].
    pub version: u32,
    /// The program that wrote it.
    pub program: String,
    /// Its number: one more than that of the checkpoint before.
    pub number: u64,
    /// Tells the manifests of two runs apart that wanted the same number.
    pub nonce: String,
    /// The run that wrote it.
    pub generation: u64,
    /// When, in milliseconds since 1970.
    pub time_ms: i64,
    /// The last epoch that is in it.
    pub epoch: u64,
    /// Entries of the epoch log up to this epoch are not needed.
    pub log_after: u64,
    /// Where the content came from, when no run computed it: `checkpoint 12`, `savepoint before-upgrade`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Positions and time of source tables.
    pub tables: BTreeMap<String, SavedTable>,
    /// An earlier point from which epochs are cut again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reread: Option<Reread>,
    /// Reference tables as its epoch had them, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub references: BTreeMap<String, ManifestReference>,
    /// The queries.
    pub queries: BTreeMap<String, ManifestQuery>,
}

/// A query in a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestQuery {
    /// What it computes, in its normal form.
    pub plan: String,
    /// Whether texts of plans say in full what DataFusion's own leave out. Those of earlier versions of the program do not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_full: bool,
    /// The source tables that it reads, by their names in [`Manifest::tables`]; empty in manifests of earlier versions of the program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<String>,
    /// A hash of what decides which records are refused; empty in manifests of earlier versions of the program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub refusal_rules: String,
    /// The last epoch whose rows are durable in its sink.
    pub durable_epoch: u64,
    /// Its operators.
    pub operators: Vec<ManifestOperator>,
    /// Rows in open files of its sink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwritten: Option<ManifestOperator>,
    /// What the sink itself wants to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<String>,
}

/// The state of an operator in a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestOperator {
    /// What it computes, in its normal form.
    pub fingerprint: String,
    /// Its event time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark_ms: Option<i64>,
    /// State rows that are not dead.
    pub rows: u64,
    /// The files that hold its pieces, in the order of writing.
    pub files: Vec<StateFile>,
    /// The file that says which rows of the pieces are dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<StateFile>,
}

/// A version of a reference table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestReference {
    /// What the cuts of its epochs call it: SHA-256 over the checksums of its files, as hex digits.
    pub digest: String,
    /// Its rows.
    pub rows: u64,
    /// The files that hold them.
    pub files: Vec<StateFile>,
}

/// A file of state rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateFile {
    /// Its name in the store.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// About how many bytes its rows have in memory; 0 where that was not noted, and `bytes` is as good.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unpacked: u64,
    /// SHA-256 of its content, as hex digits.
    pub sha256: String,
    /// Pieces in it that are still part of the state.
    #[serde(default, skip_serializing_if = "Ranges::is_empty")]
    pub pieces: Ranges,
}

impl StateFile {
    /// About how many bytes its rows have in memory.
    pub(super) fn unpacked_bytes(&self) -> u64 {
        if self.unpacked == 0 { self.bytes } else { self.unpacked }
    }
}

// Serde passes a reference.
#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl ManifestQuery {
    /// All states with files.
    pub(super) fn states(&self) -> impl Iterator<Item = &ManifestOperator> {
        self.operators.iter().chain(&self.unwritten)
    }
}

impl ManifestOperator {
    /// All its files.
    pub fn all_files(&self) -> impl Iterator<Item = &StateFile> {
        self.files.iter().chain(&self.dead)
    }
}

impl Manifest {
    /// Says from where records are read again, in the version that tells it to every program.
    pub(super) fn set_reread(&mut self, reread: Option<Reread>) {
        self.reread = reread;
        self.version = if self.catches_up() { CATCH_UP_VERSION } else { MANIFEST_VERSION };
    }

    /// Whether a job that has gone back to this has queries that catch up with the others.
    pub fn catches_up(&self) -> bool {
        self.reread.as_ref().is_some_and(|reread| reread.catch_up.is_some())
    }

    /// Has the queries that catch up go by other names: what is not among them stays as it is, and what has none catches up no more.
    pub fn rename_catching_up(&mut self, names: &BTreeMap<&str, Option<&str>>) {
        let Some(catch_up) = self.reread.as_mut().and_then(|reread| reread.catch_up.as_mut()) else { return };
        let now = |name: String| match names.get(name.as_str()) {
            Some(now) => now.map(str::to_owned),
            None => Some(name),
        };
        catch_up.queries = std::mem::take(&mut catch_up.queries).into_iter().filter_map(now).collect();
    }

    /// Queries that keep no state and have rows in open files: who goes back to this has them catch up with the others.
    pub fn with_open_files(&self) -> impl Iterator<Item = &String> {
        let is_open = |query: &ManifestQuery| query.operators.is_empty() && query.durable_epoch < self.epoch;
        self.queries.iter().filter(move |(_, query)| is_open(query)).map(|(name, _)| name)
    }

    /// The last epoch that is not repeated by a run that goes on from it.
    pub fn repeats_after(&self) -> u64 {
        Reread::repeats_after(self.reread.as_ref(), self.epoch)
    }

    /// All files that it names.
    pub fn files(&self) -> impl Iterator<Item = &StateFile> {
        let states = self.queries.values().flat_map(ManifestQuery::states).flat_map(ManifestOperator::all_files);
        states.chain(self.references.values().flat_map(|version| &version.files))
    }

    /// The same, to be renamed.
    pub(super) fn files_mut(&mut self) -> impl Iterator<Item = &mut StateFile> {
        let states = self.queries.values_mut().flat_map(|query| query.operators.iter_mut().chain(&mut query.unwritten));
        let files = states.flat_map(|state| state.files.iter_mut().chain(&mut state.dead));
        files.chain(self.references.values_mut().flat_map(|version| &mut version.files))
    }

    /// Bytes of all files that it names.
    pub fn bytes(&self) -> u64 {
        // One with a right checksum may lie.
        self.files().map(|file| file.bytes).fold(0, u64::saturating_add)
    }

    /// As it is stored.
    pub fn text(&self) -> Result<Vec<u8>> {
        let json = serde_json::to_string_pretty(self);
        let json = json.map_err(|e| Error::internal("a manifest cannot be written as JSON").caused_by(e))?;
        let content = json.strip_suffix("\n}").unwrap_or(&json);
        Ok(format!("{content}{}{}{}", CHECKSUM.0, hex_digest(content.as_bytes()), CHECKSUM.1).into_bytes())
    }

    /// Reads what [`Self::text`] has written; `name` is for people.
    ///
    /// # Errors
    /// `corrupt` when a bit of it has changed, or another version of the program wrote it.
    pub fn parse(text: &[u8], name: &str) -> Result<Self> {
        let damaged = |what: &str| {
            Error::corrupt(format!("checkpoint '{name}' {what}")).hint(
                "restore the file from a copy, go on from the checkpoint before with --previous-checkpoint, or run with \
                 --fresh to read everything again",
            )
        };
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        // A layout of another version may have its checksum elsewhere.
        if let Ok(Versioned { version }) = serde_json::from_slice(text)
            && !MANIFEST_VERSIONS.contains(&version)
        {
            let (first, last) = MANIFEST_VERSIONS.into_inner();
            let error = format!("checkpoint '{name}' has version {version}, this program reads {first} to {last}");
            return Err(Error::corrupt(error).hint("run the program that wrote it, or start anew with --fresh"));
        }
        let whole = std::str::from_utf8(text).ok().and_then(|text| {
            let (content, checksum) = text.strip_suffix(CHECKSUM.1)?.rsplit_once(CHECKSUM.0)?;
            (checksum == hex_digest(content.as_bytes())).then(|| format!("{content}\n}}"))
        });
        let json = whole.ok_or_else(|| damaged("is damaged"))?;
        serde_json::from_str(&json).map_err(|e| damaged("cannot be read").caused_by(e))
    }
}
