//! CSV: records of delimited text to columns.
//!
//! As Flink has it: fields by place, no header, quotes double themselves inside quotes. Beyond Flink:
//! `'csv.header' = 'true'` maps columns by the name that the file's first record gives, and an empty
//! field of a type that is not text is NULL (Flink refuses it).
//!
//! A record is refused, alone, when a quote stays open, when it has another number of fields than the
//! table has columns, or when a value does not fit its column. Line ends behind it are no part of it: a file has its records without
//! them, but a producer may end each record of a stream so.

mod columns;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;

use crate::contracts::{Decoded, Decoder, Error, RawChunk, RejectReason, Result, TableSpec};

use super::lines::{CsvFraming, Framing};
use columns::{CsvColumn, Problem};

/// How CSV is spelt in a table: its `csv.*` options.
#[derive(Debug, Clone)]
pub struct CsvOptions {
    /// Between fields.
    pub delimiter: u8,
    /// Around fields; `None` when quoting is off.
    pub quote: Option<u8>,
    /// Takes the meaning from the byte after it.
    pub escape: Option<u8>,
    /// A field that reads so is NULL.
    pub null_literal: Option<String>,
    /// Between the items of an array or the fields of a row.
    pub array_delimiter: u8,
    /// Whether lines that start with `#` are left out.
    pub comments: bool,
    /// Whether the first record of a file names the columns.
    pub header: bool,
}

impl CsvOptions {
    /// Reads the `csv.*` options of a table.
    pub fn of(spec: &TableSpec) -> Result<Self> {
        let byte = |key: &str, default: Option<u8>| -> Result<Option<u8>> {
            match spec.option(key) {
                None => Ok(default),
                Some("\\t") => Ok(Some(b'\t')),
                Some(text) => match text.as_bytes() {
                    [one] if *one != b'\n' => Ok(Some(*one)),
                    _ => Err(Error::config(format!(
                        "option '{key}' of table '{}': '{text}' is not one character",
                        spec.name
                    ))
                    .hint("one ASCII character, or '\\t'")),
                },
            }
        };
        let flag = |key: &str| spec.option(key).is_some_and(|v| v.trim().eq_ignore_ascii_case("true"));
        let quote = byte("csv.quote-character", Some(b'"'))?;
        Ok(Self {
            delimiter: byte("csv.field-delimiter", None)?.unwrap_or(b','),
            quote: if flag("csv.disable-quote-character") { None } else { quote },
            escape: byte("csv.escape-character", None)?,
            null_literal: spec.option("csv.null-literal").map(str::to_owned),
            array_delimiter: byte("csv.array-element-delimiter", None)?.unwrap_or(b';'),
            comments: flag("csv.allow-comments"),
            header: flag("csv.header"),
        })
    }

    /// A record without the line ends behind it, as Flink reads it.
    fn without_line_ends<'a>(&self, record: &'a [u8]) -> &'a [u8] {
        let mut rest = record;
        while let [before @ .., b'\n' | b'\r'] = rest {
            let escapes = before.iter().rev().take_while(|byte| Some(**byte) == self.escape).count();
            if escapes % 2 == 1 {
                break;
            }
            rest = before;
        }
        rest
    }

    /// How records are told apart.
    pub fn framing(&self) -> Framing {
        let Self { delimiter, quote, escape, comments, header, .. } = *self;
        Framing::Csv(CsvFraming { delimiter, quote, escape, comments, header })
    }
}

/// Decodes CSV records.
pub struct CsvDecoder {
    options: CsvOptions,
    schema: SchemaRef,
    /// For each field of a record, the column that it fills.
    places: Vec<Option<usize>>,
    /// Header that `places` was made for.
    header: Vec<u8>,
    /// A column in use that the header names more than once: nobody knows which of them is meant.
    ambiguous: Option<usize>,
    columns: Vec<CsvColumn>,
    fields: Fields,
}

