//! A checkpoint that an earlier program has written is gone on from, exactly.
//!
//! Tests that write a checkpoint and read it again agree with themselves, also when the layout has changed since the version that runs at
//! somebody's. `tests/data/checkpoint-N` are checkpoints of manifest version N as the program of that time wrote them: a job, its stream as
//! it was when the run was killed, results and checkpoints (`local`), and the rest of the stream (`rest`). They are never made again: who
//! changes a field, a file's layout or a type of a state so that this test fails gives the layout a new version
//! ([`MANIFEST_VERSION`]), and adds a new fixture beside the old one, which must then be read as well, or be refused by name.
//!
//! ```text
//! cargo nextest run --test state --run-ignored only make_a_checkpoint   # what wrote each, at the commit that brought its version
//! ```
//!
//! `tests/data/catching-up-N` is one of version N that a job has gone back to: archived rows before it are to be read again, for the archive alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tidemill::state::{MANIFEST_VERSION, MANIFEST_VERSIONS};

use crate::left::{archive, files, name, tables};
use crate::place::Place;

/// Running aggregates, windows that overlap and that do not, a ranking of groups and one of rows, a reference table; files that stay
/// open, with and without state, and files that are complete.
const JOB: &str = include_str!("../data/checkpoint-3/job/job.sql");
const AREAS: &str = include_str!("../data/checkpoint-3/job/areas.csv");

const RUN: [&str; 5] = ["run", "job", "--local", "local", "--drain"];
const SHARDS: [&str; 2] = ["shard-0.jsonl", "shard-1.jsonl"];

pub(crate) fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => copy(&path, &to.join(entry.file_name())),
            path => drop(std::fs::copy(path, to.join(entry.file_name())).unwrap()),
        }
    }
}

/// Everything that a run has written.
fn results(place: &Place) -> BTreeMap<String, u64> {
    let mut all = tables(&place.at("local"));
    for folder in ["archive", "minutes", "complete"] {
        let rows = archive(&place.at("local/s3/kept").join(folder));
        assert!(!rows.is_empty(), "{folder}");
        all.extend(rows.into_iter().map(|(row, count)| (format!("{folder}: {row}"), count)));
    }
    all
}

fn newest_manifest(local: &Path) -> Value {
    let mut manifests = files(&local.join("checkpoints/job/manifests"));
    manifests.sort();
    serde_json::from_slice(&std::fs::read(manifests.last().unwrap()).unwrap()).unwrap()
}

/// What SQLite has beside its file is in the file, once somebody has closed it.
pub(crate) fn close_tables(place: &Place) {
    drop(rusqlite::Connection::open(place.at("local/dynamodb.sqlite")).unwrap().execute_batch("VACUUM"));
}

/// What is missing from a checkpoint for it to be worth keeping.
fn lacks(local: &Path) -> Vec<&'static str> {
    let manifest = newest_manifest(local);
    let queries: Vec<&Value> = manifest["queries"].as_object().unwrap().values().collect();
    let states = queries.iter().flat_map(|query| query["operators"].as_array().unwrap());
    let log = std::fs::read_to_string(local.join("checkpoints/job/epochs.log")).unwrap();
    let beyond = manifest["epoch"].as_u64().unwrap();
    [
        ("five operators with state", states.filter(|state| state["rows"].as_u64() > Some(0)).count() >= 5),
        ("several files of one state", manifest.to_string().matches(".arrow").count() > 8),
        ("rows of open files", queries.iter().any(|query| query["unwritten"]["rows"].as_u64() > Some(0))),
        ("epochs that are read again", manifest["reread"].is_object()),
        ("a reference table", manifest["references"]["areas"].is_object()),
        ("epochs behind it", beyond > 2 && log.lines().filter(|line| line.contains("\"cut\"")).count() > 3),
        ("files that were promised", log.contains("complete")),
    ]
    .into_iter()
    .filter_map(|(what, is_there)| (!is_there).then_some(what))
    .collect()
}

