//! Finding the `.sql` files of a job.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::contracts::{Error, Result};
use crate::sql::SqlText;

/// Reads the files that `paths` name: a file as it is, a folder with all `.sql` files in it (also in folders
/// below it), by name. Names that begin with a dot are left out.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Arc<SqlText>>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let before = files.len();
            collect(path, &mut files)?;
            if files.len() == before {
                return Err(Error::config(format!("there is no .sql file in '{}'", path.display())));
            }
        } else if path.exists() {
            files.push(path.clone());
        } else {
            return Err(Error::config(format!("there is no file or folder '{}'", path.display())));
        }
    }
    files.dedup();
    files
        .iter()
        .map(|path| {
            let text = std::fs::read_to_string(path)
                .map_err(|e| Error::config(format!("cannot read '{}'", path.display())).caused_by(e))?;
            Ok(Arc::new(SqlText::new(path.to_string_lossy().as_ref(), text)))
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |e| Error::config(format!("cannot list '{}'", folder.display())).caused_by(e);
    let mut entries: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        entries.push(entry.map_err(failed)?.path());
    }
    entries.sort();
    for path in entries {
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("sql")) {
            files.push(path);
        }
    }
    Ok(())
}
