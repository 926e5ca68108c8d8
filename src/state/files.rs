//! State rows as Arrow IPC files: one batch for each piece, or several for a large one and for one that comes from disk, block by block.
//!
//! The names of the pieces, batch by batch, stand in the schema's metadata. Rows that died since their piece was written
//! are in a file of their own, as bitmaps, so that a piece is written once.
//!
//! Buffers are packed with LZ4: of what an operator has much of, windows' bounds and counts are alike in thousands of rows, and texts come
//! again. Packing costs about what the checksum and the kernel would take for the bytes that it saves, and there are less to send and to keep.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{AsArray, BinaryArray, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::buffer::{BooleanBuffer, Buffer};
use arrow::datatypes::{DataType, Field, Schema, UInt64Type};
use arrow::ipc::reader::{FileReader, read_footer_length};
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use arrow::ipc::{Block, CompressionType, root_as_footer, root_as_message};
use bytes::Bytes;

use super::checksum::hex_digest;
use super::ranges::Ranges;
use super::saved::PieceRows;
use crate::contracts::{Error, Result, batch_bytes, compact};

/// Bytes of state in a file, where memory sets no other bound; a larger piece is cut into several.
pub const STATE_FILE_BYTES: usize = 32 << 20;
/// Key of the schema's metadata with the names of the pieces.
const PIECES: &str = "tidemill.pieces";

/// A file that is to be written.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) content: Bytes,
    pub(super) sha256: String,
    /// Bytes of its rows in memory.
    pub(super) unpacked: u64,
}

/// How the buffers of a file are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// As they are: the same rows are the same bytes in every version of this program.
    Plain,
    /// With LZ4.
    Lz4,
}

/// Cuts pieces into batches and those into files of about `file_bytes`. All batches of a file have one schema. What is on
/// disk stays there until its file is written.
pub(super) fn arrange(pieces: Vec<(u64, PieceRows)>, file_bytes: usize) -> Vec<Vec<(u64, PieceRows)>> {
    let mut files: Vec<Vec<(u64, PieceRows)>> = Vec::new();
    let mut bytes = 0;
    for (id, rows) in pieces {
        for (part, size) in parts(rows, file_bytes) {
            let fits =
                files.last().and_then(|file| file.last()).is_some_and(|(_, last)| last.schema() == part.schema());
            match files.last_mut() {
                Some(file) if fits && bytes + size <= file_bytes => file.push((id, part)),
                _ => {
                    files.push(vec![(id, part)]);
                    bytes = 0;
                }
            }
            bytes += size;
        }
    }
    files
}

/// A piece in parts that fit into a file, and about how many bytes each has.
fn parts(rows: PieceRows, file_bytes: usize) -> Vec<(PieceRows, usize)> {
    let batch = match rows {
        // Spilled files are no larger than ours.
        PieceRows::Spilled(file) => {
            let bytes = usize::try_from(file.bytes()).unwrap_or(file_bytes);
            return vec![(PieceRows::Spilled(file), bytes)];
        }
        PieceRows::Held(batch) => batch,
    };
    let size = batch_bytes(&batch);
    let parts = size.div_ceil(file_bytes.max(1)).clamp(1, batch.num_rows().max(1));
    if parts == 1 {
        return vec![(batch.into(), size)];
    }
    let rows = batch.num_rows().div_ceil(parts).max(1);
    let part = |from: usize| (batch.slice(from, rows.min(batch.num_rows() - from)).into(), size / parts);
    (0..batch.num_rows()).step_by(rows).map(part).collect()
}

/// Encodes the batches of a file. Takes its time, and as much memory as the file has bytes: what is on disk comes block by block.
pub(super) fn encode(pieces: &[(u64, PieceRows)], packing: Packing) -> Result<Encoded> {
    let Some((_, first)) = pieces.first() else { return Err(Error::internal("a state file without pieces")) };
    let ids: Ranges = pieces.iter().flat_map(|(id, rows)| std::iter::repeat_n(*id, rows.batches())).collect();
    let bytes: usize = pieces.iter().map(|(_, rows)| rows.bytes()).sum();
    let mut metadata = first.schema().metadata().clone();
    metadata.insert(PIECES.to_owned(), ids.to_string());
    let schema = Arc::new(first.schema().as_ref().clone().with_metadata(metadata));
    let (codec, capacity) = match packing {
        Packing::Plain => (None, bytes + bytes / 16),
        Packing::Lz4 => (Some(CompressionType::LZ4_FRAME), bytes / 4),
    };
    let options = IpcWriteOptions::default().try_with_compression(codec)?;
    let mut writer = FileWriter::try_new_with_options(Vec::with_capacity(capacity), &schema, options)?;
    let mut unpacked = 0;
    let mut write = |batch: RecordBatch| -> Result<()> {
        let columns = batch.columns().iter().map(compact).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)?;
        unpacked += batch_bytes(&batch) as u64;
        writer.write(&batch)?;
        Ok(())
    };
    for (_, rows) in pieces {
        rows.for_each(&mut write)?;
    }
    let content = writer.into_inner()?;
    Ok(Encoded { sha256: hex_digest(&content), content: content.into(), unpacked })
}

