//! The footer of a Parquet file, looked through before the library takes memory for it.
//!
//! It is a struct in Thrift's compact protocol. The library believes the lengths in it: it sets memory aside for as many row groups and
//! children of a column as it names, and goes as deep into itself as columns are nested. A flipped bit so asks for gigabytes, which ends the
//! process. Here a count may be no larger than the bytes that are left, and columns are nested [`MOST_DEEP`] deep at most. Nothing else is
//! checked: what is wrong in itself, the library says.

use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{FooterTail, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::ChunkReader;

/// Groups within groups: a list is two, a map too.
const MOST_DEEP: usize = 128;
const TAIL: usize = 8;

pub(super) fn damaged(what: impl Into<String>) -> ParquetError {
    ParquetError::General(what.into())
}

/// The metadata of a file.
pub(super) fn metadata<R: ChunkReader>(file: &R) -> Result<ParquetMetaData> {
    let short = || damaged("it is too short: there is no footer");
    let end = file.len().checked_sub(TAIL as u64).ok_or_else(short)?;
    let tail: [u8; TAIL] = file.get_bytes(end, TAIL)?.as_ref().try_into().map_err(|_| short())?;
    let tail = FooterTail::try_new(&tail)?;
    if tail.is_encrypted_footer() {
        return Err(damaged("its footer is encrypted"));
    }
    let bytes = tail.metadata_length();
    let begin = end.checked_sub(bytes as u64).ok_or_else(|| damaged("its footer is longer than the file"))?;
    let footer = file.get_bytes(begin, bytes)?;
    check_footer(&footer)?;
    ParquetMetaDataReader::decode_metadata(&footer)
}

/// Field of FileMetaData: the schema, as a list of SchemaElement.
const SCHEMA: i64 = 2;
/// Field of SchemaElement.
const NUM_CHILDREN: i64 = 5;

fn check_footer(footer: &[u8]) -> Result<()> {
    let mut children = Vec::new();
    let walked = Walk(footer).fields(0, &mut |walk, id, kind| {
        if id != SCHEMA || kind != LIST {
            return Some(false);
        }
        let (count, kind) = walk.list()?;
        for _ in 0..count {
            let mut own = 0;
            if kind != STRUCT {
                return None;
            }
            walk.fields(1, &mut |walk, id, kind| {
                let is_own = id == NUM_CHILDREN && kind == I32;
                if is_own {
                    own = walk.signed()?;
                }
                Some(is_own)
            })?;
            children.push(own);
        }
        Some(true)
    });
    walked.ok_or_else(|| damaged("its footer is damaged: it names more than it has"))?;
    // Children that are still to come, of each group that is open.
    let mut open: Vec<i64> = Vec::new();
    let elements = i64::try_from(children.len()).unwrap_or(i64::MAX);
    for own in children {
        while open.last() == Some(&0) {
            open.pop();
        }
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        if own >= elements {
            return Err(damaged(format!("its footer is damaged: a column of {own} columns, but there are {elements}")));
        }
        if own > 0 {
            open.push(own);
        }
        if open.len() > MOST_DEEP {
            return Err(damaged(format!("its columns are nested more than {MOST_DEEP} deep")));
        }
    }
    Ok(())
}

pub(super) const I32: u8 = 5;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// Walks over Thrift's compact protocol; `None` where it names more than there is.
pub(super) struct Walk<'a>(pub(super) &'a [u8]);

impl Walk<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn take(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    pub(super) fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// How many elements follow, and of which kind; each has a byte at least.
    fn list(&mut self) -> Option<(usize, u8)> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => usize::try_from(self.number()?).ok()?,
            few => usize::from(few),
        };
        (count <= self.0.len()).then_some((count, head & 15))
    }

    /// Goes over a struct. `field` takes the value of a field that it wants, and then says so; others are passed over.
    pub(super) fn fields(
        &mut self,
        deep: usize,
        field: &mut dyn FnMut(&mut Self, i64, u8) -> Option<bool>,
    ) -> Option<()> {
        let mut id = 0;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            id = match head >> 4 {
                0 => self.signed()?,
                more => id + i64::from(more),
            };
            let kind = head & 15;
            if !field(self, id, kind)? {
                // The value of a boolean field is its kind.
                match kind {
                    1 | 2 => {}
                    kind => self.value(kind, deep + 1)?,
                }
            }
        }
    }

    fn value(&mut self, kind: u8, deep: usize) -> Option<()> {
        if deep > MOST_DEEP {
            return None;
        }
        match kind {
            1..=3 => self.take(1),
            4..=6 => self.number().map(|_| ()),
            7 => self.take(8),
            8 => {
                let bytes = usize::try_from(self.number()?).ok()?;
                self.take(bytes)
            }
            // A list, or a set.
            LIST | 10 => {
                let (count, kind) = self.list()?;
                (0..count).try_for_each(|_| self.value(kind, deep + 1))
            }
            11 => {
                let count = usize::try_from(self.number()?).ok()?;
                if count == 0 {
                    return Some(());
                }
                let kinds = self.byte()?;
                (0..count).try_for_each(|_| {
                    self.value(kinds >> 4, deep + 1)?;
                    self.value(kinds & 15, deep + 1)
                })
            }
            STRUCT => self.fields(deep, &mut |_, _, _| Some(false)),
            13 => self.take(16),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FileMetaData with these numbers of children, and so many row groups by its own word.
    fn footer(children: &[u8], row_groups: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x15, 2, 0x19, 0xfc, children.len() as u8];
        for own in children {
            // name = "c", num_children, stop
            bytes.extend([0x48, 1, b'c', 0x15, own * 2, 0]);
        }
        // num_rows = 0, row_groups
        bytes.extend([0x16, 0, 0x19]);
        bytes.extend(row_groups);
        bytes.push(0);
        bytes
    }

    #[test]
    fn a_footer_names_no_more_than_it_has() {
        let told = |footer: &[u8]| check_footer(footer).map_err(|e| e.to_string());
        assert_eq!(told(&footer(&[2, 0, 0], &[0x0c])), Ok(()));
        let many = [0xfc, 0xff, 0xff, 0xff, 0xff, 7];
        assert!(told(&footer(&[2, 0, 0], &many)).is_err_and(|e| e.contains("names more than it has")));
        assert!(told(&footer(&[60, 0, 0], &[0x0c])).is_err_and(|e| e.contains("60 columns")));
        assert_eq!(told(&footer(&[&[1; 100][..], &[0]].concat(), &[0x0c])), Ok(()));
    }

    #[test]
    fn columns_are_nested_only_so_deep() {
        let mut bytes = vec![0x15, 2, 0x19, 0xfc, 0xc8, 0x01];
        for own in (0..200_u8).map(|at| u8::from(at < 199)) {
            bytes.extend([0x48, 1, b'c', 0x15, own * 2, 0]);
        }
        bytes.push(0);
        assert!(check_footer(&bytes).is_err_and(|e| e.to_string().contains("nested more than 128 deep")));
    }
}
