//! The pages of a Parquet file, looked at before the library takes memory for what they say.
//!
//! ```text
//! ParquetRecordBatchReader ─► Pages ─► CheckedPages (how many values?) ─► SerializedPageReader ─► CheckedHeaders (how many bytes?) ─► file
//! ```
//!
//! A page is not unpacked to more than [`MOST_UNPACKED`] or [`MOST_RATIO`] times its size, and differences of lengths and numbers (DELTA_…)
//! are no more than the page has values. What is wrong in itself, the library says.

use std::io::{self, Cursor, Read};
use std::sync::Arc;

use bytes::Bytes;
use parquet::arrow::arrow_reader::RowGroups;
use parquet::basic::Encoding;
use parquet::column::page::{Page, PageIterator, PageMetadata, PageReader};
use parquet::errors::Result;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

use super::parquet_checks::{I32, Walk, damaged};

/// Bytes of a page. Writers aim at 1 MiB; a page has a row at least.
const MOST_UNPACKED: u64 = 64 << 20;
/// A larger page may still be so many times what it is in the file. Snappy comes to 21.
const MOST_RATIO: u64 = 64;
/// Both sizes of a page stand among the first bytes of its header.
const SIZES_WITHIN: u64 = 256;

/// Fields of PageHeader.
const UNCOMPRESSED: i64 = 2;
const COMPRESSED: i64 = 3;

/// Looks at the beginning of a page's header. What is no header at all, the library says.
fn check_page(header: &[u8]) -> io::Result<()> {
    let (mut unpacked, mut packed) = (0, None);
    // It may end within the header.
    let _ = Walk(header).fields(0, &mut |walk, id, kind| {
        match (id, kind) {
            (UNCOMPRESSED, I32) => unpacked = unpacked.max(walk.signed()?),
            (COMPRESSED, I32) => packed = Some(walk.signed()?),
            _ => return Some(false),
        }
        Some(true)
    });
    let number = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
    let most = MOST_UNPACKED.max(number(packed.unwrap_or(0)).saturating_mul(MOST_RATIO));
    if number(unpacked) > most {
        let packed = packed.unwrap_or(0);
        return Err(io::Error::other(format!("a page of {packed} bytes says that it has {unpacked} when unpacked")));
    }
    Ok(())
}

/// A file, the headers of whose pages are looked at.
struct CheckedHeaders<R>(R);

impl<R: Length> Length for CheckedHeaders<R> {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl<R: ChunkReader> ChunkReader for CheckedHeaders<R> {
    type T = Header<R::T>;

    fn get_read(&self, start: u64) -> Result<Header<R::T>> {
        Ok(Header { inner: self.0.get_read(start)?, begun: None })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.0.get_bytes(start, length)
    }
}

/// The header of a page: what is read byte by byte is one. (Their content is asked for with its length.)
pub(super) struct Header<T> {
    inner: T,
    /// Its beginning, once it has been looked at.
    begun: Option<Cursor<Vec<u8>>>,
}

impl<T: Read> Read for Header<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let begun = match &mut self.begun {
            Some(begun) => begun,
            None => {
                let mut bytes = Vec::new();
                self.inner.by_ref().take(SIZES_WITHIN).read_to_end(&mut bytes)?;
                check_page(&bytes)?;
                self.begun.insert(Cursor::new(bytes))
            }
        };
        match begun.read(buffer)? {
            0 => self.inner.read(buffer),
            read => Ok(read),
        }
    }
}

/// All row groups of a file.
pub(super) struct Pages<R> {
    file: Arc<CheckedHeaders<R>>,
    metadata: Arc<ParquetMetaData>,
}

impl<R: ChunkReader> Pages<R> {
    pub(super) fn new(file: R, metadata: Arc<ParquetMetaData>) -> Self {
        Self { file: Arc::new(CheckedHeaders(file)), metadata }
    }
}

impl<R: ChunkReader + 'static> RowGroups for Pages<R> {
    fn num_rows(&self) -> usize {
        let rows = |group: &RowGroupMetaData| usize::try_from(group.num_rows()).unwrap_or(0);
        self.metadata.row_groups().iter().map(rows).fold(0, usize::saturating_add)
    }

    fn column_chunks(&self, column: usize) -> Result<Box<dyn PageIterator>> {
        Ok(Box::new(Chunks { file: Arc::clone(&self.file), metadata: Arc::clone(&self.metadata), column, group: 0 }))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(self.metadata.row_groups().iter())
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }
}

/// A column, row group by row group.
struct Chunks<R> {
    file: Arc<CheckedHeaders<R>>,
    metadata: Arc<ParquetMetaData>,
    column: usize,
    group: usize,
}

impl<R: ChunkReader + 'static> Iterator for Chunks<R> {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        let group = self.metadata.row_groups().get(self.group)?;
        self.group += 1;
        let column = group.column(self.column);
        let described = column.column_descr();
        let levels = (described.max_rep_level(), described.max_def_level());
        let rows = usize::try_from(group.num_rows()).unwrap_or(0);
        let pages = SerializedPageReader::new(Arc::clone(&self.file), column, rows, None);
        Some(pages.map(|pages| Box::new(CheckedPages { pages: Box::new(pages), levels }) as Box<dyn PageReader>))
    }
}