/// The batches of a file, each with the name of its piece. `name` is for people.
pub(super) fn decode(content: Bytes, name: &str) -> Result<Vec<(u64, RecordBatch)>> {
    // Arrow panics on types that it does not know. The checksum keeps damage away from it, not a writer that was wrong.
    std::panic::catch_unwind(|| decode_batches(content, name))
        .unwrap_or_else(|_| Err(Error::corrupt(format!("state file '{name}' cannot be read")).hint(RESTORE)))
}

/// Whether what the file says of its blocks, rows and buffers fits into its bytes: Arrow takes memory for what it is told.
fn has_its_blocks(content: &[u8]) -> bool {
    /// At the end: length of the footer, and a magic number.
    const TAIL: usize = 10;
    let footer = || {
        let (front, tail) = content.split_at_checked(content.len().checked_sub(TAIL)?)?;
        let bytes = read_footer_length(tail.try_into().ok()?).ok()?;
        root_as_footer(&front[front.len().checked_sub(bytes)?..]).ok()
    };
    footer().is_some_and(|footer| {
        let blocks = footer.recordBatches().into_iter().chain(footer.dictionaries()).flatten();
        blocks.into_iter().all(|block| fits(content, block).is_some())
    })
}

/// `None` where a block names more than there is.
fn fits(content: &[u8], block: &Block) -> Option<()> {
    /// Before a message: a mark, and its length.
    const PREFIX: usize = 8;
    /// LZ4 makes no more of a byte: a length is continued by bytes of 255 at most.
    const MOST_UNPACKED: usize = 255;
    let number = |n: i64| usize::try_from(n).ok();
    let from = number(block.offset())?;
    let (head, body) = (number(block.metaDataLength().into())?, number(block.bodyLength())?);
    let bytes = content.get(from..from.checked_add(head)?.checked_add(body)?)?;
    let message = root_as_message(bytes.get(PREFIX..head)?).ok()?;
    let batch = match message.header_as_dictionary_batch() {
        Some(dictionary) => dictionary.data()?,
        None => message.header_as_record_batch()?,
    };
    let is_packed = match batch.compression() {
        Some(packing) if packing.codec() == CompressionType::LZ4_FRAME => true,
        // This program writes no other.
        Some(_) => return None,
        None => false,
    };
    // A row has a bit at least.
    let most = content.len().checked_mul(8)?.checked_mul(if is_packed { MOST_UNPACKED } else { 1 })?;
    let is_count = |n: i64| number(n).is_some_and(|n| n <= most);
    let nodes = batch.nodes().into_iter().flatten().all(|node| is_count(node.length()) && is_count(node.null_count()));
    // Of a packed buffer that is not empty, the first bytes say how many it has unpacked; -1: it is as it was.
    let unpacks = |buffer: &arrow::ipc::Buffer| {
        let packed = number(buffer.offset()).zip(number(buffer.length()));
        let Some(packed) = packed.and_then(|(at, length)| bytes.get(head + at..)?.get(..length)) else { return false };
        let Some((size, packed)) = packed.split_first_chunk() else { return packed.is_empty() };
        let most = packed.len().saturating_mul(MOST_UNPACKED);
        i64::from_le_bytes(*size) == -1 || number(i64::from_le_bytes(*size)).is_some_and(|size| size <= most)
    };
    let buffers = batch.buffers().into_iter().flatten().all(|buffer| {
        let end =
            number(buffer.offset()).zip(number(buffer.length())).and_then(|(from, length)| from.checked_add(length));
        end.is_some_and(|end| end <= body) && (!is_packed || unpacks(buffer))
    });
    let variadic = batch.variadicBufferCounts().into_iter().flatten().all(is_count);
    (is_count(batch.length()) && nodes && buffers && variadic).then_some(())
}

fn decode_batches(content: Bytes, name: &str) -> Result<Vec<(u64, RecordBatch)>> {
    let unreadable = |what: &str| Error::corrupt(format!("state file '{name}' {what}")).hint(RESTORE);
    if !has_its_blocks(&content) {
        return Err(unreadable("names more bytes than it has"));
    }
    let reader =
        FileReader::try_new(Cursor::new(content), None).map_err(|e| unreadable("cannot be read").caused_by(e))?;
    let ids = reader.schema().metadata().get(PIECES).and_then(|text| Ranges::parse(text));
    let ids = ids.ok_or_else(|| unreadable("does not name its pieces"))?;
    // What the operator knows has no such metadata.
    let mut metadata = reader.schema().metadata().clone();
    metadata.remove(PIECES);
    let schema = Arc::new(reader.schema().as_ref().clone().with_metadata(metadata));
    let mut batches = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|e| unreadable("cannot be read").caused_by(e))?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        batches.push(RecordBatch::try_new_with_options(Arc::clone(&schema), batch.columns().to_vec(), &options)?);
    }
    if batches.len() as u64 != ids.len() {
        return Err(unreadable("has not as many batches as it names"));
    }
    Ok(ids.numbers().zip(batches).collect())
}

