//! A saved state is the whole one or an error that says what to do; never a part, never damaged.

use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};

use super::*;
use crate::contracts::ErrorKind;

fn rows(values: std::ops::Range<i64>) -> RecordBatch {
    let texts: StringArray = values.clone().map(|v| Some(format!("text {v}"))).collect();
    let numbers: Int64Array = values.collect();
    RecordBatch::try_from_iter([("n", Arc::new(numbers) as _), ("t", Arc::new(texts) as _)]).expect("a batch")
}

fn job(epoch: u64) -> SavedJob {
    let split = SavedSplit { after_exclusive: Some("4711".to_owned()), watermark_ms: 17, finished: false };
    let table = SavedTable {
        splits: BTreeMap::from([("shardId-0".to_owned(), split)]),
        floor: i64::MIN,
        source: Some("made 2026".to_owned()),
    };
    let operator = |rows| OperatorState { fingerprint: "f".to_owned(), watermark: Watermark(3), rows };
    let states = vec![operator(vec![rows(0..20), rows(20..30)]), operator(vec![])];
    SavedJob {
        epoch,
        tables: BTreeMap::from([("events".to_owned(), table)]),
        queries: BTreeMap::from([("a.sql:counts/by day".to_owned(), states)]),
    }
}

fn shown(job: &SavedJob) -> String {
    format!("{job:?}")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn what_was_saved_is_read_and_the_newest_wins() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = StateStore::new(folder.path().join("job"));
    assert!(store.latest().expect("no state is no error").is_none());
    for epoch in [7, 9, 12] {
        store.save(&job(epoch)).expect("saved");
        let read = store.latest().expect("readable").expect("a state");
        assert_eq!(shown(&read), shown(&job(epoch)));
    }
    assert_eq!(store.numbers().expect("numbers"), [3]);
    let names: Vec<_> = files(&folder.path().join("job"));
    assert_eq!(names.len(), 2, "older states are removed: {names:?}");
    store.clear().expect("cleared");
    assert!(store.latest().expect("no state is no error").is_none());
}

#[test]
fn a_save_that_was_cut_short_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = StateStore::new(folder.path());
    store.save(&job(7)).expect("saved");
    // A later save that got as far as its Arrow files and a part of its manifest.
    fs::write(folder.path().join("2-a-sql-counts-by-day-0.arrow"), b"ARROW1").expect("a torn file");
    fs::write(folder.path().join(".next"), b"{\"version\": 2, \"ep").expect("a torn manifest");
    assert_eq!(shown(&store.latest().expect("readable").expect("a state")), shown(&job(7)));
    store.save(&job(8)).expect("saved over it");
    assert_eq!(shown(&store.latest().expect("readable").expect("a state")), shown(&job(8)));
}

#[test]
fn any_flipped_bit_and_any_missing_end_is_corrupt_with_a_hint() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = StateStore::new(folder.path());
    store.save(&job(7)).expect("saved");
    let check = |what: &str| {
        let error = store.latest().expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("--fresh")), "{what}: {error}");
    };
    for path in files(folder.path()) {
        let whole = fs::read(&path).expect("a file");
        let name = path.display();
        // Neither step shares a divisor with eight: every bit of some byte is met, in header, bodies, padding and footer.
        let step = if path.extension().is_some_and(|e| e == "arrow") { 37 } else { 5 };
        for bit in (0..whole.len() * 8).step_by(step) {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &damaged).expect("a damaged file");
            check(&format!("{name}, bit {bit}"));
        }
        for length in (0..whole.len()).step_by(37) {
            fs::write(&path, &whole[..length]).expect("a torn file");
            check(&format!("{name}, {length} bytes"));
        }
        if path.extension().is_some_and(|e| e == "arrow") {
            fs::remove_file(&path).expect("removed");
            check(&format!("{name} is missing"));
        }
        fs::write(&path, &whole).expect("mended");
    }
    assert_eq!(shown(&store.latest().expect("readable").expect("a state")), shown(&job(7)));
}

#[test]
fn the_first_layout_is_refused_by_its_version() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = StateStore::new(folder.path());
    let old = "{\n  \"version\": 1,\n  \"program\": \"tidemill 0.1.0\",\n  \"epoch\": 3,\n  \"tables\": {},\n  \"queries\": {}\n}";
    fs::write(folder.path().join("1.json"), old).expect("an old state");
    let error = store.latest().expect_err("another layout");
    assert!(error.to_string().contains("version 1"), "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("--fresh")), "{error}");
}
