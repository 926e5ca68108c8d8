//! Differential fuzz test of the JSON decoder against serde_json.
//!
//! Records are generated and mutated from a seed, decoded by vector and by portable code, with and without
//! bytes behind them, many in a call, and compared with `serde_json::from_slice::<Value>` and a simple
//! conversion from there: the same accepted, the same refused for the same reason, the same values.
//!
//! ```text
//! cargo test --test json_fuzz                                            # 200,000 records
//! TIDEMILL_FUZZ_RECORDS=10000000 cargo test --release --test json_fuzz   # the long run
//! TIDEMILL_FUZZ_SEED=7 …                                                 # another stream of records
//! ```

#[path = "support/bounded.rs"]
mod bounded;
#[path = "json_fuzz/generate.rs"]
mod generate;
#[path = "json_fuzz/reference.rs"]
mod reference;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::Array;
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use bounded::{Bound, within};
use generate::{Random, Records};
use reference::{Cell, cell, expected};
use serde::de::IgnoredAny;
use tidemill::contracts::RecordRange;
use tidemill::formats::json::{Decoded, JsonDecoder, JsonOptions, Prefilter};

/// What the process may have of addresses, in MiB: no record has more than some KiB.
const MOST_MIB: u64 = 512;

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn structure(fields: Vec<Field>) -> DataType {
    DataType::Struct(Fields::from(fields))
}

fn map(key: DataType, value: Field) -> DataType {
    let entries = structure(vec![Field::new("keys", key, false), value]);
    DataType::Map(Arc::new(Field::new("entries", entries, false)), false)
}

/// Every type, nested in every way.
fn schema() -> SchemaRef {
    let item = |data_type| Arc::new(field("item", data_type));
    Arc::new(Schema::new(vec![
        field("event_id", DataType::Utf8View),
        field("event_type", DataType::Utf8View),
        field("timestamp", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))),
        field(
            "data",
            structure(vec![
                field("user_id", DataType::Utf8View),
                field("page", DataType::Utf8View),
                field("amount", DataType::Decimal128(12, 2)),
                field("deep", structure(vec![field("x", DataType::Int64), field("y", DataType::Utf8View)])),
            ]),
        ),
        field("u", DataType::Utf8),
        field("b", DataType::Boolean),
        field("i8", DataType::Int8),
        field("i16", DataType::Int16),
        field("i32", DataType::Int32),
        field("i64", DataType::Int64),
        field("f32", DataType::Float32),
        field("f64", DataType::Float64),
        field("dec", DataType::Decimal128(38, 10)),
        field("date", DataType::Date32),
        field("time", DataType::Time32(TimeUnit::Millisecond)),
        field("nanos", DataType::Timestamp(TimeUnit::Nanosecond, None)),
        field("bin", DataType::Binary),
        field("list", DataType::List(item(DataType::Int32))),
        field(
            "rows",
            DataType::List(item(structure(vec![field("k", DataType::Utf8View), field("v", DataType::Float64)]))),
        ),
        field("tags", map(DataType::Utf8, field("values", DataType::Utf8View))),
        field("nums", map(DataType::Utf8View, field("values", DataType::List(item(DataType::Int64))))),
        field(
            "strict",
            structure(vec![
                Field::new("must", DataType::Int32, false),
                field("may", DataType::Utf8View),
                field("full", DataType::List(Arc::new(Field::new("item", DataType::Utf8View, false)))),
            ]),
        ),
        field("q\"uote", DataType::Int64),
        field("ключ", DataType::Utf8View),
        field("a_key_that_is_longer_than_one_step_of_the_walk", DataType::Int64),
    ]))
}

/// The records one after the other, and where each lies.
fn chunk(records: &[Vec<u8>], random: &mut Random, padded: bool) -> (Buffer, Vec<RecordRange>) {
    let mut bytes = Vec::new();
    let mut ranges = Vec::new();
    for record in records {
        // What stands between records is not JSON's business; quotes and brackets there must do no harm.
        let between = random.pick(&["\n", "", "\n", "\"", "}", "\r\n", "\u{1}\"}]1", "1"]);
        bytes.extend_from_slice(between.as_bytes());
        let start = bytes.len() as u32;
        bytes.extend_from_slice(record);
        ranges.push(RecordRange { start, end: bytes.len() as u32 });
    }
    if padded {
        let filler = *random.pick(&[&0u8, &b'"', &b'}', &b'1', &b' ', &0xFF]);
        bytes.resize(bytes.len() + 64, filler);
    }
    (Buffer::from_vec(bytes), ranges)
}

fn decoder(portable: bool) -> JsonDecoder {
    JsonDecoder::try_new(schema(), JsonOptions { portable, ..JsonOptions::default() }).expect("every type is known")
}

