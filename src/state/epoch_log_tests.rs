//! Torn, damaged and shortened logs.

use super::*;
use crate::contracts::{EpochCut, SplitCut};

fn cut(epoch: u64) -> LogEntry {
    let split = SplitCut {
        feed: "events".to_owned(),
        split: "shardId-000000000000".to_owned(),
        opened: None,
        records: 17,
        after: Some("4711".to_owned()),
        version: Some("\"e-tag\"".to_owned()),
        ended: false,
    };
    let (generation, now_ms) = (1, 1_790_000_000_000);
    let (splits, tables) = (vec![split], vec![]);
    let references = [("weights".to_owned(), "5e0c".repeat(16))].into();
    LogEntry::Cut(EpochCut {
        epoch,
        generation,
        now_ms,
        oldest_ms: Some(7),
        closes: false,
        catches_up: false,
        splits,
        tables,
        references,
    })
}

async fn written(folder: &Path, epochs: std::ops::Range<u64>) -> Vec<u8> {
    let (log, _) = FileEpochLog::open(folder).expect("a log");
    let started = LogEntry::started(1, false);
    log.append(&started).await.expect("an entry");
    for epoch in epochs {
        log.append(&cut(epoch)).await.expect("an entry");
    }
    fs::read(folder.join(FILE)).expect("the file")
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_wherever_it_was_torn() {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = written(folder.path(), 1..4).await;
    let last = bytes.len() - bytes.split_inclusive(|b| *b == b'\n').next_back().map_or(0, <[u8]>::len);
    for end in last..bytes.len() {
        fs::write(folder.path().join(FILE), &bytes[..end]).expect("a torn file");
        let (log, entries) = FileEpochLog::open(folder.path()).expect("a torn tail is no error");
        assert_eq!(entries.last(), Some(&cut(2)), "torn at {end}");
        log.append(&cut(3)).await.expect("goes on");
        assert_eq!(fs::read(folder.path().join(FILE)).expect("the file"), bytes, "torn at {end}");
    }
}

#[tokio::test]
async fn a_line_that_is_written_in_part_is_cut_off_and_nothing_follows_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = written(folder.path(), 1..4).await;
    let content = || fs::read(folder.path().join(FILE)).expect("the file");
    for can_be_cut in [true, false] {
        let (log, entries) = FileEpochLog::open(folder.path()).expect("a log");
        assert_eq!(entries.last(), Some(&cut(3)));
        let full = |file: &mut File, line: &[u8]| {
            file.write_all(&line[..line.len() / 2])?;
            Err(io::ErrorKind::StorageFull.into())
        };
        let text = line(&cut(4)).expect("a line");
        let written = log.open.lock().expect("no panic").append(Some(4), &text, full);
        assert_eq!(written.map_err(|e| e.kind()), Err(io::ErrorKind::StorageFull));
        assert_eq!(content(), bytes);
        if !can_be_cut {
            fs::write(folder.path().join(FILE), [&bytes, &text[..9]].concat()).expect("half a line");
        }
        // There is space again: what another task has waited to write must not come without what was before it.
        let error = log.append(&cut(5)).await.expect_err("it is refused");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        log.forget(2).await.expect("shortened");
        drop(log);
        let (log, entries) = FileEpochLog::open(folder.path()).expect("only the end of a log may be torn");
        assert_eq!(entries.iter().filter_map(LogEntry::epoch).collect::<Vec<_>>(), [3]);
        log.append(&cut(4)).await.expect("goes on");
        drop(log);
        fs::write(folder.path().join(FILE), &bytes).expect("as it was");
    }
}

#[tokio::test]
async fn a_flipped_bit_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = written(folder.path(), 1..4).await;
    // Five and eight have no divisor in common: every bit of some byte is met.
    for bit in (0..bytes.len() * 8).step_by(5) {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(folder.path().join(FILE), &damaged).expect("a damaged file");
        let error = FileEpochLog::open(folder.path()).err().unwrap_or_else(|| panic!("bit {bit} was not noticed"));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "bit {bit}: {error}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("--fresh")), "{error}");
    }
}

#[tokio::test]
async fn forgets_what_a_checkpoint_covers_while_a_run_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    written(folder.path(), 1..6).await;
    let epochs = |entries: Vec<LogEntry>| entries.iter().filter_map(LogEntry::epoch).collect::<Vec<_>>();
    let (log, _) = FileEpochLog::open(folder.path()).expect("a log");
    let long = fs::metadata(folder.path().join(FILE)).expect("the file").len();
    log.forget(1).await.expect("not worth it");
    assert_eq!(fs::metadata(folder.path().join(FILE)).expect("the file").len(), long);
    log.forget(3).await.expect("shortened");
    assert!(fs::metadata(folder.path().join(FILE)).expect("the file").len() < long);
    assert_eq!(FileEpochLog::open(folder.path()).err().map(|e| e.kind()), Some(ErrorKind::Fenced));
    log.append(&cut(6)).await.expect("goes on");
    drop(log);
    let (log, entries) = FileEpochLog::open(folder.path()).expect("a log");
    assert_eq!(epochs(entries), [4, 5, 6]);
    log.forget(6).await.expect("shortened");
    log.append(&cut(7)).await.expect("goes on");
    drop(log);
    assert_eq!(epochs(FileEpochLog::open(folder.path()).expect("a log").1), [7]);
}