impl<R: ChunkReader + 'static> PageIterator for Chunks<R> {}

/// The pages of a column of a row group.
struct CheckedPages {
    pages: Box<dyn PageReader>,
    /// The largest repetition and definition level.
    levels: (i16, i16),
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        if let Some(page) = &page {
            check_values(page, self.levels)?;
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}

/// Whether the lists of differences in a page are of its values.
fn check_values(page: &Page, levels: (i16, i16)) -> Result<()> {
    // How many lists there are before the bytes of texts.
    let lists = match page.encoding() {
        Encoding::DELTA_BINARY_PACKED | Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
        Encoding::DELTA_BYTE_ARRAY => 2,
        _ => return Ok(()),
    };
    let Some(values) = behind_levels(page, levels).and_then(|at| page.buffer().get(at..)) else { return Ok(()) };
    let (mut walk, most) = (Walk(values), u64::from(page.num_values()));
    for _ in 0..lists {
        match differences(&mut walk, most) {
            Some(count) if count > most => {
                return Err(damaged(format!("a page of {most} values says that it has {count}")));
            }
            Some(_) => {}
            None => break,
        }
    }
    Ok(())
}

/// Where the values of a page begin.
fn behind_levels(page: &Page, (repeated, defined): (i16, i16)) -> Option<usize> {
    match page {
        Page::DictionaryPage { .. } => None,
        Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
            usize::try_from(u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len)).ok()
        }
        Page::DataPage { buf, num_values, def_level_encoding, rep_level_encoding, .. } => {
            let mut at = 0_usize;
            for (most, encoding) in [(repeated, rep_level_encoding), (defined, def_level_encoding)] {
                if most <= 0 {
                    continue;
                }
                let bytes = match encoding {
                    Encoding::RLE => {
                        let length = buf.get(at..at.checked_add(4)?)?.try_into().ok()?;
                        u64::from(u32::from_le_bytes(length)) + 4
                    }
                    // As it was before there was RLE: so many bits for each level.
                    _ => (u64::from(*num_values) * u64::from(i16::BITS - most.leading_zeros())).div_ceil(8),
                };
                at = at.checked_add(usize::try_from(bytes).ok()?)?;
            }
            Some(at)
        }
    }
}

/// Goes over one list of differences; answers how many numbers it says it has, where that is too many without having gone further.
/// `None` where the list has an end before that.
fn differences(walk: &mut Walk<'_>, most: u64) -> Option<u64> {
    let (block, parts, count) = (walk.number()?, walk.number()?, walk.number()?);
    if count > most {
        return Some(count);
    }
    walk.signed()?;
    let (each, parts) = (block.checked_div(parts)?, usize::try_from(parts).ok()?);
    let mut left = count.saturating_sub(1);
    while left > 0 && each > 0 {
        walk.signed()?;
        let widths = walk.0.get(..parts)?;
        walk.take(parts)?;
        for bits in widths {
            if left == 0 {
                break;
            }
            let bytes = each.checked_mul(u64::from(*bits))?.div_ceil(8);
            walk.take(usize::try_from(bytes).ok()?)?;
            left = left.saturating_sub(each);
        }
    }
    (left == 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_unpacked_to_what_can_be() {
        // type = 0, uncompressed_page_size = 1 GiB, compressed_page_size
        let page = |packed: &[u8]| [&[0x15, 0, 0x15, 0x80, 0x80, 0x80, 0x80, 8, 0x15][..], packed].concat();
        let said = check_page(&page(&[20])).expect_err("too much").to_string();
        assert_eq!(said, "a page of 10 bytes says that it has 1073741824 when unpacked");
        // 32 MiB
        check_page(&page(&[0x80, 0x80, 0x80, 0x20])).expect("it may be");
    }

    /// A block of 128 in 4 parts, all differences 0.
    const LIST: [u8; 10] = [0x80, 1, 4, 100, 0, 0, 0, 0, 0, 0];

    fn page(encoding: Encoding, levels: &[u8], values: &[u8]) -> Page {
        Page::DataPage {
            buf: [levels, values].concat().into(),
            num_values: 100,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        }
    }

    #[test]
    fn a_page_has_no_more_differences_than_values() {
        let encoding = Encoding::DELTA_BYTE_ARRAY;
        // A length of 2, and a run of a hundred levels.
        let levels = [2, 0, 0, 0, 0xc8, 1];
        check_values(&page(encoding, &levels, &[LIST, LIST].concat()), (0, 1)).expect("both have as many");
        let many = [0x80, 1, 4, 0xff, 0xff, 0xff, 0x7f, 0];
        let said = check_values(&page(encoding, &levels, &[&LIST[..], &many].concat()), (0, 1));
        assert!(said.is_err_and(|e| e.to_string().contains("a page of 100 values says that it has 268435455")));
        let said = check_values(&page(Encoding::DELTA_BINARY_PACKED, &[], &many), (0, 0));
        assert!(said.is_err(), "the first list");
    }
}
