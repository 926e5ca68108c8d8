//! The decoder: records of a chunk in, a batch and the rejects out.

use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use memchr::memmem::Finder;

use crate::contracts::RecordRange;

use super::plan::{Machine, JsonSchemaError};
use super::prefilter::{ByteTest, TimeReader};
#[cfg(target_arch = "x86_64")]
use super::simd::Avx2;
use super::simd::{Portable, Simd, Task};
use super::skip::MAX_DEPTH;
use super::walk::{PADDING, Stop, Walker};
use super::output::Output;
use super::{Decoded, JsonOptions};

/// Views have 31 bits for an offset; what lies behind that is copied.
const MAX_VIEW_OFFSET: usize = i32::MAX as usize;

/// Reads JSON records into batches of one schema.
///
/// Keeps what it learned about the order of keys, and buffers, from one call to the next; the outcome of a
/// call never depends on it.
#[derive(Debug)]
pub struct JsonDecoder {
    schema: SchemaRef,
    machine: Machine,
    max_depth: usize,
    portable: bool,
    literal: Option<Finder<'static>>,
    times: Option<TimeReader>,
    /// Rows that the last call made, when a prefilter makes the number of records a bad guess.
    last_rows: usize,
    /// A copy of a record without enough bytes behind it.
    padded: Vec<u8>,
}

impl JsonDecoder {
    /// `schema`: the columns wanted, and of structs only the fields wanted. A column that is not nullable
    /// rejects records without a value for it.
    ///
    /// # Errors
    /// A column of a type that JSON is not read into; also the prefilter's time if it is no timestamp column.
    pub fn try_new(schema: SchemaRef, options: JsonOptions) -> Result<Self, JsonSchemaError> {
        let machine = Machine::new(schema.fields(), options.timestamp_format)?;
        let (mut literal, mut times) = (None, None);
        if let Some(prefilter) = &options.prefilter {
            literal = Some(Finder::new(&prefilter.literal).into_owned());
            if let Some(path) = &prefilter.time_path {
                let reader = TimeReader::new(schema.fields(), path, options.timestamp_format);
                times = Some(reader.ok_or_else(|| JsonSchemaError::NoTimestamp { column: path.join(".") })?);
            }
        }
        Ok(Self {
            schema,
            machine,
            max_depth: options.max_depth.min(MAX_DEPTH),
            portable: options.portable,
            literal,
            times,
            last_rows: 0,
            padded: Vec::new(),
        })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Reads the records that lie in `chunk`. Texts of the batch point into `chunk` and keep it alive.
    ///
    /// Fastest if 64 more bytes, whatever they are, follow the last record in the chunk.
    pub fn decode(&mut self, chunk: &Buffer, records: &[RecordRange]) -> Decoded {
        #[cfg(target_arch = "x86_64")]
        if !self.portable
            && let Some(simd) = Avx2::detect()
        {
            return simd.run(DecodeTask { decoder: self, chunk, records });
        }
        Portable.run(DecodeTask { decoder: self, chunk, records })
    }
}

struct DecodeTask<'a> {
    decoder: &'a mut JsonDecoder,
    chunk: &'a Buffer,
    records: &'a [RecordRange],
}

impl<S: Simd> Task<S> for DecodeTask<'_> {
    type Output = Decoded;

    #[inline(always)]
    fn run(self, simd: S) -> Decoded {
        let JsonDecoder { machine, literal, times, padded, max_depth, last_rows, .. } = &mut *self.decoder;
        let bytes = self.chunk.as_slice();
        let mut test = literal.as_ref().map(ByteTest::new);
        let expected = if test.is_some() { *last_rows + *last_rows / 8 } else { self.records.len() };
        machine.reserve(0, expected.min(self.records.len()));
        let mut out = Output::new(times.is_some());

        for (record, range) in self.records.iter().enumerate() {
            let (start, end) = (range.start as usize, range.end as usize);
            let Some(content) = bytes.get(start..end).filter(|content| content.len() <= MAX_VIEW_OFFSET) else {
                out.reject_range(record);
                continue;
            };
            let (text, base) = match bytes.get(start..end + PADDING) {
                Some(text) if end <= MAX_VIEW_OFFSET => (text, Some(start)),
                _ => {
                    padded.clear();
                    padded.extend_from_slice(content);
                    padded.extend_from_slice(&[0; PADDING]);
                    (padded.as_slice(), None)
                }
            };
            if let Some(test) = &mut test
                && test.skips(bytes, start, end)
            {
                let time = times.as_mut().and_then(|times| times.read(simd, text, content.len(), *max_depth));
                out.skip(record, time);
                continue;
            }
            let mark = machine.side.mark();
            let mut walker = Walker::new(simd, text, content.len(), base, machine, *max_depth);
            let mut read = walker.record(out.count);
            if let Err(stop) = read {
                walker.machine.roll_back(out.count, mark);
                read = read_again(&mut walker, out.count, content, stop);
            }
            let (high, fault) = (walker.high, walker.fault);
            if (high != 0 || read.is_err()) && simdutf8::basic::from_utf8(content).is_err() {
                machine.roll_back(out.count, mark);
                out.reject_utf8(record, content);
            } else if let Err(stop) = read {
                machine.roll_back(out.count, mark);
                let column = fault.column.map(|column| machine.paths[column].clone());
                out.reject_stop(record, content, stop, fault, column);
            } else {
                out.keep(record);
            }
        }
        *last_rows = out.count;
        let columns = machine.finish(out.count, self.chunk);
        out.finish(&self.decoder.schema, columns)
    }
}

/// Decides about a record that the fast walk gave up on.
#[cold]
fn read_again<S: Simd>(walker: &mut Walker<'_, S>, row: usize, content: &[u8], stop: Stop) -> Result<(), Stop> {
    if matches!(stop, Stop::Repeat | Stop::Value(_)) {
        let read = walker.careful_record(row);
        if !matches!(read, Err(Stop::Syntax | Stop::TooDeep)) {
            return read;
        }
    }
    // It is not JSON, or no object. Where it breaks off must not depend on the bytes behind it, nor where a
    // bare number ends: read a copy.
    let padded = [content, &[0; PADDING]].concat();
    let mut copy = Walker::new(walker.simd, &padded, content.len(), None, walker.machine, walker.max_depth);
    let read = copy.careful_record(row);
    walker.fault = copy.fault;
    read
}