/// For each record its row, or the reason that it has none.
fn outcome(decoded: &Decoded, records: usize) -> Vec<Outcome> {
    let mut outcome: BTreeMap<u32, Outcome> = BTreeMap::new();
    for reject in &decoded.rejects {
        assert!(outcome.insert(reject.record, Err(reject.reason.as_str().to_string())).is_none());
        assert!(reject.detail.chars().count() <= 140, "{}", reject.detail);
    }
    for row in 0..decoded.batch.num_rows() {
        let record = decoded.rows.as_ref().map_or(row as u32, |rows| rows[row]);
        let cells = decoded.batch.columns().iter().map(|column| cell(column, row)).collect();
        assert!(outcome.insert(record, Ok(cells)).is_none());
    }
    assert!(outcome.keys().copied().eq(0..records as u32), "each record is a row or a reject");
    outcome.into_values().collect()
}

type Outcome = Result<Vec<Cell>, String>;

/// Equal; but which of several wrong values of a map is named depends on an order that maps do not have.
fn agree(got: &Outcome, wanted: &Outcome) -> bool {
    let of_value = |reason: &str| !matches!(reason, "invalid_json" | "invalid_utf8" | "too_deep" | "not_an_object");
    match (got, wanted) {
        (Err(got), Err(wanted)) => got == wanted || (of_value(got) && of_value(wanted)),
        _ => got == wanted,
    }
}

#[test]
fn same_as_serde_json() {
    let bound = within!(MOST_MIB);
    let records = from_env("TIDEMILL_FUZZ_RECORDS", 200_000);
    let seed = from_env("TIDEMILL_FUZZ_SEED", 459);
    let schema = schema();
    let mut random = Random::new(seed);
    let mut source = Records::new();
    let mut decoders = [decoder(false), decoder(true), decoder(false), decoder(true)];
    let (mut done, mut accepted) = (0, 0);
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    while done < records {
        let size = 1 + random.below(64);
        let batch: Vec<Vec<u8>> = (0..size).map(|_| source.next(&mut random)).collect();
        bound.note(batch.iter().map(|record| String::from_utf8_lossy(record)).collect::<Vec<_>>().join("\n"));
        let padded = chunk(&batch, &mut random, true);
        let bare = chunk(&batch, &mut random, false);
        let inputs = [&padded, &padded, &bare, &bare];
        let [vector, others @ ..]: [Decoded; 4] =
            std::array::from_fn(|i| decoders[i].decode(&inputs[i].0, &inputs[i].1));
        for decoded in others.iter().chain([&vector]) {
            for column in decoded.batch.columns() {
                column.to_data().validate_full().expect("arrays are sound");
            }
        }
        for other in &others {
            assert_eq!(vector.rejects, other.rejects, "seed {seed}, after {done} records");
            assert_eq!(vector.rows, other.rows);
            assert_eq!(vector.batch, other.batch, "seed {seed}, after {done} records");
        }
        for (record, got) in batch.iter().zip(outcome(&vector, batch.len())) {
            let wanted = expected(record, schema.fields());
            assert!(
                agree(&got, &wanted),
                "seed {seed}, record {:?}\ngot {got:?}\nwanted {wanted:?}",
                String::from_utf8_lossy(record)
            );
            match got {
                Ok(_) => accepted += 1,
                Err(reason) => *reasons.entry(reason).or_default() += 1,
            }
        }
        done += size as u64;
    }
    println!("{done} records, seed {seed}: {accepted} accepted, refused {reasons:?}");
    // A fuzz test that only ever refuses, or never does, tests little.
    assert!(accepted * 10 > done && accepted * 10 < done * 9, "{accepted} of {done}");
}

#[test]
fn batching_makes_no_difference() {
    let mut random = Random::new(7);
    let mut source = Records::new();
    let records: Vec<Vec<u8>> = (0..3_000).map(|_| source.next(&mut random)).collect();
    let mut outcomes = Vec::new();
    for size in [1, 7, 100, records.len()] {
        let mut decoder = decoder(size == 7);
        let mut all = Vec::new();
        for batch in records.chunks(size) {
            let (bytes, ranges) = chunk(batch, &mut random, size != 100);
            all.extend(outcome(&decoder.decode(&bytes, &ranges), batch.len()));
        }
        outcomes.push(all);
    }
    for other in &outcomes[1..] {
        assert!(outcomes[0] == *other);
    }
}

