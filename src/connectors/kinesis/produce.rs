//! JSON lines into a stream: the library of `tidemill produce`.
//!
//! Lines are gathered into batches as large as `PutRecords` takes. Of a batch, only the records that failed are
//! put again, with a growing pause; records that can never succeed (too large) are counted and named. With
//! a rate, batches are small enough to go out evenly.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use sha2::{Digest, Sha256};

use crate::contracts::{Clock, Error, Result, hex};

use super::local::{LocalStream, MAX_KEY_CHARACTERS, PutRecord};

/// `PutRecords` takes at most 500 records and 5 MiB.
pub const BATCH_RECORDS: usize = 500;
/// See [`BATCH_RECORDS`].
pub const BATCH_BYTES: usize = 5 << 20;

/// Attempts for a record that fails for a while (a throttled shard).
const ATTEMPTS: u32 = 12;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// With a rate, a batch holds what is due in this time, so that records leave evenly.
const RATE_STEP: Duration = Duration::from_millis(10);

/// A record on its way.
#[derive(Debug, Clone)]
pub struct OutRecord {
    /// The line, without its end.
    pub data: Vec<u8>,
    /// Decides the shard.
    pub partition_key: String,
    /// Decides it in the key's place: the shard whose range has this hash.
    pub explicit_hash_key: Option<u128>,
}

impl OutRecord {
    /// A record whose key decides the shard.
    pub fn new(data: Vec<u8>, partition_key: String) -> Self {
        Self { data, partition_key, explicit_hash_key: None }
    }

    fn as_put(&self) -> PutRecord<'_> {
        PutRecord { data: &self.data, partition_key: &self.partition_key, explicit_hash_key: self.explicit_hash_key }
    }
}

/// What became of one record of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// It is in the stream.
    Stored,
    /// It may succeed later.
    Retry(String),
    /// It never will.
    Refused(String),
}

/// Where batches go. AWS and the embedded stream implement it.
#[async_trait]
pub trait PutBatch: Send {
    /// Puts a batch within the limits of [`BATCH_RECORDS`]; the answer has one entry for each record.
    async fn put(&mut self, records: &[OutRecord]) -> Result<Vec<Put>>;
}

#[async_trait]
impl PutBatch for LocalStream {
    async fn put(&mut self, records: &[OutRecord]) -> Result<Vec<Put>> {
        let records: Vec<_> = records.iter().map(OutRecord::as_put).collect();
        let results = self.put_records(&records)?;
        Ok(results.into_iter().map(|r| r.map_or_else(|e| Put::Refused(e.message), |_| Put::Stored)).collect())
    }
}

/// Opens a stream of the embedded Kinesis for producing.
pub fn local_target(local: &Path, stream: &str, clock: Arc<dyn Clock>) -> Result<Box<dyn PutBatch>> {
    Ok(Box::new(LocalStream::open(local, stream, None, clock)?))
}

/// What to do.
#[derive(Debug, Clone, Default)]
pub struct ProduceOptions {
    /// Path of the field whose value is the partition key (`data.user_id`); without one, a hash of the record.
    pub partition_key: Option<String>,
    /// Path of the field whose value is the explicit hash key, a whole number below 2^128 as a text or a number. Where a record
    /// has none, its partition key decides.
    pub explicit_hash_key: Option<String>,
    /// Records per second; without one, as fast as possible.
    pub rate: Option<f64>,
    /// Stop after so many records.
    pub limit: Option<u64>,
}

/// What has been done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Produced {
    /// Records in the stream.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records put again after a failure.
    pub retried: u64,
    /// Records that the stream will not take.
    pub refused: u64,
    /// Why the first of them was refused.
    pub first_refusal: Option<String>,
}

