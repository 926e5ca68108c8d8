//! Flink's type names and the Arrow types that stand for them (`FLINK_SQL.md`, section 4).
//!
//! Arrow has fewer types than Flink: CHAR, VARCHAR and STRING are one, and a timestamp has one of four
//! units, so TIMESTAMP(1) is kept in milliseconds. Lengths matter to CAST only, which cuts and pads.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, IntervalUnit, TimeUnit};
use datafusion::common::{Result, plan_datafusion_err, plan_err};

/// Time zone in Arrow types of TIMESTAMP_LTZ, whatever the session's zone: values are instants.
pub(crate) const LTZ_ZONE: &str = "UTC";

/// What CAST does with a string's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// CHAR(n): cut or padded with spaces.
    Exactly(usize),
    /// VARCHAR(n): cut.
    AtMost(usize),
}

/// A Flink type as text names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeSpec {
    pub data_type: DataType,
    /// For CHAR(n) and VARCHAR(n), else none.
    pub length: Option<Length>,
    /// False after NOT NULL.
    pub nullable: bool,
}

/// The unit that holds a TIMESTAMP(p).
pub fn timestamp_unit(precision: u32) -> TimeUnit {
    match precision {
        0 => TimeUnit::Second,
        1..=3 => TimeUnit::Millisecond,
        4..=6 => TimeUnit::Microsecond,
        _ => TimeUnit::Nanosecond,
    }
}

/// Digits of the second that a unit holds.
pub(crate) fn unit_digits(unit: TimeUnit) -> u32 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

/// Reads a Flink type, such as `ROW<a INT, b ARRAY<STRING>>` or `DECIMAL(10, 2) NOT NULL`.
pub fn parse_type(text: &str) -> Result<TypeSpec> {
    let mut reader = Reader { tokens: tokens(text), at: 0, text };
    let spec = reader.data_type()?;
    match reader.peek() {
        None => Ok(spec),
        Some(rest) => plan_err!("type '{text}' has an unexpected '{rest}'"),
    }
}

fn tokens(text: &str) -> Vec<String> {
    let mut tokens = vec![];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            c if c.is_whitespace() => {}
            '`' => {
                let name: String = rest.by_ref().take_while(|c| *c != '`').collect();
                tokens.push(format!("`{name}"));
            }
            '\'' => {
                let quoted: String = rest.by_ref().take_while(|c| *c != '\'').collect();
                tokens.push(format!("'{quoted}"));
            }
            c if c.is_alphanumeric() || c == '_' || c == '$' => {
                let mut word = c.to_string();
                while let Some(c) = rest.next_if(|c| c.is_alphanumeric() || *c == '_' || *c == '$') {
                    word.push(c);
                }
                tokens.push(word);
            }
            c => tokens.push(c.to_string()),
        }
    }
    tokens
}

struct Reader<'a> {
    tokens: Vec<String>,
    at: usize,
    text: &'a str,
}

