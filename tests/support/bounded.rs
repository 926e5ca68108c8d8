//! Tests that must not take memory beyond a bound: each runs in a process of its own, whose address space the system limits (`ulimit -v`).
//!
//! What is beyond the limit is refused, also where nobody would write into it, and that ends the process with a word. So each test first
//! writes down which case it runs; [`Bound::note`] puts it into the file that FUZZ_LAST names, or a temporary one.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::{Command, Output};

/// Set in the process that has the limit.
const WITHIN: &str = "FUZZ_WITHIN";
const LAST: &str = "FUZZ_LAST";

/// Runs the rest of the test that it stands in within so many MiB, in another process; here the test ends with it. (With
/// `use bounded::{Bound, within}`.)
macro_rules! within {
    ($mib:expr) => {{
        fn here() {}
        match Bound::begin(std::any::type_name_of_val(&here), $mib) {
            Some(bound) => bound,
            None => return,
        }
    }};
}
pub(crate) use within;

/// The process has its limit.
pub(crate) struct Bound {
    last: PathBuf,
    mib: u64,
}

impl Bound {
    /// `None` where the test has run in another process, and has passed. `here` is the path of a function in it.
    pub(crate) fn begin(here: &str, mib: u64) -> Option<Self> {
        if std::env::var_os(WITHIN).is_some() || !cfg!(target_os = "linux") {
            let last = std::env::var_os(LAST).map_or_else(|| std::env::temp_dir().join("fuzz-last"), PathBuf::from);
            return Some(Self { last, mib });
        }
        let (output, case) = ran(here, mib);
        let said = [&output.stdout[..], b"\n", &output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{} within {mib} MiB\n{said}\nthe last case: {case}",
            output.status
        );
        said.lines()
            .filter(|line| line.contains("FUZZ_SEED") || line.contains(" MiB"))
            .for_each(|line| println!("{line}"));
        None
    }

    /// The case that comes next, should it take the process along.
    pub(crate) fn note(&self, case: impl Display) {
        std::fs::write(&self.last, case.to_string()).expect("a file for the last case");
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
        let kib = peak.and_then(|peak| peak.split_whitespace().next()?.parse::<u64>().ok());
        if let Some(kib) = kib {
            println!("at most {} MiB, of {}", kib >> 10, self.mib);
        }
    }
}

/// The test in a process that has the limit, and the last case that it has noted.
fn ran(here: &str, mib: u64) -> (Output, String) {
    let name = here.split_once("::").map_or(here, |(_, name)| name);
    let name = name.strip_suffix("::here").unwrap_or(name);
    let own = tempfile::NamedTempFile::new().expect("a file for the last case");
    let last = std::env::var_os(LAST).map_or_else(|| own.path().to_owned(), PathBuf::from);
    let output = Command::new("sh")
        .args(["-c", r#"ulimit -v "$0" && exec "$@""#, &(mib << 10).to_string()])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", name, "--nocapture"])
        .env(WITHIN, "1")
        .env(LAST, &last)
        // The system's allocator sets aside 64 MiB of addresses for each thread.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .expect("a shell");
    (output, std::fs::read_to_string(&last).unwrap_or_default())
}

/// Without this, a bound that does not hold would go unnoticed: a case that takes twice as much ends the process, and is named.
#[test]
fn more_than_the_bound_cannot_be_had() {
    fn here() {}
    const MIB: u64 = 512;
    if std::env::var_os(WITHIN).is_some() {
        let bound = Bound::begin("", MIB).expect("it is within it");
        bound.note("the one that takes too much");
        // Nobody writes into it: what is resident would not grow.
        let much = vec![0_u8; (2 * (MIB as usize)) << 20];
        println!("there are {} bytes", std::hint::black_box(&much).len());
    } else if cfg!(target_os = "linux") {
        let (output, case) = ran(std::any::type_name_of_val(&here), MIB);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("memory allocation of 1073741824 bytes failed"), "{said}");
        assert_eq!(case, "the one that takes too much");
    }
}
