//! Setting aside what earlier runs of a job wrote, when it begins anew.
//!
//! With `--fresh` everything is read and written again; rows in files would then be there twice. Nobody wants to lose an
//! archive over that: the files of this job (they carry its name) are moved to a folder beside, and the person is told.
//! Objects of a bucket cannot be moved, only copied at a price and with other rights: there the run is refused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use object_store::ObjectStore;

use crate::connectors::aws::object_failure;
use crate::connectors::line_file::io_error;
use crate::contracts::{Result, crash_point};

use super::folders;
use super::listing::object_path;
use super::location::Prefix;
use super::part::{PartNames, each_file};

/// What was moved, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Number of files.
    pub files: usize,
    /// Folder in which they were.
    pub from: PathBuf,
    /// Folder in which they are now, in the same sub-folders.
    pub to: PathBuf,
}

/// Moves the files of this job below `root` to the first of `<root>.replaced-1`, `-2`, … that is not there.
pub(super) fn set_aside(root: &Path, names: &PartNames) -> Result<Option<SetAside>> {
    let mut found = Vec::new();
    each_file(root, &mut |path, name| {
        if names.is_own(name) {
            found.push(path);
        }
        Ok(())
    })?;
    if found.is_empty() {
        return Ok(None);
    }
    let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let free = (1_u32..).map(|n| root.with_file_name(format!("{name}.replaced-{n}"))).find(|path| !path.exists());
    let to = free.unwrap_or_else(|| root.with_file_name(format!("{name}.replaced")));
    let mut changed = BTreeSet::new();
    for file in &found {
        let target = to.join(file.strip_prefix(root).unwrap_or(file));
        if let Some(folder) = target.parent() {
            folders::make(folder)?;
        }
        std::fs::rename(file, &target).map_err(|e| io_error(file, "moved", e))?;
        crash_point("fresh.midst");
        changed.extend(file.parent().into_iter().chain(target.parent()).map(Path::to_owned));
    }
    // The log is going to say that they are there.
    changed.iter().try_for_each(|folder| folders::sync(folder))?;
    Ok(Some(SetAside { files: found.len(), from: root.to_owned(), to }))
}

/// A file below `root` that a run of this job has written, if there is one.
pub(super) fn own_file(root: &Path, names: &PartNames) -> Result<Option<PathBuf>> {
    let mut found = None;
    each_file(root, &mut |path, name| {
        if found.is_none() && names.is_own(name) {
            found = Some(path);
        }
        Ok(())
    })?;
    Ok(found)
}

/// An object below `prefix` that a run of this job has written, if there is one.
pub(super) async fn own_object(prefix: &Prefix, names: &PartNames) -> Result<Option<String>> {
    let store = prefix.bucket.store().await?;
    let path = object_path(&prefix.key)?;
    let below = if prefix.key.is_empty() { None } else { Some(&path) };
    let mut objects = store.list(below);
    loop {
        match objects.try_next().await {
            Ok(Some(object)) if object.location.filename().is_some_and(|name| names.is_own(name)) => {
                return Ok(Some(prefix.url(object.location.as_ref())));
            }
            Ok(Some(_)) => {}
            Ok(None) => return Ok(None),
            Err(e) => return Err(object_failure("ListObjectsV2", &prefix.bucket, &prefix.key, &e).into()),
        }
    }
}
