//! The inputs of a golden in a folder of its own: whole, split, or cut in halves.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tidemill::job::JobOptions;
use tidemill::runtime::Ending;

use super::golden_folder;
use crate::job::{Variant, options};

/// Inputs, outputs and state of one run.
pub(crate) struct Inputs {
    name: String,
    folder: TempDir,
    output: PathBuf,
}

impl Inputs {
    /// Each file of each input as `splits` files: rows whose first column is the same stay together and in order.
    pub(crate) fn make(name: &str, splits: usize) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let output = folder.path().join("out");
        for input in fs::read_dir(golden_folder().join("inputs")).expect("inputs").flatten() {
            let target = folder.path().join("in").join(input.file_name());
            fs::create_dir_all(&target).expect("a folder");
            for file in fs::read_dir(input.path()).expect("an input").flatten() {
                let path = target.join(file.file_name());
                let text = fs::read_to_string(file.path()).expect("an input is text");
                if splits == 1 {
                    fs::write(path, text).expect("a copy");
                    continue;
                }
                let mut parts = vec![String::new(); splits];
                for line in text.lines() {
                    let part = &mut parts[stable_hash(first_column(line)) % splits];
                    part.push_str(line);
                    part.push('\n');
                }
                for (number, part) in parts.iter().enumerate() {
                    write_part(&path, number, part);
                }
            }
        }
        Self { name: name.to_owned(), folder, output }
    }

    pub(crate) fn output(&self) -> &Path {
        &self.output
    }

    pub(crate) fn options(&self, variant: Variant, ending: Ending) -> JobOptions {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let parameters = BTreeMap::from([
            ("IN".to_owned(), text(&self.folder.path().join("in"))),
            ("OUT".to_owned(), text(&self.output)),
        ]);
        let path = golden_folder().join(format!("{}.sql", self.name));
        options(path, self.folder.path().join("local"), parameters, variant, ending)
    }

    /// Takes the second half of the files in `sources` away; [`Self::add`] puts it there as another file.
    pub(crate) fn keep_first_half(&self, sources: &[&str]) -> Vec<(PathBuf, String)> {
        let mut rest = Vec::new();
        let sources: std::collections::BTreeSet<&str> = sources.iter().copied().collect();
        for source in sources.iter().map(Path::new).filter(|path| path.is_dir()) {
            for file in fs::read_dir(source).expect("a source").flatten() {
                let text = fs::read_to_string(file.path()).expect("an input is text");
                let lines: Vec<&str> = text.split_inclusive('\n').collect();
                let (first, second) = lines.split_at(lines.len() / 2);
                fs::write(file.path(), first.concat()).expect("the first half");
                rest.push((file.path(), second.concat()));
            }
        }
        rest
    }

    /// Puts second halves beside first ones.
    pub(crate) fn add(&self, rest: Vec<(PathBuf, String)>) {
        for (path, text) in rest {
            write_part(&path, 9, &text);
        }
    }
}

fn write_part(path: &Path, number: usize, text: &str) {
    let (stem, extension) = (path.file_stem().unwrap_or_default(), path.extension().unwrap_or_default());
    let name = format!("{}-{number}.{}", stem.to_string_lossy(), extension.to_string_lossy());
    fs::write(path.with_file_name(name), text).expect("a part");
}

/// Text of the first column of a line of CSV or JSON.
fn first_column(line: &str) -> &str {
    line.split([',', ';']).next().unwrap_or_default()
}

/// FNV-1a: the same on every machine and in every version.
fn stable_hash(text: &str) -> usize {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    (hash >> 32) as usize
}