/// A prefilter only leaves out: what it keeps is read as without it, what it skips lacks the bytes, and
/// times of skipped records are those that reading them would have given.
#[test]
fn prefilter_skips_only_what_cannot_matter() {
    let mut random = Random::new(11);
    let mut source = Records::new();
    let prefilter = Prefilter { literal: b"\"purchase\"".to_vec(), time_path: Some(vec!["timestamp".into()]) };
    let options = |portable| JsonOptions { prefilter: Some(prefilter.clone()), portable, ..JsonOptions::default() };
    let time_only = Arc::new(Schema::new(vec![schema().field(2).clone()]));
    for round in 0..600 {
        let records: Vec<Vec<u8>> = (0..1 + random.below(40)).map(|_| source.next(&mut random)).collect();
        let (bytes, ranges) = chunk(&records, &mut random, round % 2 == 0);
        let mut filtered = JsonDecoder::try_new(schema(), options(round % 3 == 0)).expect("every type is known");
        let got = filtered.decode(&bytes, &ranges);
        let all = outcome(&decoder(false).decode(&bytes, &ranges), records.len());
        let (mut seen, mut rejects, mut row, mut skipped) = (i64::MIN, 0, 0, 0);
        let times = got.skipped_time.as_ref().expect("times were asked for");
        for (i, record) in records.iter().enumerate() {
            let text = String::from_utf8_lossy(record);
            if !text.contains("\"purchase\"") && !record.contains(&b'\\') {
                skipped += 1;
                // One that is not JSON may give its time or not.
                if let Ok(cells) = expected(record, time_only.fields())
                    && let Cell::Number(time) = cells[0]
                {
                    seen = seen.max(time as i64);
                } else {
                    seen = seen.max(if row < times.before_row.len() { i64::MIN } else { seen });
                }
                continue;
            }
            match &all[i] {
                Ok(cells) => {
                    let got_cells: Vec<Cell> = got.batch.columns().iter().map(|column| cell(column, row)).collect();
                    assert_eq!(got_cells, *cells);
                    assert_eq!(got.rows.as_ref().map_or(row as u32, |rows| rows[row]), i as u32);
                    assert!(times.before_row[row] >= seen, "{} {seen}", times.before_row[row]);
                    seen = times.before_row[row];
                    row += 1;
                }
                Err(reason) => {
                    assert_eq!(
                        (got.rejects[rejects].record, got.rejects[rejects].reason.as_str()),
                        (i as u32, reason.as_str())
                    );
                    rejects += 1;
                }
            }
        }
        assert_eq!((got.batch.num_rows(), got.rejects.len(), got.skipped), (row, rejects, skipped));
        assert!(times.max >= seen);
    }
}

/// Every text of a decoded record, wherever it lies in it.
fn texts(cell: &Cell, found: &mut BTreeSet<String>) {
    match cell {
        Cell::Text(text) => drop(found.insert(text.clone())),
        Cell::List(cells) | Cell::Struct(cells) => cells.iter().for_each(|cell| texts(cell, found)),
        Cell::Map(entries) => entries.values().for_each(|cell| texts(cell, found)),
        _ => {}
    }
}

/// A record that is passed over for a text has no value that reads so, however it is spelt, if the text is one that `sql/prefilter.rs`
/// takes: as it is written in JSON, and no JSON itself.
#[test]
fn prefilter_passes_over_no_record_that_has_the_text() {
    let mut random = Random::new(12);
    let mut source = Records::new();
    let is_taken = |text: &str| {
        let is_as_written = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'/'));
        text.len() >= 3 && is_as_written && serde_json::from_str::<IgnoredAny>(text).is_err()
    };
    let (mut tried, mut passed_over) = (0, 0);
    for round in 0..300 {
        let records: Vec<Vec<u8>> = (0..1 + random.below(40)).map(|_| source.next(&mut random)).collect();
        let (bytes, ranges) = chunk(&records, &mut random, round % 2 == 0);
        let all = outcome(&decoder(false).decode(&bytes, &ranges), records.len());
        let of_record = |outcome: &Outcome| {
            let mut found = BTreeSet::new();
            outcome.iter().flatten().for_each(|cell| texts(cell, &mut found));
            found
        };
        let found: Vec<BTreeSet<String>> = all.iter().map(of_record).collect();
        for text in found.iter().flatten().filter(|text| is_taken(text)).collect::<BTreeSet<_>>() {
            let prefilter = Prefilter { literal: format!("\"{text}\"").into_bytes(), time_path: None };
            let options = JsonOptions { prefilter: Some(prefilter), ..JsonOptions::default() };
            let got = JsonDecoder::try_new(schema(), options).expect("every type is known").decode(&bytes, &ranges);
            let refused = got.rejects.iter().map(|reject| reject.record);
            let rows =
                (0..got.batch.num_rows() as u32).map(|row| got.rows.as_ref().map_or(row, |rows| rows[row as usize]));
            let read: BTreeSet<u32> = rows.chain(refused).collect();
            assert_eq!(read.len() as u64 + got.skipped, records.len() as u64);
            for (record, found) in found.iter().enumerate().filter(|(record, _)| !read.contains(&(*record as u32))) {
                assert!(!found.contains(text), "'{text}' in {:?}", String::from_utf8_lossy(&records[record]));
                passed_over += 1;
            }
            tried += 1;
        }
    }
    println!("{tried} texts, for which {passed_over} records were passed over");
    assert!(tried > 1_000 && passed_over > tried, "{tried} texts, {passed_over} records");
}