/// Puts the lines of `input` into `target` until the input ends or the limit is reached. `progress` is called after each
/// batch.
///
/// Lines are read in place, so that a pipe is followed line by line; give it a thread of its own where that matters.
pub async fn produce<R: Read>(
    input: BufReader<R>,
    target: &mut dyn PutBatch,
    options: &ProduceOptions,
    clock: &dyn Clock,
    mut progress: impl FnMut(&Produced),
) -> Result<Produced> {
    let started = clock.elapsed();
    let path = |field: &'_ Option<String>| field.as_deref().map(|p| p.split('.').map(str::to_owned).collect());
    let (key, hash_key) = (path(&options.partition_key), path(&options.explicit_hash_key));
    let mut lines = Lines { input, line: 0, key, hash_key, ended: false };
    let mut done = Produced::default();
    let mut taken = 0u64;
    while !lines.ended {
        let due = match options.rate {
            Some(rate) if rate > 0.0 => {
                let elapsed = (clock.elapsed() - started).as_secs_f64();
                // The first record is due at once.
                let due = (elapsed * rate) as u64 + 1;
                if due <= taken {
                    clock.sleep(RATE_STEP).await;
                    continue;
                }
                due - taken
            }
            _ => u64::MAX,
        };
        let left = options.limit.map_or(u64::MAX, |limit| limit - taken);
        let most = due.min(left).min(BATCH_RECORDS as u64) as usize;
        let (batch, refused) = lines.batch(most)?;
        taken += (batch.len() + refused.len()) as u64;
        lines.ended |= options.limit.is_some_and(|limit| taken >= limit);
        done.refused += refused.len() as u64;
        done.first_refusal = done.first_refusal.take().or_else(|| refused.into_iter().next());
        if !batch.is_empty() {
            put_all(batch, target, clock, &mut done).await?;
            progress(&done);
        }
    }
    Ok(done)
}

/// The input, and what is taken of its records.
struct Lines<R> {
    input: BufReader<R>,
    /// Number of the last line that was read, from 1 on.
    line: u64,
    key: Option<Vec<String>>,
    hash_key: Option<Vec<String>>,
    ended: bool,
}

impl<R: Read> Lines<R> {
    /// Reads up to `most` lines that fit one batch, and says of which why they cannot be put. A pipe gives what it has: a batch
    /// does not wait to be full.
    fn batch(&mut self, most: usize) -> Result<(Vec<OutRecord>, Vec<String>)> {
        let (mut batch, mut refused): (Vec<OutRecord>, Vec<String>) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        while batch.len() + refused.len() < most {
            let mut line = Vec::new();
            let read = self.input.read_until(b'\n', &mut line);
            if read.map_err(|e| Error::unavailable("the input could not be read").caused_by(e))? == 0 {
                self.ended = true;
                break;
            }
            self.line += 1;
            while line.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
                line.pop();
            }
            if line.is_empty() {
                continue;
            }
            let hash = self.hash_key.as_ref().and_then(|path| field(&line, path));
            match hash.as_ref().map(explicit_hash).transpose() {
                Ok(explicit_hash_key) => {
                    let key = self.key.as_ref().and_then(|path| field_text(&line, path));
                    let partition_key = key.unwrap_or_else(|| record_hash(&line));
                    bytes += line.len() + partition_key.len();
                    batch.push(OutRecord { data: line, partition_key, explicit_hash_key });
                }
                Err(why) => refused.push(format!("line {}: {why}", self.line)),
            }
            // Room must be left for one more record of the largest size. And a pipe that has no further line is not waited for.
            let full = bytes > BATCH_BYTES - (1 << 20) - 1024;
            if full || !self.input.buffer().contains(&b'\n') {
                break;
            }
        }
        Ok((batch, refused))
    }
}

/// What AWS takes as `ExplicitHashKey`: a decimal number below 2^128, without leading zeros.
fn explicit_hash(value: &serde_json::Value) -> std::result::Result<u128, String> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let digits = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    // Also that there are some.
    text.parse().ok().filter(|_| digits).ok_or_else(|| {
        let most = u128::MAX;
        format!("'{text}' is no explicit hash key: it is a whole number from 0 to {most}, in decimal digits")
    })
}

