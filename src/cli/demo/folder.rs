//! The demo's folder: the shipped job's files are written there, so that people can edit them next.
//!
//! A marker file says that the folder is the demo's own, and what it wrote. Only in its own folder it removes what the
//! demo before has left, and it never writes over a file that somebody has edited.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::contracts::{Error, Result, hex};

macro_rules! shipped {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../../../queries/", $name)))),*] };
}

/// The shipped job: what `queries/` of the repository holds.
const SHIPPED: &[(&str, &str)] = shipped![
    "alerts.sql",
    "archive.sql",
    "error_spikes.sql",
    "errors.sql",
    "events.sql",
    "high_value_orders.sql",
    "metrics.sql",
    "page_views.sql",
    "page_views_per_minute.sql",
    "products.csv",
    "revenue.sql",
    "revenue_by_category.sql",
    "top_pages.sql",
];

const MARKER: &str = ".tidemill-demo";

/// What a run leaves in a folder, and the next demo removes.
const LEFT_BEHIND: &[&str] = &[
    "kinesis/analytics-events",
    "dynamodb.sqlite",
    "dynamodb.sqlite-wal",
    "dynamodb.sqlite-shm",
    "s3/my-analytics-archive",
    "sns/analytics-alerts.jsonl",
    "errors",
    "checkpoints",
];

/// Hash of each file as the demo wrote it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Marker {
    files: BTreeMap<String, String>,
}

/// A folder, ready for a run.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// Whether a demo made it: then it starts anew.
    pub(super) own: bool,
    /// Files of `queries/` that somebody has edited; they are used as they are.
    pub(super) edited: Vec<String>,
    /// Held until the end, so that two demos do not share a folder.
    _lock: Option<File>,
}

impl Folder {
    pub(super) fn queries(&self) -> PathBuf {
        self.path.join("queries")
    }

    /// Makes the folder ready.
    ///
    /// # Errors
    /// Another demo runs there, or it cannot be written.
    pub(super) fn prepare(path: &Path) -> Result<Self> {
        let failed = |e| Error::config(format!("'{}' cannot be used", path.display())).caused_by(e);
        fs::create_dir_all(path).map_err(failed)?;
        let marker_path = path.join(MARKER);
        let own = marker_path.exists() || fs::read_dir(path).map_err(failed)?.next().is_none();
        let (lock, marker) = if own { open_marker(&marker_path)? } else { (None, Marker::default()) };
        if own {
            for name in LEFT_BEHIND {
                remove(&path.join(name)).map_err(failed)?;
            }
        }
        let mut folder = Self { path: path.to_owned(), own, edited: Vec::new(), _lock: None };
        let written = folder.write_queries(&marker).map_err(failed)?;
        if let Some(mut file) = lock {
            let text = serde_json::to_vec_pretty(&written)
                .map_err(|e| Error::internal("the marker cannot be written as JSON").caused_by(e))?;
            let save = file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).and_then(|_| file.write_all(&text));
            save.map_err(failed)?;
            folder._lock = Some(file);
        }
        Ok(folder)
    }

    /// Writes the files that are missing, or as a demo before wrote them.
    fn write_queries(&mut self, before: &Marker) -> std::io::Result<Marker> {
        let queries = self.queries();
        fs::create_dir_all(&queries)?;
        let mut written = Marker::default();
        for (name, text) in SHIPPED {
            let path = queries.join(name);
            let shipped = hash(text.as_bytes());
            match fs::read(&path) {
                Ok(found) if hash(&found) == shipped => {}
                Ok(found) if before.files.get(*name) != Some(&hash(&found)) => self.edited.push((*name).to_owned()),
                Ok(_) => fs::write(&path, text)?,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => fs::write(&path, text)?,
                Err(e) => return Err(e),
            }
            written.files.insert((*name).to_owned(), shipped);
        }
        Ok(written)
    }
}

fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn open_marker(path: &Path) -> Result<(Option<File>, Marker)> {
    let failed = |e| Error::config(format!("'{}' cannot be used", path.display())).caused_by(e);
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = open.map_err(failed)?;
    if file.try_lock().is_err() {
        return Err(Error::config(format!("another demo runs in '{}'", path.with_file_name("").display()))
            .hint("stop it, or use another folder: --local DIR"));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    // A marker that cannot be read marks all the same; files are then taken for edited.
    Ok((Some(file), serde_json::from_str(&text).unwrap_or_default()))
}

fn remove(path: &Path) -> std::io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_the_shipped_job_is_embedded() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("queries");
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        assert_eq!(names, SHIPPED.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }

    #[test]
    fn edits_stay_and_results_go_in_its_own_folder_only() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("demo");
        drop(Folder::prepare(&path).unwrap());
        fs::write(path.join("queries/alerts.sql"), "-- mine").unwrap();
        fs::create_dir_all(path.join("checkpoints/queries")).unwrap();
        let again = Folder::prepare(&path).unwrap();
        assert!(again.own && !path.join("checkpoints").exists());
        assert_eq!(again.edited, ["alerts.sql"]);
        assert_eq!(fs::read_to_string(path.join("queries/alerts.sql")).unwrap(), "-- mine");
        assert!(Folder::prepare(&path).unwrap_err().to_string().contains("another demo"));

        let other = temporary.path().join("other");
        fs::create_dir_all(other.join("checkpoints")).unwrap();
        let folder = Folder::prepare(&other).unwrap();
        assert!(!folder.own && other.join("checkpoints").exists());
        assert!(!other.join(MARKER).exists() && other.join("queries/events.sql").exists());
    }
}
