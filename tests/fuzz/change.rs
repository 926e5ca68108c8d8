//! Cases: how many, from which seed, and what is done to bytes.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use tidemill::contracts::splitmix64;

use crate::bounded::Bound;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// The seed of this run.
pub(crate) fn seed() -> u64 {
    number("FUZZ_SEED").unwrap_or(20_261_126)
}

/// Bits of the byte at `at` that are flipped: one, which the seed chooses; in the long run each.
pub(crate) fn bits(at: usize) -> std::ops::Range<u32> {
    let one = (splitmix64(seed() ^ at as u64) % 8) as u32;
    if number("FUZZ_CASES").is_some() { 0..8 } else { one..one + 1 }
}

/// Runs `usual` cases in CI, and `FUZZ_CASES / share` of them where that is set.
pub(crate) fn check<S: Strategy>(
    bound: &Bound,
    usual: u32,
    share: u32,
    strategy: S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let cases = number("FUZZ_CASES").map_or(usual, |cases| (cases as u32 / share).max(1));
    let seed = seed();
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 4_096, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let noted = |case: S::Value| {
        bound.note(format_args!("FUZZ_SEED={seed}: {case:#?}"));
        test(case)
    };
    match runner.run(&strategy, noted) {
        Ok(()) => println!("{cases} cases, FUZZ_SEED={seed}"),
        Err(TestError::Fail(why, case)) => panic!("FUZZ_SEED={seed}: {why}\nthe smallest case: {case:#?}"),
        Err(TestError::Abort(why)) => panic!("FUZZ_SEED={seed}: {why}"),
    }
}

/// Something that happens to bytes on a disk, or in the hands of somebody who means harm.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Flip {
        at: Index,
        bit: u8,
    },
    Set {
        at: Index,
        byte: u8,
    },
    /// A number in its place, as lengths, counts and offsets stand in binary files.
    Number {
        at: Index,
        bytes: usize,
        value: u64,
    },
    /// The same in text: a digit run becomes another one.
    Digits {
        at: Index,
        text: &'static str,
    },
    Remove {
        at: Index,
        length: usize,
    },
    Insert {
        at: Index,
        bytes: Vec<u8>,
    },
    /// A stretch once more, elsewhere.
    Repeat {
        from: Index,
        length: usize,
        to: Index,
    },
    Truncate {
        at: Index,
    },
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    let values = prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(u64::from(u32::MAX)),
        Just(i64::MAX as u64),
        Just(i32::MAX as u64),
        Just(1 << 31),
        any::<u64>(),
        0..4_096_u64,
    ];
    let texts = prop::sample::select(vec![
        "0",
        "-1",
        "18446744073709551615",
        "99999999999999999999999999",
        "1e999",
        "1-16777215",
        "-9223372036854775808",
        "null",
        "\"\"",
    ]);
    prop_oneof![
        4 => (at(), 0..8_u8).prop_map(|(at, bit)| Change::Flip { at, bit }),
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set { at, byte }),
        3 => (at(), prop::sample::select(vec![1, 2, 4, 8]), values)
            .prop_map(|(at, bytes, value)| Change::Number { at, bytes, value }),
        2 => (at(), texts).prop_map(|(at, text)| Change::Digits { at, text }),
        2 => (at(), 1..200_usize).prop_map(|(at, length)| Change::Remove { at, length }),
        2 => (at(), prop::collection::vec(any::<u8>(), 1..40)).prop_map(|(at, bytes)| Change::Insert { at, bytes }),
        2 => (at(), 1..400_usize, at()).prop_map(|(from, length, to)| Change::Repeat { from, length, to }),
        1 => at().prop_map(|at| Change::Truncate { at }),
    ]
}

/// One to a few changes.
pub(crate) fn changes() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec(change(), 1..6)
}

/// What the changes make of `bytes`.
pub(crate) fn changed(bytes: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for change in changes {
        if out.is_empty() {
            out.push(0);
        }
        let length = out.len();
        let place = |at: &Index| at.index(length);
        match change {
            Change::Flip { at, bit } => out[place(at)] ^= 1 << bit,
            Change::Set { at, byte } => out[place(at)] = *byte,
            Change::Number { at, bytes, value } => {
                let at = place(at);
                let end = (at + bytes).min(length);
                out[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
            Change::Digits { at, text } => {
                let from = place(at);
                if let Some(start) = out[from..].iter().position(u8::is_ascii_digit).map(|i| from + i) {
                    let run = out[start..].iter().take_while(|b| b.is_ascii_digit()).count();
                    out.splice(start..start + run, text.bytes());
                }
            }
            Change::Remove { at, length: many } => {
                let at = place(at);
                out.drain(at..(at + many).min(length));
            }
            Change::Insert { at, bytes } => {
                let at = place(at);
                out.splice(at..at, bytes.iter().copied());
            }
            Change::Repeat { from, length: many, to } => {
                let (from, to) = (place(from), place(to));
                let stretch = out[from..(from + many).min(length)].to_vec();
                out.splice(to..to, stretch);
            }
            Change::Truncate { at } => out.truncate(place(at)),
        }
    }
    out
}
