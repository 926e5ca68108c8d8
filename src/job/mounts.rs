//! Which folders are on a disk, and which in memory: what is put there to save memory saves none.

use std::path::{Component, Path, PathBuf};

/// Where large files go that need not outlive the system's run, when its folder for temporary ones is in memory (`hier(7)`).
const LARGE_FILES: &str = "/var/tmp";
/// File systems that have their files in memory.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// What is mounted where: `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`), or nothing where there is none.
#[derive(Debug)]
pub(super) struct Mounts(String);

impl Mounts {
    /// As this process sees them.
    pub(super) fn of_this_process() -> Self {
        Self(std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    /// The type of the file system that a folder is on, or is going to be on, if that is one in memory.
    pub(super) fn in_memory(&self, folder: &Path) -> Option<&'static str> {
        let folder = std::path::absolute(folder).ok()?;
        // What is not there yet will be below what is.
        let there = folder.ancestors().find_map(|folder| folder.canonicalize().ok()).unwrap_or(folder);
        let kind = self.kind(&there)?;
        IN_MEMORY.into_iter().find(|name| *name == kind)
    }

    /// The type of the file system with the longest path that leads to a folder; of several that are mounted there, the last one.
    fn kind(&self, folder: &Path) -> Option<&str> {
        let mounts = self.0.lines().filter_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            Some((unescaped(place.split(' ').nth(4)?), kind.split(' ').next()?))
        });
        let leading = mounts.filter(|(place, _)| folder.starts_with(place));
        leading
            .max_by_key(|(place, _)| place.components().filter(|part| *part != Component::RootDir).count())
            .map(|(_, kind)| kind)
    }
}

/// A path in which spaces and the like are written as three octal digits.
fn unescaped(place: &str) -> PathBuf {
    let mut parts = place.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                text.push(char::from(code));
                text.push_str(&part[3..]);
            }
            None => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    text.into()
}

/// The system's folder for temporary files; where that is in memory, the one for larger and longer-lived ones, if it is there and can be
/// written (a container's own disk may be read-only).
pub(super) fn temporary_files(mounts: &Mounts) -> PathBuf {
    on_a_disk(std::env::temp_dir(), Path::new(LARGE_FILES), mounts)
}

fn on_a_disk(folder: PathBuf, other: &Path, mounts: &Mounts) -> PathBuf {
    let is_better = || mounts.in_memory(other).is_none() && can_be_written(other);
    if mounts.in_memory(&folder).is_some() && is_better() { other.to_owned() } else { folder }
}

fn can_be_written(folder: &Path) -> bool {
    let Ok(random) = getrandom::u64() else { return false };
    let probe = folder.join(format!("tidemill-probe-{random:016x}"));
    std::fs::create_dir(&probe).and_then(|()| std::fs::remove_dir(&probe)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /proc rw,nosuid shared:5 - proc proc rw
30 22 0:26 / /tmp rw,nosuid,nodev shared:12 master:1 - tmpfs tmpfs rw,size=8145332k
31 30 254:1 / /tmp/a\\040disk rw - xfs /dev/vdb rw
32 22 0:27 / /mnt rw - ext4 /dev/vdc rw
33 32 0:28 / /mnt rw - ramfs none rw
34 22 0:29 /sub / rw - this line is about nothing\n";

    #[test]
    fn the_file_system_with_the_longest_path_counts() {
        let mounts = Mounts(TEXT.to_owned());
        for (folder, kind) in [
            ("/tmp", Some("tmpfs")),
            ("/tmp/x/y", Some("tmpfs")),
            ("/tmpx", Some("this")),
            ("/tmp/a disk/x", Some("xfs")),
            ("/tmp/a diskette", Some("tmpfs")),
            ("/mnt/x", Some("ramfs")),
            ("/proc/self", Some("proc")),
        ] {
            assert_eq!(mounts.kind(Path::new(folder)), kind, "{folder}");
        }
        assert_eq!(Mounts(String::new()).kind(Path::new("/tmp")), None);
    }

    #[test]
    fn the_system_s_folder_is_taken_unless_it_is_in_memory() {
        // Where both are what they are does not matter: the text says it.
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().canonicalize().expect("there");
        let text = |kind: &str, other: &str| {
            Mounts(format!("1 0 0:1 / {} rw - {kind} none rw\n2 0 0:2 / / rw - {other} none rw\n", place.display()))
        };
        let below = place.join("not/there/yet");
        assert_eq!(text("tmpfs", "ext4").in_memory(&below), Some("tmpfs"));
        assert_eq!(text("ext4", "tmpfs").in_memory(&below), None);
        let other = tempfile::tempdir().expect("a folder");
        let taken = |other: &Path, mounts: &Mounts| on_a_disk(below.clone(), other, mounts);
        assert_eq!(taken(other.path(), &text("tmpfs", "ext4")), other.path());
        assert_eq!(std::fs::read_dir(other.path()).expect("listed").count(), 0, "nothing is left in it");
        assert_eq!(taken(other.path(), &text("ext4", "ext4")), below);
        assert_eq!(taken(other.path(), &text("tmpfs", "tmpfs")), below, "the other is no better");
        assert_eq!(taken(other.path(), &Mounts(String::new())), below);
        // Root may write whatever the mode says, but not below a file.
        let file = other.path().join("a file");
        std::fs::write(&file, "").expect("written");
        assert_eq!(taken(&file, &text("tmpfs", "ext4")), below, "nothing can be made in the other");
        assert_eq!(taken(&other.path().join("none"), &text("tmpfs", "ext4")), below);
    }
}
