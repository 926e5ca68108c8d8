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

/// Moves the files of this job below `root` to the first of `<root>.replaced-1`, `-2`, … that is not there, and with them the marks of that
/// name: while all is written again, their partitions are not complete.
pub(super) fn set_aside(root: &Path, names: &PartNames, mark: Option<&str>) -> Result<Option<SetAside>> {
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
    let parents: BTreeSet<&Path> = found.iter().filter_map(|file| file.parent()).collect();
    let marks = parents.iter().flat_map(|parent| mark.map(|mark| parent.join(mark))).filter(|mark| mark.is_file());
    // They go first: whoever dies in between finds them by the files.
    let all: Vec<PathBuf> = marks.chain(found.iter().cloned()).collect();
    let mut changed = BTreeSet::new();
    for file in &all {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_go_with_the_files_of_their_partitions() {
        let top = tempfile::tempdir().expect("a folder");
        let root = top.path().join("out");
        let own = ["day=1/part-job-1-0-e1.jsonl", "day=2/part-job-1-1-e1.jsonl"];
        let others = ["day=1/notes.txt", "day=3/_DONE", "day=3/part-other-1-0-e1.jsonl", "day=2/_SUCCESS"];
        let mark = "day=1/_DONE";
        for file in own.iter().chain(&others).chain([&mark]) {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, "").expect("written");
        }
        let moved =
            set_aside(&root, &PartNames::new("job", 2, 0), Some("_DONE")).expect("moved").expect("there are some");
        assert_eq!((moved.files, &moved.to), (2, &top.path().join("out.replaced-1")));
        for file in own.iter().chain([&mark]) {
            assert!(moved.to.join(file).is_file() && !root.join(file).exists(), "{file}");
        }
        for file in others {
            assert!(root.join(file).is_file(), "{file}");
        }
    }
}