impl Reader<'_> {
    fn peek(&self) -> Option<&str> {
        self.tokens.get(self.at).map(String::as_str)
    }

    fn next(&mut self) -> Result<String> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token.ok_or_else(|| plan_datafusion_err!("type '{}' ends too early", self.text))
    }

    /// Takes a word or sign if it comes next, in any case.
    fn take(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.eq_ignore_ascii_case(word));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &str) -> Result<()> {
        if self.take(sign) {
            return Ok(());
        }
        plan_err!("type '{}' lacks '{sign}'", self.text)
    }

    /// `(n)` or `(n, m)`.
    fn numbers(&mut self) -> Result<Vec<u32>> {
        let mut numbers = vec![];
        if self.take("(") {
            loop {
                let word = self.next()?;
                let number = word.parse().map_err(|_| plan_datafusion_err!("type '{}' has '{word}' where a number is wanted", self.text))?;
                numbers.push(number);
                if !self.take(",") {
                    break;
                }
            }
            self.expect(")")?;
        }
        Ok(numbers)
    }

    fn data_type(&mut self) -> Result<TypeSpec> {
        let (data_type, length) = self.plain_type()?;
        let mut spec = TypeSpec { data_type, length, nullable: true };
        loop {
            if self.take("NOT") {
                self.expect("NULL")?;
                spec.nullable = false;
            } else if self.take("NULL") {
                spec.nullable = true;
            } else if self.take("ARRAY") {
                spec = TypeSpec { data_type: list(spec), length: None, nullable: true };
            } else {
                return Ok(spec);
            }
        }
    }

    fn plain_type(&mut self) -> Result<(DataType, Option<Length>)> {
        let name = self.next()?.to_ascii_uppercase();
        let data_type = match name.as_str() {
            "STRING" | "TEXT" => DataType::Utf8View,
            "CHAR" | "CHARACTER" | "VARCHAR" => {
                let varying = self.take("VARYING") || name == "VARCHAR";
                let n = self.numbers()?.first().map_or(1, |n| *n as usize);
                return Ok((DataType::Utf8View, Some(if varying { Length::AtMost(n) } else { Length::Exactly(n) })));
            }
            "BOOLEAN" | "BOOL" => DataType::Boolean,
            "TINYINT" => DataType::Int8,
            "SMALLINT" => DataType::Int16,
            "INT" | "INTEGER" => DataType::Int32,
            "BIGINT" => DataType::Int64,
            "FLOAT" | "REAL" => DataType::Float32,
            "DOUBLE" => {
                self.take("PRECISION");
                DataType::Float64
            }
            "DECIMAL" | "DEC" | "NUMERIC" => {
                let numbers = self.numbers()?;
                let (p, s) = (numbers.first().copied().unwrap_or(10), numbers.get(1).copied().unwrap_or(0));
                if !(1..=38).contains(&p) || s > p {
                    return plan_err!("{name}({p}, {s}) is not a type: the precision is 1 to 38, the scale 0 to the precision");
                }
                DataType::Decimal128(p as u8, s as i8)
            }
            "BYTES" => DataType::Binary,
            "BINARY" | "VARBINARY" => {
                self.numbers()?;
                DataType::Binary
            }
            "DATE" => DataType::Date32,
            "TIME" => {
                self.numbers()?;
                self.zone()?;
                DataType::Time32(TimeUnit::Millisecond)
            }
            "TIMESTAMP" | "TIMESTAMP_LTZ" => {
                let precision = self.numbers()?.first().copied().unwrap_or(6);
                if precision > 9 {
                    return plan_err!("{name}({precision}) is not a type: the precision is 0 to 9");
                }
                let local = self.zone()? || name == "TIMESTAMP_LTZ";
                DataType::Timestamp(timestamp_unit(precision), local.then(|| LTZ_ZONE.into()))
            }
            "INTERVAL" => {
                while self.peek().is_some_and(|token| token != ")" && token != "," && token != ">") {
                    self.at += 1;
                }
                DataType::Interval(IntervalUnit::MonthDayNano)
            }
            "ARRAY" => {
                self.expect("<")?;
                let item = self.data_type()?;
                self.expect(">")?;
                list(item)
            }
            "MAP" | "MULTISET" => {
                self.expect("<")?;
                let key = self.data_type()?;
                let value = if name == "MAP" {
                    self.expect(",")?;
                    self.data_type()?
                } else {
                    TypeSpec { data_type: DataType::Int32, length: None, nullable: false }
                };
                self.expect(">")?;
                map(key.data_type, value.data_type)
            }
            "ROW" => self.row()?,
            other => return plan_err!("'{}' is not a type of Flink SQL", other.trim_start_matches('`').to_lowercase()),
        };
        Ok((data_type, None))
    }

    /// `WITH LOCAL TIME ZONE` (true), `WITHOUT TIME ZONE` or nothing.
    fn zone(&mut self) -> Result<bool> {
        let local = if self.take("WITH") {
            if !self.take("LOCAL") {
                return plan_err!("type '{}': TIMESTAMP WITH TIME ZONE does not exist here; use TIMESTAMP_LTZ", self.text);
            }
            true
        } else if self.take("WITHOUT") {
            false
        } else {
            return Ok(false);
        };
        self.expect("TIME")?;
        self.expect("ZONE")?;
        Ok(local)
    }

    fn row(&mut self) -> Result<DataType> {
        let close = if self.take("<") {
            ">"
        } else {
            self.expect("(")?;
            ")"
        };
        let mut fields = vec![];
        while !self.take(close) {
            let name = self.next()?;
            let spec = self.data_type()?;
            if self.peek().is_some_and(|token| token.starts_with('\'')) {
                self.at += 1; // a field's comment
            }
            fields.push(Field::new(name.trim_start_matches('`'), spec.data_type, spec.nullable));
            if !self.take(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(DataType::Struct(Fields::from(fields)))
    }
}

fn list(item: TypeSpec) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item.data_type, item.nullable)))
}

/// `MAP<K, V>` with the field names that arrow's `MapBuilder` and DataFusion's `map` use.
pub(crate) fn map(key: DataType, value: DataType) -> DataType {
    let entries = Fields::from(vec![Field::new("key", key, false), Field::new("value", value, true)]);
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false)
}

/// The Flink type that an Arrow type stands for, in Flink's spelling.
pub fn type_text(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "NULL".into(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "STRING".into(),
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Int8 => "TINYINT".into(),
        DataType::Int16 => "SMALLINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::UInt64 => "DECIMAL(20, 0)".into(),
        DataType::Float32 => "FLOAT".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) | DataType::Decimal256(p, s) => {
            format!("DECIMAL({p}, {s})")
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "BYTES".into(),
        DataType::Date32 | DataType::Date64 => "DATE".into(),
        DataType::Time32(_) | DataType::Time64(_) => "TIME(0)".into(),
        DataType::Timestamp(unit, None) => format!("TIMESTAMP({})", unit_digits(*unit)),
        DataType::Timestamp(unit, Some(_)) => format!("TIMESTAMP_LTZ({})", unit_digits(*unit)),
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL".into(),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) | DataType::ListView(item) => {
            format!("ARRAY<{}>", field_text(item))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => format!("MAP<{}, {}>", field_text(&fields[0]), field_text(&fields[1])),
            other => format!("MAP<{other}>"),
        },
        DataType::Struct(fields) => {
            let fields: Vec<_> = fields.iter().map(|field| format!("`{}` {}", field.name(), field_text(field))).collect();
            format!("ROW<{}>", fields.join(", "))
        }
        DataType::Dictionary(_, value) => type_text(value),
        other => other.to_string(),
    }
}

/// A field's type with NOT NULL where it holds.
pub(crate) fn field_text(field: &Field) -> String {
    let not_null = if field.is_nullable() { "" } else { " NOT NULL" };
    format!("{}{not_null}", type_text(field.data_type()))
}
