//! Hostile payloads: aggregates and compressed records with bytes changed at random. `tests/fuzz` has the rest.
//!
//! `FUZZ_CASES=N` runs that many cases, `FUZZ_SEED=N` others; a case that fails says its seed.

use std::io::Write;

use aws_sdk_kinesis::types::Record;
use md5::{Digest, Md5};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::chunks::{UnpackOptions, Unpacker};
use super::kpl::{Aggregate, deaggregate};
use super::payload::{Compression, LARGEST_BYTES};
use super::position::{Place, ShardPosition};
use crate::contracts::SplitId;
use bounded::{Bound, within};

#[path = "../../../../tests/support/bounded.rs"]
mod bounded;

/// What the process of a test may have of addresses, in MiB: less than half of what the bombs here would become together.
const MOST_MIB: u64 = 640;

/// The number that a variable of the environment has, if it is set.
fn asked(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn check<S: Strategy>(bound: &Bound, usual: u32, strategy: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let cases = asked("FUZZ_CASES").map_or(usual, |cases| u32::try_from(cases).expect("fewer cases"));
    let seed = asked("FUZZ_SEED").unwrap_or(20_261_126);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let noted = |case: S::Value| {
        bound.note(format_args!("FUZZ_SEED={seed}: {case:#?}"));
        test(case)
    };
    match runner.run(&strategy, noted) {
        Ok(()) => println!("{cases} cases, FUZZ_SEED={seed}"),
        Err(error) => panic!("FUZZ_SEED={seed}: {error}"),
    }
}

/// Bytes that are set, put in and left out.
fn edits() -> impl Strategy<Value = Vec<(Index, u8, usize)>> {
    prop::collection::vec((any::<Index>(), any::<u8>(), 0..4_usize), 1..6)
}

fn edited(bytes: &[u8], edits: &[(Index, u8, usize)]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for (at, byte, what) in edits {
        if out.is_empty() {
            out.push(*byte);
        }
        let at = at.index(out.len());
        match what {
            0 => out[at] = *byte,
            1 => out.insert(at, *byte),
            2 => out.truncate(at),
            _ => drop(out.drain(at..(at + usize::from(*byte) % 9).min(out.len()))),
        }
    }
    out
}

fn aggregate() -> Vec<u8> {
    let mut aggregate = Aggregate::default();
    for (key, data) in [("a", "1"), ("key b", "{\"n\":2}"), ("a", ""), ("c", &"x".repeat(300))] {
        aggregate.push(key, data.as_bytes());
    }
    aggregate.finish()
}

const AGGREGATE_OVERHEAD: usize = 20;

/// With the right MD5 behind whatever the message has become.
fn sealed(message: &[u8]) -> Vec<u8> {
    [&[0xf3, 0x89, 0x9a, 0xc2][..], message, &Md5::digest(message)].concat()
}

#[test]
fn aggregates() {
    let bound = within!(MOST_MIB);
    let whole = aggregate();
    let message = &whole[4..whole.len() - 16];
    check(&bound, 4_000, (edits(), any::<bool>()), |(edits, seals)| {
        let record = if seals { sealed(&edited(message, &edits)) } else { edited(&whole, &edits) };
        if let Some(user) = deaggregate(&record) {
            // What comes out lies within what came in.
            let bytes: usize = user.iter().map(|u| u.data.len()).sum();
            prop_assert!(bytes + AGGREGATE_OVERHEAD <= record.len());
            prop_assert!(seals || record == whole);
        } else {
            prop_assert!(seals || record != whole);
        }
        Ok(())
    });
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

#[test]
fn compressed_payloads() {
    let bound = within!(MOST_MIB);
    let text = "{\"event_id\":\"1\",\"event_type\":\"page_view\",\"data\":{\"page\":\"/a\"}}\n".repeat(20);
    let packed = [gzip(text.as_bytes()), zstd::encode_all(text.as_bytes(), 3).expect("it is packed")];
    let ways = [Compression::None, Compression::Auto, Compression::Gzip, Compression::Zstd];
    check(&bound, 4_000, (any::<Index>(), any::<Index>(), edits()), |(which, way, edits)| {
        let payload = edited(&packed[which.index(2)], &edits);
        let mut out = b"before".to_vec();
        ways[way.index(4)].unpack(&payload, &mut out);
        prop_assert!(out.starts_with(b"before"));
        prop_assert!(out.len() - 6 <= LARGEST_BYTES.max(payload.len()));
        Ok(())
    });
}

/// An answer full of bombs: each is refused as it is, or takes its turn; never do all lie in memory at once.
#[test]
fn bombs_take_their_turn() {
    let _bound = within!(MOST_MIB);
    let bomb = zstd::encode_all(&vec![b' '; LARGEST_BYTES][..], 1).expect("it is packed");
    assert!(bomb.len() < 64 << 10, "{} bytes", bomb.len());
    let mut aggregate = Aggregate::default();
    for _ in 0..20 {
        aggregate.push("k", &bomb);
    }
    let options = UnpackOptions { deaggregate: true, compression: Compression::Auto, with_keys: true };
    let mut unpacker = Unpacker::new(SplitId("s".into()), options);
    let mut position = ShardPosition { place: Place::Horizon, read_until_ms: None };
    unpacker.take(&[record("49671", aggregate.finish())], &mut position).expect("it has a number");
    let (mut records, mut chunks) = (0, 0);
    while let Some(chunk) = unpacker.next_chunk() {
        assert!(chunk.data.len() <= LARGEST_BYTES + (2 << 20), "{} bytes at once", chunk.data.len());
        assert_eq!(chunk.partition_keys.as_ref().expect("they were asked for").len(), chunk.len());
        assert_eq!(chunk.sequence.get(0), format!("49671/{records}"));
        records += chunk.len();
        chunks += 1;
    }
    assert_eq!((records, chunks), (20, 20));
}

fn record(number: &str, data: Vec<u8>) -> Record {
    let data = aws_smithy_types::Blob::new(data);
    Record::builder().sequence_number(number).data(data).partition_key("k").build().expect("all that a record needs")
}

/// Nothing that is in a stream may vanish: without a number nobody could go on behind it.
#[test]
fn a_record_without_a_number_is_an_error() {
    let options = UnpackOptions { deaggregate: true, compression: Compression::None, with_keys: false };
    let mut unpacker = Unpacker::new(SplitId("s".into()), options);
    let mut position = ShardPosition { place: Place::Horizon, read_until_ms: None };
    let error = unpacker.take(&[record("49671-x", b"{}".to_vec())], &mut position).unwrap_err().to_string();
    assert!(error.contains("shard 's'") && error.contains("'49671-x'"), "{error}");
}

/// A mebibyte of empty user records has no payload to fill a chunk with, and costs a hundred times as much in numbers.
#[test]
fn empty_user_records_fill_chunks_too() {
    let mut aggregate = Aggregate::default();
    let all = 100_000;
    (0..all).for_each(|_| aggregate.push("k", b""));
    let options = UnpackOptions { deaggregate: true, compression: Compression::None, with_keys: true };
    let mut unpacker = Unpacker::new(SplitId("s".into()), options);
    let mut position = ShardPosition { place: Place::Horizon, read_until_ms: None };
    unpacker.take(&[record("49671", aggregate.finish())], &mut position).expect("it has a number");
    let chunks: Vec<usize> = std::iter::from_fn(|| unpacker.next_chunk()).map(|chunk| chunk.len()).collect();
    assert_eq!(chunks.iter().sum::<usize>(), all);
    assert!(chunks.iter().all(|records| *records <= 16_384), "{chunks:?}");
}