#[tokio::test]
async fn what_fails_when_it_is_shortened_does_not_part_the_run_from_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    written(folder.path(), 1..6).await;
    let path = folder.path().join(FILE);
    let numbers = |entries: Vec<LogEntry>| entries.iter().filter_map(LogEntry::epoch).collect::<Vec<_>>();
    let (log, _) = FileEpochLog::open(folder.path()).expect("a log");
    // The shorter file has its name, and the folder cannot be synced.
    let full = |_: &Path| Err(io::ErrorKind::StorageFull.into());
    let forgotten = log.open.lock().expect("no panic").forget(&path, 3, full);
    assert_eq!(forgotten.map_err(|e| e.kind()), Err(io::ErrorKind::StorageFull));
    assert_eq!(FileEpochLog::open(folder.path()).err().map(|e| e.kind()), Some(ErrorKind::Fenced));
    log.append(&cut(6)).await.expect("goes on");
    let named = File::open(&path).expect("the file");
    assert!(matches!(named.try_lock(), Err(TryLockError::WouldBlock)), "the log's lock is this run's");
    log.forget(5).await.expect("shortened again");
    log.append(&cut(7)).await.expect("goes on");
    drop(log);
    assert_eq!(numbers(FileEpochLog::open(folder.path()).expect("a log").1), [6, 7]);

    // All of it is covered, and it cannot be emptied: a part of a line that comes then is cut off, and no more.
    let (log, _) = FileEpochLog::open(folder.path()).expect("a log");
    {
        let mut open = log.open.lock().expect("no panic");
        let file = std::mem::replace(&mut open.file, File::open(&path).expect("to be read only"));
        assert!(open.forget(&path, 7, sync).is_err());
        open.file = file;
        let half = |file: &mut File, line: &[u8]| {
            file.write_all(&line[..line.len() / 2])?;
            Err(io::ErrorKind::StorageFull.into())
        };
        assert!(open.append(Some(8), &line(&cut(8)).expect("a line"), half).is_err());
    }
    drop(log);
    assert_eq!(numbers(FileEpochLog::open(folder.path()).expect("a log").1), [6, 7]);
}

/// Its name must be durable before anything is written that the file before does not have.
#[tokio::test]
async fn nothing_is_written_to_a_shortened_log_whose_name_may_go() {
    let folder = tempfile::tempdir().expect("a folder");
    written(folder.path(), 1..6).await;
    let path = folder.path().join(FILE);
    let (log, _) = FileEpochLog::open(folder.path()).expect("a log");
    {
        let mut open = log.open.lock().expect("no panic");
        assert!(open.forget(&path, 3, |_| Err(io::ErrorKind::StorageFull.into())).is_err());
        open.unsynced = Some(folder.path().join("gone"));
    }
    let error = log.append(&cut(6)).await.expect_err("it still cannot be synced");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    log.append(&cut(7)).await.expect_err("nothing follows it");
    drop(log);
    let (_, entries) = FileEpochLog::open(folder.path()).expect("a log");
    assert_eq!(entries.iter().filter_map(LogEntry::epoch).collect::<Vec<_>>(), [4, 5]);
}

#[test]
fn two_runs_cannot_have_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = FileEpochLog::open(folder.path()).expect("a log");
    let second = FileEpochLog::open(folder.path()).expect_err("it is taken");
    assert_eq!(second.kind(), ErrorKind::Fenced, "{second}");
    drop(first);
    FileEpochLog::open(folder.path()).expect("free again");
}

/// Nothing of it is needed then; until that is said, it stays as it is, so that it can be restored.
#[tokio::test]
async fn what_is_damaged_goes_when_nothing_of_the_log_is_needed() {
    let started = |anew| LogEntry::started(9, anew);
    let flipped: fn(&mut Vec<u8>) = |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    };
    let without_end: fn(&mut Vec<u8>) = |bytes| *bytes.last_mut().expect("a line end") ^= 1;
    for damage in [flipped, without_end] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        let mut bytes = written(folder.path(), 1..6).await;
        damage(&mut bytes);
        fs::write(&path, &bytes).expect("a damaged file");
        let (log, entries, error) = FileEpochLog::open_damaged(folder.path()).expect("opened");
        assert!(error.is_some_and(|error| error.kind() == ErrorKind::Corrupt) && entries.len() == 5, "{entries:?}");
        assert_eq!(fs::read(&path).expect("the file"), bytes, "as it was");
        log.append(&started(false)).await.expect("an entry");
        drop(log);
        let (log, now, error) = FileEpochLog::open_damaged(folder.path()).expect("opened");
        assert!(error.is_some() && now == [&entries[..], &[started(false)]].concat(), "{now:?}");
        // A run begins anew.
        log.append(&started(true)).await.expect("an entry");
        log.append(&cut(7)).await.expect("an entry");
        drop(log);
        let (log, whole) = FileEpochLog::open(folder.path()).expect("whole again");
        assert_eq!(whole, [&now[..], &[started(true), cut(7)]].concat());
        drop(log);
        // Or a checkpoint has all of it, or a part.
        for (epoch, left) in [(u64::MAX, vec![]), (1, vec![7])] {
            let mut bytes = fs::read(&path).expect("the file");
            bytes[30] ^= 1;
            if epoch == u64::MAX {
                fs::write(&path, &bytes).expect("a damaged file");
            } else {
                fs::write(&path, [&bytes[..], &line(&cut(7)).expect("a line")].concat()).expect("a damaged file");
            }
            let (log, ..) = FileEpochLog::open_damaged(folder.path()).expect("opened");
            log.forget(epoch).await.expect("shortened");
            drop(log);
            let (log, whole) = FileEpochLog::open(folder.path()).expect("whole again");
            assert_eq!(whole.iter().filter_map(LogEntry::epoch).collect::<Vec<_>>(), left);
            log.append(&started(false)).await.expect("goes on");
        }
    }
}
