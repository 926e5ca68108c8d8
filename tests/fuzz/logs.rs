//! Epoch logs, in a folder and as objects: damage is found, but for a torn end, which never took effect.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;
use tidemill::contracts::{EpochCut, EpochLog, ErrorKind, LogEntry, Opened, OpenedAt, SplitCut, TableCut};
use tidemill::state::{FileEpochLog, ObjectEpochLog};

use crate::MOST_MIB;
use crate::bounded::{Bound, within};
use crate::change::{bits, changed, changes, check, seed};
use crate::memory::Memory;

fn entries() -> Vec<LogEntry> {
    let split = |n: u64| SplitCut {
        feed: "events".to_owned(),
        split: format!("shardId-{n:012}"),
        opened: (n == 1).then(|| Opened { at: OpenedAt::TrimHorizon, watermarks: vec![i64::MIN, 17], finished: false }),
        records: 40 * n,
        after: Some(format!("4967{n}@1790000000000")),
        version: (n == 2).then(|| "\"d41d8cd9\"".to_owned()),
        ended: n == 2,
    };
    let table = TableCut {
        table: "events".to_owned(),
        floor: i64::MIN,
        floor_after: 5,
        watermark: 1_790_000_000_000,
        quiet: true,
        then: Some(1_790_000_000_000),
    };
    let cut = |epoch: u64| EpochCut {
        epoch,
        generation: 3,
        now_ms: 1_790_000_000_000,
        oldest_ms: (epoch == 8).then_some(1_789_999_000_000),
        closes: epoch == 9,
        catches_up: epoch == 5,
        splits: vec![split(1), split(2)],
        tables: vec![table.clone()],
        references: (epoch > 6).then(|| ("weights".to_owned(), format!("{epoch:064x}"))).into_iter().collect(),
    };
    let queries = [("a.sql:counts".to_owned(), "f00d".to_owned())].into_iter().collect();
    let mut entries =
        vec![LogEntry::Started { generation: 3, queries, anew: false, behind: None, reads: Default::default() }];
    for epoch in 4..10 {
        entries.push(LogEntry::Cut(cut(epoch)));
        let payloads = vec![format!("{{\"upload\":\"u{epoch}\"}}"), "é".to_owned()];
        entries.push(LogEntry::Committed { query: "a.sql:archive".to_owned(), epoch, payloads });
    }
    entries
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn written(folder: &Path) -> Vec<u8> {
    runtime().block_on(async {
        let (log, _) = FileEpochLog::open(folder).unwrap();
        for entry in entries() {
            log.append(&entry).await.unwrap();
        }
    });
    std::fs::read(folder.join("epochs.log")).unwrap()
}

/// What is read is a beginning of what was written, and as long as the damage allows.
fn is_prefix(found: &[LogEntry]) -> bool {
    entries().starts_with(found)
}

#[test]
fn a_damaged_file_is_refused_or_ends_earlier() {
    let bound = within!(MOST_MIB);
    let folder = tempfile::tempdir().unwrap();
    let whole = written(folder.path());
    let path = folder.path().join("epochs.log");
    check(&bound, 500, 20, changes(), |changes| {
        let damaged = changed(&whole, &changes);
        std::fs::write(&path, &damaged).unwrap();
        match FileEpochLog::open(folder.path()) {
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error),
            // Whole lines may have been doubled or removed by a change: those that are read are real ones.
            Ok((_, found)) => {
                prop_assert!(found.iter().all(|entry| entries().contains(entry)), "{:?}", found);
                let lines = damaged.iter().filter(|byte| **byte == b'\n').count();
                prop_assert_eq!(found.len(), lines, "a whole line was passed over");
            }
        }
        Ok(())
    });
}

#[test]
fn a_flipped_bit_in_any_byte_of_a_file_is_found() {
    let bound = within!(MOST_MIB);
    let folder = tempfile::tempdir().unwrap();
    let whole = written(folder.path());
    let path = folder.path().join("epochs.log");
    for at in 0..whole.len() {
        for bit in bits(at) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            bound.note(format_args!("bit {bit} of byte {at}"));
            std::fs::write(&path, &damaged).unwrap();
            let error = FileEpochLog::open(folder.path()).err();
            let found = error.is_some_and(|e| e.kind() == ErrorKind::Corrupt);
            assert!(found, "bit {bit} of byte {at} of {}, FUZZ_SEED={}", whole.len(), seed());
        }
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(FileEpochLog::open(folder.path()).unwrap().1, entries());
}

#[test]
fn a_torn_file_is_a_shorter_one() {
    let bound = within!(MOST_MIB);
    let folder = tempfile::tempdir().unwrap();
    let whole = written(folder.path());
    let path = folder.path().join("epochs.log");
    // Each place in the last lines, and some of the others: a cut is synced.
    for at in (0..whole.len()).filter(|at| at % 13 == 0 || at + 300 > whole.len()) {
        bound.note(format_args!("{at} bytes"));
        std::fs::write(&path, &whole[..at]).unwrap();
        let found = FileEpochLog::open(folder.path());
        match found {
            Ok((_, found)) => assert!(is_prefix(&found), "{at} bytes"),
            // All of the line but its end is there: it may have taken effect.
            Err(error) => assert!(error.kind() == ErrorKind::Corrupt && whole[at] == b'\n', "{at} bytes: {error}"),
        }
    }
}

#[test]
fn a_damaged_object_is_refused() {
    let bound = within!(MOST_MIB);
    let runtime = runtime();
    let storage = Arc::new(Memory::default());
    runtime.block_on(async {
        let (log, _) = ObjectEpochLog::open(storage.clone(), "nonce-1").await.unwrap();
        for entry in entries() {
            log.append(&entry).await.unwrap();
        }
    });
    let objects: Vec<(String, Vec<u8>)> =
        storage.0.lock().unwrap().iter().map(|(name, content)| (name.clone(), content.to_vec())).collect();
    assert_eq!(objects.len(), entries().len());
    check(&bound, 1_500, 1, (any::<Index>(), changes()), |(which, changes)| {
        let (name, whole) = &objects[which.index(objects.len())];
        storage.put(name, changed(whole, &changes));
        let found = runtime.block_on(ObjectEpochLog::open(storage.clone(), "nonce-2"));
        storage.put(name, whole.clone());
        match found {
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error),
            Ok((_, found)) => prop_assert!(found.iter().all(|entry| entries().contains(entry)), "{:?}", found),
        }
        Ok(())
    });
}