/// What to do about a damaged file.
pub(super) const RESTORE: &str = "restore the file from a copy, go on from the checkpoint before with --previous-checkpoint, or run with \
                                  --fresh to read everything again";

/// Dead rows of pieces as one batch: piece, number of its rows, a bit for each.
pub(super) fn dead_rows(pieces: &[(u64, &BooleanBuffer)]) -> Result<RecordBatch> {
    let ids = UInt64Array::from_iter_values(pieces.iter().map(|(id, _)| *id));
    let rows = UInt64Array::from_iter_values(pieces.iter().map(|(_, dead)| dead.len() as u64));
    let bits: BinaryArray = pieces.iter().map(|(_, dead)| Some(dead.sliced().as_slice().to_vec())).collect();
    let schema = Schema::new(vec![
        Field::new("piece", DataType::UInt64, false),
        Field::new("rows", DataType::UInt64, false),
        Field::new("dead", DataType::Binary, true),
    ]);
    Ok(RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(rows), Arc::new(bits)])?)
}

/// Reads what [`dead_rows`] has made.
pub(super) fn parse_dead_rows(batches: &[(u64, RecordBatch)], name: &str) -> Result<HashMap<u64, BooleanBuffer>> {
    let wrong = || Error::corrupt(format!("state file '{name}' does not say which rows are dead")).hint(RESTORE);
    let mut found = HashMap::new();
    for (_, batch) in batches {
        let [ids, rows, bits] = batch.columns() else { return Err(wrong()) };
        let (Some(ids), Some(rows)) = (ids.as_primitive_opt::<UInt64Type>(), rows.as_primitive_opt::<UInt64Type>())
        else {
            return Err(wrong());
        };
        let bits = bits.as_binary_opt::<i32>().ok_or_else(wrong)?;
        for row in 0..batch.num_rows() {
            let (count, bytes) = (usize::try_from(rows.value(row)).map_err(|_| wrong())?, bits.value(row));
            if bytes.len() < count.div_ceil(8) {
                return Err(wrong());
            }
            found.insert(ids.value(row), BooleanBuffer::new(Buffer::from(bytes), 0, count));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringViewArray, TimestampMillisecondArray};

    use super::*;

    /// As a window has them: its bounds, keys that come again, counts.
    fn rows() -> RecordBatch {
        let texts = (0..20_000).map(|row| format!("/shop/page-{:04}.html", row * 7 % 500));
        let columns: [(&str, ArrayRef); 3] = [
            ("window_end", Arc::new(TimestampMillisecondArray::from(vec![1_770_890_520_000; 20_000]))),
            ("page", Arc::new(StringViewArray::from_iter_values(texts))),
            ("count", Arc::new(Int64Array::from_iter_values((0..20_000).map(|row| row % 3)))),
        ];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }

    fn encoded(packing: Packing) -> Encoded {
        encode(&[(3, rows().into())], packing).expect("it is encoded")
    }

    #[test]
    fn rows_that_are_alike_take_little_room() {
        let (plain, packed) = (encoded(Packing::Plain), encoded(Packing::Lz4));
        assert!(packed.content.len() * 4 < plain.content.len(), "{} of {}", packed.content.len(), plain.content.len());
        assert!((plain.content.len() as u64).abs_diff(packed.unpacked) < packed.unpacked / 10, "{}", packed.unpacked);
        for file in [plain, packed] {
            assert_eq!(decode(file.content, "f").expect("a whole file"), [(3, rows())]);
        }
    }

    #[test]
    fn a_packed_buffer_that_says_it_is_huge_is_refused() {
        let content = encoded(Packing::Lz4).content;
        let count = 20_000 * 8_i64;
        for size in [1 << 50, i64::MAX, i64::MIN, count * 300] {
            let mut lying = content.to_vec();
            let at =
                lying.windows(8).position(|bytes| bytes == count.to_le_bytes()).expect("a column of 8 bytes a row");
            lying[at..at + 8].copy_from_slice(&size.to_le_bytes());
            let error = decode(lying.into(), "f").expect_err("there are not so many");
            assert!(error.to_string().contains("names more bytes than it has"), "{size}: {error}");
        }
    }
}
