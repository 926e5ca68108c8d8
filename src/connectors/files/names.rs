//! Names of files as splits: absolute paths, whatever the path of the table looks like and wherever the program is started.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::connectors::line_file::split_id;
use crate::contracts::{Error, Result, SplitId};

use super::location::{Place, absolute};

/// See the option `source.path.regex-pattern`.
#[derive(Debug)]
pub(super) struct Pattern {
    whole: Regex,
    /// The table's path, which may be relative.
    written: Place,
}

impl Pattern {
    pub(super) fn try_new(text: &str, written: Place) -> Result<Self> {
        // Flink matches the whole path.
        let whole = Regex::new(&format!("^(?:{text})$"));
        Ok(Self { whole: whole.map_err(|e| Error::config(format!("'{text}' is no pattern")).caused_by(e))?, written })
    }

    /// Whether the path of a file below `place` matches, in full or as the table's path is written.
    pub(super) fn takes(&self, name: &str, place: &Place) -> bool {
        let as_written = || match (place, &self.written) {
            (Place::Local(root), Place::Local(written)) => {
                let below = Path::new(name).strip_prefix(root).ok()?;
                self.whole.is_match(&joined(written, below).to_string_lossy()).then_some(())
            }
            _ => None,
        };
        self.whole.is_match(name) || as_written().is_some()
    }
}

/// What files below `root` are called now that runs before have called by these names: relative to the folder that they were started in, or
/// by another path to the same folder. Names of files elsewhere are left out. Blocks.
pub(super) fn names_now(root: &Path, saved: Vec<SplitId>) -> BTreeMap<SplitId, SplitId> {
    let meant = root.canonicalize().ok();
    let mut same: BTreeMap<PathBuf, bool> = BTreeMap::new();
    let mut is_root = |folder: &Path| {
        let same = same.entry(folder.to_owned());
        *same.or_insert_with(|| folder == root || (meant.is_some() && folder.canonicalize().ok() == meant))
    };
    let mut taken: BTreeSet<SplitId> = saved.iter().cloned().collect();
    let mut names = BTreeMap::new();
    for name in saved {
        let Ok(path) = absolute(Path::new(name.0.as_ref())) else { continue };
        let Some(below) = path.ancestors().find(|folder| is_root(folder)).and_then(|at| path.strip_prefix(at).ok())
        else {
            continue;
        };
        let now = split_id(&joined(root, below).to_string_lossy());
        // A file that was read under two names goes on under its own.
        let now = if taken.insert(now.clone()) { now } else { name.clone() };
        names.insert(name, now);
    }
    names
}

/// `below` is empty where the table is one file.
fn joined(root: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { root.to_owned() } else { root.join(below) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_all_paths_to_its_folder() {
        let top = tempfile::tempdir().expect("a folder");
        let top = top.path().canonicalize().expect("it is there");
        std::fs::create_dir_all(top.join("job/data/in")).expect("made");
        std::os::unix::fs::symlink(top.join("job"), top.join("link")).expect("made");
        let root = top.join("job/data");
        let here = std::env::current_dir().expect("a folder");
        let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
        let relative = up.join(root.strip_prefix("/").expect("it is absolute"));
        let id = |path: PathBuf| split_id(path.to_str().expect("UTF-8"));
        let known = |path: PathBuf| names_now(&root, vec![id(path.clone())]).remove(&id(path));
        for (saved, now) in [
            (root.join("in/a.json"), Some(root.join("in/a.json"))),
            (relative.join("./in/a.json"), Some(root.join("in/a.json"))),
            (top.join("link/data/in/a.json"), Some(root.join("in/a.json"))),
            (top.join("other/../job/data/a.json"), Some(root.join("a.json"))),
            (top.join("other/data/a.json"), None),
            (top.join("job/data2/a.json"), None),
        ] {
            assert_eq!(known(saved.clone()), now.map(id), "{}", saved.display());
        }
        // The table is one file.
        assert_eq!(names_now(&root, vec![id(relative.clone())]).get(&id(relative.clone())), Some(&id(root.clone())));
        // Read under two names by an earlier version.
        let (own, other) = (id(root.join("a")), id(relative.join("a")));
        let both = names_now(&root, vec![other.clone(), own.clone()]);
        assert_eq!((both.get(&own), both.get(&other)), (Some(&own), Some(&other)));
    }

    #[test]
    fn a_pattern_may_be_written_as_the_path_is() {
        let here = std::env::current_dir().expect("a folder");
        let (place, written) = (Place::Local(here.join("data")), Place::Local("job/../data".into()));
        let takes = |text: &str| {
            let name = here.join("data/in/a.json");
            Pattern::try_new(text, written.clone()).expect("a pattern").takes(name.to_str().expect("UTF-8"), &place)
        };
        assert!(takes(".*/data/in/.*") && takes(r"job/\.\./data/in/.*\.json"));
        assert!(!takes("in/.*") && !takes(".*\\.csv"));
        assert!(Pattern::try_new("(", written.clone()).is_err());
    }
}
