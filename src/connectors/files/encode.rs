//! Rows into one open file.

use std::io::Write;

use arrow::array::RecordBatch;

use crate::connectors::options::Options;
use crate::contracts::{ChangeKind, Error, Result, TableSpec};
use crate::formats::csv::CsvOptions;
use crate::formats::datetime::TimestampStyle;
use crate::formats::write_csv::CsvRows;
use crate::formats::write_json::{JsonRows, JsonStyle};

use super::output::{Output, Staged, write_error};
use super::packed::{Packer, Packing};
use super::parquet_columns::ParquetFile;
use super::parquet_write::{self, ParquetStyle};

/// Text is gathered up to this size before it is written.
const TEXT_BUFFER: usize = 256 << 10;

/// How rows are written.
#[derive(Debug, Clone)]
pub(super) enum Encoding {
    Json(JsonStyle, Packing),
    Csv(CsvOptions, Packing),
    Parquet(ParquetStyle),
}

impl Encoding {
    pub(super) fn of(spec: &TableSpec) -> Result<Self> {
        match spec.require("format")? {
            "json" => Ok(Self::Json(json_style(spec)?, Packing::to_write(spec)?)),
            "csv" => Ok(Self::Csv(CsvOptions::of(spec)?, Packing::to_write(spec)?)),
            "parquet" if Packing::to_write(spec)? != Packing::None => {
                Err(Error::config(format!("table '{}': Parquet is packed page by page, not as a file", spec.name))
                    .hint("set 'parquet.compression' instead of 'compression'"))
            }
            "parquet" => ParquetStyle::of(spec).map(Self::Parquet),
            other => Err(Error::config(format!("table '{}': files in format '{other}' cannot be written", spec.name))
                .hint("json, csv or parquet")),
        }
    }

    pub(super) fn extension(&self) -> String {
        match self {
            Self::Json(_, packing) => format!("jsonl{}", packing.extension()),
            Self::Csv(_, packing) => format!("csv{}", packing.extension()),
            Self::Parquet(_) => "parquet".to_owned(),
        }
    }
}

/// How a table's options want JSON written.
fn json_style(spec: &TableSpec) -> Result<JsonStyle> {
    let iso = spec.option("json.timestamp-format.standard").is_some_and(|v| v.eq_ignore_ascii_case("ISO-8601"));
    Ok(JsonStyle {
        timestamps: if iso { TimestampStyle::Iso8601 } else { TimestampStyle::Sql },
        skip_nulls: Options(spec).bool("json.encode.ignore-null-fields", false)?,
    })
}

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
    Parquet(Box<ParquetFile>),
}

/// A text file and how much is in it.
pub(super) struct Text {
    output: Packer<Output>,
    line: Vec<u8>,
    /// Before packing.
    bytes: u64,
    packed: bool,
}

impl Text {
    fn new(output: Output, packing: Packing) -> Result<Self> {
        let packed = packing != Packing::None;
        Ok(Self { output: packing.pack(output)?, line: Vec::new(), bytes: 0, packed })
    }

    /// Writes what is in `line`, once that is worth it.
    fn spill(&mut self, least: usize) -> Result<()> {
        if self.line.len() >= least {
            let written = self.output.write_all(&self.line);
            written.map_err(|e| write_error(&self.output.get_ref().name(), e))?;
            self.bytes += self.line.len() as u64;
            self.line.clear();
        }
        Ok(())
    }

    fn close(mut self) -> Result<Staged> {
        self.spill(1)?;
        let name = self.output.get_ref().name();
        self.output.finish().map_err(|e| write_error(&name, e))?.finish()
    }
}

impl Writer {
    /// `sample` is the first batch, from which Parquet's encodings are chosen.
    pub(super) fn open(output: Output, encoding: &Encoding, sample: &RecordBatch) -> Result<Self> {
        Ok(match encoding {
            Encoding::Json(style, packing) => Self::Json(Text::new(output, *packing)?, *style),
            Encoding::Csv(options, packing) => {
                let mut text = Text::new(output, *packing)?;
                if options.header {
                    CsvRows::write_header(sample, options, &mut text.line);
                    text.line.push(b'\n');
                    text.spill(0)?;
                }
                Self::Csv(text, options.clone())
            }
            Encoding::Parquet(style) => Self::Parquet(Box::new(parquet_write::writer(output, sample, style)?)),
        })
    }

    pub(super) fn write(&mut self, rows: &Rows<'_>) -> Result<()> {
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
                    text.spill(TEXT_BUFFER)?;
                }
                text.spill(1)
            }
            Self::Csv(text, options) => {
                let csv = CsvRows::try_new(rows.batch, options)?;
                for row in 0..rows.batch.num_rows() {
                    csv.write(row, &mut text.line);
                    text.line.push(b'\n');
                    text.spill(TEXT_BUFFER)?;
                }
                text.spill(1)
            }
            Self::Parquet(writer) => {
                let written = writer.write(rows.batch);
                written.map_err(|e| parquet_write::failed(&writer.name(), e))
            }
        }
    }

    /// Lets go of rows that wait to be written with others: the epoch ends.
    pub(super) fn settle(&mut self) -> Result<()> {
        match self {
            Self::Json(..) | Self::Csv(..) => Ok(()),
            Self::Parquet(writer) => {
                let encoded = writer.encode();
                encoded.map_err(|e| parquet_write::failed(&writer.name(), e))
            }
        }
    }

    /// Bytes of rows that are in memory until there are enough of them.
    pub(super) fn group_bytes(&self) -> u64 {
        match self {
            Self::Json(..) | Self::Csv(..) => 0,
            Self::Parquet(writer) => writer.group_bytes(),
        }
    }

    /// Writes those, earlier than it would be best.
    pub(super) fn end_group(&mut self) -> Result<()> {
        match self {
            Self::Json(..) | Self::Csv(..) => Ok(()),
            Self::Parquet(writer) => {
                let ended = writer.end_group();
                ended.map_err(|e| parquet_write::failed(&writer.name(), e))
            }
        }
    }

    /// Size so far; for Parquet an estimate of what the rows in memory will take.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Json(text, _) | Self::Csv(text, _) if text.packed => text.output.get_ref().bytes(),
            Self::Json(text, _) | Self::Csv(text, _) => text.bytes,
            Self::Parquet(writer) => writer.bytes(),
        }
    }

    /// Writes what is left and stages the file.
    pub(super) fn close(self) -> Result<Staged> {
        match self {
            Self::Json(text, _) | Self::Csv(text, _) => text.close(),
            Self::Parquet(writer) => {
                let name = writer.name();
                writer.finish().map_err(|e| parquet_write::failed(&name, e))?.finish()
            }
        }
    }
}