impl CsvDecoder {
    /// A decoder for the columns of `spec.schema`, whose places are those of `spec.physical`.
    pub fn try_new(spec: &TableSpec) -> Result<Self> {
        let options = CsvOptions::of(spec)?;
        let schema = spec.decoded();
        let named = |e: Error, name: &str| e.context(format!("column '{name}' of table '{}'", spec.name));
        let columns = schema
            .fields()
            .iter()
            .map(|f| CsvColumn::try_new(f.data_type(), &options).map_err(|e| named(e, f.name())))
            .collect::<Result<Vec<_>>>()?;
        let in_record = spec.physical.fields().iter().filter(|f| !spec.in_folders().contains(f.name()));
        let places = in_record.map(|f| schema.index_of(f.name()).ok()).collect();
        let (header, ambiguous, fields) = (Vec::new(), None, Fields::default());
        Ok(Self { options, schema, places, header, ambiguous, columns, fields })
    }

    /// With `csv.header`, a chunk begins with the file's header, which no record covers.
    fn read_header(&mut self, chunk: &RawChunk) {
        let data = chunk.data.as_slice();
        let end = memchr::memchr(b'\n', data).unwrap_or(0);
        if data[..end] == self.header[..] {
            return;
        }
        self.header = data[..end].to_vec();
        self.places.clear();
        self.ambiguous = None;
        if self.fields.split(&data[..end], &self.options).is_ok() {
            for index in 0..self.fields.bounds.len() {
                let name = self.fields.get(&data[..end], index).0;
                let name = std::str::from_utf8(name).unwrap_or("").trim();
                let column = self.schema.index_of(name).ok();
                if column.is_some() && self.places.contains(&column) {
                    self.ambiguous = column;
                }
                self.places.push(column);
            }
        }
    }

    fn decode_record(&mut self, record: &[u8], seen: &mut [bool]) -> Result<(), Problem> {
        if let Some(column) = self.ambiguous {
            let detail = "the file's header has this name more than once".to_owned();
            return Err(Problem::new(RejectReason::InvalidSyntax, detail).in_column(self.schema.field(column).name()));
        }
        let record = self.options.without_line_ends(record);
        if let Err(error) = simdutf8::basic::from_utf8(record) {
            return Err(Problem::new(RejectReason::InvalidUtf8, error.to_string()));
        }
        self.fields
            .split(record, &self.options)
            .map_err(|text| Problem::new(RejectReason::InvalidSyntax, text.to_owned()))?;
        let found = self.fields.bounds.len();
        if found != self.places.len() {
            let detail = format!("{found} fields, the table has {}", self.places.len());
            return Err(Problem::new(RejectReason::InvalidSyntax, detail));
        }
        seen.fill(false);
        for (index, column) in self.places.iter().enumerate() {
            let Some(column) = *column else { continue };
            let (text, quoted) = self.fields.get(record, index);
            seen[column] = true;
            let null = !quoted && self.options.null_literal.as_ref().is_some_and(|n| n.as_bytes() == text);
            if null || self.columns[column].is_empty_null(text, quoted) {
                push_null(&self.schema, &mut self.columns, column)?;
            } else {
                let pushed = self.columns[column].push(text, quoted);
                pushed.map_err(|p| p.in_column(self.schema.field(column).name()))?;
            }
        }
        for (column, seen) in seen.iter().enumerate() {
            if !*seen {
                push_null(&self.schema, &mut self.columns, column)?;
            }
        }
        Ok(())
    }
}

fn push_null(schema: &SchemaRef, columns: &mut [CsvColumn], column: usize) -> Result<(), Problem> {
    let field = schema.field(column);
    if !field.is_nullable() {
        let problem = Problem::new(RejectReason::MissingValue, "no value for a NOT NULL column".to_owned());
        return Err(problem.in_column(field.name()));
    }
    columns[column].push_null();
    Ok(())
}