/// Puts a batch until every record is stored or refused for good.
async fn put_all(
    mut batch: Vec<OutRecord>,
    target: &mut dyn PutBatch,
    clock: &dyn Clock,
    done: &mut Produced,
) -> Result<()> {
    let mut pause = FIRST_PAUSE;
    for _ in 0..ATTEMPTS {
        let results = target.put(&batch).await?;
        let mut again = Vec::new();
        let mut reason = String::new();
        for (record, result) in batch.into_iter().zip(results) {
            match result {
                Put::Stored => {
                    done.records += 1;
                    done.bytes += record.data.len() as u64;
                }
                Put::Retry(why) => {
                    reason = why;
                    again.push(record);
                }
                Put::Refused(why) => {
                    done.refused += 1;
                    done.first_refusal.get_or_insert(why);
                }
            }
        }
        if again.is_empty() {
            return Ok(());
        }
        tracing::debug!(records = again.len(), reason, "putting failed records again");
        done.retried += again.len() as u64;
        batch = again;
        clock.sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
    Err(Error::unavailable(format!("{} records could not be put in {ATTEMPTS} attempts", batch.len()))
        .hint("does the stream have enough shards? limit the rate with --rate"))
}

/// Partition key of a record without one: spreads evenly, and is the same whenever the record is sent.
fn record_hash(record: &[u8]) -> String {
    hex(&Sha256::digest(record)[..16])
}

/// The field at `path` of a JSON object, unless it is null. All other fields are passed over without being built.
fn field(record: &[u8], path: &[impl AsRef<str>]) -> Option<serde_json::Value> {
    let path: Vec<&str> = path.iter().map(AsRef::as_ref).collect();
    let mut json = serde_json::Deserializer::from_slice(record);
    FieldAt(&path).deserialize(&mut json).ok()?.filter(|value| !value.is_null())
}

/// The same as text: a string's content, or the JSON text of another scalar.
fn field_text(record: &[u8], path: &[impl AsRef<str>]) -> Option<String> {
    let text = match field(record, path)? {
        serde_json::Value::String(text) => text,
        scalar @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => scalar.to_string(),
        _ => return None,
    };
    (!text.is_empty()).then(|| text.chars().take(MAX_KEY_CHARACTERS).collect())
}

/// The value at a path, where there is one.
struct FieldAt<'p>(&'p [&'p str]);

impl<'de> DeserializeSeed<'de> for FieldAt<'_> {
    type Value = Option<serde_json::Value>;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> std::result::Result<Self::Value, D::Error> {
        if self.0.is_empty() { serde_json::Value::deserialize(json).map(Some) } else { json.deserialize_map(self) }
    }
}

impl<'de> Visitor<'de> for FieldAt<'_> {
    type Value = Option<serde_json::Value>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> std::result::Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = members.next_key::<Cow<'de, str>>()? {
            if self.0.first().is_some_and(|wanted| *wanted == name) {
                found = members.next_value_seed(FieldAt(&self.0[1..]))?;
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_fields() {
        let record = br#"{"a":[1,{"b":2}],"data":{"x":{},"user_id":"u-1","n":12.50},"f":true}"#;
        assert_eq!(field_text(record, &["data", "user_id"]).as_deref(), Some("u-1"));
        assert_eq!(field_text(record, &["data", "n"]).as_deref(), Some("12.50"));
        assert_eq!(field_text(record, &["f"]).as_deref(), Some("true"));
        for path in [&["data"][..], &["data", "none"], &["a", "b"], &["f", "g"]] {
            assert_eq!(field_text(record, path), None, "{path:?}");
        }
        assert_eq!(field_text(b"no json", &["a"]), None);
    }

    #[test]
    fn explicit_hashes_are_of_128_bits() {
        let largest = u128::MAX.to_string();
        let of = |json: &str| {
            let record = format!("{{\"h\":{json}}}");
            field(record.as_bytes(), &["h"]).as_ref().map(explicit_hash).transpose()
        };
        assert_eq!(of("null"), Ok(None));
        for (json, wanted) in [("\"0\"", 0), ("17", 17), (largest.as_str(), u128::MAX)] {
            assert_eq!(of(json), Ok(Some(wanted)), "{json}");
        }
        let bad = [
            "\"\"",
            "-1",
            "\"+1\"",
            "\"01\"",
            "1.5",
            "1e3",
            "\"0x1f\"",
            "true",
            "{}",
            "[1]",
            "340282366920938463463374607431768211456",
        ];
        for json in bad {
            assert!(of(json).unwrap_err().contains("is no explicit hash key"), "{json}");
        }
    }
}