#[test]
fn a_checkpoint_of_an_earlier_program_is_gone_on_from_exactly() {
    let mut versions = Vec::new();
    for folder in std::fs::read_dir(data()).unwrap().flatten().map(|entry| entry.path()) {
        let Some(version) = name(&folder).strip_prefix("checkpoint-").map(|text| text.parse::<u32>().unwrap()) else {
            continue;
        };
        versions.push(version);
        let earlier = Place::of(&[]);
        copy(&folder, earlier.path());
        for shard in SHARDS {
            let at = |folder: &str| earlier.at(folder).join(shard);
            let whole = std::fs::read_to_string(at("local/kinesis/visits")).unwrap();
            let whole = whole + &std::fs::read_to_string(at("rest")).unwrap();
            std::fs::write(at("local/kinesis/visits"), whole).unwrap();
        }
        if !MANIFEST_VERSIONS.contains(&version) {
            let said = earlier.refused(&RUN);
            let (first, last) = MANIFEST_VERSIONS.into_inner();
            let refusal = format!("has version {version}, this program reads {first} to {last}");
            assert!(said.contains(&refusal), "{said}");
            continue;
        }
        assert_eq!(lacks(&earlier.at("local")), Vec::<&str>::new());
        let before = newest_manifest(&earlier.at("local"))["number"].as_u64().unwrap();

        let whole = Place::of(&[]);
        copy(&folder.join("job"), &whole.at("job"));
        copy(&earlier.at("local/kinesis"), &whole.at("local/kinesis"));
        whole.done(&RUN);
        let wanted = results(&whole);
        let said = earlier.done(&RUN);
        let found = results(&earlier);
        let after = newest_manifest(&earlier.at("local"))["number"].as_u64().unwrap();
        assert!(after > before, "checkpoint {after} follows {before}: {said}");
        let only = |a: &BTreeMap<String, u64>, b: &BTreeMap<String, u64>| -> Vec<String> {
            a.iter()
                .filter(|(row, count)| b.get(*row) != Some(count))
                .map(|(row, count)| format!("{count} x {row}"))
                .collect()
        };
        assert!(wanted.len() > 100, "{wanted:?}");
        assert!(wanted == found, "missing: {:#?}\ntoo many: {:#?}", only(&wanted, &found), only(&found, &wanted));
    }
    assert!(
        versions.contains(&MANIFEST_VERSION),
        "there is no checkpoint of version {MANIFEST_VERSION}, but of {versions:?}"
    );
}

/// Lines of a shard, from 10:00:00 on; some are out of order, few are late.
fn lines(shard: usize, numbers: std::ops::Range<usize>) -> String {
    let line = |n: usize| {
        let back = if n % 41 == 40 { 30 } else { n % 3 };
        let second = (n + 30).saturating_sub(back + 30) + shard;
        let (page, visitor, cents) = (n * n % 7, n * 13 % 29, n * 37 % 1_000);
        format!(
            "{{\"n\":{n},\"page\":\"p{page}\",\"visitor\":\"v{visitor}\",\"price\":{}.{:02},\"at\":\"2026-02-12 10:{:02}:{:02}\"}}\n",
            cents / 100,
            cents % 100,
            second / 60,
            second % 60
        )
    };
    numbers.filter(|n| n % SHARDS.len() == shard).map(line).collect()
}

#[test]
#[ignore = "it writes a checkpoint of this version into tests/data, where there must be none"]
fn make_a_checkpoint() {
    let target = data().join(format!("checkpoint-{MANIFEST_VERSION}"));
    assert!(!target.exists(), "there is one: a new layout has a new version");
    for time in 14.. {
        assert!(time < 40, "no run was killed at the right moment");
        let place = Place::of(&[("job.sql", JOB), ("areas.csv", AREAS)]);
        for folder in ["local/kinesis/visits", "rest"] {
            std::fs::create_dir_all(place.at(folder)).unwrap();
        }
        for (number, shard) in SHARDS.into_iter().enumerate() {
            std::fs::write(place.at("local/kinesis/visits").join(shard), lines(number, 0..250)).unwrap();
            std::fs::write(place.at("rest").join(shard), lines(number, 250..400)).unwrap();
        }
        let more = ["--epoch-rows", "10", "--checkpoint-interval", "30ms"];
        let mut run = place.command(&[&RUN[..], &more].concat());
        let killed = run.env("TIDEMILL_CRASH_AT", format!("cut.after:{time}")).output().unwrap();
        if killed.status.code().is_some() || !lacks(&place.at("local")).is_empty() {
            continue;
        }
        close_tables(&place);
        std::fs::remove_dir_all(place.at("local/spill")).unwrap();
        for folder in ["job", "rest", "local"] {
            copy(&place.at(folder), &target.join(folder));
        }
        return;
    }
}
