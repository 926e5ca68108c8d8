//! Logs of the local Kinesis: what a reader gives out is what was put, in order and once; damage with whole frames behind it is an
//! error, a damaged end is one that was never written.

use std::sync::Arc;

use proptest::prelude::*;
use tidemill::connectors::kinesis::local::{LocalKinesisSource, LocalStream, PutRecord, stream_folder};
use tidemill::contracts::{Clock, Fetch, Source, StartPosition};

use crate::MOST_MIB;
use crate::bounded::{Bound, within};
use crate::change::{changed, changes, check};
use crate::hurried::Hurried;

const FRAMES: usize = 6;
const RECORDS_OF_A_FRAME: usize = 5;
/// Longer than a reader's patience with damage.
const LOOKS: usize = 100;

fn text(number: usize) -> String {
    format!("{{\"n\":{number},\"text\":\"{}\"}}", "x".repeat(number * 7 % 50))
}

/// Reads until nothing comes any more: the records, and the error if there was one.
async fn read(source: &LocalKinesisSource) -> (Vec<String>, Option<tidemill::contracts::Error>) {
    let mut found = Vec::new();
    let splits = match source.splits().await {
        Ok(splits) => splits,
        Err(error) => return (found, Some(error)),
    };
    for split in splits {
        let mut reader = match source.open(&split, None, StartPosition::TrimHorizon).await {
            Ok(reader) => reader,
            Err(error) => return (found, Some(error)),
        };
        let mut quiet = 0;
        while quiet < LOOKS {
            match reader.next().await {
                Ok(Fetch::Records(chunk)) => {
                    found.extend((0..chunk.len()).map(|at| String::from_utf8_lossy(chunk.record(at)).into_owned()));
                    quiet = 0;
                }
                Ok(_) => quiet += 1,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

#[test]
fn records_come_as_they_were_put_or_damage_is_told() {
    let bound = within!(MOST_MIB);
    let folder = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(Hurried::default());
    let mut stream = LocalStream::open(folder.path(), "s", Some(1), Arc::clone(&clock)).unwrap();
    let texts: Vec<String> = (0..FRAMES * RECORDS_OF_A_FRAME).map(text).collect();
    for frame in texts.chunks(RECORDS_OF_A_FRAME) {
        let records: Vec<_> = frame
            .iter()
            .map(|text| PutRecord { partition_key: "k", explicit_hash_key: None, data: text.as_bytes() })
            .collect();
        assert!(stream.put_records(&records).unwrap().iter().all(Result::is_ok));
    }
    let log = stream_folder(folder.path(), "s").join("shardId-000000000000.log");
    let whole = std::fs::read(&log).unwrap();
    let source = LocalKinesisSource::new(folder.path(), "s", clock, false).with_partition_keys();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let frame_starts: Vec<usize> = (0..whole.len()).filter(|at| whole[*at..].starts_with(b"TFM1")).collect();
    assert_eq!(frame_starts.len(), FRAMES, "the frames' magic number");
    check(&bound, 600, 4, changes(), |changes| {
        let damaged = changed(&whole, &changes);
        std::fs::write(&log, &damaged).unwrap();
        let (found, error) = runtime.block_on(read(&source));
        prop_assert!(found.iter().all(|text| texts.contains(text)), "records that nobody has put: {:?}", found);
        // The frames up to the first change are there.
        let same = whole.iter().zip(&damaged).take_while(|(a, b)| a == b).count();
        let ends = frame_starts[1..].iter().copied().chain([whole.len()]);
        let untouched = ends.filter(|end| *end <= same).count() * RECORDS_OF_A_FRAME;
        let all = found.len() >= untouched && found[..untouched] == texts[..untouched];
        prop_assert!(all || error.is_some(), "{} of {} records", found.len(), untouched);
        if let Some(error) = error {
            prop_assert!(error.to_string().len() > 10, "{}", error);
        }
        Ok(())
    });
    // Damage that has whole frames behind it, wherever it is.
    for at in frame_starts[1]..frame_starts[4] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        bound.note(format_args!("byte {at}"));
        std::fs::write(&log, &damaged).unwrap();
        let (found, error) = runtime.block_on(read(&source));
        assert!(error.is_some(), "byte {at}: {} records, and no error", found.len());
        assert_eq!(found, texts[..found.len()], "byte {at}");
    }
}

#[test]
fn descriptions_of_streams() {
    let bound = within!(MOST_MIB);
    let folder = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(Hurried::default());
    drop(LocalStream::open(folder.path(), "s", Some(2), Arc::clone(&clock)).unwrap());
    let path = stream_folder(folder.path(), "s").join("stream.json");
    let whole = std::fs::read(&path).unwrap();
    let source = LocalKinesisSource::new(folder.path(), "s", Arc::clone(&clock), false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    check(&bound, 500, 10, changes(), |changes| {
        std::fs::write(&path, changed(&whole, &changes)).unwrap();
        let _ = runtime.block_on(source.splits());
        let _ = LocalStream::open(folder.path(), "s", None, Arc::clone(&clock)).map(|mut stream| {
            stream.put_records(&[PutRecord { partition_key: "k", explicit_hash_key: None, data: b"x" }]).map(|_| ())
        });
        Ok(())
    });
}
