//! Rows into one open file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;

use crate::connectors::line_file::io_error;
use crate::contracts::{ChangeKind, Error, Result};
use crate::formats::csv::CsvOptions;
use crate::formats::write_csv::CsvRows;
use crate::formats::write_json::{JsonRows, JsonStyle};

use super::parquet_write;
use super::sink::Encoding;

/// Text is gathered up to this size before it is written.
const TEXT_BUFFER: usize = 256 << 10;

/// What is written at once.
pub(super) struct Rows<'a> {
    /// The columns of the file.
    pub(super) batch: &'a RecordBatch,
    pub(super) kinds: Option<&'a [ChangeKind]>,
    /// The primary key's columns, where there are kinds.
    pub(super) keys: Option<&'a RecordBatch>,
}

/// An open file of some format.
pub(super) enum Writer {
    Json(Text, JsonStyle),
    Csv(Text, CsvOptions),
    Parquet(Box<ArrowWriter<File>>),
}

/// A text file and how much is in it.
pub(super) struct Text {
    file: BufWriter<File>,
    line: Vec<u8>,
    bytes: u64,
}

impl Text {
    fn new(file: File) -> Self {
        Self { file: BufWriter::with_capacity(TEXT_BUFFER, file), line: Vec::new(), bytes: 0 }
    }

    /// Writes what is in `line`, once that is worth it.
    fn spill(&mut self, path: &Path, least: usize) -> Result<()> {
        if self.line.len() >= least {
            self.file.write_all(&self.line).map_err(|e| io_error(path, "written", e))?;
            self.bytes += self.line.len() as u64;
            self.line.clear();
        }
        Ok(())
    }
}

impl Writer {
    /// `sample` is the first batch, from which Parquet's encodings are chosen.
    pub(super) fn open(file: File, path: &Path, encoding: &Encoding, sample: &RecordBatch) -> Result<Self> {
        Ok(match encoding {
            Encoding::Json(style) => Self::Json(Text::new(file), *style),
            Encoding::Csv(options) => {
                let mut text = Text::new(file);
                if options.header {
                    CsvRows::write_header(sample, options, &mut text.line);
                    text.line.push(b'\n');
                    text.spill(path, 0)?;
                }
                Self::Csv(text, options.clone())
            }
            Encoding::Parquet(compression) => {
                Self::Parquet(Box::new(parquet_write::writer(file, sample, *compression)?))
            }
        })
    }

    pub(super) fn write(&mut self, path: &Path, rows: &Rows<'_>) -> Result<()> {
        match self {
            Self::Json(text, style) => {
                let json = JsonRows::try_new(rows.batch, *style)?;
                let keys = rows.keys.map(|keys| JsonRows::try_new(keys, *style)).transpose()?;
                for row in 0..rows.batch.num_rows() {
                    match (rows.kinds.map(|k| k[row]), &keys) {
                        (Some(ChangeKind::Delete), Some(keys)) => {
                            keys.write_with(row, "\"__op\":\"delete\"", &mut text.line);
                        }
                        _ => json.write(row, &mut text.line),
                    }
                    text.line.push(b'\n');
                    text.spill(path, TEXT_BUFFER)?;
                }
                text.spill(path, 1)
            }
            Self::Csv(text, options) => {
                let csv = CsvRows::try_new(rows.batch, options)?;
                for row in 0..rows.batch.num_rows() {
                    csv.write(row, &mut text.line);
                    text.line.push(b'\n');
                    text.spill(path, TEXT_BUFFER)?;
                }
                text.spill(path, 1)
            }
            Self::Parquet(writer) => writer.write(rows.batch).map_err(|e| parquet_write::failed(path, e)),
        }
    }

    /// Size so far; for Parquet an estimate of what the rows in memory will take.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Json(text, _) | Self::Csv(text, _) => text.bytes,
            Self::Parquet(writer) => (writer.bytes_written() + writer.in_progress_size()) as u64,
        }
    }

    /// Writes what is left and gives the file back, to be synced.
    pub(super) fn close(self, path: &Path) -> Result<File> {
        match self {
            Self::Json(mut text, _) | Self::Csv(mut text, _) => {
                text.spill(path, 1)?;
                text.file.into_inner().map_err(|e| io_error(path, "written", e.into_error()))
            }
            Self::Parquet(mut writer) => {
                writer.finish().map_err(|e| parquet_write::failed(path, e))?;
                let file = writer.inner().try_clone();
                file.map_err(|e| Error::unavailable("a file handle could not be copied").caused_by(e))
            }
        }
    }
}
