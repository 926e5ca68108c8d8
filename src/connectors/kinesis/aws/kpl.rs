//! Aggregated records of the Kinesis Producer Library: many user records in one Kinesis record.
//!
//! ```text
//! F3 89 9A C2 │ AggregatedRecord (protobuf) │ MD5 of the protobuf, 16 bytes
//!
//! AggregatedRecord { repeated string partition_key_table = 1; repeated string explicit_hash_key_table = 2;
//!                    repeated Record records = 3 }
//! Record           { uint64 partition_key_index = 1; optional uint64 explicit_hash_key_index = 2; bytes data = 3;
//!                    repeated Tag tags = 4 }
//! ```
//!
//! The reader copies nothing: it gives slices of the record. What has the magic number but not the right MD5, or is no such
//! message, is an ordinary record that happens to begin like one, and is left as it is: the decoder then takes or refuses
//! it, so nothing vanishes.
//!
//! **User records whose hash key lies outside the shard's range are kept.** KCL drops them, and KCL 3.1.3 the whole aggregate with
//! them, on the theory that they were meant for a shard of before a reshard and will be seen there as well. That is never so:
//! an aggregate is one Kinesis record and lies in one shard only, so dropping any part of it loses data. (Producers that
//! aggregate by batch instead of by shard write such records always.)

use md5::{Digest, Md5};

/// First bytes of an aggregated record.
const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];
const MD5_BYTES: usize = 16;
/// A partition key has up to 256 characters ("PutRecords"). A longer one, which each of an aggregate's records could name, would
/// make a record of 1 MiB as large as all memory.
const LONGEST_KEY_CHARACTERS: usize = 256;

/// A user record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UserRecord<'a> {
    pub(super) partition_key: &'a str,
    pub(super) data: &'a [u8],
}

/// The user records of an aggregated record; `None` when it is an ordinary one.
pub(super) fn deaggregate(record: &[u8]) -> Option<Vec<UserRecord<'_>>> {
    let rest = record.strip_prefix(&MAGIC)?;
    let (message, md5) = rest.split_at_checked(rest.len().checked_sub(MD5_BYTES)?)?;
    if Md5::digest(message).as_slice() != md5 {
        return None;
    }
    // Keys may follow the records that use them, so records are gathered first.
    let mut keys: Vec<&str> = Vec::new();
    let mut records: Vec<(u64, &[u8])> = Vec::new();
    let mut fields = Fields(message);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Bytes(key)) => {
                let key = std::str::from_utf8(key).ok()?;
                if key.chars().count() > LONGEST_KEY_CHARACTERS {
                    return None;
                }
                keys.push(key);
            }
            (3, Value::Bytes(record)) => records.push(user_record(record)?),
            _ => {}
        }
    }
    let records = records.into_iter().map(|(key, data)| {
        let partition_key = keys.get(usize::try_from(key).ok()?)?;
        Some(UserRecord { partition_key, data })
    });
    records.collect()
}

/// Index of the partition key, and the data.
fn user_record(message: &[u8]) -> Option<(u64, &[u8])> {
    let (mut key, mut data) = (None, None);
    let mut fields = Fields(message);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Number(index)) => key = Some(index),
            (3, Value::Bytes(bytes)) => data = Some(bytes),
            _ => {}
        }
    }
    Some((key?, data?))
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// A fixed32 or fixed64: not in this message, but a later version may have some.
    Fixed,
}

/// Fields of a protobuf message from front to back.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The next field; `Some(None)` at the end, `None` when the message is broken.
    #[expect(clippy::option_option, reason = "broken and ended are two things, and `?` takes the first")]
    fn next(&mut self) -> Option<Option<(u64, Value<'a>)>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        Some(Some((tag >> 3, value)))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

/// Gathers user records into one aggregated record, as large as one Kinesis record may be.
#[derive(Debug, Default)]
pub(super) struct Aggregate {
    keys: Vec<String>,
    message: Vec<u8>,
    records: usize,
}

impl Aggregate {
    /// Adds a user record.
    pub(super) fn push(&mut self, partition_key: &str, data: &[u8]) {
        let index = self.keys.iter().position(|k| k == partition_key).unwrap_or_else(|| {
            self.keys.push(partition_key.to_owned());
            put_bytes(&mut self.message, 1, partition_key.as_bytes());
            self.keys.len() - 1
        });
        let mut record = Vec::with_capacity(data.len() + 16);
        put_varint(&mut record, 1 << 3);
        put_varint(&mut record, index as u64);
        put_bytes(&mut record, 3, data);
        put_bytes(&mut self.message, 3, &record);
        self.records += 1;
    }

    /// User records in it.
    pub(super) fn len(&self) -> usize {
        self.records
    }

    /// Bytes that it would have with one more record.
    pub(super) fn bytes_with(&self, partition_key: &str, data: &[u8]) -> usize {
        // Tags and lengths take up to 24 bytes.
        MAGIC.len() + self.message.len() + partition_key.len() + data.len() + 24 + MD5_BYTES
    }

    /// The finished record; this one is empty then.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let mut record = Vec::with_capacity(MAGIC.len() + self.message.len() + MD5_BYTES);
        record.extend_from_slice(&MAGIC);
        record.extend_from_slice(&self.message);
        record.extend_from_slice(&Md5::digest(&self.message));
        *self = Self::default();
        record
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aggregate(records: &[(&str, &[u8])]) -> Vec<u8> {
        let mut aggregate = Aggregate::default();
        for (key, data) in records {
            aggregate.push(key, data);
        }
        aggregate.finish()
    }

    #[test]
    fn user_records_come_back_in_order_and_broken_ones_are_left_alone() {
        let long = vec![b'x'; 300];
        let record = aggregate(&[("a", b"1"), ("b", &long), ("a", b"")]);
        let user = deaggregate(&record).unwrap();
        let expected = [("a", &b"1"[..]), ("b", &long), ("a", b"")];
        assert!(user.iter().zip(expected).all(|(u, (key, data))| u.partition_key == key && u.data == data));
        assert_eq!(user.len(), 3);
        for at in 0..record.len() {
            let mut broken = record.clone();
            broken[at] ^= 1;
            assert_eq!(deaggregate(&broken), None, "byte {at}");
            assert_eq!(deaggregate(&record[..at]), None);
        }
        assert_eq!(deaggregate(b"{}"), None);
    }

    #[test]
    fn keys_out_of_the_table_and_unknown_fields() {
        // partition key index 3 of a table of 1: MD5 is right, the message is not.
        let mut message = Vec::new();
        put_bytes(&mut message, 1, b"k");
        put_bytes(&mut message, 3, &[8, 3, 26, 1, b'x']);
        let sealed = |message: &[u8]| [&MAGIC[..], message, &Md5::digest(message)].concat();
        assert_eq!(deaggregate(&sealed(&message)), None);
        let mut message = Vec::new();
        put_bytes(&mut message, 3, &[8, 0, 16, 0, 26, 1, b'x', 34, 2, 10, 0]);
        put_bytes(&mut message, 2, b"5");
        put_bytes(&mut message, 1, b"k");
        put_varint(&mut message, 9 << 3 | 5);
        message.extend_from_slice(&[0; 4]);
        assert_eq!(deaggregate(&sealed(&message)).unwrap(), [UserRecord { partition_key: "k", data: b"x" }]);
    }
}