impl Decoder for CsvDecoder {
    fn decode(&mut self, chunk: &RawChunk) -> Decoded {
        if self.options.header {
            self.read_header(chunk);
        }
        let mut rejects = Vec::new();
        let mut rows = Vec::with_capacity(chunk.len());
        let mut seen = vec![false; self.columns.len()];
        for index in 0..chunk.len() {
            match self.decode_record(chunk.record(index), &mut seen) {
                Ok(()) => rows.push(index as u32),
                Err(problem) => {
                    // The refused record may have filled some columns already.
                    for column in &mut self.columns {
                        column.truncate(rows.len());
                    }
                    rejects.push(problem.reject(index as u32));
                }
            }
        }
        let arrays = self.columns.iter_mut().map(CsvColumn::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options);
        let batch = batch.expect("columns have the schema's types and equal lengths, and no NULL where none may be");
        let all = rows.len() == chunk.len();
        Decoded { batch, rows: (!all).then_some(rows), rejects, skipped: 0, skipped_time: None }
    }
}

/// The fields of one record.
#[derive(Default)]
struct Fields {
    bounds: Vec<Field>,
    /// Text of fields whose quotes or escapes had to be taken out.
    unescaped: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Field {
    start: usize,
    end: usize,
    quoted: bool,
    /// Whether the bounds are in `unescaped`.
    copied: bool,
}

impl Fields {
    fn get<'a>(&'a self, record: &'a [u8], index: usize) -> (&'a [u8], bool) {
        let field = self.bounds[index];
        let text = if field.copied { &self.unescaped } else { record };
        (&text[field.start..field.end], field.quoted)
    }

    fn split(&mut self, record: &[u8], options: &CsvOptions) -> Result<(), &'static str> {
        self.bounds.clear();
        self.unescaped.clear();
        let mut at = 0;
        loop {
            let quoted = options.quote.is_some() && record.get(at).copied() == options.quote;
            at = if quoted { self.quoted(record, at + 1, options)? } else { self.plain(record, at, options) };
            if at >= record.len() {
                return Ok(());
            }
            // `at` stands on a delimiter.
            at += 1;
            if at == record.len() {
                self.bounds.push(Field { start: at, end: at, quoted: false, copied: false });
                return Ok(());
            }
        }
    }

    fn plain(&mut self, record: &[u8], start: usize, options: &CsvOptions) -> usize {
        let Some(escape) = options.escape else {
            let end = memchr::memchr(options.delimiter, &record[start..]).map_or(record.len(), |i| start + i);
            self.bounds.push(Field { start, end, quoted: false, copied: false });
            return end;
        };
        let from = self.unescaped.len();
        let mut at = start;
        while at < record.len() && record[at] != options.delimiter {
            if record[at] == escape && at + 1 < record.len() {
                at += 1;
            }
            self.unescaped.push(record[at]);
            at += 1;
        }
        self.bounds.push(Field { start: from, end: self.unescaped.len(), quoted: false, copied: true });
        at
    }

    fn quoted(&mut self, record: &[u8], start: usize, options: &CsvOptions) -> Result<usize, &'static str> {
        let quote = options.quote.unwrap_or(b'"');
        let from = self.unescaped.len();
        let mut at = start;
        let mut simple = true;
        loop {
            let Some(byte) = record.get(at) else { return Err("a quote is not closed") };
            if Some(*byte) == options.escape && at + 1 < record.len() {
                simple = false;
                at += 1;
            } else if *byte == quote {
                if record.get(at + 1) != Some(&quote) {
                    break;
                }
                simple = false;
                at += 1;
            }
            self.unescaped.push(record[at]);
            at += 1;
        }
        let end = at + 1;
        if end < record.len() && record[end] != options.delimiter {
            return Err("text follows a closing quote");
        }
        if simple {
            self.unescaped.truncate(from);
            self.bounds.push(Field { start, end: at, quoted: true, copied: false });
        } else {
            self.bounds.push(Field { start: from, end: self.unescaped.len(), quoted: true, copied: true });
        }
        Ok(end)
    }
}
