//! Folders of this machine whose entries outlive a loss of power: a file that is synced is still gone where its name is not.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::connectors::line_file::io_error;
use crate::contracts::Result;

#[cfg(test)]
thread_local! {
    /// What was synced by this thread.
    pub(super) static SYNCED: std::cell::RefCell<Vec<PathBuf>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// The folder that a file is in; the current one for a bare name.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in `folder` durable.
pub(super) fn sync(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|opened| opened.sync_all());
    synced.map_err(|e| io_error(folder, "synced", e))?;
    #[cfg(test)]
    SYNCED.with_borrow_mut(|synced| synced.push(folder.to_owned()));
    Ok(())
}

/// Makes the name of a file durable.
pub(super) fn sync_name(file: &Path) -> Result<()> {
    sync(folder_of(file))
}

/// Makes `folder` and those above it that are not there, and makes their names durable.
pub(super) fn make(folder: &Path) -> Result<()> {
    let is_missing = |above: &&Path| !above.as_os_str().is_empty() && !above.is_dir();
    let missing: Vec<PathBuf> = folder.ancestors().take_while(is_missing).map(Path::to_owned).collect();
    std::fs::create_dir_all(folder).map_err(|e| io_error(folder, "made", e))?;
    missing.iter().rev().try_for_each(|made| sync_name(made))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_new_folder_has_a_durable_name() {
        let root = tempfile::tempdir().expect("a folder");
        let root = root.path();
        make(&root.join("a/b/c")).expect("made");
        assert_eq!(SYNCED.take(), [root.to_owned(), root.join("a"), root.join("a/b")]);
        make(&root.join("a/b/d")).expect("made");
        assert_eq!(SYNCED.take(), [root.join("a/b")]);
        make(&root.join("a/b/d")).expect("there");
        assert!(SYNCED.take().is_empty());
        assert_eq!((folder_of(Path::new("x")), folder_of(Path::new("y/x"))), (Path::new("."), Path::new("y")));
    }
}
